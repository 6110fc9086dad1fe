"""Rows of a made-up file, and an encoder for them, without any file."""

from __future__ import annotations

from collections.abc import Sequence

from hymt_batch.records import Document, Input, Segment, Shard, Status


class Bytes:
    """An encoder whose tokens are bytes; the prompt is framed by 1000 and 1001, and byte 0x1D is a control token."""

    prefix: tuple[int, ...] = (1000,)
    suffix: tuple[int, ...] = (1001,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8")) for text in texts]

    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        return self.encode([head + text for text in texts])

    def has_control_ids(self, body: Sequence[int]) -> bool:
        return 0x1D in body

    def count(self, text: str) -> int:
        return len(text.encode("utf-8"))


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
