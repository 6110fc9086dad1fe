"""Make a line of a review list: a flagged row, with its source and its translation."""

from __future__ import annotations

from hymt_batch.formats.row_values import BLANK_FLAG, dump_json
from hymt_batch.records import Document, Row, Status


def needs_review(row: Row) -> bool:
    """Return whether a row has a flag that is a reason to look at its translation."""
    return row.status is not Status.NOT_SELECTED and any(flag != BLANK_FLAG for flag in row.flags)


def review_line(document: Document, row: Row) -> bytes:
    """Return the line of a row.

    Args:
        document: The row as it was read, with its text.
        row: The row as it is written; its text is "" where it has no translation.
    """
    line = {
        "id": document.id,
        "row": document.row_index + 1,
        "status": row.status.value,
        "flags": list(row.flags),
        "source": document.text,
        "translation": row.text,
    }
    return dump_json(line).encode() + b"\n"
