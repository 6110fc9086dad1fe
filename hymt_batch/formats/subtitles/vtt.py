"""WebVTT subtitles (.vtt): the texts of the cues are places.

The header, notes, styles, regions, cue identifiers, times and settings are gaps. A text has `&` for `&amp;`, which is
escaped again in a translation. `&lt;` and `&gt;` stay as they are, since `<` begins a tag.

Source: WebVTT, W3C Candidate Recommendation of 4 April 2019, sections 4.1 and 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hymt_batch.formats.spliced import Place, PlaceOptions, UnreadableFileError
from hymt_batch.formats.subtitles.cues import Cue, Line, first_line_ending, make_cue, safe_lines, split_lines
from hymt_batch.formats.subtitles.places import joined_places, places_of, splice_cues, subtitle_format
from hymt_batch.formats.text_encoding import BOM

_HEADER = re.compile(rb"WEBVTT(?:[ \t][^\r\n]*)?(?=[\r\n]|\Z)")
_ENTITY = re.compile(r"&(?:[A-Za-z]+|#\d+|#[xX][0-9A-Fa-f]+);")
_AMPERSAND = re.compile(r"&amp;(?!(?:[A-Za-z]+|#\d+|#[xX][0-9A-Fa-f]+);)")
_TAG = re.compile(r"<[^<>]*>")
_ANGLE = re.compile(r"<[^<>]*>|[<>&]")


class WebVttFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        start = len(BOM) if data.startswith(BOM) else 0
        lines = split_lines(data, start)
        if not _HEADER.match(data, start) and any(not line.is_blank for line in lines):
            raise UnreadableFileError("the first line of a WebVTT file must be WEBVTT", line=1)
        self._cues = list(_find_cues(data, lines))
        self._line_ending = first_line_ending(data)

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        for place in joined_places(self._cues) if options.join_cues else places_of(self._cues):
            has_ampersand = place.text is not None and "&" in place.text
            yield place._replace(text=_AMPERSAND.sub("&", place.text or "")) if has_ampersand else place

    def encode(self, place: Place, text: str) -> bytes:
        if text == place.text:
            return self._data[place.start : place.end]
        source = place.text or ""
        tags = (
            frozenset(_TAG.findall(source) + _ENTITY.findall(source)) if "<" in source or "&" in source else frozenset()
        )

        def encode(piece: str) -> bytes:
            return self._line_ending.join(_escape(line, tags).encode() for line in safe_lines(piece))

        return splice_cues(self._data, place, text, encode) if place.ranges else encode(text)


def _find_cues(data: bytes, lines: Sequence[Line]) -> Iterator[Cue]:
    """Yield the cues: a line with times and the lines after it up to a blank one or to other times."""
    index = 0
    while index < len(lines):
        if not lines[index].is_times:
            index += 1
            continue
        last = index + 1
        while last < len(lines) and not lines[last].is_blank and not lines[last].is_times:
            last += 1
        texts = [(lines[index + 1].start, lines[last - 1].end)] if last > index + 1 else []
        yield make_cue(data, lines[index], texts)
        index = last


def _escape(line: str, kept: frozenset[str]) -> str:
    """Escape what would be a tag or an entity, but for the tags and entities that the source has."""

    def escaped(match: re.Match[str]) -> str:
        found = match[0]
        if len(found) > 1:
            return found if found in kept else f"&lt;{_escape(found[1:-1], kept)}&gt;"
        if found == "&":
            entity = _ENTITY.match(line, match.start())
            return found if entity and entity[0] in kept else "&amp;"
        return {"<": "&lt;", ">": "&gt;"}[found]

    return _ANGLE.sub(escaped, line)


FORMAT = subtitle_format("vtt", "WebVTT subtitles; the texts of the cues", WebVttFile, re.compile(rb"WEBVTT\s"))
