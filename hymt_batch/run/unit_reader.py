"""Read shards unit by unit, and skip only units that are complete.

If any shard of a unit of several files is missing, all of them are read: the unit is decoded as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from hymt_batch.records import Input, Shard, ShardRecord
from hymt_batch.source.shards import SkippedShard

GetRecord: TypeAlias = Callable[[Input, int], ShardRecord | None]


def read_units(
    units: Iterable[list[Input]],
    cut_shards: Callable[[GetRecord], Iterator[Shard | SkippedShard]],
    get_record: GetRecord,
) -> Iterator[list[Shard | SkippedShard]]:
    """Yield the shards of each unit together; those of a file that is a unit by itself one by one.

    Args:
        units: The files of each unit, in order.
        cut_shards: Cuts the same files into shards, and skips those that its argument returns a record of.
        get_record: Returns the record of a complete shard; None while any of its parts is missing.
    """
    unit: list[Input] = []
    is_complete = False  # of a unit of several files

    def get_record_of_unit(input: Input, shard_index: int) -> ShardRecord | None:
        return get_record(input, shard_index) if len(unit) == 1 or is_complete else None

    shards = cut_shards(get_record_of_unit)
    for unit in units:
        is_complete = len(unit) > 1 and all(_is_complete(input, get_record) for input in unit)
        read: list[Shard | SkippedShard] = []
        num_files_left = len(unit)
        while num_files_left and (shard := next(shards, None)) is not None:
            read.append(shard)
            num_files_left -= shard.record.last if isinstance(shard, SkippedShard) else shard.last
            if len(unit) == 1:
                yield read
                read = []
        if read:
            yield read


def _is_complete(input: Input, get_record: GetRecord) -> bool:
    index = 0
    while (record := get_record(input, index)) is not None:
        if record.last:
            return True
        index += 1
    return False
