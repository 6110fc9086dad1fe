"""Every Arrow type, with its smallest and largest values, from files and saved datasets to every format."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import compute, parquet

from hymt_batch.errors import ConfigError
from hymt_batch.formats.parquet import arrow_json
from tests.test_conversions import converted, save

LOW, HIGH = -(2**63), 2**63 - 1
ZONES = (None, "UTC", "Z", "+05", "-0330", "UTC+1", "Mars/X", "America", "../x", "", "Asia/Tokyo")


def dictionary(values: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.uint8()), values)


def columns() -> dict[str, Any]:
    """Return an array of every type, with its bounds, a null, and the most difficult numbers and texts."""
    arrays: dict[str, Any] = {}

    def add(array: Any, name: str = "") -> None:
        name = name or str(array.type)
        assert name not in arrays
        arrays[name] = array

    extremes, small = pa.array([LOW, HIGH, 1, None], pa.int64()), pa.array([-(2**31), 2**31 - 1, 1, None], pa.int32())
    for unit in arrow_json.TICKS_PER_SECOND:
        for zone in ZONES:
            add(extremes.view(pa.timestamp(unit, zone)), f"timestamp {unit} {zone}")
        add(extremes.view(pa.duration(unit)))
    for kind in (pa.time64("us"), pa.time64("ns"), pa.date64()):
        add(extremes.view(kind))
    for kind in (pa.time32("s"), pa.time32("ms"), pa.date32()):
        add(small.view(kind))
    add(pa.array([(1, 2, 3), None, (-1, -2, LOW)], pa.month_day_nano_interval()))
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        add(pa.array([float("nan"), float("inf"), float("-inf"), None, 0.5], kind))
    for bits in (8, 16, 32, 64):
        add(pa.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, None], f"int{bits}"))
        add(pa.array([0, 2**bits - 1, None], f"uint{bits}"))
    for kind, digits in (
        (pa.decimal32(9, 2), "-9999999.99"),
        (pa.decimal64(18, 2), "1.50"),
        (pa.decimal128(38, 38), f"0.{'9' * 38}"),
        (pa.decimal128(38, -2), "100"),
        (pa.decimal256(76, 3), f"{'9' * 73}.999"),
    ):
        add(pa.array([Decimal(digits), None], kind))
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        add(pa.array([b"a\xff", None, b""], kind))
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        add(pa.array(['a\tb\n"c\u2028', None, ""], kind))
    broken = pa.array([b"ok", None, b"\xff!"])
    add(broken.view(pa.string()), "broken string")
    add(broken.cast(pa.large_binary()).view(pa.large_string()), "broken large string")
    add(broken.cast(pa.binary_view()).view(pa.string_view()), "broken string view")
    add(pa.StructArray.from_arrays([broken.view(pa.string())], ["s"]), "broken nested string")
    add(pa.array([b"ab", None], pa.binary(2)))
    add(pa.array([b"", None], pa.binary(0)))
    for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view):
        add(pa.array([[1, 2], None, [], [3]], kind(pa.int8())))
    add(pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int8(), 2)))
    add(pa.ListArray.from_arrays(pa.array([0, 2, 3, 4]), extremes.view(pa.timestamp("us"))))
    add(pa.array([[("a", 1), ("a", 2)], None, []], pa.map_(pa.string(), pa.int8())))
    add(pa.array([[(b"\xff", 1.5)], None], pa.map_(pa.binary(), pa.float64())))
    add(pa.array([{"a": float("nan"), "b": [b"x"]}, None], pa.struct({"a": pa.float64(), "b": pa.list_(pa.binary())})))
    add(pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], ["a", "a"]))
    add(pa.array([{}, None], pa.struct([])))
    add(
        pa.array(
            [[{"m": [("k", [1.5, None])]}], None],
            pa.list_(pa.struct({"m": pa.map_(pa.string(), pa.list_(pa.float64()))})),
        )
    )
    for values in (
        pa.array(["a", "b"]),
        pa.array(["a", "b"], pa.string_view()),
        pa.array([float("nan"), 1.0]),
        pa.array([[1], None]),
        pa.array([LOW, HIGH]).view(pa.timestamp("us")),
    ):
        add(dictionary(values))
    add(dictionary(pa.array(["a", None])), "dictionary with null")
    add(compute.run_end_encode(pa.array(["a", "a", None, "b"])))
    children = [pa.array([1, 2, 3]), pa.array(["a", "b", None])]
    add(pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), children))
    codes, offsets = pa.array([5, 7, 5], pa.int8()), pa.array([0, 0, 1], pa.int32())
    add(pa.UnionArray.from_dense(codes, offsets, children, ["x", "y"], [5, 7]))
    add(pa.array([True, None, False]))
    add(pa.nulls(3))
    for kind, storage in (
        (pa.uuid(), pa.array([b"\0" * 16, None], pa.binary(16))),
        (pa.bool8(), pa.array([1, None, 0], pa.int8())),
        (pa.json_(), pa.array(['{"a":1}', None])),
        (pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2], None], pa.list_(pa.int8(), 2))),
        (pa.opaque(pa.binary(), "x", "y"), pa.array([b"\xff", None])),
    ):
        add(pa.ExtensionArray.from_storage(kind, storage))
    return arrays


COLUMNS = columns()
UNSTORED = (
    *(f"timestamp s {zone}" for zone in ZONES),
    "month_day_nano_interval",
    "fixed_size_binary[0]",
    "struct<>",
    "decimal128(38, -2)",
    "dictionary<values=string_view, indices=uint8, ordered=0>",
    "dictionary<values=list<item: int64>, indices=uint8, ordered=0>",
    "dictionary with null",
    "run_end_encoded<run_ends: int32, values: string>",
    "sparse_union<0: int64=0, 1: string=1>",
    "dense_union<x: int64=5, y: string=7>",
)
"""Columns that parquet cannot store."""


def wrong(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def rows_of(data: bytes, kind: str) -> list[dict[str, Any]]:
    if kind == "jsonl":
        return [json.loads(line, parse_constant=wrong) for line in data.decode().splitlines()]
    quoting: Any = csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
    delimiter, file = "\t" if kind == "tsv" else ",", io.StringIO(data.decode(), newline="")
    return list(csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("parquet", "dataset") for name in COLUMNS if kind == "dataset" or name not in UNSTORED],
)
def test_a_column_of_every_type_is_written_to_every_format_or_refused_before_the_job(
    kind: str, name: str, tmp_path: Path
) -> None:
    array = COLUMNS[name]
    table = pa.table([pa.array([f"row {row}" for row in range(len(array))]), array], names=["text", "c"])
    if kind == "dataset":
        path = save(tmp_path / "in", table)
    else:
        path = tmp_path / "in.parquet"
        parquet.write_table(table, path)
    expected = arrow_json.to_json_values(array)
    for out_format in ("jsonl", "csv", "tsv"):
        data, num_rows = converted(path, out_format)
        rows = rows_of(data, out_format)
        assert num_rows == len(rows) == len(array)
        assert [list(row) for row in rows] == [["text", "c", "translation", "hymt"]] * num_rows
        # pyarrow stores these two in other units, and parquet keeps only 32 bits of them
        if out_format == "jsonl" and (kind == "dataset" or name not in ("date64[ms]", "time32[s]")):
            assert [row["c"] for row in rows] == expected
        assert [row["c"] == "" for row in rows if out_format != "jsonl"] == [
            value is None or value == "" for value in expected if out_format != "jsonl"
        ]
    if name in UNSTORED:
        with pytest.raises(ConfigError, match=r"that parquet cannot store.* Set write\.format=jsonl"):
            converted(path, "parquet")
        return
    data, num_rows = converted(path, "parquet")
    output = parquet.read_table(io.BytesIO(data))
    assert (output.num_rows, output.column_names) == (num_rows, ["text", "c", "translation", "hymt"])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([-62135596800, 253402300799]).view(pa.timestamp("s", "America/New_York")), None),
        (pa.array([-62135596800, 253402300800]).view(pa.timestamp("s")), "0001-01-01T00:00:00 10000-01-01T00:00:00"),
        (pa.array([-62167219200, -62167219201]).view(pa.timestamp("s")), "0000-01-01T00:00:00 -0001-12-31T23:59:59"),
        (pa.array([0, 90]).view(pa.timestamp("s", "Z")), "1970-01-01T00:00:00+00:00 1970-01-01T00:01:30+00:00"),
        (pa.array([0]).view(pa.timestamp("s", "+05")), "1970-01-01T05:00:00+05:00"),
        (pa.array([0]).view(pa.timestamp("s", "UTC+1")), "1970-01-01T00:00:00+00:00"),
        (pa.array([1, 1000]).view(pa.timestamp("ns")), "1970-01-01T00:00:00.000000001 1970-01-01T00:00:00.000001"),
        (pa.array([1]).view(pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([2**31 - 1, -719163], pa.int32()).view(pa.date32()), "5881580-07-11 0000-12-31"),
        (pa.array([HIGH]).view(pa.duration("ns")), "9223372036.854775807"),
        (pa.array([float("nan"), float("-inf")]), "NaN -Infinity"),
    ],
)
def test_values_that_python_or_json_lacks_become_text(array: Any, expected: str | None) -> None:
    if expected is None:  # year 0 in New York is shown in UTC; Python supports the year 9999
        expected = "0001-01-01T00:00:00+00:00 9999-12-31T18:59:59-05:00"
    assert arrow_json.to_json_values(array) == expected.split()


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin", None]),
)
def test_dates_times_and_durations_match_those_of_python(when: datetime, zone: str | None) -> None:
    ticks = (when.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    local_time = when.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) if zone else when
    assert arrow_json.to_json_values(pa.array([ticks]).view(pa.timestamp("us", zone))) == [local_time.isoformat()]
    assert arrow_json.to_json_values(pa.array([when.date()])) == [when.date().isoformat()]
    assert arrow_json.to_json_values(pa.array([when.time()])) == [when.time().isoformat()]
    length = when - datetime(1970, 1, 1)
    (duration,) = arrow_json.to_json_values(pa.array([length]))
    exact = Decimal(length // timedelta(microseconds=1)) / 1_000_000
    assert duration == length.total_seconds() if isinstance(duration, float) else Decimal(duration) == exact


@pytest.mark.parametrize("name", COLUMNS)
def test_a_slice_has_the_values_of_its_rows(name: str) -> None:
    array = COLUMNS[name]
    whole = arrow_json.to_json_values(array)
    for first in range(len(array) + 1):
        for length in range(len(array) - first + 1):
            assert arrow_json.to_json_values(array.slice(first, length)) == whole[first : first + length]


def test_common_values_have_their_documented_form() -> None:
    cells = {
        "d": [date(2024, 1, 2)],
        "t": [time(3, 4, 5, 6)],
        "dt": [datetime(2024, 1, 2, 3, 4, 5, 6, UTC)],
        "td": [timedelta(seconds=90)],
        "n": [Decimal("1.50")],
        "b": [b"\xff"],
        "i": [2**60],
        "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
    }
    table = pa.table(cells)
    values = {name: arrow_json.to_json_values(table.column(name).chunk(0))[0] for name in table.column_names}
    assert values == {
        "d": "2024-01-02",
        "t": "03:04:05.000006",
        "dt": "2024-01-02T03:04:05.000006+00:00",
        "td": 90.0,
        "n": "1.50",
        "b": "/w==",
        "i": 2**60,
        "m": [["k", 1]],
    }
