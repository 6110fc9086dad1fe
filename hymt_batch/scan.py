"""Where the fields of one row lie, found in one forward pass over its bytes, without holding them.

For rows that no parser can take: too long, cut off, nested too deep. Offsets count bytes from the row's beginning.
Does not know files, statuses or settings.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable

MAX_STACK = 1 << 20  # containers in each other; deeper is taken for no JSON
MAX_PLACES = 10_000  # fields of a row whose places are kept
MAX_TOKEN = 1 << 16  # bytes of a number or of a name; longer is taken for no JSON, or for another name

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_SCALAR = re.compile(rb"(?:" + _NUMBER + rb"|true|false|null|NaN|-?Infinity)")
_WORD = re.compile(rb"[-+.0-9A-Za-z]*+")
# many plain items of an array at once: a row may hold millions
_ITEMS = re.compile(rb'(?:[ \t\r\n]*+(?:"[^"\\\x00-\x1f]*+"|' + _SCALAR.pattern + rb")[ \t\r\n]*+,)++")
_ESCAPE_BYTES = 6


class JsonScan:
    """The pairs of one JSON object.

    NaN and Infinity count as values, and bytes that are no UTF-8 as characters of a string.

    Args:
        text_field: A name whose value's place is wanted.
        names: More names that are looked for.
    """

    def __init__(self, text_field: str = "", names: Iterable[str] = ()) -> None:
        self.end = 0  # after the last complete pair, or after the opening brace; 0: it does not begin as an object
        self.num_pairs = 0
        self.whole = False  # one object, and nothing but white space behind it
        self.names: set[str] = set()  # which of the names the object has
        self.places: dict[str, tuple[int, int]] = {}  # name -> where its value stands, of the first MAX_PLACES
        self._text_field, self._wanted = text_field, frozenset((*names, text_field))
        self._texts: list[tuple[int, int]] = []  # places of the text's values; (0, 0) for one that is no string
        self._at, self._rest = 0, b""  # bytes that are done with, and the incomplete token behind them
        self._state = "object"
        self._stack = bytearray()
        self._key, self._key_here = bytearray(), False
        self._name: str | None = None
        self._start = 0  # of the string that is being read
        self._begin = 0  # of the value of the pair that is being read

    @property
    def text(self) -> tuple[int, int] | None:
        """The place of the text's JSON string, quotes included; None where there is not exactly one."""
        return self._texts[0] if len(self._texts) == 1 and self._texts[0][1] else None

    def feed(self, piece: bytes, final: bool = False) -> None:
        """Take the next bytes."""
        if self._state == "failed":
            return
        data, at = self._rest + piece, 0
        while self._state != "failed":
            if self._state == "string":
                after = self._string(data, at, final)
            else:
                after = self._token(data, _SPACE.match(data, at).end(), final)  # type: ignore[union-attr]
            if after < 0:  # more is needed to go on from here
                at = -after - 1
                break
            at = after
        self._at, self._rest = self._at + at, data[at:]
        if len(self._rest) > MAX_TOKEN:
            self._state = "failed"

    def finish(self) -> None:
        """Say that nothing follows."""
        self.feed(b"", final=True)
        self.whole = self._state == "end" and not self._rest

    def _fail(self, at: int) -> int:
        self._state = "failed"
        return at

    def _string(self, data: bytes, at: int, final: bool) -> int:
        stop = _STRING.match(data, at).end()  # type: ignore[union-attr]
        if self._key_here and len(self._key) <= MAX_TOKEN:
            self._key += data[at:stop]
        if stop == len(data):
            return -stop - 1
        if data[stop : stop + 1] == b'"':
            return self._closed(stop + 1)
        if data[stop : stop + 1] == b"\\" and len(data) - stop < _ESCAPE_BYTES and not final:
            return -stop - 1
        return self._fail(stop)

    def _closed(self, at: int) -> int:
        """A string ends here: a name or a value."""
        if self._state == "string" and self._key_here:
            self._key_here, self._state = False, "colon"
            if len(self._stack) == 1:
                self._name = _unescaped(bytes(self._key))
                self.names |= {self._name} & self._wanted
            self._key = bytearray()
            return at
        return self._value(at, (self._start, self._at + at))

    def _value(self, at: int, place: tuple[int, int] = (0, 0)) -> int:
        """A value ends here."""
        if not self._stack:
            self._state = "end"
            return at
        self._state = "comma"
        if len(self._stack) == 1:
            self.end = self._at + at
            self.num_pairs += 1
            if self._name is not None and (len(self.places) < MAX_PLACES or self._name in self.places):
                self.places[self._name] = (self._begin, self._at + at)
            if self._name == self._text_field:
                self._texts.append(place)
        return at

    def _token(self, data: bytes, at: int, final: bool) -> int:
        """One token behind white space."""
        if at == len(data):
            return -at - 1
        byte, state = data[at : at + 1], self._state
        if state == "value" and len(self._stack) == 1:
            self._begin = self._at + at
        if state == "end":
            return self._fail(at)
        if state == "object" and byte != b"{":
            return self._fail(at)
        if byte in b"{[" and state in ("object", "value", "item"):
            self._stack += byte
            self._state = "name" if byte == b"{" else "item"
            if state == "object":
                self.end = self._at + at + 1
            return at + 1 if len(self._stack) <= MAX_STACK else self._fail(at)
        if byte in b"}]" and self._closes(byte, state):
            self._stack.pop()
            return self._value(at + 1)
        if byte == b"," and state == "comma":
            self._state = "next name" if self._stack[-1:] == b"{" else "value"
            return at + 1
        if byte == b":" and state == "colon":
            self._state = "value"
            return at + 1
        if state in ("name", "next name"):
            if byte != b'"':
                return self._fail(at)
            self._state, self._key_here = "string", True
            return at + 1
        if state not in ("value", "item"):
            return self._fail(at)
        if self._stack[-1:] == b"[" and (many := _ITEMS.match(data, at)):
            self._state = "value"
            return many.end()
        if byte == b'"':
            self._state, self._start = "string", self._at + at
            return at + 1
        stop = _WORD.match(data, at).end()  # type: ignore[union-attr]
        if stop == len(data) and not final:
            return -at - 1  # it may go on
        return self._value(stop) if _SCALAR.fullmatch(data, at, stop) else self._fail(at)

    def _closes(self, byte: bytes, state: str) -> bool:
        opened = self._stack[-1:]
        if byte == b"}":
            return opened == b"{" and state in ("name", "comma")
        return opened == b"[" and state in ("item", "comma")


