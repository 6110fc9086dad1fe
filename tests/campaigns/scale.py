"""What commits cost, and how long a job takes to go on from many parts. Ends with one JSON line.

Commits: the demo model's job as it is, syncs included; seconds within `Output.commit` against the job's. Resume: a job
with the stub model and one row a part is killed within its last part, and run again; seconds from the start of a job
(everything imported) to the first row that is decoded, against those of a fresh job, and to its end. Syncs are left out
while the parts are made, and done by the run that is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hymt_batch import config, fs
from hymt_batch.demo import grammar
from hymt_batch.progress import Reporter
from hymt_batch.write.output import Output
from jobs import translate
from tests.campaigns import stub, warm


def commits(rows: int, folder: Path) -> dict[str, Any]:
    """The demo model over `rows` bulletins."""
    source = folder / "bulletins.txt"
    source.write_text("".join(f"{one.en}\n" for one in grammar.sample(5, rows)), encoding="utf-8")
    fixed = [
        "src_lang=en",
        "tgt_lang=fr",
        "model=demo",
        f"source.path={source}",
        f"output_dir={folder}",
        "name=commits",
    ]
    spent: list[float] = []
    right = Output.commit

    def timed(self: Output, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        right(self, *arguments, **options)
        spent.append(time.perf_counter() - began)

    Output.commit = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    try:
        with Reporter("off") as telling:
            translate.translate(config.load("translate", fixed), telling)
    finally:
        Output.commit = right  # type: ignore[method-assign]
    whole = time.perf_counter() - began
    spent.sort()
    return {
        "rows": rows,
        "parts": len(spent),
        "job_s": round(whole, 2),
        "commit_s": round(sum(spent), 4),
        "commit_share": round(sum(spent) / whole, 5),
        "commit_ms_p50": round(1000 * statistics.median(spent), 2),
        "commit_ms_p99": round(1000 * spent[max(0, -(-99 * len(spent) // 100) - 1)], 2),
    }


def resume(num_parts: int, folder: Path) -> dict[str, Any]:
    """A job of `num_parts` parts that goes on within the last."""
    source = folder / f"{num_parts}.txt"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(f"row {row}\n" for row in range(num_parts))
    fixed = ["tgt_lang=fr", "model=demo", "batch.part_rows=1", "batch.max_rows=1", "launch.progress=off"]
    fixed += ["batch.shard_rows=4096", "launch.samples=0", f"source.path={source}", f"output_dir={folder}"]
    job, told, note = warm.load([*fixed, f"name=job{num_parts}"]), folder / "told", folder / "first"

    def until_the_last(job: Any, telling: Reporter) -> Any:
        left = [num_parts]

        def decode(*arguments: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return stub.decode_batch(*arguments)

        fs.OsFs.fsync = staticmethod(lambda fd: None)  # type: ignore[assignment]
        fs.OsFs.fsync_dir = lambda self, path: True  # type: ignore[method-assign]
        return translate.translate(job, telling, prepare_model=stub.prepare, decode_batch=decode)

    def noted(job: Any, telling: Reporter) -> Any:
        began = time.monotonic()

        def decode(*arguments: Any) -> Any:
            if not note.exists():
                note.write_text(str(time.monotonic() - began))
            return stub.decode_batch(*arguments)

        return translate.translate(job, telling, prepare_model=stub.prepare, decode_batch=decode)

    def run(job: Any, body: warm.Translate) -> tuple[int, float]:
        began, pid = time.monotonic(), warm.start(job, body=body, told=told)
        return warm.wait(pid, 3600.0), time.monotonic() - began

    code, made_s = run(job, until_the_last)
    if code != -signal.SIGKILL:
        raise SystemExit(f"the job that is to be killed ended with {code}: {told.read_text()}")
    code, whole_s = run(job, noted)
    if code:
        raise SystemExit(f"the job that goes on ended with {code}: {told.read_text()}")
    if len((folder / f"job{num_parts}" / "translated" / source.name).read_bytes().splitlines()) != num_parts:
        raise SystemExit("the job that went on has another number of rows")
    first_s = float(note.read_text())
    note.unlink()
    few = folder / "few.txt"
    few.write_text("row\n", encoding="utf-8")
    fresh = warm.load([*fixed, f"source.path={few}", f"name=fresh{num_parts}"])
    run(fresh, noted)
    fresh_s = float(note.read_text())
    note.unlink()
    return {
        "parts": num_parts,
        "made_s": round(made_s, 2),
        "to_the_first_row_s": round(first_s, 3),
        "of_a_fresh_job_s": round(fresh_s, 3),
        "to_the_end_s": round(whole_s, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo-rows", type=int, default=2000, help="rows of the demo model's job")
    parser.add_argument("--parts", type=int, nargs="*", default=[100, 10_000, 100_000])
    parser.add_argument("--work", type=Path, help="an existing folder of the store that is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        warm.prepare(sync=True)
        resumed = []
        for parts in options.parts:
            resumed.append(resume(parts, folder))
            print(json.dumps(resumed[-1]), file=sys.stderr)
        cost = commits(options.demo_rows, folder)  # last: torch has threads, which a fork would not have
    print(json.dumps({"commits": cost, "resume": resumed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
