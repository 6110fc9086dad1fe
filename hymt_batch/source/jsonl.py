"""JSON lines: one object a line. A row that is none, or lacks the field, is an error row; the file goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from hymt_batch.errors import ConfigError
from hymt_batch.records import Document, Input, Status
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.rows import Codes, Context, Rows, failed, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig

HEAD_ROWS = 100
MAX_DEPTH = 256
"""Deepest nesting of a row. Python's own bound depends on the caller's stack: a row at it would be read in one pass
and refused in the next."""
_MISSING = object()
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[{\]}]', re.DOTALL)


class _Refused(ValueError):
    """The line is JSON that cannot be read as one row; the message says why."""


def rows(stream: ByteStream, config: SourceConfig, context: Context) -> Rows:
    """Read rows from the stream's position.

    With `context.full` the document's values are the parsed object: None where the line is blank or no object.
    """
    input, row, full, limit = stream.input, context.row, context.full, config.max_row_bytes
    codes = Codes(config)
    parse = _Parser(config, context.reserved)
    source_field, target_field = codes.fields
    prefix = f"{input.rel}#"
    while True:
        raw, digest, long = read_line(stream, limit, context)
        if not raw and not long:
            return
        values: Any = None
        try:
            if long:
                document = failed(input, row, digest, too_long(input, row, limit), raw=raw, long=True)
            elif raw.isspace():
                document = Document(f"{prefix}{row + 1}", row, "", digest, raw if full else b"")
            else:
                values = parse(raw)
                text = _text(input, row, values, config.text_field)
                langs = (
                    codes.get((look_up(values, source_field, None), look_up(values, target_field, None)))
                    if source_field or target_field
                    else (None, None)
                )
                kept = (raw, *langs, Status.OK, "", values) if full else (b"", *langs)
                document = Document(f"{prefix}{row + 1}", row, text, digest, *kept)
        except UnicodeError as error:
            what = "row" if values is None else f"field {config.text_field!r}"
            message = not_utf8(input, row, error, what)
            document = failed(input, row, digest, message, raw=raw, values=values if full else None)
        except _Refused as error:
            document = failed(input, row, digest, f"{input.rel}:{row + 1} {error}", raw=raw)
        except ConfigError as error:
            message = f"{input.rel}:{row + 1} {error}"
            document = failed(input, row, digest, message, raw=raw, values=values if full else None)
        yield document, stream.position
        row += 1


def look_up(values: dict[str, Any], field: str | None, default: Any) -> Any:
    """A field by its name, or by its dotted path where no field has that very name."""
    if field is None:
        return default
    if field in values:
        return values[field]
    found: Any = values
    for name in field.split("."):
        if not isinstance(found, dict) or name not in found:
            return default
        found = found[name]
    return found


def check_head(stream: ByteStream, config: SourceConfig, reserved: tuple[str, ...] = ()) -> None:
    """Refuse a file whose first rows all lack the field, or have a field that the output adds.

    Raises:
        ConfigError: A setting does not fit the file; single odd rows become error rows later.
    """
    input, parse = stream.input, _Parser(config, ())
    required = [(config.text_field, "source.text_field")]
    required += [(name, f"source.{key}") for name, key in zip(config.lang_fields, _LANG_KEYS, strict=True) if name]
    lacking: dict[str, tuple[int, dict[str, Any]]] = {}
    found: set[str] = set()
    num_read = num_objects = 0
    for row in range(HEAD_ROWS):
        raw, _, long = read_line(stream, config.max_row_bytes, Context())
        if not raw and not long:
            break
        if long or raw.isspace():
            continue
        num_read += 1
        try:
            values = parse(raw)
        except ValueError:
            continue
        num_objects += 1
        for name in reserved:
            if name in values:
                refuse_reserved(f"{input.path}:{row + 1}", name)
        for name, _ in required:
            if look_up(values, name, _MISSING) is _MISSING:
                lacking.setdefault(name, (row, values))
            else:
                found.add(name)
    for name, key in required:
        if name in lacking and name not in found:
            row, values = lacking[name]
            raise ConfigError(
                f"{input.path}:{row + 1} has no field {name!r}, nor have the file's other first rows. Its fields are"
                f" {_some_paths(values)}. Set {key} to one of them."
            )
    if num_read >= HEAD_ROWS // 2 and not num_objects:
        raise ConfigError(
            f"{input.path} is no JSON lines file: not one of its first {num_read} rows is an object. Write one object"
            " a line (jq -c '.[]' in.json > out.jsonl), or set source.format=text."
        )


_LANG_KEYS = ("src_lang_field", "tgt_lang_field")


def refuse_reserved(where: str, name: str) -> NoReturn:
    """Say that the input has a field that the output would add."""
    raise ConfigError(
        f"{where} already has a field {name!r}, which the output adds: one of the two would be lost. Set"
        f" write.translation_field or write.meta_field, whichever is {name!r}, to another name, e.g."
        f" write.translation_field={name}_mt."
    )


def _text(input: Input, row: int, values: dict[str, Any], field: str) -> str:
    text = look_up(values, field, _MISSING)
    if isinstance(text, str):
        if not text.isascii():
            text.encode()  # raises on a lone surrogate
        return text
    if text is None:
        return ""  # null is a row without text, as in parquet
    if text is _MISSING:
        raise ConfigError(
            f"has no field {field!r}. Its fields are {_some_paths(values)}. Set source.text_field to one of them."
        )
    raise ConfigError(f"field {field!r} is a {type(text).__name__}, not a string. Write it as a string.")


def _paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """Fields of a row; those within an object as source.text_field would name them."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{above}{name}.")
        else:
            yield above + name


def _some_paths(values: dict[str, Any]) -> list[str]:
    return list(islice(_paths(values), 20))


class _Parser:
    """Strict JSON: UTF-8 only, no NaN, no doubled key among the fields that are used."""

    def __init__(self, config: SourceConfig, reserved: tuple[str, ...]) -> None:
        used = [config.text_field, *(name for name in config.lang_fields if name)]
        self._used = frozenset(used) | {part for name in used for part in name.split(".")}
        self._reserved = reserved
        self._decode = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant).decode

    def __call__(self, raw: bytes) -> dict[str, Any]:
        text = raw.decode()
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            raise _Refused(f"is no usable JSON: nested more than {MAX_DEPTH} deep. Mend or remove the row.")
        try:
            values = self._decode(text)
        except _Refused:
            raise
        except json.JSONDecodeError as error:
            raise _Refused(f"is no JSON: {error.msg} at character {error.pos}. Mend or remove the row.") from None
        except ValueError:
            raise _Refused("is no usable JSON: a number too long to read. Mend or remove the row.") from None
        if not isinstance(values, dict):
            raise _Refused(f"is a JSON {type(values).__name__}, not an object. Write the row as {{'text': ...}}.")
        for name in self._reserved:
            if name in values:
                raise _Refused(f"already has a field {name!r}, which the output adds. Rename or remove it.")
        return values

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            doubled = sorted({name for name in self._used if names.count(name) > 1})
            if doubled:
                raise _Refused(f"has the field {doubled[0]!r} twice, so that its text is in doubt. Remove one of them.")
        return values

    @staticmethod
    def _constant(name: str) -> NoReturn:
        raise _Refused(f"holds {name}, which is no JSON. Write null instead.")


def _depth(text: str) -> int:
    """Deepest nesting of a JSON text, whether or not it is valid."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in ("]", "}"):
            depth -= 1
    return deepest
