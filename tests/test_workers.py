"""Workers: same text as one process, no part lost when a worker dies, and a row that kills workers is quarantined."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import count, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import child_process, config
from hymt_batch.errors import ConfigError, ExitCode, StoppedError
from hymt_batch.model import cpu_count
from hymt_batch.records import Prompt, Segment, Translation
from hymt_batch.run import executor, message, oom, worker_pool, worker_process
from hymt_batch.run.unit import Unit
from hymt_batch.run.worker_process import WorkerProcess
from hymt_batch.write.attempts import AttemptMarkers
from jobs import __main__ as front
from jobs import translate
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.fakes import worker as fake_worker

ROOT = Path(__file__).parent.parent
ROWS = 60


def corpus(folder: Path, special: dict[int, str] | None = None) -> Path:
    lines = [f"line {index} of the corpus" for index in range(ROWS)]
    for index, text in (special or {}).items():
        lines[index] = text
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


def run(folder: Path, *more: str, decode: fake_engine.Decode = fake_engine.upper, command: Sequence[str] = ()) -> int:
    job = config.load("translate", overrides(folder, *more))
    with fake_job.installed(decode, command or fake_worker.COMMAND):
        return int(translate.run(job))


def texts(folder: Path) -> list[str]:
    return (folder / "job" / "translated" / "in.txt").read_text(encoding="utf-8").splitlines()


def errors(folder: Path) -> list[dict[str, Any]]:
    path = folder / "job" / "errors" / "in.txt.errors.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def expected(source: Path, without: Sequence[int] = ()) -> list[str]:
    lines = source.read_text(encoding="utf-8").splitlines()
    return ["" if index in without else line.upper() for index, line in enumerate(lines)]


def test_workers_produce_the_same_bytes_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    corpus(tmp_path / "one")
    source = corpus(tmp_path / "many")
    assert run(tmp_path / "one") == ExitCode.COMPLETE
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("STUB_PAUSE_S", "0.3")  # longer than the second worker takes to start
    assert run(tmp_path / "many", "launch.workers=2") == ExitCode.COMPLETE
    for name in ("translated/in.txt", "manifest.json"):
        one_data, many_data = ((tmp_path / side / "job" / name).read_bytes() for side in ("one", "many"))
        if name == "manifest.json":  # the source path and the workers' share of threads differ
            assert json.loads(one_data)["identity"] == json.loads(many_data)["identity"]
        else:
            assert one_data == many_data
    assert texts(tmp_path / "many") == expected(source)
    pids = [line.split()[0] for line in (tmp_path / "pids").read_text().splitlines()]
    assert len(set(pids)) == 2
    assert str(os.getpid()) not in pids


def retry(folder: Path, *more: str) -> int:
    words = ["retry", "name=job", f"output_dir={folder}", "launch.progress=off", "launch.workers=2", *more]
    with fake_job.installed(fake_engine.upper, fake_worker.COMMAND):
        return front.main(words)


def test_rows_are_decoded_again_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that ended their workers are tried again: one of them ends its workers again, and stays as it was."""
    monkeypatch.setenv("STUB_FRAIL", f"99:{tmp_path / 'deaths'}")
    source = corpus(tmp_path, {7: "this is FRAIL", 41: "and POISON"})
    assert run(tmp_path, "launch.workers=2") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source, without=[7, 41])
    monkeypatch.setenv("STUB_FRAIL", f"0:{tmp_path / 'deaths'}")
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    assert retry(tmp_path) == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source, without=[41])
    assert [(error["id"], error["status"]) for error in errors(tmp_path)] == [("in.txt#42", "crash_quarantined")]
    pids, num_rows, _ = zip(*(line.split() for line in (tmp_path / "pids").read_text().splitlines()), strict=True)
    assert str(os.getpid()) not in pids
    assert 2 <= sum(map(int, num_rows)) <= 12, "the other rows are not decoded again"


