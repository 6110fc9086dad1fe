"""Main memory, shared memory, and the limits of cgroups of both versions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hymt_batch.doctor import machine
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model import memory
from hymt_batch.model.memory import CgroupLimit

GIB = 1 << 30


def wrong(found: list[Finding]) -> list[tuple[str, Level]]:
    for one in found:
        bad = one.level in (Level.WARN, Level.FAIL)
        assert bad == bool(one.id) == bool(one.fix), one
    return [(one.id, one.level) for one in found if one.id]


@pytest.mark.parametrize(
    ("needed", "level"), [(GIB, None), (8 * GIB, None), (9 * GIB, Level.WARN), (10 * GIB + 1, Level.FAIL)]
)
def test_memory_needs_a_fifth_more_than_the_weights(needed: int, level: Level | None) -> None:
    found = machine.check_memory(10 * GIB, needed, "weights on the CPU")
    assert wrong(found) == ([("G1", level)] if level else [])
    assert found[0].seen.startswith(f"10.00 GiB left, weights on the CPU: {needed / GIB:.2f} GiB")


@pytest.mark.fault(10)
def test_a_cgroup_that_binds_is_named() -> None:
    limit = CgroupLimit("/sys/fs/cgroup/job", 4 * GIB, 3 * GIB)
    found = machine.check_memory(10 * GIB, 3 * GIB + 1, "weights", limit)
    assert wrong(found) == [("G1", Level.FAIL)]
    assert "3.00 GiB left" in found[0].seen
    assert "(limit of the cgroup /sys/fs/cgroup/job: 4.00 GiB)" in found[0].seen
    assert "sbatch --mem" in found[0].fix


def test_a_cgroup_that_allows_more_than_the_machine_has_is_not_named() -> None:
    found = machine.check_memory(10 * GIB, GIB, "weights", CgroupLimit("/x", 99 * GIB, 98 * GIB))
    assert "cgroup" not in found[0].seen


def hierarchy(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_the_tightest_limit_above_a_process_binds(tmp_path: Path) -> None:
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


def test_limits_of_version_1_are_found_and_its_way_to_say_none_is_known(tmp_path: Path) -> None:
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
def test_in_a_container_the_limit_is_that_of_the_root(tmp_path: Path, own: str) -> None:
    files = {"root/memory.max": f"{GIB}", "root/memory.current": "0", "self": own}
    files |= {"outside/memory.max": "1", "outside/memory.current": "0"}
    root = hierarchy(tmp_path, files) / "root"
    assert memory.cgroup_limit(root, tmp_path / "self") == CgroupLimit(str(root), GIB, GIB)


@pytest.mark.parametrize("text", ["", "nonsense", "0::/", "::", "4:memory"])
def test_without_a_limit_there_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "self").write_text(text)
    assert memory.cgroup_limit(tmp_path, tmp_path / "self") is None
    assert memory.cgroup_limit(tmp_path, tmp_path / "missing") is None


def test_the_number_by_which_version_1_means_no_limit_is_none(tmp_path: Path) -> None:
    files = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5"}
    hierarchy(tmp_path / "memory", files)
    (tmp_path / "self").write_text("4:memory:/")
    assert memory.cgroup_limit(tmp_path, tmp_path / "self") is None


def test_this_machine_can_be_asked() -> None:
    found = memory.cgroup_limit()
    assert found is None or 0 <= found.left_bytes <= found.limit_bytes


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A memory file system of 1 MiB, as a container's /dev/shm has 64."""
    if shutil.which("mount") is None:
        pytest.skip("there is no program `mount` here")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_small_shared_memory_is_told_with_whom_it_concerns(small: Path) -> None:
    found = machine.check_shared_memory(small)
    assert wrong(found) == [("G2", Level.WARN)]
    assert "matters only with several workers or NCCL" in found[0].seen
    assert "--shm-size" in found[0].fix
    assert wrong(machine.check_shared_memory(small, needed=1 << 19)) == []


def test_shared_memory_below_the_need_is_told(tmp_path: Path) -> None:
    assert wrong(machine.check_shared_memory(tmp_path, needed=1 << 62)) == [("G2", Level.WARN)]
    assert wrong(machine.check_shared_memory(tmp_path, needed=0)) == []


def test_where_there_is_no_shared_memory_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert machine.check_shared_memory(tmp_path / "missing")[0].level is Level.SKIP
