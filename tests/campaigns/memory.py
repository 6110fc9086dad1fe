"""Stream many short lines through the stub model: peak memory must not grow with the input.

The figure: peak resident memory at --rows over that at --base rows. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOLERANCE = 1.10


def peak_mib(rows: int, folder: Path, shard_rows: int) -> tuple[float, float]:
    """Peak resident memory in MiB and seconds of a job over `rows` lines."""
    source = folder / f"{rows}.txt"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(f"line {row} of a corpus\n" for row in range(rows))
    began = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.campaigns.stub",
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
            raise SystemExit(f"the job over {rows} rows wrote another number of lines")
    return usage.ru_maxrss / 1024, time.monotonic() - began


def campaign(rows: int, base: int, shard_rows: int) -> dict[str, object]:
    """Compare two sizes; see the module's text."""
    with tempfile.TemporaryDirectory() as folder:
        small, small_s = peak_mib(base, Path(folder), shard_rows)
        large, large_s = peak_mib(rows, Path(folder), shard_rows)
    return {
        "rows": rows,
        "base_rows": base,
        "shard_rows": shard_rows,
        "peak_mib": round(large, 1),
        "base_peak_mib": round(small, 1),
        "ratio": round(large / small, 3),
        "rows_per_s": round(rows / large_s),
        "base_rows_per_s": round(base / small_s),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--base", type=int, default=200_000)
    parser.add_argument("--shard-rows", type=int, default=32768, help="both sizes should be four shards or more")
    arguments = parser.parse_args()
    figures = campaign(arguments.rows, arguments.base, arguments.shard_rows)
    print(json.dumps(figures))
    return 0 if float(str(figures["ratio"])) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
