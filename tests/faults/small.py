"""Small jobs for the simulated file system: the real commit, resume, lease and finalize code over a few rows.

`simulated` replaces what differs from run to run (ids, process ids, clocks, the thread of the lease) by counters.
Equal states then have equal bytes, and a seed determines a whole run. The holder of a lease that another run left is
never alive.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import random
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hymt_batch.fs as files
from hymt_batch import manifest
from hymt_batch.errors import IdentityError
from hymt_batch.records import Document, Input, Part, Shard
from hymt_batch.run.unit_reader import GetRecord, read_units
from hymt_batch.source.shards import SkippedShard
from hymt_batch.write import identity_versions, lease
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.output import Output
from hymt_batch.write.settings import WriteConfig
from tests.fakes import upper
from tests.faults.simfs import Crash, SimFS


class _Known(type(Path())):  # type: ignore[misc]
    """A path that caches the paths derived from it: a small job spends a third of its time on paths."""

    def __truediv__(self, key: Any) -> Any:
        children = self.__dict__.setdefault("made", {})
        if key not in children:
            children[key] = super().__truediv__(key)
            if "/" not in str(key):
                children[key].__dict__["above"] = self
        return children[key]

    @property
    def parent(self) -> Any:
        if "above" not in self.__dict__:
            self.__dict__["above"] = super().parent
        return self.__dict__["above"]

    def with_name(self, name: str) -> Any:
        return self.parent / name


HOME: Path = _Known("/job")
PART = re.compile(r"/job/\.hymt/f(\w+)/s(\d{7})/p(\d{5})")
RUN = re.compile(r"/job/\.hymt/f(\w+)/s(\d{7})/p(\d{5})-r(\d{5})")
RECORD = re.compile(r"/job/\.hymt/f(\w+)/s(\d{7})\.rows")
TEMPORARY = re.compile(r"/(\.tmp-|probe-|stale-|s\d{7}$)")
NO_SUCH_PID = 1 << 22  # above the largest process id of Linux
_ids = itertools.count(1)


class _Id:
    def __init__(self) -> None:
        self.hex = f"{next(_ids):08x}{0:024x}"


class Clock:
    """Monotonic seconds that pass only in `sleep`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class _NoThread:
    """Stands in for the lease's thread; the small job refreshes the lease itself."""

    def __init__(self, **_: object) -> None: ...

    def start(self) -> None: ...

    def join(self, timeout: float) -> None: ...


