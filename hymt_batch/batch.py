"""Plan the parts of a shard from its lengths and the settings.

Rows are sorted by length within a shard, longest first, so that an out-of-memory error comes early. Equal texts are
decoded once. A row that is too long for a part gets one of its own, which is divided into runs of its segments; such
parts come last, so that the other rows of the shard are committed before. A part never depends on where a job resumed,
on the device or on the token budget: how it is decoded in batches is the engine's business (`decode/batches.py`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN_VERSION, Document, Part, Prompt, Rejection, Row, Shard
from hymt_batch.setting import Environment, Identity


@dataclass(kw_only=True, slots=True)
class BatchConfig:
    """Settings for grouping rows; conf/batch/ explains every field."""

    shard_rows: Identity[int] = 32768
    shard_bytes: Identity[int] = 64 << 20
    part_rows: Identity[Any] = "auto"
    part_tokens: Identity[Any] = "auto"
    part_new_tokens: Identity[Any] = "auto"
    max_tokens: Environment[Any] = "auto"
    max_rows: Environment[Any] = "auto"

    def __post_init__(self) -> None:
        sizes = ("shard_rows", "shard_bytes", "part_rows", "part_tokens", "part_new_tokens")
        for key in (*sizes, "max_tokens", "max_rows"):
            value = getattr(self, key)
            if value == "auto" and not key.startswith("shard"):
                continue
            if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,15}", str(value)) or int(value) < 1:
                auto = "" if key.startswith("shard") else f", or batch.{key}=auto"
                raise ConfigError(f"batch.{key}={value} is not a positive whole number", fix=f"Set one{auto}.")
            setattr(self, key, int(value))


@dataclass(frozen=True, slots=True)
class PartLimits:
    """The limits that decide which rows form a part; they belong to the job's identity."""

    shard_rows: int
    shard_bytes: int
    part_rows: int
    part_tokens: int  # source tokens
    plan: int = PLAN_VERSION  # version of the plan; see records.PLAN_VERSION
    part_new_tokens: int | None = None  # new tokens that the segments of a run may have; None: no limit

    @property
    def divides_rows(self) -> bool:
        """True if a row over `part_tokens` is divided into runs of its segments."""
        return self.plan >= 6


