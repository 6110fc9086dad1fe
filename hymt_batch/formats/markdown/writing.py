r"""Write a translation into a place so that the structure of the file stays: escape what would be markup, or refuse.

A translation is parsed with what surrounds its place in its block: the blocks must be those of the source, and each
code, link and mark must be there as often. It is tried as it is, then with marks moved to where they open and close,
then with everything escaped that is no code.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from hymt_batch.formats.markdown.parser import INLINE_TAGS, read_tags
from hymt_batch.formats.markdown.pieces import Piece, has_text, looks_like_directive

_PLAIN = re.compile(r"(?:[^\\`*_\[\]<>&~$|{}\n\r\t#^:@]|:(?=\s|\Z))*")
"""A piece of a translation without anything that could be markup, or a code of which nothing is text."""

_PLAIN_START = re.compile(r"[^\W\d_]|[`*_\[\\]")
_LETTER = re.compile(r"[^\W\d_]")
_LINE_BREAK = re.compile(r"[ \t]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t]*")
_ALWAYS_CODE = r"&(?:[A-Za-z]\w{0,31}|#\w{1,8});|(?:https?|ftp)://[^\s<>\"'\[\]`|\\]+|\{\{[^{}\n]*\}\}|\$?\{[^{}\n]*\}"
_MARKS = frozenset("*_~")
_SPECIAL = re.compile(r"[`*\[\]<>~$]|\\(?=[!-/:-@\[-`{-~]|\Z)|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w{1,32};)")
_BLOCK_START = re.compile(r"[#\-+=:!?%{(@]")
_LIST_NUMBER = re.compile(r"(\d{1,9})(?=[.)](?:\s|\Z))")
_FOOTNOTE = re.compile(r"\[\^([^\]\s]+)\]")
_PIPE = re.compile(r"(?<!\\)\|")
_HEADING_END = re.compile(r"(?:(?<![^ \t])(?=#+\Z)|(?<!\\)(?=\{[^{}]*\}\Z))")

PARAGRAPHS = frozenset({"", "- ", "> "})
"""What opens a block that is a paragraph, or a setext heading."""

Signature = tuple[tuple[str, ...], Counter[str]]


class Surroundings:
    """What surrounds a place in its block, and its text.

    Args:
        piece: The place.
        opening: What precedes it in a block of this kind: "# ", "| ", "- ", ...
        closing: What follows it.
        has_reference: Whether the file defines the label of a link.
    """

    __slots__ = ("_closing", "_has_reference", "_opening", "_piece", "_signature", "_written")

    def __init__(self, piece: Piece, opening: str, closing: str, has_reference: Callable[[str], bool]) -> None:
        self._piece, self._opening, self._closing, self._has_reference = piece, opening, closing, has_reference
        self._written: tuple[str, str | None] = ("", None)  # the last translation, and how it is written
        self._signature: Signature | None = None

    def write(self, translation: str) -> str | None:
        """Return how a translation is written, on one line but for hard breaks ("\\n"); None if it cannot be."""
        if self._written[0] != translation:
            self._written = translation, self._write(translation)
        return self._written[1]

    def encode(self, written: str) -> bytes:
        """Return the bytes of a translation as `write` returned it."""
        if not self._piece.breaks:
            return written.encode()
        first, *others = written.split("\n")
        return first.encode() + b"".join(
            line_break + line.encode() for line_break, line in zip(self._piece.breaks, others, strict=True)
        )

    def _write(self, translation: str) -> str | None:
        text = translation
        if not text.isprintable():  # it may have line breaks, tabs or NUL
            text = _LINE_BREAK.sub("\n" if self._piece.breaks else " ", text.replace("\0", "")).replace("\t", " ")
        text = text.strip()
        if self._fits_plainly(text):
            return text
        parts = list(_parts(text, _code_pattern(frozenset(self._piece.literals))))
        if not has_text(" ".join([part for is_code, part in parts if not is_code])):
            return None
        if self._piece.breaks and not self._piece.is_alone:  # marks over a break, beside other texts: nothing may move
            if [part for is_code, part in parts if is_code] != list(self._piece.literals):
                return None
            if not all(_PLAIN.fullmatch(part.replace("\n", " ")) for is_code, part in parts if not is_code):
                return None
        if pipe := self._pipe():
            parts = [(is_code, part if is_code else _PIPE.sub(pipe, part)) for is_code, part in parts]
        for candidate in self._candidates(parts):
            if candidate.count("\n") == len(self._piece.breaks) and self._fits(candidate):
                return candidate
        return None

    def _fits_plainly(self, text: str) -> bool:
        """Return whether a text has the codes of its source in their order, and nothing else that could be markup.

        Such a text needs no parser. False may also mean that it has to be asked.
        """
        line = self._piece.before + text
        if not _PLAIN_START.match(line) or "www." in text or looks_like_directive(line + self._piece.after):
            return False
        at, has_letter, open_marks = 0, False, set[str]()
        for code in self._piece.literals:
            start = text.find(code, at)
            if start < 0 or not _PLAIN.fullmatch(text, at, start) or "$" in code:
                return False
            before, after = text[start - 1 : start] if start else "", text[start + len(code) : start + len(code) + 1]
            if _MARKS.issuperset(code):
                inside, outside = (before, after) if code in open_marks else (after, before)
                open_marks ^= {code}
                if not inside.isalnum() or outside.isalnum():
                    return False
            elif (before == "!" and code[0] == "[") or (after == "(" and code[-1] == "]"):
                return False
            has_letter = has_letter or _LETTER.search(text, at, start) is not None
            at = start + len(code)
        is_plain = _PLAIN.fullmatch(text, at) is not None and not self._piece.breaks
        return is_plain and (has_letter or _LETTER.search(text, at) is not None) and not self._is_heading_end(text)

    def _candidates(self, parts: list[tuple[bool, str]]) -> Iterator[str]:
        repaired = _move_marks(parts)
        if self._piece.is_alone:  # else a mark may find a partner elsewhere in the block
            yield "".join([part for _, part in parts])
            yield "".join([part for _, part in repaired])
        escape = _escaped if self._piece.is_alone else _as_entity
        escaped = "".join([part if is_code else _SPECIAL.sub(escape, part) for is_code, part in repaired])
        yield escaped
        if not self._piece.before:
            escaped = _LIST_NUMBER.sub(r"\1\\", escaped, count=1) if escaped[:1].isdigit() else escaped
            escaped = f"\\{escaped}" if _BLOCK_START.match(escaped) else escaped
        yield _HEADING_END.sub(r"\\", escaped, count=1) if self._opening == "# " else escaped

    def _pipe(self) -> str:
        """Return what stands for `|`, as a pattern's replacement; "" if that is `|` itself."""
        if self._opening == "| ":
            return r"\\|"
        # some parsers take a line with `|` over `---` for the head of a table, also with a backslash
        return "&#124;" if self._closing.startswith("\n-") else ""

    def _is_heading_end(self, text: str) -> bool:
        return self._opening == "# " and _HEADING_END.search(text) is not None

    def _fits(self, candidate: str) -> bool:
        line = self._piece.before + candidate + self._piece.after
        if self._is_heading_end(candidate) or (looks_like_directive(line) and self._opening in PARAGRAPHS):
            return False
        if self._signature is None:
            self._signature = self._read(self._piece.text)
        return self._read(candidate) == self._signature

    def _read(self, text: str) -> Signature:
        """Return the blocks of a text in its place, and how often each inline element is there."""
        line = f"{self._piece.before}{text}{self._piece.after}".replace("\n", "\\\n")
        fragment = f"{self._opening}{line}{self._closing}\n"
        if not self._piece.begins_block:
            fragment += f"\nx\\\n{line}\n"
        if "[^" in line:
            fragment += "".join(f"\n[^{label}]: x\n" for label in dict.fromkeys(_FOOTNOTE.findall(line)))
        blocks: list[str] = []
        inlines: Counter[str] = Counter()
        depth = 0  # of marks
        for event in read_tags(fragment, self._has_reference):
            if isinstance(event, str):
                if event == "Rule":
                    blocks.append(event)
                else:  # a hard break outside of all marks ends a text
                    inlines[event if depth else f"outer {event}"] += 1
                continue
            ((name, value),) = event.items()
            if name in ("Start", "End"):
                depth += _count(name, value, blocks, inlines)
            elif name == "TaskListMarker":
                blocks.append(name)
            elif name != "Text":
                inlines[f"{name} {value}"] += 1
        return tuple(blocks), inlines


