r"""Divide a catalogue into its entries, as the lexer and the grammar of gettext do.

A token is a keyword, a string or a comment. White space, line breaks too, only separates them. `#~` makes the rest of
its line obsolete, `#|` the rest of its line an earlier text of the entry that follows. What gettext's msgfmt does not
parse is not parsed here: the file is unreadable, with the line and, where it has one, msgfmt's own message.

Knows bytes alone: where a backslash or a quote can be the second byte of a character, it is masked before.

Source: The GNU gettext manual, "The Format of PO Files"; po-lex.c and po-gram-gen.y of gettext 0.21.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hymt_batch.formats.spliced import UnreadableFileError

Span = tuple[int, int]
"""Start and end of a token; of a string, with its quotes."""

_SPACE = rb"[ \t\r\n\f\v]*+"
_QUOTED = rb'"(?:[^"\\\n]++|\\(?:[ntrbfva"\\0-7]|x[0-9a-fA-F]))*+"'
_TOKEN = re.compile(
    _SPACE + rb"(?:"
    rb"(" + _QUOTED + rb")"
    rb"|(#(?![~|,])[^\n]*+(?:\n#(?![~|,])[^\n]*+)*+|#[^\n]*+)"  # comments on consecutive lines are one token
    rb"|(msgid_plural|msgid|msgctxt|msgstr(?:[ \t\r\n\f\v]*\[[ \t\r\n\f\v]*(\d{1,9})[ \t\r\n\f\v]*\])?|domain)"
    rb"(?![A-Za-z0-9_$]))"
)
_STRINGS = rb"(" + _QUOTED + rb"(?:" + _SPACE + _QUOTED + rb")*+)"
_MESSAGE = re.compile(
    _SPACE + rb"(?:msgctxt" + _SPACE + _STRINGS + _SPACE + rb")?+"
    rb"msgid" + _SPACE + _STRINGS + _SPACE + rb"msgstr" + _SPACE + _STRINGS
)
"""Matches at once the tokens of a message without plural forms: most of a catalogue."""
_ONE_STRING = re.compile(_QUOTED)
_END = re.compile(rb"[ \t\r\n\f\v]*+\Z")
_STRING, _COMMENT = 1, 2  # groups of _TOKEN
_PREFIX = re.compile(rb"#(?=[~|])(~?)(\|?)")
_WORD = re.compile(rb"[ \t\r\n\f\v]*+([A-Za-z_$][A-Za-z0-9_$]*)")

_FOLLOWERS: dict[str, tuple[str, ...]] = {
    "": ("domain", "msgctxt", "msgid", "|msgctxt", "|msgid"),
    "domain": ("domain", "msgctxt", "msgid", "|msgctxt", "|msgid"),
    "|msgctxt": ("|msgid",),
    "|msgid": ("|msgid_plural", "msgctxt", "msgid"),
    "|msgid_plural": ("msgctxt", "msgid"),
    "msgctxt": ("msgid",),
    "msgid": ("msgid_plural", "msgstr"),
    "msgid_plural": ("msgstr[]",),
    "msgstr": ("domain", "msgctxt", "msgid", "|msgctxt", "|msgid"),
    "msgstr[]": ("domain", "msgctxt", "msgid", "|msgctxt", "|msgid", "msgstr[]"),
}
"""Section of an entry -> the sections that may follow it; `|` is an earlier text of the entry."""

_ENDS = ("", "domain", "msgstr", "msgstr[]")
_MISSING = {"msgid": "missing 'msgstr' section", "msgid_plural": "missing 'msgstr[]' section"}


@dataclass(slots=True)
class Entry:
    """A message of a catalogue."""

    line: int  # of its msgid, from 1
    start: int  # of its first keyword
    flags: list[Span] = field(default_factory=list)  # comments that begin with #,
    previous: list[Span] = field(default_factory=list)  # keywords and strings after #|
    is_obsolete: bool = False
    context: list[Span] | None = None  # strings of its msgctxt
    id: list[Span] = field(default_factory=list)  # strings of its msgid
    plural: list[Span] | None = None  # strings of its msgid_plural
    translations: list[list[Span]] = field(default_factory=list)  # strings of msgstr, or of each msgstr[n]


class _Parser:
    """Makes entries of tokens; its state is the last section of the entry and whether that has a string."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._line, self._counted_to = data, 1, start
        self.entries: list[Entry] = []
        self._section, self._has_string = "", True
        self._flags: list[Span] = []
        self._previous: list[Span] = []
        self._is_obsolete = False
        self._strings: list[Span] = []

    def line_at(self, offset: int) -> int:
        """Return the line of an offset that is at or after that of the last call."""
        self._line += self._data.count(b"\n", self._counted_to, offset)
        self._counted_to = offset
        return self._line

    def error(self, reason: str, offset: int) -> UnreadableFileError:
        return UnreadableFileError(reason, line=self.line_at(max(offset, self._counted_to)))

    def add_comment(self, start: int, end: int) -> None:
        if not self._has_string or self._section not in _ENDS:
            raise self.error(self._missing() or "a comment is not possible inside an entry", start)
        if self._section:
            self._end_entry()
        if self._data.startswith(b"#,", start):
            self._flags.append((start, end))

    def add_string(self, start: int, end: int, *, is_previous: bool, is_obsolete: bool) -> None:
        if not self._section or is_previous is not self._section.startswith("|"):
            raise self.error("a string without a keyword", start)
        self._check_obsolete(is_obsolete, start)
        self._has_string = True
        self._strings.append((start, end))

    @property
    def is_between_entries(self) -> bool:
        return self._has_string and self._section in _ENDS

    def add_message(self, match: re.Match[bytes]) -> None:
        """Add what `_MESSAGE` matches between two entries."""
        if self._section:
            self._end_entry()
        context = None if match[1] is None else _strings_in(self._data, *match.span(1))
        translation = _strings_in(self._data, *match.span(3))
        id_start = self._data.rfind(b"msgid", 0, match.start(2))
        start = id_start if context is None else self._data.rfind(b"msgctxt", 0, match.start(1))
        flags, previous = self._flags, self._previous
        self._flags, self._previous = [], []
        entry = Entry(self.line_at(id_start), start, flags, previous, False, context)
        entry.id, entry.translations = _strings_in(self._data, *match.span(2)), [translation]
        self.entries.append(entry)
        self._section, self._strings, self._is_obsolete = "msgstr", translation, False

    def add_keyword(self, match: re.Match[bytes], *, is_previous: bool, is_obsolete: bool) -> None:
        start, index = match.start(3), match[4]
        section = "msgstr[]" if index is not None else match[3].decode()
        if is_previous:
            section = f"|{section}"
        if not self._has_string:
            raise self.error(f"{self._section.lstrip('|')} has no string", start)
        if section not in _FOLLOWERS[self._section]:
            raise self.error(self._why_misplaced(section), start)
        if self._section and section in _FOLLOWERS[""] and self._section in _ENDS:
            self._end_entry()
        elif self._section:
            self._check_obsolete(is_obsolete, start)
        self._begin(section, start, int(index or 0), is_obsolete)

    def _begin(self, section: str, start: int, index: int, is_obsolete: bool) -> None:
        strings: list[Span] = []
        starts_message = section in ("msgctxt", "msgid") and self._section != "msgctxt"
        if starts_message:
            self.entries.append(Entry(0, start, self._flags, self._previous, is_obsolete))
            self._flags, self._previous = [], []
        entry = self.entries[-1] if self.entries else None
        if section.startswith("|"):
            strings = self._previous
            strings.append((start, start))
        elif entry is not None and section == "msgctxt":
            entry.context = strings
        elif entry is not None and section == "msgid":
            entry.id, entry.line = strings, self.line_at(start)
        elif entry is not None and section == "msgid_plural":
            entry.plural = strings
        elif entry is not None and section != "domain":
            if section == "msgstr[]" and index != len(entry.translations):
                first = not entry.translations
                raise self.error(
                    "first plural form has nonzero index" if first else "plural form has wrong index", start
                )
            entry.translations.append(strings)
        self._section, self._has_string, self._strings, self._is_obsolete = section, False, strings, is_obsolete

    def finish(self) -> None:
        if not self._has_string or self._section not in _ENDS:
            reason = self._missing() or "the last entry is not complete"
            raise self.error(reason, len(self._data))

    def _end_entry(self) -> None:
        self._section, self._flags, self._previous = "", [], []

    def _check_obsolete(self, is_obsolete: bool, offset: int) -> None:
        if is_obsolete is not self._is_obsolete:
            raise self.error("inconsistent use of #~", offset)

    def _missing(self) -> str:
        return "" if not self._has_string else _MISSING.get(self._section, "")

    def _why_misplaced(self, section: str) -> str:
        if self._section == "msgid" and section == "msgstr[]":
            return "missing 'msgid_plural' section"
        return self._missing() or f"{section.lstrip('|')} is not possible here"


