"""Open the writer of an output, and check before a job starts that it can be written.

A writer turns (document, row) pairs, in row order, into the bytes of one file, and writes exactly one row per pair. It
is independent of where rows come from and how the file is published: the caller opens a temporary file and renames it.

An output of the input's own format keeps the user's bytes. Any other output is a conversion: it has the fields of the
input's documents (see `fields.py`) as columns or keys, with the line ending of the input's first line. Outputs are
UTF-8, unless `write.encoding=input` keeps the encoding of the input. Every output but text also has
`write.translation_field` and `write.meta_field`. Values that an output format cannot hold become text: see
`row_values.to_cell` and `parquet/arrow_json.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import BinaryIO

from hymt_batch import languages
from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.fields import Column, ReadDocuments
from hymt_batch.formats.format import Format, OutputSpec, Writer
from hymt_batch.formats.letters import missing_letter
from hymt_batch.formats.options import WriteOptions
from hymt_batch.formats.output_stream import unencodable_character
from hymt_batch.records import Input, Preamble


def open_writer(
    input: Input,
    out_format: str,
    preamble: Preamble,
    options: WriteOptions,
    file: BinaryIO,
    documents: ReadDocuments = tuple,
    *,
    is_buffered: bool = True,
) -> Writer:
    """Open the writer of one output file.

    Args:
        input: The input file; the extension of `out_rel` (.gz .zst .xz .bz2) sets the compression.
        out_format: Name of the format; not "input".
        preamble: The part of the input before its first row; for tables, the schema.
        options: How translations are stored.
        file: Open for writing bytes, at its start. Only its `write` is used; it is never closed here.
        documents: Starts a pass over the rows; called where fields that rows name become columns.
        is_buffered: See `OutputSpec`.

    Raises:
        ConfigError: See `check`.
    """
    target = registry.get(out_format)
    spec = replace(_checked_spec(input, target, preamble, options, documents), is_buffered=is_buffered)
    return target.open_writer(spec, file)


def check(
    input: Input, out_format: str, preamble: Preamble, options: WriteOptions, documents: ReadDocuments = tuple
) -> None:
    """Reject an output that cannot be written, before the job starts.

    Reads all rows where fields that rows name become columns, may read all rows of a saved dataset that becomes
    parquet, and otherwise reads at most the first row. A jsonl row that already has one of the added fields is found
    only when it is written: see `jsonl/writer.py`.

    Raises:
        ConfigError: An added name is taken, several columns have the same name, the fields are too many to be columns,
            rows have several text fields and the output one text, the delimiter cannot be distinguished from text in
            tsv, or the output cannot store a column's type.
    """
    target = registry.get(out_format)
    spec = _checked_spec(input, target, preamble, options, documents)
    if target.has_fields:
        registry.of_input(input).check_rows(spec, documents)


def output_encoding(preamble: Preamble, target: Format, options: WriteOptions) -> str:
    """Return the encoding of an output, with its byte order; "" for UTF-8 and for tables."""
    keeps_encoding = options.encoding == "input" and "encoding" in target.source_settings
    return preamble.encoding if keeps_encoding else ""


def check_languages(
    input: Input, out_format: str, preamble: Preamble, options: WriteOptions, codes: Iterable[str]
) -> None:
    """Reject an output whose encoding cannot hold the translations, not even as escapes.

    Args:
        input: The input.
        out_format: Name of the output's format.
        preamble: What precedes the input's first row.
        options: How translations are stored.
        codes: Target languages.

    Raises:
        ConfigError: The encoding lacks letters of a target language.
    """
    target = registry.get(out_format)
    encoding = "" if target.escapes_characters else output_encoding(preamble, target, options)
    for code in sorted(codes) if encoding else ():
        if letter := missing_letter(code, encoding):
            raise ConfigError(
                f"{input.path} is {encoding}, which cannot hold {languages.LANGUAGES[code].english} ({code}): it has "
                f"no {letter!r}",
                fix="Set write.encoding=utf-8 (the default).",
            )


def _checked_spec(
    input: Input, target: Format, preamble: Preamble, options: WriteOptions, documents: ReadDocuments
) -> OutputSpec:
    """Check the output, and return what its writer needs."""
    source = registry.of_input(input)
    added = (options.translation_field, options.meta_field)
    spec = OutputSpec(
        input,
        preamble,
        options,
        _columns(input, source, target, preamble, documents, added),
        source.document_fields.new_reader,
        keeps_bytes=input.format == target.name,
        has_column_names=source.document_fields.has_names(preamble),
        encoding=output_encoding(preamble, target, options),
    )
    if preamble.text_fields and not target.has_fields:
        raise ConfigError(
            f"{input.rel} has several text fields, and a row of {target.name} output has one text",
            fix="Set write.format=jsonl, or source.text_field to one field.",
        )
    if target.has_fields:
        _check_columns(spec, target)
        target.check_output(spec)
    return spec


def _columns(
    input: Input, source: Format, target: Format, preamble: Preamble, documents: ReadDocuments, added: tuple[str, str]
) -> list[Column]:
    """Return the fields that the output takes over from its input; () where it has none, or each row names its own."""
    if not target.has_fields or not (source.document_fields.precede_rows or target.fields.precede_rows):
        return []
    return source.document_fields.columns(input, preamble, documents, added)


def _check_columns(spec: OutputSpec, target: Format) -> None:
    rel, names = spec.input.rel, [column.name for column in spec.columns]
    for key, name in zip(("write.translation_field", "write.meta_field"), spec.added, strict=True):
        if spec.encoding and (character := unencodable_character(name, spec.encoding)):
            raise ConfigError(
                f"{key}={name} has the character {character!r}, which is not in {spec.encoding}, the encoding of {rel}",
                fix=f"Set {key} to another name, or write.encoding=utf-8.",
            )
    for key, name in zip(("write.translation_field", "write.meta_field"), spec.added, strict=True):
        if name in names:
            raise ConfigError(
                f"{rel} already has a field {name!r}",
                why=f"Its fields are {names[:20]}.",
                fix=f"Set {key} to a name that is not among them.",
            )
    written_names = Counter(map(target.column_name, names))
    duplicates = sorted(name for name, count in written_names.items() if count > 1)
    if duplicates and not spec.keeps_bytes:
        raise ConfigError(
            f"{rel} has more than one column {duplicates[0]!r}: {target.name} output can keep only one of them",
            fix="Set write.format=input.",
        )
