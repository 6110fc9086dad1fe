"""The Prometheus textfile of a run, for the textfile collector of node_exporter. Independent of how a job runs.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

LAST_SUCCESS = "hymt_batch_last_success_timestamp_seconds"
MODE = 0o644  # the collector runs as another user
MAX_BYTES = 1 << 20


def file_path(setting: str, folder: str) -> Path:
    """Return the file that launch.metrics_file names; in a folder, the file of the job whose folder is given."""
    path = Path(os.path.expanduser(setting))
    if not path.is_dir():
        return path
    return path / f"hymt-batch-{'-'.join(Path(folder).parts[-2:])}.prom"


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write the metrics of a run: aside, then renamed, so that a reader never sees half of them.

    Args:
        path: The file; it keeps the time of the last success that it had, until there is a later one.
        values: See RunStatus.values.

    Raises:
        OSError: It cannot be written.
    """
    text = "".join(f"{line}\n" for line in _lines(values, _last_success(path, values)))
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the collector reads *.prom only
    try:
        with open(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, MODE), "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
        os.replace(tmp, path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise


def _last_success(path: Path, values: Mapping[str, Any]) -> float | None:
    if values["exit_code"] == 0:
        return _seconds(values["ended"])
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            earlier = re.search(rf"^{LAST_SUCCESS}\{{.*\}} ([0-9.]+)$", file.read(MAX_BYTES), re.MULTILINE)
    except OSError:
        return None
    return float(earlier[1]) if earlier else None


def _lines(values: Mapping[str, Any], last_success: float | None) -> Iterator[str]:
    labels = {"name": values["name"], "folder": values["folder"]}
    counts, flags = values["counts"], values["flags"]
    gauges: list[tuple[str, str, list[tuple[dict[str, str], float | None]]]] = [
        ("running", "1 while a run works", [({}, float(values["exit_code"] is None))]),
        ("exit_code", "exit code of the last run", [({}, values["exit_code"])]),
        ("run_start_timestamp_seconds", "when the last run began", [({}, _seconds(values["began"]))]),
        ("run_end_timestamp_seconds", "when the last run ended", [({}, _seconds(values["ended"]))]),
        (LAST_SUCCESS.removeprefix("hymt_batch_"), "when a run last ended with 0", [({}, last_success)]),
        ("files", "published files", [({}, values["files"])]),
        ("rows", "committed rows", [({}, values["rows"])]),
        ("rows_expected", "rows of the whole input, estimated until all is read", [({}, values["rows_total"])]),
        ("progress_ratio", "share of the work that is done", [({}, values["share"])]),
        ("left_seconds", "estimated time left", [({}, values["left_s"])]),
        ("error_rows", "rows without a translation, of a complete job", [({}, values["error_rows"])]),
        ("rows_by_status", "rows of a complete job", [({"status": key}, num) for key, num in counts.items()]),
        ("rows_by_flag", "rows with a flag", [({"flag": key}, num) for key, num in flags.items()]),
    ]
    for name, about, samples in gauges:
        known = [(more, value) for more, value in samples if value is not None]
        if known:
            yield f"# HELP hymt_batch_{name} {about}"
            yield f"# TYPE hymt_batch_{name} gauge"
        for more, value in known:
            shown = ",".join(f'{key}="{_escape(text)}"' for key, text in {**labels, **more}.items())
            yield (
                f"hymt_batch_{name}{{{shown}}} {value:.10g}"
                if value < 1e9
                else (f"hymt_batch_{name}{{{shown}}} {value:.0f}")
            )


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _seconds(at: str | None) -> float | None:
    return None if at is None else datetime.fromisoformat(at).timestamp()