def _strings_in(data: bytes, start: int, end: int) -> list[Span]:
    """Return the strings of a range that begins and ends with one."""
    if data.find(b'"', start + 1, end) == end - 1:
        return [(start, end)]
    return [match.span() for match in _ONE_STRING.finditer(data, start, end)]


def parse(data: bytes, start: int) -> list[Entry]:
    """Return the entries of a catalogue, obsolete ones too, in order.

    Args:
        data: The file.
        start: Where its text starts, after a byte order mark.

    Raises:
        UnreadableFileError: gettext cannot parse it.
    """
    parser = _Parser(data, start)
    _feed(parser, data, start, len(data), is_previous=False, is_obsolete=False)
    parser.finish()
    return parser.entries


def _feed(parser: _Parser, data: bytes, at: int, end: int, *, is_previous: bool, is_obsolete: bool) -> None:
    """Pass the tokens from an offset on to a parser."""
    match_token, is_plain = _TOKEN.match, not is_previous and not is_obsolete
    while True:
        if is_plain and parser.is_between_entries and (message := _MESSAGE.match(data, at, end)):
            parser.add_message(message)
            at = message.end()
            continue
        if not (match := match_token(data, at, end)):
            break
        at = match.end()
        group = match.lastindex
        if group == _STRING:
            parser.add_string(match.start(_STRING), at, is_previous=is_previous, is_obsolete=is_obsolete)
        elif group != _COMMENT:
            parser.add_keyword(match, is_previous=is_previous, is_obsolete=is_obsolete)
        else:
            start = match.start(_COMMENT)
            prefix = _PREFIX.match(data, start)
            if prefix is None or is_previous or is_obsolete:
                parser.add_comment(start, at)
            else:
                _feed(parser, data, prefix.end(), at, is_previous=bool(prefix[2]), is_obsolete=bool(prefix[1]))
    if not _END.match(data, at, end):
        raise _token_error(parser, data, at, end)


def _token_error(parser: _Parser, data: bytes, at: int, end: int) -> UnreadableFileError:
    """Return the error for bytes that are no token."""
    while data[at : at + 1].isspace():
        at += 1
    if word := _WORD.match(data, at, end):
        return parser.error(f'keyword "{word[1].decode()}" unknown', at)
    if data[at : at + 1] != b'"':
        return parser.error(f"syntax error at {data[at : at + 12].decode('utf-8', 'replace')!r}", at)
    line_end = data.find(b"\n", at, end)
    quoted = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*+').match(data, at, end)
    assert quoted is not None  # it begins with a quote
    if data[quoted.end() : quoted.end() + 1] == b'"':
        return parser.error("invalid control sequence in a string", at)
    return parser.error("end-of-line within string" if line_end >= 0 else "end-of-file within string", at)
