"""Reference translations: which file belongs to an input, and its texts in the order of its rows.

A file that names its format by its extension is read as an input of a job is; any other is text, one line per row.
Independent of the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.extraction import split_compression
from hymt_batch.formats.format import Format, Kind
from hymt_batch.fs import OS_FS, hash_file
from hymt_batch.records import Document, Input, Status, plural
from hymt_batch.source import discovery, input_names, json_format
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents

DEFAULT_FIELD = "reference"
UNREADABLE = frozenset({"po"})
"""Formats whose reader gives texts to translate, and not their translations."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference of one row."""

    text: str  # "" if there is none
    name: str  # of the text within its file, such as its line or its key
    key: str | None = None  # what its field references_id holds


class ReferenceFile:
    """The references of one input."""

    def __init__(self, path: str, config: SourceConfig, id_field: str | None, *, is_field_set: bool) -> None:
        """Find out the format of a file; reads its beginning.

        Args:
            path: The file.
            config: How it is read.
            id_field: See `find`.
            is_field_set: The user named the field; if not, JSON without it is a tree of keys.

        Raises:
            ConfigError: Its format has no references, or its rows do not have the field.
        """
        self.path, self._config, self._id_field = path, config, id_field
        self.format = _find_format(path, config, is_field_set=is_field_set)
        if id_field is not None and not self.format.has_fields:
            raise ConfigError(
                f"references_id={id_field}, but {path} is {self.format.name}, which has no fields",
                fix="Set references= to jsonl, csv, tsv or parquet, or drop references_id= to align by order.",
            )
        input = input_names.make_input(os.path.basename(path), path, self.format, "input")
        self._input = discovery.with_settings(input, config)

    def read(self) -> Iterator[Reference]:
        """Yield the references in order.

        Raises:
            ConfigError: The file or a row of it cannot be read.
        """
        read_fields = registry.of_input(self._input).document_fields.new_reader().read
        try:
            for document in self._documents():
                yield self._reference(document, read_fields)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be read ({error.strerror or error})",
                fix="Set references= to a file with references.",
            ) from None

    def _documents(self) -> Iterator[Document]:
        try:
            for document, _ in read_documents(
                self._input, self._config, full=True, preambles=PreambleCache(self._config)
            ):
                yield document
        except ConfigError as error:
            raise error.replace(
                fix="Set references_field= to one of its fields, or references_encoding= to its encoding."
            ) from None

    def _reference(self, document: Document, read_fields: Callable[[Document], Mapping[str, Any] | None]) -> Reference:
        if document.status is not Status.OK:
            raise ConfigError(
                f"the reference {document.id} cannot be read", why=document.message, fix=f"Correct it in {self.path}."
            )
        key = None
        if self._id_field is not None:
            key = field_text(read_fields(document), self._id_field)
            if key is None:
                raise ConfigError(
                    f"the reference {document.id} has no field {self._id_field!r}",
                    fix="Set references_id= to a field that each reference has, or to null to align by order.",
                )
        return Reference(document.text or "", name_in(self._input, document), key)

    def sha256(self) -> str:
        """Return the sha256 of the file."""
        return hash_file(OS_FS, Path(self.path))[1]


def name_in(input: Input, document: Document) -> str:
    """Return the name of a text within its file."""
    return document.id.removeprefix(f"{input.rel}#")


def field_text(fields: Mapping[str, Any] | None, name: str) -> str | None:
    """Return a field of a row as text, to be compared; None if the row does not have it."""
    value = (fields or {}).get(name)
    return None if value is None else str(value)


def _find_format(path: str, config: SourceConfig, *, is_field_set: bool) -> Format:
    named, compression = input_names.parse_extension(path)
    format = named or registry.DEFAULT
    try:
        format = json_format.choose(path, compression, format, config)
    except ConfigError as error:
        if is_field_set:
            raise error.replace(fix="Set references_field= to one of its fields.") from None
    if format.name in UNREADABLE:
        raise ConfigError(
            f"{path}: references cannot be read from {format.name}",
            fix="Write them into a text file, one line per row of the job.",
        )
    return format


def find(
    path: str, inputs: Sequence[Input], field: Any = None, encoding: str = "utf-8", id_field: str | None = None
) -> list[ReferenceFile]:
    """Return the references of each input, in the order of the inputs.

    Args:
        path: A file, or a folder with the names of the inputs or of the outputs.
        inputs: The inputs of the job.
        field: Name of the field that holds the reference, or names of several, in formats with fields; None for
            DEFAULT_FIELD.
        encoding: Encoding of text.
        id_field: Name of the field that tells to which row a reference belongs; None to align by order.

    Raises:
        ConfigError: A file is missing, or has no references.
    """
    if not path:
        raise ConfigError("references= is empty", fix="Set it to a file with references, or to a folder of files.")
    try:
        config = SourceConfig(path=path, text_field=DEFAULT_FIELD if field is None else field, encoding=encoding)
    except ConfigError as error:
        raise _named_as_here(error) from None
    is_set = field is not None
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return [ReferenceFile(file, config, id_field, is_field_set=is_set) for file in _in_folder(path, inputs)]
    if not os.path.isfile(path):
        raise ConfigError(
            f"references={path} does not exist",
            fix="Set references= to a file, or to a folder with the names of the inputs.",
        )
    if len(inputs) != 1:
        raise ConfigError(
            f"references={path} is one file, and the job has {plural(len(inputs), 'input')}",
            fix="Set references= to a folder that has one file per input, with the names of the inputs.",
        )
    return [ReferenceFile(path, config, id_field, is_field_set=is_set)]


def _named_as_here(error: ConfigError) -> ConfigError:
    """Return an error of the settings of inputs with the names that these settings have for references."""
    fields = {"what": error.what, "why": error.why, "fix": error.fix}
    for name, here in (("source.encoding", "references_encoding"), ("source.text_field", "references_field")):
        fields = {key: text.replace(name, here) for key, text in fields.items()}
    return error.replace(**fields)


def _in_folder(folder: str, inputs: Sequence[Input]) -> list[str]:
    found = {input.rel: next(filter(os.path.isfile, _candidates(folder, input)), None) for input in inputs}
    if missing := [rel for rel, path in found.items() if path is None]:
        raise ConfigError(
            f"{folder} has no references for {plural(len(missing), 'input')} of {len(inputs)}, such as {missing[0]}",
            why=f"They must have the names of the inputs or of the outputs, or end with .txt: {missing[0]}.txt.",
            fix="Add the missing files.",
        )
    return [path for path in found.values() if path is not None]


def _candidates(folder: str, input: Input) -> Iterator[str]:
    for name in dict.fromkeys((input.rel, input.out_rel)):
        for stem in dict.fromkeys((name, split_compression(name)[0])):
            yield os.path.join(folder, stem)
            yield os.path.join(folder, f"{stem}.txt")


def have_same_names(format: Format, input: Input) -> bool:
    """Return whether the texts of a reference have the names that the texts of an input have, such as keys."""
    return format.kind is Kind.SPLICED and format is registry.of_input(input)
