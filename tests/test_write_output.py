"""An output folder accepts only its own job, resumes it, and detects changed inputs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import (
    ConfigError,
    ExitCode,
    HymtError,
    IdentityError,
    InputChangedError,
    MissingError,
    PreflightError,
    StoppedError,
)
from hymt_batch.records import Document, Input, Row, Shard, ShardRecord, Status
from hymt_batch.state_layout import FLAT
from hymt_batch.write import ownership, row_record
from hymt_batch.write import part as parts
from hymt_batch.write.lease import lease_path
from hymt_batch.write.output import Output
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.settings import OnError, WriteConfig
from hymt_batch.write.state_file import StateFileDamagedError
from jobs import verify
from tests.fakes.upper import ENVIRONMENT, FAST, IDENTITY, Fast, an_input, open_output, plan, read, run, shards, upper

OTHER: dict[str, Any] = {"decode": {"method": "other"}, "batch": IDENTITY["batch"]}


def lines(count: int, start: int = 0) -> str:
    return "".join(f"line {i}\n" for i in range(start, start + count))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text(lines(20))
    return path


def begin(folder: Path, inputs: list[Input], num_shards: int = 2, *, finish: bool = True, **options: Any) -> None:
    """Commit the first shards, and make their row records unless `finish` is false."""
    with open_output(folder, inputs, **options) as output:
        for shard in list(shards(inputs[0]))[:num_shards]:
            for part in plan(shard):
                output.commit(part, upper(part), options.get("environment", ENVIRONMENT))
            if finish:
                output.finish_shard(shard)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_job_decodes_nothing_and_changes_no_file(tmp_path: Path, source: Path) -> None:
    first = run(tmp_path / "job", [an_input(source)])
    before = everything(tmp_path / "job")
    decoded: list[str] = []
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        assert output.is_complete
    second = run(tmp_path / "job", [an_input(source)], decoded=decoded.append)
    assert not decoded
    assert everything(tmp_path / "job") == before
    assert (first.num_rows_decoded, first.num_rows_kept) == (20, 0)
    assert (second.num_rows_decoded, second.num_rows_kept, second.counts) == (0, 20, {"ok": 20})
    assert second.outputs == (tmp_path / "job" / "translated" / "in.txt",)


@pytest.mark.parametrize("keep_rows", [True, False])
def test_a_row_record_replaces_the_parts_of_a_shard(tmp_path: Path, source: Path, keep_rows: bool) -> None:
    config = WriteConfig(keep_rows=keep_rows)
    begin(tmp_path / "job", [an_input(source)], 3, finish=False)
    parts_of_job = list((tmp_path / "job" / ".hymt").rglob("p0*"))
    assert len(parts_of_job) == 8
    begin(tmp_path / "job", [an_input(source)], 3)
    assert (tmp_path / "job" / "translated" / "in.txt").exists()
    assert not list((tmp_path / "job" / ".hymt").rglob("p0*"))
    assert len(list((tmp_path / "job" / ".hymt").rglob("*.rows"))) == 3
    run(tmp_path / "job", [an_input(source)], config=config)
    assert len(list((tmp_path / "job" / ".hymt").rglob("*.rows"))) == (3 if keep_rows else 0)
    assert verify.verify(tmp_path / "job").exit_code == 0


def test_a_resumed_job_skips_what_is_committed(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)], 2)
    decoded: list[str] = []
    summary = run(tmp_path / "job", [an_input(source)], decoded=decoded.append)
    assert decoded == ["in.txt/2/0", "in.txt/2/1"]
    assert (summary.num_rows_decoded, summary.num_rows_kept) == (4, 16)
    assert (tmp_path / "job/translated/in.txt").read_text() == lines(20).upper()


def test_parts_of_a_complete_shard_are_dropped_from_memory(tmp_path: Path, source: Path) -> None:
    def remembered(output: Output) -> int:
        store, reader = output._store, output._store._reader
        headers = sum(header is not None for header in store._headers.values())
        return len(store._committed) + len(store._num_parts) + len(reader._verified) + headers

    with open_output(tmp_path / "job", [an_input(source)]) as output:
        for shard in list(shards(an_input(source)))[:2]:
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            assert remembered(output) == 2
            output.finish_shard(shard)
            assert remembered(output) == 0
            output.finish_shard(shard)  # still idempotent
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        record = output.shard_record(an_input(source), 0)
        assert record is not None
        assert remembered(output) == 1
        output.finish_skipped_shard(an_input(source), record)
        assert remembered(output) == 0
        last = list(shards(an_input(source)))[2]
        assert not output.has(plan(last)[0])


def test_a_record_of_an_older_input_does_not_stop_every_run(tmp_path: Path) -> None:
    """Two runs without a lease read the input before and after a change; one publishes the rows of the other."""
    source, job = tmp_path / "in.txt", tmp_path / "job"

    def work(text: str) -> tuple[Output, Shard]:
        source.write_text(text)
        output = open_output(job, [an_input(source)], on_input_change="redo")
        (shard,) = shards(an_input(source))
        for part in plan(shard):
            if not output.has(part):
                output.commit(part, upper(part), ENVIRONMENT)
        return output, shard

    first, first_shard = work("line 1\nline 2\n")
    second, _ = work("lime 1\nline 2\n")
    first.finish_shard(first_shard)
    first.close()
    second.close()
    assert (job / "translated/in.txt").read_text() == "LIME 1\nLINE 2\n"
    assert run(job, [an_input(source)], on_input_change="redo").rows == 2
    assert (job / "translated/in.txt").read_text() == "LIME 1\nLINE 2\n"


def test_an_input_without_rows_gives_an_output_without_rows(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"")
    summary = run(tmp_path / "job", [an_input(tmp_path / "in.txt")])
    assert (summary.rows, summary.files) == (0, 1)
    assert (tmp_path / "job/translated/in.txt").read_bytes() == b""
    assert not (tmp_path / "job/errors").exists()


def test_a_job_without_files_is_complete(tmp_path: Path) -> None:
    assert run(tmp_path / "job", []).rows == 0
    assert (tmp_path / "job" / "manifest.json").exists()


def test_finalizing_an_unfinished_job_names_what_is_missing(tmp_path: Path, source: Path) -> None:
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        shard_0, shard_1, shard_2 = shards(an_input(source))
        for shard in (shard_0, shard_2):
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            output.finish_shard(shard)
        with pytest.raises(MissingError, match=r"in.txt: shards 1"):
            output.finalize()
        output.commit(plan(shard_1)[0], upper(plan(shard_1)[0]), ENVIRONMENT)
        with pytest.raises(MissingError, match=re.escape("shard 1 is not complete: its parts [1, 2]")):
            output.finish_shard(shard_1)
    assert not (tmp_path / "job" / "manifest.json").exists()


def test_rows_that_are_not_the_parts_are_a_bug_and_are_not_committed(tmp_path: Path, source: Path) -> None:
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        shard = next(shards(an_input(source)))
        first, second, *_ = plan(shard)
        with pytest.raises(HymtError, match="not those of part 0"):
            output.commit(first, upper(second), ENVIRONMENT)
        with pytest.raises(HymtError, match="not those of part 0"):
            output.commit(first, upper(first)[:-1], ENVIRONMENT)
        assert not output.has(first)


def test_another_identity_is_refused_with_each_difference_and_nothing_is_changed(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)])
    before = everything(tmp_path / "job")
    with pytest.raises(IdentityError) as refused:
        open_output(tmp_path / "job", [an_input(source)], identity=OTHER)
    assert '  decode.method: "upper" -> "other"' in str(refused.value).splitlines()
    for fix in ("name=ANOTHER", "overwrite=true", "on_mismatch=fork"):
        assert fix in str(refused.value)
    assert refused.value.exit_code is ExitCode.IDENTITY
    assert everything(tmp_path / "job") == before


@pytest.mark.parametrize(
    ("new", "now"), [("b", "this hymt-batch has the new one"), ("c", "this run has another model")]
)
def test_a_model_that_has_a_name_is_named_where_another_one_began_the_folder(
    tmp_path: Path, source: Path, new: str, now: str
) -> None:
    def open_with(digest: str) -> Output:
        identity = {**IDENTITY, "model": {"files": {"model.safetensors": digest}}}
        names = {"a": "the old one", "b": "the new one"}
        return open_output(tmp_path / "job", [an_input(source)], identity=identity, model_names=names)

    open_with("a").close()
    with pytest.raises(IdentityError, match=rf"It was begun with the old one, and {now}\."):
        open_with(new)


def test_fork_takes_the_first_folder_that_is_free_or_of_this_identity(tmp_path: Path, source: Path) -> None:
    third: dict[str, Any] = {**OTHER, "seed": 3}
    run(tmp_path / "job", [an_input(source)])
    for identity, name in ((OTHER, "job-2"), (third, "job-3"), (OTHER, "job-2"), (IDENTITY, "job")):
        with open_output(tmp_path / "job", [an_input(source)], identity=identity, on_mismatch="fork") as output:
            assert output.folder.name == name


def test_overwrite_starts_over_and_leaves_nothing_of_the_old_job(tmp_path: Path, source: Path) -> None:
    (tmp_path / "b.txt").write_text("empty\n")
    run(tmp_path / "job", [an_input(source), an_input(tmp_path / "b.txt")])
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source)], identity=OTHER, overwrite=True, decoded=decoded.append)
    assert len(decoded) == 8
    assert manifest.read_job(FAST, tmp_path / "job").identity == OTHER
    assert sorted(everything(tmp_path / "job")) == [
        f".hymt/f{an_input(source).file_id}/file.json",
        *(f".hymt/f{an_input(source).file_id}/s000000{index}.rows" for index in range(3)),
        ".hymt/inputs.json",
        ".hymt/job.json",
        "manifest.json",
        "translated/in.txt",
    ]


def test_overwrite_in_an_empty_folder_is_not_an_error(tmp_path: Path, source: Path) -> None:
    assert run(tmp_path / "job", [an_input(source)], overwrite=True).rows == 20


def test_a_killed_overwrite_leaves_the_folder_to_the_old_job_or_to_no_job(tmp_path: Path, source: Path) -> None:
    class Killed(Fast):
        num_unlinks = 0

        def unlink(self, path: Path) -> None:  # type: ignore[override]
            if self.left == 0 and "probe-" not in path.name and not path.name.startswith(".tmp-"):
                raise KeyError("killed here")
            self.left -= "probe-" not in path.name and not path.name.startswith(".tmp-")
            super().unlink(path)

    for num_unlinks in range(6):
        folder, fs = tmp_path / f"job{num_unlinks}", Killed()
        run(folder, [an_input(source)])
        fs.left = num_unlinks
        with pytest.raises(KeyError):
            run(folder, [an_input(source)], identity=OTHER, overwrite=True, fs=fs)
            raise KeyError("there was nothing more to remove")
        run(folder, [an_input(source)], identity=OTHER, overwrite=True)
        assert manifest.read(FAST, folder)["identity"] == OTHER


def test_output_files_of_no_known_job_are_not_overwritten(tmp_path: Path, source: Path) -> None:
    (tmp_path / "job" / "translated").mkdir(parents=True)
    (tmp_path / "job" / "translated" / "in.txt").write_text("mine")
    with pytest.raises(IdentityError, match=r"already holds translated/in.txt.*overwrite=true"):
        run(tmp_path / "job", [an_input(source)])
    assert (tmp_path / "job" / "translated" / "in.txt").read_text() == "mine"


@pytest.mark.fault(39)
def test_a_missing_job_json_does_not_give_its_parts_to_another_job(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)])
    (tmp_path / "job" / ".hymt" / "job.json").unlink()
    with pytest.raises(IdentityError, match=r"cannot determine which job .* \.hymt/job\.json: it is missing"):
        run(tmp_path / "job", [an_input(source)], identity=OTHER)
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source)], decoded=decoded.append)
    assert decoded == ["in.txt/2/0", "in.txt/2/1"]


@pytest.mark.fault(63)
def test_a_changed_row_is_named_and_nothing_is_mixed(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)])
    text = lines(20).replace("line 3\n", "lime 3\n").replace("line 4\n", "lime 4\n").replace("line 6\n", "lime 6\n")
    source.write_text(text)
    with pytest.raises(InputChangedError, match=r"in.txt rows 4-5, 7\. .*on_input_change=redo") as changed:
        run(tmp_path / "job", [an_input(source)])
    assert changed.value.exit_code is ExitCode.INPUT_CHANGED
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source)], on_input_change="redo", decoded=decoded.append)
    assert (tmp_path / "job/translated/in.txt").read_text() == text.upper()
    assert not any(name.startswith("in.txt/1/") for name in decoded)  # the other shard is kept


@pytest.mark.fault(63)
def test_rows_added_at_the_end_of_a_committed_shard_are_named(tmp_path: Path, source: Path) -> None:
    source.write_text(lines(12))
    begin(tmp_path / "job", [an_input(source)], 1)
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        shard = list(shards(an_input(source)))[1]
        for part in plan(shard):
            output.commit(part, upper(part), ENVIRONMENT)
    source.write_text(lines(14))
    with pytest.raises(InputChangedError, match=r"in.txt rows 13-14 are new"):
        run(tmp_path / "job", [an_input(source)])
    run(tmp_path / "job", [an_input(source)], on_input_change="redo")
    assert (tmp_path / "job/translated/in.txt").read_text() == lines(14).upper()


@pytest.mark.parametrize("keep_rows", [True, False])
def test_a_changed_input_of_a_finished_job_is_named_by_its_rows(tmp_path: Path, source: Path, keep_rows: bool) -> None:
    run(tmp_path / "job", [an_input(source)], config=WriteConfig(keep_rows=keep_rows))
    before = everything(tmp_path / "job")
    source.write_text(lines(20).replace("line 9\n", "lime 9\n"))
    with pytest.raises(InputChangedError, match=r"in.txt row 10\." if keep_rows else r"in.txt rows 9-16\."):
        run(tmp_path / "job", [an_input(source)])
    source.write_text(lines(25))
    with pytest.raises(InputChangedError, match=r"in.txt has more rows after row 20"):
        run(tmp_path / "job", [an_input(source)])
    assert everything(tmp_path / "job") == before
    run(tmp_path / "job", [an_input(source)], on_input_change="redo")
    assert (tmp_path / "job/translated/in.txt").read_text() == lines(25).upper()


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_input_can_fork_into_a_separate_folder(tmp_path: Path, source: Path, finished: bool) -> None:
    begin(tmp_path / "job", [an_input(source)], 2)
    if finished:
        run(tmp_path / "job", [an_input(source)])
    source.write_text(lines(20).replace("line 9\n", "lime 9\n"))
    for _ in range(2):
        summary = run(tmp_path / "job", [an_input(source)], on_input_change="fork")
        assert summary.folder.name == "job-2"
    assert "LIME 9" in (tmp_path / "job-2/translated/in.txt").read_text()


@pytest.mark.fault(63)
def test_an_input_that_changes_between_the_two_passes_is_named_and_not_published(tmp_path: Path, source: Path) -> None:
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        for shard in shards(an_input(source)):
            if shard.last:
                source.write_text(lines(20).replace("line 2\n", "lime 2\n"))
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
            if not shard.last:
                output.finish_shard(shard)
                continue
            with pytest.raises(InputChangedError, match=r"in.txt row 3"):
                output.finish_shard(shard)
    assert not list((tmp_path / "job" / "translated").iterdir())


@pytest.mark.parametrize(("text", "what"), [(lines(30), "has more rows after row 20"), (lines(18), "rows 19-20")])
@pytest.mark.fault(63)
def test_an_input_that_grows_or_shrinks_before_the_second_pass_is_not_published(
    tmp_path: Path, source: Path, text: str, what: str
) -> None:
    begin(tmp_path / "job", [an_input(source)], 2)
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        *_, shard = all_shards = list(shards(an_input(source)))
        for part in plan(shard):
            output.commit(part, upper(part), ENVIRONMENT)
        for earlier in all_shards[:2]:
            record = output.shard_record(an_input(source), earlier.index)
            assert record is not None
            output.finish_skipped_shard(an_input(source), record)
        source.write_text(text)
        with pytest.raises(InputChangedError, match=what):
            output.finish_shard(shard)


def test_a_changed_list_of_inputs_is_named_redone_or_forked(tmp_path: Path, source: Path) -> None:
    for name in ("b.txt", "c.txt"):
        (tmp_path / name).write_text("other\n")
    b, c = an_input(tmp_path / "b.txt"), an_input(tmp_path / "c.txt")
    run(tmp_path / "job", [an_input(source), b])
    with pytest.raises(InputChangedError, match=r"(?s)added: c.txt\n  removed: b.txt\n.*on_input_change=redo"):
        run(tmp_path / "job", [an_input(source), c])
    assert run(tmp_path / "job", [an_input(source), c], on_input_change="fork").folder.name == "job-2"
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source), c], on_input_change="redo", decoded=decoded.append)
    assert decoded == ["c.txt/0/0"]
    assert sorted(p.name for p in (tmp_path / "job" / "translated").iterdir()) == ["c.txt", "in.txt"]


@pytest.mark.parametrize("rel", ["../in.txt", "/in.txt", "a//in.txt", "a/./in.txt", "a\0b"])
@pytest.mark.fault(80)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, source: Path, rel: str) -> None:
    with pytest.raises(ConfigError, match="outside the output folder"):
        run(tmp_path / "job", [an_input(source, rel)])
    assert not (tmp_path / "job").exists()


@pytest.mark.fault(80)
def test_a_name_too_long_for_the_file_system_is_refused_before_anything_is_created(
    tmp_path: Path, source: Path
) -> None:
    with pytest.raises(ConfigError, match="longer than 255 bytes"):
        run(tmp_path / "job", [an_input(source, "x" * 250)])
    assert not (tmp_path / "job").exists()


def test_names_in_any_script_and_in_folders_are_kept(tmp_path: Path, source: Path) -> None:
    rel = "语料 (1)/a=b \udcff.txt"
    run(tmp_path / "job", [an_input(source, rel)])
    assert (tmp_path / "job" / "translated" / rel).read_text() == lines(20).upper()
    run(tmp_path / "job", [an_input(source, rel)])


@pytest.mark.fault(80, 81)
def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path, source: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "job" / "translated").symlink_to(tmp_path / "elsewhere")
    why = "nothing is read, written or removed through it"
    problem = rf"job/translated is a link, but a folder should be there: {why}\. Move it away or remove it"
    with pytest.raises(PreflightError, match=problem):
        run(tmp_path / "job", [an_input(source)])
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.fault(30)
def test_a_folder_without_write_permission_is_a_preflight_error(tmp_path: Path, source: Path) -> None:
    class Denied(Fast):
        def mkdir(self, path: Path, mode: int) -> None:  # type: ignore[override]
            raise OSError(errno.EACCES, "denied")

    with pytest.raises(
        PreflightError, match=r"no permission to write there\. Give your user permission .* or set output_dir="
    ):
        run(tmp_path / "job", [an_input(source)], fs=Denied())


def test_an_old_errors_file_is_removed_when_no_row_has_an_error(tmp_path: Path, source: Path) -> None:
    source.write_text("empty\n")
    run(tmp_path / "job", [an_input(source)])
    assert (tmp_path / "job/errors/in.txt.errors.jsonl").read_text().count("\n") == 1
    source.write_text("full\n")
    run(tmp_path / "job", [an_input(source)], on_input_change="redo")
    assert not (tmp_path / "job/errors/in.txt.errors.jsonl").exists()


@pytest.mark.fault(49)
def test_temporary_files_of_a_killed_run_are_removed_under_the_lease(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)], finish=False)
    leftovers = [
        tmp_path / "job/translated/.tmp-final-0",
        tmp_path / "job/.hymt/.tmp-job.json-0",
        tmp_path / f"job/.hymt/f{an_input(source).file_id}/s0000000/.tmp-p00000-0",
        tmp_path / f"job/.hymt/f{an_input(source).file_id}/.tmp-s0000000.rows-0",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    run(tmp_path / "job", [an_input(source)], lease_ttl_s=10.0)
    assert not any(path.exists() for path in leftovers)


def test_an_error_row_can_contain_its_source(tmp_path: Path, source: Path) -> None:
    source.write_text("empty one\n")
    run(tmp_path / "job", [an_input(source)], config=WriteConfig(on_error=OnError.source))
    assert (tmp_path / "job/translated/in.txt").read_text() == "empty one\n"


def test_the_environments_of_all_parts_are_in_the_manifest(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)], environment={"device": "a"})
    run(tmp_path / "job", [an_input(source)], environment={"device": "b"})
    assert manifest.read(FAST, tmp_path / "job")["environments"] == [{"device": "a"}, {"device": "b"}]


def test_the_manifest_adds_up_statuses_flags_and_tokens_of_every_row(tmp_path: Path, source: Path) -> None:
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        for shard in shards(an_input(source)):
            for part in plan(shard):
                rows = upper(part)
                flagged = [
                    replace(row, flags=("loop", "retried")[: row.row_index % 3], num_source_tokens=3) for row in rows
                ]
                output.commit(part, [replace(row, num_new_tokens=row.row_index) for row in flagged], ENVIRONMENT)
            output.finish_shard(shard)
        output.finalize()
    value = json.loads((tmp_path / "job" / "manifest.json").read_bytes())
    assert (value["rows"], value["counts"]) == (20, {"ok": 20})
    assert value["flags"] == {"loop": 7 + 6, "retried": 6}
    assert value["tokens"] == {"source": 60, "new": sum(range(20))}


@pytest.mark.fault(46)
def test_a_lost_lease_stops_every_step_that_publishes(tmp_path: Path, source: Path) -> None:
    """Committing, publishing a file and writing the manifest each check the lease first."""
    for step in ("commit", "finish", "finalize"):
        folder = tmp_path / step
        with (
            pytest.raises(StoppedError, match="its file was removed"),
            open_output(folder, [an_input(source)], lease_ttl_s=60.0) as output,
        ):
            for shard in shards(an_input(source)):
                for part in plan(shard):
                    if step == "commit":
                        lease_path(folder).unlink()
                    output.commit(part, upper(part), ENVIRONMENT)
                if step == "finish" and shard.last:
                    lease_path(folder).unlink()
                output.finish_shard(shard)
            lease_path(folder).unlink()
            output.finalize()
        assert not list((folder / ".hymt").rglob("p0*")) or step != "commit"
        assert not list((folder / "translated").iterdir()) or step == "finalize"
        assert not (folder / "manifest.json").exists()


@pytest.mark.fault(63)
def test_an_input_modified_during_the_second_pass_is_not_published(tmp_path: Path, source: Path) -> None:
    def read_and_modify(input: Input) -> Iterator[Document]:
        yield from read(input)
        os.utime(source, (1, 1))

    with pytest.raises(InputChangedError, match="was modified while it was being read"):
        run(tmp_path / "job", [an_input(source)], read=read_and_modify)
    assert not list((tmp_path / "job" / "translated").iterdir())


@pytest.mark.fault(38)
def test_a_shard_folder_that_another_process_removed_is_recreated(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0, 0.0))
    with open_output(tmp_path / "job", [an_input(source)]) as output:
        shard = next(shards(an_input(source)))
        first, second, *_ = plan(shard)
        output.commit(first, upper(first), ENVIRONMENT)
        shutil.rmtree(tmp_path / "job" / ".hymt" / f"f{an_input(source).file_id}")
        output.commit(second, upper(second), ENVIRONMENT)
    run(tmp_path / "job", [an_input(source)])
    assert (tmp_path / "job/translated/in.txt").read_text() == lines(20).upper()


@pytest.mark.fault(37)
def test_an_intact_part_of_another_job_is_not_used(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "job", [an_input(source)], finish=False)
    begin(tmp_path / "other", [an_input(source)], finish=False, identity=OTHER)
    name = f".hymt/f{an_input(source).file_id}/s0000000/p00001"
    (tmp_path / "job" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source)], decoded=decoded.append)
    assert decoded == ["in.txt/0/1", "in.txt/2/0", "in.txt/2/1"]
    (reason,) = (tmp_path / "job" / ".hymt" / "quarantine").glob("*.reason")
    assert reason.read_text() == "it belongs to a job with other settings\n"


@pytest.mark.fault(39)
def test_a_file_record_of_another_job_does_not_count(tmp_path: Path, source: Path) -> None:
    run(tmp_path / "job", [an_input(source)])
    run(tmp_path / "other", [an_input(source)], identity=OTHER)
    name = f".hymt/f{an_input(source).file_id}/file.json"
    (tmp_path / "job" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    decoded: list[str] = []
    run(tmp_path / "job", [an_input(source)], decoded=decoded.append)
    assert not decoded, "its rows are still recorded"
    assert verify.verify(tmp_path / "job").exit_code == 0


@pytest.mark.fault(43, 46)
def test_a_writer_that_finishes_second_finds_the_job_complete(tmp_path: Path, source: Path) -> None:
    with open_output(tmp_path / "job", [an_input(source)]) as late:
        for shard in shards(an_input(source)):
            for part in plan(shard):
                late.commit(part, upper(part), ENVIRONMENT)
        run(tmp_path / "job", [an_input(source)])
        before = everything(tmp_path / "job")
        for shard in shards(an_input(source)):
            late.finish_shard(shard)
        late.finalize()
    assert everything(tmp_path / "job") == before


@pytest.mark.fault(43)
def test_a_job_that_another_process_finishes_during_open_is_recognised(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, results = ownership.read_or_recover_job, []

    def run_job_after_first_call(*arguments: Any) -> Any:
        result = original(*arguments)
        results.append(result)
        if len(results) == 1:
            run(tmp_path / "job", [an_input(source)])
        return result

    monkeypatch.setattr(ownership, "read_or_recover_job", run_job_after_first_call)
    with open_output(tmp_path / "job", [an_input(source)]) as late:
        assert late.is_complete
    assert results[0] is None


def reader_with(folder: Path, source: Path, *part_specs: tuple[int, int, ShardRecord, list[int]]) -> PartReader:
    """Return a reader of a folder with handmade parts: (index in the name, index in the header, record, rows)."""
    input = an_input(source)
    reader = PartReader(FAST, folder, "id", FLAT)
    for file_index, header_index, record, rows in part_specs:
        path = reader.path(input.file_id, 0, file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        origin = parts.PartOrigin(
            identity="id",
            environment={},
            file_id=input.file_id,
            shard=record,
            part_index=header_index,
            num_parts=2,
            uuid="u",
        )
        path.write_bytes(parts.encode([Row(row, bytes(8), Status.OK, "x") for row in rows], origin))
    (folder / ".hymt" / "quarantine").mkdir()
    return reader


def test_a_shard_is_complete_only_when_its_parts_hold_each_row_once(tmp_path: Path, source: Path) -> None:
    record, other_record = ShardRecord(0, 0, 4, 0, 9, "a" * 64, False), ShardRecord(0, 0, 4, 0, 9, "b" * 64, False)
    cases: list[tuple[list[tuple[int, int, ShardRecord, list[int]]], bool]] = [
        ([(0, 0, record, [0, 2]), (1, 1, record, [1, 3])], True),
        ([(0, 0, record, [0, 2]), (1, 1, record, [1, 2, 3])], False),  # a row twice
        ([(0, 0, record, [0, 2]), (1, 1, record, [3])], False),  # a row is missing
        ([(0, 0, record, [0, 2]), (1, 1, other_record, [1, 3])], False),  # parts of two versions of the input
        ([(0, 0, record, [0, 2])], False),
        ([(0, 0, record, [0, 2]), (1, 1, record, [1, 4])], False),  # a row of another shard
    ]
    for index, (part_specs, complete) in enumerate(cases):
        reader = reader_with(tmp_path / str(index), source, *part_specs)
        assert reader.shard_record(an_input(source).file_id, 0) == (record if complete else None), index


@pytest.mark.fault(37)
def test_a_part_under_the_name_of_another_part_is_rejected(tmp_path: Path, source: Path) -> None:
    record = ShardRecord(0, 0, 4, 0, 9, "a" * 64, False)
    reader = reader_with(tmp_path / "job", source, (1, 0, record, [0, 2]))
    input = an_input(source)
    with pytest.raises(StateFileDamagedError, match="another file, shard or part"):
        reader.read(reader.path(input.file_id, 0, 1), input.file_id, 0, 1)


def test_a_changed_environment_is_allowed_with_a_warning(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path / "job", [an_input(source)], environment={"device": "a"})
    with open_output(tmp_path / "job", [an_input(source)], environment={"device": "b"}):
        assert 'device: "a" -> "b"' in caplog.text


def test_newly_recorded_environment_keys_are_logged_without_a_warning(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    begin(tmp_path / "job", [an_input(source)], environment={"device": "a", "gone": 1, "map": {"strategy": "cpu"}})
    caplog.clear()
    environment = {"device": "a", "gone": 1, "cudnn_sdp": False, "map": {"strategy": "cpu", "more": 2}}
    with open_output(tmp_path / "job", [an_input(source)], environment=environment):
        (info,) = [record for record in caplog.records if "environment" in record.getMessage()]
    assert info.levelname == "INFO"
    assert "cudnn_sdp: (not set) -> false" in info.getMessage()
    assert "map.more: (not set) -> 2" in info.getMessage()
    caplog.clear()
    with open_output(
        tmp_path / "job", [an_input(source)], environment={**environment, "device": "b", "gone": "(not set)"}
    ):
        (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 'device: "a" -> "b"' in warning.getMessage()
    assert "gone" in warning.getMessage()
    assert "cudnn_sdp" not in warning.getMessage()


def test_newly_recorded_environment_keys_do_not_change_a_finished_folder(tmp_path: Path, source: Path) -> None:
    run(tmp_path / "job", [an_input(source)], environment={"device": "a"})
    before = everything(tmp_path / "job")
    with open_output(tmp_path / "job", [an_input(source)], environment={"device": "a", "licence": "L"}) as output:
        assert output.is_complete
    assert everything(tmp_path / "job") == before


def test_a_part_that_is_a_whole_shard_is_committed_as_its_row_record(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text(lines(2))
    inputs = [an_input(source)]
    (shard,) = shards(inputs[0])
    (part,) = plan(shard)
    state = FLAT.file_state(tmp_path / "job", inputs[0].file_id)
    first = open_output(tmp_path / "job", inputs, lease_ttl_s=0.0)
    second = open_output(tmp_path / "job", inputs, lease_ttl_s=0.0)
    first.commit(part, upper(part), ENVIRONMENT)
    assert os.listdir(state) == ["s0000000.rows"]
    record = (state / "s0000000.rows").read_bytes()
    second.commit(part, upper(part), ENVIRONMENT)  # the first writer wins
    assert (first._store.num_rows_committed, second._store.num_rows_committed) == (2, 0)
    first.finish_shard(shard)
    assert sorted(os.listdir(state)) == ["file.json", "s0000000.rows"]
    assert (state / "s0000000.rows").read_bytes() == record
    with open_output(tmp_path / "job", inputs, lease_ttl_s=0.0) as output:
        assert output.has(part)


def test_the_record_of_a_whole_shard_does_not_replace_that_of_other_rows(tmp_path: Path) -> None:
    """Two runs without a lease read an input before and after a change."""
    source, job = tmp_path / "in.txt", tmp_path / "job"
    outputs = []
    for text in ("line 1\n", "lime 1\n"):
        source.write_text(text)
        (shard,) = shards(an_input(source))
        outputs.append((open_output(job, [an_input(source)], lease_ttl_s=0.0), plan(shard)[0]))
    for output, part in outputs[:1]:
        output.commit(part, upper(part), ENVIRONMENT)
    with pytest.raises(InputChangedError, match="row 1"):
        outputs[1][0].commit(outputs[1][1], upper(outputs[1][1]), ENVIRONMENT)
    record = next((job / ".hymt").glob("f*/s0000000.rows"))
    assert row_record.decode(record.read_bytes())[1].rows[0].text == "LINE 1"
