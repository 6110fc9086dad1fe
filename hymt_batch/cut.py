"""Cut one long text into pieces that fit a limit of tokens, in time linear in its length.

A text is cut at blank lines, then lines, sentences, clauses, white space, and only then between characters. Units are
packed greedily; white space stays with what precedes it. No call of a regular expression sees more than MAX_CHARS
characters, so that other threads and stop requests are never kept waiting. Does not know documents or the model.

Source: sentence rule measured on NTREX documents in 38 languages.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from hymt_batch.records import MAX_CHARS

Count = Callable[[str], int]
"""Tokens of a text alone."""

Starts = Callable[[str], Iterator[Sequence[int]]]
"""Where the tokens of a text begin, in characters, ascending, some at a time."""

MARGIN = 8
"""Tokens by which a substring's count may differ from the tokens that begin in it; nearer the limit it is counted."""

_WHITE = re.compile(r"\s*")
_BLANKS = re.compile(r"[^\S\n]*")
_CLOSERS = re.compile(r"""["'”’»›)\]}）】」』》〉]*""")
_FULL_STOPS = re.compile(r"[。！？｡]*")
_STOPS = re.compile(r"[.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]*")
_CLAUSES = re.compile(r"[,;:，；：、،؛—–]*")
_ANY_STOP = re.compile(r"[。！？｡.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]")
_ANY_CLAUSE = re.compile(r"[,;:，；：、،؛—–]")
_ANY_WHITE = re.compile(r"\s")
_UNSPACED_STOPS = "།။"  # end a sentence without white space after them
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


def _run(pattern: re.Pattern[str], text: str, place: int, end: int) -> int:
    """The end of a run that begins at `place`; the pattern is one class of characters, repeated."""
    while place < end:
        stop = min(place + MAX_CHARS, end)
        match = pattern.match(text, place, stop)
        assert match is not None  # it may be empty
        if match.end() < stop:
            return match.end()
        place = stop
    return end


def _first(pattern: re.Pattern[str], text: str, place: int, end: int) -> int:
    """The first character of a class from `place` on; `end` where there is none."""
    while place < end:
        stop = min(place + MAX_CHARS, end)
        if match := pattern.search(text, place, stop):
            return match.start()
        place = stop
    return end


def _paragraphs(text: str, start: int, end: int) -> Iterator[int]:
    place = text.find("\n", start, end)
    while place >= 0:
        place = _run(_BLANKS, text, place + 1, end)
        if place < end and text[place] == "\n":
            place = _run(_WHITE, text, place, end)
            yield place
        place = text.find("\n", place, end)


def _lines(text: str, start: int, end: int) -> Iterator[int]:
    place = text.find("\n", start, end)
    while place >= 0:
        yield place + 1
        place = text.find("\n", place + 1, end)


def _sentences(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _first(_ANY_STOP, text, place, end)) < end:
        stop = _run(_FULL_STOPS, text, place, end)
        if stop > place:
            place = _run(_WHITE, text, _run(_CLOSERS, text, stop, end), end)
            yield place
            continue
        stop = _run(_STOPS, text, place, end)
        closed = _run(_CLOSERS, text, stop, end)
        after = _run(_WHITE, text, closed, end)
        if after > closed:
            yield after
            place = after
            continue
        last = max(text.rfind(mark, place, stop) for mark in _UNSPACED_STOPS)
        if last >= 0:
            yield last + 1
        place = stop


def _clauses(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _first(_ANY_CLAUSE, text, place, end)) < end:
        place = _run(_CLOSERS, text, _run(_CLAUSES, text, place, end), end)
        place = _run(_WHITE, text, place, end)
        yield place


def _words(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _first(_ANY_WHITE, text, place, end)) < end:
        place = _run(_WHITE, text, place, end)
        yield place


_LEVELS = (_paragraphs, _lines, _sentences, _clauses, _words)
"""Each gives the ends of the boundaries of a range, from the best places to cut to the worst."""


