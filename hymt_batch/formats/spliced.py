"""Read and write spliced formats: documents in which some byte ranges are texts to translate.

A module of a spliced format parses a file into places, in the order of the file: byte ranges with a text. What is
between two places is a gap, which nobody needs to understand: gaps and places together are the file. A place is a
document like any row of another format. The output is the input with translations in the place of texts; a place
without a translation keeps its bytes, so a file of which nothing is translated is written byte for byte.

A file is parsed as a whole, from its start, and held in memory. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from hymt_batch.errors import PreflightError
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.compressed_stream import open_published
from hymt_batch.formats.format import Addressing, Format, Kind, OutputSpec
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.output_stream import open_output
from hymt_batch.formats.row_reader import ReadContext, RowError, Rows, too_long_message
from hymt_batch.formats.row_values import BLANK_FLAG, encodable
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.records import ERROR_STATUSES, PLAN_VERSION, Document, FormatCodes, Input, Preamble, Row, Status

MAX_FILE_BYTES = 256 << 20
"""Largest decompressed file: it is held in memory, by the reader and by the writer."""


class Place(NamedTuple):
    """A byte range of a file in which a translation takes the place of a text, or is inserted (start == end)."""

    start: int
    end: int  # at or before the start of the next place
    name: str  # unique in the file, for the row id <rel>#<name>: usually the line of its entry, such as 12 or 12[1]
    text: str | None  # what the model gets, without the format's escapes, from anywhere in the file; None: unreadable
    error: RowError | None = None  # why it cannot be translated
    ranges: tuple[tuple[int, int], ...] = ()  # where a place covers several texts, their byte ranges; else ()
    codes: FormatCodes = ()  # codes of the text that only the format knows
    context: Any = None  # what else the format needs to write it
    text_range: tuple[int, int] | None = None  # where the text is taken from, if that is another range


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """Settings of the source stage that decide what a place is; conf/source/ explains each."""

    join_cues: bool = False  # subtitles: a sentence that runs over several cues is one place
    entries: str = "empty"  # catalogues: which entries are translated: empty, fuzzy or all
    tgt_lang: str = ""  # code of the target language of the job, on which the number of places may depend
    keys: Any = None  # JSON trees: patterns of the keys whose strings are translated; None: all
    skip_keys: Any = None  # JSON trees: patterns of the keys whose strings are not translated; None: none
    add_plural_forms: bool = False  # JSON trees: plural categories of the target language are inserted
    plan_version: int = PLAN_VERSION  # of the job; codes are a part of what its digests cover

    @classmethod
    def of(cls, get: Callable[[str, Any], Any]) -> PlaceOptions:
        """Return the options by a function that returns the value of a setting, or a default."""
        values = {field.name: get(field.name, field.default) for field in fields(cls)}
        return cls(**{name: value.value if isinstance(value, Enum) else value for name, value in values.items()})


class UnreadableFileError(ValueError):
    """A file is not of its format, so that its places are unknown.

    Args:
        reason: What is wrong, as a clause.
        line: The line, from 1.
    """

    def __init__(self, reason: str, *, line: int) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


class ParsedFile(Protocol):
    """A file of a spliced format."""

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        """Yield the places in order; they do not overlap. A new iterator at each call, with the same places."""

    def encode(self, place: Place, text: str) -> bytes:
        """Return the bytes of a place with this text: with the escapes and in the encoding of the file."""


Parse = Callable[[bytes], ParsedFile]
"""Parses a file. Raises UnreadableFileError."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that was read to write its output."""

    data: bytes
    parsed: ParsedFile = field(compare=False)


class ReadPlace(NamedTuple):
    """The values of a document that was read to write its output."""

    place: Place
    file: ReadFile


