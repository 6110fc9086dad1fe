from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.errors import ExitCode, LeaseError, StoppedError
from hymt_batch.fs import OS_FS, OsFs
from hymt_batch.write import lease, lease_file
from hymt_batch.write.lease import Lease
from hymt_batch.write.lease_holder import LeaseHolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".hymt" / "lease").mkdir(parents=True)
    return tmp_path


def write(folder: Path, holder: LeaseHolder) -> None:
    from dataclasses import asdict

    lease.lease_path(folder).write_bytes(manifest.canonical_json(asdict(holder)))


class Clock:
    """A clock that advances only in `sleep`; a test sets `on_sleep` to act while the caller waits."""

    def __init__(self) -> None:
        self.now, self.slept, self.on_sleep = 0.0, 0, lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1
        self.on_sleep()


def acquire(folder: Path, clock: Clock | None = None, me: LeaseHolder | None = None) -> Lease:
    clock = clock or Clock()
    return lease.acquire(OS_FS, folder, ttl_s=180.0, beat_s=20.0, me=me, clock=clock, sleep=clock.sleep)


def holder_on_another_machine(**fields: object) -> LeaseHolder:
    return replace(lease.current_process(), host="node7", **fields)  # type: ignore[arg-type]


def test_a_lease_is_acquired_and_released(folder: Path) -> None:
    held = acquire(folder)
    held.check()
    assert held.epoch == 1
    held.release()
    assert not list((folder / ".hymt" / "lease").iterdir())


@pytest.mark.fault(42)
def test_a_live_holder_on_this_machine_is_reported_at_once(folder: Path) -> None:
    held, clock = acquire(folder), Clock()
    with pytest.raises(LeaseError, match=rf"process {os.getpid()} on \S+, since 20\d\d-") as refused:
        acquire(folder, clock)
    assert clock.slept == 0
    assert refused.value.exit_code is ExitCode.LEASE_HELD
    held.release()


@pytest.mark.parametrize(
    "fields",
    [{"pid": 2**22 + 1}, {"started": "1"}, {"boot": "another boot"}],
    ids=["no such process", "the process id was reused", "the machine was restarted"],
)
@pytest.mark.fault(44)
def test_a_dead_holder_on_this_machine_is_replaced_at_once(folder: Path, fields: dict[str, object]) -> None:
    clock = Clock()
    write(folder, replace(lease.current_process(), epoch=7, **fields))  # type: ignore[arg-type]
    held = acquire(folder, clock)
    assert (held.epoch, clock.slept) == (8, 0)
    held.release()


def test_a_process_id_of_another_container_is_ignored(folder: Path) -> None:
    holder = replace(lease.current_process(), pids="pid:[1]", pid=2**22 + 1)
    assert lease.is_alive(holder, lease.current_process()) is None


@pytest.mark.fault(44, 46)
def test_the_earlier_start_of_a_requeued_slurm_job_counts_as_dead(folder: Path) -> None:
    write(folder, holder_on_another_machine(slurm_job="12.", slurm_restart=0))
    clock = Clock()
    acquire(folder, clock, replace(lease.current_process(), slurm_job="12.", slurm_restart=1)).release()
    assert clock.slept == 0


@pytest.mark.fault(44, 52)
def test_a_silent_holder_on_another_machine_is_replaced_after_its_time_to_live(folder: Path) -> None:
    write(folder, holder_on_another_machine(beat=3))
    clock = Clock()
    acquire(folder, clock).release()
    assert 180.0 <= clock.now <= 200.0


