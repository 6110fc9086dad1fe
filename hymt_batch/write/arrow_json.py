"""Arrow values, of every type, as JSON can hold them. Nothing here fails on a value, whatever its type allows.

Python's own classes are not used where they are narrower than arrow: a year may be 0 or 10000, a second may have nine
decimals, a zone may be unknown here. Does not know rows nor files.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from itertools import pairwise
from typing import Any

SECONDS_PER_DAY = 86_400
TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = date(1970, 1, 1).toordinal()
_ERA_DAYS = 146_097  # of 400 years, after which the calendar repeats
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?")


def json_number(value: float) -> float | str:
    """A number that JSON lacks becomes "NaN", "Infinity" or "-Infinity", which float() and pandas read."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def to_json_values(column: Any) -> list[Any]:
    """Values of an array: None, bool, int, finite float, str, and lists and dicts of these.

    Dates, times and timestamps are ISO 8601 text, durations seconds (text where a double cannot hold them), decimals
    text, bytes base64. Maps, and structs with two fields of one name, are lists of pairs; intervals lists of months,
    days and nanoseconds; of a union the value alone, of an extension type what it stores. Text that is no UTF-8, which
    parquet lets pass, is mended with U+FFFD.
    """
    import pyarrow as pa

    found, types = column.type, pa.types
    if isinstance(found, pa.BaseExtensionType):
        return _extension(column)
    if types.is_dictionary(found):
        return _dictionary(column)
    if types.is_run_end_encoded(found):
        from pyarrow import compute

        return to_json_values(compute.run_end_decode(column))
    if types.is_union(found):
        return _union(column)
    if types.is_struct(found):
        return _struct(column)
    if types.is_nested(found):
        return _lists(column)
    if types.is_temporal(found):
        return _temporal(column)
    if types.is_floating(found):
        column = column.cast(pa.float32()) if types.is_float16(found) else column
        return [None if value is None else json_number(value) for value in column.to_pylist()]
    if any(getattr(types, f"is_{kind}")(found) for kind in ("string", "large_string", "string_view")):
        return _text(column)
    plain = column.to_pylist()
    if types.is_boolean(found) or types.is_integer(found) or types.is_null(found):
        return list(plain)
    if types.is_decimal(found):
        return [None if value is None else str(value) for value in plain]
    return [None if value is None else base64.b64encode(value).decode("ascii") for value in plain]


