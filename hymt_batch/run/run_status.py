"""How a run is going, for other programs: `status.json` in the job's folder, a Prometheus textfile, and the hooks.

A hint for people and monitors, never read by a job. Best effort: what cannot be written is a warning, and changes
neither the job nor its exit code. `status` has more, computed from the files of the job.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest, sanitize
from hymt_batch.errors import EXIT_CODE_MEANINGS, ExitCode, LeaseError, Problem
from hymt_batch.fs import OS_FS, replace, write_new
from hymt_batch.records import count_error_rows
from hymt_batch.run import hooks, metrics
from hymt_batch.write import stop_reason
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.summary import Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

NAME = "status.json"
SCHEMA_VERSION = 1


class RunStatus:
    """Tells other programs how one run is going and how it ended; a context around the run."""

    def __init__(self, job: TranslateJob) -> None:
        self._launch = job.launch
        self._folder: Path | None = None  # of the job, while this run may write there
        self._is_other_runs = False  # another run works in the folder, and the metrics are its own
        self._code = ExitCode.COMPLETE
        self._warned: set[str] = set()
        self.values: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "name": job.name or "",
            "folder": os.path.abspath(os.path.join(job.output_dir, job.name)) if job.name else "",
            "state": "running",  # running, complete, stopped (run again to continue) or failed
            "exit_code": None,
            "meaning": "",  # of the exit code
            "error": None,  # what, why, fix and id of the error that ended the run
            "began": _now(),
            "updated": _now(),
            "ended": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "hymt_batch": _program_version(),
            "files_total": None,
            "files": 0,  # published
            "rows_total": None,
            "rows_total_estimated": False,
            "rows": 0,  # committed, in all runs
            "share": None,  # of what is decoded, 0 to 1
            "left_s": None,
            "counts": {},  # rows by status, of a complete job
            "error_rows": None,  # of a complete job
            "flags": {},  # rows by flag; of this run until the job is complete
            "failed_files": None,
            "skipped_files": None,
            "update": None,  # with on_input_change=update, of a complete job: files and rows; see UpdateCounts
            "rows_decoded": None,  # by this run, of a complete job
            "seconds": None,
        }

    def __enter__(self) -> RunStatus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._set_error(error)
        else:
            self._set_code(self._code)
        if not self._is_other_runs:
            self._write_metrics()
        command = self._launch.on_failure if self.values["exit_code"] else self._launch.on_success
        if command is not None:
            hooks.run(command, self._to_json(), self._launch.hook_timeout_s, int(self.values["exit_code"]))

    def end(self, code: ExitCode) -> None:
        """Set the exit code of a run that ends without an error."""
        self._code = code

    @contextlib.contextmanager
    def in_folder(self, folder: Path, *, was_complete: bool) -> Iterator[None]:
        """Write `status.json` at the beginning and the end of the block, in which this run holds the folder.

        Args:
            folder: The job's folder.
            was_complete: Nothing was left to do when the run began: the folder is not touched, unless an earlier run
                was killed after its last part and its `status.json` says so.
        """
        self.values["name"], self.values["folder"] = folder.name, os.path.abspath(folder)
        self._folder = None if was_complete and not _is_unfinished(folder / NAME) else folder
        self._write()
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self._set_error(error)
            self._write()
            raise
        else:
            self._write()
        finally:
            self._folder = None

    def update(self, progress: RunProgress, *, rows: int, files: int, files_total: int, flags: dict[str, int]) -> None:
        """Write how far the run came."""
        self.values |= {
            "rows": rows,
            "rows_total": progress.num_rows,
            "rows_total_estimated": progress.is_estimate,
            "share": progress.share,
            "left_s": progress.seconds_left,
            "files": files,
            "files_total": files_total,
            "flags": flags,
        }
        self._write()

    def complete(self, summary: Summary, code: ExitCode) -> None:
        """Set the totals of a complete job, and its exit code so far."""
        self.values |= {
            "rows": summary.texts,
            "rows_total": summary.texts,
            "rows_total_estimated": False,
            "share": 1.0,
            "left_s": 0.0,
            "files": summary.files,
            "files_total": summary.files,
            "counts": dict(summary.counts),
            "error_rows": count_error_rows(summary.counts),
            "flags": dict(summary.flags),
            "failed_files": len(summary.failed),
            "skipped_files": len(summary.skipped),
            "update": None if summary.update is None else asdict(summary.update),
            "rows_decoded": summary.num_rows_decoded,
            "seconds": round(summary.seconds, 3),
        }
        self._set_code(code)

    def stop(self, why: str) -> None:
        """Write that the process ends at once."""
        self._set(ExitCode.STOPPED, "stopped", Problem(what=why or "stopped at once"))
        self._write()

    def _set_error(self, error: BaseException) -> None:
        code, problem = stop_reason.describe(error)
        self._is_other_runs = isinstance(error, LeaseError)
        self._set(code, "stopped" if code is ExitCode.STOPPED else "failed", problem)

    def _set_code(self, code: ExitCode) -> None:
        self._set(code, "complete", None)

    def _set(self, code: ExitCode, state: str, problem: Problem | None) -> None:
        error = None
        if problem is not None:
            error = {key: sanitize.sanitize_text(text) for key, text in asdict(problem).items()}
        meaning = EXIT_CODE_MEANINGS[code]
        self.values |= {"exit_code": int(code), "state": state, "meaning": meaning, "error": error, "ended": _now()}

    def _write(self) -> None:
        """Write `status.json` and the metrics, while the run may write in the folder."""
        self.values["updated"] = _now()
        if self._folder is None:
            return
        tmp = manifest.state_folder(self._folder) / f".tmp-{NAME}-{uuid.uuid4().hex}"
        fs = OS_FS.within(self._folder)
        with self._warn_once(self._folder / NAME):
            write_new(fs, tmp, self._to_json())
            replace(fs, tmp, self._folder / NAME)
        self._write_metrics()

    def _write_metrics(self) -> None:
        if self._launch.metrics_file is not None:
            path = metrics.file_path(self._launch.metrics_file, self.values["folder"])
            with self._warn_once(path):
                metrics.write(path, self.values)

    @contextlib.contextmanager
    def _warn_once(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if str(path) not in self._warned:
                self._warned.add(str(path))
                log.warning("cannot write %s: %s", path, getattr(error, "strerror", None) or error)

    def _to_json(self) -> bytes:
        text = json.dumps(self.values, ensure_ascii=False, indent=1)
        return text.encode("utf-8", "backslashreplace") + b"\n"


def in_folder(status: RunStatus | None, folder: Path, *, was_complete: bool) -> AbstractContextManager[None]:
    """Return the context of a run that holds its folder; without a status, it does nothing."""
    return contextlib.nullcontext() if status is None else status.in_folder(folder, was_complete=was_complete)


def _is_unfinished(path: Path) -> bool:
    """Return whether a `status.json` is there and does not say that the job is complete."""
    try:
        return bool(json.loads(path.read_bytes())["state"] != "complete")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _program_version() -> str:
    try:
        return version("hymt-batch")
    except PackageNotFoundError:
        return ""
