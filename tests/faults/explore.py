"""Explore the states that crashes leave of small jobs, recover each with the real code, and name broken invariants.

The file system of a run is copied before each of its changes. The copies are the states that a kill may leave, and
`SimFS.survivors` of a copy are the states that a power loss may leave. Each state is checked first as it is, then the
job runs in it again. That run is copied too, for a second and a third crash. A state that the same exploration reached
before, with the same acknowledged parts, counts as a repeat and is not tried again: `states` are distinct.

Invariants, by their numbers in RELIABILITY.md: I1 I2 I3 I4 I5 I6 I7 I8 I9 I11 I12 I13 I14 I17 I18.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.errors import ExitCode, HymtError
from hymt_batch.write import part as parts
from hymt_batch.write import row_record, segment_run
from hymt_batch.write.state_file import StateFileDamagedError
from tests.faults.simfs import Crash, EndlessRunError, SimFS
from tests.faults.small import (
    PART,
    RECORD,
    RUN,
    TAKEN,
    TEMPORARY,
    Seen,
    World,
    final_bytes,
    ids_from,
    run,
    run_again,
    text_again,
)

ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT, errno.ENOENT, errno.EEXIST, errno.EROFS)
MOST_SHOWN = 20
THEIRS = ("/job/translated/", "/job/set_aside/")


@dataclass
class Tally:
    """The numbers of states that were tried, and the invariants that broke."""

    counts: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)  # crashes, by the phase of the job
    worlds: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)  # of the job that crashed; see small.World.features
    broken: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)  # violations, by invariant
    met: set[int] = field(default_factory=set)

    def fail(self, violations: Iterable[str], where: str) -> None:
        for violation in violations:
            self.kinds[violation.split(":")[0]] += 1
            if len(self.broken) < MOST_SHOWN:
                self.broken.append(f"{violation} [{where}]")

    @property
    def states(self) -> int:
        return self.counts["states"]


@dataclass
class Copy:
    """The file system of a run before one of its changes."""

    fs: SimFS
    acknowledged: frozenset[str]
    at: int


def copying(fs: SimFS, seen: Seen, is_selected: Callable[[int], bool]) -> list[Copy]:
    """Return a list to which each later change that `wanted` accepts adds a copy; counts changes from this call on."""
    copies: list[Copy] = []
    start = fs.count

    def before(now: SimFS) -> None:
        if is_selected(now.count - start):
            copies.append(Copy(now.after_kill(), frozenset(seen.acknowledged), now.count - start))

    fs.before = before
    return copies


DECODERS: tuple[tuple[re.Pattern[str], Callable[[bytes], object]], ...] = (
    (PART, parts.decode),
    (RUN, segment_run.decode),
    (RECORD, row_record.decode),
)
_judged: dict[bytes, bool] = {}


def is_whole(data: bytes | None, decode: Callable[[bytes], object]) -> bool:
    """Return whether the bytes of a part or of a row record are there and intact."""
    if data is None:
        return False
    if data not in _judged:
        if len(_judged) > 10_000:
            _judged.clear()
        try:
            decode(data)
            _judged[data] = True
        except StateFileDamagedError:
            _judged[data] = False
    return _judged[data]


def is_kept(tree: dict[str, bytes | None], part_path: str) -> bool:
    """Return whether a part or run is there and intact, or the part of the run's row, or the record of its shard."""
    record_path = f"{part_path.rpartition('/')[0]}.rows"
    if is_whole(tree.get(part_path), segment_run.decode if "-r" in part_path else parts.decode):
        return True
    part_path = part_path.partition("-r")[0]
    return is_whole(tree.get(part_path), parts.decode) or is_whole(tree.get(record_path), row_record.decode)


def phase(tree: dict[str, bytes | None]) -> str:
    if "/job/manifest.json" in tree:
        return "5 manifest written"
    if any(path.startswith("/job/translated/") and not TEMPORARY.search(path) for path in tree):
        return "4 file published"
    if any(PART.fullmatch(path) or RECORD.fullmatch(path) for path in tree):
        return "3 some rows"
    return "2 no part yet" if "/job/.hymt/job.json" in tree else "1 before the job's identity"


