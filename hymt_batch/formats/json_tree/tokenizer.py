"""Find the byte ranges of the strings in a JSON text, each with the path of its keys, in linear time.

Follows RFC 8259, and takes NaN and Infinity, as the readers of rows do. Keys may occur twice. Nesting is bounded and
needs no recursion. Knows nothing about what a string means.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hymt_batch.formats.spliced import UnreadableFileError

MAX_DEPTH = 1000
"""Deepest nesting; other parsers give up at about the same depth."""

MAX_NAME_CHARS = 200
"""Longest name of a value; of a longer one, the start is kept, and a digest in place of the rest."""

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"((?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_SCALAR = rb"(?:" + _NUMBER + rb"|true|false|null|NaN|-?Infinity)(?![-+.0-9A-Za-z_])"
_VALUE = rb"(?:" + _STRING + rb"|(" + _SCALAR + rb")|([\[{]))"
_ELEMENT = re.compile(_SPACE + _VALUE)
_MEMBER = re.compile(_SPACE + _STRING + _SPACE + rb":" + _SPACE + _VALUE)
_END = re.compile(_SPACE + rb"([,\]}])")
_BLANK = re.compile(_SPACE)
_CLOSING = {True: re.compile(_SPACE + rb"\}"), False: re.compile(_SPACE + rb"\]")}
_KEY = re.compile(_SPACE + _STRING)
_COLON = re.compile(_SPACE + _STRING + _SPACE + rb":")

_PLAIN_KEY = re.compile(r"[^\s.#()\[\]{}\"\\\x00-\x1f\x7f-\x9f]+(?: [^\s.#()\[\]{}\"\\\x00-\x1f\x7f-\x9f]+)*")
_LINE_BREAK_OR_SURROGATE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(slots=True, eq=False)
class Container:
    """An object or an array that holds strings, directly or further down."""

    parent: Container | None
    key: str | int | None  # in its parent; None for the outermost value
    name: str  # readable path, unique in the file; "" for the outermost value
    is_object: bool
    start: int  # offset of its opening bracket
    keys: dict[str, int] = field(default_factory=dict)  # of an object: how often each occurs
    num_values: int = 0
    _path: tuple[str, ...] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """Keys and indices from the outermost value on; of a long key, the start."""
        if self._path is None:
            self._path = () if self.parent is None else (*self.parent.path, str(self.key)[:MAX_NAME_CHARS])
        return self._path


@dataclass(slots=True, eq=False)
class StringValue:
    """A string that is a value."""

    start: int  # of what is between its quotes
    end: int
    name: str  # readable path, unique in the file
    container: Container | None
    key: str | int | None  # in its container
    key_start: int = -1  # offset of the key's opening quote; -1 in an array

    @property
    def path(self) -> tuple[str, ...]:
        """Keys and indices from the outermost value on; of a long key, the start."""
        if self.container is None:
            return ()
        return (*self.container.path, str(self.key)[:MAX_NAME_CHARS])


def find_strings(data: bytes, start: int) -> Sequence[StringValue]:
    """Return the strings of a JSON text that are values, in order.

    Args:
        data: The text, in UTF-8.
        start: Where it begins, after a byte order mark.

    Raises:
        UnreadableFileError: It is not JSON.
    """
    strings: list[StringValue] = []
    match = _ELEMENT.match(data, start)
    if match is None:
        raise _error(data, start, None, is_first=True)
    at, frame = match.end(), None
    if match[3]:
        frame = Container(None, None, "", match[3] == b"{", at - 1)
        at = _scan_containers(data, at, frame, strings)
    elif match[2] is None:
        strings.append(StringValue(*match.span(1), "$", None, None))
    end = _BLANK.match(data, at).end()  # type: ignore[union-attr]
    if end < len(data):
        raise UnreadableFileError(
            "has a second value after the first one. If its lines are rows, set source.text_field to their text",
            line=line_of(data, end),
        )
    return strings


def _scan_containers(data: bytes, at: int, frame: Container, strings: list[StringValue]) -> int:
    """Collect the strings below an object or array that begins before an offset; return where it ends."""
    stack: list[Container] = []
    while True:
        match = (_MEMBER if frame.is_object else _ELEMENT).match(data, at)
        if match is not None:
            if frame.is_object:
                string, opening, key = 2, match[4], _key(match[1])
                name = _name(frame, key)
                key_start = match.start(1) - 1
            else:
                string, opening, key = 1, match[3], frame.num_values
                name = f"{frame.name}[{frame.num_values}]"
                key_start = -1
            frame.num_values += 1
            at = match.end()
            first, end = match.span(string)
            if first >= 0:
                strings.append(StringValue(first, end, name, frame, key, key_start))
            elif opening is not None:
                stack.append(frame)
                if len(stack) >= MAX_DEPTH:
                    raise UnreadableFileError(f"is nested more than {MAX_DEPTH} deep", line=line_of(data, at))
                frame = Container(frame, key, _bounded(name), opening == b"{", at - 1)
                continue
        elif frame.num_values or _CLOSING[frame.is_object].match(data, at) is None:
            raise _error(data, at, frame, is_first=not frame.num_values)
        while True:
            match = _END.match(data, at)
            if match is None:
                raise _error(data, at, frame, is_first=False, after_value=True)
            if match[1] == b",":
                at = match.end()
                break
            if (match[1] == b"}") is not frame.is_object:
                raise _error(data, at, frame, is_first=False, after_value=True)
            at = match.end()
            if not stack:
                return at
            frame = stack.pop()


def line_of(data: bytes, offset: int) -> int:
    """Return the line of an offset, from 1; a line ends with \\n, \\r\\n or \\r."""
    breaks = data.count(b"\n", 0, offset) + data.count(b"\r", 0, offset) - data.count(b"\r\n", 0, offset)
    return breaks + 1


def unescape(raw: bytes) -> str:
    r"""Return the text of what is between two quotes; half of a surrogate pair in \u escapes stays as it is.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    text = raw.decode()
    return str(json.loads(f'"{text}"')) if b"\\" in raw else text


