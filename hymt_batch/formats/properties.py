r"""Java `.properties`: the values are places; keys, comments and everything else are gaps.

A logical line is an entry: a key, a separator (`=`, `:` or white space) and a value. A backslash at the end of a line
continues it on the next one, whose leading white space does not count. `#` and `!` begin a comment. `\uXXXX`, `\t`,
`\n`, `\r` and `\f` are escapes; a backslash before any other character stands for that character.

A file is read as UTF-8 if its bytes are UTF-8, as Java 9 and later do, and otherwise as ISO-8859-1, unless
source.encoding names another encoding: then it is transcoded to UTF-8 below this module. A translation is
written on one line, in ASCII with `\uXXXX` escapes, which every version of Java reads; in a file that has other
characters in UTF-8 it is written in UTF-8.

A value with a numbered argument such as `{0}` and without a single apostrophe is a pattern of java.text.MessageFormat,
where an apostrophe is written twice: the model gets one, and those of its translation are doubled. An argument that
chooses one of several texts (`{0,choice,0#none|1#one}`) is a code: its texts are not translated.

Source: java.util.Properties, method load, and java.text.MessageFormat (Java SE 21).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hymt_batch.formats.output_stream import escaped
from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.spliced import Place, PlaceOptions, count_line_breaks, spliced_format
from hymt_batch.formats.text_encoding import BOM, SURROGATE
from hymt_batch.records import FormatCodes, Status

_CONTINUATION = rb"\\(?:\r\n|\r|\n)[ \t\f]*+"
_SPACE = rb"(?:[ \t\f]++|" + _CONTINUATION + rb")*+"
# what precedes an entry: blank lines, comments, and lines of a single backslash, which are blank too
_GAP = re.compile(rb"(?:[ \t\f\r\n]++|[#!][^\r\n]*+|\\(?:\r\n|\r|\n))*+")
_KEY = re.compile(rb"(?:[^\\=: \t\f\r\n]++|" + _CONTINUATION + rb"|\\[^\r\n])*+")
_SEPARATOR = re.compile(_SPACE + rb"(?:[=:]" + _SPACE + rb")?+")
_VALUE = re.compile(rb"(?:[^\\\r\n]++|\\(?:\r\n|[\s\S]))*+\\?+")

_CONTINUATION_OR_ESCAPE = re.compile(r"\\(?:(?:\r\n|\r|\n)[ \t\f]*+|([^\r\n])|\Z)")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\s\S]))")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_ESCAPED_CONTROL = {value: f"\\{name}" for name, value in _CONTROL.items()}
_MUST_ESCAPE = re.compile(r"^[ =:]|[\\\x00-\x1f\x7f]")
_MUST_ESCAPE_IN_ASCII = re.compile(r"^[ =:]|[^\x20-\x5b\x5d-\x7e]")
_CHOOSING = re.compile(r"\{\s*\w{1,64}\s*,\s*(?:choice|plural|select|selectordinal)\s*,")
_BRACE = re.compile(r"[{}]")
_ARGUMENT = re.compile(r"\{\s*\d+\s*[,}]")


class PropertiesFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = len(BOM) if data.startswith(BOM) else 0
        self._is_utf8 = bool(self._start) or _is_utf8(data)
        self._must_escape = _MUST_ESCAPE_IN_ASCII if data.isascii() or not self._is_utf8 else _MUST_ESCAPE

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        data, at, line = self._data, self._start, 1
        while True:
            start = _end(_GAP, data, at)
            if start == len(data):
                return
            line += count_line_breaks(data, at, start)
            value = _end(_SEPARATOR, data, _end(_KEY, data, start))
            at = _end(_VALUE, data, value)
            place = self._place(value, at, str(line))
            # earlier plans name no codes here
            codes = _arguments_with_texts(place.text) if place.text and options.plan_version > 6 else ()
            yield place._replace(codes=codes) if codes else place
            line += count_line_breaks(data, start, at)

    def encode(self, place: Place, text: str) -> bytes:
        if text == place.text:
            return self._data[place.start : place.end]  # with the user's own escapes
        if _is_pattern(self._value(place.start, place.end)):
            text = text.replace("'", "''")
        return self._must_escape.sub(lambda match: _escape(match[0]), text).encode()

    def _place(self, start: int, end: int, name: str) -> Place:
        try:
            value = self._value(start, end)
        except UnicodeDecodeError as error:
            return Place(start, end, name, None, RowError(not_utf8_message(error, "value"), Status.BAD_ENCODING))
        except RowError as error:
            return Place(start, end, name, None, error)
        return Place(start, end, name, value.replace("''", "'") if _is_pattern(value) else value)

    def _value(self, start: int, end: int) -> str:
        raw = self._data[start:end]
        return _unescape(raw.decode() if self._is_utf8 else raw.decode("latin-1"))


def _is_pattern(value: str) -> bool:
    """Return whether a value is a pattern of MessageFormat in which each apostrophe is written twice."""
    return "{" in value and _ARGUMENT.search(value) is not None and "'" not in value.replace("''", "")


def _arguments_with_texts(text: str) -> FormatCodes:
    """Return the arguments that choose one of several texts: a translation must have each of them as it is."""
    codes = []
    for match in _CHOOSING.finditer(text) if "{" in text else ():
        depth, end = 1, match.end()
        while depth and (brace := _BRACE.search(text, end)):
            depth, end = depth + (1 if brace[0] == "{" else -1), brace.end()
        if not depth:
            codes.append((text[match.start() : end], ""))
    # one within another is a part of it
    return tuple(
        code for code in dict.fromkeys(codes) if sum(code[0] in other for other, _ in codes) == codes.count(code)
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
        return True
    except UnicodeDecodeError:
        return False


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    match = pattern.match(data, at)
    assert match is not None  # every pattern also matches the empty string
    return match.end()


def _unescape(value: str) -> str:
    r"""Return the text of a value.

    Raises:
        RowError: A `\u` is not followed by four hexadecimal digits, or is half of a surrogate pair.
    """
    if "\\" not in value:
        return value
    logical = _CONTINUATION_OR_ESCAPE.sub(lambda match: match[0] if match[1] else "", value)
    text = _ESCAPE.sub(_unescape_match, logical)
    if SURROGATE.search(text):
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            raise RowError(
                "has half of a surrogate pair in \\u escapes, which is no character. Write both halves.",
                Status.BAD_ENCODING,
            ) from None
    return text


def _unescape_match(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    if match[2] == "u":
        raise RowError("has \\u without four hexadecimal digits. Complete the escape, or double the backslash.")
    return _CONTROL.get(match[2], match[2])


def _escape(character: str) -> str:
    if character in _ESCAPED_CONTROL:
        return _ESCAPED_CONTROL[character]
    if "\x20" <= character <= "\x7e":
        return f"\\{character}"
    return escaped(character)


FORMAT = spliced_format(
    PropertiesFile,
    name="properties",
    about="Java .properties; the values",
    extension=".properties",
    input_extensions=(".properties",),
    source_settings=("encoding",),
    escapes_characters=True,
    has_own_encoding=True,
)