class Cutter:
    """Cuts one text.

    Args:
        text: The whole text.
        count: Tokens of a text alone.
        limit: Largest number of tokens of a piece, white space around it aside.
        starts: Where the text's tokens begin; it is asked once, and spares most counts. None: everything is counted.
        step: Called again and again; may raise.
        keep_clusters: Never cut within a character and its combining marks, whatever their length.
    """

    def __init__(
        self,
        text: str,
        count: Count,
        limit: int,
        starts: Starts | None,
        step: Callable[[], None],
        *,
        keep_clusters: bool = False,
    ) -> None:
        self._text, self._count, self._limit, self._step = text, count, limit, step
        self._find_starts, self._keep_clusters = starts, keep_clusters
        self._starts: array[int] | None = None
        self._counted: tuple[int, int] | None = None  # the range that was last counted and fits

    def pieces(self) -> Iterator[str]:
        """Pieces that fit; their concatenation is the text."""
        text = self._text
        self._locate()
        for start, end in self._cut(0, len(text), 0):
            yield text[start:end]

    def fits(self) -> bool:
        """Whether the whole text fits."""
        text = self._text
        start, end = _run(_WHITE, text, 0, len(text)), len(text.rstrip())
        if end - start > MAX_CHARS:
            self._locate()
        return self._fits(start, end) and self._sure(start, end)

    def _locate(self) -> None:
        """Find out where the tokens begin."""
        if self._find_starts is None or self._starts is not None:
            return
        self._starts = array("Q")
        for some in self._find_starts(self._text):
            self._step()
            self._starts.extend(some)

    def _fits(self, start: int, end: int) -> bool:
        """Whether a range without white space around it fits; far from the limit an estimate is enough."""
        size, limit = end - start, self._limit
        if size * 4 <= limit:
            return True
        if size <= limit and len(self._text[start:end].encode("utf-8", "surrogatepass")) <= limit:
            return True
        if self._starts is not None:
            tokens = bisect_left(self._starts, end) - bisect_left(self._starts, start)
            if abs(tokens - limit) > MARGIN:
                return tokens <= limit
        return self._count_fits(start, end)

    def _count_fits(self, start: int, end: int) -> bool:
        self._step()
        fits = self._count(self._text[start:end]) <= self._limit
        if fits:
            self._counted = start, end
        return fits

    def _sure(self, start: int, end: int) -> bool:
        """Whether a range that fits by an estimate does. If not, no estimate is trusted any more."""
        if self._starts is None or self._counted == (start, end) or (end - start) * 4 <= self._limit:
            return True
        if self._count_fits(start, end):
            return True
        self._starts, self._find_starts = None, None
        return False

    def _cut(self, start: int, end: int, level: int) -> Iterator[tuple[int, int]]:
        """Cut a range that does not fit."""
        if level == len(_LEVELS):
            yield from self._pack(start, self._clusters(start, end), self._cut_cluster)
            return
        ends = self._units(start, end, level)
        if len(ends) == 1:
            yield from self._cut(start, end, level + 1)
        else:
            yield from self._pack(start, ends, lambda start, end: self._cut(start, end, level + 1))

    def _pack(
        self, start: int, ends: Sequence[int], cut: Callable[[int, int], Iterator[tuple[int, int]]]
    ) -> Iterator[tuple[int, int]]:
        """Put units together as long as they fit; one that does not fit alone is cut by `cut`."""
        trims = self._trims(start, ends)
        first = 0
        while first < len(ends):
            self._step()
            begin = _run(_WHITE, self._text, start, ends[-1])
            after = self._longest(trims, first, begin)
            if after > first and not self._sure(begin, max(begin, trims[after - 1])):
                continue  # the estimate was wrong; without it
            if after == first:
                yield from cut(start, ends[first])
                after += 1
            else:
                yield start, ends[after - 1]
            start, first = ends[after - 1], after

    def _trims(self, start: int, ends: Sequence[int]) -> list[int]:
        """The end of each unit without the white space that it, and what is before it, ends with."""
        text, trims, last = self._text, [], start
        for end in ends:
            if solid := len(text[start:end].rstrip()):
                last = start + solid
            trims.append(last)
            start = end
        return trims

    def _longest(self, trims: Sequence[int], first: int, begin: int) -> int:
        """Largest number such that the units [first:number] fit together; by doubling, then halving."""
        low, step, fits = first, 1, self._fits
        while low + step <= len(trims) and fits(begin, max(begin, trims[low + step - 1])):
            low += step
            step *= 2
        while step >= 1:
            if low + step <= len(trims) and fits(begin, max(begin, trims[low + step - 1])):
                low += step
            step //= 2
        return low

    def _units(self, start: int, end: int, level: int) -> list[int]:
        """The end of each unit: after each boundary, unless it would be white alone."""
        text, ends = self._text, []
        solid = _run(_WHITE, text, start, end)  # the unit's first character that is not white
        last = start + len(text[start:end].rstrip())
        for place in _LEVELS[level](text, start, end):
            if place >= last:
                break
            if place > solid:
                ends.append(place)
                solid = _run(_WHITE, text, place, end)
                if not len(ends) & 1023:
                    self._step()
        return [*ends, end]

    def _clusters(self, start: int, end: int) -> list[int]:
        """The end of each character, combining marks included."""
        text, combining, ends = self._text, unicodedata.combining, []
        for block in range(start, end, MAX_CHARS):
            self._step()
            for place in range(max(block, start + 1), min(block + MAX_CHARS, end)):
                one = text[place]
                if not (combining(one) or one in _JOINERS or text[place - 1] == "\u200d"):
                    ends.append(place)
        return [*ends, end]

    def _cut_cluster(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut within one character with its marks, which does not fit."""
        if self._keep_clusters or end - start == 1:
            yield start, end
        else:
            yield from self._pack(start, range(start + 1, end + 1), lambda start, end: iter([(start, end)]))
