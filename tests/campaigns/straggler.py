"""Translate 200 shards on 4 workers, of which one is slow and two die: how close is that to an ideal schedule?

The tasks are real: forked processes with a stub model that translate the shards of a prepared job, commit parts and
make records; a worker that dies is killed with SIGKILL in the middle of a part. Time is simulated, so that any machine
can run this: a task takes the seconds of its rows (known from their texts) over the speed of its worker, the time to
load a model, and the processor time that its process really used. A queue hands each task to the first free worker, as
SLURM, Ray and Kubernetes do.

The ideal is list scheduling of the same shards on the same workers until they die, without loading, without losing
what a worker was decoding, and with shards that can go on elsewhere. Two queues are compared with it: one that repeats
a lost task at once (Ray, Kubernetes, a node of SLURM that went down), and one in which the same command submits what is
missing when all other tasks have ended (a killed process in SLURM). Ends with one JSON line.
"""

from __future__ import annotations

import heapq
import os
import random
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hymt_batch import config
from hymt_batch.decode.request import Completion, Request
from hymt_batch.fs import OS_FS
from hymt_batch.launch.prepared_job import task_lists
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import shard_plan
from hymt_batch.write.unit_progress import UnitProgress
from jobs import __main__ as front
from jobs import translate
from tests.campaigns import command, warm
from tests.fakes import engine
from tests.fakes import job as fake_job

ROWS_IN_SHARD, ROWS_IN_PART = 32, 2
SHARD_S = 328.0  # mean seconds of a shard: 32,768 rows at 100 rows/s
LOAD_S = 60.0  # to start a task: interpreter, libraries, model
TAKE_OVER_S = 180.0  # until the claim of a process on another machine counts as silent
SHARDS_IN_TASK = 4
MIN_EFFICIENCY = 0.85


@dataclass(slots=True)
class Worker:
    """A place that runs one task at a time."""

    speed: float
    dies_at: float = float("inf")  # seconds from the start


@dataclass(slots=True)
class Run:
    """What a simulated run came to."""

    seconds: float = 0.0
    cpu_s: float = 0.0  # processor time of the tasks
    tasks: int = 0
    deaths: int = 0
    rows_decoded: int = 0
    wrong: list[str] = field(default_factory=list)


def write_rows(rng: random.Random, path: Path, num_shards: int) -> list[float]:
    """Write an input whose rows differ in length; return the seconds of each shard."""
    lengths = [max(1, round(40 * rng.lognormvariate(0.0, 0.6))) for _ in range(num_shards * ROWS_IN_SHARD)]
    path.write_text("".join(f"{row:07}{'x' * length}\n" for row, length in enumerate(lengths)))  # no two are equal
    lengths = [length + 7 for length in lengths]
    each = SHARD_S * num_shards / sum(lengths)
    shards = [lengths[start : start + ROWS_IN_SHARD] for start in range(0, len(lengths), ROWS_IN_SHARD)]
    return [each * sum(shard) for shard in shards]


def ideal_s(costs: Sequence[float], workers: Sequence[Worker]) -> float:
    """Return the end of a list schedule of shards that lose nothing when their worker dies."""
    waiting, free = deque(costs), [(0.0, index) for index in range(len(workers))]
    end = 0.0
    while waiting:
        now, index = heapq.heappop(free)
        worker, cost = workers[index], waiting.popleft()
        ends_at = now + cost / worker.speed
        if ends_at > worker.dies_at:
            waiting.appendleft(cost - max(0.0, worker.dies_at - now) * worker.speed)
            continue
        end = max(end, ends_at)
        heapq.heappush(free, (ends_at, index))
    return end


