"""Claims: one task works on a unit of a prepared job at a time. Like the lease, they save work and protect no data.

A claim is a lease whose file is `.hymt/claims/u<unit>`, renewed and taken over by the same rule. Two tasks that work on
one unit publish the same parts, and the first to publish a part wins. The owner of the folder, such as the merge,
settles the claims before it sweeps or publishes: it waits for those that beat, and drops those that fell silent.
Independent of what is done under a claim.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import LeaseError
from hymt_batch.fs import remove, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import plural
from hymt_batch.state_layout import CLAIM_GROUP, StateLayout, claims_folder, list_grouped, remove_groups
from hymt_batch.write import lease, shard_plan
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.lease import HeldError, Lease
from hymt_batch.write.lease_file import read_bytes
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.storage import DurableFolders
from hymt_batch.write.unit_progress import UnitProgress

log = logging.getLogger(__name__)

CLAIM_NAME = re.compile(r"u(\d{7,10})")


def claim_path(folder: Path, unit: int, layout: StateLayout) -> Path:
    return layout.claim_folder(folder, unit) / f"u{unit:07}"


def claimed_units(fs: Fs, folder: Path) -> dict[int, Path]:
    """Return each unit that has a claim, in order, with its path; a listing may miss a new one.

    Its task works, or was killed.
    """
    paths = list_grouped(fs, claims_folder(folder), CLAIM_GROUP)
    return dict(sorted((int(match[1]), path) for path in paths if (match := CLAIM_NAME.fullmatch(path.name))))


def read_all(fs: Fs, folder: Path) -> Iterator[tuple[int, Path, LeaseHolder | None]]:
    """Yield each claimed unit with its path and its holder, None if the claim cannot be read."""
    for unit, path in claimed_units(fs, folder).items():
        data = read_bytes(fs, path)
        if data is not None:
            yield unit, path, holders.parse_holder(data)


class Claims:
    """The claims that one task holds."""

    def __init__(self, fs: Fs, folder: Path, layout: StateLayout, ttl_s: float, beat_s: float) -> None:
        """Hold none yet.

        Args:
            fs: The file system.
            folder: The output folder.
            layout: That of the job.
            ttl_s: Seconds without a heartbeat after which the claim of another task is taken over; 0 disables claims.
            beat_s: Seconds between two heartbeats of a claim.
        """
        self._fs, self._folder, self._layout, self._ttl_s, self._beat_s = fs, folder, layout, ttl_s, beat_s
        self._held: dict[int, Lease] = {}
        self.others: dict[int, LeaseHolder] = {}  # units on which other tasks were found to work

    def take(self, unit: int) -> bool:
        """Claim a unit; False if another task works on it. Waits up to `ttl_s` where it cannot tell."""
        if self._ttl_s <= 0 or unit in self._held:
            return True
        for _ in range(3):
            path = claim_path(self._folder, unit, self._layout)
            try:
                DurableFolders(self._fs, self._folder).ensure(path.parent)
                what = f"claim on shard {unit} of {self._folder}"
                self._held[unit] = lease.acquire_at(self._fs, path, what, ttl_s=self._ttl_s, beat_s=self._beat_s)
                return True
            except HeldError as held:
                self.others[unit] = held.holder
                return False
            except FileNotFoundError:  # the owner of the folder removed the folder of claims, which were all settled
                continue
        return True  # without a claim nothing is lost

    def check(self) -> None:
        """Check that all claims are still ours; call it before each commit.

        Raises:
            StoppedError: Another task took over, or a claim could not be renewed for half its time to live.
        """
        for held in list(self._held.values()):
            held.check()

    def refresh(self) -> None:
        """Write the next heartbeat of each claim, as its thread does."""
        for held in list(self._held.values()):
            held.refresh()

    def release(self, unit: int) -> None:
        """Release the claim on a unit, if it is held."""
        if (held := self._held.pop(unit, None)) is not None:
            held.release()

    def release_all(self) -> None:
        """Release every claim."""
        for unit in list(self._held):
            self.release(unit)


@dataclass(frozen=True, slots=True)
class TaskRule:
    """What the owner of a folder does about tasks that work in it; by default it refuses to work beside any."""

    wait: bool = False  # wait for the tasks that work on a unit that is not complete
    check_stop: Callable[[], None] = lambda: None  # called while waiting; raises if a stop was requested
    ignore: bool = False  # leave the tasks, their claims and their files alone

    def settle(self, fs: Fs, folder: Path, ttl_s: float, beat_s: float) -> None:
        """Follow the rule; see `settle`."""
        if not self.ignore and claimed_units(fs, folder):
            settle(fs, folder, self, ttl_s=ttl_s, beat_s=beat_s)


REFUSE_TASKS = TaskRule()


def settle(
    fs: Fs,
    folder: Path,
    rule: TaskRule,
    *,
    ttl_s: float,
    beat_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until no task works on a unit that is not complete, or raise if one does; drop dead and silent claims.

    Args:
        fs: The file system.
        folder: The output folder, whose lease the caller holds.
        rule: Whether to wait.
        ttl_s: Seconds without a heartbeat after which a task counts as dead.
        beat_s: Seconds between two heartbeats.
        clock, sleep: For tests: replace the monotonic clock and the sleep, both in seconds.

    Raises:
        LeaseError: A task works in the folder, and the rule is not to wait.
    """
    plan = shard_plan.read_if_any(fs, folder)
    progress = None if plan is None else UnitProgress(fs, folder, plan)

    def is_open(unit: int) -> bool:
        return plan is None or progress is None or unit >= plan.num_units or not progress.is_complete(plan.unit(unit))

    seen: dict[int, tuple[bytes, float]] = {}
    told = False
    while True:
        working = {unit: path for unit, path in claimed_units(fs, folder).items() if is_open(unit)}
        for unit, path in list(working.items()):
            if _is_over(fs, folder, path, unit, seen, ttl_s, clock(), refuses=not rule.wait):
                remove(fs, path)
                del working[unit]
        if not working:
            return
        if not told:
            log.warning("waiting for %s that tasks work on: %s", plural(len(working), "shard"), list(working)[:20])
            told = True
        rule.check_stop()
        sleep(min(max(beat_s / 2, 0.05), ttl_s))


