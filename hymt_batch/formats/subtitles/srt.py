"""SubRip subtitles (.srt): the texts of the cues are places; numbers, times, positions and blank lines are gaps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hymt_batch.formats.spliced import Place, PlaceOptions, UnreadableFileError
from hymt_batch.formats.subtitles.cues import find_cues, first_line_ending, safe_lines, split_lines
from hymt_batch.formats.subtitles.places import joined_places, places_of, splice_cues, subtitle_format
from hymt_batch.formats.text_encoding import BOM


class SubRipFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        lines = split_lines(data, len(BOM) if data.startswith(BOM) else 0)
        if not any(line.is_times for line in lines) and any(not line.is_blank for line in lines):
            raise UnreadableFileError(
                "no line has the times of a subtitle, such as 00:00:01,000 --> 00:00:02,500",
                line=1 + next(index for index, line in enumerate(lines) if not line.is_blank),
            )
        self._cues = list(find_cues(data, lines))
        self._line_ending = first_line_ending(data)

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        if options.join_cues:
            return joined_places(self._cues)
        return places_of(self._cues)

    def encode(self, place: Place, text: str) -> bytes:
        if text == place.text:
            return self._data[place.start : place.end]
        if place.ranges:
            return splice_cues(self._data, place, text, self._encode_lines)
        return self._encode_lines(text)

    def _encode_lines(self, text: str) -> bytes:
        return self._line_ending.join(line.encode() for line in safe_lines(text))


FORMAT = subtitle_format(
    "srt",
    "SubRip subtitles; the texts of the cues",
    SubRipFile,
    re.compile(rb"\d+[ \t]*\r?\n\d\d:\d\d:\d\d,\d{3} --> "),
)
