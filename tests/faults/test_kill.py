"""Real processes that are killed with SIGKILL at seeded random moments, or run at once without a lease."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hymt_batch.errors import LeaseError
from tests.fakes import upper

PROGRAM = str(Path(upper.__file__))
ROWS = 64  # 8 shards of 3 parts


def source(folder: Path) -> Path:
    path = folder / "in.txt"
    path.write_text("".join(f"line {i}\n" for i in range(ROWS - 1)) + "empty\n")
    return path


def start(folder: Path, path: Path, log: Path, pause_s: float, ttl_s: float = 5.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", PROGRAM, str(folder), str(path), str(log), str(pause_s), str(ttl_s)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def outputs(folder: Path) -> dict[str, bytes]:
    names = (
        "translated/in.txt",
        "errors/in.txt.errors.jsonl",
        "review/in.txt.review.jsonl",
        "manifest.json",
    )
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def golden(tmp_path: Path) -> dict[str, bytes]:
    upper.run(tmp_path / "golden", [upper.an_input(source(tmp_path))])
    return outputs(tmp_path / "golden")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.fault(1)
def test_a_killed_job_resumes_to_the_same_bytes_and_repeats_at_most_one_part_per_kill(
    tmp_path: Path, golden: dict[str, bytes], seed: int
) -> None:
    rng, kills, log = random.Random(seed), 0, tmp_path / "log"
    for _ in range(200):
        process = start(tmp_path / "job", source(tmp_path), log, 0.02)
        begun = time.monotonic()
        # wait until the job decodes, then kill it at a random moment
        while process.poll() is None and time.monotonic() - begun < 20:
            if log.exists() and len(log.read_bytes().splitlines()) > kills:
                break
            time.sleep(0.005)
        try:
            process.wait(timeout=rng.uniform(0.0, 0.25))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        finally:
            errors = process.stderr.read() if process.stderr else b""
            if process.stderr:
                process.stderr.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
    decoded = Counter(log.read_text().split())
    assert kills >= 3
    assert len(decoded) == 24
    assert sum(decoded.values()) - len(decoded) <= kills
    assert outputs(tmp_path / "job") == golden


@pytest.mark.fault(43)
def test_concurrent_writers_without_a_lease_make_one_right_output(tmp_path: Path, golden: dict[str, bytes]) -> None:
    path = source(tmp_path)
    for index in range(2):
        folder = tmp_path / f"job{index}"
        running = [start(folder, path, tmp_path / "log", 0.003, ttl_s=0.0) for _ in range(3)]
        time.sleep(0.35)
        running[0].kill()
        for process in running:
            process.wait(timeout=60)
            if process.stderr:
                errors = process.stderr.read()
                process.stderr.close()
            if process is not running[0]:
                assert process.returncode == 0, errors
        assert outputs(folder) == golden
        assert not list((folder / ".hymt" / "quarantine").iterdir())


@pytest.mark.fault(42)
def test_a_second_run_under_a_lease_is_refused_and_names_the_first(tmp_path: Path) -> None:
    process = start(tmp_path / "job", source(tmp_path), tmp_path / "log", 0.2)
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    with pytest.raises(LeaseError, match=f"process {process.pid} on .* since"):
        upper.run(tmp_path / "job", [upper.an_input(tmp_path / "in.txt")], lease_ttl_s=5.0)
    process.kill()
    process.wait()
    if process.stderr:
        process.stderr.close()
    # the holder is dead, so the lease is taken over at once
    upper.run(tmp_path / "job", [upper.an_input(tmp_path / "in.txt")], lease_ttl_s=5.0)