class Cluster:
    """Runs the tasks of one prepared job on workers, in simulated time."""

    def __init__(self, settings: Sequence[str], workers: Sequence[Worker], second_per_char: float, log: Path) -> None:
        self._settings, self._workers, self._log = settings, workers, log
        self._second_per_char = second_per_char
        self.run = Run()

    def hand_out(self, tasks: Sequence[str], begin_s: float, *, repeat: bool) -> float:
        """Run tasks until all have ended or are lost; return when the last one ended.

        Args:
            tasks: The shards of each.
            begin_s: When they are submitted.
            repeat: Put a task whose worker died back into the queue.
        """
        waiting = deque((shards, begin_s, 0.0) for shards in tasks)  # with the time from which it may begin, and waits
        free = [(begin_s, index) for index, worker in enumerate(self._workers) if worker.dies_at > begin_s]
        heapq.heapify(free)
        end = begin_s
        while waiting:
            now, index = heapq.heappop(free)
            shards, not_before, wait_s = waiting.popleft()
            now = max(now, not_before)
            worker = self._workers[index]
            left_s = (worker.dies_at - now - LOAD_S - wait_s) * worker.speed
            seconds, is_lost = self._run_task(shards, left_s)
            if is_lost:
                self.run.deaths += 1
                end = max(end, worker.dies_at)
                if repeat:
                    waiting.append((shards, worker.dies_at, TAKE_OVER_S))
                continue
            ends_at = now + LOAD_S + wait_s + seconds / worker.speed
            end = max(end, ends_at)
            heapq.heappush(free, (ends_at, index))
        return end

    def _run_task(self, shards: str, left_s: float) -> tuple[float, bool]:
        """Run a task; return its seconds at full speed, and whether its worker died in it.

        Args:
            shards: Its shards.
            left_s: Seconds of work after which its worker dies.
        """
        self.run.tasks += 1
        if left_s <= 0:  # while it loads
            return 0.0, True
        before, decoded = _child_cpu_s(), warm.MARKS.rows
        spent = self._log.with_name("spent")
        spent.write_text("0")
        code = warm.wait(warm.fork(lambda: self._translate(shards, left_s, spent), self._log))
        cpu_s = _child_cpu_s() - before
        self.run.cpu_s += cpu_s
        self.run.rows_decoded += warm.MARKS.rows - decoded
        if code not in (0, -signal.SIGKILL):
            self.run.wrong.append(f"task {shards} ended with {code}: {self._log.read_text()[-1000:]}")
        return float(spent.read_text()) + cpu_s, code == -signal.SIGKILL

    def _translate(self, shards: str, left_s: float, spent: Path) -> int:
        warm.MARKS.process = 1
        total_s = 0.0

        def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
            nonlocal total_s
            completions = engine.upper(requests, check_stop)
            total_s += self._second_per_char * sum(len(completion.ids) for completion in completions)
            if total_s > left_s:
                os.kill(os.getpid(), signal.SIGKILL)
            spent.write_text(str(total_s))
            return completions

        job = config.load("translate", [*self._settings, f"shard.index={shards}"])
        with Reporter("off") as reporter, fake_job.installed(decode):
            translate.translate_shards(job, reporter)
        return 0


def _child_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def settings_of(folder: Path, name: str) -> list[str]:
    return [
        *("tgt_lang=fr", "model=demo", f"source.path={folder / 'in.txt'}", f"output_dir={folder}", f"name={name}"),
        *(f"batch.shard_rows={ROWS_IN_SHARD}", f"batch.part_rows={ROWS_IN_PART}", "launch.samples=0"),
    ]


def run_verb(words: Sequence[str]) -> int:
    with fake_job.installed():
        return front.main(list(words))


def measure(folder: Path, name: str, costs: Sequence[float], workers: Sequence[Worker], *, repeat: bool) -> Run:
    """Run a job with one kind of queue, merge it and check its bytes."""
    text, log = (folder / "in.txt").read_text(), folder / "stderr"
    settings = settings_of(folder, name)
    cluster = Cluster(settings, workers, sum(costs) / len(text.replace("\n", "")), log)
    result = cluster.run
    if warm.wait(warm.fork(lambda: run_verb(["prepare", *settings]), log)):
        raise SystemExit(f"prepare failed: {log.read_text()}")
    for missing in rounds(folder / name):
        result.seconds = cluster.hand_out(task_lists(missing, SHARDS_IN_TASK), result.seconds, repeat=repeat)
        if result.wrong:
            return result
    merge = ["merge", f"output_dir={folder}", f"name={name}"]
    if warm.wait(warm.fork(lambda: run_verb(merge), log)):
        result.wrong.append(f"the merge failed: {log.read_text()[-1000:]}")
    elif (folder / name / "translated/in.txt").read_text() != text.upper():
        result.wrong.append("the merged file has other rows")
    return result


def rounds(folder: Path) -> Iterator[list[int]]:
    """Yield what is missing until nothing is."""
    plan = shard_plan.read(OS_FS, folder)
    while missing := list(UnitProgress(OS_FS, folder, plan).missing()):
        yield missing


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run `size` shards on 4 workers with both kinds of queues."""
    rng = random.Random(seed)
    warm.prepare()
    costs = write_rows(rng, work / "in.txt", size)
    no_deaths_s = sum(costs) / 3.4
    workers = [
        Worker(1.0),
        Worker(0.4),
        Worker(1.0, dies_at=rng.uniform(0.2, 0.4) * no_deaths_s),
        Worker(1.0, dies_at=rng.uniform(0.5, 0.8) * no_deaths_s),
    ]
    best_s = ideal_s(costs, workers)
    figures: dict[str, Any] = {"shards": size, "ideal_s": round(best_s), "failures": []}
    for name, repeat in (("repeated", True), ("submitted_again", False)):
        result = measure(work, name, costs, workers, repeat=repeat)
        again, efficiency = result.rows_decoded - size * ROWS_IN_SHARD, best_s / result.seconds
        figures[name] = {
            "efficiency": round(efficiency, 3),
            "seconds": round(result.seconds),
            "cpu_s": round(result.cpu_s, 1),
            "tasks": result.tasks,
            "deaths": result.deaths,
            "rows_again": again,
        }
        failures = result.wrong
        if result.deaths != 2:
            failures.append(f"{name}: {result.deaths} workers died")
        if again > result.deaths * ROWS_IN_PART:
            failures.append(f"{name}: {again} rows were decoded twice, more than a part for each death")
        if efficiency < MIN_EFFICIENCY:
            failures.append(f"{name}: {efficiency:.3f} of the ideal")
        figures["failures"] += failures
    return {"passed": not figures["failures"], **figures}


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 200, "shards"))
