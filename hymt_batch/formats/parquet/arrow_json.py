"""Convert Arrow values of every type to values that JSON can hold; no value makes the conversion fail.

Python's own classes are not used where their range is smaller than Arrow's: a year may be 0 or 10000, a second may have
nine decimals, and a time zone may be unknown on this machine. Independent of rows and files.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from itertools import pairwise
from typing import Any

from hymt_batch.formats.row_values import json_number

SECONDS_PER_DAY = 86_400
TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = date(1970, 1, 1).toordinal()
_ERA_DAYS = 146_097  # days in 400 years, after which the Gregorian calendar repeats
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?")


def to_json_values(column: Any) -> list[Any]:
    """Convert the values of an Arrow array to values that JSON can hold.

    Dates, times and timestamps become ISO 8601 text; durations become seconds, as text where a double cannot hold them;
    decimals become text and bytes base64. Maps, and structs with two fields of the same name, become lists of pairs.
    Intervals become lists of months, days and nanoseconds. A union becomes its value, an extension type its storage
    value. Text that is not valid UTF-8, which parquet does not check, gets U+FFFD in place of the invalid bytes.

    Returns:
        One value per element: None, bool, int, finite float, str, or lists and dicts of these.
    """
    import pyarrow as pa

    arrow_type, types = column.type, pa.types
    if isinstance(arrow_type, pa.BaseExtensionType):
        return _extension(column)
    if types.is_dictionary(arrow_type):
        return _dictionary(column)
    if types.is_run_end_encoded(arrow_type):
        from pyarrow import compute

        return to_json_values(compute.run_end_decode(column))
    if types.is_union(arrow_type):
        return _union(column)
    if types.is_struct(arrow_type):
        return _struct(column)
    if types.is_nested(arrow_type):
        return _lists(column)
    if types.is_temporal(arrow_type):
        return _temporal(column)
    if types.is_floating(arrow_type):
        column = column.cast(pa.float32()) if types.is_float16(arrow_type) else column
        return [None if value is None else json_number(value) for value in column.to_pylist()]
    if any(getattr(types, f"is_{kind}")(arrow_type) for kind in ("string", "large_string", "string_view")):
        return _text(column)
    values = column.to_pylist()
    if types.is_boolean(arrow_type) or types.is_integer(arrow_type) or types.is_null(arrow_type):
        return list(values)
    if types.is_decimal(arrow_type):
        return [None if value is None else str(value) for value in values]
    return [None if value is None else base64.b64encode(value).decode("ascii") for value in values]


def _dictionary(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return to_json_values(column.dictionary.take(column.indices))
    except pa.ArrowNotImplementedError:  # string and binary views
        values = to_json_values(column.dictionary)
        return [None if index is None else values[index] for index in column.indices.to_pylist()]


def _text(column: Any) -> list[str | None]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        stored = column.cast(pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary())
        return [None if value is None else value.decode("utf-8", "replace") for value in stored.to_pylist()]


def _extension(column: Any) -> list[Any]:
    name, stored = column.type.extension_name, column.storage
    if name == "arrow.uuid":
        import uuid

        return [None if value is None else str(uuid.UUID(bytes=value)) for value in stored.to_pylist()]
    if name == "arrow.bool8":
        return [None if value is None else bool(value) for value in stored.to_pylist()]
    return to_json_values(stored)


def _union(column: Any) -> list[Any]:
    import pyarrow as pa

    def read_ints(kind: Any, buffer: Any) -> list[int]:  # pyarrow 26's own accessors ignore the slice
        return list(pa.Array.from_buffers(kind, len(column), [None, buffer], offset=column.offset).to_pylist())

    union_type, buffers = column.type, column.buffers()
    children = [to_json_values(column.field(index)) for index in range(union_type.num_fields)]
    index_of = {code: index for index, code in enumerate(union_type.type_codes)}
    offsets = read_ints(pa.int32(), buffers[2]) if union_type.mode == "dense" else range(len(column))
    codes = read_ints(pa.int8(), buffers[1])
    return [children[index_of[code]][offset] for code, offset in zip(codes, offsets, strict=True)]


def _struct(column: Any) -> list[Any]:
    names = [field.name for field in column.type]
    if not names:
        cells: list[tuple[Any, ...]] = [()] * len(column)
    else:
        cells = list(zip(*(to_json_values(column.field(index)) for index in range(len(names))), strict=True))
    pairs = [list(zip(names, row, strict=True)) for row in cells]
    rows: list[Any] = (
        [list(map(list, row)) for row in pairs] if len(set(names)) < len(names) else list(map(dict, pairs))
    )
    return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]


def _lists(column: Any) -> list[Any]:
    """Convert lists and maps of every kind."""
    import pyarrow as pa

    list_type, num = column.type, len(column)
    if pa.types.is_fixed_size_list(list_type):
        size = list_type.list_size
        bounds = [((column.offset + index) * size, (column.offset + index + 1) * size) for index in range(num)]
    else:
        offsets = column.offsets.to_pylist()
        if hasattr(column, "sizes"):  # list views
            sizes = column.sizes.to_pylist()
            bounds = [(at, at + size) for at, size in zip(offsets, sizes, strict=True)]
        else:
            bounds = list(pairwise(offsets))
    valid = column.is_valid().to_pylist()
    used = [bound for bound, is_valid in zip(bounds, valid, strict=True) if is_valid and bound[0] < bound[1]]
    first = min((low for low, _ in used), default=0)
    child = column.values.slice(first, max((high for _, high in used), default=0) - first)
    if pa.types.is_map(list_type):
        # a list of pairs, because an Arrow map may hold a key twice
        items: list[Any] = [
            list(pair) for pair in zip(to_json_values(child.field(0)), to_json_values(child.field(1)), strict=True)
        ]
    else:
        items = to_json_values(child)
    return [
        items[low - first : high - first] if is_valid and low < high else [] if is_valid else None
        for (low, high), is_valid in zip(bounds, valid, strict=True)
    ]


def _temporal(column: Any) -> list[Any]:
    import pyarrow as pa

    arrow_type, types = column.type, pa.types
    if types.is_interval(arrow_type):
        return [None if value is None else list(value) for value in column.to_pylist()]
    ticks = column.view(pa.int32() if arrow_type.bit_width == 32 else pa.int64()).to_pylist()
    if types.is_date32(arrow_type):
        return [None if tick is None else _date(tick) for tick in ticks]
    if types.is_date64(arrow_type):
        return [None if tick is None else _date(tick // (SECONDS_PER_DAY * 1000)) for tick in ticks]
    unit = TICKS_PER_SECOND[arrow_type.unit]
    if types.is_time(arrow_type):
        return [None if tick is None else _time_of_day(tick, unit) for tick in ticks]
    if types.is_duration(arrow_type):
        return [None if tick is None else _duration(tick, unit) for tick in ticks]
    return [None if tick is None else _timestamp(tick, unit, arrow_type.tz) for tick in ticks]


def _date(days: int) -> str:
    era, day = divmod(days + _EPOCH - 1, _ERA_DAYS)
    date_in_era = date.fromordinal(day + 1)
    year = date_in_era.year + 400 * era
    return f"{'-' if year < 0 else ''}{abs(year):04d}-{date_in_era.month:02d}-{date_in_era.day:02d}"


def _time_of_day(ticks: int, unit: int) -> str:
    """Format a time of day with no decimals or six, as Python does, or with nine where six are not enough."""
    seconds, remainder = divmod(abs(ticks), unit)
    nanos = remainder * (1_000_000_000 // unit)
    decimals = "" if not nanos else f".{nanos:09d}" if nanos % 1000 else f".{nanos // 1000:06d}"
    sign = "-" if ticks < 0 else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimals}"


def _duration(ticks: int, unit: int) -> float | str:
    seconds = ticks / unit
    numerator, denominator = seconds.as_integer_ratio()
    if (2 * numerator * unit + denominator) // (2 * denominator) == ticks:  # the double is exact enough
        return seconds
    whole, remainder = divmod(abs(ticks), unit)
    decimals = f".{remainder * (1_000_000_000 // unit):09d}".rstrip("0") if remainder else ""
    return f"{'-' if ticks < 0 else ''}{whole}{decimals}"


def _timestamp(ticks: int, unit: int, zone: str | None) -> str:
    offset, offset_text = 0, ""
    if zone is not None:
        offset, offset_text = _offset(ticks // unit, zone)
    days, ticks_of_day = divmod(ticks + offset * unit, SECONDS_PER_DAY * unit)
    return f"{_date(days)}T{_time_of_day(ticks_of_day, unit)}{offset_text}"


def _offset(seconds: int, zone: str) -> tuple[int, str]:
    """Return a zone's offset from UTC at an instant, in seconds and as text; 0 if it is unknown."""
    zone_info = _zone(zone)
    offset = timedelta(0)
    if isinstance(zone_info, timezone):
        offset = zone_info.utcoffset(None)
    elif zone_info is not None:
        try:
            local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(zone_info)
            offset = local.utcoffset() or timedelta(0)
        except (OverflowError, ValueError):
            pass  # outside the years that Python supports: show the same instant in UTC
    offset_s = round(offset.total_seconds())
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    seconds_text = f":{abs(offset_s) % 60:02d}" if offset_s % 60 else ""
    return offset_s, f"{'-' if offset_s < 0 else '+'}{hours:02d}:{minutes:02d}{seconds_text}"


@cache
def _zone(name: str) -> tzinfo | None:
    if (match := _OFFSET.fullmatch(name)) and int(match[2]) < 24 and int(match[3] or 0) < 60:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        return timezone(-offset if match[1] == "-" else offset)
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # the zone is unknown, or its name is invalid
        return None
