"""Codes in a text that a translation must keep: tags, placeholders, addresses. Knows no format; does not decode.

Some are found by their form in any text. A format can declare further ones of a text by their ranges (`records.Code`):
what it declares is found in a translation by its characters, so that nothing of the format needs to be known.

A translation keeps the codes of its source if it has each of them as often, and they are nested if the source's are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hymt_batch.records import Code

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
_TAG = re.compile(r"<(/?)([A-Za-z][^\s<>/]*)[^<>]*?(/?)>")
_VOID_TAGS = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})


@dataclass(frozen=True, slots=True)
class FoundCode:
    """A code at its place in a text."""

    text: str
    start: int
    end: int
    opens: str = ""  # name of what it opens, such as a tag's; "" if it opens nothing
    closes: str = ""  # name of what it closes; the two marks around an emphasis open and close the same


class KnownCodes:
    """Finds certain codes in any text.

    Args:
        kinds: What each of them opens and closes, by its characters.
    """

    def __init__(self, kinds: Mapping[str, FoundCode]) -> None:
        self.kinds = kinds
        self._lengths: dict[str, list[int]] = {}  # by first character, the longest first
        for first, length in sorted({(own[0], len(own)) for own in kinds}, reverse=True):
            self._lengths.setdefault(first, []).append(length)
        self._first = re.compile("|".join(map(re.escape, sorted(self._lengths))))

    def find(self, text: str, start: int, end: int) -> Iterator[FoundCode]:
        """Yield those in a range of a text, of several that begin together the longest; in linear time."""
        match = self._first.search(text, start, end)
        while match is not None:
            at = after = match.start()
            for length in self._lengths[text[at]]:
                if at + length <= end and (kind := self.kinds.get(text[at : at + length])):
                    after = at + length
                    yield FoundCode(kind.text, at, after, kind.opens, kind.closes)
                    break
            match = self._first.search(text, max(after, at + 1), end)


@dataclass(frozen=True, slots=True)
class SourceCodes:
    """The codes of a source, by which those of its translations are found."""

    text: str  # the source
    found: Sequence[FoundCode]  # in order
    known: KnownCodes | None = None  # what a translation is searched for before general codes

    @classmethod
    def of(cls, text: str, declared: Sequence[Code] = ()) -> SourceCodes:
        """Find the codes of a source; `declared` are those that its format declares, in order."""
        if not declared:
            return cls(text, find_codes(text))
        known = KnownCodes(_kinds_of(text, declared))
        opening = {code.closes for code in declared}
        found: list[FoundCode] = []
        at = 0
        for index, code in enumerate(declared):
            found += _find_around(text, at, code.start, known)
            own = text[code.start : code.end]
            opens = own if index in opening else ""
            closes = "" if code.closes is None else known.kinds[own].closes
            found.append(FoundCode(own, code.start, code.end, opens, closes))
            at = code.end
        found += _find_around(text, at, len(text), known)
        # a URL with a `*` in it is no emphasis in the translation either
        others = {code.text: code for code in found if code.text not in known.kinds}
        longer = {own: code for own, code in others.items() if any(known.find(own, 0, len(own)))}
        return cls(text, found, KnownCodes({**known.kinds, **longer}) if longer else known)

    def find_in(self, translation: str) -> list[FoundCode]:
        """Return the codes of a translation, in order."""
        if self.known is None:
            return find_codes(translation)
        found: list[FoundCode] = []
        at = 0
        for code in self.known.find(translation, 0, len(translation)):
            found += _find_general(translation, at, code.start)
            found.append(code)
            at = code.end
        return [*found, *_find_general(translation, at, len(translation))]

    def are_kept_in(self, translation: str) -> bool:
        """Return whether a translation has these codes, each as often, and nested if they are.

        Their order may differ, as the order of words does.
        """
        found = self.find_in(translation)
        own_texts, texts = [code.text for code in self.found], [code.text for code in found]
        if own_texts == texts:
            return True
        return Counter(own_texts) == Counter(texts) and (are_nested(found) or not are_nested(self.found))


def find_codes(text: str) -> list[FoundCode]:
    """Return the codes of a text that are found by their form, in order."""
    return list(_find_general(text, 0, len(text)))


def pieces_between(text: str, codes: Sequence[FoundCode]) -> list[str]:
    """Return the texts before, between and after the codes of a text; one more than there are codes."""
    ends = [0, *(code.end for code in codes)]
    starts = [*(code.start for code in codes), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def are_nested(codes: Sequence[FoundCode]) -> bool:
    """Return whether each opening code has its closing code, well nested."""
    opened: list[str] = []
    for code in codes:
        is_mark = code.opens == code.closes  # the same at both ends
        if code.closes and opened and opened[-1] == code.closes:
            opened.pop()
            if code.opens and not is_mark:
                opened.append(code.opens)
        elif code.opens and (is_mark or not code.closes):
            opened.append(code.opens)
        elif code.closes:
            return False
    return not opened


def _may_have_codes(text: str) -> bool:
    return any(character in text for character in "<{%&@") or "://" in text


def _find_general(text: str, start: int, end: int) -> Iterator[FoundCode]:
    """Yield the codes that are found by their form and lie in a range of a text."""
    if not _may_have_codes(text):
        return
    for match in _CODE.finditer(text, start, end):
        tag = _TAG.fullmatch(match[0])
        if tag is None or tag[3] or tag[2].lower() in _VOID_TAGS:
            yield FoundCode(match[0], match.start(), match.end())
        else:
            name = f"<{tag[2].split('.')[0]}>"  # <c.yellow> of WebVTT is closed by </c>
            yield FoundCode(match[0], match.start(), match.end(), "" if tag[1] else name, name if tag[1] else "")


def _kinds_of(text: str, declared: Sequence[Code]) -> dict[str, FoundCode]:
    """Return what each declared code opens and closes, by its characters."""
    kinds: dict[str, FoundCode] = {}
    for code in declared:
        own = text[code.start : code.end]
        kinds.setdefault(own, FoundCode(own, 0, 0))
        if code.closes is not None:
            opening = text[declared[code.closes].start : declared[code.closes].end]
            kinds[opening] = replace(kinds[opening], opens=opening)
            kinds[own] = replace(kinds[own], closes=opening)
    return kinds


def _find_around(text: str, start: int, end: int, known: KnownCodes) -> Iterator[FoundCode]:
    """Yield the codes of a range of a source that its format does not declare.

    What reads as a declared code is one wherever it stands: a translation can be read in no other way.
    """
    at = start
    for code in _find_general(text, start, end):
        yield from known.find(text, at, code.start)
        yield code
        at = code.end
    yield from known.find(text, at, end)
