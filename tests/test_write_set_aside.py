"""What somebody wrote into translated/ is kept in set_aside/ before it is made again; the job's own files are not."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from faults.upper import Fast, an_input, open_output, plan, run, shards, upper

from hymt_batch import manifest
from hymt_batch.errors import ExitCode, StoppedError
from hymt_batch.fs import OS_FS, Stat
from hymt_batch.records import Input
from hymt_batch.write import set_aside
from jobs import status, verify

EDITED = b"somebody's own work\n"


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(9)) + "empty\n")
    return [an_input(tmp_path / "in.txt", rel) for rel in ("a.txt", "sub/b.txt")]


def kept(folder: Path) -> dict[str, bytes]:
    place = folder / "set_aside"
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def name(rel: str, data: bytes, digits: int = 8) -> str:
    return f"{rel}.{hashlib.sha256(data).hexdigest()[:digits]}"


class NoLinks(Fast):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")


@pytest.mark.parametrize("store", [Fast(), NoLinks()], ids=["links", "no links"])
@pytest.mark.parametrize("lost", ["", "file.json"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"on_input_change": "redo"}], ids=str)
@pytest.mark.parametrize("rel", ["a.txt", "sub/b.txt"])
@pytest.mark.fault(39)
def test_a_changed_file_is_set_aside_and_made_again(
    tmp_path: Path, inputs: list[Input], rel: str, options: dict[str, Any], lost: str, store: Fast,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = tmp_path / "job"
    run(folder, inputs)
    right = (folder / "translated" / rel).read_bytes()
    (folder / "translated" / rel).write_bytes(EDITED)
    if lost:
        (manifest.file_state_folder(folder, inputs[("a.txt", "sub/b.txt").index(rel)].file_id) / lost).unlink()
    run(folder, inputs, fs=store, **options)
    assert (folder / "translated" / rel).read_bytes() == right
    assert kept(folder) == {name(rel, EDITED): EDITED}
    assert f"translated/{rel} is not what this job made. It is kept as set_aside/{name(rel, EDITED)}" in caplog.text
    report = verify.verify(folder)
    assert (report.exit_code, report.damage) == (ExitCode.COMPLETE, [])
    assert status.status(folder).state == "complete"
    shutil.rmtree(folder / "set_aside")  # it is the user's to remove
    run(folder, inputs)
    assert kept(folder) == {}


def test_every_edition_is_kept_once_and_none_is_overwritten(tmp_path: Path, inputs: list[Input]) -> None:
    folder, rel = tmp_path / "job", "a.txt"
    run(folder, inputs)
    other = b"another file has this name"
    (folder / "set_aside").mkdir()
    (folder / "set_aside" / name(rel, EDITED)).write_bytes(other)
    for data in (EDITED, b"second\n", EDITED):
        (folder / "translated" / rel).write_bytes(data)
        run(folder, inputs)
    assert kept(folder) == {
        name(rel, EDITED): other,
        name(rel, EDITED, 16): EDITED,
        name(rel, b"second\n"): b"second\n",
    }


@pytest.mark.parametrize("options", [{"overwrite": True}, {"on_input_change": "redo"}], ids=str)
def test_the_files_that_the_job_made_are_not_set_aside(
    tmp_path: Path, inputs: list[Input], options: dict[str, Any]
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    Path(inputs[0].path).write_text("other\nrows\n")
    run(folder, inputs, **options)
    run(folder, inputs[:1], **options)  # one input fewer
    assert kept(folder) == {}
    assert sorted(path.name for path in (folder / "translated").iterdir()) == (
        ["a.txt", "sub"] if "overwrite" in options and (folder / "translated/sub").exists() else ["a.txt"]
    )


def test_a_file_that_is_dropped_with_its_input_is_kept_where_somebody_changed_it(
    tmp_path: Path, inputs: list[Input]
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    (folder / "translated" / "sub" / "b.txt").write_bytes(EDITED)
    run(folder, inputs[:1], on_input_change="redo")
    assert kept(folder) == {name("sub/b.txt", EDITED): EDITED}
    assert not (folder / "translated" / "sub").exists()
    assert not (folder / "errors" / "sub").exists()
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE


def test_a_changed_errors_file_is_made_again_and_not_kept(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    path = folder / "errors" / "a.txt.errors.jsonl"
    right = path.read_bytes()
    path.write_bytes(EDITED)
    run(folder, inputs)
    assert path.read_bytes() == right
    assert kept(folder) == {}


def test_a_file_of_a_job_that_is_not_finished_is_kept_too(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    with open_output(folder, inputs) as output:
        for shard in shards(inputs[0]):
            for part in plan(shard):
                output.commit(shard, part, upper(shard, part))
            output.finish_shard(shard)
    (folder / "translated" / "a.txt").write_bytes(EDITED)
    (folder / "translated" / "sub").mkdir()
    (folder / "translated" / "sub" / "b.txt").write_bytes(EDITED + b"2")  # nobody made it yet
    run(folder, inputs)
    assert kept(folder) == {name("a.txt", EDITED): EDITED, name("sub/b.txt", EDITED + b"2"): EDITED + b"2"}


def test_the_name_of_a_kept_file_fits_the_store(tmp_path: Path) -> None:
    path = set_aside.preserved_path(tmp_path, "sub/" + "é" * 125 + ".txt", "0" * 8)
    assert len(os.fsencode(path.name)) <= 255
    assert path.name.endswith(".00000000")
    assert path.parent == tmp_path / "set_aside" / "sub"


def test_no_scan_of_inputs_finds_what_is_set_aside(tmp_path: Path, inputs: list[Input]) -> None:
    from hymt_batch.source import stream
    from hymt_batch.source.settings import SourceConfig

    run(tmp_path / "in" / "job", inputs)
    (tmp_path / "in" / "job" / "set_aside").mkdir()
    (tmp_path / "in" / "job" / "set_aside" / "a.txt").write_text("x\n")
    (tmp_path / "in" / "c.txt").write_text("x\n")
    found = stream.find_inputs(SourceConfig(path=str(tmp_path / "in")), stream.Spool(tmp_path / "o"), "input")
    assert [one.rel for one in found] == ["c.txt"]
    assert OS_FS.stat(tmp_path / "in" / "job").kind == "dir"


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.fault(39)
def test_a_store_that_fails_once_to_find_a_changed_file_does_not_cost_it(
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
    assert kept(folder) == {name("a.txt", EDITED): EDITED}


@pytest.mark.fault(39)
def test_a_changed_file_never_passes_for_the_published_one(tmp_path: Path, inputs: list[Input]) -> None:
    """Two errors in one run: its record cannot be read at first, and the new file cannot be put in its place."""
    folder = tmp_path / "job"
    run(folder, inputs)
    right = (folder / "translated/a.txt").read_bytes()
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
    assert (folder / "translated/a.txt").read_bytes() == right
    assert EDITED in kept(folder).values()
