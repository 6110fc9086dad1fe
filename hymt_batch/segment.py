"""Split documents into segments that fit the model, and join the translations of the segments.

join(split(d)) == d, character for character. A document that fits is one segment, because context helps the model. A
longer one is split; `cut.py` decides where. No text is ever dropped. Each segment has its own prompt, because a model
that is asked for ten answers in one prompt may give nine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import islice

from hymt_batch import languages
from hymt_batch.blank import is_blank
from hymt_batch.codes import find_ranges
from hymt_batch.cut import CountTokens, Cutter, FindTokenStarts
from hymt_batch.errors import ConfigError, TextError
from hymt_batch.records import PLAN_VERSION, Document, FormatCodes, Rejection, Segment, Status
from hymt_batch.setting import Identity


class OnTooLong(Enum):
    """How to treat a document over the limit."""

    split = "split"
    error = "error"


@dataclass(kw_only=True, slots=True)
class SegmentConfig:
    """Settings for splitting documents; conf/segment/ explains every field."""

    max_tokens: Identity[int] = 2048
    on_too_long: Identity[OnTooLong] = OnTooLong.split
    max_segments: Identity[int | None] = None

    def __post_init__(self) -> None:
        if self.max_tokens < 16:
            raise ConfigError(
                f"segment.max_tokens={self.max_tokens} is too small for a sentence", fix="Set 16 or more."
            )
        if self.max_segments is not None and self.max_segments < 1:
            raise ConfigError(
                f"segment.max_segments={self.max_segments} must be 1 or more",
                fix="Set segment.max_segments=null for no limit.",
            )


def split(
    documents: Sequence[Document],
    count_tokens: CountTokens,
    config: SegmentConfig,
    plan_version: int = PLAN_VERSION,
    *,
    keeps_codes: bool = False,
    find_token_starts: FindTokenStarts | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[list[Segment], dict[int, Rejection]]:
    """Split the documents of a shard into segments.

    Args:
        documents: Rows of a shard; rows with an error or without text give no segment.
        count_tokens: Returns the number of tokens of a text. A token has at least one byte, so texts that are short
            enough are not counted.
        config: The limits, and how to treat a document over them.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        keeps_codes: Every translation must have the codes of its source, not only those of documents that say so.
        find_token_starts: Yields the offsets at which the tokens of a text begin. With it, a long text is tokenized
            once, and again only in ranges whose size is near the limit.
        check_stop: Called often, also within a long row; an exception from it stops the splitting.

    Returns:
        Segments in the order of their documents, and the rejected documents by index.
    """
    segments: list[Segment] = []
    rejections: dict[int, Rejection] = {}
    limit = config.max_tokens
    for index, document in enumerate(documents):
        if not index & 255:
            check_stop()
        text = document.text
        if document.status is not Status.OK or text is None or is_blank(text, plan_version):
            continue
        codes = document.codes if keeps_codes or document.keeps_codes else None
        if len(text) * 4 <= limit or (len(text) <= limit and len(text.encode("utf-8", "surrogatepass")) <= limit):
            segments.append(_make_segment(index, 0, text, codes))
            continue
        # earlier plans cut codes as they cut words
        kept = () if codes is None or plan_version < 7 else find_ranges(text, codes)
        cutter = Cutter(
            text, count_tokens, limit, find_token_starts, check_stop, keep_clusters=plan_version == 1, kept_ranges=kept
        )
        try:
            if cutter.fits():
                segments.append(_make_segment(index, 0, text, codes))
            else:
                pieces = _make_segments(index, cutter.pieces(), plan_version, codes)
                long_row = _split_long(pieces, config, partial(count_tokens, text))
                if isinstance(long_row, Rejection):
                    rejections[index] = long_row
                else:
                    segments += long_row
        except TextError as error:
            rejections[index] = Rejection(Status.GENERATION_ERROR, error.problem.statement)
    return segments, rejections


def _split_long(
    pieces: Iterable[Segment], config: SegmentConfig, num_tokens: Callable[[], int]
) -> list[Segment] | Rejection:
    """Return the segments of a document over the limit, or why it is not sent.

    Args:
        pieces: Yields the document's segments.
        config: The limits, and how to treat a document over them.
        num_tokens: Returns the document's number of tokens, for the reason.
    """
    if config.on_too_long is OnTooLong.error:
        return Rejection(
            Status.TOO_LONG,
            f"{num_tokens()} tokens, more than segment.max_tokens={config.max_tokens}; "
            "segment.on_too_long=split would translate it in pieces",
        )
    if config.max_segments is None:
        return list(pieces)
    segments = list(islice(pieces, config.max_segments + 1))
    if len(segments) > config.max_segments:
        return Rejection(
            Status.TOO_LONG,
            f"the row needs more than segment.max_segments={config.max_segments} segments of at most "
            f"{config.max_tokens} tokens; segment.max_segments=null would translate all of them",
        )
    return segments


def _make_segments(
    document_index: int, pieces: Iterable[str], plan_version: int, codes: FormatCodes | None
) -> Iterator[Segment]:
    """Yield one segment for each piece; a blank piece is kept verbatim as white space of its neighbour."""
    if plan_version == 1:
        yield from (_make_segment(document_index, index, piece, codes) for index, piece in enumerate(pieces))
        return
    last: Segment | None = None
    blank: list[str] = []  # blank pieces after the last piece that is not blank, or before the first one
    for piece in pieces:
        if is_blank(piece, plan_version):
            blank.append(piece)
            continue
        if last is None:
            last = _make_segment(document_index, 0, piece, codes)
            last = replace(last, lead="".join([*blank, last.lead]))
        else:
            yield replace(last, trail="".join([last.trail, *blank])) if blank else last
            last = _make_segment(document_index, last.index + 1, piece, codes)
        blank.clear()
    if last is not None:
        yield replace(last, trail="".join([last.trail, *blank])) if blank else last


def join(segments: Sequence[Segment], texts: Sequence[str], *, spaced: bool | None = None) -> str:
    """Join the translations of one document's segments.

    Args:
        segments: The document's segments, in order.
        texts: One text per segment.
        spaced: True if the target language puts spaces between words: a space is inserted where a cut left none.
            False if it does not: a single ASCII space at a cut is dropped. None keeps the white space as it is.
    """
    if len(segments) == 1 == len(texts):
        return f"{segments[0].lead}{texts[0]}{segments[0].trail}"
    joined: list[str] = []
    for index, (segment, text) in enumerate(zip(segments, texts, strict=True)):
        lead = segment.lead
        if index and spaced is not None:
            gap = segments[index - 1].trail + lead
            if gap == "" and spaced:
                lead = " "
            elif gap == " " and not spaced:
                lead = ""
                if segments[index - 1].trail:
                    joined.pop()
        joined += (lead, text, segment.trail)
    return "".join(joined)


def join_translations(segments: Sequence[Segment], texts: Sequence[str], tgt_lang: str) -> str:
    """Join the translations of one document's segments by the rules of the target language."""
    return join(segments, texts, spaced=languages.get(tgt_lang).spaced)


def _make_segment(document_index: int, index: int, piece: str, codes: FormatCodes | None) -> Segment:
    text = piece.strip()
    if len(text) == len(piece):
        return Segment(document_index, index, text, codes=codes)
    start = len(piece) - len(piece.lstrip())
    return Segment(document_index, index, text, piece[:start], piece[start + len(text) :], codes)
