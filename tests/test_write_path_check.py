"""Nothing outside an output folder is read, written or removed; permanent errors exit with 6 and name the file."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import fs as files
from hymt_batch import nofollow, storage_error
from hymt_batch.errors import ConfigError, ExitCode, HymtError, PreflightError, StoppedError
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input
from jobs import status, verify
from tests.fakes.upper import ENVIRONMENT, FAST, Fast, an_input, open_output, plan, run, shards, upper

RELS = ("a.txt", "sub/b.txt")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0, 0.0))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(9)) + "empty\n")
    return [an_input(tmp_path / "in.txt", rel) for rel in RELS]


def file_state(rel: str) -> str:
    return f".hymt/f{an_input(Path(rel), rel).file_id}"


def begin(folder: Path, inputs: list[Input]) -> None:
    """Publish one file, and commit some parts of the other, whose shard is not complete."""
    with open_output(folder, inputs) as output:
        for input in inputs:
            for shard in list(shards(input))[: 2 if input is inputs[0] else 1]:
                for part in plan(shard):
                    output.commit(part, upper(part), ENVIRONMENT)
                if input is inputs[0]:
                    output.finish_shard(shard)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# links in place of folders

FOLDERS = [
    "translated", "translated/sub", "errors", "errors/sub", ".hymt", ".hymt/lease", ".hymt/attempts",
    ".hymt/quarantine", ".hymt/spool", file_state("a.txt"), file_state("sub/b.txt"),
    f"{file_state('sub/b.txt')}/s0000000", "set_aside",
]  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.fault(80, 81)
def test_a_link_in_place_of_any_folder_is_never_followed(
    tmp_path: Path, inputs: list[Input], name: str, finished: bool, overwrite: bool
) -> None:
    folder, victim = tmp_path / "o" / "job", tmp_path / "victim"
    (run if finished else begin)(folder, inputs)
    path = folder / name
    if path.is_dir():
        shutil.copytree(path, victim)  # so that every name that could be opened exists
    victim.mkdir(exist_ok=True)
    for own_name in (
        "p00000",
        ".tmp-final-x",
        ".tmp-x",
        "a.txt",
        "b.txt",
        "stale-x",
        "probe-x",
        "file.json",
        "job.json",
    ):
        (victim / own_name).write_text("precious")
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(victim)
    before = tree(victim)
    verify.verify(folder)
    status.status(folder)
    try:
        run(folder, inputs, overwrite=overwrite, lease_ttl_s=10.0)
        unused = finished and name.startswith((".hymt/f", "set_aside"))  # its parts are gone: the folder is not used
        assert unused or (overwrite and "s0000000" in name)
    except HymtError as error:
        assert error.exit_code in (ExitCode.PREFLIGHT, ExitCode.IDENTITY)
        if error.exit_code is ExitCode.PREFLIGHT:
            assert f"{path} is a link, but a folder should be there" in str(error)
            assert "Move it away or remove it" in str(error)
    assert tree(victim) == before
    assert path.is_symlink()


def test_the_output_folder_and_its_parents_may_be_links(tmp_path: Path, inputs: list[Input]) -> None:
    for name in ("large", "large/real"):
        (tmp_path / name).mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    (tmp_path / "large" / "job").symlink_to(tmp_path / "large" / "real")
    run(tmp_path / "outputs" / "job", inputs)
    assert (tmp_path / "large" / "real" / "translated" / "sub" / "b.txt").is_file()
    assert verify.verify(tmp_path / "outputs" / "job").exit_code is ExitCode.COMPLETE


def test_every_file_operation_refuses_a_link_in_the_path(tmp_path: Path) -> None:
    folder, victim = tmp_path / "job", tmp_path / "victim"
    for path in (folder / "real", victim):
        path.mkdir(parents=True)
    for path in (victim / "file", folder / "real" / "file"):
        path.write_text("precious")
    (folder / "link").symlink_to(victim)
    bound_fs, link = OS_FS.within(folder), folder / "link"
    operations: list[Callable[[], object]] = [
        lambda: bound_fs.open_exclusive(link / "new"),
        lambda: bound_fs.link(folder / "real" / "file", link / "new"),
        lambda: bound_fs.link(link / "file", folder / "real" / "new"),
        lambda: bound_fs.rename(folder / "real" / "file", link / "file"),
        lambda: bound_fs.rename(link / "file", folder / "real" / "file"),
        lambda: bound_fs.unlink(link / "file"),
        lambda: bound_fs.mkdir(link / "new", 0o777),
        lambda: bound_fs.rmdir(link / "file"),
        lambda: bound_fs.fsync_dir(link),
        lambda: bound_fs.read(link / "file"),
        lambda: bound_fs.stat(link / "file"),
        lambda: bound_fs.listdir(link),
    ]
    for index, operation in enumerate(operations):
        with pytest.raises(NotADirectoryError) as refused:
            operation()
        assert str(link) in (refused.value.filename, refused.value.filename2), index
    assert tree(victim) == {"file": b"precious"}
    assert bound_fs.read(folder / "real" / "file") == b"precious"  # without a link, it works
    assert bound_fs.listdir(folder / "real") == ["file"]
    assert OS_FS.read(link / "file") == b"precious"  # without `within`, only the last component must not be a link


def test_a_link_in_place_of_a_folder_that_is_open_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nofollow, "FRESH_S", 0)  # the time is over at once
    folder, victim = tmp_path / "job", tmp_path / "victim"
    for path in (folder / ".hymt" / "sub", victim / "sub"):
        path.mkdir(parents=True)
    bound_fs, state = OS_FS.within(folder), folder / ".hymt"
    files.write_new(bound_fs, state / "sub" / "before", b"data")
    state.rename(tmp_path / "moved")
    state.symlink_to(victim)
    for path in (state / "new", state / "sub" / "new"):
        with pytest.raises(NotADirectoryError) as refused:
            files.write_new(bound_fs, path, b"data")
        assert refused.value.filename == str(state)
    state.unlink()
    with pytest.raises(FileNotFoundError):
        bound_fs.read(state / "sub" / "before")
    state.mkdir()
    files.write_new(bound_fs, state / "after", b"data")  # in the folder that has the name now
    assert tree(victim) == {"sub": None}
    assert tree(tmp_path / "moved") == {"sub": None, "sub/before": b"data"}
    assert tree(state) == {"after": b"data"}


def test_folders_that_are_replaced_again_and_again_use_up_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nofollow, "FRESH_S", 0)
    bound_fs, state = OS_FS.within(tmp_path / "job"), tmp_path / "job" / ".hymt"
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for index in range(2 * nofollow.MAX_OPEN_FOLDERS):
        state.mkdir(parents=True)
        files.write_new(bound_fs, state / "file", b"%d" % index)
        assert (state / "file").read_bytes() == b"%d" % index
        shutil.rmtree(state)
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= nofollow.MAX_OPEN_FOLDERS
        del bound_fs
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_was_just_used_is_still_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless this process renames or removes it, or a folder above it."""
    monkeypatch.setattr(nofollow, "FRESH_S", 3600)
    folder = tmp_path / "job"
    state = folder / ".hymt"
    (state / "sub").mkdir(parents=True)
    bound_fs, opens, os_open = OS_FS.within(folder), list[str](), os.open

    def counted(path: str, *arguments: Any, **options: Any) -> int:
        opens.append(path)
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", counted)
    assert [bound_fs.stat(state / "sub").kind for _ in range(3)] == ["dir"] * 3
    assert len(opens) == 2  # the output folder, and .hymt
    files.write_new(bound_fs, state / "sub" / "file", b"data")
    files.replace(bound_fs, state / "sub" / "file", state / "sub" / "final")
    assert len(opens) == 4  # sub, and the file
    bound_fs.rename(state / "sub", state / "other")
    (state / "sub").mkdir()
    files.write_new(bound_fs, state / "sub" / "new", b"data")
    assert tree(state) == {"other": None, "other/final": b"data", "sub": None, "sub/new": b"data"}
    bound_fs.unlink(state / "sub" / "new")
    bound_fs.rmdir(state / "sub")
    bound_fs.mkdir(state / "sub", 0o777)
    files.write_new(bound_fs, state / "sub" / "new", b"data")
    assert tree(state / "sub") == {"new": b"data"}
    shutil.rmtree(state / "sub")  # by another process: the first error shows it
    with pytest.raises(FileNotFoundError):
        files.write_new(bound_fs, state / "sub" / "new", b"data")
    bound_fs.mkdir(state / "sub", 0o777)
    files.write_new(bound_fs, state / "sub" / "new", b"data")
    assert tree(state / "sub") == {"new": b"data"}


