"""What `reproduce` decodes again of a finished job, and what it finds when it compares the rows. Decodes nothing.

A row is compared as it is published: its text and its status, not its flags, which thresholds and rounding may change.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.errors import IdentityError, InputChangedError
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Input, Row, Status
from hymt_batch.run.finished_rows import FinishedJob
from hymt_batch.sanitize import escape_line
from hymt_batch.state_layout import StateLayout
from hymt_batch.write import identity_versions, passes
from hymt_batch.write.passes import PassFile, PassRecord
from hymt_batch.write.record_store import RecordStore

SHOWN_CHARS = 120
"""Most characters of a text that are shown."""

CONTEXT_CHARS = 30
"""Characters that are shown before the first difference of two texts."""

MAX_DIFFERENT = 1000
"""Most different rows that are kept with their texts; the others are counted."""


@dataclass(frozen=True, slots=True)
class ChosenRow:
    """A row that is decoded again, as it is published."""

    input: Input
    document: Document
    row: Row


@dataclass(frozen=True, slots=True)
class DifferentRow:
    """A row whose text or status is another one; the texts are escaped, and shortened to where they differ."""

    file: str  # the input
    id: str
    recorded: str
    new: str
    recorded_status: str
    new_status: str


@dataclass(slots=True)
class Survey:
    """Which rows a job has."""

    rows: list[ChosenRow] = field(default_factory=list)  # those that were drawn, in the order of the job
    left_out: Counter[str] = field(default_factory=Counter)  # rows that are not compared, by the reason
    num_comparable: int = 0
    num_quarantined: int = 0  # rows that ended their process


def why_left_out(document: Document, row: Row, in_pass: bool, identity_sha256: str) -> str:
    """Return why a row is not compared with one that the settings of the job give; "" if it is."""
    if row.status in (Status.NOT_SELECTED, Status.FAILED_FILE) or document.status is not Status.OK or not document.text:
        return "not decoded"
    if "blank" in row.flags:
        return "not decoded"
    if row.status is Status.CRASH_QUARANTINED:
        return Status.CRASH_QUARANTINED.value
    if in_pass:
        return "of a retry pass"
    if row.origin and not identity_sha256.startswith(row.origin):
        return "of an earlier identity"
    return ""


def survey(finished: FinishedJob, num_rows: int | None, seed: int, check_stop: Callable[[], None]) -> Survey:
    """Read all rows of a job, and draw some of those that can be compared, each with the same probability.

    Args:
        finished: The job.
        num_rows: How many are drawn; None to draw none, because all are decoded.
        seed: Of the draw.
        check_stop: Called now and then; raises if a stop was requested.

    Raises:
        InputChangedError: An input differs from what was translated.
    """
    found, generator = Survey(), random.Random(seed)
    drawn: list[tuple[int, ChosenRow]] = []  # a reservoir, with the number of each row
    for input in finished.inputs:
        in_passes = finished.rows_of_passes(input)
        for document, row in finished.read(input):
            if not row.row_index % 10_000:
                check_stop()
            found.num_quarantined += row.status is Status.CRASH_QUARANTINED
            reason = why_left_out(document, row, row.row_index in in_passes, finished.job.identity_sha256)
            if reason:
                found.left_out[reason] += 1
                continue
            number = found.num_comparable
            found.num_comparable += 1
            if num_rows is None:
                continue
            chosen = ChosenRow(input, document, row)
            if len(drawn) < num_rows:
                drawn.append((number, chosen))
            elif (place := generator.randrange(number + 1)) < num_rows:
                drawn[place] = number, chosen
    found.rows = [chosen for _, chosen in sorted(drawn, key=lambda item: item[0])]
    return found


def pass_of(rows: Sequence[ChosenRow], identity: JsonDict, environment: JsonDict) -> PassRecord:
    """Return a pass that has these rows, in the order of the job."""
    files: dict[str, tuple[Input, list[Row]]] = {}
    for chosen in rows:
        files.setdefault(chosen.input.file_id, (chosen.input, []))[1].append(chosen.row)
    of_files = tuple(
        PassFile(
            input.file_id,
            input.rel,
            array("q", (row.row_index for row in of_file)),
            "".join(row.digest.hex() for row in of_file),
        )
        for input, of_file in files.values()
    )
    return PassRecord(1, manifest.json_roundtrip(identity), manifest.json_roundtrip(environment), (), (), of_files)


def read_pass(
    fs: Fs, folder: Path, record: PassRecord, layout: StateLayout, environments: list[JsonDict]
) -> Iterator[Row]:
    """Yield the rows of a pass that is decoded, in order; `environments` gets those in which it was."""
    store = RecordStore(fs, passes.pass_folder(folder, record.number), record.identity_sha256, layout.of_pass)
    for index in count():
        recorded = store.read(passes.FILE_ID, index)
        if recorded is None:
            return
        header, contents = recorded
        for part in contents.parts:
            environments += [item for item in (part.environment, *part.other_environments) if item not in environments]
        yield from contents.rows
        if header.shard.last:
            return


def check_identity(recorded: JsonDict, resolved: JsonDict) -> None:
    """Check that what is decoded here has the identity of the job.

    Raises:
        IdentityError: The model or a setting is another one.
    """
    if differences := identity_versions.differences(recorded, resolved):
        raise IdentityError(
            f"the job cannot be decoded again as it was:\n{manifest.format_diff(differences)}",
            why="what the job recorded and what is here differ",
            fix="Put the model of the job where the job read it, and use the hymt-batch that ran the job.",
        )


def check_inputs(recorded: Sequence[Input], found: Sequence[Input]) -> None:
    """Check that the inputs are those of the job: what is decoded together follows from their list.

    Raises:
        InputChangedError: The lists differ.
    """
    before, now = {input.rel for input in recorded}, {input.rel for input in found}
    if before != now:
        name = min(before ^ now)
        raise InputChangedError(
            f"the list of inputs differs from that of the job: {name} is {'new' if name in now else 'gone'}",
            fix="Restore the inputs as they were, or set inputs=PATH, as in source.path=, to where they are now.",
        )


def compare(id: str, file: str, recorded: Row, new: Row) -> DifferentRow | None:
    """Return how the text or the status of a row differs; None if both are equal."""
    if recorded.text == new.text and recorded.status is new.status:
        return None
    return DifferentRow(file, id, *_shortened(recorded.text, new.text), recorded.status.value, new.status.value)


def _shortened(first: str, second: str) -> tuple[str, str]:
    pairs = zip(first, second, strict=False)
    same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    start = max(0, same - CONTEXT_CHARS)
    mark = "…" if start else ""
    shown = [mark + escape_line(text[start : start + SHOWN_CHARS + 1], SHOWN_CHARS) for text in (first, second)]
    return shown[0], shown[1]


def environment_differences(of_job: Sequence[JsonDict], here: Sequence[JsonDict]) -> list[tuple[str, Any, Any]]:
    """Return how the environment here differs from that of the job which is most like it; [] if it is one of them."""
    if not of_job or not here:
        return []
    found = (manifest.diff(recorded, new) for new in here[:1] for recorded in of_job)
    return min(found, key=len)
