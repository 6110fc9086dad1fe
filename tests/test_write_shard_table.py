"""Records of shards come out as they went in, in any order."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest

from hymt_batch.records import ShardRecord
from hymt_batch.write import published_file
from hymt_batch.write.part import encode_shard_record
from hymt_batch.write.shard_table import ShardTable


def record(index: int, last: bool = False) -> ShardRecord:
    return ShardRecord(index, index * 7, 7, index * 1000, (1 << 62) + index, f"{index:064x}", last)


def test_records_come_out_as_they_went_in_whatever_their_order() -> None:
    records = [record(index, last=index == 99) for index in range(100)]
    table = ShardTable()
    for number, one in enumerate(random.Random(1).sample(records, 100), start=1):
        assert table.get(one.index) is None
        assert one.index not in table
        table.add(one)
        assert table.get(one.index) == one
        assert table.is_complete == (number == 100)
    assert list(table) == records
    assert (table.end, table.last_index) == (100, 99)


def test_a_record_replaces_the_earlier_one_and_counts_once() -> None:
    table = ShardTable([record(0), record(0), record(2, last=True)])
    assert not table.is_complete
    table.add(replace(record(0), num_rows=5))
    assert table.get(0) == replace(record(0), num_rows=5)
    assert [one.index for one in table] == [0, 2]
    assert len(table) == 2
    assert 1 not in table
    assert 3 not in table
    assert table.get(3) is None
    table.add(record(1))
    assert table.is_complete
    table.add(record(3))  # behind the last, as where a file grew while it was read
    assert not table.is_complete


def test_a_table_is_packed_into_a_text_and_back() -> None:
    table = ShardTable([record(0), record(3, last=True), record(1)])
    again = ShardTable.unpack(table.pack())
    assert list(again) == list(table)
    assert (again.end, again.last_index, again.is_complete) == (4, 3, False)
    again.add(record(2))
    assert again.is_complete
    assert ShardTable.unpack("").end == 0
    for spoiled in ("A", "AAAA", "\u00e9", table.pack()[:-4]):
        with pytest.raises(ValueError):
            ShardTable.unpack(spoiled)
    negative = bytearray(base64.b64decode(table.pack()))
    negative[8] = 0xFF  # the sign of the first row
    with pytest.raises(ValueError, match="not a table"):
        ShardTable.unpack(base64.b64encode(negative).decode())


def test_records_of_earlier_versions_are_read() -> None:
    records = [record(0), record(1, last=True)]
    assert list(published_file.shard_table_of({"shards": [encode_shard_record(one) for one in records]})) == records
    assert list(published_file.shard_table_of({"shards": ShardTable(records).pack()})) == records


def test_nothing_is_not_whole() -> None:
    assert not ShardTable().is_complete
    assert ShardTable().end == 0
