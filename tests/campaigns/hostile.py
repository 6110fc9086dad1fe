"""Generate hostile rows, and read them a second, simple way that the readers are compared with.

This module imports none of the readers. A seeded generator that knows each format creates the rows, and random
mutations change their bytes. The expected rows come from loops over single characters.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OK, TOO_LONG, BAD, BAD_ROW = "ok", "too_long", "bad_encoding", "bad_row"
MAX_DEPTH = 256
BOM = b"\xef\xbb\xbf"

WORDS = (
    "rain", "Lyon", "the", "wind", "l'été", "straße", "İstanbul", "дождь", "雨が降る。", "下雨了，明天", "مطر", "बारिश",
    "ﬁ", "ǰ", "e\u0301", "한국", "12", "3.5", "-1", "=SUM(A1)", "@cmd", "+x", "http://a.b/c?d=e&f", "a,b",
    "a;b", "a\tb",
)  # fmt: skip
ODD = (
    "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\x07", "\x1b[31m", "\x1b]0;t\x07",
    "\x9b2J", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\ufffe", "\uffff", "\U0010ffff", "\ue000",
    "\u0300" * 9, "{text}", "{target}", "%s", "${oc.env:HOME}", "{{7*7}}", "<|im_end|>", "<｜hy_User｜>", "<think>",
    "</s>", '"', '""',
    "'", "\\", "\\n", "\\u0000", "null", "NaN", "\u3000", "\xa0", " ", "  ",
)  # fmt: skip
RAW = (
    b"\xff", b"\xfe\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
    b"\x80", b"\xe2\x80", b"\x00", b"\r\r\n", b"\xef\xbb\xbf",
)  # fmt: skip
BAD_JSON = (
    b"", b"{", b"}", b"[]", b"null", b"0", b'"text"', b"{'text': 1}", b'{"text": }', b'{"text": "a"', b'{"text": "a}',
    b'{"text": "a",}', b'{"text": NaN}', b'{"text": "a", "n": Infinity}', b'{"text": "a", "n": -Infinity}',
    b'{"text": 5}',
    b'{"text": ["a"]}', b'{"text": {"text": "a"}}', b'{"text": "\\ud800"}', b'{"text": "a\\udc00b"}', b'{"tex": "a"}',
    b'{"text": "a", "text": "b"}', b'{"x": {"text": 1, "text": 2}, "text": "a"}', b'{"text": "a"} {"text": "b"}',
    b'\xef\xbb\xbf{"text": "a"}', b'{"text": "a\x01"}', b'{"text": "\\x41"}', b'{"text": true}', b"// text",
    b'{"text": "a", "n": ' + b"9" * 5000 + b"}", b'{"text": "a", "n": 1e999}', b'{"te\\u0078t": "a"}',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A file and the expected status and text of each of its rows, in order."""

    name: str
    data: bytes  # decompressed; for parquet the file itself
    rows: list[tuple[str, str | None]]
    refused: bool = False  # the whole file must be refused with a ConfigError
    table: Any = None


def text(rng: random.Random, long: bool = True) -> str:
    """Return a text of words in many scripts, with unusual characters between them."""
    kind = rng.random()
    if kind < 0.04:
        return rng.choice(("", " ", "\t", "\u3000", "\xa0 ", "\x1f"))
    if long and kind < 0.05:
        return rng.choice(WORDS) * rng.choice((40, 300, 1500))
    pieces = [rng.choice(ODD if rng.random() < 0.15 else WORDS) for _ in range(rng.randint(1, 9))]
    return ("" if rng.random() < 0.1 else " ").join(pieces)


