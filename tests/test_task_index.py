"""Which task of an array a process is: the variables as real launchers set them."""

from __future__ import annotations

import pytest

from hymt_batch.errors import ExitCode, UsageError
from hymt_batch.launch.task_index import TaskIndex, task_index

BATCH = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
"""A batch script that asked for four tasks, before it calls srun."""


def index_of(**variables: str) -> int | None:
    found = task_index(variables)
    return None if found is None else found.index


def test_without_a_launcher_there_is_no_index() -> None:
    assert task_index({}) is None
    assert task_index({"PATH": "/bin", "SLURM_ARRAY_TASK_ID": ""}) is None


def test_a_batch_script_without_an_array_is_no_task_even_if_it_asked_for_several() -> None:
    assert task_index(BATCH) is None


def test_an_array_task_has_its_array_index_and_no_count_of_tasks() -> None:
    one_lost_task = {"SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_MAX": "5"}
    found = task_index({**BATCH, **one_lost_task, "SLURM_ARRAY_TASK_ID": "5"})
    assert found == TaskIndex(5, None, "SLURM_ARRAY_TASK_ID=5")


def test_the_tasks_of_steps_in_an_array_number_on_without_gaps() -> None:
    step = {**BATCH, "SLURM_STEP_NUM_TASKS": "4"}
    indices = [
        index_of(**{**step, "SLURM_ARRAY_TASK_ID": str(array), "SLURM_PROCID": str(rank)})
        for array in range(3)
        for rank in range(4)
    ]
    assert indices == list(range(12))


def test_a_step_without_an_array_counts_by_rank_and_a_step_of_one_task_does_not_count() -> None:
    found = task_index({**BATCH, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"})
    assert found == TaskIndex(3, 4, "SLURM_PROCID=3")
    assert task_index({**BATCH, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_a_pod_of_an_indexed_job_has_its_index_and_slurm_goes_before_it() -> None:
    assert index_of(JOB_COMPLETION_INDEX="7") == 7
    assert index_of(JOB_COMPLETION_INDEX="7", SLURM_ARRAY_TASK_ID="2") == 2


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_ARRAY_TASK_ID": "2"}, ["submitit", "shard.index=range("]),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "1"}, ["torchrun", "shard.index=auto"]),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, ["accelerate", "shard.index=auto"]),
        ({"SLURM_ARRAY_TASK_ID": "first"}, ["SLURM_ARRAY_TASK_ID='first'", "shard.index=N"]),
        ({"JOB_COMPLETION_INDEX": "-1"}, ["JOB_COMPLETION_INDEX='-1'"]),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "4"}, ["SLURM_PROCID=4", "SLURM_STEP_NUM_TASKS=4"]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ["SLURM_STEP_NUM_TASKS=4"]),
    ],
)
def test_numbers_that_mean_something_else_are_refused_with_what_to_do(
    variables: dict[str, str], names: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        task_index(variables)
    assert caught.value.exit_code is ExitCode.USAGE
    for name in names:
        assert name in str(caught.value)


def test_torchrun_with_one_process_leaves_the_array_index() -> None:
    assert index_of(TORCHELASTIC_RUN_ID="none", WORLD_SIZE="1", LOCAL_RANK="0", SLURM_ARRAY_TASK_ID="3") == 3