def holder(host: str = "here") -> LeaseHolder:
    id_number = next(_ids)
    return LeaseHolder(f"owner{id_number}", host, "", "", NO_SUCH_PID + id_number, "1", "", 0, "long ago")


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Replace ids, lease holders, clocks and pauses by simulated ones, and disable logging."""
    clock = Clock()
    changes: list[tuple[Any, str, Any]] = [
        (uuid, "uuid4", _Id),
        (manifest, "datetime", SimpleNamespace(now=lambda zone: SimpleNamespace(isoformat=lambda timespec: "today"))),
        (lease, "current_process", holder),
        (lease, "acquire", functools.partial(lease.acquire, clock=clock, sleep=clock.sleep)),
        (lease, "threading", SimpleNamespace(Thread=_NoThread, Event=threading.Event, Lock=threading.Lock)),
        (files, "RETRY_DELAYS_S", (0.0, 0.0)),
        (files, "time", SimpleNamespace(sleep=clock.sleep)),
    ]
    originals = [getattr(owner, name) for owner, name, _ in changes]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for owner, name, new in changes:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(changes, originals, strict=True):
            setattr(owner, name, old)
        logging.disable(level)


def ids_from(number: int) -> None:
    """Restart the counter of ids at `number`, so that equal runs give equal bytes."""
    global _ids
    _ids = itertools.count(number)


@dataclass
class Seen:
    """What a run did: the parts that it decoded, and the parts that were acknowledged to it as durable."""

    decoded: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)


@dataclass
class World:
    """A job, the file system in which it starts, and its expected output."""

    name: str
    inputs: list[Input]
    documents: dict[str, list[Document]]
    shard_rows: int
    part_rows: int
    identity: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    ttl_s: float = 100.0
    beats: bool = False
    start: SimFS = field(default_factory=SimFS)
    golden: dict[str, bytes] = field(default_factory=dict)  # path -> final bytes
    older: dict[str, bytes] = field(default_factory=dict)  # path -> bytes, allowed until the new files exist
    edited: bytes | None = None  # a user's change in translated/: it must stay there or be in set_aside/
    damaged: bytes | None = None  # bytes of a damaged part
    stale: bool = False  # listings hide names and show removed ones
    tidy: bool = True  # no temporary file may remain at the end
    config: WriteConfig = field(default_factory=WriteConfig)
    settings: dict[str, Any] = field(default_factory=lambda: dict(upper.SETTINGS))
    renamed: dict[str, str] = field(default_factory=dict)  # published path -> its path under earlier output settings
    durable: bool = True  # folders can be synced: acknowledged parts survive a power loss

    def __post_init__(self) -> None:
        self.plans = {
            input.rel: [(shard, upper.plan(shard, self.part_rows)) for shard in self._shards(input)]
            for input in self.inputs
        }
        self.places = {
            f"{rel}/{shard.index}/{part.index}": f"/job/.hymt/f{shard.input.file_id}/s{shard.index:07}/p{part.index:05}"
            for rel, plan in self.plans.items()
            for shard, parts in plan
            for part in parts
        }
        for rel, plan in self.plans.items():
            for shard, parts in plan:
                for part in parts:
                    name = f"{rel}/{shard.index}/{part.index}"
                    for index in range(len(part.run_lengths)):
                        self.places[f"{name}/{index}"] = f"{self.places[name]}-r{index:05}"

    @property
    def keeps_rows(self) -> bool:
        return self.config.keep_rows

    def _shards(self, input: Input) -> list[Shard]:
        shards = upper.shards(input, self.shard_rows)
        return list(shards)

    def read(self, input: Input) -> Iterator[Document]:
        return iter(self.documents[input.rel])

    def cut_shards(self, get_record: GetRecord) -> Iterator[Shard | SkippedShard]:
        for input in self.inputs:
            for shard, _ in self.plans[input.rel]:
                record = get_record(input, shard.index)
                is_same = record is not None and record.sha256 == shard.sha256
                yield SkippedShard(input, record) if record is not None and is_same else shard

    def parts(self, rel: str, shard: Shard, output: Output) -> list[Part]:
        """Return the planned parts of a shard; the plan never depends on the output folder."""
        return self.plans[rel][shard.index][1]


def run(fs: SimFS, world: World, seen: Seen, **options: Any) -> None:
    """Run the whole job in the same steps as jobs/translate.py, skipped shards included."""
    opening: dict[str, Any] = {
        "identity": world.identity,
        "config": world.config,
        "settings": world.settings,
        "read": world.read,
        "lease_ttl_s": world.ttl_s,
        "fs": fs,
    }
    with upper.open_output(HOME, world.inputs, **{**opening, **world.options, **options}) as output:
        output.assemble_outdated()
        if not output.is_complete:
            for shards in read_units(output.units(), world.cut_shards, output.shard_record):
                if len(shards) == 1:
                    run_shard(shards[0], world, seen, output)
                else:
                    run_unit(shards, world, seen, output)
        output.finalize()


def skip_shard(shard: SkippedShard, world: World, seen: Seen, output: Output) -> None:
    planned = world.plans[shard.input.rel][shard.record.index][1]
    seen.acknowledged.update(map(name_of, planned))
    output.finish_skipped_shard(shard.input, shard.record)


def run_shard(shard: Shard | SkippedShard, world: World, seen: Seen, output: Output) -> None:
    if isinstance(shard, SkippedShard):
        skip_shard(shard, world, seen, output)
        return
    for part in world.parts(shard.input.rel, shard, output):
        if not output.has(part) and part.run_lengths:
            for segments in upper.decode_runs(output, part, upper.ENVIRONMENT):
                assert segments.run is not None
                seen.decoded.add(f"{name_of(part)}/{segments.run.index}")
        elif not output.has(part):
            seen.decoded.add(name_of(part))
            output.commit(part, upper.upper(part), upper.ENVIRONMENT)
        seen.acknowledged.add(name_of(part))
    if world.beats and output._lease is not None:
        output._lease.refresh()
    output.finish_shard(shard)


def run_unit(shards: list[Shard | SkippedShard], world: World, seen: Seen, output: Output) -> None:
    """Decode the shards of several files together, and commit what is missing."""
    unit: list[Part] = []
    missing: list[Part] = []
    for shard in shards:
        if isinstance(shard, SkippedShard):
            skip_shard(shard, world, seen, output)
            continue
        unit += (parts := world.parts(shard.input.rel, shard, output))
        for part in parts:
            if output.has(part):
                seen.acknowledged.add(name_of(part))
            else:
                missing.append(part)
        if parts:
            output.finish_if_complete(shard)
        else:  # the stub plans no part for an empty file
            output.finish_shard(shard)
    for part in missing:
        seen.decoded.add(name_of(part))
        output.commit(part, upper.upper_together(part, unit), upper.ENVIRONMENT)
        seen.acknowledged.add(name_of(part))
        output.finish_if_complete(part.shard)
    if world.beats and output._lease is not None:
        output._lease.refresh()


def name_of(part: Part) -> str:
    return f"{part.shard.input.rel}/{part.shard.index}/{part.index}"


def run_again(fs: SimFS, world: World, seen: Seen) -> None:
    """Run again as a user would after a crash: with `overwrite` only if the old job is still in the folder."""
    if not world.options.get("overwrite"):
        return run(fs, world, seen)
    try:
        return run(fs, world, seen, overwrite=False)
    except IdentityError:
        seen.acknowledged.clear()
        return run(fs, world, seen)


def final_bytes(fs: SimFS) -> dict[str, bytes]:
    """Return the bytes of all published files, by path."""
    return {
        path: data
        for path, data in fs.tree().items()
        if data is not None
        and (path == "/job/manifest.json" or path.startswith(("/job/translated/", "/job/errors/")))
        and not TEMPORARY.search(path)
    }


def _rows_of_fields(texts: list[str], rng: random.Random) -> list[str]:
    """Return rows that have these texts, one or two each, and some rows without one."""
    lines, left = [], [text.rstrip("\n") for text in texts]
    while left:
        row = {"title": left.pop(0)}
        if left and rng.random() < 0.7:
            row["body"] = left.pop(0)
        lines.append(json.dumps(row) + "\n")
        if rng.random() < 0.3:
            lines.append(rng.choice(["\n", "{}\n", '{"title": null}\n', '{"title": 5, "body": "x"}\n']))
    return lines


def make(
    name: str,
    folder: Path,
    rng: random.Random,
    *,
    files: int = 1,
    mark: str = "",
    long: bool = False,
    fields: bool = False,
    **options: Any,
) -> World:
    """Create a world of `files` files with random rows; one is empty in the end, and with `long` one is divided.

    With `fields`, a row has up to two texts.
    """
    inputs, documents = [], {}
    for index in range(files):
        path = folder / f"{name.replace(' ', '_')}{mark}{index}"
        num_rows = rng.choice([3, 4, 5]) if index == 0 else rng.choice([0, 1, 2])
        lines = [f"line {rng.randrange(1000)} of {index}\n" for _ in range(num_rows)]
        if index == 0:
            lines[rng.randrange(num_rows)] = f"empty {rng.randrange(1000)}\n"
        if index == 0 and long:
            words = [str(rng.randrange(1000)) for _ in range(rng.choice([3, 4, 5]))]
            others = [row for row, line in enumerate(lines) if not line.startswith("empty")]
            lines[rng.choice(others)] = f"{upper.LONG}{' '.join(words)}\n"
        names = ["in.txt", "sub/b.txt", "sub/c.txt"]
        if fields:
            names = [name.replace(".txt", ".jsonl") for name in names]
            lines = _rows_of_fields(lines, rng)
        path.write_text("".join(lines))
        input = upper.an_input(path, names[index])
        inputs.append(input)
        documents[input.rel] = list(upper.read(input))
    shard_rows, part_rows = rng.choice([(3, 2), (4, 2), (2, 1)])
    identity = {
        "version": identity_versions.VERSION,
        "decode": {"method": "upper"},
        "batch": {"shard_rows": shard_rows, "part_rows": part_rows},
    }
    return World(name, inputs, documents, shard_rows, part_rows, identity, **options)


def solve(world: World) -> None:
    """Set the expected output of a world by an unbroken run on an empty file system."""
    fs = SimFS()
    options, world.options = world.options, {}
    try:
        run(fs, world, Seen())
    finally:
        world.options = options
    world.golden = final_bytes(fs)
    assert len(world.golden) == len(world.inputs) + 2


def part_way(fs: SimFS, world: World, calls: int) -> None:
    """Run the job and kill it after a number of changes."""
    fs.crash_at = fs.count + calls
    with contextlib.suppress(Crash):
        run(fs, world, Seen())
    fs.crash_at, fs.dead = None, False