# something else where a file should be


def _socket(path: Path) -> None:
    parent_fd = os.open(path.parent, os.O_RDONLY)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound_socket:
            bound_socket.bind(f"/proc/self/fd/{parent_fd}/{path.name}")
    finally:
        os.close(parent_fd)


KINDS: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a pipe": os.mkfifo,
    "a socket": _socket,
}
FILES = [
    "manifest.json", ".hymt/job.json", ".hymt/lease/job.json", "translated/a.txt", "translated/sub/b.txt",
    "errors/a.txt.errors.jsonl", f"{file_state('a.txt')}/file.json",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.fault(80)
def test_anything_else_in_place_of_a_file_is_reported_with_a_fix(
    tmp_path: Path, inputs: list[Input], name: str, kind: str
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    for overwrite in (False, True):
        with pytest.raises(PreflightError) as refused:
            run(folder, inputs, overwrite=overwrite, lease_ttl_s=10.0)
        assert f"{folder / name} is {kind}, but a file should be there" in str(refused.value)
    assert storage_error.describe_type(folder / name) == kind
    report = verify.verify(folder)
    assert report.exit_code is ExitCode.DAMAGE
    assert f"{name}: is {kind}, but a file should be there" in report.damage
    assert "Move away what blocks the path" in verify.render(report)
    assert "Run the job again to rebuild what is damaged or missing" not in verify.render(report)
    status.render(status.status(folder))


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.fault(80)
def test_a_file_in_place_of_a_folder_is_reported_with_a_fix(tmp_path: Path, inputs: list[Input], name: str) -> None:
    folder = tmp_path / "job"
    begin(folder, inputs)
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).write_text("x")
    with pytest.raises(PreflightError, match=f"{name} is a file, but a folder should be there"):
        run(folder, inputs)
    if "s0000000" not in name:
        assert f"{name}: is a file, but a folder should be there" in verify.verify(folder).damage


# errors of the file system

TEMPORARY = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.ENFILE]
PERMANENT = [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV,
         errno.EFBIG, errno.EMFILE]  # fmt: skip


