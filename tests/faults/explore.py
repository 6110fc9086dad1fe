"""Explores what crashes leave of small jobs, recovers it with the real code, and names the invariant that breaks.

A run is copied at each of its changes: the copies are where a process may have been killed, and `SimFS.survivors` of
them what a power loss may have left. Each such state is judged as it lies there, then the job runs in it again; that
run is copied in its turn (a second and a third crash). A state that was met before in the same exploration, with the
same promises to keep, is counted as a repeat and not tried again: `states` are distinct.

Invariants, by their numbers in RELIABILITY.md: I1 I2 I3 I4 I5 I6 I7 I8 I9 I11 I12 I13 I14 I17 I18.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hymt_batch import manifest
from hymt_batch.errors import ExitCode, HymtError
from hymt_batch.write import part as parts

from .simfs import Crash, SimFS
from .small import HALF_MADE, PART, Seen, World, final_bytes, ids_from, run, run_again

ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT, errno.ENOENT, errno.EEXIST, errno.EROFS)
MOST_SHOWN = 20
THEIRS = ("/job/translated/", "/job/set_aside/")


@dataclass
class Tally:
    """What was tried and what broke."""

    counts: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)  # how far the job was at the crash
    worlds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)  # broken, by invariant
    met: set[int] = field(default_factory=set)

    def fail(self, what: Iterable[str], where: str) -> None:
        for one in what:
            self.kinds[one.split(":")[0]] += 1
            if len(self.broken) < MOST_SHOWN:
                self.broken.append(f"{one} [{where}]")

    @property
    def states(self) -> int:
        return self.counts["states"]


@dataclass
class Copy:
    """A run as it was before one of its changes."""

    fs: SimFS
    acknowledged: frozenset[str]
    at: int


def copying(fs: SimFS, seen: Seen, wanted: Callable[[int], bool]) -> list[Copy]:
    """Copies will be in the list once the store was used; their changes are counted from now on."""
    copies: list[Copy] = []
    start = fs.count

    def before(now: SimFS) -> None:
        if wanted(now.count - start):
            copies.append(Copy(now.after_kill(), frozenset(seen.acknowledged), now.count - start))

    fs.before = before
    return copies


_judged: dict[bytes, bool] = {}


def whole_part(data: bytes) -> bool:
    if data not in _judged:
        if len(_judged) > 10_000:
            _judged.clear()
        try:
            parts.decode(data)
            _judged[data] = True
        except parts.PartDamagedError:
            _judged[data] = False
    return _judged[data]


def phase(tree: dict[str, bytes | None]) -> str:
    if "/job/manifest.json" in tree:
        return "5 collecting parts"
    if any(path.startswith("/job/translated/") and not HALF_MADE.search(path) for path in tree):
        return "4 file published"
    if any(map(PART.fullmatch, tree)):
        return "3 some parts"
    return "2 no part yet" if "/job/.hymt/job.json" in tree else "1 before the job's identity"


def lying(tree: dict[str, bytes | None], world: World, acknowledged: Iterable[str]) -> list[str]:
    """What a state breaks as it lies there after a crash."""
    broken = [f"I11: {path} is outside of the folder" for path in tree if path != "/job" and path[:5] != "/job/"]
    for path, wanted in world.golden.items():
        data = tree.get(path)
        if data is not None and data not in (wanted, world.older.get(path)):
            broken.append(f"I1: {path} is visible and wrong")
    if world.edited is not None and world.edited not in (d for p, d in tree.items() if p.startswith(THEIRS)):
        broken.append("I18: what somebody wrote into translated/ is gone")
    complete = tree.get("/job/manifest.json")
    if complete is not None and world.lasting:
        broken += unproved(complete, tree, world)
    for path, data in tree.items():
        if PART.fullmatch(path) and data not in (None, world.damaged) and not whole_part(data or b""):
            broken.append(f"I2: {path} is visible and not whole")
    if complete != world.golden["/job/manifest.json"]:
        for name in acknowledged:
            held = tree.get(world.places[name])
            if held is None or not whole_part(held):
                broken.append(f"I5: {name} was acknowledged and is gone")
    return broken


def unproved(complete: bytes, tree: dict[str, bytes | None], world: World) -> list[str]:
    """What a manifest says and the folder does not show."""
    try:
        told = manifest.unseal(complete)
    except manifest.StateDamagedError as damage:
        return [f"I12: a visible manifest is damaged: {damage}"]
    broken = []
    for file in [*told["outputs"], *told["errors"]]:
        data = tree.get(f"/job/{file['path']}")
        if data is not None and data == world.edited:
            continue  # it was changed after the manifest was written
        if data is None or hashlib.sha256(data).hexdigest() != file["sha256"]:
            broken.append(f"I12: the manifest is there before {file['path']}")
    return broken


def finished(fs: SimFS, world: World) -> list[str]:
    """What a folder breaks after its job said that it is complete."""
    found, broken = final_bytes(fs), []
    if found != world.golden:
        for path in sorted({*found, *world.golden}):
            if found.get(path) != world.golden.get(path):
                rows = json.loads(found[path]).get("rows") if path.endswith("manifest.json") and path in found else None
                right = json.loads(world.golden["/job/manifest.json"])["rows"]
                which = "I3: rows are counted twice or lost" if rows not in (None, right) else "I7: other bytes"
                broken.append(f"{which}: {path}")
    elif world.lasting and final_bytes(fs.after_power_loss("empty")) != found:
        broken.append("I5: a power loss after the end takes what was published")
    return broken


def astray(fs: SimFS, world: World) -> list[str]:
    """What set_aside/ holds beyond what somebody wrote: a job's own files do not pile up there."""
    kept = [path for path, data in fs.tree().items() if path.startswith("/job/set_aside/") and data is not None]
    if world.edited is None or not world.lasting:
        return []
    return [] if len(kept) == 1 else [f"I18: {kept} are set aside"]


