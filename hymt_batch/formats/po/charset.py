"""The charset of a catalogue: what its header names, and how bytes are masked for the tokenizer.

Source: The GNU gettext manual, "Header Entry"; po-charset.c of gettext 0.21.
"""

from __future__ import annotations

import contextlib
import re

from hymt_batch.formats.po.strings import Charset
from hymt_batch.formats.spliced import UnreadableFileError
from hymt_batch.formats.text_encoding import BOM, MARKS, STATEFUL, UTF8, normalize

NO_CHARSET = "charset"
"""What a template has in the place of a charset."""

_NAMED = re.compile(rb"Content-Type:[^\n]*?charset=([^\s;\"\\]+)", re.IGNORECASE)
_HEADER_BYTES = 1 << 16
_DOUBLE = {
    "big5": rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]",
    "cp950": rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]",
    "big5hkscs": rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]",
    "shift_jis": rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]",
    "cp932": rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]",
    "shift_jis_2004": rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]",
    "shift_jisx0213": rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]",
    "gbk": rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]",
    "gb18030": rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]|[\x81-\xfe][0-9][\x81-\xfe][0-9]",
    "johab": rb"[\x84-\xf9][\x31-\x7e\x81-\xfe]",
    "cp949": rb"[\x81-\xfe][\x41-\x5a\x61-\x7a\x81-\xfe]",
}
"""Encodings in which the second byte of a character can be one of ASCII -> what matches a character of more bytes."""


def find_charset(data: bytes) -> tuple[Charset, str]:
    """Return the charset of a catalogue and its name in the header, "" where none is named that is known.

    Raises:
        UnreadableFileError: The charset is not known, or none that a catalogue can have, and the file is not UTF-8.
    """
    match = _NAMED.search(data, 0, _HEADER_BYTES)
    name = match[1].decode("ascii", "replace") if match else ""
    if data.startswith(BOM) or not name or name.lower() == NO_CHARSET:
        return Charset(UTF8), name
    try:
        codec = normalize(name)
        if codec in MARKS or codec in ("utf-16", "utf-32") or codec.startswith(STATEFUL):
            raise LookupError(name)
    except LookupError:
        with contextlib.suppress(UnicodeDecodeError):
            data.decode()
            return Charset(UTF8), ""  # ASCII is UTF-8, too; an unknown name says nothing
        assert match is not None  # it has a name
        raise UnreadableFileError(
            f"its header names the charset {name}, which no catalogue can have",
            line=1 + data.count(b"\n", 0, match.start(1)),
        ) from None
    return Charset(codec, codec in _DOUBLE), name


def mask(data: bytes, charset: Charset) -> bytes:
    """Return the bytes with others, as many, in the place of each character whose second byte can be one of ASCII."""
    pattern = _DOUBLE.get(charset.codec)
    return data if pattern is None else re.sub(pattern, lambda match: b"\x80" * len(match[0]), data)
