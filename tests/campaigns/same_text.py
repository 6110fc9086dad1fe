"""Show that a job in float32 gives each row the text that the row has when it is decoded alone.

The demo model translates the same rows again and again: with `generate` and the slot engine, with several numbers of
slots, from one file and from many small ones, in small parts, with a row that is divided and one that is not, in worker
processes, and after stops between which engine and slots change. The reference decodes one prompt at a time with
`generate`. Greedy, and sampled with the seed of each row. Ends with one JSON line.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch import config
from hymt_batch.demo import grammar
from hymt_batch.run import executor
from hymt_batch.run.reporter import Reporter
from hymt_batch.write.output import Output
from jobs.translate import translate
from tests.campaigns import command

LONG_EVERY, SEGMENTS = 40, 10  # one row in so many is divided, and has so many bulletins
COMMON = (
    "src_lang=en",
    "tgt_lang=fr",
    "model=demo",
    "model.dtype=float32",
    "device_map=cpu",
    "segment.max_tokens=96",
    "launch.num_threads=1",
)
ALONE = ("decode.engine=generate", "batch.max_rows=1")
SMALL_PARTS = ("batch.part_rows=7", "batch.part_tokens=120", "batch.shard_rows=50")
SAMPLED = ("decode=recommended", "decode.temperature=0.9", "decode.top_p=0.9", "decode.repetition_penalty=1.05")


@dataclass(frozen=True)
class Variant:
    """A job whose texts are compared."""

    name: str
    settings: tuple[str, ...]
    layout: str = "in.txt"
    after_stops: tuple[tuple[str, ...], ...] = ()  # settings of the runs after a stop each, beside those of the job
    sampled: bool = False  # compared with sampling, too: the seed of a row follows from its id, and so from its file


SLOTS = "decode.engine=slots"
VARIANTS = (
    Variant("generate, 16 rows at once", ("decode.engine=generate", "batch.max_rows=16")),
    Variant("slots, 1", (SLOTS, "batch.max_rows=1")),
    Variant("slots, 5", (SLOTS, "batch.max_rows=5"), sampled=True),
    Variant("slots, 64", (SLOTS, "batch.max_rows=64")),
    Variant("small parts and divided rows", (SLOTS, "batch.max_rows=6", *SMALL_PARTS), sampled=True),
    Variant("many small files in units", (SLOTS, "batch.max_rows=9", "batch.part_tokens=2000"), "files"),
    Variant("many small files, generate", ("decode.engine=generate", "batch.max_rows=9"), "files"),
    Variant("JSON lines, compressed", (SLOTS, "batch.max_rows=12"), "in.jsonl.gz"),
    Variant("two workers", (SLOTS, "batch.max_rows=4", *SMALL_PARTS, "launch.workers=2"), sampled=True),
    Variant(
        "stopped three times, with another engine or other slots each",
        (*SMALL_PARTS, SLOTS, "batch.max_rows=8"),
        after_stops=(
            ("decode.engine=generate", "batch.max_rows=3"),
            ("batch.max_rows=2",),
            ("launch.workers=2",),
        ),
        sampled=True,
    ),
    Variant(
        "stopped twice, many small files in units",
        (SLOTS, "batch.max_rows=9", "batch.part_tokens=300"),
        "files",
        after_stops=(("batch.max_rows=3",), ("decode.engine=generate",)),
    ),
)


class Stopped(Exception):
    """Ends a run in the middle."""


def make_rows(seed: int, size: int) -> list[str]:
    """Return bulletins, a few of which are equal, blank or long."""
    rng = random.Random(seed)
    rows = [bulletin.en for bulletin in grammar.sample(seed, size)]
    for index in range(size):
        if index % LONG_EVERY == min(LONG_EVERY, size) // 4:  # one also among a few rows
            rows[index] = " ".join(bulletin.en for bulletin in grammar.sample(rng.randrange(1 << 30), SEGMENTS))
        elif index % 25 == 24:
            rows[index] = rng.choice(["", rows[rng.randrange(index)]])
    return rows


def write_sources(folder: Path, rows: Sequence[str], rng: random.Random) -> None:
    """Write the rows in each layout."""
    (folder / "in.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    (folder / "in.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "files").mkdir()
    start = 0
    while start < len(rows):
        end = start + rng.randrange(1, 9)
        text = "".join(f"{row}\n" for row in rows[start:end])
        (folder / "files" / f"{start:06}.txt").write_text(text, encoding="utf-8")
        start = end


def read_output(folder: Path) -> list[str]:
    """Return the translations of a job, in the order of its rows."""
    texts: list[str] = []
    for path in sorted((folder / "translated").rglob("*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode().split("\n")[:-1]
        texts += [json.loads(line)["translation"] for line in lines] if ".jsonl" in path.name else lines
    return texts


def run_job(
    work: Path, name: str, layout: str, settings: Sequence[str], counts: Counter[str], stop_at: int = 0
) -> None:
    """Run a job; with `stop_at` until it is about to commit the part or run with this number. Counts runs and stops."""
    words = [f"source.path={work / layout}", f"output_dir={work}", f"name={name}"]
    job = config.load("translate", [*COMMON, *words, *settings])
    originals, num_commits = {call: getattr(Output, call) for call in ("commit", "commit_run")}, 0

    def stopping(call: str) -> Any:
        def commit(self: Output, *arguments: Any) -> None:
            nonlocal num_commits
            num_commits += 1
            if num_commits == stop_at:
                raise Stopped
            counts[call] += 1
            originals[call](self, *arguments)

        return commit

    with (
        mock.patch.multiple(Output, commit=stopping("commit"), commit_run=stopping("commit_run")),
        mock.patch.object(executor, "usable_cpus", lambda: 2),
        Reporter("off") as reporter,
    ):
        try:
            translate(job, reporter)
        except Stopped:
            counts["stops"] += 1


def compare(
    work: Path,
    variant: Variant,
    decoding: Sequence[str],
    expected: Sequence[str],
    rng: random.Random,
    counts: Counter[str],
) -> str:
    """Run a variant, and return how its texts differ from the expected ones; "" if they do not."""
    name = f"job{rng.randrange(1 << 40)}"
    runs = [variant.settings, *((*variant.settings, *more) for more in variant.after_stops)]
    for index, settings in enumerate(runs):
        stop_at = rng.randrange(1, 4) if index < len(runs) - 1 else 0
        run_job(work, name, variant.layout, (*decoding, *settings), counts, stop_at)
    texts = read_output(work / name)
    if len(texts) != len(expected):
        return f"{len(texts)} rows instead of {len(expected)}"
    different = [index for index, (text, alone) in enumerate(zip(texts, expected, strict=True)) if text != alone]
    return f"{len(different)} rows differ, the first is row {different[0]}" if different else ""


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Compare `size` rows; there must be a divided row and a stop among the jobs."""
    rng, began = random.Random(seed), time.monotonic()
    rows = make_rows(seed, size)
    write_sources(work, rows, rng)
    failures: list[str] = []
    counts: Counter[str] = Counter()
    num_jobs = 0
    for kind, decoding in (("greedy", ()), ("sampled", SAMPLED)):
        reference = f"alone-{kind}"
        run_job(work, reference, "in.txt", (*decoding, *ALONE), Counter())
        expected = read_output(work / reference)
        for variant in VARIANTS:
            if decoding and not variant.sampled:
                continue
            num_jobs += 1
            if difference := compare(work, variant, decoding, expected, rng, counts):
                failures.append(f"{kind}, {variant.name}: {difference}")
            print(f"{kind}, {variant.name}: {difference or 'equal'}", file=sys.stderr, flush=True)
    return {
        "passed": not failures and counts["stops"] > 0 and counts["commit_run"] > 0,
        "failures": failures,
        "stops": counts["stops"],
        "runs_of_divided_rows": counts["commit_run"],
        "rows": len(rows),
        "jobs": num_jobs,
        "rows_compared": num_jobs * len(rows),
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 500, "rows"))
