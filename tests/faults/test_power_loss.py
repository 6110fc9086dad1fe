"""Small jobs on a simulated file system: crash at every change, and recover every possible state with the real code.

`make faults` explores everything; these tests run a seeded sample of each world. test_mutants.py shows which bugs the
harness detects.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hymt_batch.errors import LeaseError, PreflightError, StoppedError
from hymt_batch.write import lease
from tests.faults import worlds
from tests.faults.explore import Explorer, Tally, broken_after_crash, copying
from tests.faults.simfs import Crash, SimFS
from tests.faults.small import HOME, Seen, World, final_bytes, holder, ids_from, in_groups, make, run, simulated, solve

FAULTS = {
    worlds.no_links: 28,
    worlds.no_dir_sync: 29,
    worlds.stale: 40,
    worlds.a_dead_lease: 44,
    worlds.a_damaged_part: 35,
    worlds.without_lease: 43,
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    with simulated():
        small_world = make("here", tmp_path, random.Random(7))
        solve(small_world)
    return small_world


@pytest.mark.parametrize(
    ("make_world", "kind"),
    [
        pytest.param(
            make_world, kind, marks=pytest.mark.fault(FAULTS.get(make_world, 34)), id=f"{kind.__name__}-{name}"
        )
        for make_world, kind in worlds.EXPLORED
        for name in [make_world.__name__]
    ],
)
@pytest.mark.fault(33, 34)
def test_a_crash_at_any_change_breaks_no_invariant(
    tmp_path: Path, make_world: worlds.Make, kind: type[Explorer]
) -> None:
    tally = Tally()
    with simulated():
        worlds.explore(tmp_path, random.Random(5), tally, make_world, kind, 100)
    assert not tally.broken
    assert tally.states >= 100
    assert tally.counts["states after crash 2"] > 10  # the recovery itself crashed too


@pytest.mark.fault(35, 36, 37, 39)
@pytest.mark.parametrize("groups", [contextlib.nullcontext, in_groups])
def test_a_job_whose_files_are_damaged_at_any_moment_ends_correctly_or_is_refused(
    tmp_path: Path, groups: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    tally = Tally()
    with simulated(), groups():
        worlds.corrupt(tmp_path, random.Random(5), tally, 400)
    assert not tally.broken
    assert tally.counts["damaged states"] == 400


@pytest.mark.fault(26)
@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOENT, errno.EIO])
@pytest.mark.parametrize("operation", ["link", "rename"])
def test_an_operation_that_succeeded_but_was_reported_as_failed_counts_once(
    world: World, operation: str, number: int
) -> None:
    class Liar(SimFS):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            if operation == "link":
                raise OSError(number, "reported as failed, but done", str(target))

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            if operation == "rename" and ".hymt/lease" not in str(target) and "probe-" not in str(target):
                raise OSError(number, "reported as failed, but done", str(target))

    class Probed(Liar):
        def link(self, source: Path, target: Path) -> None:
            if "probe-" in str(target) or "lease" in str(target):
                SimFS.link(self, source, target)
            else:
                super().link(source, target)

    fs, seen = Probed(), Seen()
    with simulated():
        run(fs, world, seen)
    assert final_bytes(fs) == world.golden
    assert seen.decoded == set(world.places)


@pytest.mark.fault(46)
def test_a_run_whose_lease_was_taken_over_publishes_nothing_more(world: World) -> None:
    """At each change of a first run, a second run takes over and finishes; then the first one continues."""
    ended, stopped = 0, 0
    with simulated():
        for at in range(1, 90):
            fs, seen = SimFS(), Seen()

            def before(now: SimFS, at: int = at) -> None:
                if now.count == at:
                    now.before = None
                    ids_from(500)
                    run(now, world, Seen())
                    ids_from(700)

            ids_from(1)
            fs.before = before
            try:
                run(fs, world, seen)
                ended += 1
            except StoppedError as error:
                assert "took it over" in str(error) or "its file was removed" in str(error)
                stopped += 1
            assert final_bytes(fs) == world.golden
    assert stopped > 30
    assert ended > 5


@pytest.mark.fault(45)
def test_only_one_of_two_processes_takes_over_a_stale_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process tries at each step of the first one's takeover; the one that lost the lease cannot commit."""
    refused = lost = 0
    with simulated():
        for at in range(1, 12):
            fs, dead, held = SimFS(), holder(), list[lease.Lease]()
            for path in ("/job", "/job/.hymt", "/job/.hymt/lease"):
                fs.mkdir(Path(path), 0o777)
            monkeypatch.setattr(lease, "is_alive", lambda holder_seen, me, dead=dead: holder_seen.owner != dead.owner)
            lease.acquire(fs, HOME, ttl_s=100.0, beat_s=20.0, me=dead)
            start = fs.count

            def before(now: SimFS, at: int = at, start: int = start, held: list[lease.Lease] = held) -> None:
                if now.count - start == at:
                    now.before = None
                    with contextlib.suppress(LeaseError):
                        held.append(lease.acquire(now, HOME, ttl_s=100.0, beat_s=20.0))

            fs.before = before
            try:
                held.append(lease.acquire(fs, HOME, ttl_s=100.0, beat_s=20.0))
            except LeaseError:
                refused += 1
            holding = 0
            for acquired in held:
                try:
                    acquired.check()
                    holding += 1
                except StoppedError:
                    lost += 1
            assert holding == 1, at
    assert refused >= 1
    assert lost >= 1


