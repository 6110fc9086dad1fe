"""What happens to a real process: signals, limits, a full file system, lost state, clocks that jump.

The job is the real one, with its command line and the stub model. Tests that fill a file system use a tmpfs in a
separate mount namespace.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [f"row {row} of the corpus" for row in range(24)]
PARTS = 8
STUB = [sys.executable, "-m", "tests.fakes.job"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


def overrides(source: Path, store: Path | None = None) -> list[str]:
    return [
        f"source.path={source}",
        f"output_dir={store or source.parent}",
        "name=job",
        "tgt_lang=fr",
        "model=demo",
        f"batch.part_rows={len(TEXTS) // PARTS}",
        f"batch.max_rows={len(TEXTS) // PARTS}",
        "launch.progress=off",
        "launch.lease_ttl_s=9",
        "launch.lease_beat_s=1",
    ]


def start(command: list[str], pause_s: float = 0.0, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "STUB_PAUSE_S": str(pause_s)},
        stderr=subprocess.PIPE,
        text=True,
        **{"stdout": subprocess.DEVNULL, **options},
    )


def ended(process: subprocess.Popen[str], timeout_s: float = 60.0) -> tuple[int, str]:
    """Return the exit code and stderr."""
    _, stderr = process.communicate(timeout=timeout_s)
    return process.returncode, stderr or ""


def run(source: Path, store: Path | None = None, **options: Any) -> tuple[int, str]:
    return ended(start([*STUB, *overrides(source, store)], **options))


def parts(folder: Path) -> list[Path]:
    found = glob.glob(".hymt/f*/s*/p*", root_dir=folder)  # unlike Path.glob, it skips what vanishes meanwhile
    return [path for path in (folder / name for name in found) if path.is_file()]


def until(condition: Callable[[], object], process: subprocess.Popen[str], timeout_s: float = 30.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, ended(process)
        assert time.monotonic() - begun < timeout_s
        time.sleep(0.005)


def assert_complete(source: Path, store: Path | None = None) -> None:
    text = ((store or source.parent) / "job" / "translated" / "in.txt").read_text(encoding="utf-8")
    assert text == "".join(f"{line.upper()}\n" for line in TEXTS)


def assert_one_line(stderr: str, cause: str) -> None:
    assert "Traceback" not in stderr, stderr
    assert "Logging error" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line]
    assert cause in lines[-1], stderr


def catches(process: subprocess.Popen[str]) -> bool:
    """Return whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    ("signal_sent", "after_s"),
    [(signal.SIGTERM, 0.0), (signal.SIGINT, 0.1), (signal.SIGUSR1, 0.2), (signal.SIGUSR2, 0.05)],
)
def test_a_signal_during_the_imports_ends_with_75_and_creates_nothing(
    source: Path, signal_sent: signal.Signals, after_s: float
) -> None:
    process = start([sys.executable, "-m", "jobs", "translate", *overrides(source)])
    until(lambda: catches(process), process)
    time.sleep(after_s)
    process.send_signal(signal_sent)
    code, stderr = ended(process)
    assert code == 75
    assert_one_line(stderr, f"{signal_sent.name}: stopped at once; run the same command again")
    assert not (source.parent / "job").exists()


@pytest.mark.fault(3, 5)
def test_a_job_stopped_by_two_different_signals_resumes_to_the_same_bytes(source: Path) -> None:
    for signal_sent in (signal.SIGTERM, signal.SIGUSR1):
        num_before = len(parts(source.parent / "job"))
        process = start([*STUB, *overrides(source)], pause_s=0.1)
        until(lambda num_before=num_before: len(parts(source.parent / "job")) > num_before, process)  # type: ignore[misc]
        process.send_signal(signal_sent)
        code, stderr = ended(process)
        assert code == 75
        assert_one_line(stderr, f"{signal_sent.name}: stopped after a finished part. Run the same command again")
        assert not list((source.parent / "job").rglob(".tmp-*"))
        assert not list((source.parent / "job" / ".hymt" / "lease").iterdir())
    assert len(parts(source.parent / "job")) < PARTS
    assert run(source)[0] == 0
    assert_complete(source)


