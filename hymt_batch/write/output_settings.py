"""Output settings of a job: they only shape files and flags, so they may change, even when the job is finished.

A change is recorded in `job.json`, with the earlier settings and file names, before any file is assembled again. So a
run that is killed meanwhile is continued by the next one. Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.fs import remove, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Input
from hymt_batch.write import file_record, identity_versions, manifest_only, passes
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.settings import WriteConfig

log = logging.getLogger(__name__)

MIN_LOGPROB = "check.flag.min_logprob"
REVIEW, WRAP_CUES = "write.review", "write.wrap_cues"


def settings_of(job: JobRecord) -> JsonDict:
    """Return the output settings of a job, by dotted key; of an early job, those that its identity has."""
    return job.output_settings or identity_versions.output_settings_in(job.identity)


def differences(job: JobRecord, requested: JobRecord) -> list[tuple[str, Any, Any]]:
    """Return how the output settings of a folder's job differ from the requested ones, in the form of `manifest.diff`.

    A setting that the folder's job did not record counts as the value under which its version behaved. One that is not
    known of its version is accepted.
    """
    recorded = identity_versions.with_added_output(settings_of(job))
    wanted = {key: value for key, value in settings_of(requested).items() if key in recorded}
    known = {key: value for key, value in recorded.items() if key in wanted}
    return manifest.diff(known, wanted)


def config_of_folder(config: WriteConfig, job: JobRecord) -> WriteConfig:
    """Return how the files of a job are written: one of a version without a list or a layout goes on without it."""
    recorded = job.output_settings
    return replace(
        config, review=config.review and REVIEW in recorded, wrap_cues=config.wrap_cues and WRAP_CUES in recorded
    )


def reason_against_change(fs: Fs, folder: Path, job: JobRecord, requested: JobRecord) -> str:
    """Return why the files of a job cannot be assembled again with the requested output settings; "" if they can."""
    if not job.output_settings:
        return "an earlier version of hymt-batch began this job, and it stored the rows as it wrote them"
    if manifest_only.has_no_state(fs, folder):
        has_files = stat_or_none(fs, folder / "manifest.json") is not None
        return "its rows were not kept (.hymt is missing)" if has_files else ""
    minimum = requested.output_settings.get(MIN_LOGPROB)
    recorded = identity_versions.with_added_output(job.output_settings)
    needs_logprobs = minimum is not None and minimum != recorded.get(MIN_LOGPROB)
    rows = CommittedRows.open(fs, folder, job.identity_sha256, job.layout)
    wanted = replace(with_paths_of(job, requested), output_settings=requested.output_settings)
    for job_pass in job.passes if needs_logprobs else ():
        pass_folder, identity_sha256 = passes.pass_folder(folder, job_pass.number), manifest.digest(job_pass.identity)
        if not CommittedRows.open(fs, pass_folder, identity_sha256, job.layout.of_pass).has_logprobs(passes.FILE_ID):
            return f"rows of pass {job_pass.number} have no log-probabilities: it ran with {MIN_LOGPROB}=null"
    for input, wanted_input in zip(job.inputs, wanted.inputs, strict=True):
        if needs_logprobs and not rows.has_logprobs(input.file_id):
            return (
                f"rows of {input.rel} have no log-probabilities: they were decoded with {MIN_LOGPROB}=null, or by an "
                "engine that gives none"
            )
        record = file_record.read_record(fs, folder, input, job.layout)
        if record is None or file_record.is_current(record, wanted, wanted_input):
            continue
        for shard in file_record.shard_table_of(record):
            if stat_or_none(fs, rows.records.path(input.file_id, shard.index)) is None:
                return (
                    f"rows of {input.rel} are missing: the job ran with write.keep_rows=false, or their record was "
                    "damaged and is in .hymt/quarantine"
                )
    return ""


def with_paths_of(job: JobRecord, requested: JobRecord) -> JobRecord:
    """Return the job with the output paths that its inputs have with the requested output settings."""
    paths = {input.rel: input.out_rel for input in requested.inputs}
    inputs = tuple(replace(input, out_rel=paths.get(input.rel, input.out_rel)) for input in job.inputs)
    return replace(job, inputs=inputs)


def change(fs: Fs, folder: Path, job: JobRecord, requested: JobRecord) -> JobRecord:
    """Give a job the requested output settings, durably; its files are then no longer current.

    The manifest is removed first, because it describes the files as they were.
    """
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    log.info(
        "output settings differ from those of the files: they are assembled again from the rows\n%s",
        manifest.format_diff(differences(job, requested)),
    )
    changed = with_paths_of(job, requested)
    changed = replace(
        changed,
        output_settings=requested.output_settings,
        replaced_settings=_append(job.replaced_settings, job.output_settings),
        replaced_paths=_replaced_paths(job, changed.inputs),
    )
    manifest.replace_job(fs, folder, changed)
    return changed


def _append(replaced: tuple[JsonDict, ...], settings: JsonDict) -> tuple[JsonDict, ...]:
    return replaced if settings in replaced else (*replaced, settings)


def _replaced_paths(job: JobRecord, inputs: tuple[Input, ...]) -> Mapping[str, tuple[str, ...]]:
    """Return file id -> the output paths that it has now or had, for every file that gets another one."""
    paths = {file_id: list(names) for file_id, names in job.replaced_paths.items()}
    for old, new in zip(job.inputs, inputs, strict=True):
        names = paths.setdefault(old.file_id, [])
        if old.out_rel != new.out_rel and old.out_rel not in names:
            names.append(old.out_rel)
    return {file_id: tuple(names) for file_id, names in paths.items() if names}