class SplicedInput:
    """An open file of a spliced format; see `format.OpenInput`.

    A row is a place, and its cursor the end of the place; that of the last place is the end of the file. A shard's hash
    is that of the digests of its places: a gap may change without another translation.

    Args:
        input: The file.
        parse: Parses a file of its format.
    """

    num_rows = None

    def __init__(self, input: Input, parse: Parse) -> None:
        self.input, self._parse = input, parse
        self._stream = ByteStream(input)
        self._num_places: int | None = None  # known once the last place was read

    def read_start(self, size: int) -> bytes:
        return self._stream.read_start(size)

    def read_preamble(self, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
        self._stream.report_window()
        return Preamble(encoding=self._stream.encoding, mark=self._stream.mark)

    def rows(self, options: ReadOptions, context: ReadContext, cursor: int) -> Rows:
        self._stream.seek(0)
        data = _read_file(self._stream, self.input.path)
        try:
            settings = PlaceOptions.of(partial(getattr, options))
            place_options = replace(settings, tgt_lang=self.input.tgt_lang, plan_version=context.plan_version)
            parsed = self._parse(data)
            places = parsed.places(place_options)
        except UnreadableFileError as error:
            self._num_places = 1
            yield self._failed_file(data, error, context), len(data)
            return
        file = ReadFile(data, parsed)
        row = 0
        place = next(places, None)
        while place is not None:
            following = next(places, None)
            if following is None:
                self._num_places = row + 1
            if row >= context.first_row:
                document = self._document(place, file, row, options, context)
                yield document, place.end if following else len(data)
            row, place = row + 1, following
        self._num_places = row

    def _failed_file(self, data: bytes, error: UnreadableFileError, context: ReadContext) -> Document:
        """Return the one row of a file that is not of its format."""
        hashed = context.digest.copy()
        hashed.update(data)
        digest = hashed.digest()
        if context.hasher is not None:
            context.hasher.add_digest(digest, len(data))
        message = f"{self.input.rel}:{error.line} {error.reason}"
        return Document(f"{self.input.rel}#{error.line}", 0, None, digest, status=Status.FAILED_FILE, message=message)

    def at_end(self, next_row: int) -> bool:
        return self._num_places is not None and next_row >= self._num_places

    def hash_bytes(self, start: int, end: int, header: bytes) -> str | None:
        return None

    def close(self) -> None:
        self._stream.close()

    def _document(self, place: Place, file: ReadFile, row: int, options: ReadOptions, context: ReadContext) -> Document:
        raw = file.data[place.start : place.end]
        # the text may come from another range or depend on the file's encoding, and the name is in the row id
        text_bytes = (place.text or "").encode("utf-8", "surrogatepass")
        hashed = context.digest.copy()
        hashed.update(f"{place.name}\0{len(raw)}\0".encode() + raw + text_bytes)
        if place.codes:  # they are a part of what is sent
            hashed.update(repr(place.codes).encode("utf-8", "surrogatepass"))
        digest = hashed.digest()
        if context.hasher is not None:
            context.hasher.add_digest(digest, len(raw))
        error, text, status, message = place.error, place.text, Status.OK, ""
        if max(len(raw), len(text_bytes)) > options.max_row_bytes:
            error = RowError(too_long_message(options.max_row_bytes), Status.TOO_LONG)
        if context.num_selected is not None and row >= context.num_selected:
            status = Status.NOT_SELECTED
        elif error is not None:
            status, message = error.status, f"{self.input.rel}:{place.name} {error}"
        if status is not Status.OK and not context.full:
            text = None
        return Document(
            f"{self.input.rel}#{place.name}",
            row,
            text,
            digest,
            (file.data[slice(*place.text_range)] if place.text_range else raw) if context.full else b"",
            status=status,
            message=message,
            values=ReadPlace(place, file) if context.full else None,
            keeps_codes=True,
            codes=place.codes,
        )


class SplicedWriter:
    """Writes the input with the translations in its places.

    Whatever `write.on_error` is, a place without a translation keeps its bytes: an empty one would break the document.

    The documents bring the file that they were read from, so it is parsed once for its output.

    Args:
        spec: The output.
        file: Receives the bytes.
    """

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        self._spec = spec
        self._stream = open_output(spec, file)
        self._data: bytes | None = None  # the input, once a document brought it
        self._written_to = 0  # offset in the input up to which the output is written

    def write(self, document: Document, row: Row) -> None:
        read: ReadPlace = document.values
        place, data = read.place, read.file.data
        self._data = data
        self._write_gap(data, place.start)
        self._stream.write(document.raw if keeps_source(row) else read.file.parsed.encode(place, encodable(row.text)))
        self._written_to = place.end

    def close(self) -> None:
        if self._data is None:  # the file has no place
            with ByteStream(self._spec.input) as stream:
                self._data = _read_file(stream, self._spec.input.path)
        self._write_gap(self._data, len(self._data))
        self._stream.close()

    def _write_gap(self, data: bytes, end: int) -> None:
        self._stream.write(data[self._written_to : end])


def keeps_source(row: Row) -> bool:
    """Return whether the place of a row has no translation, so that it keeps its bytes."""
    return row.status in ERROR_STATUSES or row.status is Status.NOT_SELECTED or BLANK_FLAG in row.flags


def count_line_breaks(data: bytes, start: int, end: int) -> int:
    """Return how many lines end in a range of a file, each with \\n, \\r\\n or \\r."""
    return data.count(b"\n", start, end) + data.count(b"\r", start, end) - data.count(b"\r\n", start, end)


def read_published(path: Path, source_settings: Mapping[str, Any]) -> bytes:
    """Return the bytes of a published file in UTF-8; see `Format.count_rows` for its settings."""
    with open_published(path, source_settings.get("encoding", UTF8)) as stream:
        return stream.read()


def count_places(path: Path, source_settings: Mapping[str, Any], parse: Parse) -> set[int]:
    """Count the places of a published file; see `Format.count_rows`."""
    places = parse(read_published(path, source_settings)).places(PlaceOptions.of(source_settings.get))
    return {sum(1 for _ in places)}


def spliced_format(parse: Parse, **fields: Any) -> Format:
    """Return the record of a spliced format.

    Args:
        parse: Parses a file of it.
        fields: Fields of the record, of which `name`, `about` and `extension` must be given; a reader, a writer or a
            count of rows takes the place of the one that spliced formats share.
    """
    shared: dict[str, Any] = {
        "kind": Kind.SPLICED,
        "addressing": Addressing.START,
        "has_fields": False,
        "open_input": partial(SplicedInput, parse=parse),
        "open_writer": SplicedWriter,
        "count_rows": partial(count_places, parse=parse),
    }
    return Format(**{**shared, **fields})


def _read_file(stream: ByteStream, path: str) -> bytes:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PreflightError(
            f"{path} has more than {MAX_FILE_BYTES >> 20} MiB",
            why="a document of this format is held in memory.",
            fix="Split it into several files.",
        )
    return data
