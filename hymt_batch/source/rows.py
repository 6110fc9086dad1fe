"""What the row readers share: a line with its digest, the running hash of a shard, per-row languages.

Does not know a format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import Any, Protocol

from hymt_batch import languages
from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN, Document, Input, Status, ending
from hymt_batch.scan import JsonScan, RecordScan
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.longrow import PIECE_BYTES, Again, LongRow
from hymt_batch.source.settings import MAX_ROW_BYTES, SourceConfig

MAX_CODE = 64  # characters; the nearest codes of a longer one are not looked for
Rows = Generator[tuple[Document, int], None, None]
"""Documents, each with the cursor after it."""


class Tally:
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

    def count(self, digest: bytes, num_bytes: int) -> None:
        """Add a row whose bytes are not those of the file (tables)."""
        self._sha.update(digest)
        self.num_bytes += num_bytes

    def copy(self) -> Tally:
        """The same count, which goes on by itself."""
        other = Tally()
        other._base, other._sha, other.num_bytes = self._base, self._sha.copy(), self.num_bytes
        return other

    def become(self, other: Tally) -> None:
        """Take over what another has counted."""
        self._sha, self.num_bytes = other._sha, other.num_bytes

    def cut(self) -> str:
        """The hash so far; what follows is counted anew."""
        sha = self._sha.hexdigest()
        self._sha = self._base.copy()
        self.num_bytes = 0
        return sha


class Reader(Protocol):
    """How a format module reads rows: from the cursor on, never closing the stream."""

    def __call__(self, stream: ByteStream, config: SourceConfig, context: Context) -> Rows: ...


class Context:
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

    __slots__ = ("again", "digest", "fields", "full", "plan", "reserved", "row", "tally")

    def __init__(
        self,
        row: int = 0,
        full: bool = False,
        tally: Tally | None = None,
        reserved: tuple[str, ...] = (),
        header: bytes = b"",
        fields: tuple[str, ...] = (),
        plan: int = PLAN,
        again: Again | None = None,
    ) -> None:
        self.plan, self.again = plan, again
        self.row, self.full, self.tally, self.reserved, self.fields = row, full, tally, reserved, fields
        self.digest = hashlib.blake2b(header, digest_size=8)


def read_line(
    stream: ByteStream,
    max_bytes: int,
    context: Context,
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
    digest, tally = context.digest.copy(), context.tally
    digest.update(line)
    if tally is not None:
        tally.add(line)
    if len(line) <= max_bytes or len(line) - len(ending(line)) <= max_bytes:
        return line, digest.digest(), None
    row = LongRow(context.again, start, line, scan() if scan else None, digest)
    tail = line[-2:]
    while not line.endswith(b"\n"):
        line = stream.readline(PIECE_BYTES)
        if not line:
            break
        row.feed(line)
        if tally is not None:
            tally.add(line)
        tail = (tail + line)[-2:]
    row.ends(stream.position - len(ending(tail)))
    return ending(tail), digest.digest(), row


def go_on(stream: ByteStream, row: LongRow, context: Context, num_fields: int | None) -> tuple[bytes, bytes] | None:
    """Go on with a csv record whose first line leaves a quote open and that exceeds the limit, without holding it.

    Returns:
        Its line ending and digest; None, at the end of the first line, where its quotes do not close in order or where
        it has another number of cells.
    """
    place, size, before, digest = stream.position, row.size, row.scan, row.digest.copy()
    assert isinstance(before, RecordScan)
    row.scan = scan = before.copy()
    scan.clean = True
    tally = context.tally.copy() if context.tally is not None else None
    tail = b""
    while scan.clean and (line := stream.readline(PIECE_BYTES)):
        row.feed(line)
        if tally is not None:
            tally.add(line)
        tail = (tail + line)[-2:]
        if line.endswith(b"\n") and not scan.is_open:
            break
    row.ends(stream.position - len(ending(tail)))
    if scan.clean and not scan.is_open and scan.num_cells == num_fields:
        if tally is not None and context.tally is not None:
            context.tally.become(tally)
        return ending(tail), row.digest.digest()
    stream.move(place)
    row.scan, row.digest, row.size = before, digest, size
    return None


def too_long(max_bytes: int) -> str:
    """What is said of a row over the limit, behind its place."""
    more = min(max_bytes * 16, MAX_ROW_BYTES)
    return f"is longer than source.max_row_bytes={max_bytes}. Split the row, or set source.max_row_bytes={more}."


def not_utf8(error: UnicodeError, what: str = "row") -> str:
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


def failed(
    input: Input,
    row: int,
    digest: bytes,
    error: RowError,
    *,
    raw: bytes = b"",
    text: str | None = None,
    values: Any = None,
    long: LongRow | None = None,
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
        f"{input.rel}#{row + 1}", row, text, digest, raw, None, None, error.status, f"{where} {error}", values, long
    )


def shown(value: Any) -> str:
    """A value for a message, at most 80 characters of it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Codes:
    """Language codes of rows, checked once a value.

    Raises:
        RowError: From `get`, for a value that is no language; the caller makes it an error row.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.fields = config.lang_fields
        self._known: dict[tuple[str, str], str] = {}

    def get(self, values: tuple[Any, Any]) -> tuple[str | None, str | None]:
        """Codes of a row's two language values; None or "" leaves the job's own."""
        source, target = (
            None if field is None or value is None or value == "" else self._code(field, value)
            for field, value in zip(self.fields, values, strict=True)
        )
        return source, target

    def _code(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RowError(f"field {field!r} holds {shown(value)}, which is no language code.", Status.BAD_ROW)
        found = self._known.get((field, value))
        if found is None:
            try:
                value.encode()  # raises on a lone surrogate
                if len(value) > MAX_CODE:
                    raise ConfigError(f"field {field!r} holds {shown(value)}, no language.")
                found = languages.get(value, field).code
            except UnicodeEncodeError as error:
                raise RowError(not_utf8(error, f"field {field!r}"), Status.BAD_ENCODING) from None
            except ConfigError as error:
                raise RowError(str(error), Status.BAD_LANGUAGE) from None
            if len(self._known) < 1024:  # odd spellings are few; a hostile column must not fill the memory
                self._known[field, value] = found
        return found
