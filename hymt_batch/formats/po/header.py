"""The header of a catalogue: its fields, and the few that a translation changes.

Only Language, Plural-Forms and the charset of Content-Type are ever written. Dates, names and tools stay as they are,
so that the same input gives the same bytes.

Source: The GNU gettext manual, "Header Entry".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hymt_batch.formats.po import strings
from hymt_batch.formats.po.strings import Charset, Layout
from hymt_batch.formats.po.tokenizer import Span

LANGUAGE, PLURAL_FORMS, CONTENT_TYPE = "Language", "Plural-Forms", "Content-Type"
_ORDER = (
    *("Project-Id-Version", "Report-Msgid-Bugs-To", "POT-Creation-Date", "PO-Revision-Date", "Last-Translator"),
    *("Language-Team", LANGUAGE, "MIME-Version", CONTENT_TYPE, "Content-Transfer-Encoding", PLURAL_FORMS),
)
_LOCALES = {"zh": "zh_CN", "zh-Hant": "zh_TW"}
_CHARSET = re.compile(r"charset=[^\s;]*")
_FIELD = re.compile(r"([A-Za-z0-9-]+):[ \t]*([^\n]*)")


class Edit(NamedTuple):
    """A range of a file, and the text that its output has there."""

    start: int
    end: int
    text: str


def locale_of(code: str) -> str:
    """Return how gettext writes a language."""
    return _LOCALES.get(code, code)


class Header:
    """The header of a catalogue that has one.

    Args:
        data: The file.
        literals: Strings of the msgstr of its first entry with an empty msgid.
        charset: Charset of the file.
    """

    def __init__(self, data: bytes, literals: Sequence[Span], charset: Charset) -> None:
        self._literals = literals
        self._texts = [strings.read(data, [literal], charset) for literal in literals]
        self.fields = dict(reversed(_FIELD.findall("".join(self._texts))))

    def edits(self, changes: Mapping[str, str], layout: Layout) -> list[Edit]:
        """Return the edits that set these fields; a field that a catalogue has keeps its place."""
        changes = {name: value for name, value in changes.items() if self.fields.get(name) != value}
        if not changes:
            return []
        edits = self._edits_of_lines(changes, layout)
        return edits if edits is not None else [self._edit_of_all(changes, layout)]

    def _edits_of_lines(self, changes: Mapping[str, str], layout: Layout) -> list[Edit] | None:
        """Return edits of the strings of these fields alone; None if a string has more than one field."""
        starts: dict[int, int] = {0: 0}  # offset in the text -> the string that starts there
        offset = 0
        for index, text in enumerate(self._texts, 1):
            offset += len(text)
            starts.setdefault(offset, index)
        whole, edits, gap = "".join(self._texts), [], layout.newline + layout.indent
        if not whole.endswith("\n"):
            return None
        for name in sorted(changes, key=_ORDER.index):
            line = f'"{strings.escape(f"{name}: {changes[name]}")}\\n"'
            match = re.compile(rf"^{name}:[^\n]*\n", re.MULTILINE).search(whole)
            if match:
                first, last = starts.get(match.start()), starts.get(match.end())
                if first is None or last is None:
                    return None
                while not self._texts[first]:
                    first += 1
                edits.append(Edit(self._literals[first][0], self._literals[last - 1][1], line))
            else:
                before = starts.get(_end_of_fields_before(name, whole))
                if not before:
                    return None
                at = self._literals[before - 1][1]
                edits.append(Edit(at, at, gap + line))
        return sorted(edits, key=lambda edit: edit.start)

    def _edit_of_all(self, changes: Mapping[str, str], layout: Layout) -> Edit:
        text = render({**self.fields, **changes}, layout)
        return Edit(self._literals[0][0], self._literals[-1][1], text)


def _end_of_fields_before(name: str, whole: str) -> int:
    """Return the offset after the last field that stands before a new one in the usual order; 0 if none does."""
    before = _ORDER[: _ORDER.index(name)]
    return max(
        (match.end() for match in re.finditer(r"([A-Za-z0-9-]+):[^\n]*\n", whole) if match[1] in before), default=0
    )


def render(fields: Mapping[str, str], layout: Layout) -> str:
    """Return the msgstr of a header with these fields."""
    gap = layout.newline + layout.indent
    return '""' + "".join(f'{gap}"{strings.escape(f"{name}: {value}")}\\n"' for name, value in fields.items())


def with_charset(content_type: str, name: str) -> str:
    """Return the value of Content-Type with another charset."""
    if _CHARSET.search(content_type):
        return _CHARSET.sub(f"charset={name}", content_type, count=1)
    return f"text/plain; charset={name}"
