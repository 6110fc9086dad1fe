"""What the row readers share: a line with its digest, the running hash of a shard, per-row languages.

Does not know a format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any, Protocol

from hymt_batch import languages
from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN, Document, Input, Status, ending
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.settings import MAX_ROW_BYTES, SourceConfig

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
        reserved: Fields that the output adds, so that no row may have them.
        header: Header record; part of every digest, since it decides which column is the text.
        fields: Column names of csv and tsv.
        plan: Version of the job's plan; see records.PLAN.
    """

    __slots__ = ("digest", "fields", "full", "plan", "reserved", "row", "tally")

    def __init__(
        self,
        row: int = 0,
        full: bool = False,
        tally: Tally | None = None,
        reserved: tuple[str, ...] = (),
        header: bytes = b"",
        fields: tuple[str, ...] = (),
        plan: int = PLAN,
    ) -> None:
        self.plan = plan
        self.row, self.full, self.tally, self.reserved, self.fields = row, full, tally, reserved, fields
        self.digest = hashlib.blake2b(header, digest_size=8)


def read_line(stream: ByteStream, max_bytes: int, context: Context) -> tuple[bytes, bytes, bool]:
    """Read one line in bounded memory.

    Returns:
        The line with its ending, its digest, and False; or for a line whose content exceeds max_bytes its ending
        alone, the digest of the whole line, and True. The line is b"" at the end of the file.
    """
    line = stream.readline(max_bytes + 2)
    digest, tally = context.digest.copy(), context.tally
    digest.update(line)
    if tally is not None:
        tally.add(line)
    if len(line) <= max_bytes or len(line) - len(ending(line)) <= max_bytes:
        return line, digest.digest(), False
    tail = line[-2:]
    while not line.endswith(b"\n"):
        line = stream.readline(1 << 16)
        if not line:
            break
        digest.update(line)
        if tally is not None:
            tally.add(line)
        tail = (tail + line)[-2:]
    return ending(tail), digest.digest(), True


def too_long(input: Input, row: int, max_bytes: int) -> str:
    return (
        f"{input.rel}:{row + 1} is longer than source.max_row_bytes={max_bytes}. Split the row, or set"
        f" source.max_row_bytes={min(max_bytes * 16, MAX_ROW_BYTES)}."
    )


def not_utf8(input: Input, row: int, error: UnicodeError, what: str = "") -> str:
    """Message for a row that is no UTF-8; `what` names the field."""
    if isinstance(error, UnicodeDecodeError):
        found = f"byte 0x{error.object[error.start]:02x} at offset {error.start} of the {what or 'row'}"
    else:
        found = f"a lone surrogate in the {what or 'row'}"
    return f"{input.rel}:{row + 1} is not UTF-8: {found}. Convert the file to UTF-8."


def failed(
    input: Input, row: int, digest: bytes, message: str, *, raw: bytes = b"", values: Any = None, long: bool = False
) -> Document:
    """A row that cannot be translated: it keeps its place and says why."""
    status = Status.TOO_LONG if long else Status.BAD_ENCODING
    return Document(f"{input.rel}#{row + 1}", row, None, digest, raw, None, None, status, message, values)


class Codes:
    """Language codes of rows, checked once a value.

    Raises:
        ConfigError: From `get`, for a value that is no language; the caller makes it an error row.
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
            raise ConfigError(f"field {field!r} holds {value!r}, which is no language code.")
        found = self._known.get((field, value))
        if found is None:
            found = languages.get(value, field).code
            if len(self._known) < 1024:  # odd spellings are few; a hostile column must not fill the memory
                self._known[field, value] = found
        return found
