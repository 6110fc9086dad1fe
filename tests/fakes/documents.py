"""Rows of a made-up file, without the file."""

from __future__ import annotations

from collections.abc import Sequence

from hymt_batch.records import Document, Input, Segment, Shard, Status


def documents(texts: Sequence[str | None], **fields: str) -> list[Document]:
    """Return the rows of a file `in.txt`; None stands for a row that could not be read."""
    return [
        Document(
            id=f"in.txt#{row + 1}",
            row_index=row,
            text=text,
            digest=b"%08d" % row,
            status=Status.OK if text is not None else Status.BAD_ENCODING,
            **fields,  # type: ignore[arg-type]
        )
        for row, text in enumerate(texts)
    ]


def shard_of(rows: Sequence[Document]) -> Shard:
    """Return the only shard of `in.txt`, with these rows."""
    return Shard(Input("in.txt", "in.txt", "in.txt", "text"), 0, 0, rows, 0, 0, "", True)


def whole(segment: Segment) -> str:
    return segment.lead + segment.text + segment.trail
