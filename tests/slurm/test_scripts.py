"""The batch scripts in a real SLURM, with a stub for hymt-batch: signals, requeues, quoting, merge."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.launch import slurm
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.registry import Target
from hymt_batch.launch.settings import LaunchConfig
from tests.slurm import cluster
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.skipif(bool(cluster.unavailable()), reason=cluster.unavailable())

STUB = """
import json, os, signal, sys, time
def record(event):
    number = os.environ.get("SLURM_ARRAY_TASK_ID", "merge")
    value = {"event": event, "task": number, "run": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
             "words": sys.argv[1:], "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "cwd": os.getcwd(),
             "end": os.environ.get("SLURM_JOB_END_TIME"), "setup": os.environ.get("SET_UP")}
    with open(RECORDS, "a") as file:
        file.write(json.dumps(value) + "\\n")
def stop(*_):
    record("stopped")
    os._exit(75)
if sys.argv[-1] != "shard.index=5":  # which is not there yet when the signal comes
    signal.signal(signal.SIGTERM, stop)
record("began")
shards = [word.partition("=")[2] for word in sys.argv if word.startswith("shard.index=")]
if shards and shards[0] in ("0", "1-2", "5") and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    time.sleep(120)
if shards == ["3"]:
    os.kill(os.getpid(), signal.SIGKILL)
if shards == ["4"]:
    os._exit(75)
"""


@pytest.fixture(scope="module")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster.running(tmp_path_factory.mktemp("slurm") / "c") as running:
        yield running


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "records"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_tasks_are_continued_after_a_stop_and_end_as_they_should(slurm_cluster: Cluster, tmp_path: Path) -> None:
    """Task 0 gets USR1, 1 TERM, 2 is killed, 3 stops by itself for ever, and 4 gets TERM as it starts."""
    cwd = tmp_path / 'it\'s "odd" $x 100% 语料'
    cwd.mkdir()
    (tmp_path / "stub.py").write_text(f"RECORDS = {str(tmp_path / 'records')!r}\n{STUB}", encoding="utf-8")
    launch = LaunchConfig(
        target=Target.slurm,
        max_requeues=1,
        gpus_per_task=1,
        time="5",
        grace_s=1.0,
        setup=["export SET_UP='a  b'"],
        extra=["--comment=x"],
    )
    words = ('source.path=a\nb\'s "$(c)".txt', "tgt_lang=fr", "launch=slurm", "launch.time=5", "shard.per_task=2")
    program = (sys.executable, "-ISB", str(tmp_path / "stub.py"))
    job = JobCommand("n", "outputs", words, launch, cwd=str(cwd), program=program)
    folder = Path(slurm.log_folder(job))
    folder.mkdir(parents=True)
    (tmp_path / "array.sh").write_text(slurm.array_script(job, ["0", "1-2", "3", "4", "5"], "label"), encoding="utf-8")
    (tmp_path / "merge.sh").write_text(slurm.merge_script(job, "label"), encoding="utf-8")
    array = slurm_cluster.run("sbatch", "--parsable", str(tmp_path / "array.sh")).strip()
    merge = slurm_cluster.run(
        "sbatch", "--parsable", f"--dependency=afterany:{array}", str(tmp_path / "merge.sh")
    ).strip()

    def began(task: str, run: int) -> bool:
        return any((r["event"], r["task"], r["run"]) == ("began", task, run) for r in records(tmp_path))

    slurm_cluster.wait(lambda: all(began(task, 0) for task in "014"), "tasks that run")
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_0")
    slurm_cluster.run("scancel", "--batch", "--signal=TERM", f"{array}_1")
    slurm_cluster.run("scancel", "--batch", "--signal=TERM", f"{array}_4")
    states = slurm_cluster.wait_for_end(array)
    ends = ("COMPLETED", "COMPLETED", "FAILED", "FAILED", "COMPLETED")
    assert states == {f"{array}_{task}": end for task, end in enumerate(ends)}
    assert slurm_cluster.wait_for_end(merge) == {merge: "COMPLETED"}, "it runs although tasks failed"
    runs = [(r["task"], r["run"]) for r in records(tmp_path) if r["event"] == "began"]
    assert sorted(runs) == [
        ("0", 0),
        ("0", 1),
        ("1", 0),
        ("1", 1),
        ("2", 0),
        ("3", 0),
        ("3", 1),
        ("4", 0),
        ("4", 1),
        ("merge", 0),
    ]
    stopped = [(r["task"], r["run"]) for r in records(tmp_path) if r["event"] == "stopped"]
    assert sorted(stopped) == [("0", 0), ("1", 0)]
    first = next(r for r in records(tmp_path) if r["task"] == "1")
    assert first["words"] == ["translate", words[0], words[1], "name=n", "shard.index=1-2"]
    assert (first["cwd"], first["setup"]) == (str(cwd), "a  b")
    assert first["gpu"] in ("0", "1")
    assert int(first["end"]) > 1_700_000_000, "the scripts set it where SLURM does not"
    last = records(tmp_path)[-1]
    assert (last["task"], last["words"]) == ("merge", ["merge", "name=n"])
    (log,) = folder.glob("*_3.log")
    assert "launch.max_requeues" in log.read_text()


def test_the_scripts_are_clean_under_shellcheck(tmp_path: Path) -> None:
    import subprocess

    shellcheck = Path(sys.executable).parent / "shellcheck"
    assert shellcheck.exists(), "install the extra dev"
    launch = LaunchConfig(target=Target.slurm, setup=["module load 'a b'"], on_failure="echo 'it''s' $HYMT_EXIT_CODE")
    job = JobCommand("n", "out puts", ("source.path=a'b",), launch, cwd="/x y", program=("hymt-batch",))
    for script in (slurm.array_script(job, ["0-7 9"], "label"), slurm.merge_script(job, "label")):
        done = subprocess.run([shellcheck, "-"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert shlex.split(script.splitlines()[-1])  # it ends with a command
    assert os.access(shellcheck, os.X_OK)
