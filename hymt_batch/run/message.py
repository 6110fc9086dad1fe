"""What the job's process and a worker send each other: prompts and translations as columns, one list for each field.

Pickling a list of dataclasses calls Python code for each of them, which costs more than all other work with a row
together in the process that feeds eight GPUs. Columns of plain values are pickled in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hymt_batch.records import Prompt, Segment, Translation

Columns = tuple[list[Any], ...]
"""One list for each field; each has a value for each row."""


def pack_prompts(prompts: Sequence[Prompt]) -> Columns:
    """Return the columns of prompts."""
    segments = [prompt.segment for prompt in prompts]
    return (
        [segment.document_index for segment in segments],
        [segment.index for segment in segments],
        [segment.text for segment in segments],
        [segment.lead for segment in segments],
        [segment.trail for segment in segments],
        [prompt.row_id for prompt in prompts],
        [prompt.ids for prompt in prompts],
        [prompt.num_source_tokens for prompt in prompts],
        [prompt.tgt_lang for prompt in prompts],
        [prompt.src_lang for prompt in prompts],
    )


def unpack_prompts(columns: Columns) -> list[Prompt]:
    """Return the prompts that `pack_prompts` packed."""
    segments = map(Segment, *columns[:5])
    return list(map(Prompt, segments, *columns[5:]))


def pack_translations(translations: Sequence[Translation]) -> Columns:
    """Return the columns of translations, without their prompts, which the other side has."""
    return (
        [translation.text for translation in translations],
        [translation.finish_reason for translation in translations],
        [translation.num_new_tokens for translation in translations],
        [translation.flags for translation in translations],
        [translation.message for translation in translations],
        [translation.attempt for translation in translations],
        [translation.mean_logprob for translation in translations],
    )


def unpack_translations(prompts: Sequence[Prompt], columns: Columns) -> list[Translation]:
    """Return the translations that `pack_translations` packed.

    Args:
        prompts: Their prompts, in the same order.
        columns: The packed translations, one for each prompt.

    Raises:
        ValueError: The numbers of prompts and translations differ.
    """
    return [Translation(*fields) for fields in zip(prompts, *columns, strict=True)]
