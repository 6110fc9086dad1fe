"""Rows as JSON lines, in the form in which parts and row records store them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hymt_batch.records import Language, Measures, Row, Status

_pack_row_key = struct.Struct(">QB").pack
_STATUSES = {status.value: status for status in Status}
_encode_string = json.encoder.encode_basestring  # a string as json.dumps(ensure_ascii=False) writes it
ROW_PREFIX = b'{"row":'
_FLAGS = re.compile(rb'","flags":\[("[^\]]+)\],"text":')  # a quote inside a text is escaped
_MEASURED = re.compile(rb'","flags":\[([^\]]*)\],"text":.*,"measures":(\{[^{}]+\})\}$', re.MULTILINE)
_CHUNK_BYTES = 1 << 18  # bounds the memory of decoded JSON objects, which are larger than rows


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return one JSON line for each row."""
    try:
        return "".join(map(_encode_row_fast, rows)).encode("utf-8")
    except UnicodeEncodeError:
        return b"".join(map(_encode_row, rows))


def _encode_row_fast(row: Row) -> str:
    """Do what `_encode_row` does, five times as fast, for a row without lone surrogates."""
    logprob = "" if row.mean_logprob is None else f',"logprob":{row.mean_logprob!r}'
    tries = f',"tries":{_dump_pairs(row.tries)}' if row.tries else ""
    key = f',"key":"{row.key.hex()}"' if row.key else ""
    origin = f',"origin":{_encode_string(row.origin)}' if row.origin else ""
    language = f',"language":[{_encode_string(row.language[0])},{row.language[1]!r}]' if row.language else ""
    measures = f',"measures":{_dump_pairs(row.measures)}' if row.measures else ""
    return (
        f'{{"row":{row.row_index},"digest":"{row.digest.hex()}","status":"{row.status}",'
        f'"flags":[{",".join(map(_encode_string, row.flags))}],"text":{_encode_string(row.text)},'
        f'"message":{_encode_string(row.message)},'
        f'"attempts":{row.attempts},"source_tokens":{row.num_source_tokens},"new_tokens":{row.num_new_tokens}'
        f"{logprob}{tries}{key}{origin}{language}{measures}}}\n"
    )


def _dump_pairs(pairs: Iterable[tuple[str, float]]) -> str:
    return json.dumps(dict(pairs), separators=(",", ":"), allow_nan=False)


def _encode_row(row: Row) -> bytes:
    value = {
        "row": row.row_index,
        "digest": row.digest.hex(),
        "status": row.status.value,
        "flags": list(row.flags),
        "text": row.text,
        "message": row.message,
        "attempts": row.attempts,
        "source_tokens": row.num_source_tokens,
        "new_tokens": row.num_new_tokens,
    }
    if row.mean_logprob is not None:
        value["logprob"] = row.mean_logprob
    if row.tries:
        value["tries"] = dict(row.tries)
    if row.key:
        value["key"] = row.key.hex()
    if row.origin:
        value["origin"] = row.origin
    if row.language:
        value["language"] = list(row.language)
    if row.measures:
        value["measures"] = dict(row.measures)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    return text + b"\n"


def decode_rows(lines: bytes) -> list[Row]:
    """Inverse of `encode_rows`.

    Raises:
        ValueError, KeyError, TypeError, OverflowError, RecursionError: The lines do not come from `encode_rows`.
    """
    if lines and not lines.endswith(b"\n"):
        raise ValueError("the last line is not complete")
    rows: list[Row] = []
    start = 0
    while start < len(lines):
        end = len(lines) if start + _CHUNK_BYTES >= len(lines) else lines.index(b"\n", start + _CHUNK_BYTES) + 1
        # one call for many lines is twice as fast as one call a line; a JSON string cannot hold a line feed
        text = lines[start : end - 1].decode("utf-8", "surrogatepass")
        values = json.loads(f"[{text.replace(chr(10), ',')}]")
        if not len(values) == lines.count(b"\n", start, end) == lines.count(b"}\n", start, end):
            raise ValueError("a line does not hold exactly one row")
        rows += map(_to_row, values)
        start = end
    return rows


def _to_row(value: dict[str, Any]) -> Row:
    logprob = value.get("logprob")
    return Row(
        int(value["row"]),
        bytes.fromhex(value["digest"]),
        _STATUSES[value["status"]],
        str(value["text"]),
        tuple(map(str, value["flags"])),
        str(value["message"]),
        int(value["attempts"]),
        int(value["source_tokens"]),
        int(value["new_tokens"]),
        None if logprob is None else float(logprob),
        tuple((str(step), int(num)) for step, num in value["tries"].items()) if "tries" in value else (),
        bytes.fromhex(value["key"]) if "key" in value else b"",
        str(value.get("origin", "")),
        decode_measures(value["measures"]) if "measures" in value else (),
        _decode_language(value["language"]) if "language" in value else None,
    )


def _decode_language(value: list[Any]) -> Language:
    label, margin = value
    return str(label), float(margin)


def decode_measures(value: dict[str, Any]) -> Measures:
    """Return the measurements of a row or segment from their JSON object.

    Raises:
        AttributeError, TypeError, ValueError: It is no object of numbers.
    """
    if any(type(number) not in (int, float) for number in value.values()):
        raise ValueError("a measurement is not a number")
    return tuple(value.items())


def row_index_of(line: bytes) -> int:
    """Return the row index of a line that `encode_rows` wrote, without decoding the rest of it.

    Raises:
        ValueError: The line does not begin as such a line does.
    """
    if not line.startswith(ROW_PREFIX):
        raise ValueError("not a row")
    return int(line[len(ROW_PREFIX) : line.index(b",", len(ROW_PREFIX))])


def has_logprob(line: bytes) -> bool:
    """Return whether a line that `encode_rows` wrote has a log-probability, or no text that needs one."""
    return b',"logprob":' in line or b',"text":"",' in line  # a quote inside a text is escaped


def count_flags(lines: bytes, derive: Callable[[Measures], Iterable[str]] = lambda measures: ()) -> Counter[str]:
    """Return how many rows have each flag, over lines that `encode_rows` wrote, without decoding the rest of them.

    Args:
        lines: The lines.
        derive: Returns the flags that measurements give a row.
    """
    found = Counter(_FLAGS.findall(lines))  # few combinations, on many rows
    counts: Counter[str] = Counter()
    for names, num in found.items():
        counts.update(dict.fromkeys(json.loads(f"[{names.decode()}]"), num))
    for (names, measures), num in Counter(_MEASURED.findall(lines)).items():
        derived = set(derive(decode_measures(json.loads(measures)))).difference(json.loads(f"[{names.decode()}]"))
        counts.update(dict.fromkeys(derived, num))
    return counts


def rows_digest(rows: Iterable[tuple[int, bytes]]) -> str:
    """Return the sha256 over all (row number, source digest) pairs, given in ascending order of the rows."""
    return hashlib.sha256(b"".join([_pack_row_key(row, len(source)) + source for row, source in rows])).hexdigest()


def count_statuses(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of rows by status."""
    return {status.value: count for status, count in Counter([row.status for row in rows]).items()}
