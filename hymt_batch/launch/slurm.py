"""The scripts of a job for SLURM: an array of tasks, and one job that merges. Text only; submits nothing.

A task that is asked to stop (TERM at preemption and at the time limit, USR1 some time before the limit) forwards the
signal, and after exit 75 it puts itself into the queue again. SLURM itself does so only after the failure of a node.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hymt_batch.launch.command import JobCommand

RUN = """\
if [ -z "${{SLURM_JOB_END_TIME:-}}" ]; then  # not set by SLURM before 23.02
	end=$(squeue --noheader --jobs="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" --format=%e)
	SLURM_JOB_END_TIME=$(date --date="$end" +%s 2> /dev/null)
	export SLURM_JOB_END_TIME
fi
# some clusters do not bind tasks to their CPUs
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-${{SLURM_CPUS_ON_NODE:-1}}}}"
signalled='' asked='' child=''
trap 'signalled=1 asked=1; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM USR1 USR2
{command} &
child=$!
[ -z "$signalled" ] || kill -TERM "$child"  # the signal came before the task began
wait "$child"; code=$?
while [ -n "$signalled" ]; do  # a signal ends wait, not the task
	signalled=
	wait "$child"; code=$?
done
[ -z "$asked" ] || [ "$code" -ne 143 ] || code=75  # the signal came before hymt-batch could handle it
"""

REQUEUE = """\
if [ "$code" -eq 75 ]; then  # stopped: to be continued
	id=${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
	started=$(scontrol --oneliner show job "$id" | grep -o "Restarts=[0-9]*")
	if [ "${{started:=Restarts=${{SLURM_RESTART_COUNT:-0}}}}" != "Restarts=${{SLURM_RESTART_COUNT:-0}}" ]; then
		echo "hymt-batch: this node was declared down, and SLURM has started the task elsewhere" >&2
	elif [ "${{SLURM_RESTART_COUNT:-0}}" -ge {max_requeues} ]; then
		echo "hymt-batch: stopped again after {max_requeues} repetitions (launch.max_requeues); submit it again" >&2
	elif scontrol requeue "$id"; then
		echo "hymt-batch: back in the queue, repetition $((${{SLURM_RESTART_COUNT:-0}} + 1)) of {max_requeues}" >&2
	fi
fi
exit "$code"
"""


def array_script(job: JobCommand, tasks: Sequence[str], label: str, logs: str = "") -> str:
    """Return the script of an array.

    Args:
        job: The job.
        tasks: The shards of each task, as shard.index takes them.
        label: The name of the array in the queue.
        logs: The folder of the logs of the tasks, which must exist; that of all logs by default.
    """
    launch = job.launch
    limit = f"%{launch.array_parallelism}" if launch.array_parallelism is not None else ""
    options = [
        ("job-name", label),
        ("array", f"0-{len(tasks) - 1}{limit}"),
        ("output", f"{logs or log_folder(job)}/%A_%a.log"),
        ("open-mode", "append"),
        ("signal", f"B:USR1@{job.grace_s}"),
        ("ntasks", "1"),
        *_resources(job),
    ]
    shards = "\n".join(shlex.quote(task) for task in tasks)
    command = f'{_command(job, "translate", job.job_words(task=True))} shard.index="${{shards[SLURM_ARRAY_TASK_ID]}}"'
    return "".join(
        [
            _head(job, options, ["requeue"]),
            f"shards=(\n{shards}\n)\n",
            RUN.format(command=command),
            REQUEUE.format(max_requeues=launch.max_requeues),
        ]
    )


def merge_script(job: JobCommand, label: str) -> str:
    """Return the script of the job that merges what the tasks left; it runs whether they succeeded or not.

    The commands of launch.on_success and launch.on_failure are run by `merge`, which has them from the plan.
    """
    launch = job.launch
    options = [("job-name", label), ("output", f"{log_folder(job)}/merge-%j.log"), ("ntasks", "1")]
    named = [(key, getattr(launch, key)) for key in ("account", "partition", "qos", "time")]
    options += [(key, value) for key, value in named if value is not None]
    return f"{_head(job, options, ['requeue'])}{_command(job, 'merge', job.folder_words())}\n"


def log_folder(job: JobCommand) -> str:
    return str(job.folder / "logs" / "slurm")


def _resources(job: JobCommand) -> list[tuple[str, str]]:
    launch = job.launch
    values = {
        "account": launch.account,
        "partition": launch.partition,
        "qos": launch.qos,
        "time": launch.time,
        "constraint": launch.constraint,
        "gres": launch.gres,
        "gpus-per-task": launch.gpus_per_task,
        "cpus-per-task": launch.cpus_per_task,
        "mem": launch.mem,
    }
    return [(key, str(value)) for key, value in values.items() if value is not None]


def _head(job: JobCommand, options: Sequence[tuple[str, str]], flags: Sequence[str]) -> str:
    """Return the first lines of a script: options, then what is done before hymt-batch."""
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{key}={quote_option(value, is_pattern=key == 'output')}" for key, value in options]
    lines += [f"#SBATCH --{flag}" for flag in flags]
    lines += [f"#SBATCH {line}" for line in job.launch.extra]
    lines += ["# shellcheck disable=SC2016  # words of the user stand in single quotes"]
    lines += [f"cd -- {shlex.quote(job.cwd)} || exit 6"]
    # environments and modules that are loaded before may use variables that are not set
    return "\n".join([*lines, *job.launch.setup, "set -u", ""])


def quote_option(value: str, *, is_pattern: bool = False) -> str:
    r"""Return the value of an #SBATCH option: in quotes where SLURM would split it.

    SLURM knows double quotes, and a backslash before a quote or a backslash. In a file name, %A and the like mean
    something; names of folders double the sign.
    """
    if is_pattern:
        folder, _, name = value.rpartition("/")
        value = f"{folder.replace('%', '%%')}/{name}"
    if re.fullmatch(r"[\w./:%,+=@&|*-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _command(job: JobCommand, verb: str, words: Sequence[str]) -> str:
    return shlex.join([*job.program, verb, *words])