def broken_after_crash(tree: dict[str, bytes | None], world: World, acknowledged: Iterable[str]) -> list[str]:
    """Return the invariants that a state breaks right after a crash, before any recovery."""
    tree = with_taken_folders(tree)
    broken = [f"I11: {path} is outside the job folder" for path in tree if path != "/job" and path[:5] != "/job/"]
    for path, expected in world.golden.items():
        data = tree.get(path)
        if data is not None and data not in (expected, world.older.get(path)):
            broken.append(f"I1: {path} is visible and wrong")
    if world.edited is not None and world.edited not in (d for p, d in tree.items() if p.startswith(THEIRS)):
        broken.append("I18: a user's change in translated/ is lost")
    broken += lost_outputs(tree, world)
    manifest_bytes = tree.get("/job/manifest.json")
    if manifest_bytes is not None and world.durable:
        broken += missing_outputs(manifest_bytes, tree, world)
        if manifest_bytes == world.golden["/job/manifest.json"]:
            stale = [f"/job/translated/{rel}" for rel in world.failed]
            broken += [f"I12: the manifest exists beside the earlier {path}" for path in stale if path in tree]
    for path, data in tree.items():
        decode = next((decode for pattern, decode in DECODERS if pattern.fullmatch(path)), None)
        if decode is not None and data not in (None, world.damaged) and not is_whole(data, decode):
            broken.append(f"I2: {path} is visible and incomplete")
    if world.keeps_rows or manifest_bytes != world.golden["/job/manifest.json"]:
        broken += [
            f"I5: {name} was acknowledged and is lost" for name in acknowledged if not is_kept(tree, world.places[name])
        ]
    broken += broken_passes(tree, world)
    for new, old in world.renamed.items():
        if world.durable and not any(path in tree for path in (new, old)):
            broken.append(f"I12: {old} is removed before {new} is there")
    return broken


def lost_outputs(tree: dict[str, bytes | None], world: World) -> list[str]:
    """Return the outputs that an update removed or replaced before they were retired."""
    kept = [data for path, data in tree.items() if path.startswith("/job/retired/")]
    return [
        f"I18: {path} is neither published nor retired"
        for path, data in world.retired.items()
        if tree.get(path) != data and data not in kept
    ]


def badly_retired(fs: SimFS, world: World) -> list[str]:
    """Return violations if retired/ has more or less than each output once, after the job."""
    files = [data for path, data in fs.tree().items() if path.startswith("/job/retired/") and data is not None]
    expected = [data for path, data in world.retired.items() if world.golden.get(path) != data]
    return [] if sorted(files) == sorted(expected) else [f"I18: {len(files)} files in retired/, not {len(expected)}"]


