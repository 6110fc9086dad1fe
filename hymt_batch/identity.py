"""What decides the text of a job, and which rows form a part; and what may change it by rounding."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, fs, manifest, prompt
from hymt_batch.decode.settings import describe

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


def identity(job: TranslateJob, model: Mapping[str, Any], words: prompt.Wording, limits: batch.Boundaries) -> Any:
    """Every setting that changes the text, or which rows form a part, with its resolved value."""
    return {
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
            )
        },
        "segment": {
            "max_tokens": job.segment.max_tokens,
            "on_too_long": job.segment.on_too_long.value,
            "max_segments": job.segment.max_segments,
        },
        "prompt": {**words.identity, "add_generation_prompt": job.prompt.add_generation_prompt},
        "model": {**model, "max_context": job.model.max_context},
        "batch": asdict(limits),
        "decode": {**describe(job.decode, job.model.sampling), "seed": job.seed},
        "check": {
            "max_attempts": job.check.max_attempts,
            "loop_repeats": job.check.loop_repeats,
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


def environment(job: TranslateJob, settled: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What of the settings may change a low-precision text by rounding: as asked for, or as it was settled."""
    asked = {
        "engine": job.decode.engine.value,
        "stages": job.decode.stages,
        "read_every": job.decode.read_every,
        "capture": job.decode.capture,
        "max_rows": job.batch.max_rows,
        "max_tokens": job.batch.max_tokens,
    }
    return {"hymt_batch": importlib.metadata.version("hymt-batch"), **asked, **(settled or {})}


def stored_boundaries(folder: Path, wanted: Mapping[str, Any]) -> Mapping[str, int] | None:
    """Which rows form a part in the folder's job, if that is this very job; None otherwise."""
    try:
        stored = manifest.read_job(fs.OS, folder).identity
    except manifest.StateDamage:
        return None  # no job yet, or a damaged one: Output.open says which
    if any(key != "batch" and stored.get(key) != manifest.plain(value) for key, value in wanted.items()):
        return None
    return {key: int(stored["batch"].get(key, 1)) for key in ("part_rows", "part_tokens", "plan")}
