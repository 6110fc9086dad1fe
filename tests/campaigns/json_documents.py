"""Hostile JSON for the fuzz campaign: trees and arrays of rows, compared with the parser of the standard library.

A tree is accepted if and only if `json` accepts it; untranslated, it comes back byte for byte, and with any answers it
parses and has its keys and values. An array is divided into the elements that `json` finds, whatever the blocks are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.jsonl.elements import Elements
from hymt_batch.formats.spliced import PlaceOptions, UnreadableFileError
from tests.campaigns import hostile

_MESSAGES = (
    "{n, plural, one {# file of {name}} other {# files'}' l''été}}",
    "a {g, select, x {b} other {c {n, selectordinal, other {#th}} d}} e",
    "{n, plural, other {",
)
_NOISE = b'"\\{}[],:\t 0-.eEu\xff\x00'


def check(rng: random.Random, num: int) -> list[str]:
    """Check this many documents of each kind; return what failed."""
    failures = []
    for index in range(num):
        data = _document(rng)
        if rng.random() < 0.3:
            data = _damaged(rng, data)
        reason = _check_tree(rng, data) or _check_elements(rng)
        if reason:
            failures.append(f"json document {index}: {reason}"[:400])
    return failures


def _document(rng: random.Random) -> bytes:
    text = json.dumps(_value(rng, 4), indent=rng.choice((None, 1, 4)), ensure_ascii=rng.random() < 0.5)
    return rng.choice((b"", b"", b"\xef\xbb\xbf")) + text.encode()


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth and kind < 0.3:
        return {_text(rng): _value(rng, depth - 1) for _ in range(rng.randrange(5))}
    if depth and kind < 0.5:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return rng.choice((_text(rng), _text(rng), rng.choice(_MESSAGES), 5, -1.5e300, None, True))


def _text(rng: random.Random) -> str:
    return hostile.text(rng).encode("utf-8", "replace").decode() + rng.choice(("", "", "}", '"]', "{\\"))


def _damaged(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(damaged) + 1)
        damaged[at : at + rng.randrange(2)] = bytes(rng.choices(_NOISE, k=rng.randrange(2)))
    return bytes(damaged)


def _check_tree(rng: random.Random, data: bytes) -> str:
    expected, is_json = None, True
    try:
        expected = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        is_json = False
    options = PlaceOptions(add_plural_forms=rng.random() < 0.3, tgt_lang=rng.choice(("ru", "ja", "ar")))
    try:
        file = JsonTreeFile(data)
        places = list(file.places(options))
    except UnreadableFileError:
        return f"refused: {data!a:.300}" if is_json else ""
    if not is_json:  # bytes that are not UTF-8 are an error of their string alone
        return f"accepted: {data!a:.300}" if _is_utf8(data) else ""
    if len({place.name for place in places}) != len(places):
        return f"names are not unique: {data!a:.300}"
    unchanged, changed, at = b"", b"", 0
    for place in places:
        unchanged += data[at : place.start] + data[place.start : place.end]
        source = data[place.start : place.end]
        new = file.encode(place, f"{hostile.text(rng)}{place.text}") if place.text else source
        changed, at = changed + data[at : place.start] + new, place.end
    if unchanged + data[at:] != data:
        return f"places overlap: {data!a:.300}"
    try:
        again = json.loads((changed + data[at:]).decode("utf-8-sig"))
    except ValueError as error:
        return f"the output does not parse ({error}): {data!a:.300}"
    if not options.add_plural_forms and list(_keys(again)) != list(_keys(expected)):
        return f"keys changed: {data!a:.300}"
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _keys(value: Any) -> Iterator[str]:
    """Yield keys and all values that are not strings, in order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)
    elif not isinstance(value, str):
        yield repr(value)


def _check_elements(rng: random.Random) -> str:
    values = [_value(rng, 3) for _ in range(rng.randrange(6))]
    data = json.dumps(values, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5).encode()
    size = rng.choice((1, 2, 3, 7, 1 << 16))
    blocks = [data[at : at + size] for at in range(0, len(data), size)][::-1]
    elements = Elements(lambda _: blocks.pop() if blocks else b"")
    out, read = elements.read_header(), []
    while elements.begin():
        element = b"".join(iter(elements.read_piece, b""))
        read.append(element)
        out += element + elements.read_gap()
    if out != data:
        return f"bytes are lost between elements: {data!a:.300}"
    try:
        is_same = [json.loads(element) for element in read] == values
    except ValueError:
        is_same = False
    return "" if is_same else f"other elements: {data!a:.300}"