@pytest.mark.fault(49)
def test_leftovers_of_killed_runs_are_removed_by_the_next_run(world: World) -> None:
    """Including temporary lease files: a job that is requeued fifty times must not use more space."""
    with simulated():
        fs = SimFS()
        for run_index in range(50):
            ids_from(1000 * (run_index + 1))
            fs.crash_at = fs.count + 12  # while it acquires the lease
            with pytest.raises(Crash):
                run(fs, world, Seen())
            fs = fs.after_kill()
        fs.crash_at = None
        ids_from(900_000)
        run(fs, world, Seen())
    assert final_bytes(fs) == world.golden
    assert not [path for path in fs.tree() if ".tmp-" in path]


def test_a_failing_folder_listing_at_the_end_does_not_fail_a_complete_job(world: World) -> None:
    class Unlisted(SimFS):
        def listdir(self, path: Path) -> list[str]:
            if "/job/manifest.json" in self.tree():
                raise OSError(errno.EIO, "input/output error", str(path))
            return super().listdir(path)

    fs = Unlisted()
    with simulated():
        run(fs, world, Seen())
    assert final_bytes(fs) == world.golden


@pytest.mark.fault(22)
@pytest.mark.parametrize("times", [2, 1000])
def test_a_part_that_cannot_be_read_is_retried_before_it_is_quarantined(world: World, times: int) -> None:
    class Unreadable(SimFS):
        left = times

        def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
            if path.name == "p00000" and "s0000000" in str(path) and self.left:
                self.left -= 1
                raise OSError(errno.EIO, "input/output error", str(path))
            return super().read(path, start, size)

    seen = Seen()
    with simulated():
        for crash_at in range(40, 200):  # when the part is committed and its shard has no record yet
            fs = Unreadable(crash_at=crash_at)
            fs.left = 0
            with pytest.raises(Crash):
                run(fs, world, Seen())
            if any(path.endswith("s0000000/p00000") for path in fs.tree()):
                break
        assert not any(path.endswith("s0000000.rows") for path in fs.tree())
        fs.dead, fs.crash_at, fs.left = False, None, times
        ids_from(1000)
        first = sorted(world.places)[0]
        try:
            run(fs, world, seen)
        except StoppedError:
            fs.left = 0
            run(fs, world, seen)
    assert final_bytes(fs) == world.golden
    assert (first in seen.decoded) is (times > 2)


def test_probe_files_removed_by_a_takeover_are_reported_as_a_lost_lease(world: World) -> None:
    with simulated():
        for at in range(12, 40):
            fs = SimFS()

            def before(now: SimFS, at: int = at) -> None:
                if now.count == at:
                    now.before = None
                    ids_from(500)
                    run(now, world, Seen())

            ids_from(1)
            fs.before = before
            try:
                run(fs, world, Seen())
            except StoppedError as error:
                assert "the lease on" in str(error)
            except PreflightError as error:
                pytest.fail(f"{at}: {error}")
            assert final_bytes(fs) == world.golden


