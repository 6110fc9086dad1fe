"""Let a finished job go on with another identity, such as a new version of the model: `on_mismatch=keep`.

What is translated stays: every file is made anew from its closed generation, so rows of which the same is sent are not
decoded, and each row says under which identity it was decoded. Only new and changed rows, and those of which another
text is sent, are decoded with the new settings.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.write import identity_versions, manifest_only

log = logging.getLogger(__name__)


def reason_against(fs: Fs, folder: Path, job: JobRecord) -> str:
    """Return why the job of a folder cannot go on with another identity; "" if it can."""
    if stat_or_none(fs, folder / "manifest.json") is None:
        return "it is not finished; finish it with its own settings first"
    if manifest_only.has_no_state(fs, folder):
        return "its rows were not kept (.hymt is missing)"
    if identity_versions.has_output_settings(job.identity):
        return "an early version of hymt-batch began it"
    return ""


def adopt(job: JobRecord, requested: JobRecord, auto_keys: Collection[str]) -> JobRecord:
    """Return the job with the identity of another one, and its own earlier identity in the list of earlier ones.

    Args:
        job: The job of the folder.
        requested: The job of this run.
        auto_keys: Keys of the identity whose values stay, because they were fixed when the folder was created.
    """
    stored = identity_versions.upgrade(job.identity, requested.identity)
    identity = copy.deepcopy(requested.identity)
    for key in (*auto_keys, "batch.plan"):
        identity_versions.copy_value(stored, identity, key)
    differences = identity_versions.differences(job.identity, requested.identity, auto_keys)
    log.warning(
        "on_mismatch=keep: from now on this job is decoded with other settings, and what is translated stays:\n%s",
        manifest.format_diff(differences),
    )
    return replace(job, identity=identity, environment=requested.environment, earlier=(*job.earlier, job.identity))


def is_earlier(job: JobRecord, identity_sha256: str) -> bool:
    """Return whether a job had an identity before it went on with another one."""
    return identity_sha256 in map(manifest.digest, job.earlier)
