"""Codes in a text that a translation must keep: tags, placeholders, addresses. Knows no format; does not decode.

Most are found by their form, in any text. A format can name more codes of a text, such as the marks of an emphasis
(`records.FormatCodes`); they are found by their characters, in the source and in the translation alike.

A translation keeps the codes of its source if it has each of them as often, and they are nested if the source's are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.entities import html5

from hymt_batch.records import FormatCodes

_ATTRIBUTE = (
    r"\s+(?:[A-Za-z_:@#*.][\w:.@\-]{0,60}\s?=\s?(?:\"[^\"<>]{0,2000}\"|'[^'<>]{0,2000}'|[^\s\"'<>=]{1,200})"
    r"|(?:async|autofocus|autoplay|checked|controls|defer|disabled|download|hidden|loop|multiple|muted|novalidate|open"
    r"|readonly|required|reversed|selected)(?=[\s/>]))"
)
_PRINTF = r"[-+#0']{0,4}(?:\*|\d{1,4})?(?:\.(?:\*|\d{1,4})?)?(?:hh|h|ll|l|L|q|j|z|t)?"
_URL_CHARACTER = r"[^\s<>\"'{}|\\^`\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef]"
_CODE = re.compile(  # with bounds, so that no text takes more than linear time
    rf"</?[A-Za-z][\w:.\-]{{0,60}}(?:{_ATTRIBUTE}){{0,40}}\s{{0,4}}/?>"  # tags of HTML, XML and subtitles
    r"|<(?:v|lang)(?:\.[\w.\-]{1,60})?[ \t][^<>\n]{1,200}>"  # the speaker and the language in WebVTT
    r"|</?\d{1,4}\s?/?>"  # numbered tags, as in <0>text</0>
    r"|<(?:\d{1,4}:)?\d\d:\d\d\.\d{3}>"  # times inside a WebVTT cue
    r"|<!--[^<>]{0,2000}-->|<\?[^<>]{0,500}\?>"
    r"|&(?:[A-Za-z][A-Za-z0-9]{1,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"
    r"|\{\{[^{}\n]{0,200}\}\}|\{%[^{}\n]{0,200}%\}|\{#[^{}\n]{0,200}#\}"  # templates
    r"|[$%#@]\{[^{}\n]{0,200}\}|\$t\([^()\n]{1,200}\)"  # ${x} %{x} #{x} @{x}, and a nested key of i18next
    r"|\{\\[^{}\n]{0,200}\}"  # {\an8}
    # {} {x} {0} { x } {x.y[0]!r:>10} {0:N2} {0,-10} {x:%Y-%m-%d %H:%M} {0,number,#.##}
    r"|\{[ \t]?(?:[\w.@$\-]{0,80}(?:\[[^\[\]{}\s]{0,60}\]){0,4}(?:![rsa])?"
    r"(?:,[ ]?-?\d{1,4})?(?::(?:[^{}\s]{0,60}|%[^{}\n]{0,60}))?"
    r"|\w{1,60}\s?,\s?(?:number|date|time|spellout|ordinal|duration|list)\b[^{}\n]{0,100})[ \t]?\}"
    rf"|%\([^()\n]{{1,64}}\){_PRINTF}[diouxXeEfFgGcrsa]"  # printf with a name, also inside a word
    rf"|%\d{{1,3}}\${_PRINTF}[diouxXeEfFgGcspnaA@]|%%"
    rf"|(?<![0-9%])%{_PRINTF}(?:[diouxXeEfFgGcspn@]|[aAbBHIjmMSyYZ])(?![A-Za-z])"
    r"|(?<![0-9%])%[dsu](?=(?:x|px|pt|ms|s|m|h|d|th|st|k|[KMGT]i?B?|B)(?![A-Za-z])|x?%)"  # %ds %dx%d %s%s
    r"|(?<![0-9%A-Za-z])%\.\d{1,2}f"
    rf"|(?:(?:https?|ftp|file)://|www\.){_URL_CHARACTER}{{0,2000}}"
    rf"{_URL_CHARACTER}(?<![.,;:!?)\]*])"
    r"|(?<![A-Za-z0-9.+_\-])[A-Za-z0-9][A-Za-z0-9.+_\-]{0,63}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}"
    r"|(?<![:\\\w])\\[nrt](?![a-z0-9_])|(?<=[\w.,;!?])\\[nrt](?![a-z0-9_\\])"  # \n written as two characters
)
_TAG = re.compile(r"<(/?)([A-Za-z][^\s<>/]*)[^<>]*?(/?)>")
_VOID_TAGS = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})


@dataclass(frozen=True, slots=True)
class FoundCode:
    """A code at its place in a text."""

    text: str
    start: int
    end: int
    side: str = ""  # "open" or "close" for one of a pair
    closes: int | None = None  # index, among the codes of the text, of the one that it closes


@dataclass(frozen=True, slots=True)
class FoundCodes:
    """The codes of a text, in order."""

    codes: Sequence[FoundCode]
    are_nested: bool  # each opening code has its closing code, well nested

    def pieces_of(self, text: str) -> list[str]:
        """Return the pieces of the text before, between and after the codes."""
        ends = [0, *(code.end for code in self.codes)]
        starts = [*(code.start for code in self.codes), len(text)]
        return [text[end:start] for end, start in zip(ends, starts, strict=True)]


class SourceCodes:
    """The codes of a source, and what its translations are searched for.

    Args:
        text: The source.
        own: The codes that only its format knows.
    """

    def __init__(self, text: str, own: FormatCodes = ()) -> None:
        self.text = text
        self._finder = _Finder(own) if own else _GENERAL
        self.found = self.find_in(text)

    @property
    def has_words(self) -> bool:
        """True if the source has a letter or digit outside of its codes."""
        return any(map(str.isalnum, "".join(self.found.pieces_of(self.text))))

    def find_in(self, text: str) -> FoundCodes:
        """Return the codes of the source or of a translation of it."""
        return self._finder.find(text)

    def are_kept_in(self, translation: str) -> bool:
        """Return whether a translation has these codes, each as often, and nested if they are.

        Their order may differ, as the order of words does. What is a code by its form in one of the two texts alone,
        because of the letters beside it, counts where it stands in the other.
        """
        found = self.find_in(translation)
        own_texts, texts = [code.text for code in self.found.codes], [code.text for code in found.codes]
        if own_texts == texts:
            return True
        wanted, given = Counter(own_texts), Counter(texts)
        for code in {*(wanted - given), *(given - wanted)}:
            # more letters beside an address are another address
            is_sure = self._finder.is_own(code) or code[0].isalnum()
            if is_sure or self.text.count(code) != translation.count(code):
                return False
        return found.are_nested or not self.found.are_nested


def find_ranges(text: str, own: FormatCodes) -> list[tuple[int, int]]:
    """Return start and end of the codes of a text, in order; `own` are those that only its format knows."""
    return [(code.start, code.end) for code in SourceCodes(text, own).found.codes]


def find_codes(text: str) -> list[str]:
    """Return the codes of a text that are found by their form, in order."""
    return [code.text for code in _GENERAL.find(text).codes]


class _Finder:
    """Finds codes by their form, and those of a format by their characters."""

    def __init__(self, own: FormatCodes) -> None:
        self._closes: dict[str, set[str]] = {}  # code of the format -> the codes that it can close
        for code, opener in own:
            self._closes.setdefault(code, set()).update({opener} if opener else ())
        self._alone = {code for code, opener in own if not opener}
        self._openers = {opener for _, opener in own if opener}
        self._lengths: dict[str, list[int]] = {}  # by first character, the longest first
        for first, length in sorted({(code[0], len(code)) for code in self._closes}, reverse=True):
            self._lengths.setdefault(first, []).append(length)
        self._first = re.compile("|".join(map(re.escape, sorted(self._lengths)))) if own else None

    def find(self, text: str) -> FoundCodes:
        """Return the codes of a text, in order."""
        spans = self._spans(text) if self._first else _general_spans(text)
        codes: list[FoundCode] = []
        opened: list[tuple[str, int]] = []
        are_nested = True
        for index, (start, end) in enumerate(spans):
            code = text[start:end]
            opens, closes, is_alone = self._role(code)
            side, closed = "", None
            if opened and opened[-1][0] in closes:
                side, (_, closed) = "close", opened.pop()
                if opens and opens not in closes:  # it ends one branch and begins the next
                    opened.append((opens, index))
            elif opens and (opens in closes or not closes):
                opened.append((opens, index))
                side = "open"
            elif closes and not is_alone:
                are_nested, side = False, "close"
            codes.append(FoundCode(code, start, end, side, closed))
        return FoundCodes(codes, are_nested and not opened)

    def is_own(self, code: str) -> bool:
        """Return whether the format named this code."""
        return code in self._closes

    def _role(self, code: str) -> tuple[str, set[str], bool]:
        """Return what a code opens, "" if nothing; what it can close; and whether it can stand alone."""
        if code in self._closes:
            return code if code in self._openers else "", self._closes[code], code in self._alone
        tag = _TAG.fullmatch(code) if code[0] == "<" else None
        if tag is None or tag[3] or tag[2].lower() in _VOID_TAGS:
            return "", set(), True
        name = f"<{tag[2].split('.')[0]}>"  # <c.yellow> of WebVTT is closed by </c>
        return ("", {name}, False) if tag[1] else (name, set(), False)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield start and end of each code; where two overlap, the one that begins first."""
        general = _search_general(text, 0) if _may_have_codes(text) else None
        own = self._search_own(text, 0)
        while own or general:
            if own and (general is None or own[0] <= general.start()):
                start, end = own
            else:
                assert general is not None
                start, end = general.start(), self._address_end(text, *general.span())
            yield start, end
            if own and own[0] < end:
                own = self._search_own(text, end)
            if general and general.start() < end:
                general = _search_general(text, end)

    def _address_end(self, text: str, start: int, end: int) -> int:
        """Return where an address ends: before a mark at its end, and before a longer code such as `](u)`."""
        if not text[start].isalnum():
            return end
        at = start + 1
        while (own := self._search_own(text, at)) and own[0] < end:
            if own[1] >= end or own[1] - own[0] > 1:
                return own[0]
            at = own[1]
        return end

    def _search_own(self, text: str, at: int) -> tuple[int, int] | None:
        """Return start and end of the next code of the format, of several that begin together the longest.

        One of word characters, such as `_`, is a code only at the edge of a word.
        """
        assert self._first is not None
        match = self._first.search(text, at)
        while match is not None:
            start = match.start()
            for length in self._lengths[text[start]]:
                end = start + length
                if (code := text[start:end]) in self._closes and (not _is_word(code) or _is_edge(text, start, end)):
                    return start, end
            match = self._first.search(text, start + 1)
        return None


_GENERAL = _Finder(())


def _general_spans(text: str) -> Iterator[tuple[int, int]]:
    if _may_have_codes(text):
        match = _search_general(text, 0)
        while match is not None:
            yield match.span()
            match = _search_general(text, match.end())


def _search_general(text: str, at: int) -> re.Match[str] | None:
    """Return the next code that is found by its form."""
    match = _CODE.search(text, at)
    while match is not None and text[match.start()] == "&" and not _is_entity(match[0]):
        match = _CODE.search(text, match.end())
    return match


def _is_entity(code: str) -> bool:
    """Return whether a code is a character reference of HTML, as `AT&Ts;` is not."""
    return code[1] == "#" or code[1:] in html5


_MARKS = ("<", "{", "%", "&", "@", "\\", "://", "www.", "$t(")
"""What a text has that has any code found by its form."""


def _may_have_codes(text: str) -> bool:
    return any(mark in text for mark in _MARKS)


def _is_word(code: str) -> bool:
    return code.replace("_", "a").isalnum()


def _is_edge(text: str, start: int, end: int) -> bool:
    """Return whether there is no word on one of the sides."""
    return not (_is_word(text[start - 1 : start]) and _is_word(text[end : end + 1]))
