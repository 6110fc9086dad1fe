"""Codes in a text that a translation must keep: tags, placeholders, addresses. Knows no format; does not decode.

A format can name more codes of a text, such as a code span of Markdown (`records.FormatCodes`).

A translation keeps the codes of its source if it has each of them as often, and its tags are nested. If it does not,
the codes that it has are removed and those of the source are put back, at the same share of the text and at the start
or the end of a word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from hymt_batch.records import FormatCodes

_CODE = re.compile(  # with bounds, so that no text takes more than linear time
    r"</?[A-Za-z][^<>\n]{0,500}>"  # tags of HTML, XML and subtitles
    r"|<(?:\d{1,4}:)?\d\d:\d\d\.\d{3}>"  # times inside a WebVTT cue
    r"|&(?:[A-Za-z][A-Za-z0-9]{0,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"
    r"|\{\{[^{}\n]{0,200}\}\}|\$?\{[^{}\n]{0,200}\}"  # {x} {0,number} {{x}} ${x} {\an8}
    r"|(?<![\w%])%(?:\d{1,3}\$)?[-+#0]{0,4}\d{0,4}(?:\.\d{0,4})?(?:hh|h|ll|l|L|q|j|z|t)?[diouxXeEfFgGcspn@](?!\w)"
    r"|%\(\w{1,64}\)[-+#0]{0,4}\d{0,4}(?:\.\d{0,4})?[diouxXeEfFgGcrs]"  # printf with a name, also inside a word
    r"|(?:https?|ftp)://[^\s<>\"'{}，。、！？；：）】」』]{0,2000}[^\s<>\"'{}，。、！？；：）】」』.,;:!?)\]]"
    r"|(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"
)
MAX_ROUNDS = 4
_TAG = re.compile(r"<(/?)([A-Za-z][^\s<>/]*)[^<>]*?(/?)>")
_VOID_TAGS = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})


def find_codes(text: str, own: FormatCodes = ()) -> list[str]:
    """Return the codes of a text, in order; `own` are those that only its format knows."""
    if not own:
        return _CODE.findall(text) if _may_have_codes(text) else []
    return [text[start:end] for start, end in _spans(text, own)]


def _spans(text: str, own: FormatCodes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each code; where two overlap, the one that begins first."""
    pattern = _own_pattern(own)
    of_format, of_text = pattern.search(text) if pattern else None, _CODE.search(text)
    while of_format or of_text:
        is_own = of_text is None or (of_format is not None and of_format.start() <= of_text.start())
        code = of_format if is_own else of_text
        assert code is not None
        yield code.span()
        if pattern and of_format and of_format.start() < code.end():
            of_format = pattern.search(text, code.end())
        if of_text and of_text.start() < code.end():
            of_text = _CODE.search(text, code.end())


@lru_cache(1024)
def _own_pattern(own: FormatCodes) -> re.Pattern[str] | None:
    """Return what matches these codes; those of word characters, such as `_`, only at the edge of a word."""
    alternatives = []
    for code in sorted({code for code, _ in own}, key=lambda code: (-len(code), code)):
        escaped = re.escape(code)
        alternatives.append(rf"(?<!\w){escaped}|{escaped}(?!\w)" if re.fullmatch(r"\w+", code) else escaped)
    return re.compile("|".join(alternatives)) if alternatives else None


def _may_have_codes(text: str) -> bool:
    return any(character in text for character in "<{%&@") or "://" in text


def keeps_codes(source: str, translation: str, own: FormatCodes = ()) -> bool:
    """Return whether a translation has the codes of its source, each as often, with tags nested where the source's are.

    The order of codes may differ, as the order of words does.
    """
    of_source, of_translation = find_codes(source, own), find_codes(translation, own)
    if Counter(of_source) != Counter(of_translation):
        return False
    return of_source == of_translation or are_nested(of_translation, own) or not are_nested(of_source, own)


