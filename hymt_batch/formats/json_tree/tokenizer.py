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

from hymt_batch.formats.spliced import UnreadableFileError, count_line_breaks

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

_PLAIN = r"[^\s.#()\[\]{}\"\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_PLAIN_KEY = re.compile(f"{_PLAIN}(?: {_PLAIN})*")
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
        raise _value_error(data, start, None)
    at = match.end()
    if match[3]:
        at = _scan_containers(data, at, Container(None, None, "", match[3] == b"{", at - 1), strings)
    elif match[2] is None:
        strings.append(StringValue(*match.span(1), "$", None, None))
    end = _skip(data, at)
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
            key: str | int = _key(match[1]) if frame.is_object else frame.num_values
            name = _name(frame, key)
            frame.num_values += 1
            at, last = match.end(), match.lastindex or 0
            if data[at - 1] == _QUOTE:
                key_start = match.start(1) - 1 if frame.is_object else -1
                strings.append(StringValue(*match.span(last), name, frame, key, key_start))
            elif data[at - 1] in b"[{":
                stack.append(frame)
                if len(stack) >= MAX_DEPTH:
                    raise UnreadableFileError(f"is nested more than {MAX_DEPTH} deep", line=line_of(data, at))
                frame = Container(frame, key, name, data[at - 1] == _BRACE, at - 1)
                continue
        elif frame.num_values or _CLOSING[frame.is_object].match(data, at) is None:
            raise _value_error(data, at, frame)
        while True:
            match = _END.match(data, at)
            if match is None or (match[1] != b"," and (match[1] == b"}") is not frame.is_object):
                raise _end_error(data, at, frame)
            at = match.end()
            if match[1] == b",":
                break
            if not stack:
                return at
            frame = stack.pop()


_QUOTE, _BRACE = b'"{'


def line_of(data: bytes, offset: int) -> int:
    """Return the line of an offset, from 1; a line ends with \\n, \\r\\n or \\r."""
    return 1 + count_line_breaks(data, 0, offset)


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


def _name(container: Container, key: str | int) -> str:
    if isinstance(key, int):
        return bounded_name(f"{container.name}[{key}]")
    count = container.keys[key] = container.keys.get(key, 0) + 1
    name = member_name(container, key)
    return name if count == 1 else bounded_name(f"{name}({count})")


def member_name(container: Container, key: str) -> str:
    """Return the name of the value that a key has in an object, where the key occurs once."""
    if _PLAIN_KEY.fullmatch(key) is not None:
        return bounded_name(f"{container.name}.{key}" if container.name else key)
    quoted = json.dumps(key, ensure_ascii=_LINE_BREAK_OR_SURROGATE.search(key) is not None)
    return bounded_name(f"{container.name}[{quoted}]")


def bounded_name(name: str) -> str:
    """Return a name, or of a long one the start and a digest."""
    if len(name) <= MAX_NAME_CHARS:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{name[: MAX_NAME_CHARS // 2]}~{digest}"


def _value_error(data: bytes, at: int, container: Container | None) -> UnreadableFileError:
    """Return the error for what stands at an offset, where a value or a member was expected."""
    at, is_key = _skip(data, at), container is not None and container.is_object
    if is_key and (colon := _COLON.match(data, at)):
        at, is_key, container = _skip(data, colon.end()), False, None  # the value of a member
    if (reason := _usual_reason(data, at)) is None:
        if data[at] in b"}]" and container is not None and container.num_values:
            reason = "has a comma before a closing bracket"
        elif is_key and _KEY.match(data, at):
            reason = "has a key without a colon"
        elif data[at] == _QUOTE:
            reason = "has a string without an end, or with a control character or an escape that JSON does not have"
        else:
            reason = f"has {_shown(data, at)} where {'a key' if is_key else 'a value'} must stand"
    return UnreadableFileError(f"{reason}: it is not JSON", line=line_of(data, at))


def _end_error(data: bytes, at: int, container: Container) -> UnreadableFileError:
    """Return the error for what follows a value."""
    at, kind = _skip(data, at), "object" if container.is_object else "array"
    reason = _usual_reason(data, at) or f"has {_shown(data, at)} where a comma or the end of an {kind} must stand"
    return UnreadableFileError(f"{reason}: it is not JSON", line=line_of(data, at))


def _usual_reason(data: bytes, at: int) -> str | None:
    if at == len(data):
        return "ends too early" if data.strip(b"\xef\xbb\xbf \t\r\n") else "is empty"
    return "has a comment, which JSON does not allow" if data.startswith((b"//", b"/*", b"#"), at) else None


def _skip(data: bytes, at: int) -> int:
    match = _BLANK.match(data, at)
    assert match is not None  # it also matches the empty string
    return match.end()


def _shown(data: bytes, at: int) -> str:
    return ascii(data[at : at + 20].decode("utf-8", "replace").split("\n")[0])