def test_a_worker_receives_the_settings_and_then_prompts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path)
    messages: list[Any] = []
    send = WorkerProcess.send
    monkeypatch.setattr(WorkerProcess, "send", lambda self, message: messages.append(message) or send(self, message))
    assert run(tmp_path, "launch.workers=2", "batch.part_rows=6", "batch.shard_rows=60") == ExitCode.COMPLETE
    parts = [columns for columns in messages if isinstance(columns, tuple)]
    prompts = [prompt for part in parts for prompt in message.unpack_prompts(part)]
    assert sorted(prompt.row_id for prompt in prompts) == sorted(f"in.txt#{n + 1}" for n in range(ROWS))
    assert {type(prompt) for prompt in prompts} == {Prompt}
    assert {type(sent).__name__ for sent in messages if not isinstance(sent, tuple)} == {"TranslateJob"}
    assert max(len(pickle.dumps(part)) for part in parts) < 6 * 1000, "bytes a part of six rows"


def make_prompt(index: int, **fields: Any) -> Prompt:
    segment = Segment(index, 3, f"text {index}", lead=" ", trail="\t")
    return replace(Prompt(segment, f"in.txt#{index + 1}", (256, 1, 2, 257), 2, "fr", "en"), **fields)


def test_prompts_and_translations_arrive_as_they_were_sent() -> None:
    prompts = [make_prompt(0), make_prompt(1, src_lang=None, ids=()), make_prompt(2, tgt_lang="zh-Hant")]
    received = pickle.loads(pickle.dumps(message.pack_prompts(prompts)))
    assert message.unpack_prompts(received) == prompts
    translations = [
        Translation(prompts[0], "un", "stop", 3, ("copied",), "", 1, -0.5),
        Translation(prompts[1], "", "error", message="a reason"),
        Translation(prompts[2], "trois", "length"),
    ]
    columns = pickle.loads(pickle.dumps(message.pack_translations(translations)))
    assert message.unpack_translations(prompts, columns) == translations
    with pytest.raises(ValueError, match="zip"):
        message.unpack_translations(prompts[:2], columns)


def test_a_field_of_a_prompt_or_a_translation_is_not_left_out_of_the_columns() -> None:
    assert len(message.pack_prompts([])) == len(fields(Prompt)) - 1 + len(fields(Segment))
    assert len(message.pack_translations([])) == len(fields(Translation)) - 1


@pytest.mark.fault(12)
def test_a_worker_that_dies_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path)
    pids = tmp_path / "pids"
    monkeypatch.setenv("STUB_PIDS", str(pids))
    killed = []

    def begin_and_kill(real: Any = AttemptMarkers.begin) -> Any:
        def begin(*arguments: Any) -> int:
            busy = pids.read_text().splitlines() if pids.exists() else []
            if busy and len(killed) < 3:
                pid = int(busy[-1].split()[0])
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    pass
            return int(real(*arguments))

        return begin

    monkeypatch.setattr(AttemptMarkers, "begin", begin_and_kill())
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
    assert [(error["id"], error["status"]) for error in errors(tmp_path)] == [
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


@pytest.mark.fault(12)
@pytest.mark.parametrize(("deaths", "quarantined"), [(4, False), (7, False), (8, True)])
def test_only_a_row_that_kills_its_worker_alone_three_times_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, quarantined: bool
) -> None:
    """Three deaths with the part of six rows, one with its half, one with two rows; then the row is alone."""
    source = corpus(tmp_path, {6: "FRAIL as a row can be"})
    monkeypatch.setenv("STUB_FRAIL", f"{deaths}:{tmp_path / 'deaths'}")
    assert run(tmp_path, "launch.workers=2") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source, without=[6] if quarantined else [])
    assert [error["status"] for error in errors(tmp_path)] == ["crash_quarantined"] * quarantined
    assert len((tmp_path / "deaths").read_text()) == deaths + (not quarantined)


