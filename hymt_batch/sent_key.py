"""The key of a row: a digest of all that is sent for it, so that a row is recognised wherever it stands in a file.

Rows with equal keys have the same translation and measurements: the same prompts in the same languages, with the same
codes and the same white space around them. The id of a row, its place and its other fields are no part of it.
Independent of where keys are stored.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence

from hymt_batch.records import Document, Prompt, Segment

KEY_BYTES = 12
"""Among 10^9 rows, two different ones have the same key with a probability of 10^-11."""


def sent_key(document: Document, prompts: Sequence[Prompt], segments: Sequence[Segment] | None = None) -> bytes:
    """Return the key of a row.

    Args:
        document: The row; its codes may be sent under another prompt.
        prompts: The prompts of its segments, in order, or those of an equal row.
        segments: Its own segments, with their white space; None if they are those of the prompts.
    """
    hashed = hashlib.blake2b(digest_size=KEY_BYTES)
    if prompts and prompts[0].src_lang is not None:  # the measurements of a row depend on it, even if no prompt does
        hashed.update(f"from {prompts[0].src_lang} ".encode("ascii", "backslashreplace"))
    for prompt, segment in zip(prompts, segments or [prompt.segment for prompt in prompts], strict=True):
        about = (len(prompt.ids), prompt.num_source_tokens, prompt.tgt_lang, segment.lead, segment.trail)
        hashed.update(repr(about).encode("ascii", "backslashreplace"))
        hashed.update(struct.pack(f"<{len(prompt.ids)}I", *prompt.ids))
    if document.codes:
        hashed.update(repr(document.codes).encode("ascii", "backslashreplace"))
    return hashed.digest()


def keys_of(documents: Sequence[Document], prompts: Sequence[Prompt]) -> Mapping[int, bytes]:
    """Return the key of each document of a shard that is sent, by its index.

    Args:
        documents: The documents of the shard.
        prompts: Their prompts, in the order of the documents.
    """
    by_document: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        by_document.setdefault(prompt.segment.document_index, []).append(prompt)
    return {index: sent_key(documents[index], of_row) for index, of_row in by_document.items()}
