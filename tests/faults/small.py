"""Small jobs for the simulated store: real commit, resume, lease, quarantine and finalize code over a few rows.

`simulated` puts counters in the place of what differs from run to run (ids, process ids, clocks, the lease's thread):
equal states are equal, and a seed says it all. The holder of a lease that another run left is never alive.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
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
from hymt_batch.records import Document, Input, Part, Preamble, Shard
from hymt_batch.write import lease
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.output import Output, WriteConfig

from . import upper
from .simfs import Crash, SimFS


class _Known(type(Path())):  # type: ignore[misc]
    """A path that remembers what was made of it: a third of the time of a small job goes into paths."""

    def __truediv__(self, key: Any) -> Any:
        made = self.__dict__.setdefault("made", {})
        if key not in made:
            made[key] = super().__truediv__(key)
            if "/" not in str(key):
                made[key].__dict__["above"] = self
        return made[key]

    @property
    def parent(self) -> Any:
        if "above" not in self.__dict__:
            self.__dict__["above"] = super().parent
        return self.__dict__["above"]

    def with_name(self, name: str) -> Any:
        return self.parent / name


HOME: Path = _Known("/job")
PART = re.compile(r"/job/\.hymt/f(\w+)/s(\d{7})/p(\d{5})")
HALF_MADE = re.compile(r"/(\.tmp-|probe-|stale-|s\d{7}$)")
NO_SUCH_PID = 1 << 22  # Linux gives none from here on
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
    """The lease's thread; the small job calls its beat where it wants one."""

    def __init__(self, **_: object) -> None: ...

    def start(self) -> None: ...

    def join(self, timeout: float) -> None: ...


def holder(host: str = "here") -> LeaseHolder:
    number = next(_ids)
    return LeaseHolder(f"owner{number}", host, "", "", NO_SUCH_PID + number, "1", "", 0, "long ago")


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Ids, holders, clocks and pauses of the simulation; no log."""
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
    before = [getattr(where, name) for where, name, _ in changes]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for where, name, new in changes:
        setattr(where, name, new)
    try:
        yield
    finally:
        for (where, name, _), old in zip(changes, before, strict=True):
            setattr(where, name, old)
        logging.disable(level)


def ids_from(number: int) -> None:
    """Ids count on from a number: equal histories give equal bytes."""
    global _ids
    _ids = itertools.count(number)


@dataclass
class Seen:
    """What a run did: parts decoded, and parts that it was told are safe."""

    decoded: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)


@dataclass
class World:
    """A job, the store it begins in, and what must come of it."""

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
    older: dict[str, bytes] = field(default_factory=dict)  # what the folder may show until the new files are there
    edited: bytes | None = None  # what somebody wrote into translated/: it is there for good, or in set_aside/
    damaged: bytes | None = None  # a part that is there and no good
    stale: bool = False  # listings hide and invent names
    tidy: bool = True  # nothing half-made may be left at the end
    lasting: bool = True  # folders can be synced: what is acknowledged stays

    def __post_init__(self) -> None:
        self.plans = {
            one.rel: [(shard, upper.plan(shard, self.part_rows)) for shard in self._shards(one)] for one in self.inputs
        }
        self.places = {
            f"{rel}/{shard.index}/{part.index}": f"/job/.hymt/f{shard.input.file_id}/s{shard.index:07}/p{part.index:05}"
            for rel, plan in self.plans.items()
            for shard, parts in plan
            for part in parts
        }

    def _shards(self, one: Input) -> list[Shard]:
        found = upper.shards(one, self.shard_rows)
        return list(found)

    def read(self, one: Input) -> Iterator[Document]:
        return iter(self.documents[one.rel])

    def parts(self, rel: str, shard: Shard, output: Output) -> list[Part]:
        """The plan; it never asks what the output holds."""
        return self.plans[rel][shard.index][1]


def run(fs: SimFS, world: World, seen: Seen, **options: Any) -> None:
    """The whole job, as jobs/translate.py goes through it, skipped shards included."""
    with Output.open(
        HOME,
        identity=world.identity,
        environment={"device": "none"},
        inputs=world.inputs,
        config=WriteConfig(),
        read=world.read,
        preamble=lambda one: Preamble(),
        lease_ttl_s=world.ttl_s,
        fs=fs,
        **{**world.options, **options},
    ) as output:
        if not output.is_complete:
            for one in world.inputs:
                for shard, _ in world.plans[one.rel]:
                    parts = world.parts(one.rel, shard, output)
                    names = [f"{one.rel}/{shard.index}/{part.index}" for part in parts]
                    record = output.shard_record(one, shard.index)
                    if record is not None and record.sha256 == shard.sha256:
                        seen.acknowledged.update(names)
                        output.finish_skipped_shard(one, record)
                        continue
                    for name, part in zip(names, parts, strict=True):
                        if not output.has(shard, part):
                            seen.decoded.add(name)
                            output.commit(shard, part, upper.upper(shard, part))
                        seen.acknowledged.add(name)
                    if world.beats and output._lease is not None:
                        output._lease.refresh()
                    output.finish_shard(shard)
        output.finalize()


def run_again(fs: SimFS, world: World, seen: Seen) -> None:
    """As a user would after a crash: `overwrite` is not asked for again unless the old job is still there."""
    if not world.options.get("overwrite"):
        return run(fs, world, seen)
    try:
        return run(fs, world, seen, overwrite=False)
    except IdentityError:
        seen.acknowledged.clear()
        return run(fs, world, seen)


def final_bytes(fs: SimFS) -> dict[str, bytes]:
    """All that is published."""
    return {
        path: data
        for path, data in fs.tree().items()
        if data is not None
        and (path == "/job/manifest.json" or path.startswith(("/job/translated/", "/job/errors/")))
        and not HALF_MADE.search(path)
    }


def make(name: str, folder: Path, rng: random.Random, *, files: int = 1, mark: str = "", **options: Any) -> World:
    """A world of some files with rows by chance, one of which has no translation."""
    inputs, documents = [], {}
    for number in range(files):
        path = folder / f"{name.replace(' ', '_')}{mark}{number}"
        num_rows = rng.choice([3, 4, 5]) if number == 0 else rng.choice([0, 1, 2])
        lines = [f"line {rng.randrange(1000)} of {number}\n" for _ in range(num_rows)]
        if number == 0:
            lines[rng.randrange(num_rows)] = f"empty {rng.randrange(1000)}\n"
        path.write_text("".join(lines))
        one = upper.an_input(path, ["in.txt", "sub/b.txt"][number])
        inputs.append(one)
        documents[one.rel] = list(upper.read(one))
    shard_rows, part_rows = rng.choice([(3, 2), (4, 2), (2, 1)])
    identity = {"decode": {"method": "upper"}, "batch": {"shard_rows": shard_rows, "part_rows": part_rows}}
    return World(name, inputs, documents, shard_rows, part_rows, identity, **options)


def solve(world: World) -> None:
    """Fill in what must come of it, by an unbroken run in an empty store."""
    fs = SimFS()
    with_options, world.options = world.options, {}
    try:
        run(fs, world, Seen())
    finally:
        world.options = with_options
    world.golden = final_bytes(fs)
    assert len(world.golden) == len(world.inputs) + 2


def part_way(fs: SimFS, world: World, calls: int) -> None:
    """Run until a number of changes, then be killed."""
    fs.crash_at = fs.count + calls
    with contextlib.suppress(Crash):
        run(fs, world, Seen())
    fs.crash_at, fs.dead = None, False