class InstantWorker:
    """Has translated its piece as soon as it is asked for a message."""

    def __init__(self, index: int) -> None:
        self.index, self.ready, self.environment, self.last_heard = index, True, {}, 0.0
        self.pipe, self.waiting = self, []

    def send(self, columns: Any) -> None:
        self.waiting.append(message.unpack_prompts(columns))

    def recv(self) -> tuple[Any, ...]:
        translations = [Translation(prompt, "text", "stop") for prompt in self.waiting.pop()]
        return "done", message.pack_translations(translations), []


@pytest.mark.parametrize("num_files", [1, 3])
def test_a_kill_costs_one_part_of_each_worker(monkeypatch: pytest.MonkeyPatch, num_files: int) -> None:
    begun: list[Unit] = []
    # all workers are done whenever the pool waits for one
    monkeypatch.setattr(worker_pool, "wait", lambda pipes, s: [pipe for pipe in pipes if s and pipe.waiting])
    monkeypatch.setattr(WorkerProcess, "start", lambda index, spec: InstantWorker(index))
    stop = SimpleNamespace(requested=False, check=lambda: None, noticed=lambda when: False)
    job = SimpleNamespace(launch=SimpleNamespace(hang_s=1e9))
    pool = worker_pool.WorkerPool(job, {}, [None, None, None], stop, lambda unit: begun.append(unit) or 1, None)
    parts = [SimpleNamespace(prompts=[make_prompt(index)]) for index in range(20 * num_files)]
    groups = [parts[index : index + num_files] for index in range(0, len(parts), num_files)]
    committed, most = [], 0
    for result in pool.run(Unit(group, group) for group in groups):
        uncommitted = sum(any(part not in committed for part in unit.parts) for unit in begun)
        most = max(most, uncommitted)
        committed.append(result.part)
    assert committed and len(committed) == len(parts)
    if num_files == 1:
        assert most == 3
    else:
        assert 3 < most <= 6  # a worker begins the next unit while many files are committed


def test_the_output_of_a_worker_goes_to_the_log(tmp_path: Path) -> None:
    corpus(tmp_path, {7: "BUG"})
    result = alone(tmp_path, "launch.workers=2", "batch.part_rows=1")
    assert result.returncode == ExitCode.COMPLETE
    assert "Traceback" not in result.stderr
    assert "ended by ValueError: a bug" in result.stderr
    assert "died: exit code 1" in result.stderr
    log = next((tmp_path / "job" / "logs").iterdir()).read_text(encoding="utf-8")
    assert "INFO stderr ValueError: a bug" in log


