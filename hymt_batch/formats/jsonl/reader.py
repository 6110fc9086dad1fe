"""Read JSON lines, one object per line. An invalid line or one without text is an error row; the next rows are read."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.field_rows import FieldRows
from hymt_batch.formats.jsonl.json_scan import JsonScan
from hymt_batch.formats.jsonl.lenient_json import (
    MAX_DEPTH,
    is_too_deep,
    parse_int,
    parse_rejected_row,
    parse_value,
)
from hymt_batch.formats.jsonl.row_text import (
    check_text,
    find_texts,
    first_field_paths,
    missing_error,
    reserved_error,
)
from hymt_batch.formats.language_codes import LanguageCodes
from hymt_batch.formats.long_rows import Fields, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import (
    ReadContext,
    ReadRow,
    RowError,
    Rows,
    error_document,
    not_utf8_message,
    read_line,
    refuse_reserved,
    too_long_message,
)
from hymt_batch.formats.text_fields import TextFields, look_up
from hymt_batch.records import Document, Preamble, Status

HEAD_ROWS = 100
_MISSING = object()


class _DuplicateField(RowError):
    """A row has a duplicate field that a setting names; `is_text` is True for the text field."""

    def __init__(self, name: str, is_text: bool) -> None:
        super().__init__(f"has the field {name!r} twice, so its value is ambiguous. Remove one of them.")
        self.is_text = is_text


def read_rows(stream: Any, config: ReadOptions, context: ReadContext, read_row: ReadRow = read_line) -> Rows:
    """Read rows, each by `read_row`, from the stream's position; see `_read_field_rows` for several text fields.

    With `context.full` the document's values are the parsed object. For a row that is not an object they are its
    leading name-value pairs, and None if the row is blank or has no such pairs.
    """
    fields = TextFields(config.text_fields)
    if fields.is_several:
        yield from _read_field_rows(stream, config, context, fields, read_row)
        return
    input, row, full, limit = stream.input, context.first_row, context.full, config.max_row_bytes
    (text_field,) = config.text_fields
    codes = LanguageCodes(config, context)
    parse = _Parser(config, context)
    source_field, target_field = codes.fields
    prefix = f"{input.rel}#"
    scan = partial(JsonScan, text_field, context.reserved) if full else None
    reserved = context.reserved if full and context.plan_version > 1 else ()
    while True:
        raw, digest, long = read_row(stream, limit, context, scan)
        if not raw and long is None:
            return
        try:
            if long is not None:
                error = RowError(too_long_message(limit), Status.TOO_LONG)
                long.parse = partial(_parse_long_row, text_field=text_field)
                document = error_document(input, row, digest, error, raw=raw, long_row=long if full else None)
            elif raw.isspace():
                document = Document(f"{prefix}{row + 1}", row, "", digest, raw if full else b"")
            else:
                values = parse(raw)
                text = _get_text(values, text_field)
                langs = (
                    codes.get((look_up(values, source_field, None), look_up(values, target_field, None)))
                    if source_field or target_field
                    else (None, None)
                )
                for name in reserved:
                    if name in values:
                        raise reserved_error(name)
                extra_fields = (raw, *langs, Status.OK, "", values) if full else (b"", *langs)
                document = Document(f"{prefix}{row + 1}", row, text, digest, *extra_fields)
        except RowError as error:
            if full:
                shown, separated = parse_rejected_row(raw, text_field)
                shown = None if isinstance(error, _DuplicateField) and error.is_text else shown
                document = error_document(input, row, digest, error, raw=raw, text=shown, values=separated)
            else:
                document = error_document(input, row, digest, error)
        yield document, stream.position
        row += 1


def _read_field_rows(
    stream: Any, config: ReadOptions, context: ReadContext, fields: TextFields, read_row: ReadRow
) -> Rows:
    """Read rows with several text fields, of which each text is a document."""
    rows = FieldRows(stream.input, config, context)
    parse = _Parser(config, context)
    scan = partial(JsonScan, names=context.reserved) if context.full else None
    reserved = context.reserved if context.full and context.plan_version > 1 else ()
    while True:
        raw, digest, long = read_row(stream, config.max_row_bytes, context, scan)
        if not raw and long is None:
            return
        try:
            if long is not None:
                long.parse = partial(_parse_long_row, text_field="")
                raise RowError(too_long_message(config.max_row_bytes), Status.TOO_LONG)
            if raw.isspace():
                yield rows.of_blank(digest, raw), stream.position
                continue
            values = parse(raw)
            texts = find_texts(fields, values, parse.repeated)
        except RowError as error:
            shown = {"values": parse_rejected_row(raw, "")[1]} if context.full and long is None else {}
            yield rows.of_error(digest, error, raw=raw, long_row=long, **shown), stream.position
            continue
        taken = next((reserved_error(name) for name in reserved if name in values), None)
        languages = (look_up(values, name, None) for name in rows.language_fields)
        for document in rows.of_texts(digest, texts, tuple(languages), error=taken, raw=raw, values=values):
            yield document, stream.position


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
    fields = TextFields(config.text_fields)
    required = [] if fields.is_several else [(config.text_fields[0], "source.text_field")]
    required += [(name, f"source.{key}") for name, key in zip(config.lang_fields, _LANG_KEYS, strict=True) if name]
    missing: dict[str, tuple[int, dict[str, Any]]] = {}
    present: set[str] = set()
    found_fields: dict[str, None] = {}  # of several text fields
    without_fields: tuple[int, dict[str, Any]] | None = None  # the first row that has none of several text fields
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
        if fields.is_several:
            names = fields.present_in(values)
            found_fields |= dict.fromkeys(names)
            without_fields = without_fields or (None if names else (row, values))
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
                why=f"Its fields are {first_field_paths(values)}.",
                fix=f"Set {key} to one of them.",
            )
    if without_fields is not None and not found_fields:
        row, values = without_fields
        raise ConfigError(
            f"{input.path}:{row + 1} has none of the fields {list(fields.names)}, nor do the other rows at the start "
            "of the file",
            why=f"Its fields are {first_field_paths(values)}.",
            fix="Set source.text_field to one or more of them.",
        )
    if num_read >= HEAD_ROWS // 2 and not num_objects:
        raise ConfigError(
            f"{input.path} is not a JSON lines file: none of its first {num_read} rows is an object",
            fix="Write one object per line (jq -c '.[]' in.json > out.jsonl), or set source.format=text.",
        )
    return Preamble(text_fields=fields.names, found_fields=tuple(found_fields)) if fields.is_several else Preamble()


_LANG_KEYS = ("src_lang_field", "tgt_lang_field")


def _get_text(values: dict[str, Any], field: str) -> str:
    text = look_up(values, field, _MISSING)
    if text is _MISSING:
        raise missing_error(values, (field,))
    return "" if text is None else check_text(text, field)  # null means a row without text, as in parquet


class _Parser:
    """Parses a row as a JSON object in UTF-8 without duplicate names among the fields in use.

    NaN and Infinity are valid values (plan 1: invalid JSON), and so are integers of any length.
    """

    def __init__(self, config: ReadOptions, context: ReadContext) -> None:
        self._text_names = TextFields(config.text_fields).used_names
        self._used_names = self._text_names | TextFields([name for name in config.lang_fields if name]).used_names
        self._is_plan_1 = context.plan_version < 2
        self._reserved = context.reserved if self._is_plan_1 else ()
        self._duplicates: set[str] = set()
        self._finds_repeated = TextFields(config.text_fields).has_wildcards
        self._repeated_objects: list[dict[str, Any]] = []  # kept, so that no other object gets the id of one
        self.repeated: dict[int, str] = {}  # see TextFields.find
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
        if self._duplicates or self._constants or self.repeated:
            self._duplicates.clear()
            self.repeated.clear()
            self._repeated_objects.clear()
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
                raise reserved_error(name)
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
            if self._finds_repeated:
                self._repeated_objects.append(values)
                self.repeated[id(values)] = Counter(names).most_common(1)[0][0]
        return values

    def _on_constant(self, name: str) -> float:
        self._constants.append(name)
        return float(name)