@pytest.mark.parametrize("number", TEMPORARY + PERMANENT)
@pytest.mark.parametrize("method", ["open_exclusive", "link", "rename", "mkdir"])
@pytest.mark.fault(16, 30)
def test_temporary_errors_exit_with_75_and_permanent_ones_with_6(
    tmp_path: Path, inputs: list[Input], method: str, number: int
) -> None:
    class Refusing(Fast):
        refuses = False

    def refuse(first: Path, *rest: object) -> object:
        path = rest[0] if method in ("link", "rename") else first
        if Refusing.refuses and isinstance(path, Path) and path.parent.name != "lease":
            raise OSError(number, os.strerror(number), str(path))
        return getattr(FAST, method)(first, *rest)

    if (method, number) == ("link", errno.EPERM):
        pytest.skip("without hard links, a rename is used instead")
    fs = Refusing()
    setattr(fs, method, refuse)
    error_type: type[HymtError] = StoppedError if number in TEMPORARY else PreflightError
    with pytest.raises(error_type) as error_info, open_output(tmp_path / "job", inputs, fs=fs) as output:
        Refusing.refuses = True
        for shard in shards(inputs[0]):
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            output.finish_shard(shard)
    assert type(error_info.value) is error_type
    assert errno.errorcode[number] in str(error_info.value)
    assert "run the same command again" in str(error_info.value)
    if error_type is PreflightError:
        assert str(tmp_path / "job") in str(error_info.value)  # the file
    assert not list((tmp_path / "job" / "translated").iterdir())


