"""Run a job on a Ray cluster: prepare it, run the tasks that miss something as tasks of Ray, and merge.

Running it again hands out only what is missing then. Ray starts a task again whose worker or node died; this module
starts one again that was stopped or killed. A task that fails never ends the others. Talks to hymt-batch through its
commands, and imports Ray inside functions: it is an extra.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hymt_batch import sanitize, signals
from hymt_batch.byte_size import parse_bytes
from hymt_batch.child_process import die_with_parent_command
from hymt_batch.errors import EXIT_CODE_MEANINGS, ExitCode, PreflightError
from hymt_batch.launch.command import NO_RETRY, JobCommand
from hymt_batch.launch.prepared_job import (
    is_complete,
    missing_after_prepare,
    missing_shards,
    prepare_job,
    prepare_words,
    task_lists,
)
from hymt_batch.launch.ray_task import KILL_S, TaskEnd, run_task
from hymt_batch.records import plural
from hymt_batch.signals import StopRequest

LOCAL = "local"
ADDRESS_VARIABLE = "RAY_ADDRESS"
MAX_SUBMITTED = 1000  # tasks that Ray has at once; more would only wait in its memory
MAX_SHOWN = 20  # commands of tasks in a dry run
OBJECT_STORE_BYTES = 100_000_000  # of a cluster on this machine; nothing large is passed
WAIT_S = 0.5
HANDED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
"""Environment variables that tasks get from here; workers have those of the `ray start` of their node."""


@dataclass(frozen=True, slots=True)
class RayTask:
    """The shards of one task."""

    shards: str  # as shard.index takes them
    num_repeats: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task asks Ray for."""

    num_cpus: int
    num_gpus: int
    memory: int | None  # bytes

    def fit(self, node: dict[str, float]) -> bool:
        """Return whether a node has them in all."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory or 0}
        return all(node.get(name, 0) >= value for name, value in wanted.items())


def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Prepare a job, run its tasks and merge it; with launch.dry_run=true, show what would be run.

    Args:
        job: The job.
        show: Called with the text for the user.

    Returns:
        The code of the merge; that of `prepare` if it failed; if shards are missing, the code of a task that fails
        in the same way again, or MISSING; STOPPED after a signal.

    Raises:
        HymtError: Ray is not installed, or the cluster does not answer.
    """
    _memory_of_task(job)  # before anything is done
    if job.launch.dry_run:
        show(_describe_dry_run(job))
        return ExitCode.COMPLETE
    ray = _import_ray()
    if (prepared := prepare_job(job)) is not ExitCode.COMPLETE:
        return prepared
    missing = missing_after_prepare(job)
    if is_complete(job, missing):
        show(f"{job.shown_folder} is complete: nothing is left to run")
        return ExitCode.COMPLETE
    ends: list[TaskEnd] = []
    if missing:
        with _connected(ray, job) as stop:
            tasks = [RayTask(shards) for shards in task_lists(missing, job.per_task)]
            ends = TaskRunner(ray, job, stop).run(tasks)
            stop.raise_if_requested()
    return _merge(job, ends)


