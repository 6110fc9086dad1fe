r"""Find the texts of subtitle cues, also in files that break the rules, and write texts back into them.

A cue is a line with two times and the lines of text after it. Only the line with the times is searched for, so that the
broken files of real life are read too: blank lines before or inside a text, none between two cues, numbers that are
wrong or missing, texts that are numbers, cues without a text.

A run of lines without a blank one is a place. Markup around the whole text (`<i>...</i>`, a leading `{\an8}`) stays
outside of it; markup inside it is a part of the text. Lines of a text are separated by "\n" in it, whatever the file's
line ending is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file."""

    start: int
    end: int  # before its line ending
    is_blank: bool
    is_times: bool


@dataclass(frozen=True, slots=True)
class CueText:
    """A run of lines of a cue, in which a translation takes the place of the text between its markup."""

    start: int  # of the text, after the markup around it
    end: int
    text: str | None  # None: its bytes are not in the encoding of the file
    error: RowError | None = None


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue."""

    start_ms: int
    end_ms: int
    texts: tuple[CueText, ...]  # () if it has none; more than one if blank lines divide it


def split_lines(data: bytes, start: int) -> list[Line]:
    """Return the lines of a file from an offset on."""
    lines = []
    while start < len(data):
        match = LINE.match(data, start)
        assert match is not None  # matches the empty string too
        content = match[1]
        times = b">" in content and TIMES.fullmatch(content) is not None
        lines.append(Line(start, match.end(1), not content.strip(), times))
        start = match.end()
    return lines


def first_line_ending(data: bytes) -> bytes:
    """Return the ending of a file's first line; a line feed if it has none."""
    match = LINE.match(data)
    return (match[2] if match else b"") or b"\n"


def runs(lines: Sequence[Line]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of lines that are not blank."""
    for is_blank, run in itertools.groupby(lines, key=lambda line: line.is_blank):
        if not is_blank:
            first, *others = run
            yield first.start, (others[-1] if others else first).end


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


def make_cue(data: bytes, times: Line, texts: Iterator[tuple[int, int]]) -> Cue:
    """Return a cue with the texts at these offsets."""
    match = TIMES.match(data, times.start)
    assert match is not None
    numbers = [0 if group is None else int(group) for group in match.groups()]
    # "1" after the point is a tenth of a second
    numbers[3], numbers[7] = (int((match[group] or b"0").ljust(3, b"0")) for group in (4, 8))
    start_ms, end_ms = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:]))
    made = [_make_text(data, *text) for text in texts]
    return Cue(start_ms, end_ms, tuple(text for text in made if text.text != ""))  # "": nothing but markup


def _make_text(data: bytes, start: int, end: int) -> CueText:
    try:
        raw = data[start:end].decode()
    except UnicodeDecodeError as error:
        return CueText(start, end, None, RowError(not_utf8_message(error, "text"), Status.BAD_ENCODING))
    first, last = without_outer_markup(raw)
    return CueText(
        start + len(raw[:first].encode()),
        start + len(raw[:last].encode()),
        _LINE_BREAK.sub("\n", raw[first:last]),
    )


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
    kept = [line.replace("-->", "→").replace("->", "→") if TIMES.fullmatch(line.encode()) else line for line in lines]
    return [line for line in kept if line]
