"""The candidate translations in a prompt that asks for one refined translation of them. Knows no template.

Source: README file of Hunyuan-MT, whose prompt of Hunyuan-MT-Chimera lists six.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from hymt_batch.errors import TextError
from hymt_batch.prompt_encoder import Encoder
from hymt_batch.records import Document, Segment, plural

log = logging.getLogger(__name__)

MIN_CANDIDATES = 2
"""Different translations that a refinement needs: of a single one, there is nothing to choose."""

MAX_CANDIDATES = 6
"""Translations that a prompt lists at most, as the card's does."""

_SPARE_TOKENS = 8  # a prompt may have a few more tokens than its parts have when they are counted apart


def write_list(candidates: Sequence[str]) -> str:
    """Return the numbered list of candidates, as a prompt ends with it."""
    return "\n".join(f"{number}. ```{text}```" for number, text in enumerate(candidates, 1))


def with_candidates(
    segments: Sequence[Segment],
    documents: Sequence[Document],
    surroundings: Sequence[tuple[str, str]],
    encoder: Encoder,
    max_context: int,
    check_stop: Callable[[], None],
) -> list[tuple[str, str]]:
    """Return what stands before and after each segment, with the candidates of its document after it.

    Where not all of them have room, the last ones are left out, down to `MIN_CANDIDATES`.

    Args:
        segments: Whole documents.
        documents: The documents of the shard, with their candidates.
        surroundings: What the template has before and after each segment.
        encoder: The tokenizer.
        max_context: Limit of prompt plus translation, in tokens; a translation is assumed as long as its source.
        check_stop: Called repeatedly; an exception that it raises ends the function.
    """
    listed: list[tuple[str, str]] = []
    num_shortened = num_too_long = 0
    for segment, (before, after) in zip(segments, surroundings, strict=True):
        check_stop()
        candidates = documents[segment.document_index].candidates
        num = len(candidates)
        while not (fits := _fits(before + segment.text + after, candidates[:num], segment.text, encoder, max_context)):
            if num <= MIN_CANDIDATES:
                break
            num -= 1
        num_shortened += fits and num < len(candidates)
        num_too_long += not fits
        listed.append((before, after + write_list(candidates[:num])))
    if num_shortened:
        log.warning(
            "%s: model.max_context=%d has no room for all candidate translations; the last ones are left out",
            plural(num_shortened, "row"),
            max_context,
        )
    if num_too_long:
        log.warning(
            "%s: too long for model.max_context=%d with %d candidate translations; not refined",
            plural(num_too_long, "row"),
            max_context,
            MIN_CANDIDATES,
        )
    return listed


def _fits(turn: str, candidates: Sequence[str], text: str, encoder: Encoder, max_context: int) -> bool:
    whole = turn + write_list(candidates)
    num_fixed = len(encoder.prefix) + len(encoder.suffix) + _SPARE_TOKENS
    num_bytes = len(whole.encode("utf-8", "surrogatepass")) + len(text.encode("utf-8", "surrogatepass"))
    if num_fixed + num_bytes <= max_context:  # a token has at least one byte
        return True
    try:
        return num_fixed + sum(map(len, encoder.encode([whole, text]))) <= max_context
    except TextError:  # `render` rejects the row
        return True