def resolve_part_limits(config: BatchConfig, num_parameters: int, on_gpu: bool) -> PartLimits:
    """Resolve `auto` part sizes of a new job to about 20 s of work on the device.

    The estimate: a CPU does about 4e10 and a GPU about 4e13 useful operations per second on this work, with two
    operations per parameter and token. The rate is at most 2,000 tokens/s on a CPU and 8,000 on a GPU, because other
    costs dominate beyond that.

    The limit of new tokens is that of source tokens on a GPU, where more rows at once take hardly longer. On a CPU it
    is an eighth, because steps become slower with the length: of segments of 2,048 tokens that may all go on to their
    limit of 4,096, one is a run with the demo model.

    Args:
        config: The settings.
        num_parameters: Number of parameters of the model.
        on_gpu: True if the model runs on a GPU.
    """
    rate = min(8000, 4e13 / (2 * num_parameters)) if on_gpu else min(2000, 4e10 / (2 * num_parameters))
    tokens = max(64, 1 << (int(20 * rate).bit_length() - 1))
    rows = max(1, min(2048, tokens // 32))
    tokens = tokens if config.part_tokens == "auto" else config.part_tokens
    new_tokens = tokens if on_gpu else max(1, tokens // 8)
    return PartLimits(
        shard_rows=config.shard_rows,
        shard_bytes=config.shard_bytes,
        part_rows=rows if config.part_rows == "auto" else config.part_rows,
        part_tokens=tokens,
        part_new_tokens=new_tokens if config.part_new_tokens == "auto" else config.part_new_tokens,
    )


def plan_parts(
    shard: Shard,
    prompts: Sequence[Prompt],
    rejections: Mapping[int, Rejection],
    part_limits: PartLimits,
    max_new_tokens: Callable[[Prompt], int] = lambda prompt: 0,
    known: Mapping[int, Row] | None = None,
) -> list[Part]:
    """Cut a shard into parts.

    Args:
        shard: Each of its rows belongs to exactly one part.
        prompts: Prompts of the rows to decode, in the order of their documents.
        rejections: Document index -> why this row is not sent to the model.
        part_limits: Maximum rows and source tokens of a part; a part of one row may exceed the token limit.
        max_new_tokens: Returns the limit of new tokens of a segment, by which long rows are divided.
        known: Document index -> the row that an earlier version of the file has for it; it is not decoded.

    Returns:
        Parts in decoding order: longest rows first, then rows that are not decoded, then rows that are divided.
    """
    known = known or {}
    by_document: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.segment.document_index not in known:
            by_document[prompt.segment.document_index].append(prompt)
    duplicates = _group_duplicates(shard.documents, by_document, part_limits.plan)
    without_prompts = [index for index in range(len(shard.documents)) if index not in by_document]
    divided = _divide({index: by_document[index] for index in duplicates}, part_limits, max_new_tokens)
    undivided = duplicates.keys() - divided.keys()
    groups = [(decoded, decoded) for decoded in _cut(undivided, by_document, part_limits)]
    groups += [
        ([], without_prompts[start : start + part_limits.part_rows])
        for start in range(0, len(without_prompts), part_limits.part_rows)
    ]
    groups += [([index], [index]) for index in divided]
    groups = groups or [([], [])]  # an empty file still has one part, which records that it is empty
    parts = []
    for index, (decoded, rows) in enumerate(groups):
        copies = {copy: original for original in decoded for copy in duplicates[original] if copy != original}
        rows = sorted([*rows, *copies])
        parts.append(
            Part(
                shard,
                index=index,
                num_parts=len(groups),
                document_indices=tuple(rows),
                prompts=tuple(prompt for document_index in decoded for prompt in by_document[document_index]),
                copies=copies,
                copy_segments={
                    copy: tuple(prompt.segment for prompt in by_document[copy])
                    for copy, original in copies.items()
                    if shard.documents[copy].text != shard.documents[original].text
                },
                rejections={row: rejections[row] for row in rows if row in rejections} if rejections else {},
                known={row: known[row] for row in rows if row in known} if known else {},
                run_lengths=divided.get(decoded[0], ()) if decoded else (),
            )
        )
    return parts


def _group_duplicates(
    documents: Sequence[Document], by_document: Mapping[int, Sequence[Prompt]], plan_version: int
) -> dict[int, list[int]]:
    """Return the rows that have the same translation: the first of each group -> all of it."""
    representatives: dict[object, int] = {}
    duplicates: dict[int, list[int]] = defaultdict(list)
    for document_index, prompts in by_document.items():
        key = _decode_key(documents[document_index], prompts, plan_version)
        duplicates[representatives.setdefault(key, document_index)].append(document_index)
    return duplicates


def _cut(
    document_indices: Iterable[int], by_document: Mapping[int, Sequence[Prompt]], part_limits: PartLimits
) -> list[list[int]]:
    """Return the rows to decode in each part, the longest first."""
    width = {index: max([len(prompt.ids) for prompt in by_document[index]]) for index in document_indices}
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(sorted(width), key=width.__getitem__, reverse=True):  # stable, also with reverse=True
        cost = sum([prompt.num_source_tokens for prompt in by_document[index]])
        if not groups or len(groups[-1]) >= part_limits.part_rows or tokens + cost > part_limits.part_tokens:
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += cost
    return groups


def _divide(
    rows: Mapping[int, Sequence[Prompt]], part_limits: PartLimits, max_new_tokens: Callable[[Prompt], int]
) -> dict[int, tuple[int, ...]]:
    """Return the segments in each run of the rows that are too long for a part and have several segments."""
    if not part_limits.divides_rows:
        return {}
    return {
        index: _run_lengths(prompts, part_limits, max_new_tokens)
        for index, prompts in rows.items()
        if len(prompts) > 1 and sum([p.num_source_tokens for p in prompts]) > part_limits.part_tokens
    }


def _run_lengths(
    prompts: Sequence[Prompt], part_limits: PartLimits, max_new_tokens: Callable[[Prompt], int]
) -> tuple[int, ...]:
    """Return the number of segments of each run: as many as fit the limits of source and new tokens, at least one."""
    lengths: list[int] = []
    source_tokens = new_tokens = 0
    for prompt in prompts:
        source_tokens, new_tokens = source_tokens + prompt.num_source_tokens, new_tokens + max_new_tokens(prompt)
        too_many_new = part_limits.part_new_tokens is not None and new_tokens > part_limits.part_new_tokens
        if not lengths or source_tokens > part_limits.part_tokens or too_many_new:
            lengths.append(0)
            source_tokens, new_tokens = prompt.num_source_tokens, max_new_tokens(prompt)
        lengths[-1] += 1
    return tuple(lengths)


def _decode_key(document: Document, prompts: Sequence[Prompt], plan_version: int) -> object:
    """Return the key for deduplication: rows with equal keys have the same translation and flags.

    A check may depend on both languages, so rows of different ones are decoded each for itself, even if their prompts
    are equal. Plans before 8 had no source language in the key, and plan 1 the row's text and languages exactly as in
    the source.
    """
    if plan_version == 1:
        return document.text, document.src_lang, document.tgt_lang
    if len(prompts) == 1:
        (prompt,) = prompts
        key: tuple[object, ...] = prompt.ids, prompt.num_source_tokens, prompt.tgt_lang
    else:
        key = tuple((prompt.ids, prompt.num_source_tokens, prompt.tgt_lang) for prompt in prompts)
    if plan_version > 7 and prompts[0].src_lang is not None:
        key = key, prompts[0].src_lang
    return (key, document.codes) if document.codes else key  # other codes may be sent under another prompt


def longest_row(part: Part) -> tuple[str, int, int]:
    """Return id and number of segments of the row with the most segments, and the segments of the whole part."""
    prompts = part.prompts
    if prompts and len({prompt.row_id for prompt in prompts}) == len(prompts):  # one segment each, as most rows have
        return prompts[0].row_id, 1, len(prompts)
    segments = Counter(prompt.row_id for prompt in prompts)
    (row, most), *_ = segments.most_common(1) or [("", 0)]
    return row, most, len(part.prompts)
