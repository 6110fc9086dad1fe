"""What a job asks of its input files as a whole: checks before the model is loaded, `source.limit`, the second pass.

Independent of the model, the output and Hydra. `discovery` finds the files, and `shards` cuts them into shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.formats.format import Addressing
from hymt_batch.records import PLAN_VERSION, Document, Input
from hymt_batch.source import discovery
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents

HEAD_ROWS = 100
"""Number of rows at the start of a file that `check_first_rows` looks at."""


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


def check_first_rows(inputs: Sequence[Input], config: SourceConfig, preambles: PreambleCache) -> None:
    """Reject a file whose first rows show that a setting is wrong; not for plan 1, which translated such rows.

    Args:
        inputs: The inputs.
        config: The settings.
        preambles: Preambles of the job's inputs.

    Raises:
        ConfigError: See `Format.check_first_rows`.
    """
    for input in inputs:
        if check := registry.of_input(input).check_first_rows:
            rows = read_documents(input, config, max_rows=HEAD_ROWS, preambles=preambles)
            check(input, config, (document for document, _ in rows))


def check_text_fields(inputs: Sequence[Input], config: SourceConfig, preambles: PreambleCache) -> None:
    """Reject a text field that no input has, of several: a row may lack a field, but a name may also be misspelt.

    Args:
        inputs: The inputs.
        config: The settings.
        preambles: Preambles of the job's inputs.

    Raises:
        ConfigError: A field is neither among the columns nor in the first rows of any input.
    """
    with_fields = [preamble for preamble in map(preambles, inputs) if preamble.text_fields]
    found = {name for preamble in with_fields for name in preamble.found_fields}
    missing = [name for name in config.text_fields if name not in found]
    if found and missing:
        kept = [name for name in config.text_fields if name in found]
        value = kept[0] if len(kept) == 1 else f"[{','.join(kept)}]"
        raise ConfigError(
            f"no input has the field {missing[0]!r} in its columns or first rows",
            why=f"so it is probably misspelt; the others are found: {kept}",
            fix=f"Set source.text_field={value}, or correct the name.",
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
    inputs: Iterable[Input],
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
        limited.append(input)
        preambles.limited_rows = {input.rel: rows_left}
        rows_left -= sum(
            ends_row(document)
            for document, _ in read_documents(
                input, config, max_rows=rows_left, plan_version=plan_version, preambles=preambles
            )
        )
        if rows_left <= 0:  # the next input is not even opened
            break
    return limited


def is_stdin(path: Any) -> bool:
    """Return whether standard input is the only source."""
    return bool(path in (discovery.STDIN, [discovery.STDIN]))


def needs_spool(config: SourceConfig) -> bool:
    """Return whether a source must be stored before it is read: standard input or a hub dataset."""
    return any(path == discovery.STDIN or discovery.is_hub_id(path) for path in config.paths)


def total_units(inputs: Sequence[Input], config: SourceConfig) -> int | None:
    """Return the sum of `end - start` over all shards, or None if it is unknown before the input is read."""
    if config.limit is not None or any(input.compression or input.encoding for input in inputs):
        return None
    by_rows = {registry.of_input(input).addressing is Addressing.ROW_NUMBER for input in inputs}
    if by_rows == {True}:
        return sum(registry.of_input(input).open_input(input).num_rows or 0 for input in inputs)
    try:
        sizes = (os.path.getsize(input.path) if input.size is None else input.size for input in inputs)
        return sum(sizes) if by_rows == {False} else None
    except OSError:
        return None  # only the progress bar needs it; opening the file later raises the proper error