def are_nested(codes: list[str], own: FormatCodes = ()) -> bool:
    """Return whether each start tag of these codes has its end tag, well nested."""
    open_tags: list[str] = []
    pairs, names = frozenset(own), frozenset(code for code, _ in own)
    openers = frozenset(opener for _, opener in own)
    for code in codes:
        if code in names:
            if open_tags and (code, open_tags[-1]) in pairs:
                open_tags.pop()
            elif code in openers:
                open_tags.append(code)
            elif (code, "") not in pairs:
                return False
            continue
        tag = _TAG.fullmatch(code)
        if tag is None or tag[3] or tag[2].lower() in _VOID_TAGS:
            continue
        name = tag[2].split(".")[0]  # <c.yellow> of WebVTT is closed by </c>
        if not tag[1]:
            open_tags.append(name)
        elif not open_tags or open_tags.pop() != name:
            return False
    return not open_tags


def put_back(source: str, translation: str, own: FormatCodes = ()) -> str:
    """Return a translation with exactly the codes of its source, in their order, each at the same share of the text.

    A code goes between two words, or between two characters of a script without spaces, and has white space on the
    sides where it has some in the source.
    """
    codes, pieces = _split(source, own)
    for _ in range(MAX_ROUNDS):  # what is left of two codes may be another one
        removed, kept = _split(translation, own)
        if not removed:
            break
        translation = re.sub(" {2,}", " ", " ".join(kept))
    words = [(match[1], match[2]) for match in _WORD.finditer(translation.strip())]
    ends = [0, *accumulate(len(word) for word, _ in words)]
    total = sum(map(len, pieces)) or 1
    words_after = list(accumulate((_has_word(piece) for piece in reversed(pieces)), initial=0))[-2::-1]
    out, at, sides = _Joined(), 0, _sides(codes, own)
    for index, share in enumerate(accumulate(map(len, pieces[:-1]))):
        before, after = pieces[index], pieces[index + 1]
        # each piece of text between two codes gets a word, while there are some
        first = min(at + _has_word(before), len(words))
        last = max(first, len(words) - words_after[index])
        position = _nearest(ends, ends[-1] * share / total, first, last) if words_after[index] else len(words)
        out.add_words(words[at:position])
        side = sides[index]
        out.add_code(codes[index], side, before[-1:].isspace(), after[:1].isspace(), is_last=position == len(words))
        at = position
    out.add_words(words[at:])
    return "".join(out.pieces)


def _split(text: str, own: FormatCodes) -> tuple[list[str], list[str]]:
    """Return the codes of a text, and the pieces of text before, between and after them."""
    spans = list(_spans(text, own))
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    codes = [text[start:end] for start, end in spans]
    return codes, [text[start:end] for start, end in zip([0, *ends], [*starts, len(text)], strict=True)]


def _sides(codes: Sequence[str], own: FormatCodes) -> list[str]:
    """Return for each code whether it opens or closes a pair: "open", "close", or "" for one that stands alone."""
    pairs, openers, open_codes, sides = frozenset(own), frozenset(opener for _, opener in own), [""], []
    for code in codes:
        if open_codes[-1] and (code, open_codes[-1]) in pairs:
            open_codes.pop()
            sides.append("close")
        elif code and code in openers:
            open_codes.append(code)
            sides.append("open")
        else:
            sides.append("close" if code.startswith("</") else "open" if code.startswith("<") else "")
    return sides


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

    def add_code(self, code: str, side: str, space_before: bool, space_after: bool, *, is_last: bool) -> None:
        """Add a code, which has white space where its source has some, and where it would melt into a word."""
        is_word, is_end_tag = not side and code[0] not in "<{&$", side == "close"
        is_first = not self.pieces
        between_words = not is_first and self.pieces[-1].isspace()
        gap = " "
        if between_words:
            gap = self.pieces.pop()
            if not is_last and not (space_before or space_after):
                space_before, space_after = not is_end_tag, is_end_tag  # two words stay two
        glued = is_word and not is_first and not between_words and self.pieces[-1][-1] not in _OPENING
        if (space_before and not is_first and (between_words or is_last)) or glued or self._needs_space:
            self.pieces.append(gap)
            gap = " "
        self.pieces.append(code)
        self._needs_space = is_word
        if (between_words or is_first) and space_after and not is_last:
            self.pieces.append(gap)
            self._needs_space = False


_OPENING = "([{\"'«“‘（「『"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(rf"((?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)[\u0300-\u036f]*)(\s*)")
"""A word, or a character of a script without spaces, and the white space after it."""
