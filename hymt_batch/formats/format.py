"""What a format is: the record that `registry.py` lists, and the interfaces of its reader and its writer.

The rest of the program asks the record and knows no format by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from hymt_batch.formats.fields import TEXT_ONLY, Column, DocumentFields, FieldReader, ReadDocuments
from hymt_batch.formats.options import ReadOptions, WriteOptions
from hymt_batch.formats.row_reader import ReadContext, Rows
from hymt_batch.records import Document, Input, Preamble, Row


class Kind(Enum):
    """What an output of the format consists of."""

    ROWS = "rows"  # one output row for each row of an input of any row format
    SPLICED = "spliced"  # the input's own bytes, with the translations in place of the texts


class Addressing(Enum):
    """Where a reader can start, and so the unit of a cursor."""

    BYTE_OFFSET = "byte offset"  # at any row, by its offset in the decompressed UTF-8 bytes
    ROW_NUMBER = "row number"  # at any row, by its index
    START = "start"  # only at the start of the file; cursors are offsets in the decompressed UTF-8 bytes


class OpenInput(Protocol):
    """An input file that is open for one reader.

    Raises:
        PreflightError: Raised by every method for a file that is truncated, damaged or cannot be read.
        StoppedError: The disk fails.
    """

    @property
    def input(self) -> Input: ...

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None if it is unknown before they are read."""

    def read_start(self, size: int) -> bytes:
        """Return the first bytes, decompressed, before anything else is read; b"" for a table."""

    def read_preamble(self, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
        """Read what precedes the first row, and reject a file that does not fit the settings.

        Args:
            options: The settings.
            reserved: Fields that the output adds; the input must not have them.

        Raises:
            ConfigError: The file does not fit.
        """

    def rows(self, options: ReadOptions, context: ReadContext, cursor: int) -> Rows:
        """Yield the documents from a row on, each with the cursor after it.

        Args:
            options: The settings.
            context: What else the reader needs; its `first_row` is the index of the row at the cursor.
            cursor: Where the row starts.
        """

    def at_end(self, next_row: int) -> bool:
        """Return whether there is no row `next_row`, after the rows before it were read or skipped."""

    def hash_bytes(self, start: int, end: int, header: bytes) -> str | None:
        """Hash the bytes between two cursors without parsing them.

        Returns:
            The sha256 of the header and the bytes, "" if the file ends before; None if a shard's hash is not that of
            its bytes, so that its rows must be read.
        """

    def close(self) -> None: ...


class Writer(Protocol):
    """Writes one output file. After a failure a writer is discarded without close and writes nothing more."""

    def write(self, document: Document, row: Row) -> None:
        """Write one row.

        Args:
            document: From the second pass over the source, with its raw bytes and values.
            row: The committed row.
        """

    def close(self) -> None:
        """Flush the buffers and write the end of the format. The caller's file stays open."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What a writer is asked for: one output file of one input."""

    input: Input
    preamble: Preamble
    options: WriteOptions
    columns: Sequence[Column]  # the input's fields that the output takes over; () where each row names its own
    new_field_reader: Callable[[], FieldReader]  # creates a reader of the input's fields
    keeps_bytes: bool  # the output has the input's own format: the user's bytes stay as they are
    has_column_names: bool  # the names of the columns are the user's, not numbers
    encoding: str = ""  # encoding of the output, with its byte order; "" for UTF-8
    is_buffered: bool = True  # False: what a row adds to an output that is not compressed reaches its file at once

    @property
    def added(self) -> tuple[str, str]:
        """Names of the two added fields."""
        return self.options.translation_field, self.options.meta_field

    @property
    def on_error(self) -> str:
        return str(self.options.on_error.value)


def _accept_rows(spec: OutputSpec, documents: ReadDocuments) -> None:
    """Accept every row: nothing to check."""


def _accept_output(spec: OutputSpec) -> None:
    """Accept every output: nothing to check."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how its files are named, read, written and counted."""

    name: str  # value of source.format and write.format, and of Input.format
    about: str  # what its files are, and what of them is translated, in a few words
    kind: Kind
    addressing: Addressing
    extension: str  # of outputs and of stored standard input
    open_input: Callable[[Input], OpenInput]
    count_rows: Callable[[Path, Mapping[str, Any]], set[int]]
    """Counts the rows of an output for `verify`, by the job's settings of the source stage, of which `encoding` is that
    of the output (no other after a conversion). Returns the possible counts: one, or for formats that may have a header
    two."""
    open_writer: Callable[[OutputSpec, BinaryIO], Writer]
    input_extensions: tuple[str, ...] = ()  # names that mean this format; (): read only with source.format
    head_extensions: Mapping[str, re.Pattern[bytes]] = field(default_factory=dict)
    """Names that mean this format if the file begins with what the pattern matches: they are also language codes."""
    magic: bytes = b""  # the first bytes of its files; b"" for text
    text_start: re.Pattern[bytes] | None = None
    """Matches the first bytes, without mark and white space, of a text that is of this format whatever its name is."""
    check_head: Callable[[Input, bytes, bool, ReadOptions], None] | None = None
    """Rejects an input whose first bytes (decompressed; True: the whole file) are not those of rows (ConfigError)."""
    fits: Callable[[bytes], bool] | None = None  # whether a text with these first bytes can be of this format
    one_line: bool = False  # an output row cannot hold a line break
    fields: DocumentFields = DocumentFields()  # noqa: RUF009 - the fields of its documents, for conversions
    has_fields: bool = True  # rows have named fields: settings name them, and an output has the two added ones
    compressible: bool = True  # files may be compressed as a whole (.gz ...)
    source_settings: tuple[str, ...] = ()  # settings of the source stage that not all formats have
    escapes_characters: bool = False  # can hold any character in any encoding, as \\uXXXX
    has_own_encoding: bool = False  # reads bytes that are not UTF-8 by a rule of its own
    can_hold: Callable[[Document, str], bool] | None = None
    """Whether a translation can take the place of a text without damage to the document; if not, the source is kept.
    None: every translation can."""
    fit_lines: Callable[[str, str], tuple[str, bool]] | None = None
    """Lays a translation (second argument) out on the lines of its source, for write.wrap_cues; the second result is
    False if somebody should look at its lines."""
    column_name: Callable[[str], str] = str  # the name that an output can hold for a column
    check_output: Callable[[OutputSpec], None] = _accept_output
    """Rejects an output that this format cannot hold (ConfigError), before the job starts."""
    check_rows: Callable[[OutputSpec, ReadDocuments], None] = _accept_rows
    """Rejects an input whose rows cannot be written (ConfigError), before the job starts."""
    check_first_rows: Callable[[Input, ReadOptions, Iterable[Document]], None] | None = None
    """Rejects an input whose first rows show that a setting is wrong (ConfigError)."""
    is_folder: Callable[[str], bool] | None = None  # recognises a folder that is one input of this format
    as_document: str = ""  # name of the format by which source.document=true reads its files; "": by this one
    written_as: str = ""  # name of the format of its outputs, where no output has this one

    @property
    def document_fields(self) -> DocumentFields:
        """The fields of its documents; a text of a spliced file has no other."""
        return TEXT_ONLY if self.kind is Kind.SPLICED else self.fields
