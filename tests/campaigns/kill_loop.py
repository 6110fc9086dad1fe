"""Jobs killed with SIGKILL at seeded random moments and run again: the same bytes, at most one part decoded again.

Each run is the real job with the demo model in a process of its own, forked from one that has torch imported. The
figure: how many runs ended with other bytes, and the most rows that a kill cost. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

from hymt_batch import config, fs
from hymt_batch.decode import generate
from hymt_batch.demo import grammar
from hymt_batch.write.folder import read_header
from jobs import translate

NUM_ROWS, PART_ROWS = 84, 4  # 21 parts and more


def child(overrides: list[str], counts: Path, silent: bool = True) -> int:
    """Fork a process that runs the job; every decoded batch appends its number of rows to `counts`."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if silent:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        fd = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def counted(hymt: object, prompts: list[object], *rest: object) -> object:
            rows = generate.decode_batch(hymt, prompts, *rest)  # type: ignore[arg-type]
            os.write(fd, f"{len(prompts)}\n".encode())
            return rows

        job = config.load("translate", overrides)
        code = int(translate.run(job, partial(translate.translate, decode_batch=counted)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def digest(folder: Path) -> str:
    """Sha256 over all that is published: names and bytes."""
    whole = hashlib.sha256()
    for path in sorted([*folder.glob("translated/**/*"), *folder.glob("errors/**/*"), folder / "manifest.json"]):
        if path.is_file():
            whole.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return whole.hexdigest()


def decoded(counts: Path) -> int:
    return sum(map(int, counts.read_text().split())) if counts.exists() else 0


def committed(folder: Path) -> int:
    """Rows that the folder's parts hold; all of them once a file is published and its parts may be collected."""
    if (record := next(folder.glob(".hymt/f*/file.json"), None)) is not None:
        return int(json.loads(record.read_text(encoding="utf-8"))["rows"])
    return sum(read_header(fs.OS, path).num_rows for path in folder.glob(".hymt/f*/s*/p*"))


def moment(folder: Path) -> str:
    """How far a job had come when it was killed."""
    if (folder / "manifest.json").exists():
        return "collecting parts"
    if list(folder.glob("translated/*.txt")):
        return "file published"
    parts = len(list(folder.glob(".hymt/f*/s*/p*")))
    if parts:
        return f"{(parts - 1) // 7 * 7 + 1:02}-{(parts - 1) // 7 * 7 + 7:02} parts"
    return "no part yet" if (folder / ".hymt" / "job.json").exists() else "before the job's identity"


def campaign(seed: int, runs: int, folder: Path) -> dict[str, object]:
    """Run the loop; see the module's text."""
    source = folder / "in.txt"
    bulletins = dict.fromkeys(bulletin.en for bulletin in grammar.sample(seed, NUM_ROWS))
    source.write_text("".join(f"{text}\n" for text in bulletins), encoding="utf-8")
    num_rows = len(bulletins)
    base = [
        f"source.path={source}",
        "src_lang=en",
        "tgt_lang=fr",
        "model=demo",
        f"output_dir={folder}",
        f"batch.part_rows={PART_ROWS}",
        f"batch.max_rows={PART_ROWS}",
        "launch.progress=off",
        "launch.num_threads=1",
    ]

    def finish(name: str, counts: Path, *, silent: bool = True) -> float:
        began = time.monotonic()
        _, status = os.waitpid(child([*base, f"name={name}"], counts, silent), 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
        return time.monotonic() - began

    unbroken_s = finish("unbroken", folder / "unbroken.counts", silent=False)
    wanted = digest(folder / "unbroken")
    rng = random.Random(seed)
    kills = worst = different = rows_again = 0
    found: Counter[str] = Counter()
    for run in range(runs):
        name, counts = f"run{run}", folder / f"run{run}.counts"
        killed, wanted_kills = 0, rng.choice([1, 1, 1, 2, 3])
        while killed < wanted_kills:
            before = (decoded(counts), committed(folder / name))
            pid = child([*base, f"name={name}"], counts)
            time.sleep(rng.uniform(0.0, unbroken_s))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
                killed += 1
                found[moment(folder / name)] += 1
                after = (decoded(counts), committed(folder / name))
                worst = max(worst, (after[0] - before[0]) - (after[1] - before[1]))
            elif killed:
                break  # it had ended; what was killed before is tested
            else:  # too late: from the start
                shutil.rmtree(folder / name)
                counts.unlink()
        finish(name, counts)
        again = decoded(counts) - num_rows
        kills += killed
        different += digest(folder / name) != wanted
        rows_again += again
        shutil.rmtree(folder / name)
    return {
        "seed": seed,
        "runs": runs,
        "kills": kills,
        "different_bytes": different,
        "rows_again": rows_again,
        "worst_rows_again_per_kill": worst,
        "part_rows": PART_ROWS,
        "unbroken_s": round(unbroken_s, 2),
        "killed_at": dict(sorted(found.items())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    import torch  # noqa: F401  once, before the forks
    import transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        figures = campaign(arguments.seed, arguments.runs, Path(folder))
    print(json.dumps(figures))
    good = not figures["different_bytes"] and int(str(figures["worst_rows_again_per_kill"])) <= PART_ROWS
    return 0 if good and figures["kills"] else 1


if __name__ == "__main__":
    sys.exit(main())
