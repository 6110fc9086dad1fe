"""A row that is too long for a part is decoded and committed in runs of its segments, and joined from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, InputChangedError
from hymt_batch.fs import OS_FS
from hymt_batch.write import segment_run
from hymt_batch.write.state_file import StateFileDamagedError
from jobs import status, verify
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.fakes import worker as fake_worker
from tests.fakes.job import Job

SENTENCES = [f"Sentence number {index} of a long row." for index in range(24)]
LONG = " ".join(SENTENCES)
SHORT = ["High 12.", "Low 3 tonight."]
CUT = ["segment.max_tokens=48", "batch.part_tokens=80", "batch.part_new_tokens=300", "batch.part_rows=4"]
"""One sentence of the row is a segment; its limit of new tokens allows two in a run."""
RUNS = 12


def corpus(folder: Path, *rows: str) -> Path:
    source = folder / "in.txt"
    source.write_text("".join(f"{row}\n" for row in rows or (SHORT[0], LONG, SHORT[1])))
    return source


def runs(folder: Path) -> list[Path]:
    return sorted(folder.glob(".hymt/f*/s*/p*-r*"))


def output(folder: Path) -> list[str]:
    return (folder / "translated" / "in.txt").read_text().splitlines()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [f"source.path={corpus(tmp_path)}", "name=j", *CUT]


def test_a_long_row_is_committed_in_runs_after_the_other_rows_and_a_stop_loses_one_of_them(
    job: Job, tmp_path: Path, words: list[str]
) -> None:
    folder = tmp_path / "out" / "j"
    job.interrupt(*words, at=8)
    assert [path.name for path in folder.glob(".hymt/f*/s*/p*") if "-r" not in path.name] == ["p00000"]
    assert len(runs(folder)) == 8 - 2  # one batch for the short rows, and the last one failed
    decoded = job.decoded
    job(*words)
    assert job.decoded == len(SENTENCES) + len(SHORT)
    assert job.decoded - decoded == 2 * (RUNS - 6)
    assert output(folder) == [row.upper() for row in (SHORT[0], LONG, SHORT[1])]
    assert not runs(folder)


def test_a_divided_row_has_the_record_of_an_undivided_one(job: Job, tmp_path: Path, words: list[str]) -> None:
    job(*words, "check.flag.min_logprob=-1.5", "write=jsonl")
    job(*words, "check.flag.min_logprob=-1.5", "write=jsonl", "name=whole", "batch.part_tokens=10000")
    files = [(tmp_path / "out" / name / "translated" / "in.jsonl").read_bytes() for name in ("j", "whole")]
    assert files[0] == files[1]
    manifests = [json.loads((tmp_path / "out" / name / "manifest.json").read_text()) for name in ("j", "whole")]
    assert [manifests[0][key] == manifests[1][key] for key in ("rows", "counts", "flags", "tokens")] == [True] * 4


def test_equal_long_rows_are_decoded_once(job: Job, tmp_path: Path, words: list[str]) -> None:
    corpus(tmp_path, LONG, SHORT[0], f"  {LONG}", LONG)
    job(*words)
    assert job.decoded == len(SENTENCES) + 1
    assert output(tmp_path / "out" / "j") == [LONG.upper(), SHORT[0].upper(), f"  {LONG}".upper(), LONG.upper()]


def test_a_row_whose_runs_are_all_there_is_joined_without_decoding(
    job: Job, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hymt_batch.run import commit_result

    def fail(*_: Any) -> Any:
        raise fake_job.Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(commit_result, "commit_divided_row", fail)
        with pytest.raises(fake_job.Interrupted):
            job(*words)
    assert len(runs(tmp_path / "out" / "j")) == RUNS
    decoded = job.decoded
    job(*words)
    assert job.decoded == decoded
    assert output(tmp_path / "out" / "j")[1] == LONG.upper()


@pytest.mark.parametrize("damage", ["empty", "half", "a part of rows", "another run"])
def test_a_damaged_run_is_quarantined_and_decoded_again(
    job: Job, tmp_path: Path, words: list[str], damage: str
) -> None:
    folder = tmp_path / "out" / "j"
    job.interrupt(*words, at=8)
    first, second, *_ = runs(folder)
    data = first.read_bytes()
    damaged = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "a part of rows": first.with_name("p00000").read_bytes(),
        "another run": second.read_bytes(),
    }
    first.write_bytes(damaged[damage])
    report = verify.verify(folder)
    assert report.exit_code is ExitCode.DAMAGE
    assert "in.txt shard 0 part 1 run 0" in "\n".join(report.findings.lines())
    decoded = job.decoded
    job(*words)
    assert job.decoded - decoded == 2 * (RUNS - 6 + 1)
    assert output(folder)[1] == LONG.upper()
    assert len(list((folder / ".hymt" / "quarantine").iterdir())) >= 1


def test_a_changed_long_row_is_refused_or_decoded_again(job: Job, tmp_path: Path, words: list[str]) -> None:
    job.interrupt(*words, at=8)
    changed = LONG.replace("number 23", "number 99")
    corpus(tmp_path, SHORT[0], changed, SHORT[1])
    with pytest.raises(InputChangedError, match="row 2"):
        job(*words)
    decoded = job.decoded
    job(*words, "on_input_change=redo")
    assert job.decoded - decoded == len(SENTENCES)
    assert output(tmp_path / "out" / "j")[1] == changed.upper()


def test_a_long_row_of_a_finished_shard_is_kept_when_another_row_changes(
    job: Job, tmp_path: Path, words: list[str]
) -> None:
    job(*words)
    corpus(tmp_path, "High 13.", LONG, SHORT[1])
    decoded = job.decoded
    job(*words, "on_input_change=redo")
    assert job.decoded - decoded == len(SHORT)
    assert output(tmp_path / "out" / "j") == ["HIGH 13.", LONG.upper(), SHORT[1].upper()]


def test_status_and_verify_tell_how_much_of_a_long_row_is_done(job: Job, tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "out" / "j"
    job.interrupt(*words, at=8)
    job_status = status.status(folder)
    assert job_status.rows_in_progress == [{"id": "in.txt#2", "num_segments": 24, "num_committed": 12}]
    assert (job_status.rows, job_status.shards) == (2, 1)
    assert "in.txt#2: 12 of 24 segments done" in status.render(job_status)
    report = verify.verify(folder)
    assert report.exit_code is ExitCode.MISSING
    assert "in.txt#2: 12 of its 24 segments" in "\n".join(report.findings.lines())


def test_the_status_line_names_a_divided_row(job: Job, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hymt_batch.run.progress import Progress

    lines = []
    original = Progress.add_batch

    def add_batch(self: Progress, *arguments: int) -> None:
        original(self, *arguments)
        lines.append(self.status_line())

    monkeypatch.setattr(Progress, "add_batch", add_batch)
    job(*words)
    assert "in.txt#2 (24 segments): 2 of its 24 segments done, 22 left" in lines[1]
    assert "in.txt#2 (24 segments): 24 of its 24 segments done, 0 left" in lines[-1]
    assert "left ·" in lines[-2]  # the time left


def test_the_environment_of_each_run_is_in_the_manifest(job: Job, tmp_path: Path, words: list[str]) -> None:
    job.interrupt(*words, at=8)
    job(*words, "batch.max_rows=1")
    manifest = json.loads((tmp_path / "out" / "j" / "manifest.json").read_text())
    assert len(manifest["environments"]) == 2


def test_a_run_that_fails_in_one_segment_gives_its_row_the_status_of_the_failure(
    tmp_path: Path, words: list[str]
) -> None:
    def broken(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions = fake_engine.upper(requests, check_stop)
        return [
            Completion([], "non_finite") if b"NUMBER 7 " in bytes(completion.ids) else completion
            for completion in completions
        ]

    settings = [*words, f"output_dir={tmp_path}", "tgt_lang=fr", "model=demo", "check.max_error_rate=1"]
    assert fake_job.run([*settings, "launch.progress=off"], broken) == ExitCode.COMPLETE
    (error,) = map(json.loads, (tmp_path / "j/errors/in.txt.errors.jsonl").read_text().splitlines())
    assert (error["id"], error["status"]) == ("in.txt#2", "non_finite")


def with_workers(folder: Path, *more: str) -> list[str]:
    return [f"output_dir={folder}", "src_lang=en", "tgt_lang=fr", "model=demo", "launch.progress=off",
            "launch.workers=2", "check.max_error_rate=1", *more]  # fmt: skip


@pytest.mark.fault(10, 12)
def test_a_segment_that_kills_its_worker_costs_no_other_row_and_no_other_run(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hymt_batch.run.executor.usable_cpus", lambda: 2)
    deadly = LONG.replace("number 7 ", "POISON 7 ")
    corpus(tmp_path, SHORT[0], deadly, SHORT[1], LONG)
    committed = []
    original = segment_run.encode
    monkeypatch.setattr(segment_run, "encode", lambda *values: committed.append(values[2]) or original(*values))
    code = fake_job.run(with_workers(tmp_path, *words), worker_command=fake_worker.COMMAND)
    assert code == ExitCode.COMPLETE
    assert output(tmp_path / "j") == [SHORT[0].upper(), "", SHORT[1].upper(), LONG.upper()]
    (error,) = map(json.loads, (tmp_path / "j/errors/in.txt.errors.jsonl").read_text().splitlines())
    assert (error["id"], error["status"]) == ("in.txt#2", "crash_quarantined")
    assert len(committed) == 2 * RUNS, "each run of both rows is committed once"
    assert not list((tmp_path / "j" / ".hymt").glob("attempts/*"))


@pytest.mark.fault(49)
def test_a_stop_request_keeps_the_runs_that_are_done(tmp_path: Path, words: list[str]) -> None:
    settings = [*with_workers(tmp_path, *words), "launch.workers=1"]
    process = subprocess.Popen(
        [*fake_worker.COMMAND, *settings], cwd=Path(__file__).parent.parent, env={**os.environ, "STUB_PAUSE_S": "0.3"}
    )
    deadline = time.monotonic() + 60
    while len(runs(tmp_path / "j")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ExitCode.STOPPED
    assert 2 <= len(runs(tmp_path / "j")) < RUNS
    assert not list((tmp_path / "j" / ".hymt").glob("attempts/*"))
    assert fake_job.run(settings) == ExitCode.COMPLETE
    assert output(tmp_path / "j")[1] == LONG.upper()


def test_a_row_over_part_tokens_with_one_segment_is_not_divided(job: Job, tmp_path: Path, words: list[str]) -> None:
    job.interrupt(*words, "segment.max_tokens=2000", at=2)
    assert not runs(tmp_path / "out" / "j")


def test_any_changed_byte_of_a_run_is_detected(job: Job, tmp_path: Path, words: list[str]) -> None:
    job.interrupt(*words, at=4)
    path = runs(tmp_path / "out" / "j")[0]
    data = path.read_bytes()
    header, segments = segment_run.decode(data)
    assert segment_run.read_header(OS_FS, path) == header
    assert [segment.text for segment in segments] == [text.upper() for text in SENTENCES[:2]]
    for position in range(0, len(data), 3):
        with pytest.raises(StateFileDamagedError):
            segment_run.decode(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
