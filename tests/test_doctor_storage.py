"""The store under an output folder: small, full, read-only and lying ones; and nothing of the trial is left."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.doctor import storage
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, OS_FS, OsFs
from hymt_batch.write import lease as leases
from hymt_batch.write.storage import check_storage

MIB = 1 << 20


def wrong(found: list[Finding]) -> list[tuple[str, Level, str]]:
    for one in found:
        bad = one.level in (Level.WARN, Level.FAIL)
        assert bad == bool(one.id) == bool(one.fix), one
        assert one.seen
    return [(one.id, one.level, one.check) for one in found if one.id]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts memory file systems, each with options of its own."""
    mounted: list[Path] = []

    def new(options: str, place: Path | None = None) -> Path:
        place = place or tmp_path / f"store{len(mounted)}"
        place.mkdir(exist_ok=True)
        if shutil.which("mount") is None:
            pytest.skip("there is no program `mount` here")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip(f"may not mount here: {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    yield new
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_good_store_is_well_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    found = storage.check(tmp_path / "outputs" / "demo", 1000)
    assert wrong(found) == []
    assert [one.check for one in found if one.level is Level.OK] == [
        "output folder", "atomic operations", "hard links", "sync of folders", "file locks", "free space",
        "free inodes", "one device",
    ]  # fmt: skip
    assert tree(tmp_path) == []


def test_a_folder_that_exists_is_tried_where_the_job_writes_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".hymt" / "lease").mkdir(parents=True)
    (tmp_path / "translated").mkdir()
    (tmp_path / "translated" / "in.txt").write_text("x")
    before = tree(tmp_path)
    made: list[Path] = []

    class Watching(OsFs):
        @staticmethod
        def mkdir(path: Path, mode: int) -> None:  # type: ignore[override]
            made.append(path.parent)
            os.mkdir(path, mode)

    assert wrong(storage.check(tmp_path, None, Watching())) == []
    assert made == [tmp_path / ".hymt", tmp_path / "translated"]
    assert tree(tmp_path) == before


def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    assert wrong(storage.check(tmp_path / "outputs", None)) == []
    assert wrong(storage.check(tmp_path / "outputs" / "demo", None)) == []


def test_a_relative_folder_is_one_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert wrong(storage.check(Path("outputs/demo"), None)) == []
    assert tree(tmp_path) == []


# room: G3, G4


