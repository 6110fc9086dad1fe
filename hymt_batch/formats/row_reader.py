"""Code shared by the row readers: lines with their digests, the running hash of a shard, and rows with errors.

Independent of any format.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hymt_batch.errors import ConfigError
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.language_sample import LanguageSample
from hymt_batch.formats.long_rows import PIECE_BYTES, InputRereader, LongRow, RowScan
from hymt_batch.formats.options import MAX_ROW_BYTES, ReadOptions
from hymt_batch.formats.text_encoding import marked_byte
from hymt_batch.records import PLAN_VERSION, Document, Input, Preamble, Status, line_ending

ADDED_SETTINGS = ("write.translation_field", "write.meta_field")
"""The settings that name the fields which an output adds, in their order."""

Rows = Generator[tuple[Document, int], None, None]
"""Yields documents, each with the cursor after it."""


class ShardHasher:
    """Hashes (sha256) and counts the bytes of the rows since the last call of `take_hash`.

    Args:
        header: The header record (csv, tsv), which decides the meaning of the rows: every hash begins with it.
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
        """Add a row by its digest, for tables, whose rows are not byte ranges of the file."""
        self._sha.update(digest)
        self.num_bytes += num_bytes

    def copy(self) -> ShardHasher:
        """Return an independent copy of the current state."""
        duplicate = ShardHasher()
        duplicate._base, duplicate._sha, duplicate.num_bytes = self._base, self._sha.copy(), self.num_bytes
        return duplicate

    def assign(self, hasher: ShardHasher) -> None:
        """Copy the state of another hasher."""
        self._sha, self.num_bytes = hasher._sha, hasher.num_bytes

    def take_hash(self) -> str:
        """Return the hash so far as hex, and start a new one."""
        sha = self._sha.hexdigest()
        self._sha = self._base.copy()
        self.num_bytes = 0
        return sha


class RowReader(Protocol):
    """Reads the rows of one format from the stream's position on; never closes the stream."""

    def __call__(self, stream: ByteStream, config: ReadOptions, context: ReadContext) -> Rows: ...


@dataclass(slots=True, kw_only=True)
class ReadContext:
    """What a row reader needs besides the bytes and the settings."""

    first_row: int = 0  # index of the document where reading starts
    first_file_row: int = 0  # index of its row; another one only where rows have several text fields
    full: bool = False  # keep the raw bytes and the parsed fields, for the second pass, which writes the output
    hasher: ShardHasher | None = None  # receives the bytes of each row before the row is yielded
    # fields that the output adds; a row that has one becomes an error row (plan 1: in the first pass; later plans: in
    # the second pass)
    reserved: tuple[str, ...] = ()
    header: bytes = b""  # the header record; part of every digest, because it decides which column is the text
    fields: tuple[str, ...] = ()  # column names of csv and tsv
    plan_version: int = PLAN_VERSION  # version of the job's plan; see records.PLAN_VERSION
    rereader: InputRereader | None = None  # reads rows over the limit a second time; needed with `full`
    num_selected: int | None = None  # spliced formats: places from this index on are not selected; None: all are
    language_sample: LanguageSample | None = None  # counts what the rows write in their language fields
    digest: Any = field(init=False)  # a row's digest before its bytes

    def __post_init__(self) -> None:
        self.digest = hashlib.blake2b(self.header, digest_size=8)


def read_line(
    stream: ByteStream,
    max_bytes: int,
    context: ReadContext,
    scan: Callable[[], RowScan] | None = None,
) -> tuple[bytes, bytes, LongRow | None]:
    """Read one line in bounded memory.

    Args:
        stream: The input, positioned at the start of the line.
        max_bytes: Maximum size of the line's content in bytes.
        context: Provides the initial digest of a row, and the hasher that gets the bytes.
        scan: Creates the scan for the fields of a longer line.

    Returns:
        The line with its ending, its digest, and None. For a line whose content exceeds max_bytes: its ending alone,
        the digest of the whole line, and a LongRow. At the end of the file the line is b"".
    """
    start = stream.position
    line = stream.readline(max_bytes + 2)
    digest, hasher = context.digest.copy(), context.hasher
    digest.update(line)
    if hasher is not None:
        hasher.add(line)
    if len(line) <= max_bytes or len(line) - len(line_ending(line)) <= max_bytes:
        return line, digest.digest(), None
    row = LongRow(context.rereader, start, line, scan() if scan else None, digest)
    tail = line[-2:]
    while not line.endswith(b"\n"):
        line = stream.readline(PIECE_BYTES)
        if not line:
            break
        row.feed(line)
        if hasher is not None:
            hasher.add(line)
        tail = (tail + line)[-2:]
    row.end_at(stream.position - len(line_ending(tail)))
    return line_ending(tail), digest.digest(), row


