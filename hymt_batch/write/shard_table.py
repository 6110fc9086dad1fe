"""The records of a file's complete shards, packed into a few bytes each: a large job has 100,000 shards.

Separate long-lived objects would also fragment the heap and keep freed memory from returning to the system.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator

from hymt_batch.records import ShardRecord

_RECORD = struct.Struct("<?qqqq32s?")  # whether the record is present, then its fields except the index


class ShardTable:
    """The shard records of one file, by shard index."""

    __slots__ = ("_count", "_packed")

    def __init__(self, records: Iterable[ShardRecord] = ()) -> None:
        self._packed, self._count = bytearray(), 0
        for record in records:
            self.add(record)

    @classmethod
    def unpack(cls, text: str) -> ShardTable:
        """Inverse of `pack`.

        Raises:
            ValueError: The text does not come from `pack`.
        """
        table, data = cls(), base64.b64decode(text, validate=True)
        if len(data) % _RECORD.size:
            raise ValueError("not a table of shard records")
        table._packed[:] = data
        for is_present, *cursors, _, _ in _RECORD.iter_unpack(data):
            if min(cursors) < 0:
                raise ValueError("not a table of shard records")
            table._count += is_present
        return table

    def pack(self) -> str:
        """Return all records as one string, for `file.json`: writing them as a long list would take much memory."""
        return base64.b64encode(self._packed).decode("ascii")

    def add(self, record: ShardRecord) -> None:
        """Add a record, or replace the one with the same shard index."""
        offset, size = record.index * _RECORD.size, len(self._packed)
        if offset >= size:
            self._packed.extend(bytes(offset + _RECORD.size - size))
        self._count += record.index not in self
        cursors = (record.first_row, record.num_rows, record.start, record.end)
        _RECORD.pack_into(self._packed, offset, True, *cursors, bytes.fromhex(record.sha256), record.last)

    def get(self, index: int) -> ShardRecord | None:
        if index not in self:
            return None
        _, first_row, num_rows, start, end, digest, last = _RECORD.unpack_from(self._packed, index * _RECORD.size)
        return ShardRecord(index, first_row, num_rows, start, end, digest.hex(), last)

    def __contains__(self, index: int) -> bool:
        offset = index * _RECORD.size
        return offset < len(self._packed) and bool(self._packed[offset])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ShardRecord]:
        """Yield the records in the order of their shards."""
        for index in range(self.end):
            if (record := self.get(index)) is not None:
                yield record

    @property
    def end(self) -> int:
        """One more than the largest index."""
        return len(self._packed) // _RECORD.size

    @property
    def last_index(self) -> int | None:
        """Index of the file's last shard; None until its record is added."""
        record = self.get(self.end - 1) if self.end else None
        return record.index if record and record.last else None

    @property
    def is_complete(self) -> bool:
        """True if the table has every shard of the file."""
        return bool(self._packed and self._packed[-1]) and len(self) == self.end  # the last byte is `last`

    def describe_gaps(self) -> str:
        """Return the indices of the missing shards as text, such as "3, 7 to the end"."""
        last = self.last_index
        end = self.end if last is None else last
        gaps = [str(index) for index in range(end) if index not in self]
        if last is None:
            gaps.append(f"{end} to the end")
        return f"{', '.join(gaps[:20])}{' and more' if len(gaps) > 20 else ''}"
