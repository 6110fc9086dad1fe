"""plan(shard): parts as a pure function of the lengths and the settings; batches as a function of the budget.

Rows are sorted by length inside a shard, the longest first, so that running out of memory shows early; equal texts
are decoded once. A part never depends on where a run was resumed, on the device or on the token budget.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN_VERSION, Document, Part, Prompt


@dataclass(kw_only=True, slots=True)
class BatchConfig:
    """How rows are grouped; every field is explained in conf/batch/."""

    shard_rows: int = 32768
    shard_bytes: int = 64 << 20
    part_rows: Any = "auto"
    part_tokens: Any = "auto"
    max_tokens: Any = "auto"
    max_rows: Any = "auto"

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
    """What decides which rows form a part; belongs to the job's identity."""

    shard_rows: int
    shard_bytes: int
    part_rows: int
    part_tokens: int  # source tokens
    plan: int = PLAN_VERSION  # version of the plan; see records.PLAN


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """What one batch may hold; belongs to the environment, so that a job may go on with less."""

    max_tokens: int  # rows x (longest prompt + its longest translation)
    max_rows: int


def resolve_part_limits(config: BatchConfig, num_parameters: int, on_gpu: bool) -> PartLimits:
    """Resolve `auto` part sizes of a new job to about 20 s of work on the device.

    Args:
        config: The settings.
        num_parameters: Of the network.
        on_gpu: Whether it runs on a GPU.

    The guess: a processor does some 4e10, a GPU some 4e13 useful operations a second on this work, two a parameter
    and token; never more than 2,000 or 8,000 tokens a second, where other costs rule.
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


def resolve_batch_budget(
    config: BatchConfig, cache_bytes_per_token: int, vocab_size: int, free_bytes: int, on_gpu: bool
) -> BatchBudget:
    """Resolve `auto` batch sizes from the memory left beside the weights."""
    max_rows = config.max_rows if config.max_rows != "auto" else 256 if on_gpu else 64
    if config.max_tokens != "auto":
        return BatchBudget(config.max_tokens, max_rows)
    room = max(0, free_bytes // 2 - logits_bytes(max_rows, vocab_size))
    tokens = room // max(1, cache_bytes_per_token)
    return BatchBudget(int(min(max(tokens, 512), 262_144 if on_gpu else 16_384)), max_rows)


def logits_bytes(max_rows: int, vocab_size: int) -> int:
    """What the rows' logits take in float32, with the copies made while a token is chosen."""
    return max_rows * vocab_size * 4 * 4


def plan_parts(documents: Sequence[Document], prompts: Sequence[Prompt], part_limits: PartLimits) -> list[Part]:
    """Cut a shard into parts.

    Args:
        documents: All rows of the shard; each comes to stand in exactly one part.
        prompts: Prompts of the rows to decode, in the order of their documents.
        limits: Largest number of rows and of source tokens a part (a single row may exceed the latter).

    Returns:
        Parts in the order of decoding: longest rows first, rows without prompts last.
    """
    by_document: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_document[prompt.segment.document_index].append(prompt)
    first: dict[object, int] = {}
    twins: dict[int, list[int]] = defaultdict(list)
    for number in by_document:
        twins[first.setdefault(_decode_key(documents[number], by_document[number], part_limits.plan), number)].append(
            number
        )
    width = {number: max([len(prompt.ids) for prompt in by_document[number]]) for number in twins}
    order = sorted(sorted(twins), key=width.__getitem__, reverse=True)  # reverse keeps the order of equals
    groups: list[tuple[list[int], list[int]]] = []  # decoded documents, all rows
    tokens = 0
    for number in order:
        cost = sum([prompt.num_source_tokens for prompt in by_document[number]])
        if not groups or len(groups[-1][0]) >= part_limits.part_rows or tokens + cost > part_limits.part_tokens:
            groups.append(([], []))
            tokens = 0
        groups[-1][0].append(number)
        groups[-1][1].extend(twins[number])
        tokens += cost
    silent = [number for number in range(len(documents)) if number not in by_document]
    groups += [
        ([], silent[start : start + part_limits.part_rows]) for start in range(0, len(silent), part_limits.part_rows)
    ]
    groups = groups or [([], [])]  # an empty file still has one part, which says so
    return [
        Part(
            index=index,
            num_parts=len(groups),
            document_indices=tuple(sorted(rows)),
            prompts=tuple(prompt for number in decoded for prompt in by_document[number]),
            copies={twin: number for number in decoded for twin in twins[number] if twin != number},
            copy_segments={
                twin: tuple(prompt.segment for prompt in by_document[twin])
                for number in decoded
                for twin in twins[number]
                if twin != number and documents[twin].text != documents[number].text
            },
        )
        for index, (decoded, rows) in enumerate(groups)
    ]


def _decode_key(document: Document, prompts: Sequence[Prompt], plan_version: int) -> object:
    """What of a row decides its translation: rows for which it is equal are decoded once.

    Under plan 1 rows are equal by their text and languages as they stand in the source.
    """
    if plan_version == 1:
        return document.text, document.src_lang, document.tgt_lang
    if len(prompts) == 1:
        (prompt,) = prompts
        return prompt.ids, prompt.num_source_tokens, prompt.tgt_lang
    return tuple((prompt.ids, prompt.num_source_tokens, prompt.tgt_lang) for prompt in prompts)


def longest_row(part: Part) -> tuple[str, int, int]:
    """The row of a part with most segments: its id, its segments, and those of the whole part."""
    segments = Counter(prompt.row_id for prompt in part.prompts)
    (row, most), *_ = segments.most_common(1) or [("", 0)]
    return row, most, len(part.prompts)


def group(widths: Sequence[int], batch_budget: BatchBudget) -> Iterator[list[int]]:
    """Group rows into batches under a budget of padded tokens.

    Args:
        widths: Of each row, prompt tokens and largest number of new tokens together.
        size: What a batch may hold.

    Yields:
        Indices into `widths`, the widest rows first; a row over the budget is a batch alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(widths)), key=lambda i: (-widths[i], i)):
        # the first row is the widest, so its width is the batch's
        if batch and (
            (len(batch) + 1) * widths[batch[0]] > batch_budget.max_tokens or len(batch) >= batch_budget.max_rows
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