def _key(raw: bytes) -> str:
    try:
        return unescape(raw)
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")


def _name(frame: Container, key: str) -> str:
    count = frame.keys[key] = frame.keys.get(key, 0) + 1
    if len(key) > MAX_NAME_CHARS:
        key = _bounded(key)
    if _PLAIN_KEY.fullmatch(key) is not None:
        name = f"{frame.name}.{key}" if frame.name else key
    else:
        quoted = json.dumps(key, ensure_ascii=_LINE_BREAK_OR_SURROGATE.search(key) is not None)
        name = f"{frame.name}[{quoted}]"
    return name if count == 1 else f"{name}({count})"


def _bounded(name: str) -> str:
    if len(name) <= MAX_NAME_CHARS:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{name[: MAX_NAME_CHARS // 2]}~{digest}"


def _error(
    data: bytes, at: int, frame: Container | None, *, is_first: bool, after_value: bool = False
) -> UnreadableFileError:
    """Return the error for what stands at an offset, where a value, a member or an end was expected."""
    at = _BLANK.match(data, at).end()  # type: ignore[union-attr]
    found = data[at : at + 1]
    if frame is not None and frame.is_object and not after_value and _COLON.match(data, at):
        at = _BLANK.match(data, _COLON.match(data, at).end()).end()  # type: ignore[union-attr]
        found, frame = data[at : at + 1], None  # the value of a member
    line = line_of(data, at)
    if not found:
        reason = "is empty" if frame is None and is_first and not data.strip(b"\xef\xbb\xbf \t\r\n") else "ends too early"
    elif data.startswith((b"//", b"/*", b"#"), at):
        reason = "has a comment, which JSON does not allow"
    elif found in b"}]" and not is_first and not after_value:
        reason = "has a comma before a closing bracket"
    elif after_value:
        reason = f"has {_shown(data, at)} where a comma or the end of {'an object' if frame and frame.is_object else 'an array'} must stand"
    elif frame is not None and frame.is_object:
        reason = "has a key without a colon" if _KEY.match(data, at) else f"has {_shown(data, at)} where a key must stand"
    elif found == b'"':
        reason = "has a string that is not closed, or holds a control character or an escape that JSON does not have"
    else:
        reason = f"has {_shown(data, at)} where a value must stand"
    return UnreadableFileError(f"{reason}: it is not JSON", line=line)


def _shown(data: bytes, at: int) -> str:
    return ascii(data[at : at + 20].decode("utf-8", "replace").split("\n")[0])
