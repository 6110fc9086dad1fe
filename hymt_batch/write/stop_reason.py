"""Why the last run of a job stopped: a small file in `.hymt`, read by `status`, removed when a run starts or succeeds.

Best effort: a killed run does not write it, and a failure to write it is ignored.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import manifest, sanitize
from hymt_batch.errors import ExitCode, HymtError, Problem, first_line, wrap_exception
from hymt_batch.fs import remove, replace, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs

MAX_CHARACTERS = 500
MAX_BYTES = 1 << 14
PROBLEM_FIELDS = tuple(field.name for field in fields(Problem))


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a run ended without completing its job."""

    exit_code: int
    why: str  # one printable line
    at: str  # UTC
    error: Problem | None  # the fields of the error; None in a folder of an earlier version


def path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "stopped.json"


def describe(error: BaseException) -> tuple[ExitCode, Problem]:
    """Return the exit code and the fields of an error."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED, Problem(what="Ctrl-C")
    error_of_ours = error if isinstance(error, HymtError) else wrap_exception(error)
    if error_of_ours is not None:
        return error_of_ours.exit_code, error_of_ours.problem
    return ExitCode.BUG, Problem(what=f"{type(error).__name__}: {first_line(error)}")


def write(fs: Fs, folder: Path, code: ExitCode, problem: Problem) -> None:
    """Write why a run stopped. The caller holds the lease, if leases are enabled."""
    text = problem.text if problem.fix or problem.id else problem.statement
    value = {
        "exit_code": int(code),
        "why": _printable_line(next(iter(text.strip().splitlines()), "")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "error": {name: _printable_line(field) for name, field in asdict(problem).items()},
    }
    tmp = manifest.state_folder(folder) / f".tmp-stopped.json-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError, UnicodeError):
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path(folder))


def read(fs: Fs, folder: Path) -> StopReason | None:
    """Return why the last run stopped; None if that is not recorded."""
    with contextlib.suppress(manifest.StateDamagedError, OSError, KeyError, TypeError, ValueError):
        value = manifest.load(fs, path(folder), MAX_BYTES)
        error = value.get("error")
        problem = Problem(**{name: _printable_line(error[name]) for name in PROBLEM_FIELDS}) if error else None
        return StopReason(
            int(value["exit_code"]), _printable_line(value["why"]), _printable_line(value["at"])[:40], problem
        )
    return None


def _printable_line(text: object) -> str:
    line = sanitize.sanitize_text(" ".join(str(text).split()))
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"


def clear(fs: Fs, folder: Path) -> None:
    """Remove the file; call it when a run starts or the job is complete."""
    with contextlib.suppress(OSError):
        if stat_or_none(fs, path(folder)) is not None:
            remove(fs, path(folder))
