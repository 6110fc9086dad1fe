"""Put the codes of a source back into a translation that lost some. Knows no format; does not decode.

They go back at the same share of the text, and at the start or the end of a word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from hymt_batch.codes import FoundCode, SourceCodes

MAX_ROUNDS = 4


def put_back(codes: SourceCodes, translation: str) -> str:
    """Return a translation with exactly the codes of its source, in their order, each at the same share of the text.

    A code goes between two words, or between two characters of a script without spaces, and has white space on the
    sides where it has some in the source.
    """
    pieces = codes.found.pieces_of(codes.text)
    for _ in range(MAX_ROUNDS):  # what is left of two codes may be another one
        found = codes.find_in(translation)
        if not found.codes:
            break
        translation = re.sub(" {2,}", " ", " ".join(found.pieces_of(translation)))
    for address in {code.text for code in codes.found.codes if code.text[0].isalnum()}:
        translation = translation.replace(address, " ")  # one that is a part of a longer word
    words = [(match[1], match[2]) for match in _WORD.finditer(translation.strip())]
    ends = [0, *accumulate(len(word) for word, _ in words)]
    total = sum(map(len, pieces)) or 1
    words_after = list(accumulate((_has_word(piece) for piece in reversed(pieces)), initial=0))[-2::-1]
    out, at = _Joined(), 0
    for index, share in enumerate(accumulate(map(len, pieces[:-1]))):
        before, after = pieces[index], pieces[index + 1]
        # each piece of text between two codes gets a word, while there are some
        first = min(at + _has_word(before), len(words))
        last = max(first, len(words) - words_after[index])
        position = _nearest(ends, ends[-1] * share / total, first, last) if words_after[index] else len(words)
        out.add_words(words[at:position])
        code, is_last = codes.found.codes[index], position == len(words)
        out.add_code(code, before[-1:].isspace(), after[:1].isspace(), is_last=is_last)
        at = position
    out.add_words(words[at:])
    return "".join(out.pieces)


def without_codes(codes: SourceCodes) -> str:
    """Return a source without its codes, as a text that can be translated: words stay apart, and spaces single."""
    text, *others = codes.found.pieces_of(codes.text)
    for code, piece in zip(codes.found.codes, others, strict=True):
        if text[-1:].isspace() and piece[:1].isspace():
            piece = piece.lstrip(" \t")
        elif not code.side and text[-1:].isalnum() and piece[:1].isalnum():
            text += " "  # a line break or a placeholder, other than a tag inside a word
        text += piece
    return text.strip()


def _has_word(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def _nearest(ends: Sequence[int], wanted: float, first: int, last: int) -> int:
    """Return the index from first to last whose value is nearest to the wanted one."""
    index = bisect_left(ends, wanted, first, last)
    return index - 1 if index > first and wanted - ends[index - 1] <= ends[index] - wanted else index


class _Joined:
    """A text of words and codes."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._needs_space = False  # before a word, or a code that begins like one

    def add_words(self, words: Sequence[tuple[str, str]]) -> None:
        """Add words, each with the white space after it."""
        if words and self._needs_space and any(map(str.isalnum, words[0][0])):
            self.pieces.append(" ")
        for word, space in words:
            self.pieces += [word, space] if space else [word]
            self._needs_space = False

    def add_code(self, code: FoundCode, space_before: bool, space_after: bool, *, is_last: bool) -> None:
        """Add a code, which has white space where its source has some, and where it would melt into a word."""
        is_word, is_end_tag = not code.side and code.text[0] not in "<{&$", code.side == "close"
        is_first = not self.pieces
        between_words = not is_first and self.pieces[-1].isspace()
        gap = " "
        if between_words:
            gap = self.pieces.pop()
            if not is_last and not (space_before or space_after):
                space_before, space_after = not is_end_tag, is_end_tag  # two words stay two
        space_before = space_before or (between_words and is_word)  # 50 %s, and never 50%s
        glued = is_word and not is_first and not between_words and self.pieces[-1][-1] not in _OPENING
        if (space_before and not is_first and (between_words or is_last)) or glued or self._needs_space:
            self.pieces.append(gap)
            gap = " "
        self.pieces.append(code.text)
        self._needs_space = is_word
        if (between_words or is_first) and space_after and not is_last:
            self.pieces.append(gap)
            self._needs_space = False


_OPENING = "([{\"'«“‘（「『"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(rf"((?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)[\u0300-\u036f]*)(\s*)")
"""A word, or a character of a script without spaces, and the white space after it."""
