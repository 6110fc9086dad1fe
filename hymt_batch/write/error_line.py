"""Make a line of the errors file: why a row is not ok, and its original where it has no translation."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right

from hymt_batch.formats.field_rows import file_row
from hymt_batch.formats.row_values import dump_json
from hymt_batch.formats.text_encoding import with_original_bytes
from hymt_batch.records import ERROR_STATUSES, Document, Row, line_ending

FORMAT = "jsonl"
"""Name of the format of the errors file, whatever the formats of input and output are."""

MAX_RAW_BYTES = 4096
# control, direction and other invisible characters, which a terminal or a viewer might interpret
_INVISIBLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def error_line(document: Document, row: Row, raw: bool = True, *, is_transcoded: bool = False) -> bytes:
    """Return the line of the errors file for a row whose status is not ok.

    Args:
        document: The row as it was read.
        row: The row as it was committed.
        raw: Add the key `raw` where there is no translation: the original row, or, of a table and of rows with several
            text fields, its text; at most MAX_RAW_BYTES in the file, with invalid UTF-8 as \\xHH and invisible
            characters as JSON escapes. Where it was cut, the key `raw_cut` says so.
        is_transcoded: The row was transcoded to UTF-8: an undecodable byte, for which a mark stands, is \\xHH.
    """
    message = row.message or document.message
    status = row.status.value
    line = {
        "id": document.id,
        "row": file_row(document) + 1,
        "status": status,
        "message": message,
        "flags": list(row.flags),
    }
    if not raw or row.status not in ERROR_STATUSES:
        return dump_json(line).encode() + b"\n"
    raw_json, is_cut = _raw_json(document, is_transcoded)
    cut = ', "raw_cut": true' if is_cut else ""
    return f'{dump_json(line)[:-1]}, "raw": {raw_json}{cut}}}\n'.encode()


def _raw_json(document: Document, is_transcoded: bool) -> tuple[str, bool]:
    """Return the original row as a JSON string of at most MAX_RAW_BYTES, and whether it was cut."""
    if document.long_row is not None:
        raw, is_cut = document.long_row.head, document.long_row.size > len(document.long_row.head)
    else:
        raw, is_cut = document.raw[: len(document.raw) - len(line_ending(document.raw))], False
        if not raw or (document.field is not None and document.field.name is not None):
            raw = (document.text or "").encode("utf-8", "replace")  # a table's row has no bytes of its own
    is_cut = is_cut or len(raw) > MAX_RAW_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    raw = raw[:MAX_RAW_BYTES]
    if is_transcoded:
        raw = with_original_bytes(raw, lambda byte: f"\\x{byte:02x}".encode())
    text = decoder.decode(raw, final=not is_cut)  # drops a character that is cut in two
    escaped = _escape_invisible(text)
    if len(escaped.encode()) <= MAX_RAW_BYTES:
        return escaped, is_cut
    num_fitting_chars = (
        bisect_right(range(len(text) + 1), MAX_RAW_BYTES, key=lambda size: len(_escape_invisible(text[:size]).encode()))
        - 1
    )
    return _escape_invisible(text[:num_fitting_chars]), True


def _escape_invisible(text: str) -> str:
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", dump_json(text))
