"""Scanning a row in one pass: the spans match those of a parser, and do not depend on how the bytes are divided."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest

from hymt_batch.formats.delimited.record_repair import repair_record
from hymt_batch.formats.delimited.record_scan import RecordScan
from hymt_batch.formats.jsonl.json_scan import JsonScan, scan_json_object

PIECES = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    '"text"',
    '"id"',
    '"a\\"b"',
    '"\\u00e9"',
    "1",
    "-2.5e3",
    "0",
    "true",
    "nul",
]
PIECES += [
    "null",
    "NaN",
    "-Infinity",
    " ",
    "\t",
    "\\",
    "é",
    "\x01",
    '"x": 1',
    '"text": "a"',
    "01",
    "1.",
    "[[1, 2], {}]",
]


def rows(seed: int, num: int) -> list[bytes]:
    rng = random.Random(seed)
    raw_rows = []
    for _ in range(num):
        pairs = {
            rng.choice(("id", "text", "n", "é", "a\\")): rng.choice((1, -0.5, "a", 'q"é', [1, [], {"b": [{}]}], None))
        }
        raw = json.dumps({"text": "first", **pairs}, ensure_ascii=rng.random() < 0.5)
        for _ in range(rng.choice((0, 0, 1, 2))):
            at = rng.randrange(len(raw) + 1)
            raw = raw[:at] + rng.choice(PIECES) + raw[at + rng.choice((0, 0, 1, 3)) :]
        raw_rows.append("".join(rng.choice(PIECES) for _ in range(9)).encode() if rng.random() < 0.3 else raw.encode())
    return raw_rows


def scan_result(scan: JsonScan) -> tuple[object, ...]:
    return scan.pairs_end, scan.num_pairs, scan.is_complete, scan.present_names, scan.text_span


def test_a_json_row_is_complete_only_if_a_parser_accepts_it_however_its_bytes_are_divided() -> None:
    num_whole = 0
    for index, raw in enumerate(rows(1, 6000)):
        scan = scan_json_object(raw, "text", ("id",))
        try:
            value = json.loads(raw)
        except ValueError:
            value = None
        assert scan.is_complete == isinstance(value, dict), raw
        num_whole += scan.is_complete
        if scan.pairs_end:
            leading = json.loads(raw[: scan.pairs_end] + b"}")  # the leading pairs are valid JSON
            assert (len(leading) == scan.num_pairs) or raw.count(b'"') > 2 * len(leading)  # a duplicate name
        if scan.is_complete:
            assert scan.present_names == {"text", "id"} & set(value)
            if scan.text_span:
                assert json.loads(raw[slice(*scan.text_span)]) == value["text"]
        rng = random.Random(index)
        pieces, at = JsonScan("text", ("id",)), 0
        while at < len(raw):
            step = rng.choice((1, 1, 2, 7, 60))
            pieces.feed(raw[at : at + step])
            at += step
        pieces.finish()
        assert scan_result(pieces) == scan_result(scan), raw
    assert 1500 < num_whole < 5000


@pytest.mark.parametrize("size", [1 << 18])
def test_a_json_row_is_scanned_in_bounded_memory_and_linear_time(size: int) -> None:
    for value in (b'"' + b"x" * size + b'"', b"[" + b"1," * (size // 2) + b"1]", b"[" * 900 + b"]" * 900):
        raw = b'{"id": 1, "n": ' + value + b', "text": "a"}'
        scan = JsonScan("text")
        for at in range(0, len(raw), 1000):
            scan.feed(raw[at : at + 1000])
            assert len(scan._pending) < 1000
        scan.finish()
        assert scan.is_complete and scan.num_pairs == 3
    scan = scan_json_object(b'{"id": 1, "n": ' + b"9" * 100_000 + b"}")
    assert scan.is_complete or scan.num_pairs == 1
    assert scan_json_object(b"[" * (1 << 20)).pairs_end == 0
    assert scan_json_object(b'{"id": 1, "n": ' + b"[" * ((1 << 20) + 1)).num_pairs == 1


@pytest.mark.parametrize("delimiter", [",", ";", "é"])
def test_a_repaired_record_has_every_value_and_the_right_number_of_columns(delimiter: str) -> None:
    rng = random.Random(2)
    units = [
        '"',
        '""',
        delimiter,
        "a",
        "\r",
        "é",
        "x" * 40,
        '"q"',
        f'"{delimiter}"',
        f'{delimiter}"',
        f'"{delimiter}',
        "\n",
    ]
    for _ in range(4000):
        raw = "".join(rng.choice(units) for _ in range(rng.randrange(1, 14)))
        width = rng.randrange(1, 5)
        repaired = "".join(repair_record([raw], delimiter, width, is_csv=True))
        assert "".join(repair_record(list(raw), delimiter, width, is_csv=True)) == repaired
        (record,) = (
            csv.reader(io.StringIO(repaired, newline=""), delimiter=delimiter, strict=True) if repaired else [[""]]
        )
        assert len(record) == width, raw
        cells = _cells(raw, delimiter)
        expected = cells + [""] * (width - len(cells)) if len(cells) < width else cells
        assert record == [*expected[: width - 1], delimiter.join(expected[width - 1 :])], raw
        scan, column = RecordScan(delimiter.encode(), 1), 1
        data = raw.replace("\n", " ").encode()
        for at in range(len(data)):
            scan.feed(data[at : at + 1])
        scan.finish()
        cells = _cells(data.decode(), delimiter)
        assert scan.num_cells == len(cells)
        span = scan.cell_span(len(data))
        assert (span is not None) == (len(cells) > column)
        if span:
            assert _cells(data[slice(*span)].decode(), delimiter) == cells[1:2]


def _cells(text: str, delimiter: str) -> list[str]:
    """Split into cells, one character at a time."""
    cells, cell, in_quotes, at = [], "", False, 0
    at_start = True
    while at < len(text):
        character = text[at]
        if in_quotes and text.startswith('""', at):
            cell, at = cell + '"', at + 1
        elif in_quotes and character == '"':
            in_quotes = False
        elif not in_quotes and at_start and character == '"':
            in_quotes = True
        elif not in_quotes and character == delimiter:
            cells.append(cell)
            cell, at_start, at = "", True, at + 1
            continue
        else:
            cell += character
        at_start, at = False, at + 1
    return [*cells, cell]


def test_surplus_tsv_cells_are_joined_with_spaces() -> None:
    for raw, width, expected in (("a", 3, "a\t\t"), ("a\tb\tc", 2, "a\tb c"), ("a\tb", 1, "a b"), ("", 2, "\t")):
        assert "".join(repair_record([raw], "\t", width, is_csv=False)) == expected
        assert "".join(repair_record(list(raw), "\t", width, is_csv=False)) == expected


def test_a_long_cell_is_quoted_in_pieces() -> None:
    pieces = ["1," + "x" * 40_000, "y" * 40_000 + '"z', ",2,3"]
    repaired = list(repair_record(iter(pieces), ",", 3, is_csv=True))
    assert max(map(len, repaired)) < 81_000
    (record,) = csv.reader(io.StringIO("".join(repaired)), strict=True)
    assert record == ["1", "x" * 40_000 + "y" * 40_000 + '"z', "2,3"]