def alone(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the job in a separate process that decodes by itself."""
    return subprocess.run(
        [*fake_worker.COMMAND, *overrides(folder, *more)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.fault(10, 11, 49)
def test_a_row_that_kills_the_job_three_times_is_quarantined_in_the_fourth_run(tmp_path: Path) -> None:
    source = corpus(tmp_path, {30: "POISON"})
    codes = [alone(tmp_path).returncode for _ in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert texts(tmp_path) == expected(source, without=[30])
    assert [error["status"] for error in errors(tmp_path)] == ["crash_quarantined"]
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


@pytest.mark.fault(13)
def test_a_step_that_hangs_ends_the_job_so_that_it_can_be_run_again(tmp_path: Path) -> None:
    corpus(tmp_path, {30: "HANG"})
    result = alone(tmp_path, "launch.hang_s=0.5")
    assert result.returncode == ExitCode.STOPPED
    assert "launch.hang_s=0.5" in result.stderr
    assert len(list((tmp_path / "job" / ".hymt" / "attempts").iterdir())) == 1, "the part is remembered"


def test_a_stop_request_leaves_no_attempt_marker(tmp_path: Path) -> None:
    corpus(tmp_path)
    process = subprocess.Popen(
        [*fake_worker.COMMAND, *overrides(tmp_path, "launch.workers=2")],
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
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED, stderr
    assert not list(parts.glob("attempts/*"))
    assert run(tmp_path) == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(tmp_path / "in.txt")


def test_a_worker_that_hangs_while_it_loads_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path)
    monkeypatch.setattr(worker_pool, "MIN_LOAD_TIMEOUT_S", 0.3)
    sleeping = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
    with pytest.raises(StoppedError, match=r"sent no message for 0\.3 s \(launch\.hang_s\)"):
        run(tmp_path, "launch.workers=2", "launch.hang_s=0.2", command=sleeping)


def test_a_worker_that_never_becomes_ready_stops_the_job(tmp_path: Path) -> None:
    corpus(tmp_path)
    with pytest.raises(StoppedError, match=r"worker [01] died 5 times .* before it loaded the model .*exit code 3"):
        run(tmp_path, "launch.workers=2", command=(sys.executable, "-c", "raise SystemExit(3)"))
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


KILLED = (sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)")


@pytest.mark.parametrize("counts", [count(), repeat(None)], ids=["counted", "not reported"])
def test_running_out_of_memory_while_workers_load_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Iterator[int | None]
) -> None:
    corpus(tmp_path)
    monkeypatch.setattr(worker_process, "read_oom_kills", lambda: next(counts))
    with pytest.raises(StoppedError, match=r"died 5 times .* memory ran out\. Set launch\.workers=1"):
        run(tmp_path, "launch.workers=2", command=KILLED)


def test_kills_from_outside_are_tolerated_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path)
    monkeypatch.setattr(worker_process, "read_oom_kills", lambda: 7)
    with pytest.raises(StoppedError, match=r"died 20 times .* Something outside the job kills it"):
        run(tmp_path, "launch.workers=2", command=KILLED)


def test_the_oom_kill_count_of_the_kernel_is_read_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 3\noom_kill 12\n")
    assert oom.read_oom_kills(tmp_path / "vmstat") == 12
    assert oom.read_oom_kills(tmp_path / "none") is None


def starts(monkeypatch: pytest.MonkeyPatch, num_processors: int) -> list[int]:
    """Collect the indices of the workers that are started, on a machine with this many processors."""
    started: list[int] = []
    start = WorkerProcess.start
    monkeypatch.setattr(executor, "usable_cpus", lambda: num_processors)
    monkeypatch.setattr(WorkerProcess, "start", lambda index, *rest: started.append(index) or start(index, *rest))  # type: ignore[func-returns-value]
    return started


def test_a_worker_is_started_when_a_part_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = starts(monkeypatch, 64)
    corpus(tmp_path)
    assert run(tmp_path, "launch.workers=64", "source.limit=1") == ExitCode.COMPLETE
    assert started == [0]
    assert run(tmp_path, "launch.workers=64", "source.limit=1") == ExitCode.COMPLETE
    assert started == [0], "nothing was left to do"


@pytest.mark.parametrize(("processors", "most"), [(3, 3), (1, 1)])
def test_there_are_no_more_workers_than_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processors: int, most: int
) -> None:
    started = starts(monkeypatch, processors)
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    source = corpus(tmp_path)
    assert run(tmp_path, "launch.workers=64") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source)
    assert set(started) == set(range(most))
    stderr = capsys.readouterr().err
    assert stderr.count("launch.workers=64, but this process may use only") == 1
    assert f"at most {most} worker" in stderr
    assert str(os.getpid()) not in (tmp_path / "pids").read_text().split(), (
        "more than one requested worker means worker processes, even for one"
    )


def test_the_cpu_quota_limits_the_processors(tmp_path: Path) -> None:
    num_allowed = len(os.sched_getaffinity(0))
    membership = tmp_path / "cgroup"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cpu" / "a").mkdir(parents=True)
    membership.write_text("4:cpu,cpuacct:/a\n0::/a/b\n")
    assert cpu_count.usable_cpus(tmp_path, membership) == num_allowed
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "cpu" / "a" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "a" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_count.usable_cpus(tmp_path, membership) == num_allowed
    (tmp_path / "a" / "cpu.max").write_text("50000 100000\n")
    assert cpu_count.usable_cpus(tmp_path, membership) == 1
    (tmp_path / "a" / "cpu.max").write_text("100001 100000\n")
    assert cpu_count.usable_cpus(tmp_path, membership) == min(2, num_allowed)
    (tmp_path / "cpu" / "a" / "cpu.cfs_quota_us").write_text("1000\n")
    assert cpu_count.usable_cpus(tmp_path, membership) == 1


PARENT = """
import sys
from types import SimpleNamespace
from hymt_batch.records import Part
from hymt_batch.run import worker_process
from hymt_batch.run.worker_pool import WorkerPool
from hymt_batch.run.unit import Unit
from hymt_batch.run.worker_process import WorkerSpec
from hymt_batch.signals import StopRequest
worker_process.COMMAND = (sys.executable, "-c", "import time; time.sleep(60)")
job = SimpleNamespace(launch=SimpleNamespace(hang_s=60.0))
with WorkerPool(job, {}, [WorkerSpec(job, {})] * 2, StopRequest(), begin_attempt=lambda part: 1, on_batch=None) as pool:
    list(pool.run(Unit.of_part(Part(None, index, 4, ())) for index in range(4)))
"""


def alive(mark: str) -> list[str]:
    """Return the command lines of running processes that have this marker in their environment."""
    commands = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                mark.encode() in (folder / "environ").read_bytes()
                and "State:\tZ" not in (folder / "status").read_text()
            ):
                commands.append((folder / "cmdline").read_text().replace("\0", " ")[-80:])
    return commands


@pytest.mark.fault(12)
def test_workers_end_if_their_parent_dies_at_any_moment_of_their_start() -> None:
    rng, deadlines = random.Random(11), []
    for index in range(20):
        mark = f"PARENT_OF_WORKERS={os.getpid()}-{index}-"
        name, _, value = mark.partition("=")
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT], cwd=ROOT, env={**os.environ, name: value}, stderr=subprocess.DEVNULL
        )
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not children.read_text():
            assert parent.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5))
        parent.kill()
        parent.wait()
        deadlines.append((time.monotonic() + 1.0, mark))
    for deadline, mark in deadlines:
        time.sleep(max(0.0, deadline - time.monotonic()))
        assert alive(mark) == []


LOADING = """
import sys, time
from hymt_batch.model import prepare
from hymt_batch.run import worker
def load(*_):
    print("loading", flush=True)
    time.sleep(60)
prepare.prepare_model = load
sys.exit(worker.main(sys.argv[1:]))
"""


def test_a_worker_that_loads_ends_with_its_parent_where_the_system_sends_no_signal() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", LOADING, str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True)
    theirs.close()
    with process, Connection(ours.detach()) as pipe:
        pipe.send(SimpleNamespace(model=None, device_map=None, launch=SimpleNamespace(num_threads=None)))
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        pipe.close()
        assert process.wait(2) == 0


def test_a_worker_whose_parent_died_before_it_started_exits() -> None:
    command = child_process.die_with_parent_command([sys.executable, "-S", "-c", "print('still here')"])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "still here\n"
    command[command.index(str(os.getpid()))] = "1"  # as if another process had started it
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")


def test_a_worker_ignores_stop_signals_from_its_start() -> None:
    program = "import signal; print(*(int(signal.getsignal(n) is signal.SIG_IGN) for n in (2, 10, 15)))"
    command = child_process.die_with_parent_command(
        [sys.executable, "-c", program], ignored_signals=child_process.IGNORED_SIGNALS
    )
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1 1 1\n"


def test_numbers_of_workers_are_checked(tmp_path: Path) -> None:
    corpus(tmp_path)
    with pytest.raises(ConfigError, match=r"launch\.workers=0"):
        config.load("translate", overrides(tmp_path, "launch.workers=0"))