def _is_over(
    fs: Fs,
    folder: Path,
    path: Path,
    unit: int,
    seen: dict[int, tuple[bytes, float]],
    ttl_s: float,
    now: float,
    *,
    refuses: bool,
) -> bool:
    """Return whether a claim is released, dead or silent; raise if `refuses` and its task is alive."""
    raw = read_bytes(fs, path)
    if raw is None:
        return True
    holder = holders.parse_holder(raw)
    alive = holders.is_alive(holder, holders.current_process()) if holder else None
    before, since = seen.get(unit, (raw, now))
    if refuses and holder is not None and (alive or (alive is None and raw != before)):
        raise LeaseError(
            f"a task works on shard {unit} of {folder}: process {holder.pid} on {holder.host}, since {holder.since}",
            why="both would do the same work",
            fix="Wait for the tasks, or stop them; hymt-batch status shows all of them.",
        )
    seen[unit] = (raw, since if raw == before else now)
    if alive is False or (alive is None and now - seen[unit][1] >= ttl_s):
        log.warning("claim on shard %d dropped: its task is %s", unit, "dead" if alive is False else "silent")
        return True
    return False


def clear(fs: Fs, folder: Path) -> None:
    """Remove all claims of a job that is complete; a late task finds its claim gone at its next commit, and stops."""
    root = claims_folder(folder)
    with contextlib.suppress(OSError):
        if stat_or_none(fs, root) is None:
            return
        for path in list_grouped(fs, root, CLAIM_GROUP):
            remove(fs, path)
        remove_groups(fs, root, CLAIM_GROUP)
        fs.rmdir(root)
