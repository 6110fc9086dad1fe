"""Pieces of long texts, each encoded alone: no call of the tokenizer gets more than MAX_CHARS characters of a text.

A text is cut where a byte-level BPE of the known kinds (`incremental_encode.py`) begins a new piece by itself: after
a letter and before white space, punctuation or a symbol. No alternative of its patterns goes on from a letter to such
a character, so the ids of the pieces, put together, are those of the whole. Where MAX_CHARS characters have no such
place, the text is cut after them: what is sent is still that text, and its ids depend on nothing else.

A tokenizer that fails inside of its library costs the text that it fails on. Does not know prompts or models.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from hymt_batch.errors import TextError
from hymt_batch.records import MAX_CHUNK_CHARS

_KANA = ("\u3040", "\u30ff")  # one of the patterns takes this whole block as one run, marks included

_CATEGORY = unicodedata.ucd_3_2_0.category  # of the characters that every version of a library knows

BATCH_TEXTS, BATCH_CHARS = 4096, 250_000


def chunks(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most MAX_CHARS characters."""
    start = 0
    while len(text) - start > MAX_CHUNK_CHARS:
        end = start + MAX_CHUNK_CHARS
        place = end
        while place > start and not is_boundary(text[place - 1], text[place]):
            place -= 1
        end = place if place > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def is_boundary(before: str, after: str) -> bool:
    """Whether every known tokenizer begins a new piece between two characters, whatever stands around them."""
    if not (after.isspace() or _CATEGORY(after)[0] in "PS") or _KANA[0] <= after <= _KANA[1]:
        return False
    return before.isalpha() and _CATEGORY(before)[0] == "L"


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, some at a time: an encoding holds offsets and masks too, some fifty times the size of its text.

    Not too few: in a thread beside others, each slice waits for the interpreter.
    """
    some: list[str] = []
    chars = 0
    for text in texts:
        some.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS or len(some) >= BATCH_TEXTS:
            yield some
            some, chars = [], 0
    if some:
        yield some


def plain_backend(content: dict[str, Any]) -> Any:
    """The tokenizer of a tokenizer.json without added tokens: no text becomes a control token.

    Raises:
        Exception: It cannot be used; the library raises no other kind.
    """
    from tokenizers import Tokenizer

    unframed: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps({**content, **unframed}))


def encode(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text.

    Raises:
        TextError: The library fails on one of them.
    """
    if len(max(texts, key=len, default="")) <= MAX_CHUNK_CHARS:
        return _encode_chunks(backend, texts)
    cut = [list(chunks(text)) for text in texts]
    found = iter(_encode_chunks(backend, list(chain.from_iterable(cut))))
    return [list(chain.from_iterable(islice(found, len(some)))) for some in cut]


def _encode_chunks(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    bodies: list[list[int]] = []
    for some in batches(texts):
        # fast: the same ids, with offsets that are not filled in
        bodies += [encoding.ids for encoding in call_backend(backend.encode_batch_fast, some, add_special_tokens=False)]
    return bodies


def count_tokens(backend: Any, text: str) -> int:
    """How many ids a text has. Lets other threads run meanwhile, which the library's `encode` does not.

    Raises:
        TextError: The library fails on it.
    """
    return sum(
        len(encoding)
        for some in batches(list(chunks(text)))
        for encoding in call_backend(backend.encode_batch_fast, some, add_special_tokens=False)
    )


def token_starts(backend: Any, text: str) -> Iterator[list[int]]:
    """Where the tokens of a text begin, in characters, piece by piece.

    Raises:
        TextError: The library fails on it.
    """
    before = 0
    for piece in chunks(text):
        (encoding,) = call_backend(backend.encode_batch, [piece], add_special_tokens=False)
        yield [before + start for start, _ in encoding.offsets]
        before += len(piece)


def call_backend(call: Callable[..., Any], items: Sequence[Any], **options: Any) -> Any:
    """Call the library with some texts or ids; its own errors, a panic is no `Exception`, become an error of the text.

    Raises:
        TextError: The library fails on one of them.
    """
    try:
        return call(items, **options)
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
    raise TextError("the model's tokenizer failed on this text, so it was not sent to the model")
