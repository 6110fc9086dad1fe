"""Small jobs for the simulated file system: the real commit, resume, lease and finalize code over a few rows.

`simulated` replaces what differs from run to run (ids, process ids, clocks, the thread of the lease) by counters.
Equal states then have equal bytes, and a seed determines a whole run. The holder of a lease that another run left is
never alive.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import logging
import random
import re
import threading
import uuid
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hymt_batch.fs as files
from hymt_batch import file_units, manifest
from hymt_batch.check.settings import CheckConfig
from hymt_batch.errors import HymtError, IdentityError, MissingError
from hymt_batch.manifest import JobRecord
from hymt_batch.records import Document, Input, Part, Row, Shard, ShardRecord, Status
from hymt_batch.run import pass_shards
from hymt_batch.run.commit_result import commit_result
from hymt_batch.run.unit import Unit
from hymt_batch.run.unit_reader import GetRecord, read_units
from hymt_batch.source.shards import SkippedShard
from hymt_batch.state_layout import FLAT, StateLayout
from hymt_batch.write import claim, identity_versions, lease, lease_holder, retired, shard_plan
from hymt_batch.write.claim import TaskRule
from hymt_batch.write.job_output import JobOutput
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.part import make_shard_record
from hymt_batch.write.passes import FILE_ID, PassFile, PassRecord, pass_folder
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.row_selection import Criteria
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.shard_plan import PlannedFile, ShardPlan
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.task_output import Task, TaskOutput
from hymt_batch.write.unit_progress import UnitProgress
from jobs import merge, translate
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
STATE = r"/job/(?:\.hymt/passes/p\d{4}/)?\.hymt"
SHARD = STATE + r"(?:/g\w)?/f(\w+)(?:/s\d{7}-\d{7})?/s(\d{7})"
PART = re.compile(SHARD + r"/p(\d{5})")
RUN = re.compile(SHARD + r"/p(\d{5})-r(\d{5})")
RECORD = re.compile(SHARD + r"\.rows")
TAKEN = re.compile(r"(/job/\.hymt/(?:passes/|g\w/)?[fcp]\w+)-\w{32}(?=/|$)")
TEMPORARY = re.compile(rf"/(\.tmp-|probe-|stale-|s\d{{7}}$|u\d{{7}}$)|{TAKEN.pattern}")
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


def _plan_parts(
    shard: Shard, prompts: Any, rejections: Any, plan: Callable[[Shard], list[Part]], limit: Any, known: dict[int, Row]
) -> list[Part]:
    """Return the parts that the world plans, with what the output knows of their rows."""
    return [
        replace(part, known={index: known[index] for index in part.document_indices if index in known})
        if known
        else part
        for part in plan(shard)
    ]


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Replace ids, lease holders, clocks and pauses by simulated ones, and disable logging."""
    clock = Clock()
    changes: list[tuple[Any, str, Any]] = [
        (uuid, "uuid4", _Id),
        (manifest, "datetime", SimpleNamespace(now=lambda zone: SimpleNamespace(isoformat=lambda timespec: "today"))),
        (lease, "current_process", holder),
        (lease, "acquire", functools.partial(lease.acquire, clock=clock, sleep=clock.sleep)),
        (lease, "acquire_at", functools.partial(lease.acquire_at, clock=clock, sleep=clock.sleep)),
        (lease_holder, "current_process", holder),
        (claim, "settle", functools.partial(claim.settle, clock=clock, sleep=clock.sleep)),
        (lease, "threading", SimpleNamespace(Thread=_NoThread, Event=threading.Event, Lock=threading.Lock)),
        (files, "RETRY_DELAYS_S", (0.0, 0.0)),
        (files, "time", SimpleNamespace(sleep=clock.sleep)),
        (retired, "today", lambda: date(2026, 11, 24)),
        (translate, "batch", SimpleNamespace(plan_parts=_plan_parts)),
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


_layout = FLAT


@contextlib.contextmanager
def in_groups() -> Iterator[None]:
    """Make worlds whose state lies in groups, of one shard each, as that of large jobs does."""
    global _layout
    _layout, before = StateLayout(file_digits=1, group_size=1), _layout
    try:
        yield
    finally:
        _layout = before


def ids_from(number: int) -> None:
    """Restart the counter of ids at `number`, so that equal runs give equal bytes."""
    global _ids
    _ids = itertools.count(number)


_JOB: Any = SimpleNamespace(decode=None, check=CheckConfig(), tgt_lang="fr")
"""What planning and committing need of a job's settings."""


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
    retired: dict[str, bytes] = field(default_factory=dict)  # outputs that must stay there or be in retired/
    stale: bool = False  # listings hide names and show removed ones
    tidy: bool = True  # no temporary file may remain at the end
    config: WriteConfig = field(default_factory=WriteConfig)
    settings: dict[str, Any] = field(default_factory=lambda: dict(upper.SETTINGS))
    renamed: dict[str, str] = field(default_factory=dict)  # published path -> its path under earlier output settings
    durable: bool = True  # folders can be synced: acknowledged parts survive a power loss
    goes_on: bool = False  # the expected output is that of an unbroken run in the folder as it is at the start
    tasks: int = 0  # number of tasks that a prepared job is divided among; 0: one process translates it
    disorder: bool = False  # parts are committed in another order than planned, as by several workers
    has_keys: bool = False  # rows have keys, and each text depends on what is decoded with it, as with a real model
    known: frozenset[str] = frozenset()  # texts that an update knows from the earlier version of the first file
    retries: bool = False  # the job is finished at the start, and its rows are decoded again in a pass
    translates_first: bool = False  # before a pass begins or goes on, the job itself runs again
    before_pass: World | None = None  # with `retries`: the job without the pass
    layout: StateLayout = FLAT  # of its state

    def __post_init__(self) -> None:
        self.plans = {
            input.rel: [
                (
                    shard,
                    upper.plan_around(shard, self.known if index == 0 else (), self.part_rows)
                    if self.has_keys
                    else upper.plan(shard, self.part_rows),
                )
                for shard in self._shards(input)
            ]
            for index, input in enumerate(self.inputs)
        }
        self.places = {
            f"{rel}/{shard.index}/{part.index}": self._place(HOME, shard.input.file_id, part)
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
        if self.retries:
            self._plan_pass()

    def _place(self, folder: Path, file_id: str, part: Part) -> str:
        """Return the path of a part in the folder of the job or of its pass."""
        layout = self.layout if folder == HOME else self.layout.of_pass
        parent = layout.shard_parent(layout.file_state(folder, file_id), part.shard.index)
        return f"{parent}/s{part.shard.index:07}/p{part.index:05}"

    def state_of(self, input: Input) -> str:
        """Return the path of the state folder of a file."""
        return str(self.layout.file_state(HOME, input.file_id))

    def _plan_pass(self) -> None:
        """Plan the parts of the pass, which has all rows of the job, in the place of its own parts."""
        files = tuple(
            PassFile(
                input.file_id,
                input.rel,
                array("q", [document.row_index for document in self.documents[input.rel]]),
                "".join(document.digest.hex() for document in self.documents[input.rel]),
            )
            for input in self.inputs
            if self.documents[input.rel]
        )
        identity = self.identity | {"decode": {"method": "again"}}
        self.pass_record = PassRecord(1, identity, upper.ENVIRONMENT, ("empty", "ok"), (), files)
        shards = [shard for (shard,) in self.cut_pass(lambda index: None)]
        self.plans = {"pass 1": [(shard, upper.plan(shard, self.part_rows)) for shard in shards]}
        self.places = {
            f"pass 1/{shard.index}/{part.index}": self._place(pass_folder(HOME, 1), FILE_ID, part)
            for shard, parts in self.plans["pass 1"]
            for part in parts
        }

    def cut_pass(self, get_record: Callable[[int], ShardRecord | None]) -> Iterator[list[Any]]:
        """Cut the rows of the pass into shards."""
        limits: Any = SimpleNamespace(shard_rows=self.shard_rows, shard_bytes=1 << 30)
        inputs = {input.file_id: input for input in self.inputs}
        return pass_shards.cut_shards(self.pass_record, inputs, self.read, limits, get_record)

    @property
    def features(self) -> list[str]:
        """What the job has: "units of several files", "divided rows", "failed files"."""
        units = file_units.group(self.inputs, file_units.plan(self.inputs, self.identity))
        has = {
            "units of several files": any(len(unit) > 1 for unit in units),
            "divided rows": any("-r" in path for path in self.places.values()),
            "failed files": bool(self.failed),
        }
        return [name for name, is_there in has.items() if is_there]

    @property
    def failed(self) -> list[str]:
        """The files that are not of their format."""
        return [rel for rel, rows in self.documents.items() if [row.status for row in rows] == [Status.FAILED_FILE]]

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
    if world.tasks:
        run_prepared(fs, world, seen, **options)
        return
    if world.retries:
        run_pass(fs, world, seen)
        return
    run_job(fs, world, seen, **options)


def run_job(fs: SimFS, world: World, seen: Seen, **options: Any) -> None:
    """Run the job as one process does."""
    opening: dict[str, Any] = {
        "identity": world.identity,
        "config": world.config,
        "settings": world.settings,
        "read": world.read,
        "lease_ttl_s": world.ttl_s,
        "layout": world.layout,
        "fs": fs,
    }
    with upper.open_output(HOME, world.inputs, **{**opening, **world.options, **options}) as output:
        output.assemble_outdated()
        if not output.is_complete:
            for unit in in_disorder(missing_units(world, seen, output), world.disorder):
                decode(unit, seen, output, has_keys=world.has_keys)
                if world.beats and output._lease is not None:
                    output._lease.refresh()
        output.finalize()


def run_pass(fs: SimFS, world: World, seen: Seen) -> None:
    """Decode the rows of a finished job again, in the same steps as jobs/retry.py.

    With `translates_first`, the job itself runs before: it must decode nothing, and leave the pass alone.
    """
    job = manifest.read_job(fs, HOME)
    access = InputAccess(world.read, upper.read_preamble, upper.shape_row)
    times = LeaseTimes(world.ttl_s, 20.0)
    requested = RequestedJob(replace(job, inputs=tuple(world.inputs)))
    if world.translates_first:
        first = Seen()
        run_job(fs, world.before_pass or world, first)
        if first.decoded:
            raise HymtError("translate decodes the job again")
    with Output.open(HOME, requested, access, world.config, times, fs) as output:
        if not output.is_finished:
            output.assemble_outdated()
            if not output.is_complete:
                raise MissingError("only rows of a finished job can be decoded again")
            output.finalize()
        if output.job_record.passes:
            output.finalize()
            return
        record = output.read_stopped_pass()
        if record is None:
            selected = output.select_rows(Criteria(frozenset({"empty", "ok"}), frozenset()), lambda: None)
            record = replace(world.pass_record, files=tuple(selected.files))
            output.create_pass(record)
        of_pass = output.open_pass(record)
        recorder: Any = Recorder(world, seen)
        job_settings = _JOB
        plan: Any = SimpleNamespace(max_context=0, part_limits=lambda shard: world.plans["pass 1"][shard.index][1])
        prepared: Any = (
            [
                shard if isinstance(shard, SkippedShard) else SimpleNamespace(shard=shard, prompts=(), rejections={})
                for shard in shards
            ]
            for shards in world.cut_pass(of_pass.shard_record)
        )
        units = translate.pending_units(prepared, job_settings, plan, of_pass, recorder)
        for unit in in_disorder(units, world.disorder):
            for part in unit.parts:
                seen.decoded.add(name_of(part))
                of_pass.commit(part, again(part), upper.ENVIRONMENT)
                seen.acknowledged.add(name_of(part))
                of_pass.finish_if_complete(part.shard)
        of_pass.end()
        output.add_pass(record)
        output.assemble_outdated()
        output.finalize()


def text_again(text: str) -> str:
    """Return the translation that a pass gives a text; "" for one that fails in it."""
    return "" if text.rstrip().endswith(("0", "3", "6")) else f"{text.upper()} again"


def again(part: Part) -> list[Row]:
    """Decode the rows of a part of a pass: some have no translation."""
    rows = []
    for row in upper.upper(part):
        text = text_again(part.shard.documents[row.row_index - part.shard.first_row].text or "")
        status = Status.OK if text else Status.EMPTY
        rows.append(replace(row, status=status, text=text, flags=() if text else ("empty",)))
    return rows


def run_prepared(fs: SimFS, world: World, seen: Seen, tasks_to_run: int | None = None, **options: Any) -> None:
    """Prepare the job, run its tasks one after the other and merge, in the same steps as the jobs of these names.

    With `tasks_to_run`, the merge comes after that many tasks.
    """
    job = manifest.new_job(
        world.identity,
        world.inputs,
        upper.ENVIRONMENT,
        world.settings,
        units=file_units.plan(world.inputs, world.identity),
        layout=world.layout,
    )
    access = InputAccess(world.read, upper.read_preamble, upper.shape_row)
    times = LeaseTimes(world.ttl_s, 20.0)
    known = None if options.get("overwrite") else shard_plan.read_if_any(fs, HOME)
    requested = RequestedJob(job, **{**world.options, **options})
    rule = TaskRule(ignore=known is not None)
    with Output.open(HOME, requested, access, world.config, times, fs, rule) as output:
        if known is None and not output.is_complete:
            shard_plan.write(fs, HOME, planned(world, output.job_record))
    requested = RequestedJob(job)
    plan = shard_plan.read(fs, HOME)
    for index in range(world.tasks if tasks_to_run is None else tasks_to_run):
        units = list(range(index, plan.num_units, world.tasks))
        with TaskOutput.open(HOME, requested, access, world.config, Task(plan, units, times), fs) as task_output:
            for unit in in_disorder(task_units(world, seen, task_output), world.disorder):
                decode(unit, seen, task_output)
                if world.beats:
                    task_output.claims.refresh()
            task_output.summarize()
    rule = TaskRule(wait=True)
    with Output.open(HOME, requested, access, world.config, times, fs, rule) as output:
        if not output.is_complete:
            stop: Any = SimpleNamespace(raise_if_requested=lambda: None)
            merge.publish(output, plan, UnitProgress(fs, HOME, plan), stop)
        output.finalize()


def planned(world: World, job: JobRecord) -> ShardPlan:
    """Return the plan of the world's job."""
    files = [
        PlannedFile(
            input,
            0,
            "",
            None,
            ShardTable(make_shard_record(shard) for shard, _ in world.plans[input.rel]),
            can_seek=True,
        )
        for input in world.inputs
    ]
    return ShardPlan(job.identity_sha256, files, job.units, {}, {}, layout=job.layout)


def task_units(world: World, seen: Seen, output: TaskOutput) -> Iterator[Unit]:
    """Yield what a task would decode, planned by the world."""
    job = _JOB
    plan: Any = SimpleNamespace(max_context=0, part_limits=lambda shard: world.plans[shard.input.rel][shard.index][1])
    prepared: Any = (
        [
            SimpleNamespace(
                shard=output.check_shard(unit, file, record, world.plans[file.input.rel][record.index][0]),
                prompts=(),
                rejections={},
            )
            for file, record in unit.shards()
        ]
        for unit in output.begin_units()
    )
    recorder: Any = Recorder(world, seen)
    return translate.pending_units(prepared, job, plan, output, recorder)


class Recorder:
    """Stands in for the monitor of a job: records what a run finds to be committed."""

    def __init__(self, world: World, seen: Seen) -> None:
        self._world, self._seen = world, seen

    def skip_shard(self, input: Input, record: ShardRecord) -> None:
        self._seen.acknowledged.update(map(name_of, self._world.plans[input.rel][record.index][1]))

    def skip_part(self, part: Part) -> None:
        self._seen.acknowledged.add(name_of(part))

    def add_shard(self, shard: Shard, parts: list[Part]) -> None: ...

    def begin_part(self, part: Part) -> None: ...


def missing_units(world: World, seen: Seen, output: Output) -> Iterator[Unit]:
    """Yield what the job itself would decode, planned by the world."""
    job = _JOB
    plan: Any = SimpleNamespace(max_context=0, part_limits=lambda shard: world.parts(shard.input.rel, shard, output))
    recorder: Any = Recorder(world, seen)
    prepared: Any = (
        [
            shard
            if isinstance(shard, SkippedShard)
            else SimpleNamespace(shard=shard, prompts=upper.prompts(shard) if world.has_keys else (), rejections={})
            for shard in shards
        ]
        for shards in read_units(output.units(), world.cut_shards, output.shard_record)
    )
    return translate.pending_units(prepared, job, plan, output, recorder)


def in_disorder(units: Iterator[Unit], disorder: bool) -> Iterator[Unit]:
    """Yield the units, with `disorder` the first one and the first run of a divided row last, as by slow workers."""
    held: list[Unit] = []
    has_run = False
    for unit in units:
        is_run = unit.parts[0].run is not None
        if disorder and (not held or (is_run and not has_run)):
            held.append(unit)
        else:
            yield unit
        has_run = has_run or is_run
    yield from held


def decode(unit: Unit, seen: Seen, output: JobOutput, *, has_keys: bool = False) -> None:
    """Decode a unit, and commit what is missing of it, in the same steps as jobs/translate.py."""
    for result in unit.results(upper.upper_segments(unit.prompts), upper.ENVIRONMENT, ()):
        part = result.part
        seen.decoded.add(name_of(part))
        if part.run is not None:
            if commit_result(output, result):
                seen.acknowledged.add(name_of(part.run.of))
        else:
            is_together = has_keys or len(unit.parts) > 1
            rows = upper.upper_together(part, unit.parts) if is_together else upper.upper(part)
            rows = upper.with_keys(part, rows) if has_keys else rows
            output.commit(part, rows, upper.ENVIRONMENT)
        seen.acknowledged.add(name_of(part))
        output.finish_if_complete(part.shard)


def name_of(part: Part) -> str:
    name = f"{part.shard.input.rel}/{part.shard.index}/{part.index}"
    return f"{name}/{part.run.index}" if part.run is not None else name


def run_again(fs: SimFS, world: World, seen: Seen) -> None:
    """Run again as a user would after a crash: with `overwrite` only if the old job is still in the folder.

    Where a pass finds that files of the job are not published any more, the job itself is run before it.
    """
    if world.retries:
        with contextlib.suppress(MissingError):
            return run(fs, world, seen)
        world = copy.copy(world)
        world.translates_first = True
        return run(fs, world, seen)
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
        and (path == "/job/manifest.json" or path.startswith(("/job/translated/", "/job/errors/", "/job/review/")))
        and not TEMPORARY.search(path)
    }


def _rows_of_fields(texts: list[str], rng: random.Random, *, has_errors: bool) -> list[str]:
    """Return rows that have these texts, one or two each, and some rows without a text, or with an error."""
    lines, left = [], [text.rstrip("\n") for text in texts]
    while left:
        row = {"title": left.pop(0)}
        if left and rng.random() < 0.7:
            row["body"] = left.pop(0)
        lines.append(json.dumps(row) + "\n")
        if rng.random() < 0.3:
            errors = ["{}\n", '{"title": 5, "body": "x"}\n'] if has_errors else []
            lines.append(rng.choice(["\n", '{"title": null}\n', *errors]))
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
    subtitles: str = "",
    **options: Any,
) -> World:
    """Create a world of `files` files with random rows; one is empty in the end, and with `long` one is divided.

    With `fields`, a row has up to two texts. With `subtitles` there is one more file, a "good" one or one that is "not
    of its format".
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
            lines = _rows_of_fields(lines, rng, has_errors=index == 0)
        path.write_text("".join(lines))
        input = upper.an_input(path, names[index], "jsonl" if fields else "text")
        inputs.append(input)
        documents[input.rel] = list(upper.read(input))
    if subtitles:
        path = folder / f"{name.replace(' ', '_')}{mark}.srt"
        cues = [f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\nline {rng.randrange(1000)}\n\n" for n in range(1, 4)]
        path.write_text("".join(cues) if subtitles == "good" else f"{rng.randrange(1000)} without times\n")
        inputs.append(input := upper.an_input(path, "sub/s.srt", "srt"))
        documents[input.rel] = list(upper.read(input))
    shard_rows, part_rows = rng.choice([(3, 2), (4, 2), (2, 1)])
    identity = {
        "version": identity_versions.VERSION,
        "decode": {"method": "upper"},
        "batch": {"shard_rows": shard_rows, "part_rows": part_rows},
    }
    return World(name, inputs, documents, shard_rows, part_rows, identity, layout=_layout, **options)


def solve(world: World) -> None:
    """Set the expected output of a world by an unbroken run, on an empty file system unless it `goes_on`."""
    fs = world.start.after_kill() if world.goes_on else SimFS()
    options, tasks = world.options, world.tasks
    world.tasks = 0  # tasks and a merge must give what one process gives
    if not world.goes_on:
        world.options = {}
    try:
        run(fs, world, Seen())
    finally:
        world.options, world.tasks = options, tasks
    world.golden = final_bytes(fs)
    reviews = {path for path in world.golden if path.startswith("/job/review/")}  # one, if an output has flagged rows
    errors = {path for path in world.golden if path.startswith("/job/errors/")}  # a pass may leave none
    # the manifest, and a list of errors; a failed file has one in the place of its output
    assert len(world.golden) - len(reviews) + bool(world.retries and not errors) == len(world.inputs) + 2
    assert len(reviews) <= 1
    assert errors or world.retries


def part_way(fs: SimFS, world: World, calls: int) -> None:
    """Run the job and kill it after a number of changes."""
    fs.crash_at = fs.count + calls
    with contextlib.suppress(Crash):
        run(fs, world, Seen())
    fs.crash_at, fs.dead = None, False
