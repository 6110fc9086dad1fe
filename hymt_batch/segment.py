"""Split documents into segments the model can take, and join their translations again.

join(split(d)) == d, character for character. A document that fits is one segment, because context helps; a longer one
is cut (`cut.py` says where). Nothing is ever cut off. Several segments never share a prompt: a model that is asked for
ten answers gives nine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice

from hymt_batch.blank import is_blank as is_blank
from hymt_batch.cut import CountTokens, Cutter, FindTokenStarts
from hymt_batch.errors import ConfigError, TextError
from hymt_batch.records import PLAN_VERSION, Document, Rejection, Segment, Status


class OnTooLong(Enum):
    """What happens to a document over the limit."""

    split = "split"
    error = "error"


@dataclass(kw_only=True, slots=True)
class SegmentConfig:
    """How documents are cut; every field is explained in conf/segment/."""

    max_tokens: int = 2048
    on_too_long: OnTooLong = OnTooLong.split
    max_segments: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 16:
            raise ConfigError(f"segment.max_tokens={self.max_tokens} is too small for a sentence. Set 16 or more.")
        if self.max_segments is not None and self.max_segments < 1:
            raise ConfigError(
                f"segment.max_segments={self.max_segments} must be 1 or more, or segment.max_segments=null (no limit)."
            )


def split(
    documents: Sequence[Document],
    count_tokens: CountTokens,
    config: SegmentConfig,
    plan_version: int = PLAN_VERSION,
    *,
    find_token_starts: FindTokenStarts | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[list[Segment], dict[int, Rejection]]:
    """Cut the documents of a shard into segments.

    Args:
        documents: Rows of a shard; those with an error or without text give no segment.
        count_tokens: Tokens of a text alone. A token holds at least one byte, so short texts are not counted.
        config: The limits, and what happens to a document over them.
        plan: Version of the job's plan; see records.PLAN.
        starts: Where the tokens of a text begin: a long text is then looked at once, and only near the limit again.
        step: Called again and again, within a long row too; what it raises ends the cutting.

    Returns:
        Segments in the order of their documents, and the documents refused, by index.
    """
    segments: list[Segment] = []
    refused: dict[int, Rejection] = {}
    limit = config.max_tokens
    for number, document in enumerate(documents):
        if not number & 255:
            check_stop()
        text = document.text
        if document.status is not Status.OK or text is None or is_blank(text, plan_version):
            continue
        if len(text) * 4 <= limit or (len(text) <= limit and len(text.encode("utf-8", "surrogatepass")) <= limit):
            segments.append(_make_segment(number, 0, text))
            continue
        cutter = Cutter(text, count_tokens, limit, find_token_starts, check_stop, keep_clusters=plan_version == 1)
        try:
            if cutter.fits():
                segments.append(_make_segment(number, 0, text))
            elif config.on_too_long is OnTooLong.error:
                refused[number] = Rejection(
                    Status.TOO_LONG,
                    f"{count_tokens(text)} tokens, more than segment.max_tokens={limit}; "
                    "segment.on_too_long=split would translate it in pieces",
                )
            else:
                pieces = _make_segments(number, cutter.pieces(), plan_version)
                some = list(islice(pieces, None if config.max_segments is None else config.max_segments + 1))
                if config.max_segments is not None and len(some) > config.max_segments:
                    refused[number] = Rejection(
                        Status.TOO_LONG,
                        f"it is cut in more than segment.max_segments={config.max_segments} segments of at most "
                        f"{limit} tokens; segment.max_segments=null would translate all of them",
                    )
                else:
                    segments += some
        except TextError as error:
            refused[number] = Rejection(Status.GENERATION_ERROR, error.message)
    return segments, refused


def _make_segments(document_index: int, pieces: Iterable[str], plan_version: int) -> Iterator[Segment]:
    """Segments of a document's pieces; a piece that would be blank alone stays verbatim beside its neighbour."""
    if plan_version == 1:
        yield from (_make_segment(document_index, index, piece) for index, piece in enumerate(pieces))
        return
    last: Segment | None = None
    blank: list[str] = []  # behind the last piece that is seen; before the first one
    for piece in pieces:
        if is_blank(piece, plan_version):
            blank.append(piece)
            continue
        if last is None:
            last = _make_segment(document_index, 0, piece)
            last = replace(last, lead="".join([*blank, last.lead]))
        else:
            yield replace(last, trail="".join([last.trail, *blank])) if blank else last
            last = _make_segment(document_index, last.index + 1, piece)
        blank.clear()
    if last is not None:
        yield replace(last, trail="".join([last.trail, *blank])) if blank else last


def join(segments: Sequence[Segment], texts: Sequence[str], *, spaced: bool | None = None) -> str:
    """Put the translations of one document's segments together again.

    Args:
        segments: The document's segments, in order.
        texts: One text a segment.
        spaced: Whether the target language writes spaces between words: where a cut left none, one is inserted, and
            in a language without them a single ASCII space at a cut is dropped. None keeps every character.
    """
    if len(segments) == 1 == len(texts):
        return f"{segments[0].lead}{texts[0]}{segments[0].trail}"
    out: list[str] = []
    for number, (segment, text) in enumerate(zip(segments, texts, strict=True)):
        lead = segment.lead
        if number and spaced is not None:
            gap = segments[number - 1].trail + lead
            if gap == "" and spaced:
                lead = " "
            elif gap == " " and not spaced:
                lead = ""
                if segments[number - 1].trail:
                    out.pop()
        out += (lead, text, segment.trail)
    return "".join(out)


def _make_segment(document_index: int, index: int, piece: str) -> Segment:
    text = piece.strip()
    if len(text) == len(piece):
        return Segment(document_index, index, text)
    start = len(piece) - len(piece.lstrip())
    return Segment(document_index, index, text, piece[:start], piece[start + len(text) :])
