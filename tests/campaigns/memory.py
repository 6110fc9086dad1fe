"""Stream many short lines through the stub model; peak memory must not grow with the input.

The result is the largest peak of resident memory, divided by the peak of the first size. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TOLERANCE = 1.10


def peak_mib(rows: int, folder: Path, shard_rows: int) -> tuple[float, float]:
    """Run a job over `rows` lines; return its peak resident memory in MiB and its time in seconds."""
    source = folder / f"{rows}.txt"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(f"line {row} of a corpus\n" for row in range(rows))
    began = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.fakes.job",
            f"source.path={source}",
            "tgt_lang=fr",
            "model=demo",
            f"name=rows{rows}",
            f"output_dir={folder}",
            "batch.max_rows=256",
            f"batch.shard_rows={shard_rows}",
            "launch.progress=off",
        ],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the job over {rows} rows ended with {process.returncode}")
    with (folder / f"rows{rows}" / "translated" / source.name).open("rb") as file:
        if sum(1 for _ in file) != rows:
            raise SystemExit(f"the job over {rows} rows wrote a different number of lines")
    return usage.ru_maxrss / 1024, time.monotonic() - began


def campaign(sizes: Sequence[int], shard_rows: int) -> dict[str, object]:
    """Measure each size and return the figures."""
    peaks, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            peaks[rows], seconds[rows] = peak_mib(rows, Path(folder), shard_rows)
            print(f"{rows:>12,} rows {peaks[rows]:8.1f} MiB {seconds[rows]:8.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(Path(folder) / f"rows{rows}")
    return {
        "shard_rows": shard_rows,
        "peak_mib": {str(rows): round(peak, 1) for rows, peak in peaks.items()},
        "ratio": round(max(peaks.values()) / peaks[sizes[0]], 3),
        "rows_per_s": {str(rows): round(rows / seconds[rows]) for rows in sizes},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument(
        "--shard-rows", type=int, default=2048, help="rows of a shard; the smallest size should be at least four shards"
    )
    arguments = parser.parse_args()
    figures = campaign(arguments.sizes, arguments.shard_rows)
    print(json.dumps(figures))
    return 0 if float(str(figures["ratio"])) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