def untidy(fs: SimFS, world: World) -> list[str]:
    """What a folder holds beyond what a finished job needs: it must not grow with every kill."""
    return [f"I13: {path} was left behind" for path in fs.tree() if HALF_MADE.search(path)] if world.tidy else []


def recover(fs: SimFS, world: World, seen: Seen, acknowledged: frozenset[str], ids: int) -> list[str]:
    """Run the job again in a state, and judge the end; `seen` is what this run does."""
    kept = set(acknowledged)
    ids_from(ids)
    try:
        run_again(fs, world, seen)
    except HymtError as error:
        if not world.lasting and error.exit_code is ExitCode.IDENTITY:  # its state is gone, and its output is not
            return mended(fs, world, 20_000 + ids)
        return [f"I14: ends with {error.exit_code}: {str(error).splitlines()[0]}"]
    except Exception as error:
        return [f"I9: {error!r}"]
    broken = finished(fs, world) + untidy(fs, world) + astray(fs, world)
    if world.lasting and not world.options.get("overwrite") and (again := seen.decoded & kept):
        broken.append(f"I6: made again: {sorted(again)}")
    return broken


def mended(fs: SimFS, world: World, ids: int) -> list[str]:
    """A folder that was damaged gives the right bytes, or is refused (exit 3) and gives them under overwrite=true."""
    ids_from(ids)
    for overwrites in (False, True):
        try:
            run(fs, world, Seen(), overwrite=overwrites)
            return [one.replace("I7:", "I4:") for one in finished(fs, world)]
        except HymtError as error:
            if overwrites or error.exit_code is not ExitCode.IDENTITY:
                return [f"I14: ends with {error.exit_code}: {str(error).splitlines()[0]}"]
        except Exception as error:
            return [f"I9: {error!r}"]
    raise AssertionError("unreachable")


def no_op(fs: SimFS, world: World) -> list[str]:
    """A finished job that runs once more must change nothing that is published."""
    ids_from(50_000)  # of no other run
    seen, before = Seen(), {path: fs.stat_of(path) for path in world.golden}
    try:
        run(fs, world, seen, overwrite=False)
    except Exception as error:
        return [f"I13: a finished job ends with {error!r}"]
    broken = [f"I13: a finished job decodes {sorted(seen.decoded)}"] if seen.decoded else []
    if before != {path: fs.stat_of(path) for path in world.golden}:
        broken.append("I13: a finished job is published again")
    return broken


class Explorer:
    """Crashes of one world: at each change `most` states, at `wide` changes of each recovery two more, and so on."""

    most = 12
    wide: tuple[int, ...] = (8, 2)

    def __init__(self, world: World, rng: random.Random, tally: Tally) -> None:
        self.world, self.rng, self.tally = world, rng, tally
        tally.met.clear()
        self.length = 120  # changes of a run, about; learned

    def explore(self, limit: int, *, power: bool = True) -> None:
        """Every change of the job is a crash, by kill and (with `power`) by power loss; stops after `limit` states."""
        self.left, self.power = limit, power
        for copies, told in self.histories():
            self.rng.shuffle(copies)
            for copy in copies:
                self.crash(copy, told, 1, kills=not power or self.rng.random() < 0.2, power=power)
                if self.left <= 0:
                    return

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        """Runs that end by themselves, with a copy of each change."""
        fs, seen = self.begin(), Seen()
        copies = copying(fs, seen, lambda at: True)
        try:
            run(fs, self.world, seen)
        except HymtError as error:
            self.tally.fail([f"I14: an unbroken run ends with {error}"], self.world.name)
            return
        fs.before = None
        self.length = fs.count - self.world.start.count
        self.tally.fail(finished(fs, self.world), f"{self.world.name}, unbroken")
        copies.append(Copy(fs, frozenset(seen.acknowledged), self.length + 1))
        yield copies, self.world.name

    def begin(self) -> SimFS:
        ids_from(1)
        fs = self.world.start.after_kill()
        if self.world.stale:
            fs.stale = random.Random(self.rng.random())
        return fs

    def crash(self, copy: Copy, told: str, depth: int, *, kills: bool = True, power: bool = True) -> None:
        where = f"{told} | crash {depth} at {copy.at}"
        acknowledged = copy.acknowledged if self.world.lasting else frozenset[str]()
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
        tally.fail(lying(tree, world, acknowledged), where)
        seen = Seen(acknowledged=set(acknowledged))
        copies: list[Copy] = []
        if depth <= len(self.wide):
            wanted = {self.rng.randint(1, self.length) for _ in range(self.wide[depth - 1])}
            copies = copying(fs, seen, wanted.__contains__)
        if world.stale:
            fs.stale = random.Random(self.rng.random())
        tally.fail(recover(fs, world, seen, acknowledged, 1000 * depth), where)
        fs.before = None
        if self.rng.random() < 0.03:
            tally.counts["runs of a finished job"] += 1
            tally.fail(no_op(fs.after_power_loss() if world.lasting else fs, world), where)
        for copy in copies:
            if self.left > 0:
                self.crash(copy, where, depth + 1, kills=not self.power or self.rng.random() < 0.2, power=self.power)


