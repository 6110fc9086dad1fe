"""What the folder of a job shows of its runs: when each ran, its last line, its tasks, and what was set aside.

Best effort: what cannot be read is left out. Log lines are shown, never interpreted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import HymtError
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.run.log_file import LOG_NAME

MAX_RUNS = 12  # that the report lists, the newest ones
MAX_TASKS = 60
MAX_LOGS = 5000  # that are looked at
TAIL_BYTES = 4096
LINE = re.compile(r"(\S+Z) ([A-Z]+) (\S+) (.*)")
"""A line of a log file: time, level, module, message."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the job, by its log file."""

    start: float  # seconds since 1970
    end: float
    num_warnings: int | None
    last: str  # message of its last line
    log: str  # path within the folder


@dataclass(frozen=True, slots=True)
class History:
    """All runs, and what is left of them."""

    num_runs: int
    runs: list[Run]  # the newest ones, in order
    num_tasks: int
    tasks: list[Run]  # of a prepared job: some of its tasks, by start
    command: str  # of the newest run
    num_quarantined: int  # parts and row records that could not be used
    num_set_aside: int  # files of translated/ that somebody changed


def read(fs: Fs, folder: Path, now: float | None = None) -> History:
    """Read the history of a folder; `now` is the time in seconds since 1970 if its newest run is about to end well."""
    names = _log_names(fs, folder / "logs")
    runs = [run for name in names[-MAX_RUNS:] if (run := _read_run(fs, folder, f"logs/{name}"))]
    if runs and now is not None:
        runs[-1] = replace(runs[-1], end=max(now, runs[-1].start), last="complete; it wrote this report")
    task_logs = list(_task_logs(fs, folder))
    step = -(-len(task_logs) // MAX_TASKS) or 1
    tasks = [run for name in task_logs[::step] if (run := _read_run(fs, folder, name))]
    state = manifest.state_folder(folder)
    return History(
        num_runs=len(names),
        runs=runs,
        num_tasks=len(task_logs),
        tasks=sorted(tasks, key=lambda run: run.start),
        command=_command(fs, folder / "logs" / names[-1]) if names else "",
        num_quarantined=sum(not name.endswith(".reason") for name in _names(fs, state / "quarantine")),
        num_set_aside=len(_names(fs, folder / "set_aside")),
    )


def _names(fs: Fs, path: Path) -> list[str]:
    with contextlib.suppress(OSError, HymtError):
        return list_names(fs, path)
    return []


def _log_names(fs: Fs, path: Path) -> list[str]:
    return [name for name in _names(fs, path) if LOG_NAME.fullmatch(name)][-MAX_LOGS:]


def _task_logs(fs: Fs, folder: Path) -> Iterator[str]:
    for name in _names(fs, folder / "logs"):
        if re.fullmatch(r"shards-\d+-\d+", name):
            yield from (f"logs/{name}/{log}" for log in _log_names(fs, folder / "logs" / name))


def _read_run(fs: Fs, folder: Path, name: str) -> Run | None:
    path = folder / name
    with contextlib.suppress(OSError, HymtError, ValueError):
        stat = stat_or_none(fs, path)
        if stat is None:
            return None
        start = datetime.strptime(path.name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        tail = fs.read(path, max(0, stat.size - TAIL_BYTES), TAIL_BYTES).decode("utf-8", "replace")
        lines = [found for line in tail.splitlines() if (found := LINE.fullmatch(line))]
        num_warnings = None
        if stat.size <= 1 << 22:
            num_warnings = len(re.findall(rb"^\S+Z (?:WARNING|ERROR) ", fs.read(path), re.MULTILINE))
        last = lines[-1][4] if lines else ""
        return Run(start, max(start, stat.mtime_ns / 1e9), num_warnings, last, name)
    return None


def _command(fs: Fs, path: Path) -> str:
    """Return the arguments of a run, which its log has among the first lines."""
    with contextlib.suppress(OSError, HymtError):
        head = fs.read(path, 0, 1 << 16).decode("utf-8", "replace")
        for line in head.splitlines():
            if (found := LINE.fullmatch(line)) and found[4].startswith("arguments="):
                return f"hymt-batch {found[4].removeprefix('arguments=')}"
    return ""
