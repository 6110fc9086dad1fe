"""Faults of the file system: full, failing, read-only or wrong results; and damaged files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import ExitCode, PreflightError, StoppedError
from hymt_batch.records import Input
from hymt_batch.write import part as parts
from hymt_batch.write import row_lines
from tests.fakes.upper import ENVIRONMENT, FAST, Fast, an_input, open_output, plan, run, shards, upper


class Failing(Fast):
    """A file system that fails one operation on the paths (or their descriptors) that a test chooses."""

    def __init__(self, number: int, on: str, where: str, times: int = 10**9) -> None:
        self.number, self.on, self.where, self.times, self.paths = number, on, where, times, dict[int, str]()
        for name in ("write_all", "fsync", "close", "link", "rename", "fsync_dir", "read"):
            setattr(self, name, self._wrapped(name, getattr(FAST, name)))

    def open_exclusive(self, path: Path) -> int:
        fd = super().open_exclusive(path)
        self.paths[fd] = str(path)
        return fd

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            path = self.paths.get(first, "") if isinstance(first, int) else str(first)
            if name == self.on and self.where in path and self.times > 0:
                self.times -= 1
                if name == "close":
                    original(first)
                raise OSError(self.number, os.strerror(self.number))
            return original(first, *rest, **options)

        return call


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0, 0.0))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(19)) + "empty\n")
    return [an_input(tmp_path / "in.txt")]


def outputs(folder: Path) -> list[bytes]:
    return [(folder / n).read_bytes() for n in ("translated/in.txt", "errors/in.txt.errors.jsonl", "manifest.json")]


@pytest.fixture
def golden(tmp_path: Path, inputs: list[Input]) -> list[bytes]:
    run(tmp_path / "golden", inputs)
    return outputs(tmp_path / "golden")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS])
@pytest.mark.parametrize("on", ["write_all", "fsync", "close", "link"])
@pytest.mark.fault(16, 17, 18, 20, 21, 25)
def test_a_storage_error_in_a_part_stops_the_job_which_then_resumes(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], on: str, number: int
) -> None:
    permanent = number == errno.EFBIG  # a limit of the process: running again does not help
    with pytest.raises(PreflightError if permanent else StoppedError, match=errno.errorcode[number]) as stopped:
        run(tmp_path / "job", inputs, fs=Failing(number, on, "s0000001/.tmp-p00001"))
    assert stopped.value.exit_code is (ExitCode.PREFLIGHT if permanent else ExitCode.STOPPED)
    assert not list((tmp_path / "job").rglob(".tmp-*"))
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert decoded[0] == "in.txt/1/1"  # what was committed before is kept
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("on", ["write_all", "fsync", "close", "link"])
@pytest.mark.fault(20, 21)
def test_a_temporary_error_only_costs_a_new_file(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], on: str
) -> None:
    run(tmp_path / "job", inputs, fs=Failing(errno.EIO, on, ".tmp-p00001", times=2))
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("on", ["write_all", "fsync", "rename"])
@pytest.mark.fault(16)
def test_a_storage_error_in_the_final_file_stops_the_job_which_then_resumes(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], on: str
) -> None:
    with pytest.raises(StoppedError, match=r"translated/in.txt could not be written: ENOSPC"):
        run(tmp_path / "job", inputs, fs=Failing(errno.ENOSPC, on, "translated/.tmp-final"))
    assert not list((tmp_path / "job" / "translated").iterdir())
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert not decoded
    assert outputs(tmp_path / "job") == golden


@pytest.mark.fault(28)
def test_hard_links_are_not_required(tmp_path: Path, inputs: list[Input], golden: list[bytes]) -> None:
    run(tmp_path / "job", inputs, fs=Failing(errno.EPERM, "link", ""))
    assert outputs(tmp_path / "job") == golden


@pytest.mark.fault(25)
def test_a_folder_that_vanishes_for_a_moment_does_no_harm(
    tmp_path: Path, inputs: list[Input], golden: list[bytes]
) -> None:
    with open_output(tmp_path / "job", inputs) as output:
        for shard in shards(inputs[0]):
            for part in plan(shard):
                if shard.index == 1 and part.index == 1:
                    (tmp_path / "job/.hymt" / f"f{inputs[0].file_id}" / "s0000001").rename(tmp_path / "away")
                    (tmp_path / "away").rename(tmp_path / "job/.hymt" / f"f{inputs[0].file_id}" / "s0000001")
                output.commit(part, upper(part), ENVIRONMENT)
            output.finish_shard(shard)
        output.finalize()
    assert outputs(tmp_path / "job") == golden


@pytest.mark.fault(38)
def test_removing_the_state_while_a_job_runs_yields_no_wrong_file(tmp_path: Path, inputs: list[Input]) -> None:
    import shutil

    with pytest.raises(StoppedError), open_output(tmp_path / "job", inputs) as output:
        for shard in shards(inputs[0]):
            if shard.index == 1:
                shutil.rmtree(tmp_path / "job" / ".hymt")
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            output.finish_shard(shard)
    assert not list((tmp_path / "job" / "translated").iterdir())


def begin(folder: Path, inputs: list[Input], num_shards: int = 2, *, finish: bool = False) -> list[Path]:
    """Commit the first shards and return the paths of their parts, or of their row records if `finish` is set."""
    with open_output(folder, inputs) as output:
        for shard in list(shards(inputs[0]))[:num_shards]:
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            if finish:
                output.finish_shard(shard)
    return sorted(p for p in (folder / ".hymt").rglob("s*.rows" if finish else "p0*") if p.is_file())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\n",
    "zeros": lambda data: bytes(len(data)),
    "header only": lambda data: data[: data.index(b"\n") + 1],
    "a bit of the header": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "a bit of the text": lambda data: data.replace(b"LINE", b"LINF", 1),
    "another job's": lambda data: data.replace(b'"identity":"', b'"identity":"0', 1),
    "from the future": lambda data: data.replace(b'"v":1', b'"v":9', 1),
    "not text": lambda data: os.urandom(100),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.fault(35, 36)
def test_a_damaged_part_is_quarantined_and_translated_again(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], name: str
) -> None:
    victim = begin(tmp_path / "job", inputs)[1]
    victim.write_bytes(DAMAGES[name](victim.read_bytes()))
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert decoded[0] == "in.txt/0/1"
    assert not any(d.startswith(("in.txt/0/0", "in.txt/1")) for d in decoded)
    assert outputs(tmp_path / "job") == golden
    quarantined = sorted((tmp_path / "job" / ".hymt" / "quarantine").iterdir())
    assert len(quarantined) == 2
    assert quarantined[1].read_text().strip()


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.fault(35, 36)
def test_a_damaged_row_record_is_quarantined_and_its_shard_translated_again(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], name: str, published: bool
) -> None:
    victim = begin(tmp_path / "job", inputs, 3 if published else 2, finish=True)[0]
    data = DAMAGES[name](victim.read_bytes())
    if name == "a bit of the text":  # the text is compressed
        data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    victim.write_bytes(data)
    if published:
        (tmp_path / "job" / "translated" / "in.txt").unlink()
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert [part for part in decoded if part.startswith(("in.txt/0", "in.txt/1"))] == [
        "in.txt/0/0",
        "in.txt/0/1",
        "in.txt/0/2",
    ]
    assert outputs(tmp_path / "job") == golden
    assert len(list((tmp_path / "job" / ".hymt" / "quarantine").iterdir())) == 2


def test_the_harness_detects_parts_read_without_checksums(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = begin(tmp_path / "job", inputs)[1]
    victim.write_bytes(DAMAGES["a bit of the text"](victim.read_bytes()))

    def trusting(data: bytes) -> Any:
        line, _, payload = data.partition(b"\n")
        return parts.decode_header(line), payload

    def trusting_rows(data: bytes) -> Any:
        header, payload = trusting(data)
        return header, row_lines.decode_rows(payload)

    monkeypatch.setattr(parts, "decode_payload", trusting)
    monkeypatch.setattr(parts, "decode", trusting_rows)
    run(tmp_path / "job", inputs)
    assert outputs(tmp_path / "job") != golden


@pytest.mark.fault(37)
def test_a_part_copied_over_another_one_is_rejected(tmp_path: Path, inputs: list[Input], golden: list[bytes]) -> None:
    first, second, *_ = begin(tmp_path / "job", inputs)
    second.write_bytes(first.read_bytes())
    run(tmp_path / "job", inputs)
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
@pytest.mark.fault(41)
def test_links_pipes_and_foreign_files_in_the_state_are_never_opened(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], kind: str
) -> None:
    victim = begin(tmp_path / "job", inputs)[1]
    data = victim.read_bytes()
    victim.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    if kind == "symlink":
        victim.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    (victim.parent / ".nfs0001").write_bytes(b"x")
    (victim.parent.parent / "notes.swp").write_bytes(b"x")
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert "in.txt/0/1" in decoded
    assert outputs(tmp_path / "job") == golden
    assert (tmp_path / "elsewhere").read_bytes() == data


@pytest.mark.fault(22)
def test_a_part_that_cannot_be_read_once_does_no_harm(tmp_path: Path, inputs: list[Input], golden: list[bytes]) -> None:
    begin(tmp_path / "job", inputs)
    run(tmp_path / "job", inputs, fs=Failing(errno.EIO, "read", "s0000000/p00001", times=1))
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("name", ["empty", "half", "zeros", "not text"])
@pytest.mark.fault(35)
def test_a_damaged_job_file_is_rebuilt_when_all_parts_belong_to_this_job(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], name: str
) -> None:
    begin(tmp_path / "job", inputs)
    job = tmp_path / "job" / ".hymt" / "job.json"
    job.write_bytes(DAMAGES[name](job.read_bytes()))
    decoded: list[str] = []
    run(tmp_path / "job", inputs, decoded=decoded.append)
    assert not any(d.startswith(("in.txt/0", "in.txt/1")) for d in decoded)
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("name", ["empty", "half", "zeros", "not text"])
@pytest.mark.parametrize("file", ["manifest.json", "file.json"])
@pytest.mark.fault(39)
def test_a_damaged_record_of_a_finished_job_is_rebuilt(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], name: str, file: str
) -> None:
    run(tmp_path / "job", inputs)
    path = next((tmp_path / "job").rglob(file))
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    run(tmp_path / "job", inputs)
    assert outputs(tmp_path / "job") == golden


@pytest.mark.parametrize("file", ["translated/in.txt", "errors/in.txt.errors.jsonl"])
@pytest.mark.parametrize("name", ["empty", "one byte long", "removed"])
@pytest.mark.fault(39)
def test_a_damaged_output_of_a_finished_job_is_rebuilt(
    tmp_path: Path, inputs: list[Input], golden: list[bytes], file: str, name: str
) -> None:
    run(tmp_path / "job", inputs)
    path = tmp_path / "job" / file
    if name == "removed":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[name](path.read_bytes()))
    run(tmp_path / "job", inputs)
    assert outputs(tmp_path / "job") == golden


@pytest.mark.fault(30)
def test_a_read_only_file_system_fails_before_anything_is_created(tmp_path: Path, inputs: list[Input]) -> None:
    class ReadOnly(Fast):
        def open_exclusive(self, path: Path) -> int:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    with pytest.raises(PreflightError, match=r"read-only. Set output_dir="):
        run(tmp_path / "job", inputs, fs=ReadOnly())


def test_a_file_system_without_exclusive_create_is_refused(tmp_path: Path, inputs: list[Input]) -> None:
    class Sloppy(Fast):
        def open_exclusive(self, path: Path) -> int:
            return os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)

    with pytest.raises(PreflightError, match="O_EXCL has no effect"):
        run(tmp_path / "job", inputs, fs=Sloppy())


@pytest.mark.fault(16)
@pytest.mark.fault(43)
def test_probe_files_removed_by_another_run_do_not_fail_the_storage_check(
    tmp_path: Path, inputs: list[Input], golden: list[bytes]
) -> None:
    class RemovesProbes(Fast):
        """Removes the probe files, as another run may do: once each after two of the probe's operations."""

        def __init__(self) -> None:
            self.swept = set[str]()
            for name in ("close", "link", "rename"):
                setattr(self, name, self._then_swept(name, getattr(FAST, name)))

        def _then_swept(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                result, probe_files = original(*arguments), list((tmp_path / "job" / ".hymt").glob("probe-*"))
                if probe_files and name not in self.swept and len(self.swept) < 2:
                    self.swept.add(name)
                    for path in probe_files:
                        path.unlink()
                return result

            return call

    fs = RemovesProbes()
    run(tmp_path / "job", inputs, fs=fs)
    assert fs.swept
    assert outputs(tmp_path / "job") == golden


def test_too_little_space_is_reported_with_needed_and_free_bytes(tmp_path: Path, inputs: list[Input]) -> None:
    class Small(Fast):
        def statvfs(self, path: Path) -> tuple[int, int | None]:
            return 1000, 5

    with pytest.raises(PreflightError, match=r"0.0 MiB free, and this job needs about 1.0 MiB"):
        run(tmp_path / "job", inputs, fs=Small())


@pytest.mark.fault(19)
def test_too_few_inodes_are_reported_with_needed_and_free_inodes(tmp_path: Path, inputs: list[Input]) -> None:
    class Small(Fast):
        def statvfs(self, path: Path) -> tuple[int, int | None]:
            return 1 << 40, 5

    with pytest.raises(PreflightError, match=r"5 inodes free, and this job needs about 68"):
        run(tmp_path / "job", inputs, fs=Small())


def test_state_and_outputs_have_the_modes_a_user_expects(tmp_path: Path, inputs: list[Input]) -> None:
    old_umask = os.umask(0o027)
    try:
        run(tmp_path / "job", inputs)
    finally:
        os.umask(old_umask)
    assert (tmp_path / "job" / ".hymt").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "job" / "translated" / "in.txt").stat().st_mode & 0o777 == 0o640


def test_job_json_has_a_timestamp_and_the_manifest_has_none(tmp_path: Path, inputs: list[Input]) -> None:
    run(tmp_path / "a", inputs)
    run(tmp_path / "b", inputs)
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    assert manifest.read_job(files.OS_FS, tmp_path / "a").created
    assert "created" not in json.loads((tmp_path / "a" / "manifest.json").read_text())
