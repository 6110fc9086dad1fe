"""Divide the tokens of a block into pieces, each of which is a place, and make the text that the model gets.

A block ends a piece at a hard line break and at a line of another syntax: directives, shortcodes, attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hymt_batch.formats.markdown.inline import Kind, Token
from hymt_batch.formats.markdown.parser import Event
from hymt_batch.formats.unspaced import join_lines, space_between
from hymt_batch.records import FormatCodes

_DIRECTIVE_START = frozenset(":{!?=(*[\\-@")
_DIRECTIVE = re.compile(
    r":{3,}.*"  # fenced divs and directives of Pandoc, MyST, Docusaurus
    r"|\{[%:#.].*\}|\{\{.*\}\}"  # Liquid, Hugo, attributes of kramdown and Pandoc
    r"|(?:!!!|\?\?\?\+?)(?:[ \t].*)?|===[!+]{0,2}[ \t]*\".*|-{1,2}8<-{1,2}.*"  # Python-Markdown, MkDocs
    r"|\([\w .:-]+\)="  # targets of MyST
    r"|\[\[?_?[Tt][Oo][Cc]_?\]\]?|\[![\w-]+\][+-]?|\[!\w+[ \t].*\](?:\(.*\))?"  # tables of contents, callouts, includes
    r"|\*\[[^\]]+\]:.*"  # abbreviations
    r"|\\(?:begin|end|newpage|pagebreak|tableofcontents|include|input)\b.*"  # LaTeX
    r"|@\w+(?:\{.*)?"
)
_UNPLAIN_START = frozenset(map(ord, _DIRECTIVE_START | {" ", "\t"}))
_MARKER = re.compile(r":[ \t]+|\[![\w-]+\][+-]?[ \t]+")  # a definition, the title of a callout
_ROLE = re.compile(r"\{[^{}\s]+\}\Z")  # MyST: {ref}`label`
_ATTRIBUTES = re.compile(r"\{[^{}\n]*\}")  # Pandoc, kramdown: [text](url){#id}

_TEXT_CODE = re.compile(
    r"!?\[\[[^\[\]\n]{1,300}\]\]|\[[\^@][^\[\]\n]{1,200}\]"  # wiki links, citations
    r"|(?<![\w:]):[a-z0-9_+-]{1,40}:(?![\w:])"  # emoji
    r"|\\{1,2}\([^\n]{1,300}?\\{1,2}\)"  # math
)
_NO_TEXT = re.compile(
    r"&#?\w{1,32};|\{\{[^{}\n]{0,200}\}\}|\{[^{}\n]{0,200}\}|(?:https?|ftp)://\S+|www\.\S+|[\w.+-]{1,64}@[\w.-]{1,255}"
    rf"|{_TEXT_CODE.pattern}"
)
_MAY_BE_CODE = re.compile(r"[&{@\[\\]|:[a-z0-9_+/-]|www\.")
_LETTER = re.compile(r"[^\W\d_]")
_PLAIN_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,500}>")
SPACE = " \t\r\n"
_SPACES = frozenset(SPACE.encode())
WHOLE_LINE = -1


@dataclass(slots=True)
class Piece:
    """A run of tokens that is one place."""

    start: int
    end: int
    text: str
    codes: FormatCodes
    literals: tuple[str, ...]  # all codes in order, also those that are codes in every format
    breaks: tuple[bytes, ...]  # the hard line breaks inside marks, with the prefix of the next line; "\n" in the text
    before: str  # marks around the whole text, which stay outside of it
    after: str
    begins_block: bool
    is_alone: bool = True  # in its block


@dataclass(slots=True)
class _Line:
    tokens: list[Token] = field(default_factory=list)
    break_token: Token | None = None  # that ends it


def plain_piece(data: bytes, events: Sequence[Event]) -> Iterable[Piece] | None:
    """Do what `divide` does, in less time, for a block of text without anything that could be a code.

    Returns:
        Its piece, if it has letters; None for any other block.
    """
    parts: list[str] = []
    at = -1  # where the last text of the line ends
    for event, start, end in events:
        if event == "SoftBreak":
            at = -1
            continue
        if "Text" not in event or at not in (-1, start):
            return None
        if at < 0:
            if data[start] in _UNPLAIN_START or data[start - 1 : start] == b"\\":
                return None
            parts.append("\n")
        parts.append(data[start:end].decode())
        at = end
    text = "".join(parts).strip(SPACE)
    if _MAY_BE_CODE.search(text):
        return None
    if not _LETTER.search(text):
        return ()
    start, end = events[0][1], events[-1][2]
    while data[end - 1] in _SPACES:
        end -= 1
    if "\n" in text:
        text = join_lines([line.strip(SPACE) for line in text.split("\n")])
    return (Piece(start, end, text, (), (), (), "", "", True),)


def divide(data: bytes, tokens: Sequence[Token], *, in_paragraph: bool) -> list[Piece]:
    """Return the pieces of a block that have text to translate."""
    runs: list[tuple[list[Token], bool]] = [([], True)]
    for line in _lines(_with_attributes(tokens)):
        kept = line.tokens
        if in_paragraph and kept and (marker := _directive_length(data, kept)):
            runs.append(([], True))
            if marker == WHOLE_LINE:
                continue
            kept[0].start += marker  # it is in ASCII
            kept[0].text = kept[0].text[marker:]
        runs[-1][0].extend(kept)
        if line.break_token is not None and line.break_token.kind is Kind.HARD_BREAK:
            runs.append(([], False))
        elif line.break_token is not None:
            runs[-1][0].append(line.break_token)
    pieces = [piece for run, begins_block in runs if (piece := _piece(data, run, begins_block))]
    for piece in pieces:
        piece.is_alone = len(runs) == 1
    return pieces


def _directive_length(data: bytes, tokens: Sequence[Token]) -> int:
    """Return the length of what is no text at the start of a line, or WHOLE_LINE."""
    first = tokens[0]
    if chr(data[first.start]) not in _DIRECTIVE_START:
        return 0
    line = data[first.start : tokens[-1].end].decode("utf-8", "replace").rstrip()
    if _DIRECTIVE.fullmatch(line):
        return WHOLE_LINE
    marker = _MARKER.match(first.text) if first.kind is Kind.TEXT else None
    return marker.end() if marker else 0


def looks_like_directive(line: str) -> bool:
    """Return whether a line is a directive, or begins as a definition or a callout."""
    return line[:1] in _DIRECTIVE_START and (_DIRECTIVE.fullmatch(line) or _MARKER.match(line)) is not None


def has_text(text: str) -> bool:
    """Return whether a text without the codes of its format has letters outside of all other codes."""
    if not _LETTER.search(text):
        return False
    if not _MAY_BE_CODE.search(text):
        return True
    return _LETTER.search(_NO_TEXT.sub(" ", text)) is not None


def _with_attributes(tokens: Sequence[Token]) -> list[Token]:
    """Join codes with the role before them and the attributes after them, and marks that touch each other."""
    out: list[Token] = []
    for token in tokens:
        last = out[-1] if out else None
        if last is None or last.end != token.start:
            pass
        elif token.kind is Kind.CODE and last.kind is Kind.TEXT and (role := _ROLE.search(last.text)):
            token.text = role[0] + token.text
            token.start -= len(role[0].encode())
            last.text, last.end = last.text[: role.start()], token.start
            if not last.text:
                out.pop()
        elif token.kind is Kind.TEXT and last.kind in (Kind.CODE, Kind.CLOSE) and not last.is_html:
            if attributes := _ATTRIBUTES.match(token.text):
                last.text += attributes[0]
                last.end = token.start = token.start + len(attributes[0].encode())
                token.text = token.text[attributes.end() :]
                if not token.text:
                    continue
        elif token.kind is last.kind is Kind.CLOSE and _join_pairs(token, last):
            continue
        out.append(token)
    return out


def _join_pairs(closer: Token, inner_closer: Token) -> bool:
    """Join two pairs whose marks touch at both ends: `***`, or `[![` and `](image)](link)`."""
    opener, inner = closer.partner, inner_closer.partner
    if opener is None or inner is None or opener.end != inner.start or inner.is_label or opener.is_label:
        return False
    opener.text, opener.end, opener.partner = opener.text + inner.text, inner.end, inner_closer
    inner.kind, inner.start, inner.text = Kind.TEXT, inner.end, ""
    inner_closer.text, inner_closer.end, inner_closer.partner = inner_closer.text + closer.text, closer.end, opener
    return True


def _lines(tokens: Sequence[Token]) -> Iterator[_Line]:
    """Yield the lines of a block; a line break between two marks of a pair ends no line."""
    line, depth = _Line(), 0
    for token in tokens:
        if token.kind is Kind.OPEN:
            depth += 1
        elif token.kind is Kind.CLOSE:
            depth -= 1
        elif not depth and token.kind in (Kind.SOFT_BREAK, Kind.HARD_BREAK):
            line.break_token = token
            yield line
            line = _Line()
            continue
        if token.text or token.kind is not Kind.TEXT:
            line.tokens.append(token)
    yield line


def _piece(data: bytes, tokens: list[Token], begins_block: bool) -> Piece | None:
    """Make a piece of tokens; None if they have no text to translate."""
    before, after = "", ""
    first, last = 0, len(tokens)
    while first < last:
        if _trim(tokens[first], at_start=True):
            first += 1
        elif _trim(tokens[last - 1], at_start=False):
            last -= 1
        elif (
            tokens[first].kind is Kind.OPEN
            and tokens[first].partner is tokens[last - 1]
            and not tokens[first].is_label  # else the label would be translated with the text
        ):
            before, after = before + tokens[first].text, tokens[last - 1].text + after
            first, last = first + 1, last - 1
        else:
            break
    kept = tokens[first:last]
    if not kept or not has_text(" ".join([token.text for token in kept if token.kind is Kind.TEXT])):
        return None
    text, breaks = _text_of(data, kept)
    codes, literals = _codes_of(kept, text)
    return Piece(kept[0].start, kept[-1].end, text, codes, literals, breaks, before, after, begins_block)


def _trim(token: Token, *, at_start: bool) -> bool:
    """Remove white space from a text at the edge of a piece; return whether nothing is left of the token."""
    if token.kind in (Kind.SOFT_BREAK, Kind.HARD_BREAK):
        return True
    if token.kind is not Kind.TEXT:
        return False
    if at_start:
        text = token.text.lstrip(SPACE)
        token.start += len(token.text) - len(text)
    else:
        text = token.text.rstrip(SPACE)
        token.end -= len(token.text) - len(text)
    token.text = text
    return not text


def _text_of(data: bytes, tokens: Sequence[Token]) -> tuple[str, tuple[bytes, ...]]:
    parts: list[str] = []
    breaks: list[bytes] = []
    soft = False
    for index, token in enumerate(tokens):
        if token.kind is Kind.SOFT_BREAK:
            soft = True
            continue
        if token.kind is Kind.HARD_BREAK:
            breaks.append(data[token.start : tokens[index + 1].start])
            parts.append("\n")
            continue
        if soft and parts and token.text:
            parts.append(space_between(parts[-1], token.text))
        soft = False
        if token.text:
            parts.append(token.text)
    return "".join(parts), tuple(breaks)


def _codes_of(tokens: Sequence[Token], text: str) -> tuple[FormatCodes, tuple[str, ...]]:
    codes: dict[tuple[str, str], None] = {}
    literals: list[str] = []
    for token in tokens:
        if token.kind in (Kind.CODE, Kind.OPEN, Kind.CLOSE) and token.text:
            literals.append(token.text)
            closes = token.partner.text if token.kind is Kind.CLOSE and token.partner else ""
            if not (token.is_html and _PLAIN_TAG.fullmatch(token.text)):
                codes[token.text, closes] = None
        elif token.kind is Kind.HARD_BREAK:
            codes["\n", ""] = None
    for code in _TEXT_CODE.findall(text) if "[" in text or ":" in text or "\\(" in text else ():
        literals.append(code)
        codes[code, ""] = None
    for mark in [code for code, closes in codes if closes == code]:
        codes.pop((mark, ""), None)  # it opens and closes itself
    return tuple(codes), tuple(literals)
