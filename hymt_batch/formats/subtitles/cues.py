r"""Find the texts of subtitle cues, also in files that break the rules, and write texts back into them.

A cue is a line with two times and the lines of text after it. Only the line with the times is searched for, so that the
broken files of real life are read too: blank lines before or inside a text, none between two cues, numbers that are
wrong or missing, texts that are numbers, cues without a text.

A run of lines without a blank one is a place. Markup around the whole text (`<i>...</i>`, a leading `{\an8}`) stays
outside of it; markup inside it is a part of the text. Lines of a text are separated by "\n" in it, whatever the file's
line ending is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.records import Status

_TIME = rb"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,:](\d{1,3}))?"
TIMES = re.compile(rb"[ \t]*" + _TIME + rb"[ \t]*-{1,2}>[ \t]*" + _TIME + rb"(?:[ \t][^\r\n]*)?(?=[\r\n]|\Z)")
"""A line with the start and the end of a cue, and perhaps positions or settings."""

LINE = re.compile(rb"([^\r\n]*)(\r*\n|\r|\Z)")
"""A line and its ending: \\n, \\r\\n, \\r, or \\r\\r\\n as damaged transfers leave it."""

MAX_DEPTH = 8
"""Layers of markup around a text that are looked for."""

_LINE_BREAK = re.compile(r"[ \t]*(?:\r*\n|\r)[ \t]*")
_NUMBER = re.compile(rb"[ \t]*\d+[ \t]*\Z")
_LEADING_CODE = re.compile(r"\{\\[^{}\r\n]*\}\s*")
_TAG = re.compile(r"<(/?)\s*([A-Za-z]+)[^<>\r\n]*>")
_PLAIN_EDGE = re.compile(r"[^\s<{]")


class Line(NamedTuple):
    """A line of a file."""

    start: int
    end: int  # before its line ending
    is_blank: bool
    is_times: bool


class CueText(NamedTuple):
    """A run of lines of a cue, in which a translation takes the place of the text between its markup."""

    start: int  # of the text, after the markup around it
    end: int
    text: str | None  # None: its bytes are not in the encoding of the file
    error: RowError | None = None


class Cue(NamedTuple):
    """A cue, of any format."""

    read_times: Callable[[], tuple[int, int]]  # returns its start and its end in milliseconds
    texts: tuple[CueText, ...]  # () if it has none; more than one if blank lines divide it


def read_times(line: bytes) -> tuple[int, int]:
    """Return start and end of a cue in milliseconds, by its line with the times."""
    match = TIMES.match(line)
    assert match is not None
    groups = match.groups()
    return _milliseconds(groups[:4]), _milliseconds(groups[4:8])


def _milliseconds(groups: Sequence[bytes | None]) -> int:
    """Return a time by its four groups of `TIMES`."""
    hours, minutes, seconds, fraction = (group or b"0" for group in groups)
    # "1" after the point is a tenth of a second
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, b"0"))


def split_lines(data: bytes, start: int) -> list[Line]:
    """Return the lines of a file from an offset on."""
    lines = []
    for match in LINE.finditer(data, start):
        first, end = match.span(1)
        if first == len(data):
            break
        content = match[1]
        times = b"->" in content and TIMES.fullmatch(content) is not None
        lines.append(Line(first, end, not content or content.isspace(), times))
    return lines


def first_line_ending(data: bytes) -> bytes:
    """Return the ending of a file's first line; a line feed if it has none."""
    match = LINE.match(data)
    return (match[2] if match else b"") or b"\n"


def runs(lines: Iterable[Line]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of lines that are not blank."""
    start, end = -1, -1
    for line in lines:
        if not line.is_blank:
            start, end = line.start if start < 0 else start, line.end
        elif start >= 0:
            yield start, end
            start = -1
    if start >= 0:
        yield start, end


def find_cues(data: bytes, lines: Sequence[Line]) -> Iterator[Cue]:
    """Yield the cues of a SubRip file; what precedes the first line with times is no text."""
    times = [index for index, line in enumerate(lines) if line.is_times]
    # numbers are those of a file in which most cues have one, so that a text of digits is not taken for one
    numbered = sum(_has_number(data, lines, index) for index in times) * 2 > len(times)
    for index, following in zip(times, [*times[1:], len(lines)], strict=False):
        last = following
        if following < len(lines) and numbered and _has_number(data, lines, following):
            last -= 1
        yield make_cue(data, lines[index], runs(lines[index + 1 : last]))


def _has_number(data: bytes, lines: Sequence[Line], index: int) -> bool:
    """Return whether the line before a line with times is a cue's number."""
    if not index:
        return False
    before = lines[index - 1]
    return not before.is_times and _NUMBER.match(data, before.start, before.end) is not None


def make_cue(data: bytes, times: Line, texts: Iterable[tuple[int, int]]) -> Cue:
    """Return a cue with the texts at these offsets, and the times of a line."""
    return Cue(partial(read_times, data[times.start : times.end]), find_texts(data, texts))


def find_texts(data: bytes, ranges: Iterable[tuple[int, int]]) -> tuple[CueText, ...]:
    """Return the texts at these offsets, each without the markup around it; one of nothing but markup is left out."""
    made = [_make_text(data, start, end) for start, end in ranges]
    return tuple([text for text in made if text.text != ""])


def _make_text(data: bytes, start: int, end: int) -> CueText:
    try:
        raw = data[start:end].decode()
    except UnicodeDecodeError as error:
        return CueText(start, end, None, RowError(not_utf8_message(error, "text"), Status.BAD_ENCODING))
    if _PLAIN_EDGE.match(raw) and not raw[-1].isspace():
        return CueText(start, end, _with_line_feeds(raw))
    first, last = without_outer_markup(raw)
    return CueText(
        start + len(raw[:first].encode()), start + len(raw[:last].encode()), _with_line_feeds(raw[first:last])
    )


def _with_line_feeds(text: str) -> str:
    """Return a text with "\\n" for each of its line breaks and the white space around it."""
    if "\r" not in text and "\t" not in text and " \n" not in text and "\n " not in text:
        return text
    return _LINE_BREAK.sub("\n", text)


def without_outer_markup(text: str) -> tuple[int, int]:
    r"""Return start and end of what is inside the white space and the markup around a whole text.

    Markup is around it if it begins the text and ends with it: codes such as `{\an8}` at the start, and a tag at the
    start whose own end tag is at the end.
    """
    start, end = 0, len(text)
    for _ in range(MAX_DEPTH):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end -= len(text[start:end]) - len(text[start:end].rstrip())
        if code := _LEADING_CODE.match(text, start, end):
            start = code.end()
        elif (inner := _inside_tag(text, start, end)) is not None:
            start, end = inner
        else:
            break
    return start, end


def _inside_tag(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return what is inside the tag around text[start:end]; None if no tag is around it."""
    first = _TAG.match(text, start, end)
    if not first or first[1]:
        return None
    open_tags: list[str] = []
    for tag in _TAG.finditer(text, start, end):
        name = tag[2].lower()
        if not tag[1]:
            open_tags.append(name)
        elif not open_tags or open_tags.pop() != name:
            return None  # badly nested: the tags stay in the text
        elif not open_tags:
            return (first.end(), tag.start()) if tag.end() == end else None
    return None


def safe_lines(text: str) -> list[str]:
    """Return the lines of a translation, without what would end a cue: blank lines, and lines that are times."""
    lines = [line.strip() for line in text.splitlines()]
    if "->" in text:
        lines = [
            line.replace("-->", "→").replace("->", "→") if TIMES.fullmatch(line.encode()) else line for line in lines
        ]
    return [line for line in lines if line]
