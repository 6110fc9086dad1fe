"""Encode user turns: segments with the text before and after each, many at a time. Knows no template or language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from hymt_batch.errors import TextError
from hymt_batch.records import Rejection, Segment, Status

_SAMPLE_TEXT = "Text."


class Encoder(Protocol):
    """The methods of a tokenizer that prompts need; model/tokenizer.py implements them."""

    @property
    def prefix(self) -> tuple[int, ...]: ...
    @property
    def suffix(self) -> tuple[int, ...]: ...
    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...
    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]: ...
    def has_control_ids(self, body: Sequence[int]) -> bool: ...


def encode_bodies(
    segments: Sequence[Segment],
    surroundings: Sequence[tuple[str, str]],
    encoder: Encoder,
    check_stop: Callable[[], None],
) -> tuple[list[list[int]], dict[int, Rejection]]:
    """Encode each segment with the text before and after it; a body that cannot be encoded is empty, and rejected."""
    bodies: list[list[int]] = [[]] * len(segments)
    rejected: dict[int, Rejection] = {}
    indices_of: dict[tuple[str, str], list[int]] = {}
    for index, around in enumerate(surroundings):
        indices_of.setdefault(around, []).append(index)
    for (before, after), indices in indices_of.items():
        for chunk in _chunks(segments, indices):
            check_stop()
            try:
                encoded = encoder.encode_with_head(before, [f"{segments[index].text}{after}" for index in chunk])
            except TextError:  # one text failed: encode them one by one
                for index in chunk:
                    check_stop()
                    try:
                        (bodies[index],) = encoder.encode_with_head(before, [f"{segments[index].text}{after}"])
                    except TextError as error:
                        rejected[segments[index].document_index] = Rejection(
                            Status.GENERATION_ERROR, error.problem.statement
                        )
                continue
            for index, body in zip(chunk, encoded, strict=True):
                bodies[index] = body
    return bodies, rejected


_CHUNK_ROWS, _CHUNK_CHARS = 4096, 250_000  # about a second of work


def _chunks(segments: Sequence[Segment], indices: Sequence[int]) -> Iterator[list[int]]:
    """Group segment indices into chunks that are encoded together."""
    chunk: list[int] = []
    chars = 0
    for index in indices:
        chunk.append(index)
        chars += len(segments[index].text)
        if chars >= _CHUNK_CHARS or len(chunk) >= _CHUNK_ROWS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def count_instruction_tokens(encoder: Encoder, before: str, after: str, plan_version: int) -> int:
    """Count the tokens that the instruction adds to a text; plan version 1 encoded the instruction alone."""
    if plan_version == 1:
        return len(encoder.encode([f"{before}{after}"])[0])
    # encode a sample text after it, because the tokens of white space depend on the next character
    whole, text = encoder.encode([f"{before}{_SAMPLE_TEXT}{after}", _SAMPLE_TEXT])
    return len(whole) - len(text)


def count_all_instructions(
    encoder: Encoder, surroundings: Sequence[tuple[str, str]], plan_version: int, check_stop: Callable[[], None]
) -> dict[tuple[str, str], int]:
    """Return `count_instruction_tokens` of each text before and after a segment; with candidates, rows have their own.

    Raises:
        TextError: The tokenizer fails on one of them.
    """
    counts: dict[tuple[str, str], int] = {}
    for before, after in dict.fromkeys(surroundings):
        check_stop()
        counts[before, after] = count_instruction_tokens(encoder, before, after, plan_version)
    return counts
