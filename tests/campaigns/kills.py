"""Kill jobs with SIGKILL at seeded random moments and rerun them until they end; the bytes must be as without kills.

The job is the real one with the stub model (`run`) or the demo model (`run_demo`), in a separate process. A kill is
aimed at a phase of the job (its start, its parts, its end) and comes at a random moment of that phase. The phase in
which it came is counted, which shows that every phase was hit. After each kill the parts on disk are compared with the
rows that were decoded: at most one part may be lost. Ends with one JSON line.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch.errors import ExitCode
from hymt_batch.write import part
from tests.campaigns import command, sources, warm
from tests.fakes import engine as fake_engine

MAX_KILLS = 50  # kills of one job; then it runs to its end
ENDS = ("finish", "finalize", "collect")
WORKERS = (1, 1, 1, 2, 3, 4)
HUNG_S = 60.0
PAUSE_S = 0.002  # time of a batch of the stub model
TTL_S = 1.5  # lease time to live; after a kill during a takeover the next run waits twice as long, once
COLD_S = 0.4  # a new interpreter spends at least this long on imports
FORMATS = (
    *("in.txt", "in.jsonl", "in.po", "in.parquet", "in.txt.gz", "in.properties"),
    *("in.fields.jsonl", "in.jsonl.xz", "in.txt.bz2", "in.json", "in.tree.json", "in.md", "in.document.txt"),
    *("in.srt", "in.vtt"),
)


@dataclass
class Tally:
    """The counts of a campaign."""

    kills: int = 0
    jobs: int = 0
    lost_rows: int = 0
    doubled_rows: int = 0
    torn_rows: int = 0
    different_jobs: int = 0
    rows: int = 0
    rows_again: int = 0
    parts_again: int = 0
    worst_parts_again: int = 0
    worst_rows_again: int = 0
    leftovers: int = 0
    lease_stopped: int = 0  # runs that stopped for a lost lease, because the machine was slow
    lease_waited: int = 0  # runs that waited for a claim that a kill during a takeover left
    long_rows: int = 0  # rows that are divided into runs of their segments
    kills_within_long_rows: int = 0  # after which some runs of such a row were on disk, and not yet the row
    failures: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)

    def fail(self, message: str) -> None:
        self.failures.append(message)
        print(f"kills: {message}", file=sys.stderr, flush=True)

    def compare(self, name: str, expected: Sequence[str], translations: Sequence[str]) -> None:
        """Count rows that are missing, duplicated or wrong."""
        missing, extra = Counter(expected) - Counter(translations), Counter(translations) - Counter(expected)
        torn = sum(count for text, count in extra.items() if text not in set(expected))
        self.lost_rows += missing.total()
        self.doubled_rows += extra.total() - torn
        self.torn_rows += torn
        if list(expected) != list(translations):
            self.fail(f"{name}: {missing.total()} rows missing, {extra.total()} too many, or in a different order")


@dataclass(frozen=True)
class Spans:
    """Seconds of an unbroken run: until its first part, for each part, and from its last part to its end."""

    start: float
    part: float
    end: float


@dataclass
class Victim:
    """A job to be killed."""

    name: str
    source: Path
    texts: list[str]
    part_rows: int
    body: warm.Translate
    settings: list[str]
    cold: bool
    workers: int = 1
    job: Any = None
    golden: str = ""
    final: bytes = b""
    spans: Spans = Spans(0.0, 0.0, 0.0)
    num_parts: int = 0
    long_row_shard: str = ""  # name of the shard with a divided row; "" if the job has none
    num_long_segments: int = 0
    begun_rows: int = 0
    parts: dict[tuple[str, str, int], int] = field(default_factory=dict)  # committed, with their rows

    @property
    def output(self) -> Path:
        return self.source.parent / self.name

    @property
    def has_long_row(self) -> bool:
        """True if all of the divided row is known to be committed."""
        return any(
            shard == self.long_row_shard and rows == self.num_long_segments
            for (_, shard, _), rows in self.parts.items()
        )

    def overrides(self, name: str) -> list[str]:
        return [*self.settings, f"source.path={self.source}", f"output_dir={self.source.parent}", f"name={name}"]

    def unbroken(self) -> Path:
        """Run the job once without a kill, measure its phases, and return the path of its output file."""
        job = warm.load(self.overrides("unbroken"))
        began, first, last = time.monotonic(), 0.0, 0.0
        pid = warm.start(job, body=self.body, stderr_path=self.source.parent / "stderr")
        while (code := warm.poll(pid)) is None:
            now, phase = time.monotonic(), warm.MARKS.phase
            first = first or (now if warm.MARKS.parts else 0.0)
            last = last or (now if phase in ("finish", "finalize", "collect", "end") else 0.0)
            time.sleep(0.0003)
        ended = time.monotonic()
        if code or not first or not last:
            raise RuntimeError(f"an unbroken run ended with {code}: {(self.source.parent / 'stderr').read_text()}")
        self.num_parts = warm.MARKS.parts
        if self.long_row_shard:
            self.num_long_segments = warm.MARKS.rows - len(self.texts) + 1
        self.spans = Spans(first - began, (last - first) / self.num_parts, ended - last)
        self.golden = warm.digest(self.source.parent / "unbroken")
        self.job = warm.load(self.overrides(self.name))
        output_path = self.source.parent / "unbroken" / "translated" / self.source.name
        self.final = output_path.read_bytes()
        return output_path

    def committed(self) -> int:
        """Return the number of rows on disk; read the headers of new parts."""
        if warm.published(self.output):
            return len(self.texts) + max(0, self.num_long_segments - 1)
        divided = (self.long_row_shard, self.num_long_segments) if self.long_row_shard else None
        self.parts |= warm.committed_parts(self.output, divided)
        return sum(self.parts.values())


def aim(rng: random.Random, victim: Victim) -> tuple[str, float]:
    """Choose the moment of a kill: the phase to wait for, and the seconds after it."""
    done = len(victim.parts) >= victim.num_parts or warm.published(victim.output)
    if done and rng.random() < 0.9:
        moment = rng.choice(ENDS)
        return moment, rng.uniform(0.0, 1.1 * victim.spans.end if moment == "finish" else 0.002)
    if rng.random() < 0.4:
        return "start", rng.uniform(0.0, 1.1 * victim.spans.start)
    if victim.long_row_shard and not victim.has_long_row and rng.random() < 0.15:
        return "long row", rng.uniform(0.0, 4.5 * victim.spans.part)
    return "part", rng.uniform(0.0, 4.5 * victim.spans.part)


def is_reached(moment: str, victim: Victim) -> bool:
    if moment in ENDS:
        return warm.PHASES.index(warm.MARKS.phase) >= warm.PHASES.index(moment)
    if moment == "long row":
        return warm.is_within_long_row(victim.output)
    return moment == "start" or warm.MARKS.parts > 0


def run_and_kill(rng: random.Random, victim: Victim, tally: Tally) -> int:
    """Run the job and kill it unless it ends first; return its exit code."""
    stderr_path = victim.source.parent / "stderr"
    moment, after_s = aim(rng, victim)
    compose = victim.overrides(victim.name) if rng.random() < 0.05 else ()
    num_before = victim.committed()
    pid = warm.start(victim.job, compose=compose, body=victim.body, stderr_path=stderr_path)
    code, began = None, time.monotonic()
    while not is_reached(moment, victim) and (code := warm.poll(pid)) is None:
        time.sleep(0.0 if moment in ENDS else 0.0002)
        if time.monotonic() - began > HUNG_S:
            os.killpg(pid, signal.SIGKILL)
            raise TimeoutError(f"{victim.name} {victim.source.name} hangs in {warm.MARKS.phase}")
    tally.lease_waited += time.monotonic() - began > TTL_S
    if code is None:
        time.sleep(after_s)
        if rng.random() < 0.5:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)  # the kernel ends the workers of the job
        code = warm.wait(pid)
    phase, begun = warm.MARKS.phase, warm.MARKS.rows
    victim.begun_rows += begun
    num_after = victim.committed()
    again, parts_again = begun - (num_after - num_before), -(-(begun - (num_after - num_before)) // victim.part_rows)
    published = victim.output / "translated" / victim.source.name
    if published.exists() and published.read_bytes() != victim.final:
        tally.fail(f"{victim.name} {victim.source.name}: a kill in {phase} left an incomplete file")
    if code == -signal.SIGKILL:
        if phase in ("decode", "check", "commit", "read"):
            phase = f"{phase} {1 + 4 * len(victim.parts) // (victim.num_parts + 1)}/4"
        count_kill(tally, phase)
        tally.kills_within_long_rows += warm.is_within_long_row(victim.output)
        tally.worst_rows_again = max(tally.worst_rows_again, again)
        tally.worst_parts_again = max(tally.worst_parts_again, parts_again)
        tally.parts_again += parts_again
        if again > victim.part_rows * victim.workers:
            tally.fail(f"{victim.name} {victim.source.name}: a kill in {phase} cost {again} rows")
    elif code == ExitCode.STOPPED and "lease" in stderr_path.read_text():
        tally.lease_stopped += 1
    elif code:
        tally.fail(f"{victim.name} {victim.source.name}: exit {code}: {stderr_path.read_text()[-500:]}")
    return code


def count_kill(tally: Tally, phase: str) -> None:
    tally.kills += 1
    tally.phases[phase] += 1


def kill_cold_start(rng: random.Random, victim: Victim, tally: Tally) -> None:
    """Start a new interpreter and kill it while it imports."""
    command = [sys.executable, "-m", "tests.fakes.job", *victim.overrides(victim.name)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(rng.uniform(0.0, COLD_S))
    process.kill()
    if process.wait() == -signal.SIGKILL:
        count_kill(tally, "import")


def leftover_files(output: Path) -> list[str]:
    """Return the names of files that must not remain in the folder of a finished job."""
    allowed = {"job.json", "file.json", "inputs.json", "progress.json", "settings.json"}
    patterns = (".tmp*", "translated/.*", "errors/.*", "review/.*")
    temporary = [path for pattern in patterns for path in output.glob(pattern)]
    return [
        str(p)
        for p in (*output.glob(".hymt/**/*"), *temporary)
        if p.is_file() and p.name not in allowed and p.suffix != ".rows"
    ]


def one_job(rng: random.Random, victim: Victim, tally: Tally, most: int) -> None:
    """Kill one job until it ends, at most about `most` times, and check its output."""
    tally.jobs += 1
    tally.rows += len(victim.texts)
    tally.formats[victim.source.name] += 1
    tally.workers[str(victim.workers)] += 1
    tally.long_rows += bool(victim.long_row_shard)
    expected = [text.upper() for text in victim.texts]
    output_path = victim.unbroken()
    if victim.body is warm.STUB:
        tally.compare(f"{victim.name} unbroken", expected, sources.read(output_path))
    unbroken_rows, max_kills, code = warm.MARKS.rows, tally.kills + most, -signal.SIGKILL
    if victim.cold and most:
        kill_cold_start(rng, victim, tally)
    while code in (-signal.SIGKILL, ExitCode.STOPPED) and tally.kills < max_kills:
        code = run_and_kill(rng, victim, tally)
    if code in (-signal.SIGKILL, ExitCode.STOPPED):
        code = warm.wait(warm.start(victim.job, body=victim.body, stderr_path=victim.source.parent / "stderr"))
        victim.begun_rows += warm.MARKS.rows
    if code:
        tally.fail(f"{victim.name} {victim.source.name}: ended with {code}")
        return
    tally.rows_again += victim.begun_rows - unbroken_rows
    if victim.body is warm.STUB:
        tally.compare(victim.name, expected, sources.read(victim.output / "translated" / victim.source.name))
    if warm.digest(victim.output) != victim.golden:
        tally.different_jobs += 1
        tally.fail(f"{victim.name} {victim.source.name}: the bytes differ from those of the unbroken run")
    if names := leftover_files(victim.output):
        tally.leftovers += len(names)
        tally.fail(f"{victim.name}: left over: {names[:5]}")


def campaign(size: int, victims: Iterator[tuple[random.Random, Victim]]) -> dict[str, Any]:
    tally, began = Tally(), time.monotonic()
    while tally.kills < size:
        rng, victim = next(victims)
        one_job(rng, victim, tally, min(MAX_KILLS, size - tally.kills))
        if not tally.failures:
            shutil.rmtree(victim.source.parent)
    return {
        "passed": not tally.failures,
        "failures": tally.failures[:20],
        **{name: value for name, value in vars(tally).items() if isinstance(value, int)},
        "milliseconds": round(1000 * (time.monotonic() - began)),
        "by_phase": dict(sorted(tally.phases.items())),
        "by_format": dict(sorted(tally.formats.items())),
        "by_workers": dict(sorted(tally.workers.items())),
    }


def stub_jobs(
    seed: int, work: Path, parts: int = 40, formats: Sequence[str] = FORMATS
) -> Iterator[tuple[random.Random, Victim]]:
    index = 0
    while True:
        rng = random.Random(f"{seed} {index}")
        folder = work / f"job{index}"
        folder.mkdir(parents=True)
        part_rows, workers = rng.choice([2, 3, 4]), rng.choice(WORKERS)
        rows = part_rows * parts - rng.randrange(part_rows)
        texts = [f"row {row} {'word ' * rng.randrange(12)}{rng.randrange(10**9):x}" for row in range(rows)]
        shard_rows = rng.choice([24, 48, 1000])
        long_row = rng.randrange(rows) if index % 2 == 0 else None
        if long_row is not None:  # each sentence is a segment, and two are a run
            num_sentences = rng.randrange(6, 16)
            texts[long_row] = " ".join(f"Sentence {i} of row {long_row} {'word ' * 10}." for i in range(num_sentences))
        source = folder / formats[index % len(formats)]
        sources.write(source, texts)
        overrides = [
            "tgt_lang=fr",
            "model=demo",
            f"batch.part_rows={part_rows}",
            f"batch.max_rows={part_rows}",
            f"batch.shard_rows={shard_rows}",
            "segment.max_tokens=96",
            "batch.part_tokens=180",
            "launch.progress=off",
            "launch.samples=0",
            f"launch.lease_ttl_s={TTL_S}",
            f"launch.lease_beat_s={TTL_S / 5}",
            f"launch.workers={workers}",
            *([sources.FIELDS_SETTING] if sources.FIELDS in source.name else []),
            *([sources.DOCUMENT_SETTING] if sources.DOCUMENT in source.name else []),
        ]
        victim = Victim(f"job{index}", source, texts, part_rows, warm.STUB, overrides, True, workers)
        if long_row is not None:
            victim.long_row_shard = part.shard_name(long_row // shard_rows)
        yield rng, victim
        index += 1


def run(seed: int, size: int, work: Path, formats: Sequence[str] = FORMATS) -> dict[str, Any]:
    """Kill jobs with the stub model `size` times, about fifty times each; their inputs have these names in turn."""
    warm.prepare()
    fake_engine.PAUSE_S = PAUSE_S
    return campaign(size, stub_jobs(seed, work, formats=formats))


def demo_jobs(seed: int, work: Path) -> Iterator[tuple[random.Random, Victim]]:
    from hymt_batch.demo import grammar
    from jobs import translate

    index, part_rows = 0, 4
    while True:
        rng = random.Random(f"demo {seed} {index}")
        folder = work / f"demo{index}"
        folder.mkdir(parents=True)
        source = folder / "in.txt"
        texts = list(dict.fromkeys(example.en for example in grammar.sample(rng.randrange(1 << 30), 40)))
        sources.write(source, texts)
        overrides = ["src_lang=en", "tgt_lang=fr", "model=demo", "launch.progress=off", "launch.samples=0"]
        overrides += [f"batch.part_rows={part_rows}", f"batch.max_rows={part_rows}", "launch.num_threads=1"]
        yield rng, Victim(f"demo{index}", source, texts, part_rows, translate.translate, overrides, False)
        index += 1


def run_demo(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Do what `run` does, with the demo model and its engine."""
    import torch  # noqa: F401  imported once, before the forks
    import transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense  # noqa: F401

    warm.prepare()
    return campaign(size, demo_jobs(seed, work))


if __name__ == "__main__":
    flags: dict[str, tuple[command.Run, str]] = {"demo": (run_demo, "the demo model instead of the stub")}
    for name in FORMATS:
        flags[name.replace("in.", "only-")] = (partial(run, formats=[name]), f"inputs named {name} alone")
    sys.exit(command.main(__doc__, run, 1000, "kills", flags))
