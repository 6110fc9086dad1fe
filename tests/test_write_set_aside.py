"""An edited file in translated/ is kept in set_aside/ before it is rebuilt; the job's own files are not kept."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.fs import OS_FS
from hymt_batch.fs_protocol import Stat
from hymt_batch.records import Input
from hymt_batch.source.spool import Spool
from hymt_batch.state_layout import FLAT
from hymt_batch.write import set_aside
from jobs import status, verify
from tests.fakes.upper import ENVIRONMENT, Fast, an_input, open_output, plan, run, shards, upper

EDITED = b"somebody's own work\n"


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(9)) + "empty\n")
    return [an_input(tmp_path / "in.txt", rel) for rel in ("a.txt", "sub/b.txt")]


def set_aside_files(folder: Path) -> dict[str, bytes]:
    root = folder / "set_aside"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def set_aside_name(rel: str, data: bytes, digits: int = 8) -> str:
    return f"{rel}.{hashlib.sha256(data).hexdigest()[:digits]}"


class NoLinks(Fast):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links")


@pytest.mark.parametrize("fs", [Fast(), NoLinks()], ids=["links", "no links"])
@pytest.mark.parametrize("lost", ["", "file.json"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"on_input_change": "redo"}], ids=str)
@pytest.mark.parametrize("rel", ["a.txt", "sub/b.txt"])
@pytest.mark.fault(39)
def test_an_edited_file_is_set_aside_and_rebuilt(
    tmp_path: Path, inputs: list[Input], rel: str, options: dict[str, Any], lost: str, fs: Fast,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = tmp_path / "job"
    run(folder, inputs)
    original = (folder / "translated" / rel).read_bytes()
    (folder / "translated" / rel).write_bytes(EDITED)
    if lost:
        (FLAT.file_state(folder, inputs[("a.txt", "sub/b.txt").index(rel)].file_id) / lost).unlink()
    run(folder, inputs, fs=fs, **options)
    assert (folder / "translated" / rel).read_bytes() == original
    assert set_aside_files(folder) == {set_aside_name(rel, EDITED): EDITED}
    assert (
        f"translated/{rel} is not what this job wrote. It is kept as set_aside/{set_aside_name(rel, EDITED)}"
        in caplog.text
    )
    report = verify.verify(folder)
    assert (report.exit_code, report.damage) == (ExitCode.COMPLETE, [])
    assert status.status(folder).state == "complete"
    shutil.rmtree(folder / "set_aside")  # the user may remove it
    run(folder, inputs)
    assert set_aside_files(folder) == {}


def test_every_edited_version_is_kept_once_and_none_is_overwritten(tmp_path: Path, inputs: list[Input]) -> None:
    folder, rel = tmp_path / "job", "a.txt"
    run(folder, inputs)
    other_data = b"another file has this name"
    (folder / "set_aside").mkdir()
    (folder / "set_aside" / set_aside_name(rel, EDITED)).write_bytes(other_data)
    for data in (EDITED, b"second\n", EDITED):
        (folder / "translated" / rel).write_bytes(data)
        run(folder, inputs)
    assert set_aside_files(folder) == {
        set_aside_name(rel, EDITED): other_data,
        set_aside_name(rel, EDITED, 16): EDITED,
        set_aside_name(rel, b"second\n"): b"second\n",
    }


@pytest.mark.parametrize("options", [{"overwrite": True}, {"on_input_change": "redo"}], ids=str)
def test_files_that_the_job_wrote_are_not_set_aside(
    tmp_path: Path, inputs: list[Input], options: dict[str, Any]
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    Path(inputs[0].path).write_text("other\nrows\n")
    run(folder, inputs, **options)
    run(folder, inputs[:1], **options)  # one input fewer
    assert set_aside_files(folder) == {}
    assert sorted(path.name for path in (folder / "translated").iterdir()) == (
        ["a.txt", "sub"] if "overwrite" in options and (folder / "translated/sub").exists() else ["a.txt"]
    )


def test_an_edited_file_whose_input_is_removed_is_set_aside(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    (folder / "translated" / "sub" / "b.txt").write_bytes(EDITED)
    run(folder, inputs[:1], on_input_change="redo")
    assert set_aside_files(folder) == {set_aside_name("sub/b.txt", EDITED): EDITED}
    assert not (folder / "translated" / "sub").exists()
    assert not (folder / "errors" / "sub").exists()
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE


def test_an_edited_errors_file_is_rebuilt_and_not_kept(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    path = folder / "errors" / "a.txt.errors.jsonl"
    original = path.read_bytes()
    path.write_bytes(EDITED)
    run(folder, inputs)
    assert path.read_bytes() == original
    assert set_aside_files(folder) == {}


def test_an_edited_file_of_an_unfinished_job_is_set_aside(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    with open_output(folder, inputs) as output:
        for shard in shards(inputs[0]):
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            output.finish_shard(shard)
    (folder / "translated" / "a.txt").write_bytes(EDITED)
    (folder / "translated" / "sub").mkdir()
    (folder / "translated" / "sub" / "b.txt").write_bytes(EDITED + b"2")  # the job has not written it yet
    run(folder, inputs)
    assert set_aside_files(folder) == {
        set_aside_name("a.txt", EDITED): EDITED,
        set_aside_name("sub/b.txt", EDITED + b"2"): EDITED + b"2",
    }


def test_the_name_in_set_aside_fits_the_file_system(tmp_path: Path) -> None:
    path = set_aside.preserved_path(tmp_path, "sub/" + "é" * 125 + ".txt", "0" * 8)
    assert len(os.fsencode(path.name)) <= 255
    assert path.name.endswith(".00000000")
    assert path.parent == tmp_path / "set_aside" / "sub"


def test_input_discovery_ignores_set_aside(tmp_path: Path, inputs: list[Input]) -> None:
    from hymt_batch.source import discovery
    from hymt_batch.source.settings import SourceConfig

    run(tmp_path / "in" / "job", inputs)
    (tmp_path / "in" / "job" / "set_aside").mkdir()
    (tmp_path / "in" / "job" / "set_aside" / "a.txt").write_text("x\n")
    (tmp_path / "in" / "c.txt").write_text("x\n")
    inputs_found = discovery.find_inputs(SourceConfig(path=str(tmp_path / "in")), Spool(tmp_path / "o"))
    assert [input.rel for input in inputs_found] == ["c.txt"]
    assert OS_FS.stat(tmp_path / "in" / "job").kind == "dir"


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.fault(39)
def test_a_single_failed_lookup_does_not_lose_an_edited_file(
    tmp_path: Path, inputs: list[Input], options: dict[str, Any], number: int
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    (folder / "translated/a.txt").write_bytes(EDITED)

    class Forgetful(Fast):
        looks = 0

        def stat(self, path: Path) -> Stat:
            if path.name == "a.txt" and path.parent.name == "translated":
                Forgetful.looks += 1
                if Forgetful.looks == number:
                    raise FileNotFoundError(errno.ENOENT, "not found", str(path))
            return super().stat(path)

    run(folder, inputs, fs=Forgetful(), **options)
    assert set_aside_files(folder) == {set_aside_name("a.txt", EDITED): EDITED}


@pytest.mark.fault(39)
def test_an_edited_file_never_counts_as_published(tmp_path: Path, inputs: list[Input]) -> None:
    """Two errors in one run: the record cannot be read at first, and the new file cannot be renamed into place."""
    folder = tmp_path / "job"
    run(folder, inputs)
    original = (folder / "translated/a.txt").read_bytes()
    (folder / "translated/a.txt").write_bytes(EDITED)

    class Failing(Fast):
        read_once = False

        def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
            if path.name == "file.json" and inputs[0].file_id in str(path) and not Failing.read_once:
                Failing.read_once = True
                raise OSError(errno.EIO, "an error")
            return super().read(path, start, size)

        def rename(self, source: Path, target: Path) -> None:
            if target.name == "a.txt" and target.parent.name == "translated":
                raise OSError(errno.EIO, "an error")
            super().rename(source, target)

    with pytest.raises(StoppedError):
        run(folder, inputs, fs=Failing())
    run(folder, inputs)
    assert (folder / "translated/a.txt").read_bytes() == original
    assert EDITED in set_aside_files(folder).values()
