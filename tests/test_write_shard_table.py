"""A shard table returns records unchanged, whatever the order in which they were added."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest

from hymt_batch.records import ShardRecord
from hymt_batch.write import file_record
from hymt_batch.write.part import encode_shard_record
from hymt_batch.write.shard_table import ShardTable


def record(index: int, last: bool = False) -> ShardRecord:
    return ShardRecord(index, index * 7, 7, index * 1000, (1 << 62) + index, f"{index:064x}", last)


def test_records_are_returned_unchanged_in_any_order_of_insertion() -> None:
    records = [record(index, last=index == 99) for index in range(100)]
    table = ShardTable()
    for count, shard_record in enumerate(random.Random(1).sample(records, 100), start=1):
        assert table.get(shard_record.index) is None
        assert shard_record.index not in table
        table.add(shard_record)
        assert table.get(shard_record.index) == shard_record
        assert table.is_complete == (count == 100)
    assert list(table) == records
    assert (table.end, table.last_index) == (100, 99)


def test_a_record_replaces_the_earlier_one_and_counts_once() -> None:
    table = ShardTable([record(0), record(0), record(2, last=True)])
    assert not table.is_complete
    table.add(replace(record(0), num_rows=5))
    assert table.get(0) == replace(record(0), num_rows=5)
    assert [shard_record.index for shard_record in table] == [0, 2]
    assert len(table) == 2
    assert 1 not in table
    assert 3 not in table
    assert table.get(3) is None
    table.add(record(1))
    assert table.is_complete
    table.add(record(3))  # after the last, as if a file grew while it was read
    assert not table.is_complete


def test_a_table_survives_packing_and_unpacking() -> None:
    table = ShardTable([record(0), record(3, last=True), record(1)])
    unpacked = ShardTable.unpack(table.pack())
    assert list(unpacked) == list(table)
    assert (unpacked.end, unpacked.last_index, unpacked.is_complete) == (4, 3, False)
    unpacked.add(record(2))
    assert unpacked.is_complete
    assert ShardTable.unpack("").end == 0
    for invalid in ("A", "AAAA", "\u00e9", table.pack()[:-4]):
        with pytest.raises(ValueError):
            ShardTable.unpack(invalid)
    negative = bytearray(base64.b64decode(table.pack()))
    negative[8] = 0xFF  # the sign of the first row
    with pytest.raises(ValueError, match="not a table"):
        ShardTable.unpack(base64.b64encode(negative).decode())


def test_records_of_earlier_versions_are_read() -> None:
    records = [record(0), record(1, last=True)]
    assert (
        list(file_record.shard_table_of({"shards": [encode_shard_record(shard_record) for shard_record in records]}))
        == records
    )
    assert list(file_record.shard_table_of({"shards": ShardTable(records).pack()})) == records


def test_an_empty_table_is_not_complete() -> None:
    assert not ShardTable().is_complete
    assert ShardTable().end == 0
