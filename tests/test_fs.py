from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hymt_batch import fs
from hymt_batch.errors import StoppedError
from hymt_batch.fs import OS_FS, NewFile, OsFs
from hymt_batch.fs_protocol import Stat
from hymt_batch.write.storage import DurableFolders


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs, "RETRY_DELAYS_S", (0.0, 0.0))


def write_file(path: Path, data: bytes = b"new") -> Path:
    fs.write_new(OS_FS, path, data)
    return path


@pytest.mark.fault(23, 24)
def test_partial_writes_are_continued_to_the_last_byte(tmp_path: Path) -> None:
    class Short(OsFs):
        @staticmethod
        def write_some(fd: int, data: memoryview) -> int:  # type: ignore[override]
            return os.write(fd, data[:7])

    fs.write_new(Short(), tmp_path / "a", bytes(range(256)))
    assert (tmp_path / "a").read_bytes() == bytes(range(256))


@pytest.mark.fault(80, 81)
def test_a_new_file_never_replaces_another_or_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "a")
    for name in ("a", "link"):
        with pytest.raises(FileExistsError):
            OS_FS.open_exclusive(tmp_path / name)
    assert not (tmp_path / "target").exists()


@pytest.mark.fault(21)
def test_a_file_that_fails_to_sync_is_removed_and_never_synced_again(tmp_path: Path) -> None:
    synced: list[int] = []

    class Failing(OsFs):
        def fsync(self, fd: int) -> None:  # type: ignore[override]
            synced.append(fd)
            raise OSError(errno.EIO, "io")

    with pytest.raises(OSError, match="io"):
        fs.write_new(Failing(), tmp_path / "a", b"x")
    assert len(synced) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(17)
def test_an_error_on_close_fails_the_write(tmp_path: Path) -> None:
    class Failing(OsFs):
        def close(self, fd: int) -> None:  # type: ignore[override]
            os.close(fd)
            raise OSError(errno.ENOSPC, "full at close")

    with pytest.raises(OSError, match="full at close"):
        fs.write_new(Failing(), tmp_path / "a", b"x")
    assert not list(tmp_path.iterdir())


def test_write_atomic_replaces_the_file_and_leaves_no_other_file(tmp_path: Path) -> None:
    fs.write_atomic(OS_FS, tmp_path / "a", b"one")
    fs.write_atomic(OS_FS, tmp_path / "a", b"two")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"two"}


@pytest.mark.fault(16, 18)
def test_a_full_disk_is_tried_three_times_then_stops_the_job() -> None:
    calls: list[int] = []

    def full() -> None:
        calls.append(1)
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(
        StoppedError, match=r"part 3 could not be written: ENOSPC, the file system is full .* same command"
    ):
        fs.with_retries("part 3", full)
    assert len(calls) == 3


@pytest.mark.fault(31)
def test_a_read_only_file_system_is_not_retried() -> None:
    calls: list[int] = []

    def read_only() -> None:
        calls.append(1)
        raise OSError(errno.EROFS, "ro")

    with pytest.raises(StoppedError, match="EROFS"):
        fs.with_retries("x", read_only)
    assert len(calls) == 1


@pytest.mark.fault(43)
def test_the_first_to_publish_wins(tmp_path: Path) -> None:
    assert fs.publish(OS_FS, write_file(tmp_path / "t1", b"one"), tmp_path / "final")
    assert not fs.publish(OS_FS, write_file(tmp_path / "t2", b"two"), tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"one"


def test_a_name_that_another_process_frees_again_is_no_error(tmp_path: Path) -> None:
    class Removed(OsFs):
        def link(self, source: Path, target: Path) -> None:
            (tmp_path / "final").write_bytes(b"theirs")
            try:
                super().link(source, target)
            finally:
                (tmp_path / "final").unlink()

    assert not fs.publish(Removed(), write_file(tmp_path / "t1"), tmp_path / "final")
    assert (tmp_path / "t1").exists()  # the caller looks at what there is, and publishes again if there is nothing
    assert fs.publish(OS_FS, tmp_path / "t1", tmp_path / "final")


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ESTALE])
@pytest.mark.fault(26)
def test_a_link_that_succeeded_but_was_reported_as_failed_counts(tmp_path: Path, number: int) -> None:
    class Lying(OsFs):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            raise OSError(number, "reported as failed")

    assert fs.publish(Lying(), write_file(tmp_path / "t1"), tmp_path / "final")


@pytest.mark.fault(26)
def test_a_rename_that_succeeded_but_was_reported_as_failed_counts(tmp_path: Path) -> None:
    class Lying(OsFs):
        def rename(self, source: Path, target: Path) -> None:  # type: ignore[override]
            os.rename(source, target)
            raise OSError(errno.EIO, "reported as failed")

    fs.replace(Lying(), write_file(tmp_path / "t1"), tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"new"


@pytest.mark.parametrize("number", sorted(fs.LINK_UNSUPPORTED_ERRNOS))
@pytest.mark.fault(28)
def test_without_hard_links_a_file_is_published_by_rename(tmp_path: Path, number: int) -> None:
    class NoLinks(OsFs):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(number, "no links")

    assert fs.publish(NoLinks(), write_file(tmp_path / "t1", b"one"), tmp_path / "final")
    assert not fs.publish(NoLinks(), write_file(tmp_path / "t2", b"two"), tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"one"


@pytest.mark.fault(41)
def test_links_and_fifos_are_not_read(tmp_path: Path) -> None:
    write_file(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(OSError):
            OS_FS.read(tmp_path / name)
    assert [OS_FS.stat(tmp_path / name).kind for name in ("a", "link", "fifo")] == ["file", "other", "other"]


@pytest.mark.fault(29)
def test_a_file_system_that_cannot_sync_folders_is_tolerated_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(fd: int) -> None:
        raise OSError(errno.EINVAL, "no")

    assert OS_FS.fsync_dir(tmp_path)
    monkeypatch.setattr(os, "fsync", cannot)
    assert not OS_FS.fsync_dir(tmp_path)


def test_size_and_hash_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    data = os.urandom(3 << 20)
    with NewFile(OS_FS, tmp_path / "a") as file:
        for start in range(0, len(data), 100_000):
            file.write(data[start : start + 100_000])
        sha = file.sync_and_close()
    assert (file.size, sha) == fs.hash_file(OS_FS, tmp_path / "a") == (len(data), hashlib.sha256(data).hexdigest())


def test_a_new_file_is_removed_after_an_error(tmp_path: Path) -> None:
    for synced in (False, True):
        with pytest.raises(ValueError, match="mine"), NewFile(OS_FS, tmp_path / "a") as file:
            file.write(b"x")
            if synced:
                file.sync_and_close()
            raise ValueError("mine")
        assert not list(tmp_path.iterdir())


def test_a_folder_that_another_run_removes_while_it_is_ensured_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run finished the shard, and removed the folder of its parts."""
    path, original, calls = tmp_path / "job" / ".hymt" / "s", OsFs.stat, [0]
    path.mkdir(parents=True)

    def stat(self: OsFs, path_now: Path) -> Stat:
        if path_now == path and not calls[0]:
            calls[0] += 1
            path.rmdir()
        return original(self, path_now)

    monkeypatch.setattr(OsFs, "stat", stat)
    folders = DurableFolders(OS_FS, tmp_path / "job")
    fs.with_retries("a part", lambda: folders.ensure(path))
    assert path.is_dir()
    assert calls == [1]
