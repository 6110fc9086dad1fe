"""Bugs of the protocol, each seeded into the real code for as long as a context lasts; and the harnesses to find them.

A harness that never fails proves nothing: each of these bugs must be seen by at least one. `HARMLESS` must be seen by
none: the lease saves work and protects nothing.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import HymtError, IdentityError
from hymt_batch.records import Input, Part, Row, Shard, ShardRecord
from hymt_batch.write import cleanup, lease, output, part_store, published_file, set_aside
from hymt_batch.write import part as parts
from hymt_batch.write.output import Output
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.part_store import PartStore
from hymt_batch.write.storage import DurableFolders

from . import upper, worlds
from .explore import Erring, Explorer, Tally, Zombies, copying, lying, no_op
from .simfs import SimFS
from .small import HOME, Seen, World, final_bytes, ids_from, make, part_way, run, simulated, solve

Mutant = Callable[[], contextlib.AbstractContextManager[None]]
Harness = Callable[[Path, random.Random, Tally, int], None]
MUTANTS: dict[str, Mutant] = {}
HARNESSES: dict[str, Harness] = {}


@contextlib.contextmanager
def changed(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    before = [where.__dict__[name] for where, name, _ in changes]
    for where, name, new in changes:
        setattr(where, name, new)
    try:
        yield
    finally:
        for (where, name, _), old in zip(changes, before, strict=True):
            setattr(where, name, old)


def mutant(name: str) -> Callable[[Mutant], Mutant]:
    def add(make: Mutant) -> Mutant:
        MUTANTS[name] = make
        return make

    return add


def harness(name: str) -> Callable[[Harness], Harness]:
    def add(one: Harness) -> Harness:
        HARNESSES[name] = one
        return one

    return add


class Through:
    """A store of which some operations are replaced."""

    def __init__(self, fs: Any, **replaced: Any) -> None:
        self.fs, self.replaced = fs, replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.fs, name)


# the bugs


@mutant("a file is not synced")
def _() -> Any:
    def settle(self: files.NewFile) -> str:
        fd, self._fd = self._flush(), None
        self._fs.close(fd)
        self._synced = True
        return self._sha.hexdigest()

    return changed((files.NewFile, "sync_and_close", settle))


@mutant("a folder is not synced")
def _() -> Any:
    return changed((SimFS, "fsync_dir", lambda self, path: True))


@mutant("a new folder is not synced in the one above")
def _() -> Any:
    right = DurableFolders.ensure

    def ensure(self: DurableFolders, path: Path) -> None:
        store, self._fs = self._fs, Through(self._fs, fsync_dir=lambda path: True)
        try:
            right(self, path)
        finally:
            self._fs = store

    return changed((DurableFolders, "ensure", ensure))


@mutant("a part counts before its folder is synced")
def _() -> Any:
    right = PartStore._publish

    def publish(self: PartStore, *rest: Any) -> bool:
        store, self._fs = self._fs, Through(self._fs, fsync_dir=lambda path: True)
        try:
            return right(self, *rest)
        finally:
            self._fs = store

    return changed((PartStore, "_publish", publish))


@mutant("a part that is found is taken as durable")
def _() -> Any:
    right = PartReader.load

    class All(set[Path]):
        def __contains__(self, path: object) -> bool:
            return True

    def load(self: PartReader, *rest: Any) -> Any:
        self._synced_folders = All()
        return right(self, *rest)

    return changed((PartReader, "load", load))


@mutant("the names of published files are not synced before the manifest")
def _() -> Any:
    return changed((Output, "_published_folders", lambda self, one: iter(())))


@mutant("a part is trusted without its checksum")
def _() -> Any:
    def decode(data: bytes) -> Any:
        line, _, payload = data.partition(b"\n")
        return parts.decode_header(line), [parts._decode_row(one) for one in payload.split(b"\n")[:-1]]

    return changed((parts, "decode", decode))


@mutant("a done flag is trusted")
def _() -> Any:
    right_commit, right_has = PartStore.commit, PartStore.has

    def flag(self: PartStore, shard: Shard, part: Part) -> Path:
        path = self._reader.path(shard.input.file_id, shard.index, part.index)
        return path.with_name(f"done-{path.name}")

    def commit(self: PartStore, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        path = flag(self, shard, part)
        self._folders.ensure(path.parent)
        if files.stat_or_none(self._fs, path) is None:
            files.write_new(self._fs, path, b"done")
        right_commit(self, shard, part, rows, degraded)

    def has(self: PartStore, shard: Shard, part: Part) -> bool:
        if files.stat_or_none(self._fs, flag(self, shard, part)) is None:
            return right_has(self, shard, part)
        self._mark_committed(shard, part)
        return True

    return changed((PartStore, "commit", commit), (PartStore, "has", has))


@mutant("a published file is trusted by its record")
def _() -> Any:
    return changed((published_file, "is_intact", lambda fs, folder, record: True))


@mutant("parts are collected before the manifest")
def _() -> Any:
    right = Output.finalize

    def finalize(self: Output) -> Any:
        for one in self._inputs:
            cleanup.remove_parts(self._fs, manifest.file_state_folder(self.folder, one.file_id))
        return right(self)

    return changed((Output, "finalize", finalize))


@mutant("the manifest is written first")
def _() -> Any:
    right, assemble = Output.finish_skipped_shard, published_file.assemble

    def finish_record(self: Output, one: Input, record: ShardRecord) -> None:
        def wrong(fs: Any, place: Path, job: Any) -> Any:
            later: list[tuple[Path, Path]] = []

            def rename(source: Path, target: Path) -> None:
                hidden = target.parent.name in ("translated", "errors")
                later.append((source, target)) if hidden else fs.rename(source, target)

            made = assemble(Through(fs, rename=rename), place, job)
            files.write_atomic(fs, place / "manifest.json", manifest.build(self._job, [made]))
            for source, target in later:
                fs.rename(source, target)
            return made

        with changed((published_file, "assemble", wrong)):
            right(self, one, record)

    return changed((Output, "finish_skipped_shard", finish_record))


@mutant("a manifest stays while its files are rebuilt")
def _() -> Any:
    def remove(fs: Any, path: Path) -> None:
        if path.name != "manifest.json":
            files.remove(fs, path)

    return changed((output, "remove", remove))


@mutant("a file is written in place")
def _() -> Any:
    return changed((published_file, "tmp_path", lambda path: path))


@mutant("a temporary name is used again")
def _() -> Any:
    same = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="0" * 32))
    return changed((part_store, "uuid", same), (published_file, "uuid", same))


@mutant("every temporary file is deleted at the start")
def _() -> Any:
    right = Output.open.__func__  # type: ignore[attr-defined]

    def open(cls: Any, /, place: Path, **options: Any) -> Any:
        cleanup.remove_leftovers(options["fs"], place, options["inputs"])
        return right(cls, place, **options)

    return changed((Output, "open", classmethod(open)))


@mutant("a job resumes by counting its parts")
def _() -> Any:
    def has(self: PartStore, shard: Shard, part: Part) -> bool:
        found = sum(1 for _ in self._reader.part_indexes(shard.input.file_id, shard.index)) > part.index
        if found:
            self._mark_committed(shard, part)
        return found

    return changed((PartStore, "has", has))


@mutant("the plan depends on the parts that exist")
def _() -> Any:
    right = World.parts

    def planned(self: World, rel: str, shard: Shard, output: Output) -> list[Part]:
        if output._part_store._reader.has_any(shard.input.file_id):
            return upper.plan(shard, self.part_rows + 1)
        return right(self, rel, shard, output)

    return changed((World, "parts", planned))


@mutant("identity is ignored")
def _() -> Any:
    return changed((manifest, "diff", lambda old, new: []))


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

    return changed((files.NewFile, "sync_and_close", settle))


@mutant("a changed file is replaced without a copy")
def _() -> Any:
    return changed((set_aside, "preserve_foreign", lambda *_: None))


@mutant("a changed file is replaced before its copy is durable")
def _() -> Any:
    right = set_aside._preserve

    def keep(fs: Any, *rest: Any) -> Path:
        return right(Through(fs, fsync_dir=lambda path: True), *rest)

    return changed((set_aside, "_preserve", keep))


# what must see which; the others may
SEEN_BY = {
    "a file is not synced": "power loss",
    "a folder is not synced": "power loss",
    "a new folder is not synced in the one above": "power loss",
    "a part counts before its folder is synced": "power loss",
    "a part that is found is taken as durable": "kill, then power loss",
    "the names of published files are not synced before the manifest": "kill, then power loss",
    "a part is trusted without its checksum": "damage",
    "a done flag is trusted": "kill",
    "a published file is trusted by its record": "damage",
    "parts are collected before the manifest": "kill",
    "the manifest is written first": "kill",
    "a manifest stays while its files are rebuilt": "redo",
    "a file is written in place": "kill",
    "a temporary name is used again": "take-over",
    "every temporary file is deleted at the start": "take-over",
    "a job resumes by counting its parts": "damage",
    "the plan depends on the parts that exist": "power loss",
    "identity is ignored": "another job",
    "a failed sync is tried again on the same file": "storage errors",
    "a changed file is replaced without a copy": "edited file",
    "a changed file is replaced before its copy is durable": "edited file",
}
HARMLESS = "the lease is never checked"


@mutant(HARMLESS)
def _() -> Any:
    return changed((lease.Lease, "check", lambda self: None))


# the harnesses: each explores about so many states


def explore(make_world: worlds.Make, kind: type[Explorer], *, power: bool = True) -> Harness:
    def one(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
        worlds.explore(place, rng, tally, make_world, kind, size, power=power)

    return one


HARNESSES["kill"] = explore(worlds.one_file, Explorer, power=False)
HARNESSES["power loss"] = explore(worlds.one_file, Explorer)
HARNESSES["edited file"] = explore(worlds.an_edited_file, Explorer)
HARNESSES["storage errors"] = explore(worlds.one_file, Erring)


@harness("kill, then power loss")
def _(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """A job killed at any change, and run again: to its first promise, and to its end. Then the power goes."""
    world = make("kill, then power loss", place, rng)
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
            tally.fail(lying(lost, world, promise.acknowledged), f"killed at {copy.at}")
        for name, left in fs.survivors(rng, 8):
            tally.fail(lying(left.tree(), world, frozenset(seen.acknowledged)), f"killed at {copy.at}, ended: {name}")
        tally.fail(no_op(fs.after_power_loss(), world), f"killed at {copy.at}, ended")


@harness("take-over")
def _(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(place, rng, tally, worlds.one_file, Zombies, size)
    worlds.explore(place, rng, tally, worlds.without_lease, Zombies, 2 * size)


@harness("redo")
def _(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
    for _ in range(4):  # the old job was finished, or at one of two moments before
        worlds.explore(place, rng, tally, worlds.redo, Explorer, size // 4)


@harness("damage")
def _(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
    worlds.explore(place, rng, tally, worlds.a_damaged_part, Explorer, size // 4)
    worlds.corrupt(place, rng, tally, size)


@harness("another job")
def _(place: Path, rng: random.Random, tally: Tally, size: int) -> None:
    """A run with other settings in a folder at any moment is refused, and changes nothing."""
    seed = rng.random()
    world = make("another job", place, random.Random(seed))
    solve(world)
    other = make("another job", place, random.Random(seed))
    other.identity = {**world.identity, "decode": {"method": "other"}}
    for _ in range(max(1, size // 20)):
        fs = SimFS()
        part_way(fs, world, rng.choice([40, 60, 80, 1000]))
        if "/job/.hymt/job.json" not in fs.tree():
            continue
        tally.counts["other jobs"] += 1
        before = final_bytes(fs)
        try:
            run(fs, other, Seen())
            tally.fail(["I4: a job goes on in the folder of another"], str(HOME))
        except IdentityError:
            if final_bytes(fs) != before:
                tally.fail(["I4: a refused job changes what is published"], str(HOME))


def tried(name: str | None, harness: str, place: Path, seed: int, size: int) -> Tally:
    """A harness with a bug (None: with none) in the code."""
    tally = Tally()
    with simulated(), MUTANTS[name]() if name else contextlib.nullcontext():
        HARNESSES[harness](place, random.Random(seed), tally, size)
    return tally


def table(place: Path, seed: int, size: int) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Markdown of bugs against harnesses: violations, in brackets the invariants; and the same as numbers."""
    lines = [f"| seeded bug | {' | '.join(HARNESSES)} |", f"|---|{'---|' * len(HARNESSES)}"]
    figures: dict[str, dict[str, int]] = {}
    for name in (None, *MUTANTS):
        cells = []
        for one in HARNESSES:
            tally = tried(name, one, place, seed, size)
            found = sum(tally.kinds.values())
            figures.setdefault(name or "none", {})[one] = found
            cells.append(f"{found} ({', '.join(sorted(tally.kinds, key=lambda i: int(i[1:])))})" if found else "0")
        lines.append(f"| {name or 'none'} | {' | '.join(cells)} |")
    return lines, figures
