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

from hymt_batch.records import MAX_CHUNK_CHARS

CountTokens = Callable[[str], int]
"""Tokens of a text alone."""

FindTokenStarts = Callable[[str], Iterator[Sequence[int]]]
"""Where the tokens of a text begin, in characters, ascending, some at a time."""

ESTIMATE_MARGIN = 8
"""Tokens by which a substring's count may differ from the tokens that begin in it; nearer the limit it is counted."""

_WHITESPACE = re.compile(r"\s*")
_LINE_WHITESPACE = re.compile(r"[^\S\n]*")
_CLOSERS = re.compile(r"""["'”’»›)\]}）】」』》〉]*""")
_FULL_STOPS = re.compile(r"[。！？｡]*")
_STOPS = re.compile(r"[.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]*")
_CLAUSES = re.compile(r"[,;:，；：、،؛—–]*")
_ANY_STOP = re.compile(r"[。！？｡.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]")
_ANY_CLAUSE = re.compile(r"[,;:，；：、،؛—–]")
_ANY_WHITESPACE = re.compile(r"\s")
_UNSPACED_STOPS = "།။"  # end a sentence without white space after them
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


def _run_end(pattern: re.Pattern[str], text: str, position: int, end: int) -> int:
    """The end of a run that begins at `place`; the pattern is one class of characters, repeated."""
    while position < end:
        stop = min(position + MAX_CHUNK_CHARS, end)
        match = pattern.match(text, position, stop)
        assert match is not None  # it may be empty
        if match.end() < stop:
            return match.end()
        position = stop
    return end


def _find_first(pattern: re.Pattern[str], text: str, position: int, end: int) -> int:
    """The first character of a class from `place` on; `end` where there is none."""
    while position < end:
        stop = min(position + MAX_CHUNK_CHARS, end)
        if match := pattern.search(text, position, stop):
            return match.start()
        position = stop
    return end


def _paragraph_ends(text: str, start: int, end: int) -> Iterator[int]:
    place = text.find("\n", start, end)
    while place >= 0:
        place = _run_end(_LINE_WHITESPACE, text, place + 1, end)
        if place < end and text[place] == "\n":
            place = _run_end(_WHITESPACE, text, place, end)
            yield place
        place = text.find("\n", place, end)


def _line_ends(text: str, start: int, end: int) -> Iterator[int]:
    place = text.find("\n", start, end)
    while place >= 0:
        yield place + 1
        place = text.find("\n", place + 1, end)


def _sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _find_first(_ANY_STOP, text, place, end)) < end:
        stop = _run_end(_FULL_STOPS, text, place, end)
        if stop > place:
            place = _run_end(_WHITESPACE, text, _run_end(_CLOSERS, text, stop, end), end)
            yield place
            continue
        stop = _run_end(_STOPS, text, place, end)
        closed = _run_end(_CLOSERS, text, stop, end)
        after = _run_end(_WHITESPACE, text, closed, end)
        if after > closed:
            yield after
            place = after
            continue
        last = max(text.rfind(mark, place, stop) for mark in _UNSPACED_STOPS)
        if last >= 0:
            yield last + 1
        place = stop


def _clause_ends(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _find_first(_ANY_CLAUSE, text, place, end)) < end:
        place = _run_end(_CLOSERS, text, _run_end(_CLAUSES, text, place, end), end)
        place = _run_end(_WHITESPACE, text, place, end)
        yield place


def _word_ends(text: str, start: int, end: int) -> Iterator[int]:
    place = start
    while (place := _find_first(_ANY_WHITESPACE, text, place, end)) < end:
        place = _run_end(_WHITESPACE, text, place, end)
        yield place


