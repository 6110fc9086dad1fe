"""Why the last run of a job stopped: a small file in `.hymt`, read by `status`, removed when a run starts or succeeds.

Best effort: a killed run does not write it, and a failure to write it is ignored.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import manifest, sanitize
from hymt_batch.errors import ExitCode, HymtError, first_line, wrap_exception
from hymt_batch.fs import remove, replace, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs

MAX_CHARACTERS = 500
MAX_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a run ended without completing its job."""

    exit_code: int
    why: str  # one printable line
    at: str  # UTC


def path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "stopped.json"


def describe(error: BaseException) -> tuple[ExitCode, str]:
    """Return the exit code of an error and the first line of its message."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED, "Ctrl-C"
    error_of_ours = error if isinstance(error, HymtError) else wrap_exception(error)
    if error_of_ours is not None:
        return error_of_ours.exit_code, first_line(error_of_ours)
    return ExitCode.BUG, f"{type(error).__name__}: {first_line(error)}"


def write(fs: Fs, folder: Path, code: ExitCode, reason: str) -> None:
    """Write why a run stopped. The caller holds the lease, if leases are enabled."""
    line = sanitize.sanitize_text(" ".join(reason.split()))
    line = line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"
    value = {"exit_code": int(code), "why": line, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    tmp = manifest.state_folder(folder) / f".tmp-stopped.json-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError, UnicodeError):
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path(folder))


def read(fs: Fs, folder: Path) -> StopReason | None:
    """Return why the last run stopped; None if that is not recorded."""
    with contextlib.suppress(manifest.StateDamagedError, OSError, KeyError, TypeError, ValueError):
        value = manifest.load(fs, path(folder), MAX_BYTES)
        line = sanitize.sanitize_text(" ".join(str(value["why"]).split()))[:MAX_CHARACTERS]
        return StopReason(int(value["exit_code"]), line, sanitize.sanitize_text(str(value["at"]))[:40])
    return None


def clear(fs: Fs, folder: Path) -> None:
    """Remove the file; call it when a run starts or the job is complete."""
    with contextlib.suppress(OSError):
        if stat_or_none(fs, path(folder)) is not None:
            remove(fs, path(folder))
