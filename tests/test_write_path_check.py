"""Nothing outside of an output folder is read, written or removed; what never passes is exit 6 and names the file."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults.upper import FAST, Fast, an_input, open_output, plan, run, shards, upper

from hymt_batch import fs as files
from hymt_batch import storage_error
from hymt_batch.errors import ConfigError, ExitCode, HymtError, PreflightError, StoppedError
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input
from jobs import status, verify

RELS = ("a.txt", "sub/b.txt")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0, 0.0))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(9)) + "empty\n")
    return [an_input(tmp_path / "in.txt", rel) for rel in RELS]


def home(rel: str) -> str:
    return f".hymt/f{an_input(Path(rel), rel).file_id}"


def begin(folder: Path, inputs: list[Input]) -> None:
    """One file published, some parts of the other."""
    with open_output(folder, inputs) as output:
        for input in inputs:
            for shard in list(shards(input))[: 2 if input is inputs[0] else 1]:
                for part in plan(shard):
                    output.commit(shard, part, upper(shard, part))
                output.finish_shard(shard)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# links in place of folders

FOLDERS = [
    "translated", "translated/sub", "errors", "errors/sub", ".hymt", ".hymt/lease", ".hymt/attempts",
    ".hymt/quarantine", ".hymt/spool", home("a.txt"), home("sub/b.txt"), f"{home('sub/b.txt')}/s0000000", "set_aside",
]  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.fault(80, 81)
def test_a_link_in_place_of_any_folder_leads_nowhere(
    tmp_path: Path, inputs: list[Input], name: str, finished: bool, overwrite: bool
) -> None:
    folder, victim = tmp_path / "o" / "job", tmp_path / "victim"
    (run if finished else begin)(folder, inputs)
    path = folder / name
    if path.is_dir():
        shutil.copytree(path, victim)  # so that each name that could be opened is there
    victim.mkdir(exist_ok=True)
    for own in ("p00000", ".tmp-final-x", ".tmp-x", "a.txt", "b.txt", "stale-x", "probe-x", "file.json", "job.json"):
        (victim / own).write_text("precious")
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(victim)
    before = tree(victim)
    verify.verify(folder)
    status.status(folder)
    try:
        run(folder, inputs, overwrite=overwrite, lease_ttl_s=10.0)
        unused = finished and name.startswith((".hymt/f", "set_aside"))  # its parts are gone: nothing looks there
        assert unused or (overwrite and "s0000000" in name)
    except HymtError as error:
        assert error.exit_code in (ExitCode.PREFLIGHT, ExitCode.IDENTITY)
        if error.exit_code is ExitCode.PREFLIGHT:
            assert f"{path} is a link, and a folder should be there" in str(error)
            assert "Move it away or remove it" in str(error)
    assert tree(victim) == before
    assert path.is_symlink()


def test_the_output_folder_and_what_is_above_it_may_be_links(tmp_path: Path, inputs: list[Input]) -> None:
    for name in ("large", "large/real"):
        (tmp_path / name).mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "large")
    (tmp_path / "large" / "job").symlink_to(tmp_path / "large" / "real")
    run(tmp_path / "outputs" / "job", inputs)
    assert (tmp_path / "large" / "real" / "translated" / "sub" / "b.txt").is_file()
    assert verify.verify(tmp_path / "outputs" / "job").exit_code is ExitCode.COMPLETE


def test_each_operation_of_the_store_refuses_a_link_on_the_way(tmp_path: Path) -> None:
    folder, victim = tmp_path / "job", tmp_path / "victim"
    for path in (folder / "real", victim):
        path.mkdir(parents=True)
    for path in (victim / "file", folder / "real" / "file"):
        path.write_text("precious")
    (folder / "link").symlink_to(victim)
    here, link = OS_FS.within(folder), folder / "link"
    operations: list[Callable[[], object]] = [
        lambda: here.open_exclusive(link / "new"),
        lambda: here.link(folder / "real" / "file", link / "new"),
        lambda: here.link(link / "file", folder / "real" / "new"),
        lambda: here.rename(folder / "real" / "file", link / "file"),
        lambda: here.rename(link / "file", folder / "real" / "file"),
        lambda: here.unlink(link / "file"),
        lambda: here.mkdir(link / "new", 0o777),
        lambda: here.rmdir(link / "file"),
        lambda: here.fsync_dir(link),
        lambda: here.read(link / "file"),
        lambda: here.stat(link / "file"),
        lambda: here.listdir(link),
    ]
    for number, operation in enumerate(operations):
        with pytest.raises(NotADirectoryError) as refused:
            operation()
        assert str(link) in (refused.value.filename, refused.value.filename2), number
    assert tree(victim) == {"file": b"precious"}
    assert here.read(folder / "real" / "file") == b"precious"  # and where there is none, it works
    assert here.listdir(folder / "real") == ["file"]
    assert OS_FS.read(link / "file") == b"precious"  # a store of no folder follows what is above the last component


# what stands where a file should be


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a pipe": os.mkfifo,
    "a socket": _socket,
}
FILES = [
    "manifest.json", ".hymt/job.json", ".hymt/lease/job.json", "translated/a.txt", "translated/sub/b.txt",
    "errors/a.txt.errors.jsonl", f"{home('a.txt')}/file.json",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.fault(80)
def test_another_kind_of_thing_in_place_of_a_file_is_named_with_the_way_out(
    tmp_path: Path, inputs: list[Input], name: str, kind: str
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    for overwrite in (False, True):
        with pytest.raises(PreflightError) as refused:
            run(folder, inputs, overwrite=overwrite, lease_ttl_s=10.0)
        assert f"{folder / name} is {kind}, and a file should be there" in str(refused.value)
    assert storage_error.describe_type(folder / name) == kind
    report = verify.verify(folder)
    assert report.exit_code is ExitCode.DAMAGE
    assert f"{name}: is {kind}, and a file should be there" in report.damage
    assert "Move away what blocks the path of an expected file or folder" in verify.render(report)
    assert "rebuild what is damaged or missing" not in verify.render(report)
    status.render(status.status(folder))


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.fault(80)
def test_a_file_in_place_of_a_folder_is_named_with_the_way_out(tmp_path: Path, inputs: list[Input], name: str) -> None:
    folder = tmp_path / "job"
    begin(folder, inputs)
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).write_text("x")
    with pytest.raises(PreflightError, match=f"{name} is a file, and a folder should be there"):
        run(folder, inputs)
    if "s0000000" not in name:
        assert f"{name}: is a file, and a folder should be there" in verify.verify(folder).damage


# the translator of errors

PASSES = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.ENFILE]
NEVER = [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV,
         errno.EFBIG, errno.EMFILE]  # fmt: skip


@pytest.mark.parametrize("number", PASSES + NEVER)
@pytest.mark.parametrize("method", ["open_exclusive", "link", "rename", "mkdir"])
@pytest.mark.fault(16, 30)
def test_what_may_pass_is_75_and_what_never_does_is_6(
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
        pytest.skip("a store without links: a rename serves")
    store = Refusing()
    setattr(store, method, refuse)
    wanted: type[HymtError] = StoppedError if number in PASSES else PreflightError
    with pytest.raises(wanted) as told, open_output(tmp_path / "job", inputs, fs=store) as output:
        Refusing.refuses = True
        for shard in shards(inputs[0]):
            for part in plan(shard):
                output.commit(shard, part, upper(shard, part))
            output.finish_shard(shard)
    assert type(told.value) is wanted
    assert errno.errorcode[number] in str(told.value)
    assert "run the same command again" in str(told.value)
    if wanted is PreflightError:
        assert str(tmp_path / "job") in str(told.value)  # the file
    assert not list((tmp_path / "job" / "translated").iterdir())


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        *((number, StoppedError) for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV)),
        *((number, PreflightError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)),
    ],
)
@pytest.mark.parametrize("method", ["open_exclusive", "mkdir", "rename", "fsync_dir"])
@pytest.mark.fault(16, 30)
def test_a_store_that_fails_while_a_job_is_opened_is_75_if_it_may_pass(
    tmp_path: Path, inputs: list[Input], method: str, number: int, wanted: type[HymtError]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    store = Fast()
    setattr(store, method, refuse)
    with pytest.raises(HymtError) as told:
        open_output(tmp_path / "job", inputs, fs=store)
    assert type(told.value) is wanted
    assert str(tmp_path / "job") in str(told.value)


@pytest.mark.parametrize("name", ["", "translated", "errors", home("sub/b.txt"), f"{home('sub/b.txt')}/s0000000"])
@pytest.mark.fault(30)
def test_a_folder_that_this_user_may_not_write_in_is_told_before_anything_is_decoded(
    tmp_path: Path, inputs: list[Input], name: str
) -> None:
    folder = tmp_path / "job"
    begin(folder, inputs)
    (folder / "errors").mkdir(exist_ok=True)

    class Guarded(Fast):
        def writable(self, path: Path) -> bool:
            return path != folder / name and super().writable(path)

    decoded: list[str] = []
    with pytest.raises(PreflightError, match="this user may not write in") as told:
        run(folder, inputs, fs=Guarded(), decoded=decoded.append)
    assert str(folder / name) in str(told.value)
    assert not decoded
    run(folder, inputs)
    run(folder, inputs, fs=Guarded())  # a finished job needs to write nothing


# names and permissions


@pytest.mark.fault(80)
def test_a_path_that_no_program_could_open_is_refused_before_anything_is_made(
    tmp_path: Path, inputs: list[Input]
) -> None:
    deep = Path(str(tmp_path) + "/" + "/".join(["d" * 200] * 30)[: 3900 - len(str(tmp_path))])
    with pytest.raises(ConfigError, match=r"longer than 4095 bytes\. Set output_dir= to a shorter path, or rename"):
        open_output(deep / "job", [replace(inputs[0], rel="x" * 230, out_rel="x" * 230)])
    with pytest.raises(ConfigError, match=r"the path of the output folder takes 4\d+ bytes"):
        open_output(deep / ("d" * 200) / "job", inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]


@pytest.mark.parametrize("name", ["manifest.json", ".hymt/job.json", f"{home('a.txt')}/file.json", "translated/a.txt"])
@pytest.mark.fault(30)
def test_a_file_that_this_user_may_not_read_is_neither_damaged_nor_made_again(
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
    with pytest.raises(PreflightError, match="this user may not"):
        run(folder, inputs, fs=Denied())
    assert {path: data for path, data in tree(folder).items() if "stopped.json" not in path} == before


@pytest.mark.fault(30)
def test_a_folder_of_another_user_is_exit_6(tmp_path: Path, inputs: list[Input]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = tmp_path / "job"
    run(folder, inputs)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and above.stat().st_mode & 0o055 != 0o055:
            above.chmod(above.stat().st_mode | 0o055)
    (folder / ".hymt").chmod(0o700)
    os.seteuid(65534)
    try:
        report = verify.verify(folder)
        found = status.status(folder)
    finally:
        os.seteuid(0)
    assert report.exit_code is ExitCode.PREFLIGHT
    assert report.unreadable[0].startswith(".hymt")
    assert found.state == "unreadable"


def test_an_error_about_an_open_folder_names_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error", fd)

    (tmp_path / "job" / "sub").mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", fails)
    with pytest.raises(OSError, match="input/output") as told:
        OS_FS.within(tmp_path / "job").listdir(tmp_path / "job" / "sub")
    assert told.value.filename == str(tmp_path / "job" / "sub")
    for error in (told.value, OSError(errno.EACCES, "denied", 5)):
        assert isinstance(storage_error.output_folder_error(tmp_path, error), HymtError)
        assert str(storage_error.write_error("what", error))
