"""What a pass of `retry` resolves: the settings of its rows, and its plan.

The settings are those of the job, but for those of the command line. Nothing here decodes or writes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from hymt_batch import manifest
from hymt_batch.check.settings import of_earlier_version
from hymt_batch.errors import IdentityError, PreflightError, UsageError
from hymt_batch.fs import OS_FS
from hymt_batch.manifest import JobPass, JobRecord, JsonDict
from hymt_batch.prompt import GenerationPrompt
from hymt_batch.run import error_advice, identity, kept_settings, stored_settings
from hymt_batch.run.plan import Plan
from hymt_batch.write import identity_versions
from hymt_batch.write.passes import PassRecord
from hymt_batch.write.row_selection import Criteria

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import ReproduceJob, RetryJob, TranslateJob

log = logging.getLogger(__name__)

OF_OUTPUTS = ("flag", "codes", "on_fail", "fail_kinds")
"""Settings of `check` that only shape the files of the whole job."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a pass, and those of the job that it is a pass of."""

    job: TranslateJob  # as it reads and writes its files
    of_pass: TranslateJob  # with what the command line changes
    given: frozenset[str]  # keys and groups of the command line

    def changes(self, stage: str) -> bool:
        """Return whether the command line has a setting of a stage."""
        return any(key.partition(".")[0] == stage for key in self.given)


def read_job(folder: Path) -> manifest.JobRecord:
    """Return the job of a folder.

    Raises:
        PreflightError: It has none that can be read.
    """
    try:
        return manifest.read_job(OS_FS.within(folder), folder)
    except manifest.StateDamagedError as damage:
        raise PreflightError(
            f"rows of {folder} cannot be decoded again",
            why=f".hymt/job.json: {damage}",
            fix="Run hymt-batch translate with the settings of the job, which rebuilds it.",
        ) from None


def criteria_of(job: RetryJob) -> Criteria:
    """Return by what the rows are selected; without statuses and flags, those that have no translation."""
    if job.statuses is None and job.flags is None:
        return Criteria(frozenset(status.value for status in error_advice.RETRIED), frozenset())
    return Criteria(frozenset(job.statuses or ()), frozenset(job.flags or ()))


def read_settings(job: RetryJob | ReproduceJob, words: Sequence[str], folder: Path, record: JobRecord) -> Settings:
    """Return the settings of a pass.

    Args:
        job: The settings of the command line.
        words: Its overrides, each KEY=VALUE.
        folder: The folder of the job.
        record: The job of the folder.

    Raises:
        UsageError: The folder does not have the settings of its job, or a setting is not of rows, but of the outputs.
        HymtError: Settings cannot be combined.
    """
    given = frozenset(word.partition("=")[0].strip() for word in words)
    names = tuple(f"check.{name}" for name in OF_OUTPUTS)
    if of_outputs := sorted(
        key for key in given if key in names or key.startswith(tuple(f"{name}." for name in names))
    ):
        raise UsageError(
            f"{of_outputs[0]} cannot be changed for some rows",
            why="it belongs to the outputs of the whole job",
            fix=f"Drop it, or run hymt-batch translate with the settings of the job and {of_outputs[0]}=: it writes "
            "the files again and decodes nothing.",
        )
    stored = kept_settings.read(OS_FS.within(folder), folder)
    if stored is None:
        raise UsageError(
            f"{folder} does not have the settings of its job",
            why="an earlier version of hymt-batch finished it",
            fix="Translate the rows again as a job of their own, under another name.",
        )
    stored = copy.deepcopy(stored)
    for key, value in identity_versions.with_today_names(record.output_settings).items():  # those of the files now
        _set(stored, key, value)
    stored |= {"name": folder.name, "output_dir": str(folder.parent), "launch": stored_settings.to_json(job.launch)}
    stored |= dict.fromkeys(("overwrite", "strict"), False) | {"on_mismatch": "refuse", "on_input_change": "refuse"}
    if job.inputs is not None:
        _set(stored, "source.path", job.inputs)
    return Settings(_load(stored), _load(_overridden(stored, job, given)), given)