def _count(name: str, tag: Any, blocks: list[str], inlines: Counter[str]) -> int:
    """Count a start or an end; return by how much the marks around what follows become more."""
    kind, value = next(iter(tag.items())) if isinstance(tag, dict) else (tag, None)
    if kind not in INLINE_TAGS:
        blocks.append(f"{name} {tag}")
        return 0
    if name == "End":
        return -1
    if value:  # a label may be repeated: [label] and [label][label] are the same link
        value = value["dest_url"], value["title"], " ".join(value["id"].split()).casefold()
    inlines[f"{kind} {value}"] += 1
    return 1


@lru_cache(1024)
def _code_pattern(literals: frozenset[str]) -> re.Pattern[str]:
    codes = sorted(literals, key=lambda code: (-len(code), code))
    alternatives = [
        rf"(?<!\w){re.escape(code)}|{re.escape(code)}(?!\w)" if re.fullmatch(r"\w+", code) else re.escape(code)
        for code in codes
    ]
    return re.compile("|".join([*alternatives, _ALWAYS_CODE]))


def _parts(text: str, codes: re.Pattern[str]) -> Iterator[tuple[bool, str]]:
    """Yield the codes of a text (True) and what is between them (False), in order."""
    at = 0
    for match in codes.finditer(text):
        if match.start() > at:
            yield False, text[at : match.start()]
        yield True, match[0]
        at = match.end()
    if at < len(text):
        yield False, text[at:]


