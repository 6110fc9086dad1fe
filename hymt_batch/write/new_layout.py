"""The layout of the state of a new job, by how many files and shards it may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hymt_batch import state_layout
from hymt_batch.formats import registry
from hymt_batch.formats.format import Addressing
from hymt_batch.records import Input
from hymt_batch.state_layout import StateLayout
from hymt_batch.write.space import input_bytes

MAX_RATIO = 1000
"""Most bytes of text that a byte of a packed file may stand for: gzip packs up to 1,032 equal bytes in one."""


def choose(inputs: Iterable[Input], identity: Mapping[str, Any]) -> StateLayout:
    """Return the layout for the inputs of a new job, which have their sizes.

    A shard that is not the last one has at least `batch.shard_rows` rows, of a byte each at least, or
    `batch.shard_bytes` bytes.
    """
    limits, num_files, num_bytes = identity.get("batch") or {}, 0, 0
    for input in inputs:
        num_files += 1
        num_bytes += _text_bytes(input)
    shard_bytes = max(1, min(limits.get("shard_rows", 1 << 15), limits.get("shard_bytes", 1 << 26)))
    max_shards = num_bytes // shard_bytes + 1
    return state_layout.choose(num_files, max_shards)


def _text_bytes(input: Input) -> int:
    """Return the most bytes of text that a file may have."""
    is_packed = input.compression or registry.of_input(input).addressing is Addressing.ROW_NUMBER
    return input_bytes(input) * (MAX_RATIO if is_packed else 1)
