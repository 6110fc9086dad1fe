"""The settings of a job, kept in its folder for `retry`: `.hymt/settings.json`. A hint: no other job reads it.

The settings of the launch stage are left out: they belong to one run.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest
from hymt_batch.fs import replace, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.run import stored_settings
from hymt_batch.write import shard_plan

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)


def _path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "settings.json"


def save(fs: Fs, folder: Path, job: TranslateJob) -> None:
    """Keep the settings of a job that is not complete. Best effort."""
    path = _path(folder)
    with contextlib.suppress(OSError, ValueError):
        settings = stored_settings.of_job(job)
        del settings["launch"]
        value = {"settings": settings}
        with contextlib.suppress(manifest.StateDamagedError):
            if manifest.load(fs, path) == value:
                return
        tmp = path.with_name(f".tmp-settings.json-{uuid.uuid4().hex}")
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path)


def read(fs: Fs, folder: Path) -> dict[str, Any] | None:
    """Return the settings of the job in a folder, nested as in its dataclasses; None if they were not kept."""
    with contextlib.suppress(manifest.StateDamagedError, KeyError, TypeError, ValueError):
        return dict(manifest.load(fs, _path(folder))["settings"])
    plan = shard_plan.read_if_any(fs, folder)
    return dict(plan.settings) if plan is not None else None
