"""`launch=ray` with a stand-in for Ray: which tasks it gets, what is repeated, and what the job ends with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import signals
from hymt_batch.errors import ConfigError, ExitCode, PreflightError
from hymt_batch.launch import ray_cluster, ray_task
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.ray_task import TaskEnd
from hymt_batch.launch.registry import Target
from hymt_batch.launch.settings import LaunchConfig
from jobs import __main__ as front
from tests.fakes.ray import FakeRay, RayError

STUB = """
import json, os, sys
done = os.path.join(os.path.dirname(__file__), "done")
shards = set(open(done).read().split()) if os.path.exists(done) else set()
missing = sorted({"0", "1", "2", "3"} - shards)
if sys.argv[1] == "missing":
    print(json.dumps({"missing": missing, "shards": 4}))
    sys.exit(8 if missing else 0)
if sys.argv[1] == "merge":
    sys.exit(8 if missing else 10)
"""


class Node:
    """Runs the tasks: each shard ends with the codes that it is given, then it is complete."""

    def __init__(self, folder: Path, codes: dict[str, list[int | Exception]]) -> None:
        self._done, self._codes = folder / "done", codes
        self.ran: list[str] = []
        self.words: list[list[str]] = []

    def __call__(self, words: list[str], cwd: str, environment: dict[str, str], grace_s: float) -> TaskEnd:
        self.words.append(words)
        shards = words[-1].removeprefix("shard.index=")
        self.ran.append(shards)
        code = self._codes[shards].pop(0) if self._codes.get(shards) else 0
        if isinstance(code, Exception):
            raise code
        if code == 0:
            with self._done.open("a") as file:
                file.write(f"{shards} ")
        return TaskEnd(code, "node7", f"hymt-batch: why {code}")


def job(folder: Path, **settings: object) -> JobCommand:
    (folder / "stub.py").write_text(STUB)
    launch = LaunchConfig(target=Target.ray, **settings)  # type: ignore[arg-type]
    words = ("source.path=in.txt", "tgt_lang=fr", "launch=ray", "launch.address=auto", "strict=true")
    program = (sys.executable, "-ISB", str(folder / "stub.py"))
    return JobCommand("n", "outputs", words, launch, resets=("strict=false",), cwd=str(folder), program=program)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExitCode]]:
    """Return what runs a job on a stand-in."""
    handlers = {signum: signal.getsignal(signum) for signum in (*signals.SIGNALS, signal.SIGHUP)}
    monkeypatch.setattr(signals, "_stop", signals.StopRequest())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run_on(ray: FakeRay, **settings: object) -> ExitCode:
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray_cluster.hand_over(job(tmp_path, **settings), lambda text: None)

    yield run_on
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def test_each_task_gets_its_shards_and_what_it_asks_for(run: Callable[..., ExitCode], tmp_path: Path) -> None:
    node = Node(tmp_path, {})
    ray = FakeRay(node, [{"CPU": 8.0, "GPU": 2.0, "memory": 9e9}])
    code = run(ray, array_parallelism=3, cpus_per_task=4, mem="8GiB", max_requeues=7, address="head:6379")
    assert code is ExitCode.TOO_MANY_ERRORS, "that of the merge"
    assert (ray.addresses, ray.is_connected, ray.max_running) == (["head:6379"], False, 3)
    assert node.ran == ["0", "1", "2", "3"]
    assert node.words[0] == [
        *("translate", "source.path=in.txt", "tgt_lang=fr", "strict=false", "name=n", "shard.index=0"),
    ]
    for options in ray.options:
        assert options.pop("name").startswith("hymt-batch n ")
        assert options == {
            "num_cpus": 4,
            "num_gpus": 1,
            "memory": 8 << 30,
            "max_retries": 7,
            "scheduling_strategy": "SPREAD",
        }


def test_a_rerun_hands_out_only_what_is_missing(run: Callable[..., ExitCode], tmp_path: Path) -> None:
    node = Node(tmp_path, {"1": [ExitCode.BUG]})
    assert run(FakeRay(node)) is ExitCode.BUG
    assert run(FakeRay(node)) is ExitCode.TOO_MANY_ERRORS
    assert node.ran == ["0", "1", "2", "3", "1"]
    ray = FakeRay(node)
    assert run(ray) is ExitCode.TOO_MANY_ERRORS, "nothing is missing: it merges without a cluster"
    assert ray.addresses == []


def test_a_task_that_was_stopped_or_killed_is_repeated_and_no_other(
    run: Callable[..., ExitCode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: dict[str, list[int | Exception]] = {"0": [75, -9], "1": [3], "2": [5], "3": [-6, -6, -6]}
    node = Node(tmp_path, codes)
    assert run(FakeRay(node), max_requeues=2) is ExitCode.IDENTITY, "which every repetition would end with"
    assert {shard: node.ran.count(shard) for shard in "0123"} == {"0": 3, "1": 1, "2": 1, "3": 3}
    err = capsys.readouterr().err
    assert "why 3\n" in err and "shards 1: exit code 3 (the folder holds a job with other settings" in err
    assert "shards 3: killed by signal 6 on node7; 4 of 4 tasks ended" in err


def test_a_task_that_ray_loses_for_good_is_missing_and_ends_no_other(
    run: Callable[..., ExitCode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(tmp_path, {"0": [RayError("\x1b[36mNodeDiedError\x1b[39m")]})
    assert run(FakeRay(node)) is ExitCode.MISSING
    assert node.ran == ["0", "1", "2", "3"]
    err = capsys.readouterr().err
    assert "NodeDiedError" in err and "\x1b" not in err and "run the same command again" in err


def test_a_signal_stops_the_tasks_and_the_same_command_goes_on(run: Callable[..., ExitCode], tmp_path: Path) -> None:
    node = Node(tmp_path, {})
    ray = FakeRay(node)
    ray.on_wait = lambda: signals._stop.request("SIGTERM", "now") if node.ran else None
    code = run_to_error(lambda: run(ray, array_parallelism=2))
    assert code is ExitCode.STOPPED
    assert ray.cancelled and not ray.is_connected and len(node.ran) < 4


def run_to_error(call: Callable[[], ExitCode]) -> ExitCode:
    try:
        return call()
    except Exception as error:
        return error.exit_code  # type: ignore[attr-defined, no-any-return]


def test_gpus_are_asked_for_only_where_there_are_any(
    run: Callable[..., ExitCode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for nodes, chosen, asked in (([{"CPU": 2.0}], None, 0), ([{"GPU": 8.0, "CPU": 2.0}], 0, 0), ([{"CPU": 2.0}], 4, 4)):
        (tmp_path / "done").unlink(missing_ok=True)
        ray = FakeRay(Node(tmp_path, {}), nodes)
        run(ray, gpus_per_task=chosen)
        assert {options["num_gpus"] for options in ray.options} == {asked}
        assert ("no node has that now" in capsys.readouterr().err) == (asked == 4)


def test_without_an_address_a_cluster_is_started_here(
    run: Callable[..., ExitCode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = FakeRay(Node(tmp_path, {}))
    run(ray)
    assert ray.addresses == ["local"], "not None, with which Ray joins what it finds"
    assert "starting a Ray cluster on this machine" in capsys.readouterr().err
    (tmp_path / "done").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    run(ray)
    assert ray.addresses == ["local", "head:1"]


def test_a_cluster_that_does_not_answer_is_one_error(run: Callable[..., ExitCode], tmp_path: Path) -> None:
    ray = FakeRay(Node(tmp_path, {}))
    ray.init_error = ConnectionError("no")
    with pytest.raises(PreflightError, match="auth_token"):
        run(ray, address="head:6379")


def test_a_wrong_size_is_refused_before_anything_is_done(run: Callable[..., ExitCode], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"launch\.mem"):
        run(FakeRay(Node(tmp_path, {})), mem="32G?")


@pytest.mark.usefixtures("run")
def test_a_missing_library_is_one_error_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PreflightError, match=r"pip install 'hymt-batch\[ray\]'"):
        ray_cluster.hand_over(job(tmp_path), lambda text: None)


def test_a_dry_run_prints_the_commands_and_needs_no_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "a b.txt").write_text("x\n")
    words = ["translate", "source.path=a b.txt", "tgt_lang=fr", "model=demo", "launch=ray", "launch.dry_run=true"]
    assert front.main([*words, "name=n", "launch.devices=[80GiB]"]) == 0
    out = capfd.readouterr().out
    prepare, task, merge = [line for line in out.splitlines() if not line.startswith("#")]
    assert "prepare 'source.path=a b.txt'" in prepare and "'devices=[80GiB]'" in prepare
    assert "launch" not in task.partition("translate")[2] and task.endswith("name=n shard.index=0")
    assert merge.endswith("merge name=n") and "launch.address=local" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a b.txt"]


# The process of a task on a node.


def run_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, grace_s: float = 5.0) -> TaskEnd:
    (tmp_path / "task.py").write_text(textwrap.dedent(text))
    monkeypatch.setattr(ray_task, "of_this_machine", lambda: (sys.executable, "-ISB", str(tmp_path / "task.py")))
    return ray_task.run_task(["translate", "shard.index=3"], str(tmp_path), {"HF_HOME": "/cache"}, grace_s)


def test_a_crash_ends_the_process_of_the_task_and_not_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = run_stub(
        tmp_path,
        monkeypatch,
        """
        import os, sys
        print(sys.argv[1:], os.environ["HF_HOME"], os.getcwd(), file=sys.stderr, flush=True)
        os.abort()
        """,
    )
    assert end.code == -signal.SIGABRT
    assert end.tail == f"['translate', 'shard.index=3'] /cache {tmp_path}"


def test_a_folder_that_a_node_does_not_see_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_task, "of_this_machine", lambda: (sys.executable,))
    end = ray_task.run_task(["translate"], str(tmp_path / "none"), {}, 1.0)
    assert end.code == ExitCode.PREFLIGHT and "none" in end.tail


@pytest.mark.parametrize("cause", [KeyboardInterrupt, SystemExit])
def test_a_worker_that_is_asked_to_stop_lets_its_task_finish(
    cause: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        while not (tmp_path / "began").exists():
            os.sched_yield()
        raise cause

    monkeypatch.setattr(ray_task, "time", SimpleNamespace(sleep=interrupt))
    stub = """
        import pathlib, signal, sys
        def stop(*_):
            pathlib.Path("finished").touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path("began").touch()
        signal.pause()
        """
    with pytest.raises(cause):
        run_stub(tmp_path, monkeypatch, stub)
    assert (tmp_path / "finished").exists()


def test_the_task_of_a_killed_worker_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import os, time\nopen('pid', 'w').write(f'{os.getpid()} ')\ntime.sleep(60)\n")
    worker = f"""
from hymt_batch.launch import ray_task
ray_task.of_this_machine = lambda: ({sys.executable!r}, "-ISB", {str(tmp_path / "task.py")!r})
ray_task.run_task([], {str(tmp_path)!r}, {{}}, 1.0)
"""
    with subprocess.Popen([sys.executable, "-c", worker]) as process:
        pid = wait_for(lambda: int(text) if (text := read(tmp_path / "pid")).endswith(" ") else None)
        process.kill()
    wait_for(lambda: not Path(f"/proc/{pid}/fd").exists() or not is_running(pid) or None)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    state = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1]
    return bool(state) and state[0] not in "ZX"


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 30
    while (found := condition()) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
