"""A job of 8 shards in a real SLURM, with the demo model: what is lost is named, and only that is done again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from tests.slurm import cluster
from tests.slurm.cluster import Cluster

pytestmark = [
    pytest.mark.skipif(bool(cluster.unavailable()), reason=cluster.unavailable()),
]

NUM_SHARDS, LOST = 8, 5


@pytest.fixture
def slurm_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster.running(tmp_path / "slurm", max_array_size=6) as running:
        yield running


def hymt(cluster: Cluster, cwd: Path, *words: str) -> tuple[int, str, str]:
    """Run hymt-batch, and return its exit code, stdout and stderr."""
    program = Path(sys.executable).with_name("hymt-batch")
    done = subprocess.run(
        [program, *words], cwd=cwd, env=cluster.environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def process_of(task_words: str, conf: str) -> int | None:
    """Return the process that has these words on its command line, in this cluster; None if there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if task_words in words and "translate" in words and conf.encode() in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:
            continue
    return None


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of everything that is committed."""
    files = [path for path in (folder / ".hymt").glob("f*/**/*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def ids_of(text: str) -> tuple[list[str], str]:
    """Return the numbers of the arrays and of the merge that `launch=slurm` printed."""
    match = re.search(r"tasks? in job ([\d, ]+); the merge is job (\d+)", text)
    assert match, text
    return match[1].split(", "), match[2]


def test_a_lost_task_is_named_and_only_its_shards_are_done_again(slurm_cluster: Cluster, tmp_path: Path) -> None:
    sample = [sys.executable, "-m", "hymt_batch.demo", "sample", "--seed", "3", "--num", "64", "--tgt-lang", "fr"]
    subprocess.run([*sample, "--out", str(tmp_path / "sample")], check=True, capture_output=True)
    job = ["source.path=sample/src.txt", "src_lang=en", "tgt_lang=fr", "model=demo", "device_map=cpu"]
    job += ["batch.shard_rows=8", "launch.num_threads=1"]
    to_slurm = [*job, "name=n", "launch=slurm", "launch.gpus_per_task=1", "launch.time=10"]
    to_slurm += ["launch.setup=['echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES > gpus/$SLURM_JOB_ID']"]
    (tmp_path / "gpus").mkdir()
    folder = tmp_path / "outputs" / "n"

    code, out, err = hymt(slurm_cluster, tmp_path, "translate", *to_slurm)
    assert code == 0, err
    arrays, merge = ids_of(out)
    assert len(arrays) == 2, "8 tasks in arrays of at most 6"
    assert hymt(slurm_cluster, tmp_path, "translate", *to_slurm)[0] == ExitCode.LEASE_HELD, "it is in the queue"

    conf = f"SLURM_CONF={slurm_cluster.environment['SLURM_CONF']}"
    slurm_cluster.wait(lambda: process_of(f"shard.index={LOST}", conf), "the task to be killed")
    os.kill(process_of(f"shard.index={LOST}", conf) or 0, signal.SIGKILL)
    states = [state for array in arrays for state in slurm_cluster.wait_for_end(array).values()]
    assert sorted(states) == ["COMPLETED"] * (NUM_SHARDS - 1) + ["FAILED"]
    found = [path.read_text().split() for path in (tmp_path / "gpus").iterdir()]  # the merge has a node and no GPU
    gpus = Counter(tuple(words) for words in found if len(words) > 1)
    assert set(gpus) == {("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")}, "the shards were on all four GPUs"
    assert gpus.total() == NUM_SHARDS, "each task had one"
    assert slurm_cluster.wait_for_end(merge) == {merge: "FAILED"}
    (log,) = (folder / "logs/slurm").glob("merge-*.log")
    assert re.search(rf"\b{LOST}\b", log.read_text()), "it names the shard"
    assert not list((folder / "translated").glob("*.txt"))
    assert hymt(slurm_cluster, tmp_path, "missing", "name=n")[:2] == (ExitCode.MISSING, f"{LOST}\n")

    code, _, err = hymt(slurm_cluster, tmp_path, "merge", "name=n")
    assert code == ExitCode.MISSING and f"1 of {NUM_SHARDS} shards of outputs/n are missing: {LOST}." in err

    before = parts(folder)
    code, out, err = hymt(slurm_cluster, tmp_path, "translate", *to_slurm)
    assert code == 0, err
    arrays, merge = ids_of(out)
    (array,) = arrays
    assert slurm_cluster.wait_for_end(array) == {f"{array}_0": "COMPLETED"}
    after = parts(folder)
    assert {path for path in before if after.get(path) != before[path]} == set(), "the other shards were not touched"
    assert slurm_cluster.wait_for_end(merge) == {merge: "COMPLETED"}
    assert hymt(slurm_cluster, tmp_path, "missing", "name=n")[0] == 0
    code, out, _ = hymt(slurm_cluster, tmp_path, "translate", *to_slurm)
    assert code == 0 and "nothing is left" in out

    assert hymt(slurm_cluster, tmp_path, "prepare", *job, "name=one")[0] == 0
    assert hymt(slurm_cluster, tmp_path, "translate", *job, "name=one")[0] == 0
    one = tmp_path / "outputs" / "one"
    assert (folder / "translated/src.txt").read_bytes() == (one / "translated/src.txt").read_bytes()
    assert (folder / "translated/src.txt").read_bytes() == (tmp_path / "sample/ref.txt").read_bytes()
    manifests = [json.loads((path / "manifest.json").read_text(encoding="utf-8")) for path in (folder, one)]
    assert manifests[0] == manifests[1]
    assert hymt(slurm_cluster, tmp_path, "verify", "name=n")[0] == 0
