"""State files of absurd size or content never use much memory, raise a traceback or signal a foreign process."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import ExitCode, PreflightError
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input
from hymt_batch.state_layout import FLAT
from hymt_batch.write import file_record, lease, lease_holder
from hymt_batch.write import part as parts
from hymt_batch.write.state_file import StateFileDamagedError
from jobs import status, verify
from tests.fakes.upper import ENVIRONMENT, an_input, open_output, plan, run, shards, upper

HUGE = 10 << 30


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.0, 0.0))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(19)) + "empty\n")
    return [an_input(tmp_path / "in.txt")]


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit memory to 1 GiB more than now, so that reading a huge file fails."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old_limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (1 << 30), old_limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old_limits)


def begin(folder: Path, inputs: list[Input]) -> Path:
    """Commit the first shards and return the path of the second part."""
    with open_output(folder, inputs) as output:
        for shard in list(shards(inputs[0]))[:2]:
            for part in plan(shard):
                output.commit(part, upper(part), ENVIRONMENT)
    return sorted(path for path in (folder / ".hymt").rglob("p0*") if path.is_file())[1]


@pytest.mark.parametrize("keep", [0, 40, 10_000], ids=["zeros", "a torn header", "a complete part, and zeros"])
@pytest.mark.fault(35, 36)
def test_a_huge_part_is_quarantined_without_reading_it(
    tmp_path: Path, inputs: list[Input], little_memory: None, keep: int
) -> None:
    folder = tmp_path / "job"
    victim = begin(folder, inputs)
    os.truncate(victim, min(keep, victim.stat().st_size))
    os.truncate(victim, HUGE)
    report = verify.verify(folder)
    assert report.exit_code is ExitCode.DAMAGE
    assert f"{HUGE} bytes" in report.damage[0]
    status.status(folder, num_errors=5)
    decoded: list[str] = []
    run(folder, inputs, decoded=decoded.append)
    assert decoded[0] == "in.txt/0/1"
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE
    (quarantined, _) = sorted((folder / ".hymt" / "quarantine").iterdir())
    assert quarantined.stat().st_size == HUGE


def test_an_endless_header_is_read_only_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"x")
    os.truncate(tmp_path / "p", HUGE)
    with pytest.raises(StateFileDamagedError):
        parts.read_header(OS_FS, tmp_path / "p")


@pytest.mark.parametrize("begins", [b"", b"x", b"{"], ids=["zeros", "no JSON", "JSON"])
@pytest.mark.parametrize("name", ["manifest.json", "file.json", "stopped.json", "inputs.json", "progress.json"])
@pytest.mark.fault(35, 39)
def test_a_huge_state_file_counts_as_damaged_without_reading_it(
    tmp_path: Path, inputs: list[Input], little_memory: None, name: str, begins: bytes
) -> None:
    folder = tmp_path / "job"
    run(folder, inputs)
    path = next(iter(folder.rglob(name)), folder / ".hymt" / name)
    path.write_bytes(begins)
    os.truncate(path, HUGE)
    report = verify.verify(folder, inputs=True)
    assert (report.exit_code is ExitCode.COMPLETE) == (name in ("stopped.json", "progress.json"))
    status.status(folder)
    run(folder, inputs)
    assert (folder / "translated" / "in.txt").read_text().startswith("LINE 0\n")


@pytest.mark.fault(35)
def test_a_huge_job_file_counts_as_damaged_without_reading_it(
    tmp_path: Path, inputs: list[Input], little_memory: None
) -> None:
    run(tmp_path / "job", inputs)
    os.truncate(tmp_path / "job" / ".hymt" / "job.json", HUGE)
    report = verify.verify(tmp_path / "job")
    assert report.exit_code is ExitCode.DAMAGE
    assert f"it has {HUGE} bytes" in report.damage[0]


def test_impossible_shards_take_no_memory(tmp_path: Path, inputs: list[Input], little_memory: None) -> None:
    """The shards are in a record of an earlier version, or in the name of a folder."""
    folder = tmp_path / "job"
    run(folder, inputs)
    path = file_record.record_path(folder, inputs[0], FLAT)
    record = manifest.load(OS_FS, path)
    record["shards"] = [[1 << 40, 0, 20, 0, 1, "0" * 64, True]]
    path.write_bytes(manifest.seal(record))
    assert file_record.read_record(OS_FS, folder, inputs[0], FLAT) is None
    for rows in path.parent.glob("*.rows"):
        rows.unlink()
    (path.parent / "s99999999999").mkdir()
    report = verify.verify(folder)
    assert "in.txt shard 0 to 99999999998" in report.missing


# leases


def takeover_delay_s(folder: Path) -> float:
    """Return after how many seconds, on a simulated clock, a lease is taken over."""
    slept = [0.0]
    acquired = lease.acquire(
        OS_FS, folder, ttl_s=180.0, beat_s=20.0, clock=lambda: slept[0], sleep=lambda s: slept.append(slept.pop() + s)
    )
    acquired.check()
    acquired.release()
    return slept[0]


FIELDS: list[dict[str, Any]] = [
    {"pid": 0}, {"pid": -1}, {"pid": -2}, {"pid": 2**80}, {"pid": 2**31}, {"pid": True}, {"pid": 1.0},
    {"pid": "1"}, {"pid": None}, {"epoch": -1}, {"epoch": 2**80}, {"beat": -1}, {"beat": 2**63}, {"slurm_restart": -1},
    {"host": "h\x1b[2J"}, {"host": "höst"}, {"host": "h" * 10_000}, {"owner": "\n"}, {"since": "x" * 10_000_000},
    {"started": "\u202e"}, {"boot": "\ud800"}, {"pids": ["x"]}, {"slurm_job": {}},
]  # fmt: skip


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: str(fields)[:40])
@pytest.mark.fault(44)
def test_an_impossible_lease_holder_counts_as_unreadable(
    tmp_path: Path, inputs: list[Input], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    signalled: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, signal_number: signalled.append(pid))
    folder = tmp_path / "job"
    begin(folder, inputs)
    lease.lease_path(folder).write_text(json.dumps({**asdict(lease_holder.current_process()), **fields}))
    assert lease.read(OS_FS, folder) is None
    job_status = status.status(folder)
    assert (job_status.state, job_status.holder) == ("stopped", None)
    assert not verify.verify(folder).running
    assert takeover_delay_s(folder) >= 180.0
    assert not signalled


@pytest.mark.parametrize("pid", [0, -1, -7, 2**31, 2**80])
def test_process_groups_are_never_signalled(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal"))
    assert lease_holder.process_start_time(pid) is None


def test_the_lease_of_this_process_can_always_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "höst\n" + "x" * 1000)
    monkeypatch.setenv("SLURM_JOB_ID", "äö" * 500)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "9" * 30)
    me = lease_holder.current_process()
    assert lease_holder.parse_holder(manifest.canonical_json(asdict(me))) == me


@pytest.mark.parametrize(
    "data",
    [b"\0" * (10 << 20), b"[" * 100_000, b'{"pid": ' + b"9" * 10_000 + b"}", b"x" * (10 << 20)],
    ids=["zeros", "nested", "digits", "long"],
)
def test_a_lease_of_arbitrary_bytes_counts_as_unreadable(tmp_path: Path, inputs: list[Input], data: bytes) -> None:
    begin(tmp_path / "job", inputs)
    lease.lease_path(tmp_path / "job").write_bytes(data)
    assert lease.read(OS_FS, tmp_path / "job") is None
    assert takeover_delay_s(tmp_path / "job") >= 180.0


def test_a_pipe_in_place_of_the_lease_does_not_hang_a_run(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs)
    os.mkfifo(lease.lease_path(tmp_path / "job"))
    with pytest.raises(PreflightError, match=r"lease/job\.json is a pipe"):
        run(tmp_path / "job", inputs, lease_ttl_s=180.0)
