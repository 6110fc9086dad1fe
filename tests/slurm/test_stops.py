"""Jobs in a real SLURM whose tasks are started again: after a node was declared down, and at the time limit.

A fake model takes a second for each part, so that the tasks work as long as a test needs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from hymt_batch.launch import slurm_submit
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.registry import Target
from hymt_batch.launch.settings import LaunchConfig
from tests.slurm import cluster
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.skipif(bool(cluster.unavailable()), reason=cluster.unavailable())

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "tests.fakes.front")
ROWS_IN_PART = 2


@pytest.fixture
def slurm_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster.running(tmp_path / "slurm") as running:
        monkeypatch.setenv("SLURM_CONF", running.environment["SLURM_CONF"])
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        yield running


def words(num_rows: int, folder: Path) -> tuple[str, ...]:
    """Write an input of one shard, and return the overrides of a job."""
    (folder / "in.txt").write_text("".join(f"row {row}\n" for row in range(num_rows)))
    return ("source.path=in.txt", "tgt_lang=fr", "model=demo", f"batch.part_rows={ROWS_IN_PART}")


def submit(
    overrides: tuple[str, ...], cwd: Path, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> tuple[str, str]:
    """Submit a job with parts of a second; return the ids of its array and of its merge."""
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("STUB_PAUSE_S", "1")
    shown: list[str] = []
    launch = LaunchConfig(target=Target.slurm, gpus_per_task=1, grace_s=3.0, **settings)  # type: ignore[arg-type]
    job = JobCommand("n", "outputs", overrides, launch, cwd=str(cwd), program=PROGRAM)
    assert slurm_submit.hand_over(job, shown.append) is ExitCode.COMPLETE
    match = re.search(r"1 task in job (\d+); the merge is job (\d+)", shown[0])
    assert match, shown
    return match[1], match[2]


def field_of(job: str, name: str, slurm: Cluster) -> str:
    """Return a field of `scontrol show job`."""
    match = re.search(rf"\b{name}=(\S+)", slurm.run("scontrol", "--oneliner", "show", "job", job))
    assert match
    return match[1]


def num_parts(folder: Path) -> int:
    return len(list((folder / ".hymt").glob("f*/s*/p*")))


def claiming_process(folder: Path) -> int:
    """Return the process that holds the claim on shard 0; 0 if there is none."""
    try:
        return int(json.loads((folder / ".hymt/claims/u0000000").read_text())["pid"])
    except (OSError, ValueError):
        return 0


def check_results(overrides: tuple[str, ...], cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the job has the files of one process that translated the same plan."""
    monkeypatch.setenv("STUB_PAUSE_S", "0")
    for verb in ("prepare", "translate"):
        subprocess.run([*PROGRAM, verb, *overrides, "name=one"], cwd=cwd, check=True, capture_output=True)
    folders = [cwd / "outputs/n", cwd / "outputs/one"]
    texts = [(folder / "translated/in.txt").read_bytes() for folder in folders]
    assert texts[0] == texts[1] == (cwd / "in.txt").read_bytes().upper()
    manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in folders]
    assert manifests[0] == manifests[1]


def test_two_processes_that_write_one_shard_leave_the_bytes_of_one(
    slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is declared down and cut off while its process goes on, and SLURM starts the task on the other node."""
    overrides, folder = words(40, tmp_path), tmp_path / "outputs/n"
    array, merge = submit(overrides, tmp_path, monkeypatch)
    task = f"{array}_0"
    slurm_cluster.wait(lambda: num_parts(folder) >= 2, "two parts")
    node, orphan = field_of(task, "NodeList", slurm_cluster), claiming_process(folder)
    daemon = int((slurm_cluster.folder / f"slurmd.{node}.pid").read_text())
    os.kill(daemon, signal.SIGSTOP)  # it cannot be told to end the task
    try:
        slurm_cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        slurm_cluster.wait(lambda: claiming_process(folder) not in (0, orphan), "a second process on the shard")
        assert field_of(task, "NodeList", slurm_cluster) != node
        assert slurm_cluster.wait_for_end(task) == {task: "COMPLETED"}
        assert slurm_cluster.wait_for_end(merge) == {merge: "COMPLETED"}
        assert field_of(task, "Restarts", slurm_cluster) == "1", "the first process did not put it into the queue again"
    finally:
        os.kill(daemon, signal.SIGCONT)
    (log,) = (folder / "logs/slurm").glob(f"{array}_0.log")
    # the first process worked on after the second one began, and found its claim lost
    assert re.search(r"the claim on shard 0 of outputs/n is lost: process \d+ on \S+ took it over", log.read_text())
    check_results(overrides, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_task_that_is_longer_than_the_time_limit_goes_on_after_it(
    slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a minute; a task needs more than what is left of it when the signal comes, so it is repeated."""
    overrides = words(66, tmp_path)
    array, merge = submit(overrides, tmp_path, monkeypatch, time="1")
    task = f"{array}_0"
    assert slurm_cluster.wait_for_end(task) == {task: "COMPLETED"}
    assert slurm_cluster.wait_for_end(merge) == {merge: "COMPLETED"}
    assert int(field_of(task, "Restarts", slurm_cluster)) >= 1
    (log,) = (tmp_path / "outputs/n/logs/slurm").glob(f"{array}_0.log")
    assert "back in the queue, repetition 1 of 20" in log.read_text()
    check_results(overrides, tmp_path, monkeypatch)