@pytest.mark.fault(4)
def test_a_second_signal_ends_at_once_and_the_next_run_continues(source: Path) -> None:
    process = start([*STUB, *overrides(source)], pause_s=1.5)
    until(lambda: (source.parent / "job" / ".hymt" / "attempts").exists(), process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    code, stderr = ended(process)
    assert code == 75
    assert time.monotonic() - begun < 1.0
    assert_one_line(stderr, "SIGINT: stopped at once")
    assert run(source)[0] == 0
    assert_complete(source)


@pytest.mark.fault(8)
def test_a_terminal_that_closes_does_not_end_the_job(source: Path) -> None:
    process = start([*STUB, *overrides(source)], pause_s=0.05)
    until(lambda: parts(source.parent / "job"), process)
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 0
    assert_complete(source)


@pytest.mark.fault(8)
def test_a_closed_stdout_changes_neither_the_job_nor_its_exit_code(source: Path) -> None:
    read_end, write_end = os.pipe()
    process = start([*STUB, *overrides(source)], stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    code, stderr = ended(process)
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert_complete(source)


@pytest.mark.fault(8)
def test_the_log_file_continues_when_stderr_is_closed(source: Path) -> None:
    read_end, write_end = os.pipe()
    command = [*STUB, *overrides(source), "launch.progress=log"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=write_end)
    os.close(write_end)
    os.close(read_end)
    assert process.wait(60) == 0
    assert_complete(source)
    assert "committed" in next((source.parent / "job" / "logs").iterdir()).read_text(encoding="utf-8")


@pytest.mark.fault(38)
def test_state_removed_while_the_job_runs_leaves_no_wrong_file(source: Path) -> None:
    process = start([*STUB, *overrides(source)], pause_s=0.1)
    until(lambda: parts(source.parent / "job"), process)
    (source.parent / "job" / ".hymt").rename(source.parent / "gone")
    shutil.rmtree(source.parent / "gone")
    code, stderr = ended(process)
    assert code == 75, stderr
    assert "Traceback" not in stderr
    assert not list((source.parent / "job" / "translated").iterdir())
    assert run(source)[0] == 0
    assert_complete(source)


def limited(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.mark.fault(18)
def test_a_file_size_limit_stops_the_job_and_is_named_as_the_cause(source: Path) -> None:
    code, stderr = run(source, preexec_fn=limited(resource.RLIMIT_FSIZE, 600))
    assert code == 6, stderr
    assert_one_line(stderr, "a file grew beyond the limit for files")
    assert "ulimit -f" in stderr
    assert run(source)[0] == 0
    assert_complete(source)


@pytest.mark.fault(14)
def test_too_few_file_descriptors_end_the_job_and_are_named_as_the_cause(source: Path) -> None:
    code, stderr = run(source, preexec_fn=limited(resource.RLIMIT_NOFILE, 5))
    assert code in (2, 6, 75), stderr
    assert_one_line(stderr, "oo many open files")
    assert run(source)[0] == 0
    assert_complete(source)


@pytest.mark.fault(10)
def test_too_little_memory_ends_the_job_and_the_next_run_completes_it(source: Path) -> None:
    code, stderr = run(source, preexec_fn=limited(resource.RLIMIT_AS, 60 << 20))
    assert code == 75, stderr
    assert_one_line(stderr, "this process cannot get more memory")
    assert run(source)[0] == 0
    assert_complete(source)


CLOCKS = """
import datetime, random, sys, time
right, rng = time.time, random.Random(7)
def jumping():
    return max(0.0, right() + rng.choice([-1, 0, 1]) * 30 * 86400) if rng.random() < 0.9 else 0.0
time.time = jumping
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, zone=None):
        return cls.fromtimestamp(jumping(), zone)
datetime.datetime = Jumping
from tests.fakes import job
sys.exit(job.run(sys.argv[1:]))
"""


@pytest.mark.fault(51)
def test_clocks_that_jump_by_a_month_change_nothing(source: Path) -> None:
    process = start([sys.executable, "-c", CLOCKS, *overrides(source)], pause_s=0.2)
    until(lambda: parts(source.parent / "job"), process)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75
    code, stderr = ended(start([sys.executable, "-c", CLOCKS, *overrides(source)]))
    assert code == 0, stderr
    assert_complete(source)


INTERRUPTED = """
import signal, sys
from tests.fakes import job
seen = [0]
signal.signal(signal.SIGALRM, lambda *_: seen.__setitem__(0, seen[0] + 1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
code = job.run(sys.argv[1:])
signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(code if seen[0] > 20 else 99)
"""


@pytest.mark.fault(24)
def test_a_thousand_signals_a_second_change_nothing(source: Path) -> None:
    code, stderr = ended(start([sys.executable, "-c", INTERRUPTED, *overrides(source)], pause_s=0.02))
    assert code == 0, stderr
    assert_complete(source)


def namespace() -> list[str]:
    """Return the arguments that run a command in a separate mount namespace, or [] if this machine has none."""
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    try:
        tried = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if tried.returncode == 0 else []


SMALL_STORE = """
mkdir -p "$STORE" && mount -t tmpfs -o "$1" none "$STORE" && shift || exit 99
"$@"; echo "first $?" >&2
ls -A "$STORE/job/translated" >&2
mount -o remount,size=50m,nr_inodes=10k "$STORE" || exit 99
"$@"; echo "second $?" >&2
cat "$STORE/job/translated/in.txt"
"""


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        pytest.param("size=24k", "the file system is full (bytes or inodes)", marks=pytest.mark.fault(16)),
        pytest.param("nr_inodes=18", "the file system is full (bytes or inodes)", marks=pytest.mark.fault(19)),
    ],
)
def test_a_full_file_system_stops_the_job_and_it_continues_when_there_is_space(
    source: Path, options: str, cause: str
) -> None:
    if not (namespace_command := namespace()):
        pytest.skip("no mount namespaces on this machine: unshare is missing or not allowed")
    store = source.parent / "store"
    command = [
        *namespace_command,
        "sh",
        "-c",
        SMALL_STORE,
        "sh",
        options,
        *STUB,
        *overrides(source, store),
        "write.min_free=0",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "STORE": str(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, stderr = process.communicate(timeout=60)
    first, _, remainder = stderr.partition("first ")
    assert remainder.startswith("75\nsecond 0\n"), stderr
    assert_one_line(first, cause)
    assert out.endswith("".join(f"{line.upper()}\n" for line in TEXTS))


def campaign(name: str, *arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def traceable() -> str:
    """Return why strace cannot be used on this machine, or ""."""
    try:
        ran = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return "" if ran.returncode == 0 else f"strace is not allowed to trace: {ran.stderr[:200]}"


NO_STRACE = traceable()
traced = pytest.mark.skipif(bool(NO_STRACE), reason=NO_STRACE)


@pytest.mark.fault(1)
def test_jobs_killed_at_random_moments_end_with_the_bytes_of_an_unbroken_one() -> None:
    figures = campaign("kills", "--size", "40", "--seed", "3")
    assert figures["kills"] >= 40
    assert figures["worst_parts_again"] <= 4
    phases = {phase.partition(" ")[0] for phase in figures["by_phase"]}
    assert len(phases) >= 3, "the phase of a kill is random; the campaign's histogram shows all phases"


@pytest.mark.fault(12)
def test_workers_killed_from_outside_cost_no_row() -> None:
    assert campaign("worker_kills", "--size", "12", "--seed", "3")["kills"] == 12


@pytest.mark.fault(49)
def test_a_job_requeued_again_and_again_keeps_a_small_state_and_the_same_bytes() -> None:
    assert campaign("stops", "--size", "20", "--seed", "3")["requeued"] == 20


@traced
@pytest.mark.fault(2)
def test_a_job_killed_at_a_system_call_ends_with_the_bytes_of_an_unbroken_one() -> None:
    figures = campaign("syscalls", "--size", "24", "--seed", "3")
    assert figures["injected"] >= 20
    assert figures["max_boundaries"] > 150


@traced
@pytest.mark.fault(16, 17, 18, 20, 21, 22, 25, 31)
def test_a_failed_system_call_leads_at_most_to_a_documented_exit_code() -> None:
    figures = campaign("syscalls", "--errors", "--size", "24", "--seed", "3")
    assert figures["injected"] >= 20


@traced
@pytest.mark.fault(32)
def test_a_slow_disk_makes_a_job_slower_and_changes_nothing_else() -> None:
    assert campaign("syscalls", "--slow", "--size", "10")["slowed"] > 20


@pytest.mark.fault(9, 42, 43, 45, 46)
def test_four_runners_without_a_lease_and_a_zombie_with_one_make_one_right_output() -> None:
    figures = campaign("races", "--size", "10", "--seed", "3")
    # on a loaded machine the zombie may wake so late that the job is already complete
    assert figures["zombies_stopped"] + figures["zombies_done"] == 1
    assert figures["append_wrong_rounds"] >= 7  # the other design fails, so the rounds are hard enough


def test_the_comparison_counts_the_errors_of_each_design() -> None:
    figures = campaign("comparison", "--size", "1", "--seed", "3")
    assert {"by_hymt_batch", "by_skip_seen", "by_count_rows"} <= figures.keys()
    assert figures["by_hymt_batch"]["kills"] >= 3
