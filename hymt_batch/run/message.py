"""What the job's process and a worker send each other: prompts and translations as columns, one list for each field.

Pickling a list of dataclasses calls Python code for each of them, which costs more than all other work with a row
together in the process that feeds eight GPUs. Columns of plain values are pickled in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from hymt_batch.records import Prompt, Segment, Translation

Columns = tuple[list[Any], ...]
"""One list for each field; each has a value for each row."""

_OF_SEGMENT = tuple(field.name for field in fields(Segment))
_OF_PROMPT = tuple(field.name for field in fields(Prompt) if field.name != "segment")
_OF_TRANSLATION = tuple(field.name for field in fields(Translation) if field.name != "prompt")


def _columns(items: Sequence[object], names: Sequence[str]) -> Columns:
    return tuple(list(map(attrgetter(name), items)) for name in names)


def pack_prompts(prompts: Sequence[Prompt]) -> Columns:
    """Return the columns of prompts: those of their segments, then their own."""
    segments = [prompt.segment for prompt in prompts]
    return _columns(segments, _OF_SEGMENT) + _columns(prompts, _OF_PROMPT)


def unpack_prompts(columns: Columns) -> list[Prompt]:
    """Return the prompts that `pack_prompts` packed."""
    segments = map(Segment, *columns[: len(_OF_SEGMENT)])
    return list(map(Prompt, segments, *columns[len(_OF_SEGMENT) :]))


def pack_translations(translations: Sequence[Translation]) -> Columns:
    """Return the columns of translations, without their prompts, which the other side has."""
    return _columns(translations, _OF_TRANSLATION)


def unpack_translations(prompts: Sequence[Prompt], columns: Columns) -> list[Translation]:
    """Return the translations that `pack_translations` packed.

    Args:
        prompts: Their prompts, in the same order.
        columns: The packed translations, one for each prompt.

    Raises:
        ValueError: The numbers of prompts and translations differ.
    """
    return [Translation(*fields) for fields in zip(prompts, *columns, strict=True)]
