r"""The inline content of a block as tokens: text, codes that stay as they are, marks in pairs, and line breaks.

A token stands for bytes of the file and for characters of the text that the model gets. They differ where a line of
the file ends: `\n> ` inside a code is a space in the text. The label of `[label]` is repeated, as in `[label][label]`:
its text is translated, and the label is what finds the link.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from hymt_batch.formats.markdown.parser import Event

MAX_QUOTES = 64
"""Most block quotes around a text that is translated; what is deeper stays as it is."""

_MARK_LENGTHS = {"Emphasis": 1, "Strong": 2}
_BLANK_OR_PREFIX = re.compile(rb"[ \t\r\n>]*")
_LETTER = re.compile(r"[^\W\d_]")


class Kind(Enum):
    """What a token is."""

    TEXT = "text"
    CODE = "code"
    OPEN = "open"
    CLOSE = "close"
    SOFT_BREAK = "soft break"
    HARD_BREAK = "hard break"


@dataclass(slots=True, eq=False)
class Token:
    """A piece of the inline content of a block."""

    kind: Kind
    start: int
    end: int
    text: str = ""
    partner: Token | None = None  # of OPEN and CLOSE
    is_html: bool = False
    is_label: bool = False  # of OPEN: the text of the link is also its label


def tokenize(data: bytes, events: list[Event], num_quotes: int) -> list[Token]:
    """Return the tokens of a block, in order.

    Args:
        data: The file.
        events: Its inline events, at least one.
        num_quotes: Block quotes around the block, at most MAX_QUOTES.
    """
    return _Tokenizer(data, num_quotes).run(events)


class _Tokenizer:
    def __init__(self, data: bytes, num_quotes: int) -> None:
        self._data, self._break = data, _line_break(num_quotes)
        self._tokens: list[Token] = []
        self._at = 0
        self._open: list[tuple[int, int]] = []  # index of each open token, and the letters before it
        self._num_texts = 0  # texts with letters so far

    def run(self, events: list[Event]) -> list[Token]:
        self._at = events[0][1]
        if self._data[self._at - 1 : self._at] == b"\\":  # an escaped character begins the block
            self._at -= 1
        in_autolink = False
        for event, start, end in events:
            if isinstance(event, str):
                self._gap(start)
                self._add(Kind.SOFT_BREAK if event == "SoftBreak" else Kind.HARD_BREAK, start, end)
                continue
            ((name, value),) = event.items()
            if in_autolink:
                in_autolink = name != "End"
            elif name == "Text":
                self._text(start, end)
            elif name == "Start":
                in_autolink = self._start(value, start, end)
            elif name == "End":
                self._end(start, end)
            elif name == "TaskListMarker":
                self._at = end
            else:
                self._gap(start)
                self._code(start, end, is_html=name == "InlineHtml")
        return self._tokens

    def _add(self, kind: Kind, start: int, end: int, text: str = "") -> Token:
        token = Token(kind, start, end, text)
        self._tokens.append(token)
        self._at = end
        return token

    def _code(self, start: int, end: int, *, is_html: bool = False) -> None:
        self._add(Kind.CODE, start, end, self._one_line(start, end)).is_html = is_html

    def _text(self, start: int, end: int) -> None:
        self._gap(start)
        start = max(start, self._at)  # after the escaped character
        if start >= end:
            return
        text = self._data[start:end].decode()
        self._num_texts += _LETTER.search(text) is not None
        last = self._tokens[-1] if self._tokens else None
        if last is not None and last.kind is Kind.TEXT and last.end == start:
            last.text += text
            last.end = self._at = end
        else:
            self._add(Kind.TEXT, start, end, text)

    def _gap(self, end: int) -> None:
        """Take what no event covers: the prefix of a line, or the backslash before an escaped character."""
        gap = self._data[self._at : end]
        if not gap:
            return
        escapes = gap[-1:] == b"\\" and end < len(self._data)
        stop = end - 1 if escapes else end
        if not _BLANK_OR_PREFIX.fullmatch(self._data, self._at, stop):
            self._code(self._at, stop)  # nothing that is known here: it stays
        if escapes:
            self._code(stop, end + 1)
        else:
            self._at = end

    def _start(self, tag: object, start: int, end: int) -> bool:
        """Take the start of a pair; return whether it is an autolink, which is a code as a whole."""
        self._gap(start)
        name, value = next(iter(tag.items())) if isinstance(tag, dict) else (tag, {})
        if value and value["link_type"] in ("Autolink", "Email"):
            self._code(start, end)
            return True
        length = _MARK_LENGTHS.get(str(name)) or (1 if name == "Link" else 2)
        if name == "Strikethrough":
            length = 2 if self._data[start : start + 2] == b"~~" else 1
        self._open.append((len(self._tokens), self._num_texts))
        token = self._add(Kind.OPEN, start, start + length, self._data[start : start + length].decode())
        if value and value["link_type"] in ("Shortcut", "Collapsed"):
            token.is_label = True
        return False

    def _end(self, start: int, end: int) -> None:
        index, num_texts = self._open.pop()
        opener = self._tokens[index]
        if self._num_texts == num_texts:
            del self._tokens[index:]
            self._code(start, end)
            return
        if opener.text in ("[", "!["):
            closes_at = self._data.find(b"]", self._at, end)
            if closes_at > self._at:
                self._gap(closes_at)
            text = self._one_line(self._at, end)
            if opener.is_label:
                text = f"][{self._one_line(opener.end, self._at)}]"
        else:
            self._gap(end - len(opener.text))
            text = opener.text
        closer = self._add(Kind.CLOSE, self._at, end, text)
        opener.partner, closer.partner = closer, opener

    def _one_line(self, start: int, end: int) -> str:
        return self._break.sub(" ", self._data[start:end].decode())


@lru_cache(MAX_QUOTES + 1)
def _line_break(num_quotes: int) -> re.Pattern[str]:
    """Return what matches a line break with the prefix of the next line."""
    return re.compile(rf"[ \t]*(?:\r\n?|\n)[ \t]*(?:>[ \t]*){{0,{num_quotes}}}")
