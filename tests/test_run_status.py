"""What other programs learn of a run: status.json, the Prometheus textfile, and the commands at its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode
from hymt_batch.run import hooks, metrics, plan
from tests.fakes.job import run

SAMPLE = re.compile(r'^(hymt_batch_\w+)\{((?:\w+="(?:[^"\\\n]|\\.)*",?)+)\} (\S+)$')


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "in.txt").write_text("one fine day\ntwo\nthree\n", encoding="utf-8")
    return [f"source.path={tmp_path / 'in.txt'}", f"output_dir={tmp_path}", "name=n", "tgt_lang=fr", "model=demo"]


def status_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return value


def read_metrics(path: Path) -> dict[str, float]:
    """Return each sample of a textfile by its name, or its name and the value of its last label."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            assert re.match(r"# (HELP hymt_batch_\w+ \S|TYPE hymt_batch_\w+ gauge$)", line), line
            continue
        match = SAMPLE.match(line)
        assert match, line
        more = re.search(r'(?:status|flag)="(\w+)"$', match[2])
        found[f"{match[1]}.{more[1]}" if more else match[1]] = float(match[3])
    return found


def test_a_complete_job_leaves_its_totals_in_status_json(tmp_path: Path, words: list[str]) -> None:
    assert run(words) == 0
    status = status_of(tmp_path / "n")
    assert (status["state"], status["exit_code"], status["error"]) == ("complete", 0, None)
    assert (status["rows"], status["rows_total"], status["files"], status["counts"]) == (3, 3, 1, {"ok": 3})
    assert status["ended"] >= status["began"]
    assert not list((tmp_path / "n/.hymt").glob(".tmp-*"))


