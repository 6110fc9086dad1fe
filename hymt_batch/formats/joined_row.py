"""The output row of a row with several text fields: its documents, each with its committed row, joined again.

The translation is then an object, field -> translation. The metadata have the worst status of the texts, all their
flags, and status and flags of each. Knows no format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hymt_batch.formats.field_rows import file_row
from hymt_batch.formats.row_values import BLANK_FLAG, meta_value, output_text
from hymt_batch.records import Document, Row, Status

_BY_SEVERITY = (  # from the best on; a row with several text fields has no other status
    Status.OK,
    Status.COPIED,
    Status.TRUNCATED,
    Status.EMPTY,
    Status.BAD_LANGUAGE,
    Status.TOO_LONG,
    Status.BAD_ENCODING,
    Status.BAD_ROW,
    Status.GENERATION_ERROR,
    Status.NON_FINITE,
    Status.CRASH_QUARANTINED,
)


@dataclass(slots=True, unsafe_hash=True)
class JoinedRow(Row):
    """A row of an output whose rows have several text fields. It is written only, never committed."""

    places: tuple[tuple[Document, Row], ...] = ()  # its texts; () if the row has none, or cannot be read


def join_row(texts: Sequence[tuple[Document, Row]]) -> tuple[Document, Row]:
    """Join the documents of one input row, each with its committed row, to those of one output row."""
    document, row = texts[0]
    if document.field is None:
        return document, row
    index, is_read = file_row(document), document.field.name is not None
    rows = [row for _, row in texts]
    flags = dict.fromkeys(flag for row in rows for flag in row.flags)
    if not all(BLANK_FLAG in row.flags for row in rows):
        flags.pop(BLANK_FLAG, None)
    joined = JoinedRow(
        index,
        row.digest,
        max((row.status for row in rows), key=_BY_SEVERITY.index),
        "",
        tuple(flags),
        places=tuple(texts) if is_read else (),
    )
    status = Status.OK if is_read else document.status  # a text may be wrong, but the row could be read
    return replace(document, id=_row_id(document), row_index=index, status=status), joined


def _row_id(document: Document) -> str:
    name = document.field.name
    return document.id if name is None else document.id[: -len(name) - 2]


def translation_value(document: Document, row: Row, on_error: str) -> str | dict[str, str]:
    """Return the value of the column `write.translation_field`: a text, or field -> text; see `output_text`."""
    if not isinstance(row, JoinedRow):
        return output_text(document, row, on_error)
    return {place.field.name: output_text(place, placed, on_error) for place, placed in row.places}


def metadata(document: Document, row: Row) -> dict[str, Any]:
    """Return the value of the column `write.meta_field`; of a row with several text fields with `fields`."""
    value = meta_value(document, row)
    if isinstance(row, JoinedRow):
        value["fields"] = {
            place.field.name: {"status": placed.status.value, "flags": list(placed.flags)}
            for place, placed in row.places
        }
    return value
