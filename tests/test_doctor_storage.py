"""The checks of the file system under an output folder: small, full, read-only and faulty ones; no trial file stays."""

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
from hymt_batch.doctor.finding import Level
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, OS_FS, OsFs
from hymt_batch.write import lease as leases
from hymt_batch.write.storage import check_storage
from tests.findings import wrong

MIB = 1 << 20


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a tmpfs with the given options."""
    mounted: list[Path] = []

    def mount_tmpfs(options: str, path: Path | None = None) -> Path:
        path = path or tmp_path / f"store{len(mounted)}"
        path.mkdir(exist_ok=True)
        if shutil.which("mount") is None:
            pytest.skip("the program `mount` is missing")
        process = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True)
        if process.returncode:
            pytest.skip(f"cannot mount here: {process.stderr.decode().strip()}")
        mounted.append(path)
        return path

    yield mount_tmpfs
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_good_file_system_is_ok_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    findings = storage.check(tmp_path / "outputs" / "demo", 1000)
    assert wrong(findings) == []
    assert [finding.check for finding in findings if finding.level is Level.OK] == [
        "output folder", "atomic operations", "hard links", "directory sync", "file locks", "free space",
        "free inodes", "one device",
    ]  # fmt: skip
    assert tree(tmp_path) == []


def test_an_existing_folder_is_tested_where_the_job_writes_and_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / ".hymt" / "lease").mkdir(parents=True)
    (tmp_path / "translated").mkdir()
    (tmp_path / "translated" / "in.txt").write_text("x")
    before = tree(tmp_path)
    parents: list[Path] = []

    class RecordingFs(OsFs):
        @staticmethod
        def mkdir(path: Path, mode: int) -> None:  # type: ignore[override]
            parents.append(path.parent)
            os.mkdir(path, mode)

    assert wrong(storage.check(tmp_path, None, RecordingFs())) == []
    assert parents == [tmp_path / ".hymt", tmp_path / "translated"]
    assert tree(tmp_path) == before


def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    assert wrong(storage.check(tmp_path / "outputs", None)) == []
    assert wrong(storage.check(tmp_path / "outputs" / "demo", None)) == []


def test_a_relative_folder_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert wrong(storage.check(Path("outputs/demo"), None)) == []
    assert tree(tmp_path) == []


# free space and inodes: G3, G4


def test_a_file_system_that_is_too_small_is_reported(mount: Mount) -> None:
    small = mount("size=1m")
    findings = storage.check(small / "demo", 5 * MIB)
    assert wrong(findings) == [("G3", Level.FAIL, "free space")]
    assert any(
        finding.seen == "1.00 MiB free (quotas not counted), the job needs about 5.00 MiB" for finding in findings
    )
    assert wrong(storage.check(small / "demo", MIB // 2)) == []


@pytest.mark.fault(16)
def test_a_full_file_system_is_reported_as_full_not_as_broken(mount: Mount) -> None:
    small = mount("size=1m")
    with (small / "ballast").open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            os.write(file.fileno(), bytes(4096))
    findings = storage.check(small / "demo", None)
    assert {(id, level) for id, level, _ in wrong(findings)} == {("G3", Level.FAIL)}
    assert tree(small) == ["ballast"]


def test_too_few_inodes_are_reported(mount: Mount) -> None:
    few = mount("size=8m,nr_inodes=40")
    assert wrong(storage.check(few / "demo", None)) == [("G4", Level.FAIL, "free inodes")]
    assert wrong(storage.check(few / "demo", None, need_inodes=20)) == []


@pytest.mark.fault(19)
def test_a_file_system_without_inodes_is_reported_as_such_not_as_full(mount: Mount) -> None:
    none = mount("size=8m,nr_inodes=2")
    findings = storage.check(none / "demo", None)
    assert {(id, level) for id, level, _ in wrong(findings)} == {("G4", Level.FAIL)}
    assert tree(none) == []


def test_a_file_system_that_does_not_count_inodes_is_ok(tmp_path: Path) -> None:
    class FsWithoutInodes(OsFs):
        def statvfs(self, path: Path) -> tuple[int, int | None]:
            return super().statvfs(path)[0], None

    assert wrong(storage.check(tmp_path, None, FsWithoutInodes())) == []


# necessary operations: G5 to G8


class FaultyFs(OsFs):
    """A file system with some operations replaced."""

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        for name, function in replaced.items():
            setattr(self, name, function)


def fails(errno_value: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise OSError(errno_value, os.strerror(errno_value))

    return fail


def opens_existing_file(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)


def renames_only_to_free_names(source: Path, target: Path) -> None:
    if target.exists():
        source.unlink()  # loses the file, but reports success
    else:
        os.rename(source, target)


def reads_old_data(path: Path, start: int = 0, size: int | None = None) -> bytes:
    return b"first"


FAULTS: dict[str, tuple[FaultyFs, str]] = {
    "creates an existing file": (FaultyFs(open_exclusive=opens_existing_file), "O_EXCL"),
    "does not rename over a file": (FaultyFs(rename=renames_only_to_free_names), "on rename"),
    "refuses to rename over a file": (FaultyFs(rename=fails(errno.EEXIST)), "EEXIST"),
    "does not read its own writes": (FaultyFs(read=reads_old_data), "on rename"),
    "cannot sync a file": (FaultyFs(fsync=fails(errno.EIO)), "EIO"),
    "does not support sync": (FaultyFs(fsync=fails(errno.EINVAL)), "EINVAL"),
    "cannot sync a folder": (FaultyFs(fsync_dir=fails(errno.EIO)), "EIO"),
    "cannot link": (FaultyFs(link=fails(errno.EIO)), "EIO"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault(27, 30)
def test_a_file_system_on_which_a_job_could_not_resume_is_rejected(tmp_path: Path, fault: str) -> None:
    fs, seen = FAULTS[fault]
    findings = storage.check(tmp_path / "demo", None, fs)
    assert wrong(findings) == [("G5", Level.FAIL, "atomic operations")]
    assert any(seen in finding.seen for finding in findings)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "fault", ["creates an existing file", "does not rename over a file", "does not read its own writes"]
)
def test_what_the_doctor_rejects_the_job_rejects_too(tmp_path: Path, fault: str) -> None:
    from hymt_batch.errors import PreflightError

    (tmp_path / ".hymt").mkdir()
    with pytest.raises(PreflightError, match="could not be resumed safely"):
        check_storage(FAULTS[fault][0], tmp_path)
    assert tree(tmp_path) == [".hymt"]


@pytest.mark.parametrize("errno_value", sorted(LINK_UNSUPPORTED_ERRNOS))
@pytest.mark.fault(28)
def test_a_file_system_without_hard_links_is_a_warning(tmp_path: Path, errno_value: int) -> None:
    assert wrong(storage.check(tmp_path, None, FaultyFs(link=fails(errno_value)))) == [("G6", Level.WARN, "hard links")]


@pytest.mark.fault(29)
def test_folders_that_cannot_be_synced_are_a_warning(tmp_path: Path) -> None:
    findings = storage.check(tmp_path, None, FaultyFs(fsync_dir=lambda path: False))
    assert wrong(findings) == [("G7", Level.WARN, "directory sync")]


def test_a_lock_excludes_another_process_until_it_is_released(tmp_path: Path) -> None:
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
        """Let the other process lock a copy, as on a file system that keeps its locks on each machine."""
        copy = file.with_name("copy")
        copy.touch()
        with file.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return storage.is_locked_for_others(copy)

    findings = storage.check(tmp_path, None, excludes_others=as_on_another_node)
    assert wrong(findings) == [("G8", Level.WARN, "file locks")]
    assert "the output stays correct" in next(finding.seen for finding in findings if finding.id == "G8")
    assert tree(tmp_path) == []


def test_a_lock_that_cannot_be_tested_is_skipped(tmp_path: Path) -> None:
    findings = storage.check(tmp_path, None, excludes_others=lambda file: None)
    assert wrong(findings) == []
    assert [finding.check for finding in findings if finding.level is Level.SKIP] == ["file locks"]


# unwritable folders: G9; two devices: G10


@pytest.mark.fault(30)
def test_a_read_only_file_system_is_reported(mount: Mount) -> None:
    findings = storage.check(mount("size=1m,ro") / "demo", None)
    assert wrong(findings) == [("G9", Level.FAIL, "output folder")]
    assert "the file system is read-only" in findings[0].seen
    assert findings[0].fix == "Set output_dir= to a writable folder"


@pytest.mark.parametrize("errno_value", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_of_another_user_is_reported(tmp_path: Path, errno_value: int) -> None:
    findings = storage.check(tmp_path / "demo", None, FaultyFs(mkdir=fails(errno_value)))
    assert wrong(findings) == [("G9", Level.FAIL, "output folder")]


def test_a_state_folder_of_another_user_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".hymt").mkdir()

    class ForeignFs(OsFs):
        @staticmethod
        def mkdir(path: Path, mode: int) -> None:  # type: ignore[override]
            if path.parent.name == ".hymt":
                raise PermissionError(errno.EACCES, "not yours")
            os.mkdir(path, mode)

    assert wrong(storage.check(tmp_path, None, ForeignFs())) == [("G9", Level.FAIL, "output folder")]


@pytest.mark.fault(30)
def test_a_folder_without_write_permission_is_reported(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert wrong(storage.check(tmp_path / "demo", None)) == [("G9", Level.FAIL, "output folder")]
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["file", "file/demo", "dangling/demo", "job", "x" * 300, "loop/demo"])
def test_a_path_that_is_not_a_folder_cannot_hold_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / ".hymt").symlink_to(tmp_path)  # below the folder, a link could lead anywhere
    before = tree(tmp_path)
    assert wrong(storage.check(tmp_path / name, None)) == [("G9", Level.FAIL, "output folder")]
    assert tree(tmp_path) == before


def test_a_trial_folder_that_cannot_be_removed_is_reported(tmp_path: Path) -> None:
    findings = storage.check(tmp_path / "demo", None, FaultyFs(rmdir=fails(errno.EBUSY)))
    assert wrong(findings) == [("G9", Level.WARN, "output folder")]
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".hymt-doctor-")
    assert next(finding.fix for finding in findings if finding.id) == f"rm -r '{left}'"


def test_the_trial_folder_is_removed_after_an_interruption(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(file: Path) -> bool | None:
        raise Stop

    with pytest.raises(Stop):
        storage.check(tmp_path / "demo", None, excludes_others=stop)
    assert tree(tmp_path) == []


@pytest.mark.fault(27)
def test_translations_on_another_device_than_the_state_are_reported(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "demo" / ".hymt").mkdir(parents=True)
    mount("size=8m", tmp_path / "demo" / "translated")
    findings = storage.check(tmp_path / "demo", None)
    assert wrong(findings) == [("G10", Level.FAIL, "one device")]


# the lease: G12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".hymt" / "lease").mkdir(parents=True)
    return tmp_path


def hold(folder: Path, **fields: object) -> None:
    holder = replace(leases.current_process(), **fields)  # type: ignore[arg-type]
    leases.lease_path(folder).write_bytes(manifest.canonical_json(asdict(holder)))


def test_a_folder_without_a_lease_is_free(tmp_path: Path, folder: Path) -> None:
    assert wrong(storage.check_lease(folder)) == wrong(storage.check_lease(tmp_path / "missing")) == []


def test_a_running_job_on_this_machine_is_reported_and_not_disturbed(folder: Path) -> None:
    held = leases.acquire(OS_FS, folder, ttl_s=5.0, beat_s=1.0)
    before = leases.lease_path(folder).read_bytes()
    findings = storage.check_lease(folder)
    assert wrong(findings) == [("G12", Level.FAIL, "lease")]
    assert f"process {os.getpid()} on " in findings[0].seen
    assert "name=ANOTHER" in findings[0].fix
    assert leases.lease_path(folder).read_bytes() == before
    held.release()
    assert wrong(storage.check_lease(folder)) == []


def test_a_job_on_another_machine_may_still_run(folder: Path) -> None:
    hold(folder, host="node7")
    findings = storage.check_lease(folder)
    assert wrong(findings) == [("G12", Level.WARN, "lease")]
    assert "on node7" in findings[0].seen


@pytest.mark.fault(44)
def test_the_lease_of_a_dead_process_does_not_block(folder: Path) -> None:
    hold(folder, pid=2**22 + 1)
    assert wrong(storage.check_lease(folder)) == []
    assert "the job takes it over" in storage.check_lease(folder)[0].seen


@pytest.mark.parametrize("data", [b"", b"{", bytes(40)])
def test_a_lease_that_cannot_be_read_costs_a_wait(folder: Path, data: bytes) -> None:
    leases.lease_path(folder).write_bytes(data)
    assert wrong(storage.check_lease(folder)) == [("G12", Level.WARN, "lease")]