def _overridden(stored: JsonDict, job: RetryJob | ReproduceJob, given: frozenset[str]) -> JsonDict:
    """Return settings with those of the command line in their place."""
    changed, values = copy.deepcopy(stored), stored_settings.to_json(job)
    hints = get_type_hints(type(job))
    stages = {field.name for field in fields(job) if is_dataclass(hints[field.name])}
    for key in sorted(given, key=lambda key: "." in key):  # a choice for a stage, then its settings
        stage, _, rest = key.partition(".")
        if stage in stages and not rest:
            changed[stage] = values[stage]
        elif stage in stages or key == "seed":
            value = values
            for name in key.split("."):
                value = value[name]
            _set(changed, key, value)
    # what only shapes files is that of the job
    for key in OF_OUTPUTS:
        changed["check"][key] = stored["check"][key]
    if not any(key.startswith(("check.stop_", "check=")) for key in given):
        # rows that failed before fail more often, and a row that fails again replaces nothing
        changed["check"]["stop_rate"] = 1.0
    return changed


def _set(values: JsonDict, key: str, value: Any) -> None:
    *stages, name = key.split(".")
    for stage in stages:
        values = values.setdefault(stage, {})
    values[name] = value


def _load(values: JsonDict) -> TranslateJob:
    from hymt_batch.schema import TranslateJob

    job: TranslateJob = stored_settings.from_json(TranslateJob, values)
    return job


def resolve_plan(settings: Settings, model: PreparedModel, job_identity: JsonDict) -> tuple[TranslateJob, Plan]:
    """Return settings and plan of a pass: with the values that the job resolved, where the command line has no other.

    Args:
        settings: The settings.
        model: The prepared model of the pass.
        job_identity: The identity of the job, perhaps of an earlier version.
    """
    job = settings.of_pass
    if not identity_versions.has_measures(job_identity):
        job = replace(job, check=replace(job.check, flag=of_earlier_version(job.check)))
    resolved = Plan.resolve(job, model)
    recorded = identity_versions.upgrade(job_identity, resolved.identity)
    limits = identity.part_limits_of(recorded)
    if not settings.changes("model") and job.prompt.add_generation_prompt is GenerationPrompt.auto:
        job = identity.with_generation_prompt(job, recorded["prompt"]["add_generation_prompt"])
    if not settings.changes("check"):
        job = identity.with_code_ladder(job, recorded["check"].get("code_ladder", []))
    if settings.changes("batch"):
        limits = replace(resolved.part_limits, plan=limits.plan)
    resolved = Plan.resolve(job, model)
    of_pass = identity.build_identity(job, model.identity, resolved.template, limits, model.placement.device.label)
    return job, replace(resolved, part_limits=limits, identity=of_pass)


def same_settings_note(job_identity: JsonDict, plan: Plan) -> str:
    """Return what to tell a user whose pass decodes as the job did; "" if it decodes differently."""
    if identity_versions.differences(job_identity, plan.identity):
        return ""
    return (
        "the rows are decoded again with the settings of the job: a row that failed because of its text fails again. "
        "To decode differently, add for example model=, decode=recommended, seed=1 or check=ladder"
    )


def is_same(existing: PassRecord | JobPass, plan: Plan, criteria: Criteria) -> bool:
    """Return whether the command line asks for an existing pass: by its selection, and by its identity."""
    is_selected_so = (frozenset(existing.statuses), frozenset(existing.flags)) == (criteria.statuses, criteria.flags)
    return is_selected_so and not identity_versions.differences(existing.identity, plan.identity)


def check_same(record: PassRecord, plan: Plan, criteria: Criteria) -> None:
    """Check that a pass that was stopped is the one that the command line asks for.

    Raises:
        IdentityError: It has rows selected by other statuses or flags, or other settings.
    """
    if is_same(record, plan, criteria):
        return
    differences = identity_versions.differences(record.identity, plan.identity)
    why = manifest.format_diff(differences) if differences else f"  its rows were selected by {record.selection}"
    raise IdentityError(
        f"pass {record.number} is not finished, and this command asks for another one:\n{why}",
        fix="Run the command of that pass again, or set overwrite=true to drop it.",
    )