_LEVELS = (_paragraph_ends, _line_ends, _sentence_ends, _clause_ends, _word_ends)
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
        count_tokens: CountTokens,
        limit: int,
        find_token_starts: FindTokenStarts | None,
        check_stop: Callable[[], None],
        *,
        keep_clusters: bool = False,
    ) -> None:
        self._text, self._count_tokens, self._limit, self._check_stop = text, count_tokens, limit, check_stop
        self._find_token_starts, self._keep_clusters = find_token_starts, keep_clusters
        self._token_starts: array[int] | None = None
        self._last_counted: tuple[int, int] | None = None  # the range that was last counted and fits

    def pieces(self) -> Iterator[str]:
        """Pieces that fit; their concatenation is the text."""
        text = self._text
        self._locate_tokens()
        for start, end in self._cut(0, len(text), 0):
            yield text[start:end]

    def fits(self) -> bool:
        """Whether the whole text fits."""
        text = self._text
        start, end = _run_end(_WHITESPACE, text, 0, len(text)), len(text.rstrip())
        if end - start > MAX_CHUNK_CHARS:
            self._locate_tokens()
        return self._fits(start, end) and self._confirm(start, end)

    def _locate_tokens(self) -> None:
        """Find out where the tokens begin."""
        if self._find_token_starts is None or self._token_starts is not None:
            return
        self._token_starts = array("Q")
        for some in self._find_token_starts(self._text):
            self._check_stop()
            self._token_starts.extend(some)

    def _fits(self, start: int, end: int) -> bool:
        """Whether a range without white space around it fits; far from the limit an estimate is enough."""
        size, limit = end - start, self._limit
        if size * 4 <= limit:
            return True
        if size <= limit and len(self._text[start:end].encode("utf-8", "surrogatepass")) <= limit:
            return True
        if self._token_starts is not None:
            tokens = bisect_left(self._token_starts, end) - bisect_left(self._token_starts, start)
            if abs(tokens - limit) > ESTIMATE_MARGIN:
                return tokens <= limit
        return self._count_fits(start, end)

    def _count_fits(self, start: int, end: int) -> bool:
        self._check_stop()
        fits = self._count_tokens(self._text[start:end]) <= self._limit
        if fits:
            self._last_counted = start, end
        return fits

    def _confirm(self, start: int, end: int) -> bool:
        """Whether a range that fits by an estimate does. If not, no estimate is trusted any more."""
        if self._token_starts is None or self._last_counted == (start, end) or (end - start) * 4 <= self._limit:
            return True
        if self._count_fits(start, end):
            return True
        self._token_starts, self._find_token_starts = None, None
        return False

    def _cut(self, start: int, end: int, level: int) -> Iterator[tuple[int, int]]:
        """Cut a range that does not fit."""
        if level == len(_LEVELS):
            yield from self._pack(start, self._cluster_ends(start, end), self._cut_cluster)
            return
        ends = self._unit_ends(start, end, level)
        if len(ends) == 1:
            yield from self._cut(start, end, level + 1)
        else:
            yield from self._pack(start, ends, lambda start, end: self._cut(start, end, level + 1))

    def _pack(
        self, start: int, ends: Sequence[int], cut: Callable[[int, int], Iterator[tuple[int, int]]]
    ) -> Iterator[tuple[int, int]]:
        """Put units together as long as they fit; one that does not fit alone is cut by `cut`."""
        trims = self._trimmed_ends(start, ends)
        first = 0
        while first < len(ends):
            self._check_stop()
            begin = _run_end(_WHITESPACE, self._text, start, ends[-1])
            after = self._last_fitting(trims, first, begin)
            if after > first and not self._confirm(begin, max(begin, trims[after - 1])):
                continue  # the estimate was wrong; without it
            if after == first:
                yield from cut(start, ends[first])
                after += 1
            else:
                yield start, ends[after - 1]
            start, first = ends[after - 1], after

    def _trimmed_ends(self, start: int, ends: Sequence[int]) -> list[int]:
        """The end of each unit without the white space that it, and what is before it, ends with."""
        text, trims, last = self._text, [], start
        for end in ends:
            if solid := len(text[start:end].rstrip()):
                last = start + solid
            trims.append(last)
            start = end
        return trims

    def _last_fitting(self, trims: Sequence[int], first: int, begin: int) -> int:
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

    def _unit_ends(self, start: int, end: int, level: int) -> list[int]:
        """The end of each unit: after each boundary, unless it would be white alone."""
        text, ends = self._text, []
        solid = _run_end(_WHITESPACE, text, start, end)  # the unit's first character that is not white
        last = start + len(text[start:end].rstrip())
        for place in _LEVELS[level](text, start, end):
            if place >= last:
                break
            if place > solid:
                ends.append(place)
                solid = _run_end(_WHITESPACE, text, place, end)
                if not len(ends) & 1023:
                    self._check_stop()
        return [*ends, end]

    def _cluster_ends(self, start: int, end: int) -> list[int]:
        """The end of each character, combining marks included."""
        text, combining, ends = self._text, unicodedata.combining, []
        for block in range(start, end, MAX_CHUNK_CHARS):
            self._check_stop()
            for place in range(max(block, start + 1), min(block + MAX_CHUNK_CHARS, end)):
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
