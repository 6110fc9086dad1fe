"""Encode long texts in chunks, so that no call of the tokenizer gets more than MAX_CHUNK_CHARS characters of a text.

A text is cut where a byte-level BPE of a supported kind (`incremental_encode.py`) starts a new pre-token anyway: after
a letter and before white space, punctuation or a symbol. No alternative of its patterns continues from a letter to such
a character, so the concatenated ids of the chunks are the ids of the whole text. If MAX_CHUNK_CHARS characters contain
no such boundary, the text is cut after them: the model still gets the same text, and its ids depend on the text alone.

If the tokenizer's library fails on a text, only that text is lost. Does not know about prompts or models.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from hymt_batch.errors import TextError
from hymt_batch.records import MAX_CHUNK_CHARS

_KANA = ("\u3040", "\u30ff")  # one of the patterns matches runs of all characters in this block, including marks

_CATEGORY = unicodedata.ucd_3_2_0.category  # Unicode 3.2: characters that every version of the library knows

BATCH_TEXTS, BATCH_CHARS = 4096, 250_000


def chunks(text: str) -> Iterator[str]:
    """Cut a text into chunks of at most MAX_CHUNK_CHARS characters."""
    start = 0
    while len(text) - start > MAX_CHUNK_CHARS:
        end = start + MAX_CHUNK_CHARS
        boundary = end
        while boundary > start and not is_boundary(text[boundary - 1], text[boundary]):
            boundary -= 1
        end = boundary if boundary > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def is_boundary(before: str, after: str) -> bool:
    """Return whether every supported tokenizer starts a new pre-token between two characters, in any context."""
    if not (after.isspace() or _CATEGORY(after)[0] in "PS") or _KANA[0] <= after <= _KANA[1]:
        return False
    return before.isalpha() and _CATEGORY(before)[0] == "L"


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in batches of limited size, because an encoding takes about fifty times the memory of its text.

    The batches must not be too small either: each one waits for the interpreter lock when other threads run.
    """
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS or len(batch) >= BATCH_TEXTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def plain_backend(content: dict[str, Any]) -> Any:
    """Build the tokenizer of a tokenizer.json without its added tokens, so that no text becomes a control token.

    Raises:
        Exception: The file cannot be used; the library raises bare exceptions.
    """
    from tokenizers import Tokenizer

    overrides: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps({**content, **overrides}))


def encode(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text.

    Raises:
        TextError: The library fails on one of the texts.
    """
    if len(max(texts, key=len, default="")) <= MAX_CHUNK_CHARS:
        return _encode_chunks(backend, texts)
    chunked_texts = [list(chunks(text)) for text in texts]
    chunk_ids = iter(_encode_chunks(backend, list(chain.from_iterable(chunked_texts))))
    return [list(chain.from_iterable(islice(chunk_ids, len(text_chunks)))) for text_chunks in chunked_texts]


def _encode_chunks(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = []
    for batch in batches(texts):
        # the fast variant gives the same ids but does not compute offsets
        ids += [encoding.ids for encoding in call_backend(backend.encode_batch_fast, batch, add_special_tokens=False)]
    return ids


def count_tokens(backend: Any, text: str) -> int:
    """Return the number of tokens of a text; unlike the library's `encode`, this releases the interpreter lock.

    Raises:
        TextError: The library fails on the text.
    """
    return sum(
        len(encoding)
        for batch in batches(list(chunks(text)))
        for encoding in call_backend(backend.encode_batch_fast, batch, add_special_tokens=False)
    )


def token_starts(backend: Any, text: str) -> Iterator[list[int]]:
    """Yield, for each chunk, the character positions in the text where its tokens start.

    Raises:
        TextError: The library fails on the text.
    """
    offset = 0
    for chunk in chunks(text):
        (encoding,) = call_backend(backend.encode_batch, [chunk], add_special_tokens=False)
        yield [offset + start for start, _ in encoding.offsets]
        offset += len(chunk)


def call_backend(call: Callable[..., Any], items: Sequence[Any], **options: Any) -> Any:
    """Call the library with texts or ids; its own failures become a TextError.

    A Rust panic is a BaseException that is not an Exception.

    Raises:
        TextError: The library fails on one of the items.
    """
    try:
        return call(items, **options)
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
    raise TextError("the model's tokenizer failed on this text", why="so it was not sent to the model")
