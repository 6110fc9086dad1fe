"""The flags of an entry (`#, fuzzy, c-format`) and its earlier text (`#| msgid "..."`)."""

from __future__ import annotations

import re

from hymt_batch.formats.po.header import Edit
from hymt_batch.formats.po.tokenizer import Entry
from hymt_batch.formats.text_encoding import BOM

FUZZY = "fuzzy"
_SEPARATOR = re.compile(r"[,\s]+")


def flags_of(data: bytes, entry: Entry) -> list[str]:
    """Return the flags of an entry."""
    return [flag for start, end in entry.flags for flag in _split(data[start:end])]


def is_fuzzy(data: bytes, entry: Entry) -> bool:
    return bool(entry.flags) and FUZZY in flags_of(data, entry)


def _split(comment: bytes) -> list[str]:
    return [flag for flag in _SEPARATOR.split(comment[2:].decode("utf-8", "replace")) if flag]


def edits(data: bytes, entry: Entry, newline: str, *, fuzzy: bool) -> list[Edit]:
    """Return the edits after which an entry is fuzzy or not; an entry that is not has no earlier text either."""
    found = [(start, end, _split(data[start:end])) for start, end in entry.flags]
    marked = [comment for comment in found if FUZZY in comment[2]]
    if fuzzy:
        return [] if marked else [_added(data, entry, found, newline)]
    removed = []
    for start, end, flags in marked:
        rest = [flag for flag in flags if flag != FUZZY]
        if rest:
            removed.append(Edit(start, end - data[start:end].endswith(b"\r"), f"#, {', '.join(rest)}"))
        else:
            removed.append(_line(data, start))
    lines = dict.fromkeys(_line(data, start) for start, _ in entry.previous if start < entry.start)
    return sorted([*removed, *lines], key=lambda edit: edit.start)


def _added(data: bytes, entry: Entry, found: list[tuple[int, int, list[str]]], newline: str) -> Edit:
    if found:
        start, end, flags = found[0]
        return Edit(start, end - data[start:end].endswith(b"\r"), f"#, {', '.join([FUZZY, *flags])}")
    first = min([entry.start, *(start for start, _ in entry.previous)])
    line = data.rfind(b"\n", 0, first) + 1
    before = data[line:first]
    if before.strip(b" \t\r\f\v#|" + BOM):
        return Edit(first, first, f"{newline}#, {FUZZY}{newline}")
    at = line + (len(BOM) if before.startswith(BOM) else 0)
    return Edit(at, at, f"#, {FUZZY}{newline}")


def _line(data: bytes, offset: int) -> Edit:
    """Return the edit that removes the comment around an offset, with its line if there is nothing else on that."""
    line, end = data.rfind(b"\n", 0, offset) + 1, data.find(b"\n", offset) + 1
    end = end or len(data)
    comment = data.find(b"#", line, offset + 1)
    return Edit(comment if data[line:comment].strip() else line, end, "")
