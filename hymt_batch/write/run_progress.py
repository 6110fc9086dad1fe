"""How far the newest run of a job came, and what it allows: a small file in `.hymt`, read by `status` and the report.

A hint, never trusted over the parts: a run writes it a few times a minute and at its end, and a killed run leaves an
earlier one. Best effort: a failure to write it is ignored.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import replace, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.write import timeline
from hymt_batch.write.timeline import Interval

MAX_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a job as its newest run saw it."""

    max_error_rate: float  # check.max_error_rate of the run
    max_failed_files: int = 0  # check.max_failed_files of the run
    num_rows: int | None = None  # rows of the whole input; None if not yet known
    is_estimate: bool = False  # the number of rows is extrapolated from what was read
    share: float | None = None  # of what is decoded, by source tokens: 0 to 1; None if not yet known
    seconds_left: float | None = None  # None if not yet known
    at: str = ""  # when it was written, in UTC
    timeline: tuple[Interval, ...] = ()  # of all runs, as far as they recorded it

    @property
    def limits(self) -> tuple[float, int]:
        return self.max_error_rate, self.max_failed_files


def path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "progress.json"


def write(fs: Fs, folder: Path, progress: RunProgress) -> None:
    """Write the progress of a run. The caller holds the lease, if leases are enabled."""
    value = asdict(progress) | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    value["timeline"] = timeline.encode(progress.timeline)
    tmp = manifest.state_folder(folder) / f".tmp-progress.json-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError, ValueError):
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path(folder))


def read(fs: Fs, folder: Path) -> RunProgress | None:
    """Return the progress of the newest run; None if it is not recorded, or not as `write` records it."""
    with contextlib.suppress(manifest.StateDamagedError, OSError, KeyError, TypeError, ValueError):
        value = manifest.load(fs, path(folder), MAX_BYTES)
        num_rows, share, seconds_left = value["num_rows"], value["share"], value["seconds_left"]
        return RunProgress(
            max_error_rate=float(value["max_error_rate"]),
            max_failed_files=max(0, int(value.get("max_failed_files", 0))),
            num_rows=None if num_rows is None else max(0, int(num_rows)),
            is_estimate=bool(value["is_estimate"]),
            share=None if share is None else min(1.0, max(0.0, float(share))),
            seconds_left=None if seconds_left is None else max(0.0, float(seconds_left)),
            at=datetime.fromisoformat(value["at"]).isoformat(timespec="seconds"),
            timeline=timeline.decode(value.get("timeline")),
        )
    return None