def _dictionary(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return to_json_values(column.dictionary.take(column.indices))
    except pa.ArrowNotImplementedError:  # views
        words = to_json_values(column.dictionary)
        return [None if index is None else words[index] for index in column.indices.to_pylist()]


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

    def numbers(kind: Any, buffer: Any) -> list[int]:  # pyarrow 26's own attributes of them forget the slice
        return list(pa.Array.from_buffers(kind, len(column), [None, buffer], offset=column.offset).to_pylist())

    found, buffers = column.type, column.buffers()
    children = [to_json_values(column.field(index)) for index in range(found.num_fields)]
    index_of = {code: index for index, code in enumerate(found.type_codes)}
    places = numbers(pa.int32(), buffers[2]) if found.mode == "dense" else range(len(column))
    codes = numbers(pa.int8(), buffers[1])
    return [children[index_of[code]][place] for code, place in zip(codes, places, strict=True)]


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
    """Lists and maps of every kind."""
    import pyarrow as pa

    found, num = column.type, len(column)
    if pa.types.is_fixed_size_list(found):
        size = found.list_size
        bounds = [((column.offset + index) * size, (column.offset + index + 1) * size) for index in range(num)]
    else:
        offsets = column.offsets.to_pylist()
        if hasattr(column, "sizes"):  # list views
            sizes = column.sizes.to_pylist()
            bounds = [(at, at + size) for at, size in zip(offsets, sizes, strict=True)]
        else:
            bounds = list(pairwise(offsets))
    valid = column.is_valid().to_pylist()
    used = [bound for bound, good in zip(bounds, valid, strict=True) if good and bound[0] < bound[1]]
    first = min((low for low, _ in used), default=0)
    child = column.values.slice(first, max((high for _, high in used), default=0) - first)
    if pa.types.is_map(found):
        # not by `values`, which would make a dict of them: a key may be there twice
        items: list[Any] = [
            list(pair) for pair in zip(to_json_values(child.field(0)), to_json_values(child.field(1)), strict=True)
        ]
    else:
        items = to_json_values(child)
    return [
        items[low - first : high - first] if good and low < high else [] if good else None
        for (low, high), good in zip(bounds, valid, strict=True)
    ]


def _temporal(column: Any) -> list[Any]:
    import pyarrow as pa

    found, types = column.type, pa.types
    if types.is_interval(found):
        return [None if value is None else list(value) for value in column.to_pylist()]
    ticks = column.view(pa.int32() if found.bit_width == 32 else pa.int64()).to_pylist()
    if types.is_date32(found):
        return [None if tick is None else _date(tick) for tick in ticks]
    if types.is_date64(found):
        return [None if tick is None else _date(tick // (SECONDS_PER_DAY * 1000)) for tick in ticks]
    unit = TICKS_PER_SECOND[found.unit]
    if types.is_time(found):
        return [None if tick is None else _time_of_day(tick, unit) for tick in ticks]
    if types.is_duration(found):
        return [None if tick is None else _duration(tick, unit) for tick in ticks]
    return [None if tick is None else _timestamp(tick, unit, found.tz) for tick in ticks]


def _date(days: int) -> str:
    era, day = divmod(days + _EPOCH - 1, _ERA_DAYS)
    found = date.fromordinal(day + 1)
    year = found.year + 400 * era
    return f"{'-' if year < 0 else ''}{abs(year):04d}-{found.month:02d}-{found.day:02d}"


def _time_of_day(ticks: int, unit: int) -> str:
    """Time of day; like Python's, with no decimals, with six, or with nine where six are too few."""
    seconds, rest = divmod(abs(ticks), unit)
    nanos = rest * (1_000_000_000 // unit)
    decimals = "" if not nanos else f".{nanos:09d}" if nanos % 1000 else f".{nanos // 1000:06d}"
    sign = "-" if ticks < 0 else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimals}"


def _duration(ticks: int, unit: int) -> float | str:
    seconds = ticks / unit
    numerator, denominator = seconds.as_integer_ratio()
    if (2 * numerator * unit + denominator) // (2 * denominator) == ticks:  # the nearest tick is this one
        return seconds
    whole, rest = divmod(abs(ticks), unit)
    decimals = f".{rest * (1_000_000_000 // unit):09d}".rstrip("0") if rest else ""
    return f"{'-' if ticks < 0 else ''}{whole}{decimals}"


def _timestamp(ticks: int, unit: int, zone: str | None) -> str:
    offset, shown = 0, ""
    if zone is not None:
        offset, shown = _offset(ticks // unit, zone)
    days, rest = divmod(ticks + offset * unit, SECONDS_PER_DAY * unit)
    return f"{_date(days)}T{_time_of_day(rest, unit)}{shown}"


def _offset(seconds: int, zone: str) -> tuple[int, str]:
    """Seconds that a zone is ahead of UTC at an instant, and as text; 0 where the zone or its clock is not known."""
    known = _zone(zone)
    offset = timedelta(0)
    if isinstance(known, timezone):
        offset = known.utcoffset(None)
    elif known is not None:
        try:
            local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(known)
            offset = local.utcoffset() or timedelta(0)
        except (OverflowError, ValueError):
            pass  # beyond the years that Python knows: the same instant, as UTC
    ahead = round(offset.total_seconds())
    hours, minutes = divmod(abs(ahead) // 60, 60)
    rest = f":{abs(ahead) % 60:02d}" if ahead % 60 else ""
    return ahead, f"{'-' if ahead < 0 else '+'}{hours:02d}:{minutes:02d}{rest}"


@cache
def _zone(name: str) -> tzinfo | None:
    if (found := _OFFSET.fullmatch(name)) and int(found[2]) < 24 and int(found[3] or 0) < 60:
        ahead = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
        return timezone(-ahead if found[1] == "-" else ahead)
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone, or no name of one
        return None
