"""Messages of ICU MessageFormat: divide one into the texts of its branches, and write a text back into a branch.

`{n, plural, one {# file} other {# files}}` has two texts; the rest is the frame. Texts before, after and between such
arguments are texts of their own. A simple argument, such as `{name}` or `{day, date, short}`, is a code of its text.
Apostrophes are read as ICU does by default: one quotes only before a brace, or before `#` in a plural.

Source: ICU 76, class MessageFormat, "Patterns and their interpretation", with ApostropheMode DOUBLE_OPTIONAL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

MAX_NESTING = 16
MAX_ARGUMENT_CHARS = 1000

_NAME = r"[^\s{}',#|<>=]{1,64}"
_ARGUMENT = re.compile(rf"\{{\s*({_NAME})\s*(?:(\}})|,\s*(\w{{1,32}})\s*([,}}]))")
_OFFSET = re.compile(r"\s*offset:\s*\d{1,9}(?=\s)")
_SELECTOR = re.compile(rf"\s*(=\d{{1,9}}|{_NAME})(\s*)\{{")
_TEXT = re.compile(r"[^'{}]+")
_CLOSING = re.compile(r"\s*\}")
_COMPLEX = re.compile(rf"\{{\s*{_NAME}\s*,\s*(?:plural|select|selectordinal)\s*,")
COMPLEX_IN_JSON = re.compile(rb",(?:\s|\\[nrt])*(?:plural|select|selectordinal)(?:\s|\\[nrt])*,")
"""Finds what may be a message with branches in the bytes of a JSON file."""


class _BrokenMessageError(ValueError):
    """It is no message, so it is a text."""


@dataclass(slots=True)
class Branch:
    """What a translation of a text must keep to."""

    arguments: tuple[str, ...]  # simple arguments of the text, as they stand in it
    in_plural: bool  # `#` that is not quoted stands for the number
    has_number: bool  # the text has such a `#`
    doubles: bool  # the message has `''` for each apostrophe


@dataclass(slots=True)
class MessageText:
    """A text of a message, between two parts of its frame."""

    start: int  # offset in the message
    end: int
    label: str  # unique in the message, such as {count=one}; "" if the message has no branches
    text: str  # without the quotes of ICU; "" if it cannot be written back for sure
    branch: Branch


@dataclass(slots=True)
class PluralForms:
    """The branches of a plural, in whose `other` branch is a single text."""

    is_ordinal: bool
    selectors: frozenset[str]
    path: tuple[str, ...]  # of the branches around it
    argument: str
    other: MessageText
    gap_start: int  # offset of the white space before the selector `other`
    start: int  # of the selector

    def label(self, selector: str) -> str:
        """Return the label that a branch with another selector would have."""
        return f"{{{','.join((*self.path, _choice(self.argument, selector)))}}}"


@dataclass(slots=True)
class Message:
    """A message, divided."""

    texts: list[MessageText] = field(default_factory=list)
    plurals: list[PluralForms] = field(default_factory=list)


def has_branches(text: str) -> bool:
    """Return whether a text looks like a message with a plural or a selection."""
    return _COMPLEX.search(text) is not None


def parse(text: str) -> Message | None:
    """Return the texts of a message in order; None if its syntax is broken, so that it is just a text."""
    parser = _Parser(text)
    try:
        parser.read_message(0, (), in_plural=False, depth=0)
    except _BrokenMessageError:
        return None
    return parser.message


def write(text: str, branch: Branch) -> str:
    """Return a text as it stands in its branch: arguments and `#` as they are, all else quoted where it must be."""
    special = _MAY_QUOTE if branch.doubles else _MAY_QUOTE_ONCE
    if not special.search(text):
        return text
    pattern = _code_pattern(branch.arguments, branch.has_number)
    pieces = pattern.split(text) if pattern else [text]
    return "".join(
        piece if index % 2 else _quoted(piece, _MUST_QUOTE[branch.in_plural], branch.doubles)
        for index, piece in enumerate(pieces)
    )


_MAY_QUOTE = re.compile("[{}#']")
_MAY_QUOTE_ONCE = re.compile("[{}#]|''|'\\Z")  # an apostrophe alone is one


@lru_cache(1024)
def _code_pattern(arguments: tuple[str, ...], has_number: bool) -> re.Pattern[str] | None:
    """Return what matches the codes of a branch, in a group."""
    codes = {*arguments, *(["#"] if has_number else [])}
    pattern = "|".join(map(re.escape, sorted(codes, key=len, reverse=True)))
    return re.compile(f"({pattern})") if pattern else None


# with the apostrophes around: within a quotation, two of them stand for one
_MUST_QUOTE = {True: re.compile("('*[{}#][{}#']*)"), False: re.compile("('*[{}][{}']*)")}


def _quoted(text: str, must_quote: re.Pattern[str], doubles: bool) -> str:
    """Quote what has a meaning in a message, and double the apostrophes that would begin a quotation."""
    if not _MAY_QUOTE.search(text):
        return text
    out = ""
    for index, piece in enumerate(must_quote.split(text)):
        if index % 2:
            piece = piece.replace("'", "''")
            out += f"'{piece}'"
        else:
            out += _APOSTROPHES.sub(lambda match: match[0] * 2 if doubles or _quotes(match) else match[0], piece)
    return out


_APOSTROPHES = re.compile("'+")


def _quotes(match: re.Match[str]) -> bool:
    """Return whether a run of apostrophes would be read in another way; an argument may follow at the end."""
    return len(match[0]) > 1 or match.end() == len(match.string)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.message = text, Message()
        self._has_branches = has_branches(text)
        self._doubles = "''" in text
        self._num_labels: dict[str, int] = {}

    def read_message(self, at: int, path: tuple[str, ...], *, in_plural: bool, depth: int) -> int:
        """Read a message or the content of a branch; return the offset of what ends it."""
        if depth > MAX_NESTING:
            raise _BrokenMessageError
        text, start, arguments, quoted = self.text, at, list[str](), list[str]()
        while at < len(text):
            character = text[at]
            if character == "'":
                at = self._skip_apostrophe(at, in_plural, quoted)
            elif character == "}":
                if not depth:
                    raise _BrokenMessageError
                break
            elif character == "{":
                argument = _ARGUMENT.match(text, at)
                if argument is None:
                    raise _BrokenMessageError
                if argument[3] in _BRANCHING and argument[4] == ",":
                    self._add(start, at, path, arguments, quoted, in_plural)
                    at = start = self._read_branches(argument, path, in_plural, depth)
                    arguments, quoted = [], []
                else:
                    end = argument.end() if "}" in (argument[2], argument[4]) else self._end_of_style(argument.end())
                    arguments.append(text[at:end])
                    at = end
            else:
                at = _TEXT.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text) and depth:
            raise _BrokenMessageError
        self._add(start, at, path, arguments, quoted, in_plural)
        return at

    def _skip_apostrophe(self, at: int, in_plural: bool, quoted: list[str]) -> int:
        following = self.text[at + 1 : at + 2]
        if following == "'":
            return at + 2
        if not following or following not in ("{}#" if in_plural else "{}"):
            return at + 1
        end = at + 1
        while True:
            end = self.text.find("'", end)
            if end < 0:
                raise _BrokenMessageError
            if self.text[end + 1 : end + 2] != "'":
                quoted.append(self.text[at + 1 : end])
                return end + 1
            end += 2

    def _end_of_style(self, at: int) -> int:
        """Return where a simple argument with a style ends."""
        depth = 1
        for offset in range(at, min(len(self.text), at + MAX_ARGUMENT_CHARS)):
            if self.text[offset] in "{}":
                depth += 1 if self.text[offset] == "{" else -1
                if not depth:
                    return offset + 1
        raise _BrokenMessageError

    def _read_branches(self, argument: re.Match[str], path: tuple[str, ...], in_plural: bool, depth: int) -> int:
        """Read the branches of an argument; return the offset after its closing brace."""
        text, name, kind, at = self.text, argument[1], argument[3], argument.end()
        is_plural = kind != "select"
        if is_plural and (offset := _OFFSET.match(text, at)):
            at = offset.end()
        selectors: set[str] = set()
        other: tuple[int, int, MessageText] | None = None
        while selector := _SELECTOR.match(text, at):
            if selector[1] in selectors:
                raise _BrokenMessageError
            selectors.add(selector[1])
            num_texts, inner = len(self.message.texts), (*path, _choice(name, selector[1]))
            end = self.read_message(selector.end(), inner, in_plural=is_plural or in_plural, depth=depth + 1)
            texts = self.message.texts[num_texts:]
            if selector[1] == "other" and len(texts) == 1 and (texts[0].start, texts[0].end) == (selector.end(), end):
                other = at, selector.start(1), texts[0]
            at = end + 1
        closing = _CLOSING.match(text, at)
        if closing is None or not selectors:
            raise _BrokenMessageError
        if is_plural and other is not None and other[2].text:
            gap_start, start, content = other
            forms = PluralForms(
                kind == "selectordinal", frozenset(selectors), path, name, content, gap_start=gap_start, start=start
            )
            self.message.plurals.append(forms)
        return closing.end()

    def _add(
        self, start: int, end: int, path: tuple[str, ...], arguments: list[str], quoted: list[str], in_plural: bool
    ) -> None:
        """Add the text between two offsets, if there is any."""
        if start == end:
            return
        raw = self.text[start:end]
        text = "".join(_unquoted(raw, in_plural)) if "'" in raw else raw
        has_number = in_plural and "#" in raw and "#" in self._outside(raw, arguments)
        codes = [*arguments, *(["#"] if has_number else [])]
        if quoted and any(code in literal for code in codes for literal in quoted):
            text = ""  # the same characters stand for themselves and for an argument
        label = "" if not self._has_branches else self._label(path)
        branch = Branch(tuple(arguments), in_plural, has_number, self._doubles)
        self.message.texts.append(MessageText(start, end, label, text, branch))

    def _outside(self, raw: str, arguments: list[str]) -> str:
        """Return a text of a plural without its quotations and arguments."""
        raw = _QUOTATION[True].sub("", raw) if "'" in raw else raw
        for argument in arguments:
            raw = raw.replace(argument, "")
        return raw

    def _label(self, path: tuple[str, ...]) -> str:
        inner = ",".join(path)
        count = self._num_labels[inner] = self._num_labels.get(inner, 0) + 1
        if not path:
            return f"{{{count}}}"
        return f"{{{inner}}}" if count == 1 else f"{{{inner},{count}}}"


def _choice(argument: str, selector: str) -> str:
    return f"{argument}{selector}" if selector.startswith("=") else f"{argument}={selector}"


_BRANCHING = frozenset({"plural", "select", "selectordinal"})
_QUOTATION = {
    True: re.compile(r"''|'([{}#](?:[^']|'')*)'"),
    False: re.compile(r"''|'([{}](?:[^']|'')*)'"),
}


def _unquoted(raw: str, in_plural: bool) -> Iterator[str]:
    """Yield the pieces of a text without the quotes of ICU."""
    at = 0
    for match in _QUOTATION[in_plural].finditer(raw):
        yield raw[at : match.start()]
        yield "'" if match[1] is None else match[1].replace("''", "'")
        at = match.end()
    yield raw[at:]