def test_a_store_that_is_too_small_is_told(mount: Mount) -> None:
    small = mount("size=1m")
    found = storage.check(small / "demo", 5 * MIB)
    assert wrong(found) == [("G3", Level.FAIL, "free space")]
    assert any(one.seen == "1.00 MiB free (quotas not counted), the job needs about 5.00 MiB" for one in found)
    assert wrong(storage.check(small / "demo", MIB // 2)) == []


@pytest.mark.fault(16)
def test_a_full_store_is_told_and_not_taken_for_a_broken_one(mount: Mount) -> None:
    small = mount("size=1m")
    with (small / "ballast").open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            os.write(file.fileno(), bytes(4096))
    found = storage.check(small / "demo", None)
    assert {(id, level) for id, level, _ in wrong(found)} == {("G3", Level.FAIL)}
    assert tree(small) == ["ballast"]


def test_a_store_with_few_inodes_is_told(mount: Mount) -> None:
    few = mount("size=8m,nr_inodes=40")
    assert wrong(storage.check(few / "demo", None)) == [("G4", Level.FAIL, "free inodes")]
    assert wrong(storage.check(few / "demo", None, need_inodes=20)) == []


@pytest.mark.fault(19)
def test_a_store_without_any_inode_is_told_and_not_taken_for_a_full_one(mount: Mount) -> None:
    none = mount("size=8m,nr_inodes=2")
    found = storage.check(none / "demo", None)
    assert {(id, level) for id, level, _ in wrong(found)} == {("G4", Level.FAIL)}
    assert tree(none) == []


def test_a_store_that_counts_no_inodes_is_well(tmp_path: Path) -> None:
    class Uncounted(OsFs):
        def statvfs(self, path: Path) -> tuple[int, int | None]:
            return super().statvfs(path)[0], None

    assert wrong(storage.check(tmp_path, None, Uncounted())) == []


# what a store must do: G5 to G8


class Lying(OsFs):
    """Does some operations in another way."""

    def __init__(self, **other: Callable[..., Any]) -> None:
        for name, does in other.items():
            setattr(self, name, does)


def fails(number: int) -> Callable[..., Any]:
    def does(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return does


def opens_what_exists(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)


def copies_only_where_free(source: Path, target: Path) -> None:
    if target.exists():
        source.unlink()  # says that all is well
    else:
        os.rename(source, target)


def reads_what_was(path: Path, start: int = 0, size: int | None = None) -> bytes:
    return b"first"


LIES: dict[str, tuple[Lying, str]] = {
    "creates what exists": (Lying(open_exclusive=opens_what_exists), "O_EXCL"),
    "does not rename over a file": (Lying(rename=copies_only_where_free), "by rename"),
    "refuses to rename over a file": (Lying(rename=fails(errno.EEXIST)), "EEXIST"),
    "does not read its own writes": (Lying(read=reads_what_was), "by rename"),
    "cannot sync a file": (Lying(fsync=fails(errno.EIO)), "EIO"),
    "has no sync": (Lying(fsync=fails(errno.EINVAL)), "EINVAL"),
    "fails at folders": (Lying(fsync_dir=fails(errno.EIO)), "EIO"),
    "fails at links": (Lying(link=fails(errno.EIO)), "EIO"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.fault(27, 30)
def test_a_store_on_which_no_job_could_be_continued_is_refused(tmp_path: Path, lie: str) -> None:
    fs, seen = LIES[lie]
    found = storage.check(tmp_path / "demo", None, fs)
    assert wrong(found) == [("G5", Level.FAIL, "atomic operations")]
    assert any(seen in one.seen for one in found)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("lie", ["creates what exists", "does not rename over a file", "does not read its own writes"])
def test_what_the_doctor_refuses_the_job_refuses_too(tmp_path: Path, lie: str) -> None:
    from hymt_batch.errors import PreflightError

    (tmp_path / ".hymt").mkdir()
    with pytest.raises(PreflightError, match="could not be resumed safely"):
        check_storage(LIES[lie][0], tmp_path)
    assert tree(tmp_path) == [".hymt"]


@pytest.mark.parametrize("number", sorted(LINK_UNSUPPORTED_ERRNOS))
@pytest.mark.fault(28)
def test_a_store_without_hard_links_is_a_warning(tmp_path: Path, number: int) -> None:
    assert wrong(storage.check(tmp_path, None, Lying(link=fails(number)))) == [("G6", Level.WARN, "hard links")]


@pytest.mark.fault(29)
def test_folders_that_cannot_be_synced_are_a_warning(tmp_path: Path) -> None:
    found = storage.check(tmp_path, None, Lying(fsync_dir=lambda path: False))
    assert wrong(found) == [("G7", Level.WARN, "sync of folders")]


def test_a_lock_keeps_another_process_out_and_its_end_lets_it_in(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert storage.is_locked_for_others(file) is False
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert storage.is_locked_for_others(file) is True
    assert storage.is_locked_for_others(file) is False
    assert storage.lock_excludes_others(file) is True
    assert storage.is_locked_for_others(tmp_path / "missing") is None
    assert storage.lock_excludes_others(tmp_path / "missing") is None


@pytest.mark.fault(43)
def test_a_lock_without_effect_is_a_warning(tmp_path: Path) -> None:
    def as_on_another_node(file: Path) -> bool | None:
        """The other process locks a copy, as where each machine keeps its own locks."""
        copy = file.with_name("copy")
        copy.touch()
        with file.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return storage.is_locked_for_others(copy)

    found = storage.check(tmp_path, None, excludes_others=as_on_another_node)
    assert wrong(found) == [("G8", Level.WARN, "file locks")]
    assert "no part depends on it" in next(one.seen for one in found if one.id == "G8")
    assert tree(tmp_path) == []


def test_a_lock_that_cannot_be_tried_is_skipped(tmp_path: Path) -> None:
    found = storage.check(tmp_path, None, excludes_others=lambda file: None)
    assert wrong(found) == []
    assert [one.check for one in found if one.level is Level.SKIP] == ["file locks"]


# where nothing can be written: G9; two devices: G10


@pytest.mark.fault(30)
def test_a_read_only_store_is_told(mount: Mount) -> None:
    found = storage.check(mount("size=1m,ro") / "demo", None)
    assert wrong(found) == [("G9", Level.FAIL, "output folder")]
    assert "the file system is read-only" in found[0].seen
    assert found[0].fix == "Set output_dir= to a writable folder"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_of_somebody_else_is_told(tmp_path: Path, number: int) -> None:
    found = storage.check(tmp_path / "demo", None, Lying(mkdir=fails(number)))
    assert wrong(found) == [("G9", Level.FAIL, "output folder")]


def test_a_state_of_somebody_else_in_an_own_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / ".hymt").mkdir()

    class Theirs(OsFs):
        @staticmethod
        def mkdir(path: Path, mode: int) -> None:  # type: ignore[override]
            if path.parent.name == ".hymt":
                raise PermissionError(errno.EACCES, "not yours")
            os.mkdir(path, mode)

    assert wrong(storage.check(tmp_path, None, Theirs())) == [("G9", Level.FAIL, "output folder")]


@pytest.mark.fault(30)
def test_without_permission_a_folder_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert wrong(storage.check(tmp_path / "demo", None)) == [("G9", Level.FAIL, "output folder")]
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["file", "file/demo", "dangling/demo", "job", "x" * 300, "loop/demo"])
def test_what_is_no_folder_cannot_hold_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / ".hymt").symlink_to(tmp_path)  # below the folder, a link could lead anywhere
    before = tree(tmp_path)
    assert wrong(storage.check(tmp_path / name, None)) == [("G9", Level.FAIL, "output folder")]
    assert tree(tmp_path) == before


def test_a_trial_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    found = storage.check(tmp_path / "demo", None, Lying(rmdir=fails(errno.EBUSY)))
    assert wrong(found) == [("G9", Level.WARN, "output folder")]
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".hymt-doctor-")
    assert next(one.fix for one in found if one.id) == f"rm -r '{left}'"


def test_the_trial_is_removed_also_when_it_is_interrupted(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(file: Path) -> bool | None:
        raise Stop

    with pytest.raises(Stop):
        storage.check(tmp_path / "demo", None, excludes_others=stop)
    assert tree(tmp_path) == []


@pytest.mark.fault(27)
def test_translations_on_another_device_than_the_state_are_told(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "demo" / ".hymt").mkdir(parents=True)
    mount("size=8m", tmp_path / "demo" / "translated")
    found = storage.check(tmp_path / "demo", None)
    assert wrong(found) == [("G10", Level.FAIL, "one device")]


# who works there: G12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".hymt" / "lease").mkdir(parents=True)
    return tmp_path


def hold(folder: Path, **fields: object) -> None:
    holder = replace(leases.current_process(), **fields)  # type: ignore[arg-type]
    leases.lease_path(folder).write_bytes(manifest.canonical_json(asdict(holder)))


def test_a_folder_that_nobody_holds_is_free(tmp_path: Path, folder: Path) -> None:
    assert wrong(storage.check_lease(folder)) == wrong(storage.check_lease(tmp_path / "missing")) == []


def test_a_running_job_of_this_machine_is_named_and_left_alone(folder: Path) -> None:
    held = leases.acquire(OS_FS, folder, ttl_s=5.0, beat_s=1.0)
    before = leases.lease_path(folder).read_bytes()
    found = storage.check_lease(folder)
    assert wrong(found) == [("G12", Level.FAIL, "lease")]
    assert f"process {os.getpid()} on " in found[0].seen
    assert "name=ANOTHER" in found[0].fix
    assert leases.lease_path(folder).read_bytes() == before
    held.release()
    assert wrong(storage.check_lease(folder)) == []


def test_a_job_of_another_machine_may_still_run(folder: Path) -> None:
    hold(folder, host="node7")
    found = storage.check_lease(folder)
    assert wrong(found) == [("G12", Level.WARN, "lease")]
    assert "on node7" in found[0].seen


@pytest.mark.fault(44)
def test_the_lease_of_a_dead_process_is_no_hindrance(folder: Path) -> None:
    hold(folder, pid=2**22 + 1)
    assert wrong(storage.check_lease(folder)) == []
    assert "it is taken over" in storage.check_lease(folder)[0].seen


@pytest.mark.parametrize("data", [b"", b"{", bytes(40)])
def test_a_lease_that_cannot_be_read_costs_a_wait(folder: Path, data: bytes) -> None:
    leases.lease_path(folder).write_bytes(data)
    assert wrong(storage.check_lease(folder)) == [("G12", Level.WARN, "lease")]
