"""Bugs that context managers seed into the real commit protocol, and the harnesses that must detect them.

A harness that never fails proves nothing: at least one harness must detect each of these bugs. None may report
`HARMLESS`: the lease saves work, and no output depends on it.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hymt_batch import fs as files
from hymt_batch import manifest, state_layout
from hymt_batch.errors import HymtError, IdentityError, MissingError
from hymt_batch.manifest import JobPass
from hymt_batch.records import Input, Part, Row, Shard, ShardRecord, Translation
from hymt_batch.run import unit_reader
from hymt_batch.run.unit import PartResult, Unit
from hymt_batch.state_layout import FLAT
from hymt_batch.write import (
    claim,
    cleanup,
    closed_rows,
    file_record,
    input_list,
    lease,
    manifest_contents,
    open_files,
    output,
    output_settings,
    pass_rows,
    passes,
    published_file,
    publisher,
    record_store,
    retired,
    row_lines,
    row_record,
    set_aside,
    shard_plan,
    storage,
    taken_state,
    update,
)
from hymt_batch.write import part as parts
from hymt_batch.write.closed_rows import ClosedRows, KnownRows
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.job_output import JobOutput, OpenedFolder
from hymt_batch.write.open_files import OpenFiles
from hymt_batch.write.output import Output
from hymt_batch.write.part_store import PartStore
from hymt_batch.write.pass_output import PassOutput
from hymt_batch.write.pass_rows import PassRows
from hymt_batch.write.passes import PassRecord
from hymt_batch.write.publisher import Publisher
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.row_record import RecordContents
from hymt_batch.write.run_store import RowSegments, RunStore
from hymt_batch.write.shard_plan import PlannedUnit, ShardPlan
from hymt_batch.write.storage import DurableFolders
from hymt_batch.write.synced_names import SyncedNames
from hymt_batch.write.task_output import TaskOutput
from hymt_batch.write.unit_progress import UnitProgress
from tests.fakes import upper
from tests.faults import worlds
from tests.faults.explore import Copy, Erring, Explorer, Tally, Zombies, broken_after_crash, copying, no_op
from tests.faults.simfs import SimFS
from tests.faults.small import (
    HOME,
    Seen,
    World,
    final_bytes,
    ids_from,
    make,
    part_way,
    run,
    run_prepared,
    simulated,
    solve,
)

Mutant = Callable[[], contextlib.AbstractContextManager[None]]
Harness = Callable[[Path, random.Random, Tally, int], None]
MUTANTS: dict[str, Mutant] = {}
HARNESSES: dict[str, Harness] = {}


@contextlib.contextmanager
def patched(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    originals = [owner.__dict__[name] for owner, name, _ in changes]
    for owner, name, new in changes:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name, _), old in zip(changes, originals, strict=True):
            setattr(owner, name, old)


def mutant(name: str) -> Callable[[Mutant], Mutant]:
    def add(make: Mutant) -> Mutant:
        MUTANTS[name] = make
        return make

    return add


def harness(name: str) -> Callable[[Harness], Harness]:
    def add(function: Harness) -> Harness:
        HARNESSES[name] = function
        return function

    return add


class PatchedFs:
    """A file system with some of its operations replaced."""

    def __init__(self, fs: Any, **replaced: Any) -> None:
        self.fs, self.replaced = fs, replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.fs, name)


# bugs


@mutant("a file is not synced")
def _() -> Any:
    def settle(self: files.NewFile) -> str:
        fd, self._fd = self._flush(), None
        self._fs.close(fd)
        self._synced = True
        return self._sha.hexdigest()

    return patched((files.NewFile, "sync_and_close", settle))


@mutant("a folder is not synced")
def _() -> Any:
    return patched((SimFS, "fsync_dir", lambda self, path: True))


@mutant("the parent of a new folder is not synced")
def _() -> Any:
    original = DurableFolders.ensure

    def ensure(self: DurableFolders, path: Path) -> None:
        store, self._fs = self._fs, PatchedFs(self._fs, fsync_dir=lambda path: True)
        try:
            original(self, path)
        finally:
            self._fs = store

    return patched((DurableFolders, "ensure", ensure))


@mutant("a part counts before its folder is synced")
def _() -> Any:
    original = PartStore._publish

    def publish(self: PartStore, *rest: Any) -> bool:
        store, self._fs = self._fs, PatchedFs(self._fs, fsync_dir=lambda path: True)
        try:
            return original(self, *rest)
        finally:
            self._fs = store

    return patched((PartStore, "_publish", publish))


@mutant("a part that is a whole shard counts before its folder is synced")
def _() -> Any:
    original = PartStore._publish_whole_shard

    def publish(self: PartStore, *rest: Any) -> bool:
        store, self.records._fs = self.records._fs, PatchedFs(self.records._fs, fsync_dir=lambda path: True)
        try:
            return original(self, *rest)
        finally:
            self.records._fs = store

    return patched((PartStore, "_publish_whole_shard", publish))


@mutant("an existing part counts as durable without a sync")
def _() -> Any:
    return patched((SyncedNames, "ensure", lambda self, path: None))


@mutant("the names of published files are not synced before the manifest")
def _() -> Any:
    return patched((Publisher, "_published_folders", lambda self: set()))


@mutant("an existing job is taken for a new one")
def _() -> Any:
    return patched((Output, "_has_nothing_of", lambda self, input: True))


@mutant("a part is trusted without its checksum")
def _() -> Any:
    def decode(data: bytes) -> Any:
        line, _, payload = data.partition(b"\n")
        return parts.decode_header(line), row_lines.decode_rows(payload)

    def decode_payload(data: bytes) -> Any:
        line, _, payload = data.partition(b"\n")
        return parts.decode_header(line), payload

    return patched((parts, "decode", decode), (parts, "decode_payload", decode_payload))


@mutant("a row record is trusted without its checksum")
def _() -> Any:
    def decode_payload(data: bytes) -> Any:
        line, _, payload = data.partition(b"\n")
        return row_record.decode_header(line), payload

    def decode(data: bytes) -> Any:
        header, payload = decode_payload(data)
        try:
            about_parts, _, lines = zlib.decompressobj().decompress(payload).partition(b"\n")
            return header, RecordContents(row_record._decode_parts(about_parts), row_lines.decode_rows(lines))
        except (zlib.error, ValueError, KeyError):
            return header, RecordContents((), [])

    return patched((row_record, "decode", decode), (row_record, "decode_payload", decode_payload))


@mutant("parts are removed before their row record is synced")
def _() -> Any:
    original = RecordStore.publish

    def publish(self: RecordStore, file_id: str, shard: ShardRecord, data: bytes, check_lease: Any) -> None:
        shard_folder = self.path(file_id, shard.index).with_suffix("")
        for name in files.list_names(self._fs, shard_folder):
            self._fs.unlink(shard_folder / name)
        original(self, file_id, shard, data, check_lease)

    return patched((RecordStore, "publish", publish))


@mutant("a row record is not synced before its parts are removed")
def _() -> Any:
    original = RecordStore.publish

    def publish(self: RecordStore, *arguments: Any) -> None:
        store, self._fs = self._fs, PatchedFs(self._fs, fsync=lambda fd: None, fsync_dir=lambda path: True)
        try:
            original(self, *arguments)
        finally:
            self._fs = store

    def unsynced(self: PartStore, file_id: str, shard: ShardRecord) -> None:
        store, self._fs = self._fs, PatchedFs(self._fs, fsync_dir=lambda path: True)
        try:
            original_finish(self, file_id, shard)
        finally:
            self._fs = store

    original_finish = PartStore.finish_shard
    return patched((RecordStore, "publish", publish), (PartStore, "finish_shard", unsynced))


@mutant("the old file is removed before the new one is published")
def _() -> Any:
    original = Publisher._publish

    def publish(self: Publisher, input: Input, shards: Any) -> None:
        self._remove_replaced_files(input)
        original(self, input, shards)

    return patched((Publisher, "_publish", publish))


@mutant("new output settings are recorded before the manifest is removed")
def _() -> Any:
    original = output_settings.change

    def change(fs: Any, folder: Path, job: Any, requested: Any) -> Any:
        def unlink(path: Path) -> None:
            if path.name != "manifest.json":
                fs.unlink(path)

        return original(PatchedFs(fs, unlink=unlink), folder, job, requested)

    def remove(fs: Any, path: Path) -> None:
        if path.name != "manifest.json":
            files.remove(fs, path)

    return patched((output_settings, "change", change), (publisher, "remove", remove))


@mutant("a done flag is trusted")
def _() -> Any:
    original_commit, original_has = PartStore.commit, PartStore.has

    def flag(self: PartStore, part: Part) -> Path:
        path = self._reader.path(part.shard.input.file_id, part.shard.index, part.index)
        return path.with_name(f"done-{path.name}")

    def commit(self: PartStore, part: Part, rows: Sequence[Row], *rest: Any) -> None:
        path = flag(self, part)
        self._folders.ensure(path.parent)
        if files.stat_or_none(self._fs, path) is None:
            files.write_new(self._fs, path, b"done")
        original_commit(self, part, rows, *rest)

    def has(self: PartStore, part: Part) -> bool:
        if files.stat_or_none(self._fs, flag(self, part)) is None:
            return original_has(self, part)
        self._mark_committed(part)
        return True

    return patched((PartStore, "commit", commit), (PartStore, "has", has))


@mutant("a published file is trusted because its record exists")
def _() -> Any:
    return patched((file_record, "is_intact", lambda fs, folder, record: True))


@mutant("rows are removed before their file is published")
def _() -> Any:
    original = published_file.assemble

    def assemble(fs: Any, folder: Path, job: Any) -> Any:
        def rename(source: Path, target: Path) -> None:
            if target.parent.name == "translated":
                cleanup.remove_records(fs, job.layout.file_state(folder, job.input.file_id))
            fs.rename(source, target)

        return original(PatchedFs(fs, rename=rename), folder, job)

    return patched((published_file, "assemble", assemble))


@mutant("the manifest is written first")
def _() -> Any:
    original, assemble = Publisher._publish, published_file.assemble

    def publish(self: Publisher, input: Input, shards: Any) -> None:
        def assemble_after_manifest(fs: Any, folder: Path, job: Any) -> Any:
            later: list[tuple[Path, Path]] = []

            def rename(source: Path, target: Path) -> None:
                hidden = target.parent.name in ("translated", "errors", "review")
                later.append((source, target)) if hidden else fs.rename(source, target)

            published_record = assemble(PatchedFs(fs, rename=rename), folder, job)
            files.write_atomic(fs, folder / "manifest.json", manifest_contents.build(self._job, [published_record]))
            for source, target in later:
                fs.rename(source, target)
            return published_record

        with patched((published_file, "assemble", assemble_after_manifest)):
            original(self, input, shards)

    return patched((Publisher, "_publish", publish))


@mutant("the old manifest stays while its files are rebuilt")
def _() -> Any:
    def remove(fs: Any, path: Path) -> None:
        if path.name != "manifest.json":
            files.remove(fs, path)

    return patched((publisher, "remove", remove))


@mutant("a file is written in place")
def _() -> Any:
    return patched((open_files, "tmp_path", lambda path: path))


@mutant("a temporary name is reused")
def _() -> Any:
    same = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="0" * 32))
    return patched((storage, "uuid", same), (open_files, "uuid", same), (record_store, "uuid", same))


@mutant("every temporary file is deleted at the start")
def _() -> Any:
    original = Output.open.__func__  # type: ignore[attr-defined]

    def open(cls: Any, folder: Path, requested: Any, access: Any, config: Any, times: Any, fs: Any) -> Any:
        cleanup.remove_leftovers(fs, folder, requested.job.inputs)
        return original(cls, folder, requested, access, config, times, fs)

    return patched((Output, "open", classmethod(open)))


@mutant("a job resumes by counting its parts")
def _() -> Any:
    def has(self: PartStore, part: Part) -> bool:
        shard = part.shard
        committed = sum(1 for _ in self._reader.part_indexes(shard.input.file_id, shard.index)) > part.index
        if committed:
            self._mark_committed(part)
        return committed

    return patched((PartStore, "has", has))


@mutant("the plan depends on the parts that exist")
def _() -> Any:
    original = World.parts

    def planned(self: World, rel: str, shard: Shard, output: Output) -> list[Part]:
        if output._store.rows.has_any(shard.input.file_id):
            return upper.plan(shard, self.part_rows + 1)
        return original(self, rel, shard, output)

    return patched((World, "parts", planned))


@mutant("identity is ignored")
def _() -> Any:
    return patched((manifest, "diff", lambda old, new: []))


@mutant("a failed sync is tried again on the same file")
def _() -> Any:
    def settle(self: files.NewFile) -> str:
        fd, self._fd = self._flush(), None
        try:
            self._fs.fsync(fd)
        except OSError:
            self._fs.fsync(fd)
        self._fs.close(fd)
        self._synced = True
        return self._sha.hexdigest()

    return patched((files.NewFile, "sync_and_close", settle))


@mutant("a changed file is replaced without a copy")
def _() -> Any:
    return patched((set_aside, "preserve_foreign", lambda *_: None))


@mutant("a changed file is replaced before its copy is synced")
def _() -> Any:
    original = set_aside._preserve

    def keep(fs: Any, *arguments: Any) -> Path:
        return original(PatchedFs(fs, fsync_dir=lambda path: True), *arguments)

    return patched((set_aside, "_preserve", keep))


@mutant("a row is joined with a run missing")
def _() -> Any:
    def has_last(self: RunStore, part: Part) -> bool:
        runs = self._committed.get((part.shard.input.file_id, part.shard.index), {}).get(part.index, ())
        return len(part.run_lengths) - 1 in runs

    return patched((RunStore, "has_all", has_last), (RunStore, "load_all", load_committed))


@mutant("a run is counted twice")
def _() -> Any:
    class Repeating(list[int]):
        add = list[int].append

    def mark(self: RunStore, part: Part) -> None:
        assert part.run is not None
        runs: Any = self._committed.setdefault((part.shard.input.file_id, part.shard.index), {})
        runs.setdefault(part.index, Repeating()).add(part.run.index)

    def has(self: RunStore, part: Part) -> bool:
        if is_committed := original(self, part):
            mark(self, part)
        return is_committed

    original = RunStore.has
    changes = ("_mark_committed", mark), ("has", has), ("load_all", load_committed)
    return patched(*((RunStore, name, new) for name, new in changes))


def load_committed(self: RunStore, part: Part) -> RowSegments:
    """Read the runs that are marked as committed, as often as they are marked."""
    translations: list[Translation] = []
    runs = part.segment_runs()
    for index in sorted(self._committed[part.shard.input.file_id, part.shard.index][part.index]):
        loaded = self._rows.runs.load(part.shard.input.file_id, part.shard.index, part.index, index)
        segments = loaded[1] if loaded else []
        translations += [s.to_translation(prompt) for s, prompt in zip(segments, runs[index].prompts, strict=False)]
    return RowSegments(translations, [upper.ENVIRONMENT], ())


# bug -> the harness that must detect it; others may detect it too
SEEN_BY = {
    "a file is not synced": "power loss",
    "a folder is not synced": "power loss",
    "the parent of a new folder is not synced": "power loss",
    "a part counts before its folder is synced": "power loss",
    "a part that is a whole shard counts before its folder is synced": "power loss",
    "an existing part counts as durable without a sync": "kill, then power loss",
    "the names of published files are not synced before the manifest": "kill, then power loss",
    "an existing job is taken for a new one": "kill",
    "a part is trusted without its checksum": "damage",
    "a row record is trusted without its checksum": "damage",
    "parts are removed before their row record is synced": "kill",
    "a row record is not synced before its parts are removed": "power loss",
    "the old file is removed before the new one is published": "new settings",
    "new output settings are recorded before the manifest is removed": "new settings",
    "a done flag is trusted": "kill",
    "a published file is trusted because its record exists": "damage",
    "rows are removed before their file is published": "kill",
    "the manifest is written first": "kill",
    "the old manifest stays while its files are rebuilt": "redo",
    "a file is written in place": "kill",
    "a temporary name is reused": "take-over",
    "every temporary file is deleted at the start": "take-over",
    "a job resumes by counting its parts": "damage",
    "the plan depends on the parts that exist": "power loss",
    "identity is ignored": "another job",
    "a row is joined with a run missing": "long row",
    "a run is counted twice": "long row",
    "a failed sync is tried again on the same file": "storage errors",
    "a changed file is replaced without a copy": "edited file",
    "a changed file is replaced before its copy is synced": "edited file",
    "a unit is decoded without the files that are finished": "units",
    "a stopped job does not know its units": "units",
    "a unit is decoded without the parts that are committed": "units",
    "a missing part of a unit is not committed": "units",
    "the earlier output of a failed file is kept": "failed file",
    "the removal of a failed file's earlier output is not synced": "failed file",
    "a failed file is counted twice": "failed file",
    "a merge does not look for missing shards": "tasks",
    "a shard counts as complete before its record is made": "tasks",
    "a task counts a unit as complete when its last file is": "tasks",
    "a task decodes a unit without the files that are complete": "tasks",
    "a plan does not know the units of its job": "tasks",
    "the last unit of a plan is handed to nobody": "tasks",
    "a merge leaves the claims of killed tasks": "tasks",
    "a closed generation is removed before the new file is published": "update",
    "rows of an unfinished new version count as known": "update",
    "the manifest stays while an update works": "update",
    "a run that lost its lease closes the state of a file": "update",
    "what a killed update took is not given back": "update",
    "an output is removed before it is retired": "retired",
    "the removal of an output whose input is gone is not synced": "retired",
    "a run that was killed retires the new version of a file": "retired",
    "a new pass takes the place of one that another run began": "pass",
    "a pass becomes part of the job when it begins": "pass",
    "a pass becomes part of the job before its rows are recorded": "pass",
    "a pass becomes part of the job before the manifest is removed": "pass",
    "a stopped pass selects its rows again": "pass",
    "the job forgets a pass when it is killed while it publishes": "pass",
    "a row that failed again replaces the earlier one": "pass",
    "the files of a pass are assembled before it is part of the job": "pass",
    "the folder above a group is not synced": "groups",
    "an update syncs the folder above the groups instead of them": "groups",
    "what a killed update took in a group is not given back": "groups",
    "closed generations in groups are not found": "groups",
    "a job loses its layout when job.json is rewritten": "groups",
    "temporary files in groups of shards stay": "groups",
    "a task commits outside of the groups of the job": "groups",
}
HARMLESS = "the lease is never checked"


@mutant(HARMLESS)
def _() -> Any:
    return patched((lease.Lease, "check", lambda self: None))


@mutant("a unit is decoded without the files that are finished")
def _() -> Any:
    return patched((unit_reader, "_is_complete", lambda input, get_record: True))


@mutant("a stopped job does not know its units")
def _() -> Any:
    original = manifest.read_job
    return patched((manifest, "read_job", lambda fs, folder: replace(original(fs, folder), units=())))


@mutant("a unit is decoded without the parts that are committed")
def _() -> Any:
    original = Unit.__post_init__

    def keep_missing(self: Unit) -> None:
        object.__setattr__(self, "parts", self.missing)
        original(self)

    return patched((Unit, "__post_init__", keep_missing))


@mutant("a missing part of a unit is not committed")
def _() -> Any:
    original = Unit.results

    def results(self: Unit, *rest: Any) -> Iterator[PartResult]:
        all_results = list(original(self, *rest))
        yield from all_results[:-1] if len(all_results) > 1 else all_results

    return patched((Unit, "results", results))


@mutant("the earlier output of a failed file is kept")
def _() -> Any:
    def remove(fs: Any, path: Path) -> None:
        if "translated" not in path.parts:
            files.remove(fs, path)

    return patched((open_files, "remove", remove))


@mutant("the removal of a failed file's earlier output is not synced")
def _() -> Any:
    original, published_folders = OpenFiles.publish, Publisher._published_folders

    def publish(self: OpenFiles, num_rows: int | None, before: Any) -> Any:
        store = self._fs
        if num_rows is None:
            self._fs = PatchedFs(store, fsync_dir=lambda path: "translated" in path.parts or store.fsync_dir(path))
        try:
            return original(self, num_rows, before)
        finally:
            self._fs = store

    def folders_of_outputs(self: Publisher) -> set[Path]:
        with_output = [input for input in self._inputs if self.published[input.file_id].record.to_json()["output"]]
        lists = {folder for folder in published_folders(self) if "translated" not in folder.parts}
        return lists | manifest.published_folders(self._folder, with_output)

    return patched((OpenFiles, "publish", publish), (Publisher, "_published_folders", folders_of_outputs))


@mutant("a failed file is counted twice")
def _() -> Any:
    original = Publisher.file_records

    def file_records(self: Publisher) -> Any:
        records = original(self)
        return [*records, *(record for record in records if record.get("failed"))]

    return patched((Publisher, "file_records", file_records))


@mutant("a merge does not look for missing shards")
def _() -> Any:
    return patched((UnitProgress, "is_complete", lambda self, unit: True))


@mutant("a shard counts as complete before its record is made")
def _() -> Any:
    return patched((JobOutput, "finish_if_committed", lambda self, input, record: True))


@mutant("a task counts a unit as complete when its last file is")
def _() -> Any:
    def finish_last(self: TaskOutput, unit: PlannedUnit) -> bool:
        file, record = list(unit.shards())[-1]
        return self.finish_if_committed(file.input, record) or self._is_published(file.input)

    return patched((TaskOutput, "_finish_if_committed", finish_last))


@mutant("a task decodes a unit without the files that are complete")
def _() -> Any:
    original = TaskOutput.begin_units

    def begin_units(self: TaskOutput) -> Iterator[PlannedUnit]:
        for unit in original(self):
            left = [file for file in unit.files if self._store.shard_record(file.input, 0) is None]
            yield replace(unit, files=left or unit.files)

    return patched((TaskOutput, "begin_units", begin_units))


@mutant("a plan does not know the units of its job")
def _() -> Any:
    original = shard_plan.read

    def read(fs: Any, folder: Path) -> ShardPlan:
        return replace(original(fs, folder), first_files=())

    return patched((shard_plan, "read", read))


@mutant("the last unit of a plan is handed to nobody")
def _() -> Any:
    original = ShardPlan.num_units.fget
    assert original is not None
    return patched((ShardPlan, "num_units", property(lambda self: max(1, original(self) - 1))))


@mutant("a merge leaves the claims of killed tasks")
def _() -> Any:
    return patched((claim, "clear", lambda fs, folder: None))


@mutant("a closed generation is removed before the new file is published")
def _() -> Any:
    original = PartStore.finish_shard

    def finish_shard(self: PartStore, file_id: str, shard: ShardRecord) -> None:
        original(self, file_id, shard)
        closed_rows.discard(self._fs, self._folder, lambda: None)

    return patched((PartStore, "finish_shard", finish_shard))


@mutant("rows of an unfinished new version count as known")
def _() -> Any:
    original = ClosedRows.find
    unfinished: dict[ClosedRows, list[int]] = {}  # shards that an earlier run completed

    def find(self: ClosedRows, input: Input, keys: Any) -> KnownRows:
        known = original(self, input, keys)
        records = CommittedRows.open(self._fs, self._folder, _identity_of(self), self._job.layout).records
        rows = dict(known.rows)
        for index in unfinished.setdefault(self, list(records.shard_indexes(input.file_id))):
            loaded = records.read(input.file_id, index)
            for row in loaded[1].rows if loaded else ():
                for document, key in keys.items():
                    if row.key == key.sent and row.text:
                        rows.setdefault(document, row)
        return replace(known, rows=rows, environments=known.environments or (upper.ENVIRONMENT,))

    return patched((ClosedRows, "find", find))


def _identity_of(rows: ClosedRows) -> str:
    return manifest.read_job(rows._fs, rows._folder).identity_sha256


def take_unseen(fs: Any, path: Path, expected: bytes) -> Path | None:
    """Take a folder without a look at what it is."""
    taken = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    return taken if taken_state.rename(fs, path, taken) else None


@mutant("a run that lost its lease closes the state of a file")
def _() -> Any:
    original = closed_rows.close

    def close(fs: Any, folder: Path, inputs: Any, layout: Any, check_lease: Callable[[], None]) -> None:
        original(fs, folder, inputs, layout, lambda: None)

    return patched((taken_state, "take", take_unseen), (closed_rows, "close", close))


@mutant("what a killed update took is not given back")
def _() -> Any:
    return patched((taken_state, "give_back_all", lambda fs, folder: None))


@mutant("a new pass takes the place of one that another run began")
def _() -> Any:
    return patched((passes, "read_if_intact", lambda fs, folder, number: None), (taken_state, "take", take_unseen))


@mutant("the folder above a group is not synced")
def _() -> Any:
    original = DurableFolders.ensure_all

    def ensure_all(self: DurableFolders, paths: Iterable[Path]) -> None:
        paths, store = list(paths), self._fs
        if all(re.fullmatch(r"g\w|s\d+-\d+", path.name) for path in paths):
            self._fs = PatchedFs(store, fsync_dir=lambda path: True)
        try:
            original(self, paths)
        finally:
            self._fs = store

    return patched((DurableFolders, "ensure_all", ensure_all))


@mutant("an update syncs the folder above the groups instead of them")
def _() -> Any:
    return patched((closed_rows, "_sync_all", lambda fs, parents: fs.fsync_dir(HOME / ".hymt")))


def ungrouped(fs: Any, root: Path, group: object) -> list[Path]:
    """Return what is in a folder, as if it had no groups."""
    return [root / name for name in files.list_names(fs, root)]


@mutant("what a killed update took in a group is not given back")
def _() -> Any:
    return patched((taken_state, "list_grouped", ungrouped))


@mutant("closed generations in groups are not found")
def _() -> Any:
    return patched((state_layout, "state_names", lambda fs, folder: fs.listdir(folder / ".hymt")))


@mutant("a job loses its layout when job.json is rewritten")
def _() -> Any:
    original = manifest.replace_job
    return patched((manifest, "replace_job", lambda fs, folder, job: original(fs, folder, replace(job, layout=FLAT))))


@mutant("temporary files in groups of shards stay")
def _() -> Any:
    return patched((state_layout, "shard_parents", lambda fs, path: [path]))


@mutant("a task commits outside of the groups of the job")
def _() -> Any:
    original = TaskOutput.__init__

    def begin(self: TaskOutput, opened: OpenedFolder, task: Any) -> None:
        original(self, replace(opened, job=replace(opened.job, layout=FLAT)), task)

    return patched((TaskOutput, "__init__", begin))


@mutant("the manifest stays while an update works")
def _() -> Any:
    def remove(fs: Any, path: Path) -> None:
        if path.name != "manifest.json":
            files.remove(fs, path)

    return patched((update, "remove", remove), (publisher, "remove", remove))


@mutant("an output is removed before it is retired")
def _() -> Any:
    original = input_list.take_inputs

    def take_inputs(*given: Any) -> Any:
        *others, keep, check_lease = given
        late: list[str] = []
        taken = original(*others, keep and late.append, check_lease)
        for out_rel in late:
            keep(out_rel)
        return taken

    return patched((input_list, "take_inputs", take_inputs))


@mutant("the removal of an output whose input is gone is not synced")
def _() -> Any:
    return patched((cleanup, "_existing", lambda fs, folder, path: folder))


@mutant("a run that was killed retires the new version of a file")
def _() -> Any:
    original = retired.keep
    return patched((retired, "keep", lambda *given: original(*given[:4])))


@mutant("a pass becomes part of the job when it begins")
def _() -> Any:
    original = Output.open_pass

    def open_pass(self: Output, record: PassRecord) -> PassOutput:
        files_of_pass = {file.file_id: len(file.rows) for file in record.files}
        listed = JobPass(record.number, record.identity, record.statuses, record.flags, files_of_pass, (), (0,))
        manifest.replace_job(self._fs, self.folder, replace(self._job, passes=(listed,)))
        return original(self, record)

    return patched((Output, "open_pass", open_pass))


@mutant("a pass becomes part of the job before its rows are recorded")
def _() -> Any:
    original = PassOutput.finish_skipped_shard

    def finish(self: PassOutput, input: Input, record: ShardRecord) -> None:
        if record.last:
            listed = JobPass(
                self.record.number,
                self.record.identity,
                self.record.statuses,
                self.record.flags,
                {file.file_id: len(file.rows) for file in self.record.files},
                (),
                (0,),
            )
            job = manifest.read_job(self._fs, HOME)
            if not job.passes:
                manifest.replace_job(self._fs, HOME, replace(job, passes=(listed,)))
        original(self, input, record)

    return patched((PassOutput, "finish_skipped_shard", finish))


@mutant("a pass becomes part of the job before the manifest is removed")
def _() -> Any:
    original = Output.add_pass

    def add_pass(self: Output, record: PassRecord) -> None:
        with patched((output, "remove", lambda fs, path: None)):
            original(self, record)

    return patched((Output, "add_pass", add_pass))


@mutant("a stopped pass selects its rows again")
def _() -> Any:
    original = passes.read

    def read(fs: Any, folder: Path, number: int) -> PassRecord | None:
        is_open = number not in [listed.number for listed in manifest.read_job(fs, folder).passes]
        return None if is_open else original(fs, folder, number)

    create = partial(passes.create, replaces=True)
    output_passes = SimpleNamespace(**{**vars(passes), "create": lambda *given, replaces: create(*given)})
    return patched((passes, "read", read), (output, "passes", output_passes))


@mutant("the job forgets a pass when it is killed while it publishes")
def _() -> Any:
    return patched((file_record, "has_passes", lambda record, job, input: True), (Publisher, "add_pass", add_pass))


def add_pass(self: Publisher, job: manifest.JobRecord) -> None:
    """Do what the publisher does, for all files."""
    self._job, self._pass_rows, self._has_manifest = job, PassRows(self._fs, self._folder, job), False
    for input in self._inputs:
        if (published := self.published.pop(input.file_id, None)) is not None:
            record = published.record.to_json()
            self._outdated[input.file_id] = record["out_rel"]
            self._own_sha256s[record["out_rel"]] = file_record.output_sha256(record)


@mutant("a row that failed again replaces the earlier one")
def _() -> Any:
    return patched((pass_rows, "is_as_good", lambda later, earlier: True))


@mutant("the files of a pass are assembled before it is part of the job")
def _() -> Any:
    def add_pass(self: Output, record: PassRecord) -> None:
        job_pass = passes.finished(self._fs, self.folder, record, self._job.layout)
        assert job_pass is not None
        self._fs.unlink(self.folder / "manifest.json")
        self._fs.fsync_dir(self.folder)
        self._job = replace(self._job, passes=(job_pass,))
        self._publisher.add_pass(self._job)
        self.assemble_outdated()
        manifest.replace_job(self._fs, self.folder, self._job)

    return patched((Output, "add_pass", add_pass))


# harnesses: each explores about `size` states


def explore(make_world: worlds.Make, kind: type[Explorer], *, power: bool = True) -> Harness:
    def explore_world(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
        worlds.explore(folder, rng, tally, make_world, kind, size, power=power)

    return explore_world


HARNESSES["kill"] = explore(worlds.one_file, Explorer, power=False)
HARNESSES["power loss"] = explore(worlds.one_file, Explorer)
HARNESSES["edited file"] = explore(worlds.an_edited_file, Explorer)
HARNESSES["new settings"] = explore(worlds.new_settings, Explorer)
HARNESSES["storage errors"] = explore(worlds.one_file, Erring)


@harness("kill, then power loss")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """Kill a job at any change, run it again until it acknowledges a part, or to its end, and then lose the power."""
    world = make("kill, then power loss", folder, rng)
    solve(world)
    fs = SimFS()
    copies = copying(fs, Seen(), lambda at: True)
    run(fs, world, Seen())
    for copy in copies:
        fs, seen = copy.fs.after_kill(), Seen()
        tally.counts["kills"] += 1
        ids_from(1000)
        promises = copying(fs, seen, lambda at, seen=seen: bool(seen.acknowledged))  # type: ignore[misc]
        try:
            run(fs, world, seen)
        except HymtError as error:
            tally.fail([f"I14: ends with {error.exit_code}: {error}"], f"killed at {copy.at}")
            continue
        fs.before = None
        for promise in promises[:1]:
            lost = promise.fs.after_power_loss().tree()
            tally.fail(broken_after_crash(lost, world, promise.acknowledged), f"killed at {copy.at}")
        for name, left in fs.survivors(rng, 8):
            tally.fail(
                broken_after_crash(left.tree(), world, frozenset(seen.acknowledged)),
                f"killed at {copy.at}, ended: {name}",
            )
        tally.fail(no_op(fs.after_power_loss(), world), f"killed at {copy.at}, ended")


@harness("take-over")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(folder, rng, tally, worlds.one_file, Zombies, size)
    worlds.explore(folder, rng, tally, worlds.without_lease, Zombies, 2 * size)


@harness("redo")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    for num_steps in (*worlds.REDO_STEPS, worlds.REDO_STEPS[0]):
        worlds.explore(folder, rng, tally, partial(worlds.redo, num_steps=num_steps), Explorer, size // 4)


class TakenOverInTakes(Zombies):
    """Another run takes over while the first one takes a state folder away, or gives one a new name."""

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        fs, moments = self.begin(), list[int]()
        start, rename = fs.count, fs.rename

        def noted(source: Path, target: Path) -> None:
            if not source.name.startswith(".tmp-"):
                moments.append(fs.count + 1 - start)
            rename(source, target)

        fs.rename = noted  # type: ignore[method-assign]
        run(fs, self.world, Seen())
        self.moments = moments
        return super().histories()


@harness("update")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    for _ in range(3):
        worlds.explore(folder, rng, tally, worlds.update, Explorer, size // 3)
    worlds.explore(folder, rng, tally, worlds.update, TakenOverInTakes, size)


@harness("retired")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    for _ in range(3):
        worlds.explore(folder, rng, tally, worlds.update_retired, Explorer, size)


@harness("damage")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(folder, rng, tally, worlds.a_damaged_part, Explorer, size // 4)
    worlds.explore(folder, rng, tally, worlds.a_damaged_record, Explorer, size // 4)
    worlds.corrupt(folder, rng, tally, size)


@harness("long row")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(folder, rng, tally, worlds.a_long_row, Explorer, size)
    worlds.explore(folder, rng, tally, worlds.a_damaged_run, Explorer, size // 2)
    worlds.explore(folder, rng, tally, worlds.a_long_row_redone, Explorer, size // 2)
    worlds.explore(folder, rng, tally, worlds.a_long_row_without_lease, Zombies, size)


@harness("units")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(folder, rng, tally, worlds.a_unit, Explorer, size, power=False)
    worlds.explore(folder, rng, tally, worlds.a_unit_redone, Explorer, size // 2)
    worlds.explore(folder, rng, tally, worlds.a_long_row_in_a_unit, Explorer, size // 2)


@harness("failed file")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    fails_after_its_end = partial(worlds.a_file_that_failed, now="not of its format", num_steps=1000)
    for make_world in (worlds.a_failed_file, fails_after_its_end, worlds.a_file_that_failed):
        worlds.explore(folder, rng, tally, make_world, Explorer, size // 2)


@harness("tasks")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """Prepare, translate in tasks, merge; and merge at first while the shards of a task are missing."""
    world = make("a missing task", folder, rng, files=3, tasks=2)
    solve(world)
    fs = SimFS()
    try:
        run_prepared(fs, world, Seen(), tasks_to_run=1)
        tally.fail(["I14: a merge ends while shards are missing"], world.name)
    except MissingError:
        if published := set(final_bytes(fs)):
            tally.fail([f"I4: a merge that refuses publishes {published}"], world.name)
    except HymtError as error:
        tally.fail([f"I14: ends with {error.exit_code}: {error}"], world.name)
    tally.counts["merges with a missing shard"] += 1
    worlds.explore(folder, rng, tally, worlds.prepared, Explorer, size // 2)
    worlds.explore(folder, rng, tally, worlds.prepared_files, Explorer, size, power=False)
    worlds.explore(folder, rng, tally, worlds.prepared_without_claims, Zombies, size // 2)


@harness("pass")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    for translates_first in (False, True):
        make_world = partial(worlds.a_pass, translates_first=translates_first)
        worlds.explore(folder, rng, tally, make_world, Explorer, size // 2)
        worlds.explore(folder, rng, tally, make_world, Zombies, size // 2)


@harness("groups")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """Jobs whose state lies in groups: their published bytes are those of the same jobs without groups."""
    for make_flat in (worlds.two_files, worlds.update, worlds.prepared_files):
        seed, made = rng.random(), []
        for make_world in (make_flat, worlds.grouped(make_flat)):
            try:
                ids_from(1)
                solve(world := make_world(folder, random.Random(seed)))
                made.append(world.golden)
            except HymtError as error:
                tally.fail([f"I14: ends with {error.exit_code}: {error}"], make_flat.__name__)
        if made[:1] != made[1:]:
            tally.fail(["I3: an unbroken run in groups publishes other bytes"], make_flat.__name__)
        for _ in range(2):
            worlds.explore(folder, rng, tally, worlds.grouped(make_flat), Explorer, size // 2)
    worlds.explore(folder, rng, tally, worlds.grouped(worlds.update), TakenOverInTakes, size // 2)


@harness("another job")
def _(folder: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """Run a job with different settings in a folder at any moment: it is refused and changes no file."""
    seed = rng.random()
    world = make("another job", folder, random.Random(seed))
    solve(world)
    other_world = make("another job", folder, random.Random(seed))
    other_world.identity = {**world.identity, "decode": {"method": "other"}}
    for _ in range(max(1, size // 20)):
        fs = SimFS()
        part_way(fs, world, rng.choice([40, 60, 80, 1000]))
        if "/job/.hymt/job.json" not in fs.tree():
            continue
        tally.counts["other jobs"] += 1
        before = final_bytes(fs)
        try:
            run(fs, other_world, Seen())
            tally.fail(["I4: a job continues in the folder of a different job"], str(HOME))
        except IdentityError:
            if final_bytes(fs) != before:
                tally.fail(["I4: a refused job changes published files"], str(HOME))


def run_harness(name: str | None, harness: str, folder: Path, seed: int, size: int) -> Tally:
    """Run a harness with the seeded bug `name` (None: without a bug) and return its tally."""
    tally = Tally()
    with simulated(), MUTANTS[name]() if name else contextlib.nullcontext():
        HARNESSES[harness](folder, random.Random(seed), tally, size)
    return tally


def table(folder: Path, seed: int, size: int) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Return a Markdown table of the violations of each harness for each bug, with the invariants, and the counts."""
    lines = [f"| seeded bug | {' | '.join(HARNESSES)} |", f"|---|{'---|' * len(HARNESSES)}"]
    figures: dict[str, dict[str, int]] = {}
    for name in (None, *MUTANTS):
        cells = []
        for harness in HARNESSES:
            tally = run_harness(name, harness, folder, seed, size)
            num_violations = sum(tally.kinds.values())
            figures.setdefault(name or "none", {})[harness] = num_violations
            cells.append(
                f"{num_violations} ({', '.join(sorted(tally.kinds, key=lambda i: int(i[1:])))})"
                if num_violations
                else "0"
            )
        lines.append(f"| {name or 'none'} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)  # progress: the table takes some minutes
    return lines, figures