def _move_marks(parts: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    r"""Put white space outside of marks such as `**`, and add it where they would not open or close without it.

    `**注意：**下雨` is no strong text, because the mark after `：` would open another one.
    """
    out, open_marks = [*parts], set[str]()
    index = 0
    while index < len(out):
        is_code, mark = out[index]
        if not is_code or not _MARKS.issuperset(mark):
            index += 1
            continue
        closes = mark in open_marks
        open_marks ^= {mark}
        inner, outer = (index - 1, index + 1) if closes else (index + 1, index - 1)
        inside = out[inner][1] if 0 <= inner < len(out) else ""
        outside = out[outer][1] if 0 <= outer < len(out) else ""
        stripped = inside.rstrip(" ") if closes else inside.lstrip(" ")
        has_space = len(stripped) < len(inside)
        if 0 <= inner < len(out) and not out[inner][0]:
            out[inner] = (False, stripped)
        edge, beyond = (stripped[-1:], outside[:1]) if closes else (stripped[:1], outside[-1:])
        glued = beyond != "" and not beyond.isspace() and not _is_punctuation(beyond)
        if (has_space and beyond and not beyond.isspace()) or (glued and (mark[0] == "_" or _is_punctuation(edge))):
            out.insert(index + 1 if closes else index, (False, " "))
            index += not closes
        index += 1
    return out


def _is_punctuation(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] in "PS"


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _as_entity(match: re.Match[str]) -> str:
    """Escape what a code span, a tag or a formula that begins in another piece would take for its end."""
    return _ENTITIES.get(match[0]) or _escaped(match)


_ENTITIES = {"`": "&#96;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}
