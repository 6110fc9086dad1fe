"""The settings of a job and the commits that ran it, kept in its folder: `.hymt/settings.json`. A hint.

The settings are for `retry` and `reproduce`, without those of the launch stage, which belong to one run. The commits
are for the data card. They are no part of the environment of rows: git may fail in one run and not in the next.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import code_state, manifest
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
    """Keep the settings of a job that is not complete, and the commit that runs. Best effort."""
    path = _path(folder)
    with contextlib.suppress(OSError, ValueError):
        settings = stored_settings.of_job(job)
        del settings["launch"]
        earlier: dict[str, Any] = {}
        with contextlib.suppress(manifest.StateDamagedError):
            earlier = manifest.load(fs, path)
        commits = dict.fromkeys([*earlier.get("commits", ()), *filter(None, [code_state.commit()])])
        value = {"settings": settings, "commits": list(commits)}
        if earlier == value:
            return
        tmp = path.with_name(f".tmp-settings.json-{uuid.uuid4().hex}")
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path)


def read_commits(fs: Fs, folder: Path) -> list[str]:
    """Return the commits of hymt-batch that ran the job in a folder, the first one first; see `code_state.commit`."""
    with contextlib.suppress(manifest.StateDamagedError, TypeError):
        return [str(commit) for commit in manifest.load(fs, _path(folder)).get("commits", ())]
    return []


def read(fs: Fs, folder: Path) -> dict[str, Any] | None:
    """Return the settings of the job in a folder, nested as in its dataclasses; None if they were not kept."""
    with contextlib.suppress(manifest.StateDamagedError, KeyError, TypeError, ValueError):
        return dict(manifest.load(fs, _path(folder))["settings"])
    plan = shard_plan.read_if_any(fs, folder)
    return dict(plan.settings) if plan is not None else None
