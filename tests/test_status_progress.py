"""status tells how far a job came and whether somebody has to look at it; the exit codes of fail=true."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest, signals
from hymt_batch.check.checks import derive
from hymt_batch.check.settings import FlagConfig
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, UsageError
from hymt_batch.records import Input, Row, ShardRecord, Status
from hymt_batch.signals import StopRequest
from hymt_batch.state_layout import FLAT
from hymt_batch.write import file_record, lease, row_lines, run_progress, sweep_points
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.shard_table import ShardTable
from jobs import __main__ as front
from jobs import status
from tests.fakes.job import Job, run
from tests.fakes.upper import ENVIRONMENT, an_input, open_output, plan, shards, upper

ROWS = [f"row {index}" for index in range(40)]


def a_job(job: Job, rows: list[str] | None = None, name: str = "n") -> list[str]:
    """Write a source, and return the overrides of a job with parts of four rows."""
    (job.folder / "in.txt").write_text("\n".join(ROWS if rows is None else rows) + "\n")
    return [f"source.path={job.folder / 'in.txt'}", f"name={name}", "batch.part_rows=4"]


def outputs(job: Job) -> Path:
    return job.folder / "out"


def alert(job: Job, name: str, *more: str) -> int:
    return front.main(["status", f"name={name}", f"output_dir={outputs(job)}", "fail=true", *more])


def test_a_stopped_job_shows_totals_share_time_left_and_why_it_stopped(job: Job) -> None:
    words = a_job(job, [*ROWS, *(["the same row"] * 60)])
    job.interrupt(*words, at=5)
    report = status.status(outputs(job) / "n")
    assert (report.state, report.files, report.files_published, report.rows) == ("stopped", 1, 0, 75)
    assert (report.rows_total, report.rows_total_estimated) == (100, False)
    assert report.share == pytest.approx(16 / 41, abs=0.1), "60 equal rows are decoded once"
    assert report.left_s is not None
    text = status.render(report)
    assert "rows      75 of 100 committed, 0 of them without a translation" in text
    assert re.search(r"done      [34]\d % of the work, about \d+ s left", text)
    assert report.ended is not None
    assert report.ended["exit_code"] == 70
    job(*words)
    report = status.status(outputs(job) / "n")
    assert (report.state, report.rows, report.rows_total, report.share, report.left_s) == ("complete", 100, 100, 1.0, 0)
    assert "of the work" not in status.render(report)


def test_the_total_of_a_job_that_has_not_read_all_is_an_estimate_and_says_so(job: Job) -> None:
    (job.folder / "in").mkdir()
    for name in "abcd":
        (job.folder / "in" / f"{name}.txt").write_text("\n".join(ROWS) + "\n")
    one_by_one = "batch.part_tokens=40"  # each file is a unit
    job.interrupt(
        f"source.path={job.folder / 'in'}", "name=n", "batch.part_rows=4", "batch.shard_rows=8", one_by_one, at=3
    )
    report = status.status(outputs(job) / "n")
    assert report.rows_total_estimated
    assert report.rows_total == pytest.approx(160, rel=0.1)
    assert " of about 1" in status.render(report)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", bytes(100), b"x" * 100_000, manifest.seal({"share": "x"})])
def test_a_damaged_record_of_the_progress_is_ignored(job: Job, data: bytes) -> None:
    job.interrupt(*a_job(job), at=3)
    run_progress.path(outputs(job) / "n").write_bytes(data)
    report = status.status(outputs(job) / "n")
    assert (report.state, report.rows_total, report.share) == ("stopped", None, None)
    assert "8 committed" in status.render(report)
    job(*a_job(job))
    assert status.status(outputs(job) / "n").state == "complete"


def test_flags_are_counted_before_and_after_a_file_is_published(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(19)))
    inputs = [an_input(tmp_path / "in.txt")]

    committed: Counter[str] = Counter()

    def flagged(rows: list[Row]) -> list[Row]:
        text, flags = 'x","flags":["no"],"text":"', ("loop", 'odd "name"')
        rows = [Row(row.row_index, row.digest, Status.OK, text, flags[: row.row_index % 3]) for row in rows]
        committed.update(flag for row in rows for flag in row.flags)
        return rows

    with open_output(tmp_path / "job", inputs) as output:
        for shard in list(shards(inputs[0]))[:2]:
            for part in plan(shard)[: 3 if shard.index == 0 else 1]:
                output.commit(part, flagged(upper(part)), ENVIRONMENT)
            output.finish_if_complete(shard)
    report = status.status(tmp_path / "job")
    assert report.rows == 11
    assert report.flags == committed
    assert f"flags     loop {committed['loop']}, odd" in status.render(report)
    with open_output(tmp_path / "job", inputs) as output:
        for shard in shards(inputs[0]):
            for part in plan(shard):
                if not output.has(part):
                    output.commit(part, flagged(upper(part)), ENVIRONMENT)
            output.finish_if_complete(shard)
        output.finalize()
    report = status.status(tmp_path / "job")
    assert (report.state, report.flags) == ("complete", committed)


def test_flags_are_counted_as_decoding_would_count_them() -> None:
    rows = [Row(n, bytes(8), Status.OK, "a", ("blank", "loop")[: n % 3]) for n in range(9)]
    assert row_lines.count_flags(row_lines.encode_rows(rows)) == Counter(flag for row in rows for flag in row.flags)


def test_flags_of_measurements_are_counted_once_with_the_others() -> None:
    text = 'a,"measures":{"loop":9}}\n"flags":["x"]'
    rows = [
        Row(0, bytes(8), Status.OK, text, ("copied",)),
        Row(1, bytes(8), Status.OK, text, measures=(("loop", 4),)),
        Row(2, bytes(8), Status.TRUNCATED, "a", ("truncated", "loop"), measures=(("loop", 4), ("urls", 1))),
        Row(3, bytes(8), Status.OK, "a", measures=(("long", 1.1),)),
    ]
    config = FlagConfig()
    counted = row_lines.count_flags(
        row_lines.encode_rows(rows), lambda measures: derive(measures, None, config, config.flags)
    )
    assert counted == Counter({"copied": 1, "loop": 2, "truncated": 1, "urls": 1})


# fail=true


def test_fail_is_8_until_a_job_is_complete_and_0_while_it_runs(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    job.fail = lambda calls: codes.append(alert(job, "n"))
    job(*a_job(job))
    assert codes
    assert set(codes) == {0}, "somebody runs"
    assert alert(job, "n") == 0
    words = a_job(job, name="stopped")
    job.calls = 0
    job.interrupt(*words, at=3)
    assert alert(job, "stopped") == 8
    capsys.readouterr()
    assert alert(job, "stopped", "format=json") == 8
    assert json.loads(capsys.readouterr().out)["exit_code"] == 8
    assert front.main(["status", "name=stopped", f"output_dir={outputs(job)}"]) == 0, "without fail=true always 0"
    assert alert(job, "nothing") == 2


def test_fail_is_7_for_damage_even_of_a_complete_job(job: Job) -> None:
    job(*a_job(job))
    (outputs(job) / "n" / "translated" / "in.txt").write_text("edited")
    assert alert(job, "n") == 7


def test_fail_is_10_for_too_many_errors_by_the_limit_of_the_last_run(job: Job) -> None:
    (job.folder / "in.jsonl").write_text('{"text": "a"}\n' * 8 + "broken\n" * 2)
    words = [f"source.path={job.folder / 'in.jsonl'}", "name=n"]
    job(*words)
    assert alert(job, "n") == 10
    report = status.status(outputs(job) / "n")
    assert report.state == "complete"
    assert "errors    20.00 % of the rows have no translation, more than check.max_error_rate=0.01" in status.render(
        report
    )
    job(*words, "check.max_error_rate=0.2")
    assert alert(job, "n") == 0
    run_progress.path(outputs(job) / "n").unlink()  # a folder of an earlier version
    assert alert(job, "n") == 10, "the default limit"
    assert alert(job, "n", "max_error_rate=0.2") == 0
    assert alert(job, "n", "max_error_rate=2") == 2
    job(*words, "check.max_error_rate=0.2")
    assert not run_progress.path(outputs(job) / "n").exists(), "a finished folder of an earlier version is not touched"


@pytest.mark.parametrize(("age_s", "code"), [(5, 0), (3600, 8)])
def test_a_run_on_another_machine_counts_as_long_as_its_heartbeat_is_fresh(job: Job, age_s: int, code: int) -> None:
    job.interrupt(*a_job(job), at=3)
    path = lease.lease_path(outputs(job) / "n")
    holder = {"owner": "o", "host": "elsewhere", "boot": "b", "pids": "p", "pid": 7, "started": "1", "slurm_job": ""}
    holder |= {"slurm_restart": 0, "since": "2026-01-01T00:00:00+00:00", "epoch": 1, "beat": 3}  # type: ignore[dict-item]
    path.write_bytes(manifest.canonical_json(holder))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    before = path.read_bytes()
    assert alert(job, "n") == code
    assert path.read_bytes() == before
    report = status.status(outputs(job) / "n")
    assert report.state == ("running" if code == 0 else "stopped")
    assert ("probably dead" in status.render(report)) == (code == 8)


def test_a_run_that_was_killed_is_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(19)))
    program = (
        "import os, signal, sys; from pathlib import Path; from tests.fakes.upper import *\n"
        "folder = Path(sys.argv[1]); inputs = [an_input(folder / 'in.txt')]\n"
        "output = open_output(folder / 'job', inputs, lease_ttl_s=180.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    report = status.status(tmp_path / "job")
    assert report.state == "stopped"
    assert report.exit_code is ExitCode.MISSING
    assert report.ended is not None
    assert report.ended["exit_code"] is None
    assert "ended without a word: it was killed" in report.ended["why"]
    assert f"ended     {report.ended['at']}: process" in status.render(report)


def test_the_signal_that_ends_a_run_at_once_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    stop = StopRequest()
    monkeypatch.setattr(signals.os, "_exit", lambda code: None)
    output = open_output(tmp_path / "job", [an_input(tmp_path / "in.txt")], lease_ttl_s=10.0)
    stop.on_exit(lambda: output.close(why=stop.exit_reason))
    stop.handle(signal.SIGTERM)
    assert (status.status(tmp_path / "job").ended or {})["why"] == "SIGTERM: stopped at once"


# which folders


def test_a_sweep_shows_all_its_points_also_those_that_never_began(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*a_job(job, ["a"], name="sweep"), f"output_dir={outputs(job)}", "model=demo"]
    assert run(["-m", *words, "tgt_lang=fr,xx,de"]) == 2
    capsys.readouterr()
    assert alert(job, "sweep") == 8
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{outputs(job) / 'sweep'}: 2 of 3 points complete"
    assert [line.partition(": ")[2].split(",")[0] for line in lines[1:]] == ["complete", "not started", "complete"]
    assert alert(job, "sweep", "format=json") == 8
    assert [json.loads(line)["exit_code"] for line in capsys.readouterr().out.splitlines()] == [0, 8, 0]
    assert front.main(["verify", "name=sweep", f"output_dir={outputs(job)}"]) == 8
    assert run(["-m", *words, "tgt_lang=fr,de"]) == 0
    capsys.readouterr()
    assert alert(job, "sweep") == 0, "the points are those of the newest sweep"
    assert ": 2 of 2 points complete" in capsys.readouterr().out
    assert alert(job, "sweep/tgt_lang=fr") == 0


@pytest.mark.parametrize("data", [b"", b"[]", manifest.seal({"points": ["..", "a/b", ""]}), manifest.seal({"x": 1})])
def test_a_damaged_list_of_points_is_ignored(tmp_path: Path, data: bytes) -> None:
    (tmp_path / sweep_points.NAME).write_bytes(data)
    (tmp_path / "seed=1" / ".hymt").mkdir(parents=True)
    assert sweep_points.find(status.OS_FS, tmp_path) == [tmp_path / "seed=1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file.txt", "is a file, not the folder of a job"),
        (".gitignore", "is a file, not the folder of a job"),
        ("folder", "is not the folder of a job: it has neither .hymt nor manifest.json"),
        ("nowhere", "is a link, not the folder of a job"),
        ("missing", "there is no job 'missing' in"),
    ],
)
def test_what_is_not_a_job_is_said_with_the_jobs_that_there_are(
    job: Job, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    job(*a_job(job, ["a"]))
    for file in ("file.txt", ".gitignore"):
        (outputs(job) / file).write_text("x")
    (outputs(job) / "folder" / "inner").mkdir(parents=True)
    (outputs(job) / "nowhere").symlink_to(job.folder / "gone")
    for check in ("status", "verify"):
        assert front.main([check, f"name={name}", f"output_dir={outputs(job)}"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "The jobs there: n. Set name= to one of them." in error


def test_a_finished_folder_without_its_state_and_a_link_to_a_folder_are_jobs(job: Job) -> None:
    import shutil

    job(*a_job(job))
    shutil.copytree(outputs(job) / "n", outputs(job) / "copy", ignore=shutil.ignore_patterns(".hymt"))
    (outputs(job) / "link").symlink_to(outputs(job) / "n")
    assert alert(job, "copy") == 0
    assert alert(job, "link") == 0


def test_the_status_of_many_files_takes_little_time(tmp_path: Path) -> None:
    num_files = 3000
    inputs = [an_input(tmp_path / f"{index}.txt", f"{index}.txt") for index in range(num_files)]
    job_record = manifest.new_job({"a": list(range(200))}, inputs, {})
    folder = tmp_path / "job"
    (folder / ".hymt").mkdir(parents=True)
    (folder / "translated").mkdir()
    (folder / ".hymt" / "job.json").write_bytes(manifest._encode_job(job_record))
    shards_of_file = ShardTable([ShardRecord(0, 0, 1, 0, 4, "0" * 64, True)]).pack()
    record: dict[str, Any] = {"identity": job_record.identity_sha256, "errors": None, "counts": {"ok": 1}, "flags": {}}
    record |= {"output": {"bytes": 4, "sha256": "0"}, "shards": shards_of_file, "environments": [{"device": "none"}]}
    for input in inputs[: num_files // 2]:
        manifest.translated_path(folder, input.out_rel).write_bytes(b"abc\n")
        path = file_record.record_path(folder, input, FLAT)
        path.parent.mkdir()
        path.write_bytes(manifest.seal({**record, "rel": input.rel, "out_rel": input.out_rel}))
    began = time.process_time()
    report = status.status(folder)
    assert (report.files, report.files_published, report.rows) == (num_files, num_files // 2, num_files // 2)
    assert time.process_time() - began < 1.5, "0.3 s on an idle machine"


def test_status_changes_nothing_in_a_folder_that_nobody_may_write(job: Job) -> None:
    job.interrupt(*a_job(job), at=3)
    folder = outputs(job) / "n"

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o500)
    try:
        assert alert(job, "n") == 8
    finally:
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            path.chmod(0o700)
    assert contents() == before


def test_progress_is_written_only_by_the_run_that_has_the_lease(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    inputs: list[Input] = [an_input(tmp_path / "in.txt")]
    output = open_output(tmp_path / "job", inputs, lease_ttl_s=10.0)
    output.save_progress(RunProgress(0.5))
    recorded = run_progress.read(status.OS_FS, tmp_path / "job")
    assert recorded is not None
    assert (recorded.max_error_rate, recorded.share) == (0.5, None)
    lease.lease_path(tmp_path / "job").unlink()
    output.save_progress(RunProgress(0.9))
    assert run_progress.read(status.OS_FS, tmp_path / "job") == recorded
    output.close()


# exit code 10


def test_the_advice_after_exit_10_names_each_kind_an_example_and_what_helps(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"text": "a"}', "broken", '{"text": "b", "to": "xx"}', '{"text": "c", "to": "de"}', '{"text": 1}']
    (job.folder / "in.jsonl").write_text("\n".join(rows) + "\n")
    words = [f"source.path={job.folder / 'in.jsonl'}", "name=n", f"output_dir={outputs(job)}", "tgt_lang=fr"]
    words += ["model=demo", "source.tgt_lang_field=to"]
    assert run(words) == 10
    text = capsys.readouterr().err.partition("60.00 % of the rows have no translation, more than")[2]
    assert "2 bad_row, such as in.jsonl#2: " in text
    assert "1 bad_language, such as in.jsonl#3: " in text
    assert "`hymt-batch languages`" in text
    assert "on_input_change=redo" in text
    assert f"a line in {outputs(job) / 'n' / 'errors'}" in text
    assert f"hymt-batch status name=n output_dir={outputs(job)} errors=20" in text
    (accept,) = [word.rstrip(":") for word in text.split() if word.startswith("check.max_error_rate=0.6")]
    assert run([*words, accept]) == 0, "the advice works"
    rows[1:3] = ['{"text": "fixed"}', '{"text": "b", "to": "fr"}']
    (job.folder / "in.jsonl").write_text("\n".join(rows) + "\n")
    capsys.readouterr()
    assert run([*words, "on_input_change=redo"]) == 10
    text = capsys.readouterr().err
    assert "1 bad_row, such as in.jsonl#5" in text
    assert "bad_language" not in text


@pytest.mark.parametrize(("attempts", "advised"), [(1, "check=retry"), (3, "check.retry.max_attempts=5")])
def test_the_advice_for_empty_rows_is_not_what_the_job_did_already(
    job: Job, capsys: pytest.CaptureFixture[str], attempts: int, advised: str
) -> None:
    def nothing(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [Completion([], "stop") for _ in requests]

    (job.folder / "in.txt").write_text("a\n")
    words = [f"source.path={job.folder / 'in.txt'}", "name=n", f"output_dir={outputs(job)}", "tgt_lang=fr"]
    assert run([*words, "model=demo", f"check.retry.max_attempts={attempts}"], nothing) == 10
    text = capsys.readouterr().err.partition("1 empty, such as in.txt#1: the model returned no text")[2]
    assert re.findall(r"check=retry|check\.retry\.max_attempts=\d", text) == [advised]


def test_every_error_status_has_advice() -> None:
    from hymt_batch.records import ERROR_STATUSES
    from hymt_batch.run.error_advice import ADVICE

    assert set(ADVICE) == ERROR_STATUSES


def test_a_missing_job_is_still_an_error_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no job"):
        status.job_folders.find(status.OS_FS, tmp_path / "gone")


def test_error_rows_of_an_unpublished_spliced_file_have_the_names_of_its_places(job: Job) -> None:
    path = job.folder / "in.properties"
    lines = [b"# a comment\n\n", b"bad.key=\\u12\n", *(b"key%d=text %d\n" % (n, n) for n in range(20))]
    path.write_bytes(b"".join(lines))
    words = [f"source.path={path}", "source=properties", "name=n", "batch.part_rows=4", "batch.shard_rows=9"]
    job.interrupt(*words, at=3)  # in the second shard
    folder = outputs(job) / "n"
    assert [row["id"] for row in status.status(folder, num_errors=5).errors] == ["in.properties#3"], "its line"
    path.write_bytes(b"".join([b"other=x\n", *lines]))
    assert [row["id"] for row in status.status(folder, num_errors=5).errors] == ["in.properties text 1"], "it changed"
    path.unlink()
    assert [row["id"] for row in status.status(folder, num_errors=5).errors] == ["in.properties text 1"]


def test_the_record_of_a_finished_run_says_nothing_of_a_job_that_starts_over(job: Job) -> None:
    words = a_job(job)
    job(*words)
    old = run_progress.path(outputs(job) / "n").read_bytes()
    job.calls = 0
    job.interrupt(*words, "overwrite=true", at=3)
    assert status.status(outputs(job) / "n").rows_total == 40
    run_progress.path(outputs(job) / "n").write_bytes(old)
    report = status.status(outputs(job) / "n")
    assert (report.rows, report.rows_total, report.share, report.left_s) == (8, None, None, None)
