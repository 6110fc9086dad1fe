"""Records of the complete shards of a file, in a few bytes each: a job over years of text has a hundred thousand.

Objects that stay while others come and go would also keep the memory around them from being given back.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator

from hymt_batch.records import ShardRecord

_RECORD = struct.Struct("<?qqqq32s?")  # whether it is here, then a record's fields but its index


class ShardTable:
    """Shard records of one file by their index."""

    def __init__(self, records: Iterable[ShardRecord] = ()) -> None:
        self._packed, self._count = bytearray(), 0
        for record in records:
            self.add(record)

    @classmethod
    def unpack(cls, text: str) -> ShardTable:
        """The inverse of `pack`; ValueError where the text is none of its."""
        table, data = cls(), base64.b64decode(text, validate=True)
        if len(data) % _RECORD.size:
            raise ValueError("not a table of shard records")
        table._packed[:] = data
        for here, *places, _, _ in _RECORD.iter_unpack(data):
            if min(places) < 0:
                raise ValueError("not a table of shard records")
            table._count += here
        return table

    def pack(self) -> str:
        """One text of all records, for a file's own record: a list of so many would take much memory to write."""
        return base64.b64encode(self._packed).decode("ascii")

    def add(self, record: ShardRecord) -> None:
        """Take a record in, in place of an earlier one of its shard."""
        at, size = record.index * _RECORD.size, len(self._packed)
        if at >= size:
            self._packed.extend(bytes(at + _RECORD.size - size))
        self._count += record.index not in self
        places = (record.first_row, record.num_rows, record.start, record.end)
        _RECORD.pack_into(self._packed, at, True, *places, bytes.fromhex(record.sha256), record.last)

    def get(self, index: int) -> ShardRecord | None:
        if index not in self:
            return None
        _, first_row, num_rows, start, end, digest, last = _RECORD.unpack_from(self._packed, index * _RECORD.size)
        return ShardRecord(index, first_row, num_rows, start, end, digest.hex(), last)

    def __contains__(self, index: int) -> bool:
        at = index * _RECORD.size
        return at < len(self._packed) and bool(self._packed[at])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ShardRecord]:
        """Records in the order of their shards."""
        for index in range(self.end):
            if (record := self.get(index)) is not None:
                yield record

    @property
    def end(self) -> int:
        """One more than the largest index."""
        return len(self._packed) // _RECORD.size

    @property
    def last_index(self) -> int | None:
        """Index of the file's last shard; None until it is here."""
        found = self.get(self.end - 1) if self.end else None
        return found.index if found and found.last else None

    @property
    def is_complete(self) -> bool:
        """Whether every shard up to the last is here."""
        return len(self) == self.end and self.last_index is not None
