"""The public interface of the source stage: the input files of a job, and their rows as one stream of shards.

Independent of the model, the output and Hydra. The other modules of this package do the work: `discovery` resolves
names, `shards` cuts files into shards, and each format has its own reader.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.delimited.csv_escape import ESCAPE_HINT
from hymt_batch.formats.jsonl.reader import HEAD_ROWS
from hymt_batch.formats.parquet import tables
from hymt_batch.records import PLAN_VERSION, Document, Input, Preamble, Shard, ShardRecord
from hymt_batch.source import discovery as _find
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
    """Resolve source.path to inputs without reading them; see `discovery.find_inputs`."""
    return _find.find_inputs(config, spool, out_format)


def check_fields(
    inputs: Sequence[Input], config: SourceConfig, reserved: tuple[str, ...], preambles: PreambleCache | None = None
) -> None:
    """Reject inputs that do not fit the settings, before the model is loaded.

    Args:
        inputs: The inputs.
        config: The settings.
        reserved: Fields that the output adds; () if its format has no fields.
        preambles: Preambles of the job's inputs, created with the same reserved fields.

    Raises:
        ConfigError: An input lacks a field that a setting names, or has a reserved field.
    """
    preambles = preambles or PreambleCache(config, reserved)
    for input in inputs:
        preambles(input)


def check_escapes(inputs: Sequence[Input], config: SourceConfig, preambles: PreambleCache) -> None:
    """Reject a csv file whose first rows need source.escape; not for jobs with plan 1, which translated such rows.

    Args:
        inputs: The inputs.
        config: The settings.
        preambles: Preambles of the job's inputs.

    Raises:
        ConfigError: At least half of the first rows, and at least three, have quotes after backslashes.
    """
    for input in inputs if config.escape is None else ():
        if input.format != "csv":
            continue
        flagged = [
            ESCAPE_HINT in document.message
            for document, _ in read_documents(input, config, max_rows=HEAD_ROWS, preambles=preambles)
        ]
        if sum(flagged) >= max(3, len(flagged) / 2):
            raise ConfigError(
                f"{input.path}: {sum(flagged)} of the first {len(flagged)} rows have quotes after backslashes inside"
                f" quoted fields, so the end of these fields is ambiguous. {ESCAPE_HINT}"
            )


def read_full_documents(
    input: Input,
    config: SourceConfig,
    inputs: Sequence[Input],
    reserved: tuple[str, ...] = (),
    plan_version: int = PLAN_VERSION,
    preambles: PreambleCache | None = None,
) -> Iterator[tuple[Document, int]]:
    """Yield an input's documents with raw bytes and parsed fields, for the second pass, which writes the output.

    Args:
        input: The input.
        config: The settings.
        inputs: All inputs of the job, as `apply_limit` returned them: source.limit counts rows over all of them.
        reserved: Fields that the output adds.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        preambles: Preambles of the job's inputs; the object that was passed to `apply_limit`.
    """
    if preambles is None:
        preambles = PreambleCache(config)
        if input not in apply_limit(inputs, config, preambles, plan_version):
            return
    max_rows = preambles.limited_rows.get(input.rel)
    yield from read_documents(
        input, config, full=True, max_rows=max_rows, reserved=reserved, plan_version=plan_version, preambles=preambles
    )


def apply_limit(
    inputs: Sequence[Input],
    config: SourceConfig,
    preambles: PreambleCache | None = None,
    plan_version: int = PLAN_VERSION,
) -> list[Input]:
    """Return the inputs that have rows within source.limit; all of them without a limit.

    Args:
        inputs: The inputs.
        config: The settings.
        preambles: Preambles of the job's inputs; receives the number of rows of the last input that are within the
            limit.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
    """
    if config.limit is None:
        return list(inputs)
    preambles = preambles or PreambleCache(config)
    rows_left, limited = config.limit, []
    for input in inputs:
        if rows_left <= 0:
            break
        limited.append(input)
        preambles.limited_rows = {input.rel: rows_left}
        rows_left -= sum(
            1 for _ in read_documents(input, config, max_rows=rows_left, plan_version=plan_version, preambles=preambles)
        )
    return limited


def is_stdin(path: Any) -> bool:
    """Return whether standard input is the only source."""
    return bool(path in (_find.STDIN, [_find.STDIN]))


def needs_spool(config: SourceConfig) -> bool:
    """Return whether a source must be stored before it is read: standard input or a hub dataset."""
    return any(path == _find.STDIN or _find.is_hub_id(path) for path in config.paths)


def total_units(inputs: Sequence[Input], config: SourceConfig) -> int | None:
    """Return the sum of `end - start` over all shards, or None if it is unknown before the input is read."""
    if config.limit is not None or any(input.compression for input in inputs):
        return None
    kinds = {is_table(input) for input in inputs}
    if kinds == {True}:
        return sum(tables.Table(input).num_rows for input in inputs)
    try:
        return sum(os.path.getsize(input.path) for input in inputs) if kinds == {False} else None
    except OSError:
        return None  # only the progress bar needs it; opening the file later raises the proper error