@pytest.mark.fault(42, 52)
def test_a_holder_on_another_machine_is_respected_after_its_next_heartbeat(folder: Path) -> None:
    clock, beats = Clock(), iter(range(1000))
    write(folder, holder_on_another_machine())
    clock.on_sleep = lambda: write(folder, holder_on_another_machine(beat=next(beats) // 3, owner="o"))
    with pytest.raises(LeaseError, match="on node7"):
        acquire(folder, clock)
    assert clock.now < 60.0


@pytest.mark.parametrize("data", [b"", bytes(40), b"{", b'{"owner": 1}', b"[]"])
@pytest.mark.fault(44)
def test_an_unreadable_lease_is_taken_over_after_its_time_to_live(folder: Path, data: bytes) -> None:
    lease.lease_path(folder).write_bytes(data)
    clock = Clock()
    acquire(folder, clock).release()
    assert clock.now >= 180.0


@pytest.mark.fault(45)
def test_only_one_of_many_processes_takes_over_a_stale_lease(tmp_path: Path) -> None:
    for name in range(8):
        (tmp_path / str(name) / ".hymt" / "lease").mkdir(parents=True)
        race(tmp_path / str(name))


def race(folder: Path) -> None:
    write(folder, replace(lease.current_process(), pid=2**22 + 1))
    barrier, won, refused = threading.Barrier(8), list[Lease](), list[LeaseError]()

    def racer() -> None:
        barrier.wait()
        try:
            won.append(lease.acquire(OS_FS, folder, ttl_s=5.0, beat_s=0.1))
        except LeaseError as error:
            refused.append(error)

    threads = [threading.Thread(target=racer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].check()
    won[0].release()


def test_a_late_takeover_does_not_replace_the_new_lease(folder: Path) -> None:
    held = acquire(folder)
    assert not lease_file.take_over(
        OS_FS, lease.lease_path(folder), b"the dead lease that it saw", lease.current_process()
    )
    held.check()
    assert [p.name for p in (folder / ".hymt" / "lease").iterdir()] == ["job.json"]
    held.release()


@pytest.mark.fault(45)
@pytest.mark.parametrize(("claimer", "waited_s"), [({"pid": 2**22 + 1}, 0.0), ({"host": "node7"}, 360.0)])
def test_the_claim_of_a_killed_process_does_not_lock_the_folder_forever(
    folder: Path, claimer: dict[str, Any], waited_s: float
) -> None:
    write(folder, replace(lease.current_process(), **claimer))
    claim, clock = lease.lease_path(folder).read_bytes(), Clock()
    write(folder, replace(lease.current_process(), pid=2**22 + 1))
    name = f"stale-{hashlib.sha256(lease.lease_path(folder).read_bytes()).hexdigest()[:32]}"
    (folder / ".hymt/lease" / name).write_bytes(claim)
    acquire(folder, clock).release()
    assert waited_s <= clock.now <= waited_s + 20.0
    assert not list((folder / ".hymt" / "lease").iterdir())


@pytest.mark.fault(46)
def test_a_lease_that_was_taken_over_stops_its_old_holder(folder: Path) -> None:
    held = acquire(folder)
    write(folder, holder_on_another_machine())
    with pytest.raises(StoppedError, match=r"process .* on node7 took it over"):
        held.check()
    held.release()
    assert lease.read(OS_FS, folder) is not None  # not ours to remove


def test_a_holder_whose_lease_file_is_removed_stops(folder: Path) -> None:
    held = acquire(folder)
    lease.lease_path(folder).unlink()
    with pytest.raises(StoppedError, match="its file was removed"):
        held.check()
    held.release()


@pytest.mark.fault(9)
def test_a_holder_that_cannot_renew_for_half_its_time_to_live_stops(folder: Path) -> None:
    class Refusing(OsFs):
        refuses = False

        def open_exclusive(self, path: Path) -> int:
            if self.refuses:
                raise OSError(5, "io")
            return super().open_exclusive(path)

    fs = Refusing()
    held = lease.acquire(fs, folder, ttl_s=0.4, beat_s=0.02)
    time.sleep(0.3)
    held.check()  # the thread renews it
    fs.refuses = True
    time.sleep(0.3)
    with pytest.raises(StoppedError, match="could not be renewed"):
        held.check()
    held.release()


def test_heartbeats_are_written_and_leave_no_other_files(folder: Path) -> None:
    held = lease.acquire(OS_FS, folder, ttl_s=5.0, beat_s=0.01)
    time.sleep(0.2)
    holder = lease.read(OS_FS, folder)
    assert holder is not None
    assert holder.beat > 1
    held.release()
    assert not list((folder / ".hymt" / "lease").iterdir())


@pytest.mark.parametrize("data", [b"", b"garbage", b'{"pid": 0}'])
@pytest.mark.fault(44)
def test_an_unreadable_lease_is_logged_at_once(folder: Path, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    lease.lease_path(folder).write_bytes(data)
    clock, log_texts = Clock(), []
    clock.on_sleep = lambda: log_texts.append(caplog.text)
    held = acquire(folder, clock)
    held.release()
    assert "cannot be read" in log_texts[0] and "watching it for 180 s" in log_texts[0]
    assert "None" not in caplog.text
