"""Read JSON lines, one object per line. An invalid line or one without text is an error row; the next rows are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.jsonl.json_scan import JsonScan
from hymt_batch.formats.jsonl.lenient_json import (
    MAX_DEPTH,
    LongInteger,
    is_too_deep,
    look_up,
    parse_int,
    parse_rejected_row,
    parse_value,
)
from hymt_batch.formats.language_codes import LanguageCodes
from hymt_batch.formats.long_rows import Fields, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import (
    ReadContext,
    RowError,
    Rows,
    error_document,
    not_utf8_message,
    read_line,
    refuse_reserved,
    too_long_message,
)
from hymt_batch.records import Document, Preamble, Status

HEAD_ROWS = 100

ReadRow = Callable[..., tuple[bytes, bytes, LongRow | None]]
"""Reads a row from a stream; see `read_line`."""

_MISSING = object()


class _DuplicateField(RowError):
    """A row has a duplicate field that a setting names; `is_text` is True for the text field."""

    def __init__(self, name: str, is_text: bool) -> None:
        super().__init__(f"has the field {name!r} twice, so its value is ambiguous. Remove one of them.")
        self.is_text = is_text


def read_rows(stream: Any, config: ReadOptions, context: ReadContext, read_row: ReadRow = read_line) -> Rows:
    """Read rows from the stream's position; `read_row` reads one from the stream, see `read_line`.

    With `context.full` the document's values are the parsed object. For a row that is not an object they are its
    leading name-value pairs, and None if the row is blank or has no such pairs.
    """
    input, row, full, limit = stream.input, context.first_row, context.full, config.max_row_bytes
    codes = LanguageCodes(config, context)
    parse = _Parser(config, context)
    source_field, target_field = codes.fields
    prefix = f"{input.rel}#"
    scan = partial(JsonScan, config.text_field, context.reserved) if full else None
    reserved = context.reserved if full and context.plan_version > 1 else ()
    while True:
        raw, digest, long = read_row(stream, limit, context, scan)
        if not raw and long is None:
            return
        try:
            if long is not None:
                error = RowError(too_long_message(limit), Status.TOO_LONG)
                long.parse = partial(_parse_long_row, text_field=config.text_field)
                document = error_document(input, row, digest, error, raw=raw, long_row=long if full else None)
            elif raw.isspace():
                document = Document(f"{prefix}{row + 1}", row, "", digest, raw if full else b"")
            else:
                values = parse(raw)
                text = _get_text(values, config.text_field)
                langs = (
                    codes.get((look_up(values, source_field, None), look_up(values, target_field, None)))
                    if source_field or target_field
                    else (None, None)
                )
                for name in reserved:
                    if name in values:
                        raise RowError(_reserved_message(name))
                extra_fields = (raw, *langs, Status.OK, "", values) if full else (b"", *langs)
                document = Document(f"{prefix}{row + 1}", row, text, digest, *extra_fields)
        except RowError as error:
            if full:
                shown, fields = parse_rejected_row(raw, config.text_field)
                shown = None if isinstance(error, _DuplicateField) and error.is_text else shown
                document = error_document(input, row, digest, error, raw=raw, text=shown, values=fields)
            else:
                document = error_document(input, row, digest, error)
        yield document, stream.position
        row += 1


def _parse_long_row(row: LongRow, text_field: str) -> Fields:
    """Parse the fields of a row over the limit: each value that is complete in the row and not too long itself."""
    assert isinstance(row.scan, JsonScan)
    spans = row.scan.spans
    values: dict[str, Any] = dict.fromkeys(spans)
    names = sorted(spans, key=spans.__getitem__)
    for name, raw in zip(names, row.read_spans(map(spans.__getitem__, names)), strict=True):
        values[name] = None if raw is None else parse_value(raw)
    text = look_up(values, text_field, None)
    is_known = (
        isinstance(text, str) and row.scan.is_complete and (text_field not in spans or row.scan.text_span is not None)
    )
    return values, text if is_known else None


def read_head(stream: Any, config: ReadOptions, reserved: tuple[str, ...], read_row: ReadRow = read_line) -> Preamble:
    """Reject a file whose first rows all lack a field that a setting names, or have a field that the output adds.

    Raises:
        ConfigError: A setting does not fit the file. Single invalid rows become error rows later.
    """
    input, parse = stream.input, _Parser(config, ReadContext())
    required = [(config.text_field, "source.text_field")]
    required += [(name, f"source.{key}") for name, key in zip(config.lang_fields, _LANG_KEYS, strict=True) if name]
    missing: dict[str, tuple[int, dict[str, Any]]] = {}
    present: set[str] = set()
    num_read = num_objects = 0
    for row in range(HEAD_ROWS):
        raw, _, long = read_row(stream, config.max_row_bytes, ReadContext())
        if not raw and long is None:
            break
        if long is not None or raw.isspace():
            continue
        num_read += 1
        try:
            values = parse(raw)
        except ValueError:
            continue
        num_objects += 1
        refuse_reserved(f"{input.path}:{row + 1}", values, reserved)
        for name, _ in required:
            if look_up(values, name, _MISSING) is _MISSING:
                missing.setdefault(name, (row, values))
            else:
                present.add(name)
    for name, key in required:
        if name in missing and name not in present:
            row, values = missing[name]
            raise ConfigError(
                f"{input.path}:{row + 1} has no field {name!r}, nor do the other rows at the start of the file",
                why=f"Its fields are {_first_field_paths(values)}.",
                fix=f"Set {key} to one of them.",
            )
    if num_read >= HEAD_ROWS // 2 and not num_objects:
        raise ConfigError(
            f"{input.path} is not a JSON lines file: none of its first {num_read} rows is an object",
            fix="Write one object per line (jq -c '.[]' in.json > out.jsonl), or set source.format=text.",
        )
    return Preamble()


_LANG_KEYS = ("src_lang_field", "tgt_lang_field")


def _get_text(values: dict[str, Any], field: str) -> str:
    text = look_up(values, field, _MISSING)
    if isinstance(text, str):
        if not text.isascii():
            try:
                text.encode()  # raises on a lone surrogate
            except UnicodeEncodeError as error:
                raise RowError(not_utf8_message(error, f"field {field!r}"), Status.BAD_ENCODING) from None
        return text
    if text is None:
        return ""  # null means a row without text, as in parquet
    if text is _MISSING:
        raise RowError(
            f"has no field {field!r}. Its fields are {_first_field_paths(values)}. Set source.text_field to one of "
            "them."
        )
    kind = "int" if isinstance(text, LongInteger) else type(text).__name__
    raise RowError(f"field {field!r} is a {kind}, not a string. Write it as a string.")


def _reserved_message(name: str) -> str:
    return f"already has a field {name!r}, which the output adds. Rename or remove it."


def _field_paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of a row's fields; nested fields as dotted paths, in the form of source.text_field."""
    for name, inner in values.items():
        if isinstance(inner, dict) and inner:
            yield from _field_paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _first_field_paths(values: dict[str, Any]) -> list[str]:
    return list(islice(_field_paths(values), 20))