class Erring(Explorer):
    """As above, where one or two calls fail on the way: some before they happen, some after."""

    most, wide = 3, (1, 1)

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
            told = f"{self.world.name}, errors {fs.errors}"
            wanted = {self.rng.randint(1, self.length) for _ in range(4)}
            copies = copying(fs, seen, wanted.__contains__)
            self.tally.counts["runs with errors"] += 1
            try:
                run(fs, self.world, seen)
                self.tally.fail(finished(fs, self.world), told)
            except HymtError as error:
                self.tally.counts["stopped by an error"] += 1
                if error.exit_code not in (ExitCode.STOPPED, ExitCode.PREFLIGHT, ExitCode.IDENTITY):
                    self.tally.fail([f"I14: ends with {error.exit_code}: {error}"], told)
            except Exception as error:
                self.tally.fail([f"I9: {error!r}"], told)
            fs.before = None
            copies.append(Copy(fs, frozenset(seen.acknowledged), fs.count))
            yield copies, told


class Zombies(Explorer):
    """As above, where a second run takes over at some change of the first, which then goes on: stopped, not dead."""

    most, wide = 3, (1, 1)

    def histories(self) -> Iterable[tuple[list[Copy], str]]:
        for _ in range(10**9):
            at, dies_at = self.rng.randint(1, self.length), self.rng.choice([None, self.rng.randint(1, self.length)])
            told = f"{self.world.name}, another runs at {at}" + (f" and dies after {dies_at}" if dies_at else "")
            fs, seen, second = self.begin(), Seen(), Seen()
            start = fs.count
            copies: list[Copy] = []
            wanted = {self.rng.randint(at + 1, at + self.length) for _ in range(3)}

            def before(
                now: SimFS,
                at: int = at,
                dies_at: int | None = dies_at,
                start: int = start,
                seen: Seen = seen,
                second: Seen = second,
                copies: list[Copy] = copies,
                wanted: set[int] = wanted,
                told: str = told,
            ) -> None:
                number = now.count - start
                if number in wanted:
                    copies.append(Copy(now.after_kill(), frozenset(seen.acknowledged | second.acknowledged), number))
                if number == at:
                    now.crash_at = now.count + dies_at if dies_at else None
                    count = now.count
                    self.other(now, second, told)
                    ids_from(700)
                    now.crash_at, now.dead, now.count = None, False, max(now.count, count)

            fs.before = before
            ended = self.outcome(fs, seen, told)
            fs.before = None
            self.tally.counts["runs taken over"] += 1
            self.tally.counts[f"runs taken over that {ended}"] += 1
            copies.append(Copy(fs, frozenset(seen.acknowledged | second.acknowledged), fs.count - start))
            yield copies, told

    def other(self, fs: SimFS, seen: Seen, told: str) -> None:
        ids_from(500)
        try:
            run(fs, self.world, seen)
            self.tally.fail(lying(fs.tree(), self.world, seen.acknowledged), told)
        except Crash:
            pass
        except Exception as error:
            self.tally.fail([f"I8: the second run ends with {error!r}"], told)

    def outcome(self, fs: SimFS, seen: Seen, told: str) -> str:
        try:
            run(fs, self.world, seen)
        except HymtError as error:
            if error.exit_code is not ExitCode.STOPPED or self.world.ttl_s == 0:
                self.tally.fail([f"I8: the first run ends with {error.exit_code}: {error}"], told)
            return "stopped"
        except Exception as error:
            self.tally.fail([f"I8: the first run ends with {error!r}"], told)
            return "failed"
        found = final_bytes(fs)
        if found != self.world.golden:
            self.tally.fail(["I8: two runs make other bytes"], told)
        return "ended"