@pytest.mark.parametrize(
    ("number", "error_type"),
    [
        *((number, StoppedError) for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV)),
        *((number, PreflightError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)),
    ],
)
@pytest.mark.parametrize("method", ["open_exclusive", "mkdir", "rename", "fsync_dir"])
@pytest.mark.fault(16, 30)
def test_errors_while_a_job_is_opened_exit_with_75_if_temporary(
    tmp_path: Path, inputs: list[Input], method: str, number: int, error_type: type[HymtError]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fs = Fast()
    setattr(fs, method, refuse)
    with pytest.raises(HymtError) as error_info:
        open_output(tmp_path / "job", inputs, fs=fs)
    assert type(error_info.value) is error_type
    assert str(tmp_path / "job") in str(error_info.value)


@pytest.mark.parametrize(
    "name", ["", "translated", "errors", file_state("sub/b.txt"), f"{file_state('sub/b.txt')}/s0000000"]
)
@pytest.mark.fault(30)
def test_a_missing_write_permission_is_reported_before_anything_is_decoded(
    tmp_path: Path, inputs: list[Input], name: str
) -> None:
    folder = tmp_path / "job"
    begin(folder, inputs)
    (folder / "errors").mkdir(exist_ok=True)

    class Guarded(Fast):
        def writable(self, path: Path) -> bool:
            return path != folder / name and super().writable(path)

    decoded: list[str] = []
    with pytest.raises(PreflightError, match="no permission to write in") as error_info:
        run(folder, inputs, fs=Guarded(), decoded=decoded.append)
    assert str(folder / name) in str(error_info.value)
    assert not decoded
    run(folder, inputs)
    run(folder, inputs, fs=Guarded())  # a finished job does not need to write


# names and permissions


@pytest.mark.fault(80)
def test_a_path_too_long_to_open_is_refused_before_anything_is_created(tmp_path: Path, inputs: list[Input]) -> None:
    deep = Path(str(tmp_path) + "/" + "/".join(["d" * 200] * 30)[: 3900 - len(str(tmp_path))])
    with pytest.raises(ConfigError, match=r"longer than 4095 bytes\. Set output_dir= to a shorter path, or rename"):
        open_output(deep / "job", [replace(inputs[0], rel="x" * 230, out_rel="x" * 230)])
    with pytest.raises(ConfigError, match=r"the path of the output folder has 4\d+ bytes"):
        open_output(deep / ("d" * 200) / "job", inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]


@pytest.mark.parametrize(
    "name", ["manifest.json", ".hymt/job.json", f"{file_state('a.txt')}/file.json", "translated/a.txt"]
)
@pytest.mark.fault(30)
def test_a_file_without_read_permission_is_neither_damaged_nor_rebuilt(
    tmp_path: Path, inputs: list[Input], name: str
) -> None:
    class Denied(Fast):
        def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
            if str(path).endswith(f"job/{name}"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return super().read(path, start, size)

    folder = tmp_path / "job"
    run(folder, inputs)
    before = tree(folder)
    report = verify.verify(folder, Denied())
    assert (report.exit_code, report.damage, report.unreadable) == (ExitCode.PREFLIGHT, [], [name])
    assert "chmod" in verify.render(report)
    assert "Run the job again" not in verify.render(report)
    assert status.status(folder, Denied()).state in ("unreadable", "complete")
    with pytest.raises(PreflightError, match="you have no permission"):
        run(folder, inputs, fs=Denied())
    assert {path: data for path, data in tree(folder).items() if "stopped.json" not in path} == before


@pytest.mark.fault(30)
def test_a_folder_of_another_user_exits_with_6(tmp_path: Path, inputs: list[Input]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = tmp_path / "job"
    run(folder, inputs)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o055 != 0o055:
            parent.chmod(parent.stat().st_mode | 0o055)
    (folder / ".hymt").chmod(0o700)
    os.seteuid(65534)
    try:
        report = verify.verify(folder)
        job_status = status.status(folder)
    finally:
        os.seteuid(0)
    assert report.exit_code is ExitCode.PREFLIGHT
    assert report.unreadable[0].startswith(".hymt")
    assert job_status.state == "unreadable"


def test_an_error_about_an_open_folder_names_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error", fd)

    (tmp_path / "job" / "sub").mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", fails)
    with pytest.raises(OSError, match="input/output") as error_info:
        OS_FS.within(tmp_path / "job").listdir(tmp_path / "job" / "sub")
    assert error_info.value.filename == str(tmp_path / "job" / "sub")
    for error in (error_info.value, OSError(errno.EACCES, "denied", 5)):
        assert isinstance(storage_error.output_folder_error(tmp_path, error), HymtError)
        assert str(storage_error.write_error("what", error))