def _import_ray() -> Any:
    """Return the module of Ray.

    Raises:
        PreflightError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise PreflightError(
            f"launch=ray needs the package ray: {error}",
            fix="pip install 'hymt-batch[ray]', here and on every node of the cluster",
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, job: JobCommand) -> Iterator[StopRequest]:
    """Context with a connection to the cluster; yields what tells that a signal came.

    Raises:
        PreflightError: There is no such cluster.
    """
    address = job.launch.address or os.environ.get(ADDRESS_VARIABLE) or LOCAL
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        _report("starting a Ray cluster on this machine, which ends with the job (launch.address=local)")
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise PreflightError(
            f"Ray at launch.address={address} does not answer: {sanitize.sanitize_text(str(error))}",
            fix="Check it with: ray status. If the cluster has token authentication, this user needs its token in "
            "~/.ray/auth_token, and RAY_AUTH_MODE=token; launch.address=local starts a cluster here.",
        ) from error
    try:
        stop = signals.install()  # Ray has replaced the handler of SIGTERM
        stop.allow_drain(job.launch.grace_s + KILL_S)
        yield stop
    finally:
        ray.shutdown()


class TaskRunner:
    """Hands tasks to Ray, and collects how each ended."""

    def __init__(self, ray: Any, job: JobCommand, stop: StopRequest) -> None:
        self._ray, self._job, self._stop = ray, job, stop
        self._environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        self._resources = self._choose_resources()
        self._running: dict[Any, RayTask] = {}
        self._ends: list[TaskEnd] = []

    def _choose_resources(self) -> Resources:
        launch, nodes = self._job.launch, [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        resources = Resources(
            num_cpus=1 if launch.cpus_per_task is None else launch.cpus_per_task,
            num_gpus=(1 if gpus else 0) if launch.gpus_per_task is None else launch.gpus_per_task,
            memory=_memory_of_task(self._job),
        )
        cpus = sum(node.get("CPU", 0) for node in nodes)
        _report(
            f"the cluster has {plural(len(nodes), 'node')}, {cpus:g} CPUs and {gpus:g} GPUs; a task asks for "
            f"{resources.num_cpus} and {resources.num_gpus}"
        )
        if not any(resources.fit(node) for node in nodes):
            _report("no node has that now: the tasks wait for one (launch.cpus_per_task, gpus_per_task, mem)")
        return resources

    def run(self, tasks: Sequence[RayTask]) -> list[TaskEnd]:
        """Run tasks until all have ended, or a signal came; return how each ended for the last time."""
        waiting, num_tasks = deque(tasks), len(tasks)
        max_running = self._job.launch.array_parallelism or MAX_SUBMITTED
        is_cancelled = False
        while self._running or (waiting and not self._stop.requested):
            while waiting and len(self._running) < max_running and not self._stop.requested:
                self._submit(waiting.popleft())
            if self._stop.requested and not is_cancelled:
                is_cancelled = True
                for reference in self._running:  # those that run finish their part, the others never begin
                    self._ray.cancel(reference, force=False)
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=WAIT_S)
            for reference in ready:
                task = self._running.pop(reference)
                end = self._collect(reference)
                if self._may_repeat(task, end):
                    waiting.append(replace(task, num_repeats=task.num_repeats + 1))
                    _report(f"{_describe_end(task, end)}; it is repeated")
                else:
                    self._ends.append(end)
                    _report(f"{_describe_end(task, end)}; {len(self._ends)} of {num_tasks} tasks ended")
        return self._ends

    def _submit(self, task: RayTask) -> None:
        job, resources = self._job, self._resources
        function = self._ray.remote(
            run_task
        ).options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            memory=resources.memory,
            max_retries=job.launch.max_requeues,  # after the death of a worker or a node
            scheduling_strategy="SPREAD",
            name=f"hymt-batch {job.name} {task.shards[:50]}",
        )
        words = _task_words(job, task.shards)
        self._running[function.remote(words, job.cwd, self._environment, job.launch.grace_s)] = task

    def _collect(self, reference: Any) -> TaskEnd:
        try:
            end: TaskEnd = self._ray.get(reference)
            return end
        except self._ray.exceptions.TaskCancelledError:
            return TaskEnd(int(ExitCode.STOPPED), "", "")
        except self._ray.exceptions.RayError as error:  # its node or worker died again and again, or has no hymt-batch
            return TaskEnd(int(ExitCode.MISSING), "", str(error))

    def _may_repeat(self, task: RayTask, end: TaskEnd) -> bool:
        """Return whether a task is started again: after a stop or a kill, up to the limit."""
        is_mendable = end.code == ExitCode.STOPPED or end.code < 0
        return is_mendable and task.num_repeats < self._job.launch.max_requeues and not self._stop.requested


def _memory_of_task(job: JobCommand) -> int | None:
    """Return the memory of a task in bytes; None if it asks for none.

    Raises:
        ConfigError: launch.mem is not a size.
    """
    return None if job.launch.mem is None else parse_bytes("launch.mem", job.launch.mem)


def _task_words(job: JobCommand, shards: str) -> list[str]:
    return ["translate", *job.job_words(task=True), f"shard.index={shards}"]


def _merge(job: JobCommand, ends: Sequence[TaskEnd]) -> ExitCode:
    """Merge what the tasks left, whether they succeeded or not: `merge` says what is missing and runs the hooks."""
    words = [*job.program, "merge", *job.folder_words()]
    code = subprocess.run(die_with_parent_command(words), check=False).returncode
    final = [end.code for end in ends if end.code in NO_RETRY and end.code != ExitCode.MISSING]
    if code == ExitCode.MISSING:
        _report("run the same command again: it does what is missing" if not final else "correct what the tasks report")
        return ExitCode(max(final, default=int(ExitCode.MISSING)))
    return ExitCode(code) if code in list(ExitCode) else ExitCode.STOPPED


def _describe_end(task: RayTask, end: TaskEnd) -> str:
    where = f" on {end.host}" if end.host else ""
    if end.code == ExitCode.COMPLETE:
        return f"shards {task.shards}: complete{where}"
    meaning = EXIT_CODE_MEANINGS.get(ExitCode(end.code)) if end.code in list(ExitCode) else None
    cause = (
        f"killed by signal {-end.code}" if end.code < 0 else f"exit code {end.code} ({meaning or 'not of hymt-batch'})"
    )
    lines = [f"  {line}" for line in end.tail.splitlines()]
    return "\n".join([*lines, f"shards {task.shards}: {cause}{where}"])


def _report(text: str) -> None:
    """Write lines to standard error; the result of the job is the only text on standard output."""
    for line in text.splitlines():
        print(sanitize.sanitize_text(f"hymt-batch: {line}"), file=sys.stderr, flush=True)


def _describe_dry_run(job: JobCommand) -> str:
    missing = missing_shards(job, quiet=True)
    address = job.launch.address or os.environ.get(ADDRESS_VARIABLE) or f"{LOCAL}, a cluster that is started here"
    lines = ["# launch.dry_run=true: nothing is prepared or run", f"# launch.address={address}"]
    if missing is None:
        lines += [
            "# the job is not prepared yet, so one task stands for all",
            _line(job, ["prepare", *prepare_words(job)]),
        ]
    tasks = task_lists([0] if missing is None else missing, job.per_task)
    lines.append(f"# {plural(len(tasks), 'task')} of Ray, each repeated at most {job.launch.max_requeues} times:")
    lines += [_line(job, _task_words(job, shards)) for shards in tasks[:MAX_SHOWN]]
    if len(tasks) > MAX_SHOWN:
        lines.append(f"# ... and {len(tasks) - MAX_SHOWN} more")
    return "\n".join([*lines, "# then, here:", _line(job, ["merge", *job.folder_words()])])


def _line(job: JobCommand, words: Sequence[str]) -> str:
    return shlex.join([*job.program, *words])
