"""Cut one long text into pieces within a token limit, in time linear in the length of the text.

A text is cut at blank lines, then at lines, sentences, clauses and white space, and only then between characters.
Units are packed greedily, and white space stays with the unit before it. Given ranges, such as the codes of a text, are
cut only where one does not fit by itself. No regular expression call gets more than
MAX_CHUNK_CHARS characters, so that it never delays other threads or a stop request for long. Independent of documents
and the model.

Source: the sentence rule was measured on NTREX documents in 38 languages.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from hymt_batch.records import MAX_CHUNK_CHARS

CountTokens = Callable[[str], int]
"""Returns the number of tokens of a text."""

FindTokenStarts = Callable[[str], Iterator[Sequence[int]]]
"""Yields the offsets, in characters, at which the tokens of a text begin: ascending, in batches."""

ESTIMATE_MARGIN = 8
"""Tokens by which the count of a substring may differ from the number of token starts in it. A substring whose estimate
is this near the limit is counted exactly."""

_WHITESPACE = re.compile(r"\s*")
_LINE_WHITESPACE = re.compile(r"[^\S\n]*")
_CLOSERS = re.compile(r"""["'”’»›)\]}）】」』》〉]*""")
_FULL_STOPS = re.compile(r"[。！？｡]*")
_STOPS = re.compile(r"[.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]*")
_CLAUSES = re.compile(r"[,;:，；：、،؛—–]*")
_ANY_STOP = re.compile(r"[。！？｡.!?…؟۔।॥།༎༏༐༑။៕᠃᠉‼⁇⁈⁉]")
_ANY_CLAUSE = re.compile(r"[,;:，；：、،؛—–]")
_ANY_WHITESPACE = re.compile(r"\s")
_UNSPACED_STOPS = "།။"  # these end a sentence without a following space
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


def _run_end(pattern: re.Pattern[str], text: str, position: int, end: int) -> int:
    """Return the end of the run that begins at `position`; the pattern is one repeated character class."""
    while position < end:
        stop = min(position + MAX_CHUNK_CHARS, end)
        match = pattern.match(text, position, stop)
        assert match is not None  # the pattern also matches the empty string
        if match.end() < stop:
            return match.end()
        position = stop
    return end


def _find_first(pattern: re.Pattern[str], text: str, position: int, end: int) -> int:
    """Return the position of the first match of `pattern` from `position` on; `end` if there is none."""
    while position < end:
        stop = min(position + MAX_CHUNK_CHARS, end)
        if match := pattern.search(text, position, stop):
            return match.start()
        position = stop
    return end


def _paragraph_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = text.find("\n", start, end)
    while position >= 0:
        position = _run_end(_LINE_WHITESPACE, text, position + 1, end)
        if position < end and text[position] == "\n":
            position = _run_end(_WHITESPACE, text, position, end)
            yield position
        position = text.find("\n", position, end)


def _line_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = text.find("\n", start, end)
    while position >= 0:
        yield position + 1
        position = text.find("\n", position + 1, end)


def _sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = start
    while (position := _find_first(_ANY_STOP, text, position, end)) < end:
        stop = _run_end(_FULL_STOPS, text, position, end)
        if stop > position:
            position = _run_end(_WHITESPACE, text, _run_end(_CLOSERS, text, stop, end), end)
            yield position
            continue
        stop = _run_end(_STOPS, text, position, end)
        closed = _run_end(_CLOSERS, text, stop, end)
        after = _run_end(_WHITESPACE, text, closed, end)
        if after > closed:
            yield after
            position = after
            continue
        last = max(text.rfind(mark, position, stop) for mark in _UNSPACED_STOPS)
        if last >= 0:
            yield last + 1
        position = stop


def _clause_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = start
    while (position := _find_first(_ANY_CLAUSE, text, position, end)) < end:
        position = _run_end(_CLOSERS, text, _run_end(_CLAUSES, text, position, end), end)
        position = _run_end(_WHITESPACE, text, position, end)
        yield position


def _word_ends(text: str, start: int, end: int) -> Iterator[int]:
    position = start
    while (position := _find_first(_ANY_WHITESPACE, text, position, end)) < end:
        position = _run_end(_WHITESPACE, text, position, end)
        yield position


LEVELS = (_paragraph_ends, _line_ends, _sentence_ends, _clause_ends, _word_ends)
"""Functions that yield the ends of the boundaries in a range, from the best kind of boundary to the worst."""