def test_a_manifest_left_unsynced_by_a_killed_run_is_synced_before_parts_are_removed(world: World) -> None:
    """Two runs without a lease: one is killed while it writes the manifest, the other finds the job complete."""
    world.ttl_s = 0.0
    num_survivors = 0
    with simulated():
        for dies_at in range(85, 150):
            fs, seen, start = SimFS(), Seen(), 28  # first run: folders are synced, nothing is read yet

            def before(now: SimFS, dies_at: int = dies_at, seen: Seen = seen, start: int = start) -> None:
                if now.count == start:
                    now.before, now.crash_at = None, now.count + dies_at
                    ids_from(500)
                    with contextlib.suppress(Crash):
                        run(now, world, seen)
                    now.dead, now.crash_at = False, None
                    ids_from(700)

            ids_from(1)
            fs.before = before
            run(fs, world, seen)
            for _, left in fs.survivors(random.Random(1), 20):
                assert not broken_after_crash(left.tree(), world, frozenset(seen.acknowledged)), dies_at
                num_survivors += 1
    assert num_survivors > 100


def test_a_redone_job_never_has_a_manifest_of_other_output(tmp_path: Path) -> None:
    with simulated():
        for seed in range(6):
            world = worlds.redo(tmp_path, random.Random(seed))
            solve(world)
            fs, seen = world.start.after_kill(), Seen()
            copies = copying(fs, seen, lambda at: True)
            run(fs, world, seen)
            for copy in copies:
                for _, left in copy.fs.survivors(random.Random(seed), 6):
                    assert not broken_after_crash(left.tree(), world, copy.acknowledged)


# the simulated file system itself


def _write(fs: SimFS, path: str, data: bytes, *, sync: bool) -> None:
    fd = fs.open_exclusive(Path(path))
    fs.write_all(fd, data)
    if sync:
        fs.fsync(fd)
    fs.close(fd)


def test_a_simulated_power_loss_removes_exactly_what_was_not_synced() -> None:
    fs = SimFS()
    _write(fs, "/synced", b"data", sync=True)
    fs.fsync_dir(Path("/"))
    _write(fs, "/nameless", b"data", sync=True)
    _write(fs, "/empty", b"data", sync=False)
    assert fs.after_power_loss().tree() == {"/synced": b"data"}
    assert fs.after_power_loss("half", (True, True)).tree() == {
        "/synced": b"data",
        "/nameless": b"data",
        "/empty": b"da",
    }
    assert fs.after_kill().tree() == fs.tree()
    states = {tuple(sorted(left.tree().items())) for _, left in fs.survivors(random.Random(0), 10**6)}
    assert len(states) == 2 * (1 + 6)  # `nameless` or not; `empty` missing or with one of six contents ("old" is empty)


def test_a_failed_sync_loses_the_bytes() -> None:
    fs = SimFS()
    fd = fs.open_exclusive(Path("/file"))
    fs.write_all(fd, b"data")
    fs.errors = {fs.calls + 1: (errno.EIO, False)}
    with pytest.raises(OSError, match="EIO"):
        fs.fsync(fd)
    fs.fsync(fd)  # the kernel reports success
    fs.fsync_dir(Path("/"))
    assert fs.after_power_loss().tree() == {"/file": b""}


def test_a_rename_is_atomic_within_a_folder_and_not_across_folders() -> None:
    fs = SimFS()
    fs.mkdir(Path("/a"), 0o777)
    fs.mkdir(Path("/b"), 0o777)
    _write(fs, "/a/one", b"x", sync=True)
    for path in ("/", "/a"):
        fs.fsync_dir(Path(path))
    fs.rename(Path("/a/one"), Path("/a/two"))
    names = {tuple(sorted(left.tree())) for _, left in fs.survivors(random.Random(0), 100)}
    assert names == {("/a", "/a/one", "/b"), ("/a", "/a/two", "/b")}
    fs.fsync_dir(Path("/a"))
    fs.rename(Path("/a/two"), Path("/b/two"))
    names = {tuple(sorted(left.tree())) for _, left in fs.survivors(random.Random(0), 100)}
    assert ("/a", "/a/two", "/b", "/b/two") in names
    assert ("/a", "/b") in names


@pytest.mark.parametrize(
    "make_world", dict.fromkeys(make for make, _ in worlds.IN_GROUPS), ids=lambda make: make.__name__
)
def test_the_published_bytes_do_not_depend_on_groups(tmp_path: Path, make_world: worlds.Make) -> None:
    """An update that does not find the closed generations in their groups, for one, decodes known rows again."""
    flat = getattr(worlds, make_world.__name__.removeprefix("grouped_"))
    goldens = []
    with simulated():
        for make_one in (flat, make_world):
            ids_from(1)
            world = make_one(tmp_path, random.Random(11))
            solve(world)
            goldens.append(world.golden)
    assert goldens[0] == goldens[1]
