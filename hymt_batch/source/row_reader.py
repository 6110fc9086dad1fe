"""What the row readers share: a line with its digest, the running hash of a shard, per-row languages.

Does not know a format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any, Protocol

from hymt_batch import languages
from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN_VERSION, Document, Input, Status, line_ending
from hymt_batch.scan import JsonScan, RecordScan
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.long_rows import PIECE_BYTES, InputRereader, LongRow
from hymt_batch.source.settings import MAX_ROW_BYTES, SourceConfig

MAX_CODE_CHARS = 64  # characters; the nearest codes of a longer one are not looked for
Rows = Generator[tuple[Document, int], None, None]
"""Documents, each with the cursor after it."""


class ShardHasher:
    """sha256 and size of the row bytes that passed since the last cut.

    Args:
        header: Record that decides what the rows mean (csv, tsv): every hash begins with it.
    """

    __slots__ = ("_base", "_sha", "num_bytes")

    def __init__(self, header: bytes = b"") -> None:
        self._base = hashlib.sha256(header)
        self._sha = self._base.copy()
        self.num_bytes = 0

    def add(self, data: bytes) -> None:
        self._sha.update(data)
        self.num_bytes += len(data)

    def add_digest(self, digest: bytes, num_bytes: int) -> None:
        """Add a row whose bytes are not those of the file (tables)."""
        self._sha.update(digest)
        self.num_bytes += num_bytes

    def copy(self) -> ShardHasher:
        """The same count, which goes on by itself."""
        other = ShardHasher()
        other._base, other._sha, other.num_bytes = self._base, self._sha.copy(), self.num_bytes
        return other

    def assign(self, other: ShardHasher) -> None:
        """Take over what another has counted."""
        self._sha, self.num_bytes = other._sha, other.num_bytes

    def take_hash(self) -> str:
        """The hash so far; what follows is counted anew."""
        sha = self._sha.hexdigest()
        self._sha = self._base.copy()
        self.num_bytes = 0
        return sha


class RowReader(Protocol):
    """How a format module reads rows: from the cursor on, never closing the stream."""

    def __call__(self, stream: ByteStream, config: SourceConfig, context: ReadContext) -> Rows: ...


class ReadContext:
    """What a reader needs beside the bytes.

    Args:
        row: Index of the row at the cursor.
        full: Keep the raw bytes and the parsed fields, for the finishing pass.
        tally: Counts the bytes of each row before the row is given out.
        reserved: Fields that the output adds: a row that has one is not written with them (plan 1: not translated).
        header: Header record; part of every digest, since it decides which column is the text.
        fields: Column names of csv and tsv.
        plan: Version of the job's plan; see records.PLAN.
        again: Reads rows over the limit once more, with `full`.
    """

    __slots__ = ("digest", "fields", "first_row", "full", "hasher", "plan_version", "rereader", "reserved")

    def __init__(
        self,
        first_row: int = 0,
        full: bool = False,
        hasher: ShardHasher | None = None,
        reserved: tuple[str, ...] = (),
        header: bytes = b"",
        fields: tuple[str, ...] = (),
        plan_version: int = PLAN_VERSION,
        rereader: InputRereader | None = None,
    ) -> None:
        self.plan_version, self.rereader = plan_version, rereader
        self.first_row, self.full, self.hasher, self.reserved, self.fields = first_row, full, hasher, reserved, fields
        self.digest = hashlib.blake2b(header, digest_size=8)


def read_line(
    stream: ByteStream,
    max_bytes: int,
    context: ReadContext,
    scan: Callable[[], JsonScan | RecordScan] | None = None,
) -> tuple[bytes, bytes, LongRow | None]:
    """Read one line in bounded memory.

    Args:
        stream: At the line's beginning.
        max_bytes: Most bytes of its content.
        context: What to hash it with.
        scan: Makes what looks for the fields of a line that is longer.

    Returns:
        The line with its ending, its digest, and None; or for a line whose content exceeds max_bytes its ending
        alone, the digest of the whole line, and what is known of it. The line is b"" at the end of the file.
    """
    start = stream.position
    line = stream.readline(max_bytes + 2)
    digest, tally = context.digest.copy(), context.hasher
    digest.update(line)
    if tally is not None:
        tally.add(line)
    if len(line) <= max_bytes or len(line) - len(line_ending(line)) <= max_bytes:
        return line, digest.digest(), None
    row = LongRow(context.rereader, start, line, scan() if scan else None, digest)
    tail = line[-2:]
    while not line.endswith(b"\n"):
        line = stream.readline(PIECE_BYTES)
        if not line:
            break
        row.feed(line)
        if tally is not None:
            tally.add(line)
        tail = (tail + line)[-2:]
    row.end_at(stream.position - len(line_ending(tail)))
    return line_ending(tail), digest.digest(), row


def continue_long_record(
    stream: ByteStream, row: LongRow, context: ReadContext, num_fields: int | None
) -> tuple[bytes, bytes] | None:
    """Go on with a csv record whose first line leaves a quote open and that exceeds the limit, without holding it.

    Returns:
        Its line ending and digest; None, at the end of the first line, where its quotes do not close in order or where
        it has another number of cells.
    """
    place, size, before, digest = stream.position, row.size, row.scan, row.digest.copy()
    assert isinstance(before, RecordScan)
    row.scan = scan = before.copy()
    scan.well_quoted = True
    tally = context.hasher.copy() if context.hasher is not None else None
    tail = b""
    while scan.well_quoted and (line := stream.readline(PIECE_BYTES)):
        row.feed(line)
        if tally is not None:
            tally.add(line)
        tail = (tail + line)[-2:]
        if line.endswith(b"\n") and not scan.is_open:
            break
    row.end_at(stream.position - len(line_ending(tail)))
    if scan.well_quoted and not scan.is_open and scan.num_cells == num_fields:
        if tally is not None and context.hasher is not None:
            context.hasher.assign(tally)
        return line_ending(tail), row.digest.digest()
    stream.seek(place)
    row.scan, row.digest, row.size = before, digest, size
    return None


def too_long_message(max_bytes: int) -> str:
    """What is said of a row over the limit, behind its place."""
    more = min(max_bytes * 16, MAX_ROW_BYTES)
    return f"is longer than source.max_row_bytes={max_bytes}. Split the row, or set source.max_row_bytes={more}."


def not_utf8_message(error: UnicodeError, what: str = "row") -> str:
    """What is said of a row that is no UTF-8, behind its place; `what` names the field."""
    if isinstance(error, UnicodeDecodeError):
        found = f"byte 0x{error.object[error.start]:02x} at offset {error.start} of the {what}"
    else:
        found = f"a lone surrogate in the {what}"
    return f"is not UTF-8: {found}. Convert the file to UTF-8."


class RowError(ValueError):
    """A row cannot be translated; the message says why, behind its place."""

    def __init__(self, why: str, status: Status = Status.BAD_ROW) -> None:
        super().__init__(why)
        self.status = status


def error_document(
    input: Input,
    row: int,
    digest: bytes,
    error: RowError,
    *,
    raw: bytes = b"",
    text: str | None = None,
    values: Any = None,
    long_row: LongRow | None = None,
) -> Document:
    """A row that cannot be translated: it keeps its place and says why.

    Args:
        input: Its file.
        row: Its index.
        digest: Of its bytes.
        error: What is wrong with it.
        raw: The row as found.
        text: Its source, of the finishing pass, where it is known.
        values: Its fields, likewise.
        long: Itself, where it is too long to be held, likewise.
    """
    where = f"{input.rel}:{row + 1}"
    return Document(
        f"{input.rel}#{row + 1}", row, text, digest, raw, None, None, error.status, f"{where} {error}", values, long_row
    )


def abbreviate(value: Any) -> str:
    """A value for a message, at most 80 characters of it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class LanguageCodes:
    """Language codes of rows, checked once a value.

    Raises:
        RowError: From `get`, for a value that is no language; the caller makes it an error row.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.fields = config.lang_fields
        self._cache: dict[tuple[str, str], str] = {}

    def get(self, values: tuple[Any, Any]) -> tuple[str | None, str | None]:
        """Codes of a row's two language values; None or "" leaves the job's own."""
        source, target = (
            None if field is None or value is None or value == "" else self._look_up(field, value)
            for field, value in zip(self.fields, values, strict=True)
        )
        return source, target

    def _look_up(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RowError(f"field {field!r} holds {abbreviate(value)}, which is no language code.", Status.BAD_ROW)
        found = self._cache.get((field, value))
        if found is None:
            try:
                value.encode()  # raises on a lone surrogate
                if len(value) > MAX_CODE_CHARS:
                    raise ConfigError(f"field {field!r} holds {abbreviate(value)}, no language.")
                found = languages.get(value, field).code
            except UnicodeEncodeError as error:
                raise RowError(not_utf8_message(error, f"field {field!r}"), Status.BAD_ENCODING) from None
            except ConfigError as error:
                raise RowError(str(error), Status.BAD_LANGUAGE) from None
            if len(self._cache) < 1024:  # odd spellings are few; a hostile column must not fill the memory
                self._cache[field, value] = found
        return found
