"""Check settings that depend on one another across stages; config.load calls it.

Reads settings only; opens no file and no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hymt_batch import languages
from hymt_batch.cli import job_name
from hymt_batch.decode import registry as engines
from hymt_batch.decode.registry import Draws
from hymt_batch.decode.settings import Method
from hymt_batch.device_map.settings import Strategy
from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.source.settings import SourceFormat

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob, PlanJob, TranslateJob


LANGUAGE_KEYS = ("src_lang", "tgt_lang")
"""Settings that hold a language."""

PROMPT_OVERHEAD_TOKENS = 64
"""Tokens reserved for the instruction and the chat format around a segment."""


def validate_job(job: TranslateJob | PlanJob | DoctorJob) -> list[str]:
    """Check settings across stages, and set the job's default name and the codes of its languages.

    Returns:
        Notes for the user: how the languages were understood, where they are not written as their codes.

    Raises:
        ConfigError: Settings cannot be combined.
    """
    source, write = job.source, job.write
    notes = _set_languages(job)
    if not job.output_dir:
        raise ConfigError("output_dir is empty", fix="Set output_dir=outputs (the default).")
    _check_sampling(job)
    job.prompt.check_model(job.model.family.value, refines=job.model.refines)
    _check_loops(job)
    _check_shared_layers(job)
    # the texts of the prompt, and the translation
    max_tokens = (job.model.max_context - PROMPT_OVERHEAD_TOKENS) // (job.prompt.num_texts + 1)
    if max_tokens < 16:
        raise ConfigError(
            f"model.max_context={job.model.max_context} is too small for a prompt", fix="Set model.max_context=8192."
        )
    if job.segment.max_tokens > max_tokens:
        raise ConfigError(
            f"segment.max_tokens={job.segment.max_tokens} leaves too little room in "
            f"model.max_context={job.model.max_context} for a translation of that length",
            fix=f"Set segment.max_tokens={max_tokens} or less.",
        )
    has_fields = source.format is SourceFormat.auto or registry.get(source.format.value).has_fields
    source_fields: list[tuple[str, str | None]] = [("text_field", name) for name in source.text_fields]
    source_fields += [("src_lang_field", source.src_lang_field), ("tgt_lang_field", source.tgt_lang_field)]
    if has_fields and source.src_lang_field is not None and source.src_lang_field == source.tgt_lang_field:
        raise ConfigError(
            f"source.src_lang_field and source.tgt_lang_field are both {source.tgt_lang_field}",
            why="so every row would be translated into the language that it has",
            fix="Set each to the field with that language of the rows, or to null.",
        )
    for key in ("translation_field", "meta_field"):
        for source_key, field in source_fields:
            if has_fields and getattr(write, key) == field:
                raise ConfigError(
                    f"write.{key} and source.{source_key} are both {field}",
                    why="the output keeps the input's fields, so one would overwrite the other",
                    fix=f"Set write.{key}={field}_{job.tgt_lang}.",
                )
    if write.names_source_language and job.src_lang is None:
        raise ConfigError(
            f"write.name={write.name} names the source language, which is not set",
            fix="Set src_lang=en, or drop {src}.",
        )
    _check_update(job)
    _check_task(job)
    if job.name is None and source.path is not None:
        job.name = job_name.default(source.path)
    if job.name is not None:
        job_name.check(job.name, job.output_dir)
    return notes


def _check_loops(job: TranslateJob | PlanJob | DoctorJob) -> None:
    repeats, retried = job.check.flag.loop_repeats, job.check.retry.loop_repeats
    if repeats < 3 and repeats < retried:
        raise ConfigError(
            f"check.flag.loop_repeats={repeats} is below 3, and check.retry.loop_repeats={retried} is not",
            why="so rows are measured for loops from 3 repetitions on",
            fix=f"Set check.retry.loop_repeats={repeats} too, or check.flag.loop_repeats=3.",
        )


def _check_update(job: TranslateJob | PlanJob | DoctorJob) -> None:
    """Refuse an update without rows, and a job that takes another identity without being updated."""
    if job.on_input_change.value == "update" and not job.write.keep_rows:
        raise ConfigError(
            "on_input_change=update does not go with write.keep_rows=false",
            why="it takes the rows that did not change from those that were kept",
            fix="Drop write.keep_rows=false, or set on_input_change=redo to translate changed files as a whole.",
        )
    if job.on_mismatch.value == "keep" and job.on_input_change.value != "update":
        raise ConfigError(
            f"on_mismatch=keep does not go with on_input_change={job.on_input_change.value}",
            why="only an update takes the rows that are translated over into a job with other settings",
            fix="Add on_input_change=update, or set on_mismatch=fork for a second folder.",
        )


def _check_sampling(job: TranslateJob | PlanJob | DoctorJob) -> None:
    """Refuse what has no effect without sampling, and what would sample with an engine that cannot.

    For such an engine, `auto` is the code ladder without its step that samples.
    """
    decode, engine, check = job.decode, job.decode.engine, job.check
    if decode.method is Method.greedy:
        for key in ("temperature", "top_p", "top_k"):
            if (value := getattr(decode, key)) is not None:
                raise ConfigError(
                    f"decode.{key}={value} has no effect with decode.method=greedy",
                    fix=f"Add decode=recommended to sample, or set decode.{key}=null.",
                )
    _check_temperatures(job)
    if decode.draws is not Draws.none:
        return
    if check.retry.max_attempts > 1:
        raise ConfigError(
            f"check.retry.max_attempts={check.retry.max_attempts} samples, which decode.engine={engine} cannot",
            fix="Set check.retry.max_attempts=1, or decode.engine=auto.",
        )
    steps = [step for step in check.code_steps if step != "retry"]
    if check.code_ladder == "auto":
        check.code_ladder = steps
    elif len(steps) < len(check.code_steps):
        raise ConfigError(
            f"the step retry of check.code_ladder samples, which decode.engine={engine} cannot",
            fix=f"Set check.code_ladder=[{','.join(steps)}], or decode.engine=auto.",
        )


def _check_temperatures(job: TranslateJob | PlanJob | DoctorJob) -> None:
    """Refuse a temperature that the engine would refuse, or change, in the middle of the job."""
    smallest, largest = engines.temperatures_of(job.decode.engine)
    keys = {"decode.temperature": job.decode.temperature, "model.sampling.temperature": job.model.sampling.temperature}
    for key, value in keys.items():
        if value is not None and not smallest <= value <= largest:
            raise ConfigError(
                f"{key}={value} is not from {smallest:g} to {largest:g}",
                why=f"decode.engine={job.decode.engine} samples with no other temperature",
                fix=f"Set {key}={min(max(value, smallest), largest):g}, or decode.engine=auto.",
            )


def _check_task(job: TranslateJob | PlanJob | DoctorJob) -> None:
    """Refuse for a task of a prepared job what only one process can do for the whole job."""
    shard = getattr(job, "shard", None)
    if shard is None or not shard.is_task:
        return
    if job.source.path == "-":
        raise _not_for_a_task("source.path=-", shard.index, "Prepare the job from a file, and set source.path=FILE.")
    decided_before = {
        "overwrite": (str(job.overwrite).lower(), "false"),
        "on_mismatch": (job.on_mismatch.value, "refuse"),
        "on_input_change": (job.on_input_change.value, "refuse"),
    }
    for name, (value, of_a_task) in decided_before.items():  # perhaps by a preset
        if value != of_a_task:
            fix = f"Set {name}={of_a_task} for the tasks; {name}={value} is for hymt-batch prepare."
            raise _not_for_a_task(f"{name}={value}", shard.index, fix)


def _not_for_a_task(setting: str, index: object, fix: str) -> ConfigError:
    return ConfigError(
        f"{setting} does not go with shard.index={index}",
        why="a task translates some shards of a job that is prepared already",
        fix=fix,
    )


def _set_languages(job: TranslateJob | PlanJob | DoctorJob) -> list[str]:
    """Replace the languages of a job by their codes, and return how they were understood."""
    notes = []
    for key in LANGUAGE_KEYS:
        text = getattr(job, key)
        if text is None:
            continue
        try:
            reading = languages.understand(text, key)
        except ConfigError:
            if "," in text:
                raise ConfigError(
                    f"{key}={text} lists several languages", fix="Add -m to run one job for each."
                ) from None
            raise
        setattr(job, key, reading.language.code)
        notes += [reading.note] if reading.note else []
    if job.tgt_lang is not None and job.src_lang == job.tgt_lang and not any(job.source.lang_fields):
        raise ConfigError(
            f"src_lang and tgt_lang are both {job.tgt_lang}", fix="Set tgt_lang to the language to translate into."
        )
    return notes


def _check_shared_layers(job: TranslateJob | PlanJob | DoctorJob) -> None:
    """Refuse limits of single GPUs that an engine which gives all GPUs the same cannot keep."""
    device_map = job.device_map
    strategies = {device_map.strategy, *(device_map.order or ())}
    if not engines.shares_layers(job.decode.engine) or not strategies & {Strategy.auto, Strategy.balanced}:
        return
    limits = {name: limit for name, limit in (device_map.max_memory or {}).items() if name.startswith("cuda")}
    if len(set(limits.values())) > 1:
        raise ConfigError(
            f"device_map.max_memory gives GPUs different limits, and decode.engine={job.decode.engine} puts the same "
            "on each with device_map=auto and balanced",
            fix="Give all GPUs the same limit, or set device_map=sequential.",
        )
