"""State folders that a process takes away: what is another one's is given back, also by the next run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hymt_batch import fs as files
from hymt_batch.errors import StoppedError
from hymt_batch.state_layout import FLAT
from hymt_batch.write import closed_rows, taken_state
from hymt_batch.write.synced_names import SyncedNames
from tests.faults.simfs import SimFS
from tests.faults.small import simulated

HOME = Path("/job")
ROOT = HOME / ".hymt"
FILE, CLOSED, PASS = ROOT / f"f{'a' * 16}", ROOT / f"c{'a' * 16}", ROOT / "passes/p0001"


@pytest.fixture
def fs() -> SimFS:
    fs = SimFS()
    for path in (HOME, ROOT, ROOT / "passes"):
        fs.mkdir(path, 0o777)
    return fs


def put(fs: SimFS, folder: Path, **contents: bytes) -> None:
    """Write files; `s0_p1` is p1 in the folder s0."""
    for name, data in contents.items():
        path = folder.joinpath(*name.replace("DOT", ".").split("_"))
        for parent in reversed(path.relative_to(ROOT).parents[:-1]):
            if files.stat_or_none(fs, ROOT / parent) is None:
                fs.mkdir(ROOT / parent, 0o777)
        files.write_new(fs, path, data)


def tree(fs: SimFS, folder: Path) -> dict[str, bytes]:
    start = f"{folder}/"
    return {path[len(start) :]: data for path, data in fs.tree().items() if path.startswith(start) and data is not None}


@pytest.fixture(autouse=True)
def _simulated():  # type: ignore[no-untyped-def]
    with simulated():
        yield


def test_the_expected_folder_is_taken(fs: SimFS) -> None:
    put(fs, FILE, fileDOTjson=b"1")
    taken = taken_state.take(fs, FILE, b"1")
    assert taken is not None and tree(fs, taken) == {"file.json": b"1"}
    assert not tree(fs, FILE)


@pytest.mark.parametrize("folder", [FILE, CLOSED, PASS])
def test_another_folder_is_given_back(fs: SimFS, folder: Path) -> None:
    put(fs, folder, s0_p0=b"row", **{taken_state.record_path(folder).name.replace(".", "DOT"): b"2"})
    before = fs.tree()
    assert taken_state.take(fs, folder, b"1") is None
    assert fs.tree() == before


def test_no_folder_is_no_error(fs: SimFS) -> None:
    assert taken_state.take(fs, FILE, b"") is None


def test_the_next_run_gives_back_what_a_killed_one_took(fs: SimFS) -> None:
    put(fs, FILE, fileDOTjson=b"1", s0DOTrows=b"rows")
    put(fs, PASS, passDOTjson=b"p")
    before = fs.tree()
    assert taken_state.take(fs, FILE, b"1") and taken_state.take(fs, PASS, b"p")
    taken_state.give_back_all(fs, HOME)
    assert fs.tree() == before
    assert fs.after_power_loss().tree() == {}, "nothing was synced before"


@pytest.mark.parametrize("folder", [FILE, PASS])
def test_parts_that_were_written_meanwhile_are_kept_with_those_that_are_given_back(fs: SimFS, folder: Path) -> None:
    put(fs, folder, s0_p0=b"0", s0_p1=b"1")
    taken = taken_state.take(fs, folder, b"")
    assert taken is not None
    put(fs, folder, s0_p1=b"newer", s1_p0=b"2")
    taken_state.give_back_all(fs, HOME)
    assert tree(fs, folder) == {"s0/p0": b"0", "s0/p1": b"newer", "s1/p0": b"2"}
    assert not tree(fs, taken)


@pytest.mark.parametrize("has_older", [False, True])
def test_the_version_before_is_closed_if_a_new_one_was_begun_meanwhile(fs: SimFS, has_older: bool) -> None:
    put(fs, FILE, fileDOTjson=b"old", s0DOTrows=b"old")
    if has_older:
        put(fs, CLOSED, fileDOTjson=b"older", s1DOTrows=b"older")
    assert taken_state.take(fs, FILE, b"old")
    put(fs, FILE, s0_p0=b"new")
    taken_state.give_back_all(fs, HOME)
    assert tree(fs, FILE) == {"s0/p0": b"new"}
    assert tree(fs, CLOSED) == {"file.json": b"old", "s0.rows": b"old"}


def test_the_version_before_gives_way_to_a_finished_one(fs: SimFS) -> None:
    put(fs, FILE, fileDOTjson=b"old")
    assert taken_state.take(fs, FILE, b"old")
    put(fs, FILE, fileDOTjson=b"new")
    taken_state.give_back_all(fs, HOME)
    assert fs.listdir(ROOT) == [FILE.name, "passes"] and tree(fs, FILE) == {"file.json": b"new"}


def test_a_half_removed_closed_generation_is_removed(fs: SimFS) -> None:
    put(fs, CLOSED, s0DOTrows=b"rows")
    assert taken_state.take(fs, CLOSED, b"")
    taken_state.give_back_all(fs, HOME)
    assert fs.listdir(ROOT) == ["passes"]


def test_a_run_whose_lease_is_lost_closes_nothing(fs: SimFS) -> None:
    from hymt_batch.records import Input

    put(fs, FILE, fileDOTjson=b"1")

    def lost() -> None:
        raise StoppedError("the lease is lost")

    before = fs.tree()
    with pytest.raises(StoppedError):
        closed_rows.close(fs, HOME, [Input("in.txt", "in.txt", "", "text", file_id="a" * 16)], FLAT, lost)
    assert fs.tree() == before


def test_a_file_that_appears_later_in_a_synced_folder_is_synced_too(fs: SimFS) -> None:
    put(fs, FILE, a=b"1")
    for path in (Path("/"), HOME, ROOT):
        fs.fsync_dir(path)
    synced = SyncedNames(fs)
    synced.ensure(FILE / "a")
    put(fs, FILE, b=b"2")
    assert tree(fs.after_power_loss(), FILE) == {"a": b"1"}
    synced.ensure(FILE / "b")
    assert tree(fs.after_power_loss(), FILE) == {"a": b"1", "b": b"2"}
    calls = fs.calls
    synced.ensure(FILE / "a")
    assert fs.calls == calls, "a known name costs nothing"
