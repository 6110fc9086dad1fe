"""A gettext catalogue (.po, .pot), parsed: which of its texts are places, and how its output differs.

The text of a place is the msgid of its entry, and its translation goes into the msgstr. An entry with a msgid_plural
has as many forms as the target language needs, and each is a place. Where an entry has fewer, the others are inserted
after the last one; where it has more, they are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hymt_batch.formats.language_codes import names_language
from hymt_batch.formats.po import comments, directives, header, plural, strings
from hymt_batch.formats.po.charset import NO_CHARSET, find_charset, mask
from hymt_batch.formats.po.header import CONTENT_TYPE, LANGUAGE, PLURAL_FORMS, Edit, Header
from hymt_batch.formats.po.plural import PluralRule
from hymt_batch.formats.po.strings import Layout
from hymt_batch.formats.po.tokenizer import Entry, Span, parse
from hymt_batch.formats.row_reader import RowError
from hymt_batch.formats.spliced import Place, PlaceOptions, UnreadableFileError
from hymt_batch.formats.text_encoding import BOM, UTF8
from hymt_batch.records import Status

EMPTY = '""'


@dataclass(frozen=True, slots=True)
class Written:
    """A translation that goes into a catalogue."""

    text: str
    is_flagged: bool = False


class _Context(NamedTuple):
    """What a place belongs to."""

    entry: Entry
    form: int  # index of its msgstr
    literals: list[Span]  # strings of its source


class Catalogue:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.charset, self._charset_name = find_charset(data)
        masked = mask(data, self.charset)
        start = len(BOM) if data.startswith(BOM) else 0
        self._newline = "\r\n" if b"\r\n" in data[: data.find(b"\n") + 1] else "\n"
        entries = parse(masked, start)
        self._check_charset(entries)
        self._start = start
        live = [entry for entry in entries if not entry.is_obsolete]
        self._header_entry = next((entry for entry in live if entry.context is None and _is_empty(entry.id)), None)
        self._entries = [entry for entry in live if entry is not self._header_entry]
        self._header = None
        if self._header_entry is not None and self._header_entry.plural is None:
            self._header = Header(data, self._header_entry.translations[0], self.charset)

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        rule = self._rule(options.tgt_lang)
        last_line, same_line = 0, 0
        for entry in self._entries:
            same_line = same_line + 1 if entry.line == last_line else 0
            last_line = entry.line
            name = f"{entry.line}.{same_line + 1}" if same_line else str(entry.line)
            if _is_empty(entry.id):
                continue
            for form in self._forms_to_translate(entry, rule, options.entries):
                yield self._place(entry, form, rule, name if entry.plural is None else f"{name}[{form}]")

    def encode(self, place: Place, text: str) -> bytes:
        """Return the strings of a place alone; `edits` has what belongs to its entry."""
        return self._render(place, text).encode(self.charset.codec, "replace")

    def count_places(self, options: PlaceOptions) -> tuple[int, int]:
        """Return the number of places with these options, and with entries=all."""
        rule, selected, every = self._rule(options.tgt_lang), 0, 0
        for entry in self._entries:
            if not _is_empty(entry.id):
                selected += sum(1 for _ in self._forms_to_translate(entry, rule, options.entries))
                every += sum(1 for _ in self._forms_to_translate(entry, rule, "all"))
        return selected, every

    def edits(
        self, results: Iterable[tuple[Place, Written | None]], tgt_lang: str, *, marks_flagged: bool
    ) -> list[Edit]:
        """Return the edits that make the output, without those of the header.

        Args:
            results: The translation of each place. An entry of which a form has none stays without.
            tgt_lang: Code of the target language.
            marks_flagged: Entries with a flagged translation become fuzzy.
        """
        rule = self._rule(tgt_lang)
        by_entry: dict[int, list[tuple[Place, Written | None]]] = {}
        for place, result in results:
            by_entry.setdefault(place.context.entry.start, []).append((place, result))
        complete = {
            start: [(place, result) for place, result in forms if result is not None]
            for start, forms in by_entry.items()
            if all(result is not None for _, result in forms)
        }
        edits: list[Edit] = []
        if not complete:
            return edits
        for entry in self._entries:
            written = complete.get(entry.start, ())
            if written or entry.plural is not None:
                edits += self._edits_of_entry(entry, written, rule, marks_flagged)
        return edits

    def header_edits(self, tgt_lang: str, *, is_ascii: bool, codec: str) -> list[Edit]:
        """Return the edits of the header, or one that inserts it where the catalogue cannot be read without.

        Args:
            tgt_lang: Code of the target language.
            is_ascii: The output has no other characters than those of ASCII.
            codec: Encoding of the output.
        """
        changes: dict[str, str] = {}
        fields = self._header.fields if self._header else {}
        rule = self._rule(tgt_lang)
        has_plurals = any(entry.plural is not None for entry in self._entries)
        if not names_language(fields.get(LANGUAGE, ""), tgt_lang):
            changes[LANGUAGE] = header.locale_of(tgt_lang)
        if rule.field != fields.get(PLURAL_FORMS, "") and (has_plurals or PLURAL_FORMS in fields):
            changes[PLURAL_FORMS] = rule.field
        names_no_charset = not self._charset_name or self._charset_name.lower() == NO_CHARSET
        if codec != self.charset.codec or (names_no_charset and not (is_ascii and CONTENT_TYPE not in fields)):
            changes[CONTENT_TYPE] = header.with_charset(fields.get(CONTENT_TYPE, ""), "UTF-8")
        if self._header is not None and self._header_entry is not None:
            layout = strings.find_layout(self._data, self._header_entry.translations[0], self._newline)
            fuzzy = comments.edits(self._data, self._header_entry, self._newline, fuzzy=False) if changes else []
            return sorted([*self._header.edits(changes, layout), *fuzzy], key=lambda edit: edit.start)
        if is_ascii and not (has_plurals and rule.field != plural.DEFAULT_FIELD):
            return []
        changes = {
            LANGUAGE: changes.get(LANGUAGE, ""),
            "MIME-Version": "1.0",
            CONTENT_TYPE: "text/plain; charset=UTF-8",
        }
        changes |= {"Content-Transfer-Encoding": "8bit"} | ({PLURAL_FORMS: rule.field} if has_plurals else {})
        rendered = header.render(changes, Layout(newline=self._newline))
        text = f'msgid ""{self._newline}msgstr {rendered}{self._newline * 2}'
        return [Edit(self._start, self._start, text)]

    def _check_charset(self, entries: Collection[Entry]) -> None:
        """Raise UnreadableFileError for a string that is not in the charset."""
        try:
            self._data.decode(self.charset.codec)
            return
        except UnicodeDecodeError:
            pass  # perhaps in a comment, which nobody decodes
        for entry in entries:
            for literals in (entry.context or [], entry.id, entry.plural or [], *entry.translations):
                for start, end in literals:
                    try:
                        self._data[start:end].decode(self.charset.codec)
                    except UnicodeDecodeError as error:
                        raise UnreadableFileError(
                            f"a string is not in the charset {self._charset_name or UTF8}: byte 0x"
                            f"{error.object[error.start]:02x}",
                            line=1 + self._data.count(b"\n", 0, start),
                        ) from None

    def _rule(self, tgt_lang: str) -> PluralRule:
        """Return the rule of the catalogue if that is the target's, else the rule of the target language."""
        fields = self._header.fields if self._header else {}
        own = plural.parse(fields.get(PLURAL_FORMS, ""))
        target = plural.of_language(tgt_lang)
        if own is None:
            return target
        is_targets = not tgt_lang or own.sample == target.sample or names_language(fields.get(LANGUAGE, ""), tgt_lang)
        return own if is_targets and own.num_forms >= max(own.sample) + 1 else target

    def _forms_to_translate(self, entry: Entry, rule: PluralRule, entries: str) -> Iterator[int]:
        num_forms = 1 if entry.plural is None else rule.num_forms
        takes_all = entries == "all" or (entries == "fuzzy" and comments.is_fuzzy(self._data, entry))
        for form in range(num_forms):
            if takes_all or form >= len(entry.translations) or _is_empty(entry.translations[form]):
                yield form

    def _source(self, entry: Entry, form: int, rule: PluralRule) -> tuple[list[Span], str]:
        """Return the strings that a form is translated from, and their text."""
        text = self._read(entry.id)
        if entry.plural is None:
            return entry.id, text
        plural_text = self._read(entry.plural)
        if plural.is_from_singular(rule, form, text, plural_text):
            return entry.id, text
        return entry.plural, plural_text

    def _place(self, entry: Entry, form: int, rule: PluralRule, name: str) -> Place:
        start, end = _range_of(entry, form)
        try:
            literals, text = self._source(entry, form, rule)
        except UnicodeDecodeError as error:
            why = f"has an escape that is not in the charset {self.charset.codec} ({error.reason}). Correct the msgid."
            error_context = _Context(entry, form, entry.id)
            return Place(start, end, name, None, RowError(why, Status.BAD_ENCODING), context=error_context)
        kind = self._format_kind(entry)
        codes = directives.find_codes(text, kind) if kind else ()
        text_range = (literals[0][0], literals[-1][1])
        context = _Context(entry, form, literals)
        return Place(start, end, name, text, codes=codes, context=context, text_range=text_range)

    def _render(self, place: Place, text: str) -> str:
        """Return the strings of a translation, in the layout of its source."""
        context: _Context = place.context
        entry, form, literals = context.entry, context.form, context.literals
        if text == place.text:
            if form < len(entry.translations) and self._read(entry.translations[form]) == text:
                literals = entry.translations[form]
            return self._data[literals[0][0] : literals[-1][1]].decode(self.charset.codec)
        keyword = "msgstr " if entry.plural is None else f"msgstr[{form}] "
        layout = strings.find_layout(self._data, literals, self._newline)
        id_text = (place.text or "") if literals is entry.id else self._read(entry.id)
        return strings.write(_with_ends_of(id_text, text), keyword, layout)

    def _format_kind(self, entry: Entry) -> str:
        return directives.find_kind(comments.flags_of(self._data, entry)) if entry.flags else ""

    def _read(self, literals: Sequence[Span]) -> str:
        return strings.read(self._data, literals, self.charset)

    def _edits_of_entry(
        self, entry: Entry, written: Sequence[tuple[Place, Written]], rule: PluralRule, marks_flagged: bool
    ) -> list[Edit]:
        """Return the edits that give an entry its translations and as many forms as the rule has."""
        num_forms = 1 if entry.plural is None else rule.num_forms
        num_kept = min(num_forms, len(entry.translations))
        kind = self._format_kind(entry) if written else ""
        rendered, is_flagged = {}, False
        for place, translation in written:
            text, is_valid = directives.fit(place.text or "", translation.text, kind)
            rendered[place.context.form] = self._render(place, text)
            is_flagged = is_flagged or not is_valid or (translation.is_flagged and marks_flagged)
        edits = [Edit(*_range_of(entry, form), rendered[form]) for form in range(num_kept) if form in rendered]
        end = _range_of(entry, num_kept - 1)[1]
        for form in range(num_kept, num_forms):
            edits.append(Edit(end, end, f"{self._newline}msgstr[{form}] {rendered.get(form, EMPTY)}"))
        if len(entry.translations) > num_kept:
            edits.append(Edit(end, _range_of(entry, len(entry.translations) - 1)[1], ""))
        if is_flagged or len(written) == num_forms:
            edits = [*comments.edits(self._data, entry, self._newline, fuzzy=is_flagged), *edits]
        return edits


def _is_empty(literals: Sequence[Span]) -> bool:
    """Return whether strings hold no text."""
    for start, end in literals:  # noqa: SIM110 - a generator takes three times as long, and there are many strings
        if end - start != len(EMPTY):
            return False
    return True


def _range_of(entry: Entry, form: int) -> Span:
    """Return where a translation stands; the end of the last one for a form that the entry does not have."""
    if form < len(entry.translations):
        literals = entry.translations[form]
        return literals[0][0], literals[-1][1]
    end = entry.translations[-1][-1][1]
    return end, end


def _with_ends_of(source: str, text: str) -> str:
    """Return a text that begins and ends with a line feed where its source does, as msgfmt demands."""
    if source.startswith("\n") is not text.startswith("\n"):
        text = f"\n{text}" if source.startswith("\n") else text.lstrip("\n")
    if source.endswith("\n") is not text.endswith("\n"):
        text = f"{text}\n" if source.endswith("\n") else text.rstrip("\n")
    return text
