"""The checks of main memory and shared memory, and the limits of cgroups version 1 and 2."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hymt_batch.doctor import machine
from hymt_batch.doctor.finding import Level
from hymt_batch.model import memory
from hymt_batch.model.memory import CgroupLimit
from tests.findings import wrong_levels

GIB = 1 << 30


@pytest.mark.parametrize(
    ("needed", "level"), [(GIB, None), (8 * GIB, None), (9 * GIB, Level.WARN), (10 * GIB + 1, Level.FAIL)]
)
def test_memory_needs_a_fifth_more_than_the_weights(needed: int, level: Level | None) -> None:
    findings = machine.check_memory(10 * GIB, needed, "weights on the CPU")
    assert wrong_levels(findings) == ([("G1", level)] if level else [])
    assert findings[0].seen.startswith(f"10.00 GiB left, weights on the CPU: {needed / GIB:.2f} GiB")


@pytest.mark.fault(10)
def test_a_cgroup_limit_that_applies_is_named() -> None:
    limit = CgroupLimit("/sys/fs/cgroup/job", 4 * GIB, 3 * GIB)
    findings = machine.check_memory(10 * GIB, 3 * GIB + 1, "weights", limit)
    assert wrong_levels(findings) == [("G1", Level.FAIL)]
    assert "3.00 GiB left" in findings[0].seen
    assert "(limit of the cgroup /sys/fs/cgroup/job: 4.00 GiB)" in findings[0].seen
    assert "sbatch --mem" in findings[0].fix


def test_a_cgroup_that_allows_more_than_the_machine_has_is_not_named() -> None:
    findings = machine.check_memory(10 * GIB, GIB, "weights", CgroupLimit("/x", 99 * GIB, 98 * GIB))
    assert "cgroup" not in findings[0].seen


def hierarchy(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_the_tightest_limit_above_a_process_applies(tmp_path: Path) -> None:
    files = {
        "root/job/memory.max": f"{8 * GIB}",
        "root/job/memory.current": f"{7 * GIB}",
        "root/job/step/memory.max": f"{6 * GIB}",
        "root/job/step/memory.current": f"{GIB}",
        "root/memory.max": "max",
        "root/memory.current": "1",
        "root/other/memory.max": "1",
        "root/other/memory.current": "0",
        "self": "0::/job/step",
    }
    root = hierarchy(tmp_path, files) / "root"
    assert memory.cgroup_limit(root, tmp_path / "self") == CgroupLimit(str(root / "job"), 8 * GIB, GIB)


def test_limits_of_cgroup_version_1_are_read_and_its_value_for_unlimited_is_known(tmp_path: Path) -> None:
    files = {
        "root/memory/slurm/job/memory.limit_in_bytes": f"{2 * GIB}",
        "root/memory/slurm/job/memory.usage_in_bytes": f"{3 * GIB}",
        "root/memory/memory.limit_in_bytes": "9223372036854771712",
        "root/memory/memory.usage_in_bytes": "5",
        "self": "5:cpuset:/slurm\n4:cpu,memory:/slurm/job\n0::/",
    }
    root = hierarchy(tmp_path, files) / "root"
    assert memory.cgroup_limit(root, tmp_path / "self") == CgroupLimit(str(root / "memory/slurm/job"), 2 * GIB, 0)


@pytest.mark.parametrize("own", ["0::/docker/of/the/host", "0::/../outside"])
def test_in_a_container_the_limit_of_the_root_applies(tmp_path: Path, own: str) -> None:
    files = {"root/memory.max": f"{GIB}", "root/memory.current": "0", "self": own}
    files |= {"outside/memory.max": "1", "outside/memory.current": "0"}
    root = hierarchy(tmp_path, files) / "root"
    assert memory.cgroup_limit(root, tmp_path / "self") == CgroupLimit(str(root), GIB, GIB)


@pytest.mark.parametrize("text", ["", "nonsense", "0::/", "::", "4:memory"])
def test_a_missing_limit_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "self").write_text(text)
    assert memory.cgroup_limit(tmp_path, tmp_path / "self") is None
    assert memory.cgroup_limit(tmp_path, tmp_path / "missing") is None


def test_the_value_for_unlimited_in_cgroup_version_1_is_none(tmp_path: Path) -> None:
    files = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5"}
    hierarchy(tmp_path / "memory", files)
    (tmp_path / "self").write_text("4:memory:/")
    assert memory.cgroup_limit(tmp_path, tmp_path / "self") is None


def test_the_limit_of_this_machine_can_be_read() -> None:
    limit = memory.cgroup_limit()
    assert limit is None or 0 <= limit.left_bytes <= limit.limit_bytes


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB, like the /dev/shm of a container, which has 64 MiB."""
    if shutil.which("mount") is None:
        pytest.skip("the program `mount` is missing")
    process = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if process.returncode:
        pytest.skip(f"cannot mount here: {process.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_small_shared_memory_is_reported_with_the_jobs_it_affects(small: Path) -> None:
    findings = machine.check_shared_memory(small)
    assert wrong_levels(findings) == [("G2", Level.WARN)]
    assert "this matters only with several workers or NCCL" in findings[0].seen
    assert "--shm-size" in findings[0].fix
    assert wrong_levels(machine.check_shared_memory(small, needed=1 << 19)) == []


def test_too_little_shared_memory_is_reported(tmp_path: Path) -> None:
    assert wrong_levels(machine.check_shared_memory(tmp_path, needed=1 << 62)) == [("G2", Level.WARN)]
    assert wrong_levels(machine.check_shared_memory(tmp_path, needed=0)) == []


def test_missing_shared_memory_is_skipped(tmp_path: Path) -> None:
    assert machine.check_shared_memory(tmp_path / "missing")[0].level is Level.SKIP
