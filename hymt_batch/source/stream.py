"""The source of a job: which files, and their rows as one stream of shards.

Does not know the model, the output or Hydra. This is the stage's face; what it offers is made in the modules beside it:
`find` resolves names, `shards` cuts, and each format has its own reader.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from hymt_batch.csv_escape import ESCAPE_HINT
from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN_VERSION, Document, Input, Preamble, Shard, ShardRecord
from hymt_batch.source import discovery as _find
from hymt_batch.source import tables
from hymt_batch.source.jsonl import HEAD_ROWS
from hymt_batch.source.preamble_reader import PreambleCache, is_table, read_preamble
from hymt_batch.source.prefetch import prefetch
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.source.shards import SkippedShard, cut_shards, read_documents
from hymt_batch.source.spool import Spool

__all__ = [
    "Document",
    "Input",
    "Preamble",
    "PreambleCache",
    "Shard",
    "ShardRecord",
    "SkippedShard",
    "SourceConfig",
    "SourceFormat",
    "Spool",
    "apply_limit",
    "check_escapes",
    "check_fields",
    "cut_shards",
    "find_inputs",
    "is_stdin",
    "needs_spool",
    "prefetch",
    "read_documents",
    "read_full_documents",
    "read_preamble",
    "total_units",
]


def find_inputs(config: SourceConfig, spool: Spool | None = None, out_format: str = "input") -> list[Input]:
    """Resolve source.path to inputs, without reading them; see `find.find`."""
    return _find.find_inputs(config, spool, out_format)


def check_fields(
    inputs: Sequence[Input], config: SourceConfig, reserved: tuple[str, ...], preambles: PreambleCache | None = None
) -> None:
    """Refuse inputs that do not fit the settings, before anything loads.

    Args:
        inputs: The inputs.
        config: The settings.
        reserved: Fields that the output adds; () where it has no fields.
        heads: Of the job's inputs, made with the same reserved fields.

    Raises:
        ConfigError: An input lacks a named field, or has a reserved one.
    """
    preambles = preambles or PreambleCache(config, reserved)
    for input in inputs:
        preambles(input)


def check_escapes(inputs: Sequence[Input], config: SourceConfig, preambles: PreambleCache) -> None:
    """Refuse a csv file whose first rows need source.escape. Not for a job of plan 1, which sent such rows.

    Raises:
        ConfigError: At least half of the first rows, and three, have quotes behind backslashes.
    """
    for input in inputs if config.escape is None else ():
        if input.format != "csv":
            continue
        rows = [
            ESCAPE_HINT in document.message
            for document, _ in read_documents(input, config, max_rows=HEAD_ROWS, preambles=preambles)
        ]
        if sum(rows) >= max(3, len(rows) / 2):
            raise ConfigError(
                f"{input.path}: {sum(rows)} of the first {len(rows)} rows have quotes behind backslashes inside of"
                f" quoted fields, which cannot be told apart. {ESCAPE_HINT}"
            )


def read_full_documents(
    input: Input,
    config: SourceConfig,
    inputs: Sequence[Input],
    reserved: tuple[str, ...] = (),
    plan_version: int = PLAN_VERSION,
    preambles: PreambleCache | None = None,
) -> Iterator[tuple[Document, int]]:
    """Yield an input's documents with raw bytes and parsed fields, for the finishing pass.

    Args:
        input: The input.
        config: The settings.
        inputs: All inputs of the job, as `limited` gave them: source.limit counts rows over them.
        reserved: Fields that the output adds.
        plan: Version of the job's plan; see records.PLAN.
        heads: Of the job's inputs; the same that `limited` was given.
    """
    if preambles is None:
        preambles = PreambleCache(config)
        if input not in apply_limit(inputs, config, preambles, plan_version):
            return
    most = preambles.limited_rows.get(input.rel)
    yield from read_documents(
        input, config, full=True, max_rows=most, reserved=reserved, plan_version=plan_version, preambles=preambles
    )


def apply_limit(
    inputs: Sequence[Input],
    config: SourceConfig,
    preambles: PreambleCache | None = None,
    plan_version: int = PLAN_VERSION,
) -> list[Input]:
    """The inputs that have rows within source.limit; all of them where there is no limit.

    Args:
        inputs: The inputs.
        config: The settings.
        heads: Of the job's inputs; remembers where the limit cuts.
        plan: Version of the job's plan; see records.PLAN.
    """
    if config.limit is None:
        return list(inputs)
    preambles = preambles or PreambleCache(config)
    left, within = config.limit, []
    for input in inputs:
        if left <= 0:
            break
        within.append(input)
        preambles.limited_rows = {input.rel: left}
        left -= sum(
            1 for _ in read_documents(input, config, max_rows=left, plan_version=plan_version, preambles=preambles)
        )
    return within


def is_stdin(path: Any) -> bool:
    """Is standard input the one source?"""
    return bool(path in (_find.STDIN, [_find.STDIN]))


def needs_spool(config: SourceConfig) -> bool:
    """Is a source among the paths that must be stored before it can be read: standard input, or a hub's data set?"""
    return any(path == _find.STDIN or _find.is_hub_id(path) for path in config.paths)


def total_units(inputs: Sequence[Input], config: SourceConfig) -> int | None:
    """Sum of all shards' `end - start`, or None where it is not known before the input is read."""
    if config.limit is not None or any(input.compression for input in inputs):
        return None
    kinds = {is_table(input) for input in inputs}
    if kinds == {True}:
        return sum(tables.Table(input).num_rows for input in inputs)
    try:
        return sum(os.path.getsize(input.path) for input in inputs) if kinds == {False} else None
    except OSError:
        return None  # it is for the progress bar alone; whoever opens the file says what is wrong