def _unescaped(key: bytes) -> str:
    text = key.decode("utf-8", "replace")
    return str(json.loads(f'"{text}"')) if "\\" in text else text


def json_object(raw: bytes, text_field: str = "", names: Iterable[str] = ()) -> JsonScan:
    """Scan a whole row."""
    scan = JsonScan(text_field, names)
    scan.feed(raw)
    scan.finish()
    return scan


class RecordScan:
    """The cells of one csv or tsv record, fed line by line; a quote counts at the start of a cell only.

    Args:
        mark: Delimiter.
        column: Index of the cell whose place is wanted.
        quoted: Quotes count; without, only the delimiter does (tsv).
        escape: Makes what follows it a part of its cell; b"" for none.
    """

    def __init__(self, mark: bytes, column: int, quoted: bool = True, escape: bytes = b"") -> None:
        self.clean = True  # each quote that closed did so before a delimiter or the record's end
        self.num_cells = 1
        self._mark, self._column, self._quoted, self._escape = mark, column, quoted, escape
        self._at, self._rest = 0, b""
        self._state = "start"
        self._cell = (0, -1)  # the wanted cell; its end is -1 while it is the last
        self._places: list[tuple[int, int]] = []  # of the cells that ended, the first MAX_PLACES
        self._first = 0  # where the last cell begins
        self._bare_return = self._dangling = self._goes_on = False

    @property
    def is_open(self) -> bool:
        """Whether a quote is open where the last line ended, or its line break was escaped."""
        return self._state == "quoted" or self._goes_on

    @property
    def sound(self) -> bool:
        """Whether nothing is left open, and no carriage return stands bare outside of quotes."""
        return not (self.is_open or self._bare_return or self._dangling)

    def copy(self) -> RecordScan:
        other = copy.copy(self)
        other._places = [*self._places]
        return other

    def places(self, size: int) -> list[tuple[int, int]]:
        """The places of the cells in a record of so many bytes."""
        return [*self._places, (self._first, size)]

    def feed(self, piece: bytes, final: bool = False) -> None:
        """Take the next bytes: a line, or a piece of one."""
        data, at = self._rest + piece, 0
        size, done = len(data), final or piece.endswith(b"\n")
        need = 1 if done else max(2, len(self._mark))  # bytes behind a quote that say what it is
        self._goes_on = self._goes_on and not piece
        while at < size:
            if self._state == "start":
                is_quote = self._quoted and data.startswith(b'"', at)
                self._state, at = ("quoted", at + 1) if is_quote else ("plain", at)
                continue
            inside = self._state == "quoted"
            found = data.find(b'"' if inside else self._mark, at)
            sign = data.find(self._escape, at, size if found < 0 else found) if self._escape else -1
            if sign >= 0:
                if not inside:
                    self._bare_return |= b"\r" in data[at:sign]
                after = self._behind(data, sign + len(self._escape), done)
                if after < 0:
                    at = sign
                    break
                self._goes_on = not inside and after == size and data.endswith(b"\n")
                at = after
            elif inside:
                at = size if found < 0 else found
                if found < 0 or (size - at - 1 < need and not done):
                    break
                if data.startswith(b'"', at + 1):
                    at += 2
                    continue
                at += 1
                if data[at : at + 2] not in (b"", b"\n", b"\r\n") and not data.startswith(self._mark, at):
                    self.clean = False
                self._state = "plain"
            else:
                held = size if done else max(at, size - max(2, len(self._mark), len(self._escape)) + 1)
                stop = held if found < 0 else found
                if b"\r" in data[at:stop].removesuffix(b"\r\n" if found < 0 and done else b""):
                    self._bare_return = True
                if found < 0:
                    at = stop
                    break
                self._ends(self._at + found)
                at, self._state = found + len(self._mark), "start"
        self._at, self._rest = self._at + at, data[at:]

    def _behind(self, data: bytes, at: int, done: bool) -> int:
        """The place behind what is escaped at `at`; -1 where more is needed to tell."""
        if data.startswith(b"\r\n", at):
            return at + 2
        if at < len(data) and (done or not data.startswith(b"\r", at) or at + 1 < len(data)):
            return at + 1
        if not done:
            return -1
        self._dangling = True
        return len(data)

    def finish(self) -> None:
        """Say that nothing follows."""
        self.feed(b"", final=True)

    def _ends(self, at: int) -> None:
        """A cell ends here, and another begins."""
        if len(self._places) < MAX_PLACES:
            self._places.append((self._first, at))
            self._first = at + len(self._mark)
        if self._column == self.num_cells - 1:
            self._cell = (self._cell[0], at)
        self.num_cells += 1
        if self._column == self.num_cells - 1:
            self._cell = (at + len(self._mark), -1)

    def cell(self, size: int) -> tuple[int, int] | None:
        """The place of the wanted cell in a record of so many bytes; None where it has no such cell."""
        if self._column >= self.num_cells:
            return None
        first, end = self._cell
        return first, size if end < 0 else end
