"""What SubRip and WebVTT share: places of cues, translations that cover several cues, and the format's record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from hymt_batch.formats.format import Format
from hymt_batch.formats.spliced import Parse, Place, spliced_format
from hymt_batch.formats.subtitles.cues import Cue
from hymt_batch.formats.subtitles.join import cut_text, group_cues, join_texts
from hymt_batch.formats.subtitles.lines import fit_lines


def places_of(cues: Iterable[Cue]) -> Iterator[Place]:
    """Yield a place for each text; its name is the cue's position from 1, as in `12`, and `12[2]` for a second text."""
    for number, cue in enumerate(cues, 1):
        for index, text in enumerate(cue.texts, 1):
            name = f"{number}[{index}]" if index > 1 else str(number)
            yield Place(text.start, text.end, name, text.text, text.error)


def joined_places(cues: Sequence[Cue]) -> Iterator[Place]:
    """Yield the places with a sentence that runs over several cues as one; its name is that of its first cue."""
    number = 1
    for group in group_cues(cues):
        if len(group) == 1:
            for place in places_of(group):
                yield place._replace(name=f"{number}{place.name.removeprefix('1')}")
        else:
            texts = [cue.texts[0] for cue in group]
            ranges = tuple((text.start, text.end) for text in texts)
            joined = join_texts(text.text or "" for text in texts)
            yield Place(texts[0].start, texts[-1].end, str(number), joined, ranges=ranges)
        number += len(group)


def splice_cues(data: bytes, place: Place, text: str, encode: Callable[[str], bytes]) -> bytes:
    """Cut a translation back to the cues of a place, and keep what is between them."""
    lengths = [len(data[start:end].decode()) for start, end in place.ranges]
    pieces = cut_text(text, lengths)
    out = b""
    at = place.start
    for (start, end), piece in zip(place.ranges, pieces, strict=True):
        out += data[at:start] + encode(piece)
        at = end
    return out


def subtitle_format(name: str, about: str, parse: Parse, text_start: re.Pattern[bytes]) -> Format:
    """Return the record of a subtitle format.

    Args:
        name: Its name, which is also the extension of its files.
        about: See `Format`.
        parse: Parses a file.
        text_start: See `Format`.
    """
    return spliced_format(
        parse,
        name=name,
        about=about,
        extension=f".{name}",
        input_extensions=(f".{name}",),
        text_start=text_start,
        source_settings=("encoding", "join_cues"),
        fit_lines=fit_lines,
    )