def test_a_finished_folder_is_not_touched_again(tmp_path: Path, words: list[str]) -> None:
    assert run(words) == 0
    before = (tmp_path / "n/status.json").stat()
    assert run(words) == 0
    after = (tmp_path / "n/status.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    (tmp_path / "n/status.json").unlink()
    assert run(words) == 0
    assert not (tmp_path / "n/status.json").exists(), "an earlier version finished it"
    (tmp_path / "n/status.json").write_text('{"state": "running"}')
    assert run(words) == 0
    assert status_of(tmp_path / "n")["state"] == "complete", "the run that finished it was killed too early to say so"


def test_status_json_says_that_a_run_works_and_how_it_failed(tmp_path: Path, words: list[str]) -> None:
    seen: list[dict[str, Any]] = []

    def failing(requests: Sequence[Request], check_stop: object) -> list[Completion]:
        seen.append(status_of(tmp_path / "n"))
        raise RuntimeError("the device is gone")

    code = run(words, failing)
    assert code != 0
    assert (seen[0]["state"], seen[0]["exit_code"], seen[0]["pid"]) == ("running", None, os.getpid())
    status = status_of(tmp_path / "n")
    assert (status["state"], status["exit_code"]) in {("failed", code), ("stopped", code)}
    assert status["error"]["what"]


def test_the_textfile_is_valid_and_keeps_the_last_success(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "corpus.prom"
    setting = f"launch.metrics_file={file}"
    assert run([*words, setting]) == 0
    first = read_metrics(file)
    assert (first["hymt_batch_exit_code"], first["hymt_batch_running"]) == (0, 0)
    assert (first["hymt_batch_rows"], first["hymt_batch_rows_by_status.ok"]) == (3, 3)
    assert abs(first["hymt_batch_last_success_timestamp_seconds"] - time.time()) < 60
    assert file.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert run([*words, setting, "src_lang=de"]) == ExitCode.IDENTITY
    second = read_metrics(file)
    assert second["hymt_batch_exit_code"] == ExitCode.IDENTITY
    name = "hymt_batch_last_success_timestamp_seconds"
    assert second[name] == first[name]
    assert [path.name for path in tmp_path.iterdir() if "corpus" in path.name] == ["corpus.prom"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_of_textfiles_gets_one_a_job_and_one_that_cannot_be_written_is_a_warning(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "collector").mkdir()
    assert run([*words, f"launch.metrics_file={tmp_path / 'collector'}"]) == 0
    assert [path.name for path in (tmp_path / "collector").iterdir()] == [f"hymt-batch-{tmp_path.name}-n.prom"]
    capsys.readouterr()
    assert run([*words, f"launch.metrics_file={tmp_path / 'nowhere/x.prom'}"]) == 0
    assert capsys.readouterr().err.count("cannot write") == 1


def test_labels_are_escaped(tmp_path: Path) -> None:
    values = {
        **dict.fromkeys(("ended", "files", "rows", "rows_total", "share", "left_s", "error_rows")),
        "name": 'a"b\\c\nd',
        "folder": "/x",
        "exit_code": None,
        "began": "2026-01-01T00:00:00+00:00",
        "counts": {},
        "flags": {},
    }
    metrics.write(tmp_path / "x.prom", values)
    assert 'name="a\\"b\\\\c\\nd"' in (tmp_path / "x.prom").read_text()
    assert read_metrics(tmp_path / "x.prom")["hymt_batch_running"] == 1


def test_the_command_on_success_gets_the_summary_and_the_one_on_failure_the_error(
    tmp_path: Path, words: list[str]
) -> None:
    commands = [f"launch.on_{how}=cat > {tmp_path}/{how}.json; echo $HYMT_EXIT_CODE > {tmp_path}/{how}" for how in
                ("success", "failure")]  # fmt: skip
    assert run([*words, *commands]) == 0
    summary = json.loads((tmp_path / "success.json").read_text())
    assert (summary["state"], summary["rows"], summary["name"]) == ("complete", 3, "n")
    assert (tmp_path / "success").read_text() == "0\n"
    assert not (tmp_path / "failure").exists()
    (tmp_path / "success").unlink()
    assert run([*words, *commands, "src_lang=de"]) == ExitCode.IDENTITY
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["state"], failure["exit_code"]) == ("failed", int(ExitCode.IDENTITY))
    assert failure["error"]["fix"]
    assert (tmp_path / "failure").read_text() == f"{int(ExitCode.IDENTITY)}\n"
    assert not (tmp_path / "success").exists()


def test_a_command_that_fails_is_told_and_changes_no_exit_code(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "launch.on_success=echo to the user; exit 3", "strict=true"]) == 0
    out, err = capfd.readouterr()
    assert "launch.on_success failed (exit code 3); the exit code of the job stays 0" in err
    assert "to the user" in err
    assert "to the user" not in out


def test_a_command_that_takes_too_long_is_killed_with_its_children(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = time.monotonic()
    hooks.run(f"sleep 60 & echo $! > {tmp_path}/pid; wait", b"{}", 0.5, 0)
    assert time.monotonic() - begun < 10
    assert "launch.hook_timeout_s=0.5" in caplog.text
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the child still runs")


def test_a_command_need_not_read_its_input(caplog: pytest.LogCaptureFixture) -> None:
    hooks.run("exec true", b"x" * (1 << 22), 10.0, 0)
    assert caplog.text == ""


def test_a_run_waits_for_the_folder_if_asked_to(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "overwrite=true"]) == 0
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "n")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    status, file = (tmp_path / "n/status.json").read_bytes(), tmp_path / "x.prom"
    file.write_text("of the run that works\n")
    assert run([*words, "overwrite=true", f"launch.metrics_file={file}"]) == ExitCode.LEASE_HELD
    assert "launch.if_held=wait" in capsys.readouterr().err
    assert (tmp_path / "n/status.json").read_bytes() == status, "it belongs to the run that works"
    assert file.read_text() == "of the run that works\n"
    pauses: list[float] = []

    def end_holder(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            holder.kill()
            holder.wait()

    monkeypatch.setattr(plan.time, "sleep", end_holder)
    assert run([*words, "launch.if_held=wait"]) == 0
    assert len(pauses) == 2
    assert capsys.readouterr().err.count("waiting until it has ended") == 1
    holder.stdout.close()


HOLDER = """
import sys, time
from pathlib import Path
from hymt_batch.fs import OS_FS
from hymt_batch.write import lease
lease.acquire(OS_FS, Path(sys.argv[1]), ttl_s=600.0, beat_s=20.0)
print("held", flush=True)
time.sleep(120)
"""
