"""Plan the parts of a shard from its lengths and the settings.

Rows are sorted by length within a shard, longest first, so that an out-of-memory error comes early. Equal texts are
decoded once. A part never depends on where a run was resumed, on the device or on the token budget: how a part is
decoded in batches is the engine's business (`decode/batches.py`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN_VERSION, Document, Part, Prompt, Rejection, Shard
from hymt_batch.setting import Environment, Identity


@dataclass(kw_only=True, slots=True)
class BatchConfig:
    """Settings for grouping rows; conf/batch/ explains every field."""

    shard_rows: Identity[int] = 32768
    shard_bytes: Identity[int] = 64 << 20
    part_rows: Identity[Any] = "auto"
    part_tokens: Identity[Any] = "auto"
    max_tokens: Environment[Any] = "auto"
    max_rows: Environment[Any] = "auto"

    def __post_init__(self) -> None:
        for key in ("shard_rows", "shard_bytes", "part_rows", "part_tokens", "max_tokens", "max_rows"):
            value = getattr(self, key)
            if value == "auto" and not key.startswith("shard"):
                continue
            if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,15}", str(value)) or int(value) < 1:
                auto = "" if key.startswith("shard") else f", or batch.{key}=auto"
                raise ConfigError(f"batch.{key}={value} is not a positive whole number. Set one{auto}.")
            setattr(self, key, int(value))


@dataclass(frozen=True, slots=True)
class PartLimits:
    """The limits that decide which rows form a part; they belong to the job's identity."""

    shard_rows: int
    shard_bytes: int
    part_rows: int
    part_tokens: int  # source tokens
    plan: int = PLAN_VERSION  # version of the plan; see records.PLAN_VERSION


def resolve_part_limits(config: BatchConfig, num_parameters: int, on_gpu: bool) -> PartLimits:
    """Resolve `auto` part sizes of a new job to about 20 s of work on the device.

    The estimate: a CPU does about 4e10 and a GPU about 4e13 useful operations per second on this work, with two
    operations per parameter and token. The rate is at most 2,000 tokens/s on a CPU and 8,000 on a GPU, because other
    costs dominate beyond that.

    Args:
        config: The settings.
        num_parameters: Number of parameters of the model.
        on_gpu: True if the model runs on a GPU.
    """
    rate = min(8000, 4e13 / (2 * num_parameters)) if on_gpu else min(2000, 4e10 / (2 * num_parameters))
    tokens = max(64, 1 << (int(20 * rate).bit_length() - 1))
    rows = max(1, min(2048, tokens // 32))
    return PartLimits(
        shard_rows=config.shard_rows,
        shard_bytes=config.shard_bytes,
        part_rows=rows if config.part_rows == "auto" else config.part_rows,
        part_tokens=tokens if config.part_tokens == "auto" else config.part_tokens,
    )


def plan_parts(
    shard: Shard, prompts: Sequence[Prompt], rejections: Mapping[int, Rejection], part_limits: PartLimits
) -> list[Part]:
    """Cut a shard into parts.

    Args:
        shard: Each of its rows belongs to exactly one part.
        prompts: Prompts of the rows to decode, in the order of their documents.
        rejections: Document index -> why this row is not sent to the model.
        part_limits: Maximum rows and source tokens of a part; a part of one row may exceed the token limit.

    Returns:
        Parts in decoding order: longest rows first, rows without prompts last.
    """
    documents = shard.documents
    by_document: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_document[prompt.segment.document_index].append(prompt)
    representatives: dict[object, int] = {}
    duplicates: dict[int, list[int]] = defaultdict(list)
    for document_index in by_document:
        duplicates[
            representatives.setdefault(
                _decode_key(documents[document_index], by_document[document_index], part_limits.plan), document_index
            )
        ].append(document_index)
    width = {
        document_index: max([len(prompt.ids) for prompt in by_document[document_index]])
        for document_index in duplicates
    }
    order = sorted(sorted(duplicates), key=width.__getitem__, reverse=True)  # stable, also with reverse=True
    groups: list[tuple[list[int], list[int]]] = []  # per part: documents to decode, all documents
    tokens = 0
    for document_index in order:
        cost = sum([prompt.num_source_tokens for prompt in by_document[document_index]])
        if not groups or len(groups[-1][0]) >= part_limits.part_rows or tokens + cost > part_limits.part_tokens:
            groups.append(([], []))
            tokens = 0
        groups[-1][0].append(document_index)
        groups[-1][1].extend(duplicates[document_index])
        tokens += cost
    without_prompts = [document_index for document_index in range(len(documents)) if document_index not in by_document]
    groups += [
        ([], without_prompts[start : start + part_limits.part_rows])
        for start in range(0, len(without_prompts), part_limits.part_rows)
    ]
    groups = groups or [([], [])]  # an empty file still has one part, which records that it is empty
    return [
        Part(
            shard,
            index=index,
            num_parts=len(groups),
            document_indices=tuple(sorted(rows)),
            prompts=tuple(prompt for document_index in decoded for prompt in by_document[document_index]),
            copies={
                duplicate: document_index
                for document_index in decoded
                for duplicate in duplicates[document_index]
                if duplicate != document_index
            },
            copy_segments={
                duplicate: tuple(prompt.segment for prompt in by_document[duplicate])
                for document_index in decoded
                for duplicate in duplicates[document_index]
                if duplicate != document_index and documents[duplicate].text != documents[document_index].text
            },
            rejections={row: rejections[row] for row in rows if row in rejections} if rejections else {},
        )
        for index, (decoded, rows) in enumerate(groups)
    ]


def _decode_key(document: Document, prompts: Sequence[Prompt], plan_version: int) -> object:
    """Return the key for deduplication: rows with equal keys have the same translation and are decoded once.

    In plan 1 the key is the row's text and languages exactly as in the source.
    """
    if plan_version == 1:
        return document.text, document.src_lang, document.tgt_lang
    if len(prompts) == 1:
        (prompt,) = prompts
        return prompt.ids, prompt.num_source_tokens, prompt.tgt_lang
    return tuple((prompt.ids, prompt.num_source_tokens, prompt.tgt_lang) for prompt in prompts)


def longest_row(part: Part) -> tuple[str, int, int]:
    """Return id and number of segments of the row with the most segments, and the segments of the whole part."""
    segments = Counter(prompt.row_id for prompt in part.prompts)
    (row, most), *_ = segments.most_common(1) or [("", 0)]
    return row, most, len(part.prompts)
