"""Measure what commits cost, and how long a job with many parts takes to resume. Ends with one JSON line.

Commits: a job with the demo model, syncs included; the seconds in `Output.commit`, and their share of the job's time.
Resume: a job with the stub model and one row in each part is killed in its last part and run again. The results are the
seconds from the start of the job (after imports) to the first decoded row, for the resumed job and for a new one, and
to the end of the resumed job. The run that creates the parts does not sync; the timed run does.
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
from hymt_batch.run.reporter import Reporter
from hymt_batch.write.output import Output
from jobs import translate
from tests.campaigns import warm
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job


def commits(rows: int, folder: Path) -> dict[str, Any]:
    """Measure the commits of a job with the demo model over `rows` bulletins."""
    source = folder / "bulletins.txt"
    source.write_text("".join(f"{example.en}\n" for example in grammar.sample(5, rows)), encoding="utf-8")
    overrides = [
        "src_lang=en",
        "tgt_lang=fr",
        "model=demo",
        f"source.path={source}",
        f"output_dir={folder}",
        "name=commits",
    ]
    spent: list[float] = []
    original = Output.commit

    def timed(self: Output, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        original(self, *arguments, **options)
        spent.append(time.perf_counter() - began)

    Output.commit = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    try:
        with Reporter("off") as reporter:
            translate.translate(config.load("translate", overrides), reporter)
    finally:
        Output.commit = original  # type: ignore[method-assign]
    total_s = time.perf_counter() - began
    spent.sort()
    return {
        "rows": rows,
        "parts": len(spent),
        "job_s": round(total_s, 2),
        "commit_s": round(sum(spent), 4),
        "commit_share": round(sum(spent) / total_s, 5),
        "commit_ms_p50": round(1000 * statistics.median(spent), 2),
        "commit_ms_p99": round(1000 * spent[max(0, -(-99 * len(spent) // 100) - 1)], 2),
    }


def resume(num_parts: int, folder: Path) -> dict[str, Any]:
    """Measure a job of `num_parts` parts that resumes in its last part."""
    source = folder / f"{num_parts}.txt"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(f"row {row}\n" for row in range(num_parts))
    overrides = ["tgt_lang=fr", "model=demo", "batch.part_rows=1", "batch.max_rows=1", "launch.progress=off"]
    overrides += ["batch.shard_rows=4096", "launch.samples=0", f"source.path={source}", f"output_dir={folder}"]
    job, stderr_path, first_row_path = (
        warm.load([*overrides, f"name=job{num_parts}"]),
        folder / "stderr",
        folder / "first",
    )

    def run_until_last_part(job: Any, reporter: Reporter) -> Any:
        num_left = [num_parts]

        def decode(*arguments: Any) -> Any:
            num_left[0] -= 1
            if not num_left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return fake_engine.upper(*arguments)

        fs.OsFs.fsync = staticmethod(lambda fd: None)  # type: ignore[assignment]
        fs.OsFs.fsync_dir = lambda self, path: True  # type: ignore[method-assign]
        return fake_job.translate_with(job, reporter, decode)

    def run_and_time(job: Any, reporter: Reporter) -> Any:
        began = time.monotonic()

        def decode(*arguments: Any) -> Any:
            if not first_row_path.exists():
                first_row_path.write_text(str(time.monotonic() - began))
            return fake_engine.upper(*arguments)

        return fake_job.translate_with(job, reporter, decode)

    def run(job: Any, body: warm.Translate) -> tuple[int, float]:
        began, pid = time.monotonic(), warm.start(job, body=body, stderr_path=stderr_path)
        return warm.wait(pid, 3600.0), time.monotonic() - began

    code, made_s = run(job, run_until_last_part)
    if code != -signal.SIGKILL:
        raise SystemExit(f"the job to be killed ended with {code}: {stderr_path.read_text()}")
    code, whole_s = run(job, run_and_time)
    if code:
        raise SystemExit(f"the resumed job ended with {code}: {stderr_path.read_text()}")
    if len((folder / f"job{num_parts}" / "translated" / source.name).read_bytes().splitlines()) != num_parts:
        raise SystemExit("the resumed job has a different number of rows")
    first_s = float(first_row_path.read_text())
    first_row_path.unlink()
    one_row = folder / "few.txt"
    one_row.write_text("row\n", encoding="utf-8")
    fresh = warm.load([*overrides, f"source.path={one_row}", f"name=fresh{num_parts}"])
    run(fresh, run_and_time)
    fresh_s = float(first_row_path.read_text())
    first_row_path.unlink()
    return {
        "parts": num_parts,
        "made_s": round(made_s, 2),
        "to_the_first_row_s": round(first_s, 3),
        "of_a_fresh_job_s": round(fresh_s, 3),
        "to_the_end_s": round(whole_s, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo-rows", type=int, default=2000, help="rows of the job with the demo model")
    parser.add_argument("--parts", type=int, nargs="*", default=[100, 10_000, 100_000])
    parser.add_argument("--work", type=Path, help="an existing folder on the file system to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        warm.prepare(sync=True)
        resumed = []
        for parts in options.parts:
            resumed.append(resume(parts, folder))
            print(json.dumps(resumed[-1]), file=sys.stderr)
        cost = commits(options.demo_rows, folder)  # last: torch starts threads, which a fork does not copy
    print(json.dumps({"commits": cost, "resume": resumed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
