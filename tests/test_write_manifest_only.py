"""A finished folder without its state, stop reasons, error rows, and the locations of inputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hymt_batch import manifest
from hymt_batch.errors import ExitCode, InputChangedError, PreflightError, StoppedError
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input
from hymt_batch.write import input_locations, manifest_only, stop_reason
from jobs import status, verify
from tests.fakes.upper import ENVIRONMENT, IDENTITY, SETTINGS, an_input, open_output, plan, run, shards, upper


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for rel in ("a.txt", "sub/b.txt"):
        (tmp_path / "in" / rel).write_text("".join(f"line {i}\n" for i in range(9)) + f"empty {rel}\n")
    return [an_input(tmp_path / "in" / rel, rel) for rel in ("a.txt", "sub/b.txt")]


@pytest.fixture
def copied(tmp_path: Path, inputs: list[Input]) -> Path:
    """A finished folder copied with `cp -r outputs/job/* elsewhere/`, so without `.hymt`."""
    run(tmp_path / "job", inputs)
    shutil.copytree(tmp_path / "job", tmp_path / "copy", ignore=shutil.ignore_patterns(".hymt"))
    return tmp_path / "copy"


# without .hymt


@pytest.mark.fault(38)
def test_a_finished_folder_without_state_is_verified_by_its_manifest(copied: Path) -> None:
    report = verify.verify(copied)
    assert (report.exit_code, report.files, report.rows) == (ExitCode.COMPLETE, 2, 20)
    assert "the records in .hymt are missing" in verify.render(report)
    job_status = status.status(copied, num_errors=5)
    assert (job_status.state, job_status.files_published, job_status.rows, job_status.error_rows) == (
        "complete",
        2,
        20,
        2,
    )
    assert [row["id"] for row in job_status.errors] == ["a.txt#10", "sub/b.txt#10"]
    assert "the records in .hymt are missing" in status.render(job_status)


@pytest.mark.parametrize("file", ["translated/a.txt", "errors/a.txt.errors.jsonl"])
@pytest.mark.parametrize("how", ["changed", "removed"])
@pytest.mark.fault(38, 39)
def test_without_state_each_file_must_match_the_manifest(copied: Path, file: str, how: str) -> None:
    data = (copied / file).read_bytes()
    (copied / file).write_bytes(data.replace(b"1", b"2", 1)) if how == "changed" else (copied / file).unlink()
    report = verify.verify(copied)
    assert report.exit_code is ExitCode.DAMAGE
    assert [line for line in report.damage if line.startswith(file)]
    assert manifest_only.find_problems(OS_FS, copied, manifest.read(OS_FS, copied))


def test_a_manifest_never_leads_out_of_its_folder(copied: Path) -> None:
    value = manifest.read(OS_FS, copied)
    for path in ("../job/translated/a.txt", "translated/../../in/a.txt", "/etc/passwd", "errors/a.txt"):
        value["outputs"][0]["path"] = path
        assert manifest_only.find_problems(OS_FS, copied, value) == [("manifest.json", f"names {path!r}")]


def recreate_job_json(folder: Path, inputs: list[Input]) -> None:
    """Create `job.json`, as a run does in a folder that lost it."""
    (folder / ".hymt").mkdir()
    assert manifest.create_job(OS_FS, folder, manifest.new_job(IDENTITY, inputs, {"device": "none"}, SETTINGS))


@pytest.mark.fault(38)
def test_a_run_in_a_folder_without_records_is_complete_and_decodes_nothing(
    copied: Path, inputs: list[Input], caplog: pytest.LogCaptureFixture
) -> None:
    recreate_job_json(copied, inputs)
    decoded: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    summary = run(copied, inputs, decoded=decoded.append)
    assert (summary.files, summary.rows, summary.num_rows_decoded, dict(summary.counts)) == (
        2, 20, 0, {"empty": 2, "ok": 18},
    )  # fmt: skip
    assert [path.name for path in (*summary.outputs, *summary.errors)] == [
        "a.txt", "b.txt", "a.txt.errors.jsonl", "b.txt.errors.jsonl",
    ]  # fmt: skip
    assert not decoded
    assert caplog.text.count("the records in .hymt are missing") == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert verify.verify(copied).exit_code is ExitCode.COMPLETE


@pytest.mark.fault(38)
def test_a_run_without_records_detects_a_changed_input_by_its_hash(copied: Path, inputs: list[Input]) -> None:
    recreate_job_json(copied, inputs)
    Path(inputs[1].path).write_text("other\n")
    with pytest.raises(InputChangedError, match=r"sub/b\.txt has another sha256"):
        run(copied, inputs)
    decoded: list[str] = []
    run(copied, inputs, decoded=decoded.append, on_input_change="redo")
    assert {part_name[:5] for part_name in decoded} == {"a.txt", "sub/b"}
    assert verify.verify(copied).exit_code is ExitCode.COMPLETE
    assert not (copied / "set_aside").exists()  # the manifest shows that the job wrote them


@pytest.mark.fault(38)
def test_a_run_without_records_rebuilds_a_damaged_file(copied: Path, inputs: list[Input]) -> None:
    recreate_job_json(copied, inputs)
    original = (copied / "translated" / "a.txt").read_bytes()
    (copied / "translated" / "a.txt").write_bytes(b"edited\n")
    run(copied, inputs)
    assert (copied / "translated" / "a.txt").read_bytes() == original
    assert [path.read_bytes() for path in (copied / "set_aside").iterdir()] == [b"edited\n"]


# why a run stopped


def stop(folder: Path, inputs: list[Input], error: BaseException | None) -> None:
    with open_output(folder, inputs, lease_ttl_s=10.0) as output:
        for shard in list(shards(inputs[0]))[:1]:
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (StoppedError("SIGTERM: stopped between two shards\nmore"), 75, "SIGTERM: stopped between two shards"),
        (KeyboardInterrupt(), 75, "Ctrl-C"),
        (ValueError("odd"), 70, "ValueError: odd"),
        (MemoryError(), 75, "this process cannot get more memory (MemoryError)"),
        (PreflightError("no room", fix="Set output_dir=.", id="G3"), 6, "no room"),
        (StoppedError("a\x1b[2J hf_" + "a" * 30 + "x" * 10_000), 75, "a\\u001b[2J ***"),
    ],
)
@pytest.mark.fault(48)
def test_status_shows_why_a_run_stopped_until_the_next_one_starts(
    tmp_path: Path, inputs: list[Input], error: BaseException, code: int, why: str
) -> None:
    folder = tmp_path / "job"
    with pytest.raises(type(error)):
        stop(folder, inputs, error)
    job_status = status.status(folder)
    assert job_status.ended is not None
    assert (job_status.state, job_status.ended["exit_code"]) == ("stopped", code)
    assert job_status.ended["why"].startswith(why)
    assert len(job_status.ended["why"]) <= 500
    assert job_status.ended["error"]["what"].startswith(why)
    assert set(job_status.ended["error"]) == {"what", "why", "fix", "id"}
    assert b"hf_" not in stop_reason.path(folder).read_bytes()
    assert stop_reason.path(folder).stat().st_size < 2000
    assert job_status.ended["at"].endswith("+00:00")
    (line,) = [line for line in status.render(job_status).splitlines() if "  ended " in line]
    assert f"with exit code {code}: {why}" in line
    with open_output(folder, inputs, lease_ttl_s=10.0):
        assert status.status(folder).ended is None
    run(folder, inputs)
    assert status.status(folder).ended is None


@pytest.mark.fault(48)
def test_a_run_that_a_signal_ends_at_once_records_it(tmp_path: Path, inputs: list[Input]) -> None:
    output = open_output(tmp_path / "job", inputs, lease_ttl_s=10.0)
    output.close()  # as the signal handler does
    assert (status.status(tmp_path / "job").ended or {})["why"] == "a signal stopped it at once"


def test_a_run_that_lost_its_lease_records_no_stop_reason(tmp_path: Path, inputs: list[Input]) -> None:
    with pytest.raises(StoppedError), open_output(tmp_path / "job", inputs, lease_ttl_s=10.0):
        (tmp_path / "job" / ".hymt" / "lease" / "job.json").unlink()
        raise StoppedError("the lease is lost")
    assert status.status(tmp_path / "job").ended is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", bytes(100), b"x" * 100_000, b'{"why": 1}'])
def test_a_damaged_stop_reason_is_ignored(tmp_path: Path, inputs: list[Input], data: bytes) -> None:
    stop(tmp_path / "job", inputs, None)
    stop_reason.path(tmp_path / "job").write_bytes(data)
    assert status.status(tmp_path / "job").ended is None


# error rows


@pytest.mark.fault(48)
def test_error_rows_are_listed_before_and_after_their_file_is_published(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    with open_output(folder, inputs) as output:
        for shard in shards(inputs[0]):
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
    (early,) = status.status(folder, num_errors=20).errors
    assert early == {"id": "a.txt#10", "status": "empty", "message": ""}
    run(folder, inputs)
    late = status.status(folder, num_errors=20).errors
    assert late == [early, {"id": "sub/b.txt#10", "status": "empty", "message": ""}]
    assert status.status(folder, num_errors=1).errors == [early]
    assert status.status(folder).errors == []
    assert "a.txt#10 empty" in status.render(status.status(folder, num_errors=1))


def test_the_message_of_an_error_row_is_one_line_without_escapes(tmp_path: Path, inputs: list[Input]) -> None:
    run(tmp_path / "job", inputs)
    line = {"id": "a.txt#10\x1b[2J", "status": "empty", "message": "first\nsecond\x1b[31m" + "x" * 5000}
    path = tmp_path / "job" / "errors" / "a.txt.errors.jsonl"
    path.write_text("no json\n" + json.dumps(line) + "\n[]\n")
    from hymt_batch.sanitize import sanitize_text

    text = sanitize_text(status.render(status.status(tmp_path / "job", num_errors=3)))
    (row_line,) = [text_line for text_line in text.splitlines() if "a.txt#10" in text_line and "b.txt" not in text_line]
    assert "first\\nsecond" in row_line
    assert "\x1b" not in text
    assert len(row_line) < 500


# inputs


@pytest.mark.fault(38)
def test_verify_checks_the_inputs_at_their_old_or_new_location(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    report = verify.verify(folder, inputs=True)
    assert (report.exit_code, report.inputs) == (ExitCode.COMPLETE, 2)
    assert verify.verify(folder).inputs == 0
    (tmp_path / "in").rename(tmp_path / "moved")
    report = verify.verify(folder, inputs=True)
    assert (report.exit_code, report.inputs, len(report.changed)) == (ExitCode.INPUT_CHANGED, 0, 2)
    assert "Set inputs=PATH" in report.changed[0]
    assert verify.verify(folder, inputs=[str(tmp_path / "moved")]).inputs == 2
    (tmp_path / "moved" / "sub" / "b.txt").write_text("other\n")
    report = verify.verify(folder, inputs=[str(tmp_path / "moved")])
    assert report.exit_code is ExitCode.INPUT_CHANGED
    assert report.changed == [f"{tmp_path}/moved/sub/b.txt: is not the file that was translated as sub/b.txt"]
    assert "on_input_change=redo" in verify.render(report)
    assert "Run the job again" not in verify.render(report)


def test_verify_finds_one_input_by_its_own_path(tmp_path: Path, inputs: list[Input]) -> None:
    run(tmp_path / "job", inputs[:1])
    assert verify.verify(tmp_path / "job", inputs=[str(tmp_path / "in" / "a.txt")]).inputs == 1


def test_a_spooled_input_is_found_in_the_job_folder(tmp_path: Path, inputs: list[Input]) -> None:
    folder = tmp_path / "job"
    (folder / ".hymt" / "spool").mkdir(parents=True)
    staged = tmp_path / f".spool-{os.getpid()}" / "stdin.txt"
    staged.parent.mkdir()
    shutil.copyfile(inputs[0].path, staged)
    input_locations.save(OS_FS, folder, [an_input(staged, "stdin.txt")])
    shutil.move(staged, folder / ".hymt" / "spool" / "stdin.txt")
    assert input_locations.find(OS_FS, folder, ["stdin.txt"], []) == {"stdin.txt": f"{folder}/.hymt/spool/stdin.txt"}