class Cutter:
    """Cuts one text.

    Args:
        text: The whole text.
        count_tokens: Returns the number of tokens of a text.
        limit: Maximum number of tokens of a piece, without the white space around it.
        find_token_starts: Yields where the tokens of the text begin; called at most once, it saves most calls of
            `count_tokens`. None: every range is counted.
        check_stop: Called often; may raise.
        keep_clusters: Never cut between a character and its combining marks, even if the piece is then over the limit.
        kept_ranges: Start and end of ranges that are not cut, in order; they do not overlap.
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
        kept_ranges: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._text, self._count_tokens, self._limit, self._check_stop = text, count_tokens, limit, check_stop
        self._find_token_starts, self._keep_clusters = find_token_starts, keep_clusters
        self._kept_starts = [start for start, _ in kept_ranges]
        self._kept_ends = [end for _, end in kept_ranges]
        self._token_starts: array[int] | None = None
        self._last_counted: tuple[int, int] | None = None  # the last range that was counted and fits

    def pieces(self) -> Iterator[str]:
        """Yield pieces that fit the limit; their concatenation is the text."""
        text = self._text
        self._locate_tokens()
        for start, end in self._cut(0, len(text), 0):
            yield text[start:end]

    def fits(self) -> bool:
        """Return whether the whole text fits the limit."""
        text = self._text
        start, end = _run_end(_WHITESPACE, text, 0, len(text)), len(text.rstrip())
        if end - start > MAX_CHUNK_CHARS:
            self._locate_tokens()
        return self._fits(start, end) and self._confirm(start, end)

    def _locate_tokens(self) -> None:
        """Find the start of each token, once."""
        if self._find_token_starts is None or self._token_starts is not None:
            return
        self._token_starts = array("Q")
        for starts in self._find_token_starts(self._text):
            self._check_stop()
            self._token_starts.extend(starts)

    def _fits(self, start: int, end: int) -> bool:
        """Return whether a range without surrounding white space fits; far from the limit an estimate is enough."""
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
        """Return whether a range that fits by the estimate really fits; if not, stop using estimates."""
        if self._token_starts is None or self._last_counted == (start, end) or (end - start) * 4 <= self._limit:
            return True
        if self._count_fits(start, end):
            return True
        self._token_starts, self._find_token_starts = None, None
        return False

    def _cut(self, start: int, end: int, level: int) -> Iterator[tuple[int, int]]:
        """Cut a range that does not fit, at the best kind of boundary that it has."""
        if level == len(LEVELS):
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
        """Pack units into pieces as long as they fit; a unit that does not fit alone is cut by `cut`."""
        trims = self._trimmed_ends(start, ends)
        first = 0
        while first < len(ends):
            self._check_stop()
            begin = _run_end(_WHITESPACE, self._text, start, ends[-1])
            after = self._last_fitting(trims, first, begin)
            if after > first and not self._confirm(begin, max(begin, trims[after - 1])):
                continue  # the estimate was wrong: count this range instead
            if after == first:
                yield from cut(start, ends[first])
                after += 1
            else:
                yield start, ends[after - 1]
            start, first = ends[after - 1], after

    def _trimmed_ends(self, start: int, ends: Sequence[int]) -> list[int]:
        """Return the end of each unit without trailing white space; a blank unit ends where the text before it does."""
        text, trims, last = self._text, [], start
        for end in ends:
            if solid := len(text[start:end].rstrip()):
                last = start + solid
            trims.append(last)
            start = end
        return trims

    def _last_fitting(self, trims: Sequence[int], first: int, begin: int) -> int:
        """Return the largest `n` such that the units [first:n] fit together, by doubling the step, then halving it."""
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
        """Return the end of each unit: after each boundary, except where the unit would be white space only."""
        text, ends = self._text, []
        solid = _run_end(_WHITESPACE, text, start, end)  # the first character of the unit that is not white space
        last = start + len(text[start:end].rstrip())
        for boundary in LEVELS[level](text, start, end):
            if boundary >= last:
                break
            if boundary > solid and not self._is_in_kept_range(boundary):
                ends.append(boundary)
                solid = _run_end(_WHITESPACE, text, boundary, end)
                if not len(ends) & 1023:
                    self._check_stop()
        return [*ends, end]

    def _is_in_kept_range(self, position: int) -> bool:
        """Return whether a cut at a position would be in a range that is not cut."""
        index = bisect_left(self._kept_starts, position) - 1
        return index >= 0 and position < self._kept_ends[index]

    def _cluster_ends(self, start: int, end: int) -> list[int]:
        """Return the end of each character, combining marks included."""
        text, combining, ends = self._text, unicodedata.combining, []
        for block in range(start, end, MAX_CHUNK_CHARS):
            self._check_stop()
            for position in range(max(block, start + 1), min(block + MAX_CHUNK_CHARS, end)):
                character = text[position]
                joins = combining(character) or character in _JOINERS or text[position - 1] == "\u200d"
                if not joins and not self._is_in_kept_range(position):
                    ends.append(position)
        return [*ends, end]

    def _cut_cluster(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a single character with combining marks, or a kept range, that does not fit, between its code points."""
        if self._keep_clusters or end - start == 1:
            yield start, end
        else:
            yield from self._pack(start, range(start + 1, end + 1), lambda start, end: iter([(start, end)]))
