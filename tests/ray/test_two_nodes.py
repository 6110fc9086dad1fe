"""A job on two nodes of a real Ray, with the demo model: a worker and a node are killed, and the files are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from tests.ray import cluster
from tests.ray.cluster import Cluster

pytestmark = pytest.mark.skipif(bool(cluster.unavailable()), reason=cluster.unavailable())

NUM_TASKS, PATIENCE_S = 2, 300.0  # a busy machine
PROGRAM = [str(Path(sys.executable).with_name("hymt-batch"))]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Return a folder with a short name: Ray makes sockets in it, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield Path(folder)


@pytest.fixture
def ray_cluster(ray_folder: Path) -> Iterator[Cluster]:
    with cluster.running(ray_folder) as running:
        yield running


def tasks_at_work(folder: Path) -> dict[int, int]:
    """Return the processes that hold a claim on a shard and live: shard -> process."""
    found = {}
    for path in (folder / ".hymt/claims").glob("u*"):
        try:
            pid = int(json.loads(path.read_text())["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError):
            continue
        found[int(path.name[1:])] = pid
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.05)


def test_a_killed_worker_and_a_killed_node_cost_only_time(ray_cluster: Cluster, tmp_path: Path) -> None:
    sample = [sys.executable, "-m", "hymt_batch.demo", "sample", "--seed", "3", "--num", "64", "--tgt-lang", "fr"]
    subprocess.run([*sample, "--out", str(tmp_path / "sample")], check=True, capture_output=True)
    job = ["source.path=sample/src.txt", "src_lang=en", "tgt_lang=fr", "model=demo", "device_map=cpu"]
    job += ["batch.shard_rows=8", "launch.num_threads=1"]
    to_ray = [*job, "name=n", "shard.per_task=4", "launch=ray", f"launch.address={ray_cluster.address}"]
    folder = tmp_path / "outputs" / "n"

    with subprocess.Popen(
        [*PROGRAM, "translate", *to_ray], cwd=tmp_path, env=ray_cluster.environment, stderr=subprocess.PIPE, text=True
    ) as driver:
        wait(lambda: tasks_at_work(folder), "a task at work")
        shard, task = next(iter(tasks_at_work(folder).items()))
        os.kill(parent_of(task), signal.SIGKILL)  # the worker of Ray that started it
        wait(lambda: tasks_at_work(folder).get(shard) != task, "the end of its task")
        wait(lambda: tasks_at_work(folder), "another task at work")
        ray_cluster.kill_node()
        _, err = driver.communicate()
    assert driver.returncode == 0, err
    assert f"{NUM_TASKS} of {NUM_TASKS} tasks ended" in err and "2 nodes" in err
    again = subprocess.run(
        [*PROGRAM, "translate", *to_ray], cwd=tmp_path, env=ray_cluster.environment, capture_output=True, text=True
    )
    assert again.returncode == 0 and "nothing is left" in again.stdout, again.stderr

    for verb in ("prepare", "translate"):
        subprocess.run([*PROGRAM, verb, *job, "name=one"], cwd=tmp_path, check=True, capture_output=True)
    one = tmp_path / "outputs" / "one"
    published = (folder / "translated/src.txt").read_bytes()
    assert published == (one / "translated/src.txt").read_bytes() == (tmp_path / "sample/ref.txt").read_bytes()
    manifests = [json.loads((path / "manifest.json").read_text(encoding="utf-8")) for path in (folder, one)]
    assert manifests[0] == manifests[1]


def test_without_the_token_the_cluster_is_refused_in_one_line(ray_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x\n")
    words = ["translate", "source.path=in.txt", "tgt_lang=fr", "model=demo", "device_map=cpu", "name=n", "launch=ray"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    done = subprocess.run(
        [*PROGRAM, *words, f"launch.address={ray_cluster.address}"],
        cwd=tmp_path, env=environment | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.PREFLIGHT, done.stderr
    assert "auth_token" in done.stderr and "Traceback" not in done.stderr


def test_a_cluster_on_this_machine_is_started_and_ended(ray_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    words = ["source.path=in.txt", "tgt_lang=fr", "model=demo", "device_map=cpu", "name=n", "launch=ray"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(ray_folder)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [*PROGRAM, "translate", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "starting a Ray cluster on this machine" in done.stderr
    assert len((tmp_path / "outputs/n/translated/in.txt").read_text().splitlines()) == 2