def mutated(rng: random.Random, data: bytes, times: int) -> bytes:
    """Return the bytes with some of them flipped, removed, repeated or inserted."""
    mutation = bytearray(data)
    for _ in range(times):
        at = rng.randrange(len(mutation) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(mutation):
            mutation[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutation[at : at + rng.choice((1, 2, 40))]
        elif kind == 2:
            mutation[at:at] = mutation[at : at + rng.choice((1, 20, 90))]
        elif kind == 3:
            mutation[at:at] = rng.choice(RAW)
        elif kind == 4:
            mutation[at:at] = rng.choice((b'"', b",", b"\n", b"\r\n", b"\t", b"{", b"}", b"[", b"\\"))
        elif rng.random() < 0.03:
            del mutation[at:]  # a truncated file
    return bytes(mutation)


def _line(rng: random.Random) -> bytes:
    data = text(rng).replace("\n", " ").encode("utf-8", "surrogatepass")
    if rng.random() < 0.04:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(RAW) + data[at:]
    return data


def _object(rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.12:
        return rng.choice(BAD_JSON)
    if kind < 0.14:
        depth = rng.choice((1, 200, MAX_DEPTH - 1, MAX_DEPTH, 400, 950, 20_000 if rng.random() < 0.1 else 600))
        opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        return b'{"text": "deep", "x": ' + opened * depth + b"1" + closed * depth + b"}"
    value: dict[str, Any] = {"id": rng.randrange(10**6), "text": text(rng)}
    if rng.random() < 0.05:
        value["text"] = rng.choice((None, 3, [], {}, 1.5, False))
    if rng.random() < 0.1:
        value[text(rng, long=False)] = text(rng, long=False)
    if rng.random() < 0.5:
        value = dict(reversed(value.items()))
    return json.dumps(
        value, ensure_ascii=rng.random() < 0.3, separators=(",", ":") if rng.random() < 0.3 else None
    ).encode()


def _lines(rng: random.Random, num: int, make: Callable[[random.Random], bytes]) -> bytes:
    end = rng.choice((b"\n", b"\n", b"\r\n"))
    lines = [make(rng) + (rng.choice((b"\n", b"\r\n")) if rng.random() < 0.05 else end) for _ in range(num)]
    return b"".join(lines)[: None if rng.random() < 0.7 else -len(end)]


def _body(rng: random.Random, num: int, format: str) -> bytes:
    if format == "text":
        return _lines(rng, num, _line)
    if format == "jsonl":
        return _lines(rng, num, _object)
    if format == "tsv":
        return _lines(rng, num, lambda r: b"\t".join(_line(r).replace(b"\t", b" ") for _ in range(3)))
    out = io.StringIO()
    kind = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    writer = csv.writer(out, quoting=kind, lineterminator=rng.choice(("\n", "\r\n")))
    for row in range(num):
        cells = [str(row), text(rng), text(rng)]
        if rng.random() < 0.2:
            cells[1] += "\n" + text(rng, long=False)
        writer.writerow(cells)
        if rng.random() < 0.06:
            out.write(
                rng.choice(('1,"open,x\n', '"a"b,c,d\n', 'a"b,c,"d"\n', "1,2\n", "\n", "1,2,3,4\n", '"",,\n', '"\n'))
            )
    return out.getvalue().encode("utf-8", "surrogatepass")


HEADERS = {"csv": b"id,text,more\n", "tsv": b"id\ttext\tmore\r\n"}
NAMES = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "tsv": ".tsv"}


def case(rng: random.Random, name: str, format: str, num: int, limit: int, reserved: tuple[str, ...] = ()) -> Case:
    """Return a file of about `num` rows, with the rows that the simple readers find."""
    head = HEADERS.get(format, b"")
    body = _body(rng, num, format)
    if rng.random() < 0.5:
        body = mutated(rng, body, rng.choice((1, 5, 25, num)))
    if rng.random() < 0.02:
        body += rng.choice((b"x", b'"', b"{", b"\xff")) * rng.choice((limit + 3, 3 * limit))
    if format == "jsonl":
        first = (
            rng.choice((b"[]\n", b'{"other": 1}\n', b"\xff\n")) * 100 if rng.random() < 0.04 else b'{"text": "first"}\n'
        )
        body = first + body
    data = rng.choice((BOM, b"\xff\xfe") if rng.random() < 0.02 else (BOM, *[b""] * 9)) + head + body
    without_bom = data[len(BOM) :] if data.startswith(BOM) else data
    refused = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    row_bytes = without_bom[len(head) :]
    rows = read(format, row_bytes, limit, reserved)
    if not data.startswith(BOM):
        refused = refused or _looks_like_another_encoding(data)
    if format == "jsonl":
        refused = refused or _refused(row_bytes, limit, reserved)
    return Case(name + NAMES[format], data, [] if refused else rows, refused)


def _looks_like_another_encoding(data: bytes) -> bool:
    """Return whether a file without a mark is refused: most of its first lines are not UTF-8, or many and no others."""
    head = data[: 1 << 16]
    pieces = head.split(b"\n")
    if len(head) == 1 << 16 and len(pieces) > 1:
        pieces.pop()
    good_beyond_ascii = bad = total = 0
    for line in pieces:
        if not line.strip():
            continue
        total += 1
        if _decoded(line)[0] != OK:
            bad += 1
        elif any(byte > 127 for byte in line):
            good_beyond_ascii += 1
    return (bad >= 3 and bad > total - bad) or (bad >= 20 and bad > total / 10 and good_beyond_ascii < bad / 10)


def read(format: str, body: bytes, limit: int, reserved: tuple[str, ...] = ()) -> list[tuple[str, str | None]]:
    """Return the status and text of each row, the slow and simple way."""
    if format == "csv":
        return [row for row, _ in csv_rows(body, limit)]
    return [_READ[format](line, limit, reserved) for line in lines(body)]


def lines(data: bytes) -> list[bytes]:
    """Split rows at line feeds only; each row keeps its line feed."""
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def content(line: bytes) -> bytes:
    if line.endswith(b"\n"):
        line = line[:-1].removesuffix(b"\r")
    return line


def _decoded(data: bytes) -> tuple[str, str | None]:
    try:
        return OK, data.decode("utf-8")
    except UnicodeDecodeError:
        return BAD, None


def _text(line: bytes, limit: int, _: tuple[str, ...]) -> tuple[str, str | None]:
    return (TOO_LONG, None) if len(content(line)) > limit else _decoded(content(line))


def _tsv(line: bytes, limit: int, _: tuple[str, ...]) -> tuple[str, str | None]:
    cells = content(line).split(b"\t")
    if len(content(line)) > limit:
        return TOO_LONG, None
    if not content(line):
        return OK, ""
    if _decoded(content(line))[0] != OK:
        return BAD, None
    if len(cells) != 3:
        return BAD_ROW, None
    return _decoded(cells[1])


def _depth(data: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for character in data:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        else:
            depth += (character in "[{") - (character in "]}")
            deepest = max(deepest, depth)
    return deepest


def _value(line: bytes) -> Any:
    """Parse the JSON object of a line, with integers as tuples; raise ValueError for anything else."""

    def on_object(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if [name for name, _ in items].count("text") > 1:
            raise ValueError
        return dict(items)

    data = content(line).decode("utf-8")
    if _depth(data) > MAX_DEPTH:
        raise ValueError
    value = json.loads(data, object_pairs_hook=on_object, parse_int=lambda digits: (digits,))
    if not isinstance(value, dict):
        raise ValueError
    return value


def _json(line: bytes, limit: int, reserved: tuple[str, ...]) -> tuple[str, str | None]:
    if len(content(line)) > limit:
        return TOO_LONG, None
    if line.isspace():
        return OK, ""
    try:
        value = _value(line)
        text_value = value["text"]
        if not isinstance(text_value, str | None):
            return BAD_ROW, None
        (text_value or "").encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return BAD, None
    except (ValueError, KeyError):
        return BAD_ROW, None
    return OK, text_value or ""


def _refused(body: bytes, limit: int, reserved: tuple[str, ...]) -> bool:
    """Return whether the first hundred rows have no text field, are not JSON lines, or have a reserved field."""
    num_read, values = 0, []
    for line in lines(body)[:100]:
        if len(content(line)) <= limit and not line.isspace():
            num_read += 1
            try:
                values.append(_value(line))
            except ValueError:
                continue
    has_no_text = bool(values) and not any("text" in value for value in values)
    return has_no_text or (num_read >= 50 and not values) or any(name in value for value in values for name in reserved)


_READ = {"text": _text, "tsv": _tsv, "jsonl": _json}


def csv_rows(body: bytes, limit: int, num_fields: int = 3) -> list[tuple[tuple[str, str | None], bytes]]:
    """Return the rows of a csv file and their bytes.

    A record of several lines counts only if its quotes close correctly and it has the right number of fields; the
    number is not checked for a record within the limit that is not UTF-8.
    """
    rows: list[tuple[tuple[str, str | None], bytes]] = []
    remaining = lines(body)
    at = 0
    while at < len(remaining):
        line = remaining[at]
        record, num_lines = line, 1
        if _parse_record(line)[1]:
            record, num_lines = _multi_line_record(remaining, at, limit, num_fields)
        if not record and len(content(line)) > limit:
            record, num_lines = line, 1
        if len(content(record)) > limit:
            rows.append(((TOO_LONG, None), record))
            at += num_lines
            continue
        if not record:
            rows.append(((BAD_ROW if _decoded(content(line))[0] == OK else BAD, None), line))
            at += 1
            continue
        status, decoded = _decoded(content(record))
        cells = _parse_record(content(record))[0] if content(record) else [b""] * num_fields
        is_good = status == OK and decoded is not None and len(cells) == num_fields
        bad_status = BAD if status != OK else BAD_ROW
        rows.append(((OK, cells[1].decode()) if is_good else (bad_status, None), record))
        at += num_lines
    return rows


def _multi_line_record(remaining: list[bytes], at: int, limit: int, num_fields: int) -> tuple[bytes, int]:
    """Return the record that starts at a line with an open quote, and its number of lines; b"" if it is invalid."""
    record = remaining[at]
    for index in range(at + 1, len(remaining)):
        record += remaining[index]
        _, is_open, is_well_quoted = _parse_record(remaining[index], is_open=True)
        if not is_well_quoted:
            return b"", 0
        if not is_open:
            undecodable = len(content(record)) <= limit and _decoded(content(record))[0] != OK
            cells = _parse_record(content(record))[0]
            return (record, index - at + 1) if undecodable or len(cells) == num_fields else (b"", 0)
    return b"", 0


def _parse_record(data: bytes, is_open: bool = False) -> tuple[list[bytes], bool, bool]:
    """Split a record into cells, one byte at a time.

    Returns:
        The cells; whether a quote is open at the end; whether each closing quote is followed by a comma or the end of
        the line.
    """
    cells: list[bytes] = []
    cell, at_start, is_well_quoted, at = bytearray(), True, True, 0
    while at < len(data):
        byte = data[at : at + 1]
        if is_open and byte == b'"' and data[at + 1 : at + 2] == b'"':
            cell += b'"'
            at += 1
        elif is_open and byte == b'"':
            is_open = False
            is_well_quoted = is_well_quoted and (
                data[at + 1 : at + 2] in (b"", b",") or data[at + 1 :] in (b"\n", b"\r\n")
            )
        elif is_open:
            cell += byte
        elif byte == b'"' and at_start:
            is_open = True
        elif byte == b",":
            cells.append(bytes(cell))
            cell.clear()
        else:
            cell += byte
        at_start = byte == b"," and not is_open
        at += 1
    return [*cells, bytes(cell)], is_open, is_well_quoted