class _Parser:
    """Parses a row as a JSON object in UTF-8 without duplicate names among the fields in use.

    NaN and Infinity are valid values (plan 1: invalid JSON), and so are integers of any length.
    """

    def __init__(self, config: ReadOptions, context: ReadContext) -> None:
        used = [config.text_field, *(name for name in config.lang_fields if name)]
        self._text_names = frozenset((config.text_field, *config.text_field.split(".")))
        self._used_names = frozenset(used) | {part for name in used for part in name.split(".")}
        self._is_plan_1 = context.plan_version < 2
        self._reserved = context.reserved if self._is_plan_1 else ()
        self._duplicates: set[str] = set()
        self._constants: list[str] = []
        hooks = {"object_pairs_hook": self._on_object, "parse_constant": self._on_constant if self._is_plan_1 else None}
        self._decode = json.JSONDecoder(**hooks).decode  # type: ignore[arg-type]
        self._decode_long = json.JSONDecoder(**hooks, parse_int=parse_int).decode  # type: ignore[arg-type]

    def __call__(self, raw: bytes) -> dict[str, Any]:
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise RowError(not_utf8_message(error), Status.BAD_ENCODING) from None
        if text.startswith("\ufeff"):
            raise RowError("begins with a byte order mark, as after concatenating files. Remove the mark.")
        if is_too_deep(text):
            raise RowError(f"is not usable JSON: nested more than {MAX_DEPTH} deep. Fix or remove the row.")
        if self._duplicates or self._constants:
            self._duplicates.clear()
            self._constants.clear()
        try:
            values = self._parse_values(text)
        except json.JSONDecodeError as error:
            raise RowError(f"is not JSON: {error.msg} at character {error.pos}. Fix or remove the row.") from None
        if self._constants:
            raise RowError(f"contains {self._constants[0]}, which is not JSON. Write null instead.")
        if self._duplicates:
            name = min(self._duplicates)
            raise _DuplicateField(name, bool(self._duplicates & self._text_names))
        if not isinstance(values, dict):
            raise RowError(f"is a JSON {type(values).__name__}, not an object. Write the row as {{'text': ...}}.")
        for name in self._reserved:
            if name in values:
                raise RowError(_reserved_message(name))
        return values

    def _parse_values(self, text: str) -> Any:
        try:
            return self._decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of thousands of digits
            if self._is_plan_1:
                raise RowError("is not usable JSON: a number is too long to read. Fix or remove the row.") from None
            self._duplicates.clear()
            return self._decode_long(text)

    def _on_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            self._duplicates |= {name for name in self._used_names if names.count(name) > 1}
        return values

    def _on_constant(self, name: str) -> float:
        self._constants.append(name)
        return float(name)
