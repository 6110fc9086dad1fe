"""Workers: the text of one process, no part lost with a worker that dies; a row that kills is found and given up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import config
from hymt_batch.errors import ConfigError, ExitCode, PreflightError
from jobs import translate
from tests.campaigns import stub, stub_worker

ROOT = Path(__file__).parent.parent
ROWS = 60


def corpus(folder: Path, special: dict[int, str] | None = None) -> Path:
    lines = [f"line {number} of the corpus" for number in range(ROWS)]
    for number, text in (special or {}).items():
        lines[number] = text
    source = folder / "in.txt"
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return source


def overrides(folder: Path, *more: str) -> list[str]:
    return [
        f"source.path={folder / 'in.txt'}",
        "tgt_lang=fr",
        "src_lang=en",
        "name=job",
        f"output_dir={folder}",
        "batch.part_rows=6",
        "batch.shard_rows=20",
        "check.max_error_rate=1",
        "launch.progress=off",
        *more,
    ]


def run(folder: Path, *more: str, decode: Callable[..., Any] = stub.decode_batch, command: Sequence[str] = ()) -> int:
    job = config.load("translate", overrides(folder, *more))
    worker = tuple(command) or stub_worker.COMMAND
    return int(
        translate.run(job, partial(translate.translate, prepare=stub.prepare, decode_batch=decode, worker=worker))
    )


def texts(folder: Path) -> list[str]:
    return (folder / "job" / "translated" / "in.txt").read_text(encoding="utf-8").splitlines()


def errors(folder: Path) -> list[dict[str, Any]]:
    path = folder / "job" / "errors" / "in.txt.errors.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def expected(source: Path, without: Sequence[int] = ()) -> list[str]:
    lines = source.read_text(encoding="utf-8").splitlines()
    return ["" if number in without else line.upper() for number, line in enumerate(lines)]


def test_workers_give_the_bytes_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    corpus(tmp_path / "one")
    source = corpus(tmp_path / "many")
    assert run(tmp_path / "one") == ExitCode.COMPLETE
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("STUB_PAUSE_S", "0.02")
    assert run(tmp_path / "many", "launch.workers=2") == ExitCode.COMPLETE
    for name in ("translated/in.txt", "manifest.json"):
        one, many = ((tmp_path / side / "job" / name).read_bytes() for side in ("one", "many"))
        if name == "manifest.json":  # the source's path and the workers' share of threads are not the text
            assert json.loads(one)["identity"] == json.loads(many)["identity"]
        else:
            assert one == many
    assert texts(tmp_path / "many") == expected(source)
    pids = [line.split()[0] for line in (tmp_path / "pids").read_text().splitlines()]
    assert len(set(pids)) == 2
    assert str(os.getpid()) not in pids


@pytest.mark.fault(12)
def test_a_worker_that_dies_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path)
    pids = tmp_path / "pids"
    monkeypatch.setenv("STUB_PIDS", str(pids))
    killed = []

    def begin_and_kill(real: Any = translate.Desk.begin) -> Any:
        def begin(self: Any, task: Any) -> int:
            busy = pids.read_text().splitlines() if pids.exists() else []
            if busy and len(killed) < 3:
                pid = int(busy[-1].split()[0])
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    pass
            return int(real(self, task))

        return begin

    monkeypatch.setattr(translate.Desk, "begin", begin_and_kill())
    assert run(tmp_path, "launch.workers=2") == ExitCode.COMPLETE
    assert len(killed) == 3
    assert texts(tmp_path) == expected(source)
    assert errors(tmp_path) == []


@pytest.mark.fault(10, 11, 12)
@pytest.mark.parametrize("deadly", ["POISON", "BUG"])
def test_a_row_that_kills_its_worker_is_found_and_its_neighbours_are_translated(tmp_path: Path, deadly: str) -> None:
    source = corpus(tmp_path, {7: f"this is {deadly}", 41: f"and {deadly} again"})
    assert run(tmp_path, "launch.workers=2") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source, without=[7, 41])
    assert [(one["id"], one["status"]) for one in errors(tmp_path)] == [
        ("in.txt#8", "crash_quarantined"),
        ("in.txt#42", "crash_quarantined"),
    ]
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


@pytest.mark.fault(13)
def test_a_row_that_hangs_its_worker_is_found(tmp_path: Path) -> None:
    source = corpus(tmp_path, {9: "HANG"})
    assert run(tmp_path, "launch.workers=2", "launch.hang_s=0.4", "batch.part_rows=4") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source, without=[9])
    assert "launch.hang_s" in errors(tmp_path)[0]["message"]


def alone(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The job in a process of its own, decoding itself."""
    return subprocess.run(
        [*stub_worker.COMMAND, *overrides(folder, *more)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.fault(10, 11, 49)
def test_a_row_that_kills_the_job_three_times_is_given_up_in_the_fourth_run(tmp_path: Path) -> None:
    source = corpus(tmp_path, {30: "POISON"})
    codes = [alone(tmp_path).returncode for _ in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert texts(tmp_path) == expected(source, without=[30])
    assert [one["status"] for one in errors(tmp_path)] == ["crash_quarantined"]
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


@pytest.mark.fault(13)
def test_a_step_that_hangs_ends_the_job_so_that_it_can_be_run_again(tmp_path: Path) -> None:
    corpus(tmp_path, {30: "HANG"})
    done = alone(tmp_path, "launch.hang_s=0.5")
    assert done.returncode == ExitCode.STOPPED
    assert "launch.hang_s=0.5" in done.stderr
    assert len(list((tmp_path / "job" / ".hymt" / "attempts").iterdir())) == 1, "the part is remembered"


def test_a_stopped_job_blames_no_part(tmp_path: Path) -> None:
    corpus(tmp_path)
    process = subprocess.Popen(
        [*stub_worker.COMMAND, *overrides(tmp_path, "launch.workers=2")],
        cwd=ROOT,
        env={**os.environ, "STUB_PAUSE_S": "0.3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = tmp_path / "job" / ".hymt"
    deadline = time.monotonic() + 30
    while not list(parts.glob("f*/s*/p*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED, told
    assert not list(parts.glob("attempts/*"))
    assert run(tmp_path) == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(tmp_path / "in.txt")


def test_workers_that_cannot_start_are_said_so(tmp_path: Path) -> None:
    corpus(tmp_path)
    with pytest.raises(PreflightError, match="before they have loaded the model"):
        run(tmp_path, "launch.workers=2", command=(sys.executable, "-c", "raise SystemExit(3)"))


def test_numbers_of_workers_are_checked(tmp_path: Path) -> None:
    corpus(tmp_path)
    with pytest.raises(ConfigError, match=r"launch\.workers=0"):
        config.load("translate", overrides(tmp_path, "launch.workers=0"))
