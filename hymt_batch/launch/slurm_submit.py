"""Submit a job to SLURM: prepare it, and submit an array of the tasks that miss something, and the job that merges.

Running it again submits only what is missing then. Talks to hymt-batch and SLURM through their commands.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch.errors import ExitCode, LeaseError, PreflightError
from hymt_batch.launch import slurm
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.prepared_job import (
    is_complete,
    missing_after_prepare,
    missing_shards,
    prepare_job,
    prepare_words,
    queue_label,
    task_lists,
)
from hymt_batch.records import plural

MAX_ARRAY_SIZE = 1001
"""SLURM's default: indices of an array are below it."""


MAX_TASKS = 1000
"""Most tasks of an array, each of which has a log. Where a job has more, the logs of each array are in a folder."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and which earlier ones it waits for."""

    name: str
    text: str
    after: tuple[int, ...] = ()  # indices of other scripts
    logs: str = ""  # folder that it needs


def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Prepare and submit a job; with launch.dry_run=true, show what would be submitted.

    Args:
        job: The job.
        show: Called with the text for the user.

    Returns:
        COMPLETE if everything is submitted or done; the code of `prepare` if it failed.

    Raises:
        HymtError: SLURM is not there, or refuses; or the job is in the queue already.
    """
    label = queue_label(job)
    if not job.launch.dry_run:
        _check_queue(label)
        if (prepared := prepare_job(job)) is not ExitCode.COMPLETE:
            return prepared
    missing = missing_shards(job, quiet=True) if job.launch.dry_run else missing_after_prepare(job)
    if missing is not None and is_complete(job, missing):
        show(f"{job.shown_folder} is complete: nothing is left to submit")
        return ExitCode.COMPLETE
    begun = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    tasks = task_lists([0] if missing is None else missing, job.per_task)
    scripts = list(plan_scripts(job, tasks, label, begun))
    if job.launch.dry_run:
        show(_describe_dry_run(job, scripts, is_prepared=missing is not None))
        return ExitCode.COMPLETE
    show(_submit(job, scripts, 0 if missing is None else len(tasks), begun))
    return ExitCode.COMPLETE


def plan_scripts(job: JobCommand, tasks: Sequence[str], label: str, begun: str) -> Iterator[Script]:
    """Yield the scripts of a job in the order of their submission: arrays, each within SLURM's limit, and the merge.

    Where the number of tasks at once is limited, each array waits for the one before, so that the limit holds for all.
    Folders of logs are named by `begun`, the time of the submission.
    """
    size = min(max_array_size(), MAX_TASKS)
    windows = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    for index, window in enumerate(windows):
        after = (index - 1,) if index and job.launch.array_parallelism is not None else ()
        name = f"array-{index}"
        logs = f"{slurm.log_folder(job)}/{begun}-{name}" if len(tasks) > MAX_TASKS else ""
        yield Script(name, slurm.array_script(job, window, label, logs), after, logs)
    yield Script("merge", slurm.merge_script(job, label), tuple(range(len(windows))))


def max_array_size() -> int:
    """Return how many tasks an array may have here."""
    if shutil.which("scontrol") is None:
        return MAX_ARRAY_SIZE
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else MAX_ARRAY_SIZE


def _check_queue(label: str) -> None:
    """Check that SLURM is here and that the job is not in its queue.

    Raises:
        PreflightError: SLURM does not answer.
        LeaseError: An earlier submission of the job has not ended.
    """
    if shutil.which("sbatch") is None:
        raise PreflightError(
            "launch=slurm needs sbatch, which is not here",
            fix="Run it on a login node of the cluster; launch.dry_run=true shows the scripts anywhere.",
        )
    words = ["squeue", "--noheader", "--me", f"--name={label}", "--format=%F"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PreflightError(
            f"squeue failed: {done.stderr.strip() or done.returncode}", fix="Check that SLURM runs: sinfo."
        )
    if jobs := sorted(set(done.stdout.split()), key=int):
        raise LeaseError(
            f"this job is in the queue of SLURM already ({', '.join(jobs)})",
            why="a second array would do the same work twice",
            fix=f"Wait until it has ended, or run scancel {' '.join(jobs)} first.",
        )


def _describe_dry_run(job: JobCommand, scripts: Sequence[Script], *, is_prepared: bool) -> str:
    folder = slurm.log_folder(job)
    lines = ["# launch.dry_run=true: nothing is prepared or submitted"]
    if is_prepared:
        lines.append("# the shards are those that are missing now")
    else:
        lines += [
            "# the job is not prepared yet, so the array has one task here; the submission first runs",
            f"# {shlex.join([*job.program, 'prepare', *prepare_words(job)])}",
        ]
    for script in scripts:
        ids = [f"ID_OF_{scripts[index].name}" for index in script.after]
        lines += ["", f"# {shlex.join(_sbatch(script, ids, f'{folder}/{script.name}.sh'))}", script.text.rstrip()]
    return "\n".join(lines)


def _sbatch(script: Script, ids: Sequence[str], path: str) -> list[str]:
    dependency = [f"--dependency=afterany:{':'.join(ids)}"] if ids else []
    return ["sbatch", "--parsable", *dependency, path]


def _submit(job: JobCommand, scripts: Sequence[Script], num_tasks: int, begun: str) -> str:
    """Write and submit the scripts; return what to tell the user."""
    folder = Path(slurm.log_folder(job))
    folder.mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    for script in scripts:
        if script.logs:
            Path(script.logs).mkdir(exist_ok=True)
        path = folder / f"{begun}-{script.name}.sh"
        path.write_text(script.text, encoding="utf-8", errors="surrogateescape")
        words = _sbatch(script, [ids[index] for index in script.after], str(path))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        number = done.stdout.strip().partition(";")[0]
        if done.returncode or not number.isdigit():
            submitted = f"Submitted before: {', '.join(ids)} (scancel {' '.join(ids)}). " if ids else ""
            raise PreflightError(
                f"sbatch refused {path}: {done.stderr.strip() or done.stdout.strip() or done.returncode}",
                fix=f"{submitted}Correct the launch. settings, and run the same command again.",
            )
        ids.append(number)
    arrays = f"{plural(num_tasks, 'task')} in job {', '.join(ids[:-1])}" if num_tasks else "no shard is missing"
    return "\n".join(
        [
            f"submitted to SLURM: {arrays}; the merge is job {ids[-1]}, which begins when they have ended",
            f"  scripts and logs: {job.shown_folder}/logs/slurm",
            f"  Watch it: squeue --name={queue_label(job)}; hymt-batch status {shlex.join(job.folder_words())}",
            "  If a task is lost, run the same command again: it submits what is missing.",
        ]
    )
