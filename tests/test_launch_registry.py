"""The table of schedulers: a row, a module and settings are all that another scheduler needs."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch.errors import ExitCode, UsageError
from hymt_batch.launch import launcher
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.registry import SCHEDULERS, ArrayVariables, Scheduler, Target
from hymt_batch.launch.settings import LaunchConfig
from hymt_batch.launch.task_index import TaskIndex, task_index
from hymt_batch.run.time_limit import TimeLimit
from hymt_batch.signals import StopRequest
from hymt_batch.write import lease_holder


class Lsf:
    """The module of a scheduler that the product does not have."""

    @staticmethod
    def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
        show(f"bsub {job.name}")
        return ExitCode.MISSING


@pytest.fixture
def lsf(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Scheduler(
        module=Lsf,
        settings=("dry_run",),
        has_tasks=True,
        array=ArrayVariables(kind="an array of LSF", index="LSB_JOBINDEX", first=1),
        job_id="LSB_JOBID",
        restart_count="RESTARTS",
        end_time="END",
    )
    monkeypatch.setitem(SCHEDULERS, "lsf", row)


def command(target: str, *words: str) -> JobCommand:
    job = JobCommand("n", "outputs", words, LaunchConfig(), cwd="/x", program=("hymt-batch",))
    launch: Any = SimpleNamespace(target=SimpleNamespace(value=target), schedule=None)
    return dataclasses.replace(job, launch=launch)


def test_every_target_but_local_has_a_row_with_a_module_that_takes_a_job() -> None:
    assert {target.value for target in Target} == {Target.local.value, *SCHEDULERS}
    for scheduler in SCHEDULERS.values():
        assert callable(importlib.import_module(scheduler.module).hand_over)


@pytest.mark.parametrize("target", ["slurm", "k8s", "systemd", "cron"])
def test_a_target_without_a_row_is_an_error_and_shows_nothing(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SCHEDULERS, target)
    shown: list[str] = []
    with pytest.raises(KeyError, match=target):
        launcher.launch(command(target), shown.append)
    assert shown == []


@pytest.mark.usefixtures("lsf")
def test_a_job_goes_to_the_module_of_its_row_which_decides_the_exit_code() -> None:
    shown: list[str] = []
    assert launcher.launch(command("lsf"), shown.append) is ExitCode.MISSING
    assert shown == ["bsub n"]
    with pytest.raises(UsageError, match="on_mismatch=fork does not go with launch=lsf"):
        launcher.launch(command("lsf", "on_mismatch=fork"), shown.append)


@pytest.mark.usefixtures("lsf")
def test_the_index_of_a_task_is_read_as_its_row_says_and_slurm_goes_before_it() -> None:
    assert task_index({"LSB_JOBINDEX": "1"}) == TaskIndex(0, None, "LSB_JOBINDEX=1")
    assert task_index({"LSB_JOBINDEX": "0"}) is None, "no array"
    assert task_index({"LSB_JOBINDEX": "9", "SLURM_ARRAY_TASK_ID": "2"}) == TaskIndex(2, None, "SLURM_ARRAY_TASK_ID=2")
    with pytest.raises(UsageError, match="a SLURM array or an Indexed Job of Kubernetes or an array of LSF"):
        task_index({"LOCAL_RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.usefixtures("lsf")
def test_the_end_of_a_job_is_read_as_its_row_says() -> None:
    stop = StopRequest()
    unit: Any = SimpleNamespace(parts=[], missing=[])
    assert list(TimeLimit({"END": "1000"}, clock=lambda: 969.0).units([unit], stop)) == [unit]
    assert list(TimeLimit({"END": "1000"}, clock=lambda: 971.0).units([unit], stop)) == []
    assert stop.requested


@pytest.mark.usefixtures("lsf")
def test_a_task_that_was_started_again_takes_over_its_own_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SCHEDULERS["slurm"].job_id, SCHEDULERS["slurm"].restart_count):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LSB_JOBID", "7")
    monkeypatch.setenv("LSB_JOBINDEX", "3")
    before = dataclasses.replace(lease_holder.current_process(), host="node7")
    monkeypatch.setenv("RESTARTS", "1")
    after = lease_holder.current_process()
    assert (before.slurm_job, before.slurm_restart, after.slurm_restart) == ("7.3", 0, 1)
    assert lease_holder.is_alive(before, after) is False
    assert lease_holder.is_alive(before, before) is not False