def with_taken_folders(tree: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Return a state with the folders that a process took in their places, where the next run puts them back."""
    taken = {TAKEN.sub(r"\1", path): data for path, data in tree.items() if TAKEN.match(path)}
    return {**taken, **tree}


def broken_passes(tree: dict[str, bytes | None], world: World) -> list[str]:
    """Return what is broken in a state by a pass that counts too early, or whose files are published too early."""
    if not world.retries or not world.durable:
        return []
    job = tree.get("/job/.hymt/job.json") or b""
    is_listed = b'"passes"' in job
    missing = [name for name, path in world.places.items() if not is_kept(tree, path)]
    broken = [f"I1: the pass is part of the job, and {name} is not recorded" for name in missing if is_listed]
    if not is_listed:
        broken += [
            f"I1: {path} has rows of a pass that is not part of the job"
            for path, expected in world.golden.items()
            if tree.get(path) == expected != world.older.get(path)
        ]
    return broken


def missing_outputs(manifest_bytes: bytes, tree: dict[str, bytes | None], world: World) -> list[str]:
    """Return the files that a manifest lists and the folder does not have."""
    try:
        record = manifest.unseal(manifest_bytes)
    except manifest.StateDamagedError as damage:
        return [f"I12: a visible manifest is damaged: {damage}"]
    broken = []
    for file in [*record["outputs"], *record["errors"], *record.get("review", ())]:
        data = tree.get(f"/job/{file['path']}")
        if data is not None and data == world.edited:
            continue  # a user changed it after the manifest was written
        if data is None or hashlib.sha256(data).hexdigest() != file["sha256"]:
            broken.append(f"I12: the manifest exists before {file['path']}")
    return broken


def broken_rows(world: World) -> list[str]:
    """Return the violations in the expected output itself: the unbroken run that made it may have a seeded bug."""
    broken = []
    record = json.loads(world.golden["/job/manifest.json"])
    if [file["rel"] for file in record.get("failed", ())] != world.failed:
        broken.append(f"I3: an unbroken run lists other failed files: {record.get('failed')}")
    if [file["rel"] for file in record["inputs"]] != [input.rel for input in world.inputs]:
        broken.append(f"I3: an unbroken run lists other inputs: {record['inputs']}")
    for input in world.inputs:
        path = f"/job/translated/{input.out_rel}"
        if input.rel in world.failed:
            if path in world.golden:
                broken.append(f"I3: an unbroken run writes {input.out_rel}, which has failed")
            continue
        if Path(input.out_rel).suffix != Path(input.rel).suffix:  # converted
            continue
        if input.format == "jsonl":
            written = [row["translation"] for row in _json_rows(world.golden[path])]
            if written != [_translation(row) for row in _json_rows(Path(input.path).read_bytes())]:
                broken.append(f"I3: an unbroken run writes other texts: {input.out_rel}")
            continue
        expected = Path(input.path).read_bytes().upper()
        if input.format == "text":
            expected = "".join(f"{_expected(d.text or '', world)}\n" for d in world.documents[input.rel]).encode()
        # in a unit of several files, each text ends with a digest of what was decoded together
        if re.sub(rb" [0-9a-f]{6}(?=\n)", b"", world.golden[path]) != expected:
            broken.append(f"I3: an unbroken run writes other rows: {input.out_rel}")
    return broken


def _expected(text: str, world: World) -> str:
    """Return the translation of a row of a text file: that of the pass, if there is one and it has one."""
    again = text_again(text) if world.retries else ""
    return again or ("" if text.startswith("empty") else text.upper())


def _json_rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line or b"{}") for line in data.splitlines()]


def _translation(row: dict[str, Any]) -> dict[str, str]:
    """Return the translations of a row with several text fields; a text that is none, or empty, has no translation."""
    texts = {name: row[name] for name in ("title", "body") if row.get(name) is not None}
    return {
        name: text.upper() if isinstance(text, str) and not text.startswith("empty") else ""
        for name, text in texts.items()
    }


def broken_when_complete(fs: SimFS, world: World) -> list[str]:
    """Return the invariants that a folder breaks after its job reported that it is complete."""
    published, broken = final_bytes(fs), broken_rows(world)
    if published != world.golden:
        for path in sorted({*published, *world.golden}):
            if published.get(path) != world.golden.get(path):
                rows = (
                    json.loads(published[path]).get("rows")
                    if path.endswith("manifest.json") and path in published
                    else None
                )
                expected_rows = json.loads(world.golden["/job/manifest.json"])["rows"]
                violation = (
                    "I3: rows are counted twice or lost"
                    if rows not in (None, expected_rows)
                    else "I7: the bytes differ"
                )
                broken.append(f"{violation}: {path}")
    elif world.durable and final_bytes(fs.after_power_loss("empty")) != published:
        broken.append("I5: a power loss after the end loses published files")
    return broken


def extra_set_aside(fs: SimFS, world: World) -> list[str]:
    """Return a violation if set_aside/ has more than the user's file: the job's own files must not pile up there."""
    set_aside = [path for path, data in fs.tree().items() if path.startswith("/job/set_aside/") and data is not None]
    if world.edited is None or not world.durable:
        return []
    return [] if len(set_aside) == 1 else [f"I18: {set_aside} are set aside"]


def leftovers(fs: SimFS, world: World) -> list[str]:
    """Return leftover files of a finished job: its folder must not grow with every kill."""
    return [f"I13: {path} was left behind" for path in fs.tree() if TEMPORARY.search(path)] if world.tidy else []


def recover(fs: SimFS, world: World, seen: Seen, acknowledged: frozenset[str], ids: int) -> list[str]:
    """Run the job again in a state and return the invariants that break; `seen` records what this run does."""
    acknowledged_before = set(acknowledged)
    ids_from(ids)
    try:
        run_again(fs, world, seen)
    except HymtError as error:
        if not world.durable and error.exit_code is ExitCode.IDENTITY:  # its state is lost and its output is not
            return recover_damaged(fs, world, 20_000 + ids)
        return [f"I14: ends with {error.exit_code}: {str(error).splitlines()[0]}"]
    except Exception as error:
        return [f"I9: {error!r}"]
    broken = broken_when_complete(fs, world) + leftovers(fs, world) + extra_set_aside(fs, world)
    broken += badly_retired(fs, world) if world.retired else []
    if world.renamed and seen.decoded:
        broken.append(f"I6: decoded for new output settings: {sorted(seen.decoded)}")
    if world.durable and not world.options.get("overwrite") and (decoded_again := seen.decoded & acknowledged_before):
        broken.append(f"I6: decoded again: {sorted(decoded_again)}")
    return broken


def recover_damaged(fs: SimFS, world: World, ids: int) -> list[str]:
    """Run a job in a damaged folder: the bytes are right, or exit is 3 and they are right with overwrite=true."""
    ids_from(ids)
    for overwrite in (False, True):
        try:
            run(fs, world, Seen(), overwrite=overwrite)
            return [violation.replace("I7:", "I4:") for violation in broken_when_complete(fs, world)]
        except HymtError as error:
            if overwrite or error.exit_code is not ExitCode.IDENTITY:
                return [f"I14: ends with {error.exit_code}: {str(error).splitlines()[0]}"]
        except Exception as error:
            return [f"I9: {error!r}"]
    raise AssertionError("unreachable")


def no_op(fs: SimFS, world: World) -> list[str]:
    """Run a finished job once more: it must not change any published file."""
    ids_from(50_000)  # ids that no other run uses
    seen, stats_before = Seen(), {path: fs.stat_of(path) for path in world.golden}
    try:
        run(fs, world, seen, overwrite=False)
    except Exception as error:
        return [f"I13: a finished job ends with {error!r}"]
    broken = [f"I13: a finished job decodes {sorted(seen.decoded)}"] if seen.decoded else []
    if stats_before != {path: fs.stat_of(path) for path in world.golden}:
        broken.append("I13: a finished job is published again")
    return broken


class Explorer:
    """Explores crashes of one world: up to `most` states at each change, two at `wide` changes of each recovery."""

    most = 12
    wide: tuple[int, ...] = (8, 2)

    def __init__(self, world: World, rng: random.Random, tally: Tally) -> None:
        self.world, self.rng, self.tally = world, rng, tally
        self.features = world.features
        tally.met.clear()
        self.length = 120  # approximate number of changes of a run; the first run sets it

    def explore(self, limit: int, *, power: bool = True) -> None:
        """Crash the job at every change, by kill and (with `power`) by power loss; stop after `limit` states."""
        self.left, self.power = limit, power
        for copies, history in self.histories():
            self.rng.shuffle(copies)
            for copy in copies:
                self.crash(copy, history, 1, kills=not power or self.rng.random() < 0.2, power=power)
                if self.left <= 0:
                    return

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        """Yield the copies of runs that end by themselves, with a description of the run."""
        fs, seen = self.begin(), Seen()
        copies = copying(fs, seen, lambda at: True)
        try:
            run(fs, self.world, seen)
        except (EndlessRunError, HymtError) as error:
            self.tally.fail([f"I14: an unbroken run ends with {error}"], self.world.name)
            return
        fs.before = None
        self.length = fs.count - self.world.start.count
        self.tally.fail(broken_when_complete(fs, self.world), f"{self.world.name}, unbroken")
        copies.append(Copy(fs, frozenset(seen.acknowledged), self.length + 1))
        yield copies, self.world.name

    def begin(self) -> SimFS:
        ids_from(1)
        fs = self.world.start.after_kill()
        if self.world.stale:
            fs.stale = random.Random(self.rng.random())
        return fs

    def crash(self, copy: Copy, history: str, depth: int, *, kills: bool = True, power: bool = True) -> None:
        where = f"{history} | crash {depth} at {copy.at}"
        acknowledged = copy.acknowledged if self.world.durable else frozenset[str]()
        if kills:
            self.state(copy.fs.after_kill(), acknowledged, f"{where}: killed", depth, "kills")
        if power:
            for name, fs in copy.fs.survivors(self.rng, self.most if depth == 1 else 2):
                self.state(fs, acknowledged, f"{where}: {name}", depth, "states")

    def state(self, fs: SimFS, acknowledged: frozenset[str], where: str, depth: int, kind: str) -> None:
        tree = fs.tree()
        key = hash((self.world.name, kind, acknowledged, frozenset(tree.items())))
        tally, world = self.tally, self.world
        if key in tally.met:
            tally.counts["repeats"] += 1
            return
        tally.met.add(key)
        tally.counts[kind] += 1
        self.left -= kind == "states" or not self.power
        tally.counts[f"{kind} after crash {depth}"] += 1
        tally.phases[phase(tree)] += 1
        tally.worlds[world.name] += 1
        tally.features.update(self.features)
        tally.fail(broken_after_crash(tree, world, acknowledged), where)
        seen = Seen(acknowledged=set(acknowledged))
        copies: list[Copy] = []
        if depth <= len(self.wide):
            indexes = {self.rng.randint(1, self.length) for _ in range(self.wide[depth - 1])}
            copies = copying(fs, seen, indexes.__contains__)
        if world.stale:
            fs.stale = random.Random(self.rng.random())
        tally.fail(recover(fs, world, seen, acknowledged, 1000 * depth), where)
        fs.before = None
        if self.rng.random() < 0.03:
            tally.counts["runs of a finished job"] += 1
            tally.fail(no_op(fs.after_power_loss() if world.durable else fs, world), where)
        for copy in copies:
            if self.left > 0:
                self.crash(copy, where, depth + 1, kills=not self.power or self.rng.random() < 0.2, power=self.power)


class Erring(Explorer):
    """Explorer of runs in which one or two calls fail, some before they take effect and some after."""

    most, wide = 3, (1, 1)

    @property
    def may_end_with(self) -> set[ExitCode]:
        """Exit codes of a run with errors. A pass whose job has a file that cannot be read refers to translate."""
        ends = {ExitCode.STOPPED, ExitCode.PREFLIGHT, ExitCode.IDENTITY}
        return ends | {ExitCode.MISSING} if self.world.retries else ends

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        fs = self.begin()
        run(fs, self.world, Seen())
        calls, syncs = fs.calls, fs.syncs
        for _ in range(10**9):
            fs, seen = self.begin(), Seen()
            fs.errors = {
                self.rng.choice([self.rng.randint(1, calls), self.rng.choice(syncs or [1])]): (
                    self.rng.choice(ERRORS),
                    self.rng.random() < 0.5,
                )
                for _ in range(self.rng.choice([1, 1, 2]))
            }
            history = f"{self.world.name}, errors {fs.errors}"
            indexes = {self.rng.randint(1, self.length) for _ in range(4)}
            copies = copying(fs, seen, indexes.__contains__)
            self.tally.counts["runs with errors"] += 1
            try:
                run(fs, self.world, seen)
                self.tally.fail(broken_when_complete(fs, self.world), history)
            except HymtError as error:
                self.tally.counts["stopped by an error"] += 1
                if error.exit_code not in self.may_end_with:
                    self.tally.fail([f"I14: ends with {error.exit_code}: {error}"], history)
            except Exception as error:
                self.tally.fail([f"I9: {error!r}"], history)
            fs.before = None
            copies.append(Copy(fs, frozenset(seen.acknowledged), fs.count))
            yield copies, history


class Zombies(Explorer):
    """Explorer of runs that another run takes over at some change; the first was only stopped, and continues later."""

    most, wide = 3, (1, 1)
    moments: Sequence[int] = ()  # the changes at which another run takes over; empty for any

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        for _ in range(10**9):
            at = self.rng.choice(self.moments or range(1, self.length + 1))
            dies_at = self.rng.choice([None, self.rng.randint(1, self.length)])
            history = f"{self.world.name}, another runs at {at}" + (f" and dies after {dies_at}" if dies_at else "")
            fs, seen, second = self.begin(), Seen(), Seen()
            start = fs.count
            copies: list[Copy] = []
            indexes = {self.rng.randint(at + 1, at + self.length) for _ in range(3)}

            def before(
                now: SimFS,
                at: int = at,
                dies_at: int | None = dies_at,
                start: int = start,
                seen: Seen = seen,
                second: Seen = second,
                copies: list[Copy] = copies,
                indexes: set[int] = indexes,
                history: str = history,
            ) -> None:
                index = now.count - start
                if index in indexes:
                    copies.append(Copy(now.after_kill(), frozenset(seen.acknowledged | second.acknowledged), index))
                if index == at:
                    now.crash_at = now.count + dies_at if dies_at else None
                    count = now.count
                    self.run_second(now, second, history)
                    ids_from(700)
                    now.crash_at, now.dead, now.count = None, False, max(now.count, count)

            fs.before = before
            ended = self.outcome(fs, seen, history)
            fs.before = None
            self.tally.counts["runs taken over"] += 1
            self.tally.counts[f"runs taken over that {ended}"] += 1
            copies.append(Copy(fs, frozenset(seen.acknowledged | second.acknowledged), fs.count - start))
            yield copies, history

    def run_second(self, fs: SimFS, seen: Seen, history: str) -> None:
        ids_from(500)
        try:
            run(fs, self.world, seen)
            self.tally.fail(broken_after_crash(fs.tree(), self.world, seen.acknowledged), history)
        except Crash:
            pass
        except Exception as error:
            self.tally.fail([f"I8: the second run ends with {error!r}"], history)

    def outcome(self, fs: SimFS, seen: Seen, history: str) -> str:
        try:
            run(fs, self.world, seen)
        except HymtError as error:
            if error.exit_code is not ExitCode.STOPPED or self.world.ttl_s == 0:
                self.tally.fail([f"I8: the first run ends with {error.exit_code}: {error}"], history)
            return "stopped"
        except Exception as error:
            self.tally.fail([f"I8: the first run ends with {error!r}"], history)
            return "failed"
        published = final_bytes(fs)
        if published != self.world.golden:
            self.tally.fail(["I8: the bytes of two runs differ"], history)
        return "ended"