ReadRow = Callable[..., tuple[bytes, bytes, LongRow | None]]
"""Reads a row from a stream; see `read_line`."""


def too_long_message(max_bytes: int) -> str:
    """Return the message for a row over the limit, to be printed after the row's location."""
    more = min(max_bytes * 16, MAX_ROW_BYTES)
    return f"is longer than source.max_row_bytes={max_bytes}. Split the row, or set source.max_row_bytes={more}."


def not_utf8_message(error: UnicodeError, what: str = "row") -> str:
    """Return the message for a row that is not UTF-8, to be printed after its location; `what` names the field."""
    if not isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: a lone surrogate in the {what}. Convert the file to UTF-8."
    data, start = error.object, error.start
    if (byte := marked_byte(data, start)) is not None:
        where = f"byte 0x{byte:02x} after {len(data[:start].decode())} characters of the {what}"
        return f"is not in the encoding of the file: {where} cannot be decoded. Fix the row, or change source.encoding."
    return f"is not UTF-8: byte 0x{data[start]:02x} at offset {start} of the {what}. Convert the file to UTF-8."


class RowError(ValueError):
    """A row cannot be translated; the message is the reason, to be printed after the row's location."""

    def __init__(self, why: str, status: Status = Status.BAD_ROW, *, needs_escape: bool = False) -> None:
        super().__init__(why)
        self.status, self.needs_escape = status, needs_escape


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
    """Create the document of a row that cannot be translated; it keeps its index and carries the error message.

    Args:
        input: The file of the row.
        row: Index of the row.
        digest: Digest of the row's bytes.
        error: The reason.
        raw: The row as read.
        text: The source text, if known; set only in the second pass.
        values: The fields; set only in the second pass.
        long_row: The scanned row if it is over the limit; set only in the second pass.
    """
    return Document(
        id=f"{input.rel}#{row + 1}",
        row_index=row,
        text=text,
        digest=digest,
        raw=raw,
        status=error.status,
        message=f"{input.rel}:{row + 1} {error}",
        values=values,
        long_row=long_row,
        needs_escape=error.needs_escape,
    )


def refuse_reserved(where: str, fields: Collection[str], reserved: Sequence[str]) -> None:
    """Raise ConfigError for an input that has a field which the output adds.

    Args:
        where: The file, or a row of it.
        fields: The fields of the input.
        reserved: The fields that the output adds, in the order of `ADDED_SETTINGS`; () if there are none.
    """
    taken = {setting: name for setting, name in zip(ADDED_SETTINGS, reserved, strict=False) if name in fields}
    if not taken:
        return
    renamed = {setting: f"{name}_mt" for setting, name in taken.items()}
    while any(name in fields for name in renamed.values()):
        renamed = {setting: f"{name}_mt" for setting, name in renamed.items()}
    fix = f"Set {' '.join(f'{setting}={shlex.quote(name)}' for setting, name in renamed.items())}."
    if len(taken) == len(ADDED_SETTINGS):  # as the output of a job has them
        fix += f" To translate these translations, set also source.text_field={shlex.quote(reserved[0])}."
    raise ConfigError(
        f"{where} already has {'a field' if len(taken) == 1 else 'the fields'} "
        f"{' and '.join(map(repr, taken.values()))}, which the output adds",
        why="so one of the two would be lost" if len(taken) == 1 else "so their values would be lost",
        fix=fix,
    )


def check_reserved(preamble: Preamble, path: str, reserved: tuple[str, ...]) -> Preamble:
    """Return a preamble without fields that the output adds; raise ConfigError for one that has them."""
    refuse_reserved(path, preamble.fields, reserved)
    return preamble
