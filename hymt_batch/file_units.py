"""Group small files into units: runs of consecutive small files, each of which is decoded as one batch.

A small file alone fills no batch, so many of them would leave most slots of the engine empty. The units of a job follow
from its list of inputs when the job is created, and `job.json` keeps the first file of each. A file that is not small
is a unit of its own and is decoded part by part. Independent of how rows are planned, decoded and committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hymt_batch.formats import registry
from hymt_batch.formats.format import Addressing, Kind
from hymt_batch.records import Input

MAX_FILE_BYTES = 64 << 10
"""A file is small if it has fewer bytes."""

MAX_FILES = 1000
"""Maximum number of files of a unit."""

BYTES_PER_TOKEN = 4
"""A unit has at most so many bytes for each of batch.part_tokens: about as much text as a part."""

FIRST_PLAN = 5
"""First version of the plan with units; see records.PLAN_VERSION."""


def is_small(input: Input) -> bool:
    """Return whether a file may share a unit: an uncompressed file of rows that are lines, under 64 KiB.

    A table is compressed inside, so that its size says little about its text.
    """
    if input.size is None or input.size >= MAX_FILE_BYTES or input.compression:
        return False
    format = registry.of_input(input)
    return format.kind is Kind.ROWS and format.addressing is Addressing.BYTE_OFFSET


def plan(inputs: Sequence[Input], identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the first file (`Input.rel`) of each unit of a new job; () if no unit has several files.

    Args:
        inputs: The inputs of the job, with their sizes.
        identity: The identity of the job; it has the version of the plan and batch.part_tokens.
    """
    limits = identity.get("batch", {})
    if limits.get("plan", 1) < FIRST_PLAN:
        return ()
    first_files = _cut(inputs, limits["part_tokens"] * BYTES_PER_TOKEN)
    return tuple(first_files) if len(first_files) < len(inputs) else ()


def _cut(inputs: Sequence[Input], max_bytes: int) -> list[str]:
    """Return the first file of each unit of some consecutive files."""
    first_files: list[str] = []
    num_files = num_bytes = 0  # of the unit that is open
    for input in inputs:
        size = input.size or 0
        if is_small(input) and 0 < num_files < MAX_FILES and num_bytes + size <= max_bytes:
            num_files, num_bytes = num_files + 1, num_bytes + size
            continue
        first_files.append(input.rel)
        num_files, num_bytes = (1, size) if is_small(input) else (0, 0)
    return first_files


def group(inputs: Sequence[Input], first_files: Collection[str]) -> Iterator[list[Input]]:
    """Yield the files of each unit, in order.

    A file that has grown since the job was created, and is not small any more, is decoded by itself.

    Args:
        inputs: The inputs of the job, with their sizes.
        first_files: The first file of each unit, as `job.json` has them; empty if each file is decoded by itself.
    """
    starts, unit = frozenset(first_files), list[Input]()
    for input in inputs:
        is_joined = bool(starts) and input.rel not in starts and len(unit) < MAX_FILES
        if unit and not (is_joined and is_small(input) and is_small(unit[-1])):
            yield unit
            unit = []
        unit.append(input)
    if unit:
        yield unit


def regroup(
    inputs: Sequence[Input],
    earlier_inputs: Sequence[Input],
    first_files: Collection[str],
    identity: Mapping[str, Any],
    changed: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the first file of each unit after the inputs of a job changed.

    What is unchanged stays in its unit, which is cut where a file that does not belong to it is in between. New files
    form units of their own, and each changed file is one.

    Args:
        inputs: The inputs now, with their sizes.
        earlier_inputs: The inputs before.
        first_files: The first file of each unit before; () if each file was decoded by itself, which then stays so.
        identity: See `plan`.
        changed: The files (`Input.rel`) whose rows changed.
    """
    if not first_files:
        return ()
    starts, unit_of, unit = frozenset(first_files), dict[str, int](), 0
    for input in earlier_inputs:
        unit += input.rel in starts
        unit_of[input.rel] = unit
    max_bytes = identity["batch"]["part_tokens"] * BYTES_PER_TOKEN
    regrouped: list[str] = []
    new_files: list[Input] = []  # consecutive ones
    previous: int | None = None
    for input in inputs:
        if input.rel not in unit_of:
            new_files.append(input)
            previous = None
            continue
        regrouped += _cut(new_files, max_bytes)
        new_files.clear()
        unit_now = None if input.rel in changed else unit_of[input.rel]
        if unit_now is None or unit_now != previous:
            regrouped.append(input.rel)
        previous = unit_now
    return (*regrouped, *_cut(new_files, max_bytes))
