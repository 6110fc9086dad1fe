"""The identity of a job (the settings that decide its text and parts) and its environment (what affects rounding)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, fs, manifest, prompt
from hymt_batch.decode.settings import resolved_settings
from hymt_batch.prompt import GenerationPrompt
from hymt_batch.records import PLAN_VERSION
from hymt_batch.write import identity_versions

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


def build_identity(
    job: TranslateJob, model: Mapping[str, Any], template: prompt.PromptTemplate, part_limits: batch.PartLimits
) -> Any:
    """Return the resolved value of every setting that changes the text or the rows of a part."""
    return {
        "version": identity_versions.VERSION,
        "source": {
            key: getattr(job.source, key)
            for key in (
                "text_field",
                "src_lang_field",
                "tgt_lang_field",
                "limit",
                "max_row_bytes",
                "header",
                "delimiter",
                "escape",
            )
        },
        "segment": {
            "max_tokens": job.segment.max_tokens,
            "on_too_long": job.segment.on_too_long.value,
            "max_segments": job.segment.max_segments,
        },
        "prompt": {**template.identity, "add_generation_prompt": job.add_generation_prompt},
        "model": {**model, "max_context": job.model.max_context},
        "batch": asdict(part_limits),
        "decode": {**resolved_settings(job.decode, job.model.sampling), "seed": job.seed},
        "check": {
            "max_attempts": job.check.max_attempts,
            "loop_repeats": job.check.loop_repeats,
            "min_logprob": job.check.min_logprob,
            "retry": asdict(job.model.sampling) if job.check.max_attempts > 1 else None,
        },
        "write": {
            "format": job.write.format.value,
            "on_error": job.write.on_error.value,
            "translation_field": job.write.translation_field,
            "meta_field": job.write.meta_field,
            "row_group_rows": job.write.row_group_rows,
        },
    }


def build_environment(job: TranslateJob, resolved: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that may change a translation through rounding errors in low precision.

    Args:
        job: The job's settings.
        resolved: Values that the job resolved; they replace those of the settings.
    """
    settings = {
        "engine": job.decode.engine,
        "stages": job.decode.stages,
        "read_every": job.decode.read_every,
        "capture": job.decode.capture,
        "max_rows": job.batch.max_rows,
        "max_tokens": job.batch.max_tokens,
    }
    return {"hymt_batch": importlib.metadata.version("hymt-batch"), **settings, **(resolved or {})}


def auto_keys(job: TranslateJob) -> frozenset[str]:
    """Return the identity keys that are set to `auto`: resolved when the folder is created, then fixed."""
    auto = {
        "batch.part_rows": job.batch.part_rows == "auto",
        "batch.part_tokens": job.batch.part_tokens == "auto",
        "prompt.add_generation_prompt": job.prompt.add_generation_prompt is GenerationPrompt.auto,
    }
    return frozenset(key for key, is_auto in auto.items() if is_auto)


def alias_identities(
    job: TranslateJob, model: Mapping[str, Any], template: prompt.PromptTemplate, num_parameters: int
) -> list[Any]:
    """Return the identities that this job would have if `auto` had resolved differently when the job was created.

    Part sizes differ between CPU and GPU; earlier versions always added the generation prompt.
    """
    jobs = [job]
    if job.prompt.add_generation_prompt is GenerationPrompt.auto:
        jobs = [with_generation_prompt(job, added) for added in (True, False)]
    all_limits = [batch.resolve_part_limits(job.batch, num_parameters, on_gpu) for on_gpu in (False, True)]
    return [build_identity(alias, model, template, limits) for alias in jobs for limits in all_limits]


def with_generation_prompt(job: TranslateJob, add: bool) -> TranslateJob:
    """Return the job with `prompt.add_generation_prompt` set to `add`."""
    setting = GenerationPrompt.true if add else GenerationPrompt.false
    return replace(job, prompt=replace(job.prompt, add_generation_prompt=setting))


def part_limits_of(identity: Mapping[str, Any]) -> batch.PartLimits:
    """Return the part limits in an identity."""
    limits: Mapping[str, Any] = identity["batch"]
    return batch.PartLimits(**limits)


def stored_plan_version(folder: Path) -> int:
    """Return the plan version of the job in a folder; the newest version if no job can be read."""
    try:
        stored = manifest.read_job(fs.OS_FS, folder).identity
    except manifest.StateDamagedError:
        return PLAN_VERSION
    version = stored.get("batch", {}).get("plan", 1)
    return version if type(version) is int else PLAN_VERSION
