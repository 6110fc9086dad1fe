"""Find the pieces of a bulletin that each language has exactly once, so that they can be marked or replaced in all.

Knows the words of the grammar: cities, times, numbers, kinds of weather.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from hymt_batch.demo import grammar
from hymt_batch.demo.grammar import Text

LANGS = tuple(field.name for field in fields(Text))


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece that each language has exactly once: its start and end, in the order of LANGS."""

    kind: str  # "city", "number" or "words"
    spans: tuple[tuple[int, int], ...]
    gap: tuple[tuple[int, int], ...] = ()  # what stands between the number and its unit of measurement

    def overlaps(self, other: "Unit") -> bool:
        pairs = zip(self.spans, other.spans, strict=True)
        return any(first[0] < second[1] and second[0] < first[1] for first, second in pairs)


def can_be_named(text: Text, unit: Unit) -> bool:
    """Return whether another name can take the place of this city's: French elides no word before it."""
    start = unit.spans[1][0]
    return unit.kind == "city" and text.fr[start - 1 : start] != "'"


def can_be_hidden(text: Text, unit: Unit) -> bool:
    """Return whether a code can take the place of this number: no word of a translation follows from its value.

    Hours do not: Chinese tells the early from the late morning. Nor do 0 and 1, of which French has the singular.
    """
    start, end = unit.spans[0]
    is_hour = re.match(r" [ap]m\b", text.en[end:])
    return unit.kind == "number" and text.en[end : end + 1] != "%" and not is_hour and text.en[start:end] not in "01"


def find_units(text: Text) -> list[Unit]:
    """Return the units of a text that do not overlap, in English order."""
    units: list[Unit] = []
    found = sorted((*_words(text), *_numbers(text)), key=lambda unit: unit.spans[0][0] - unit.spans[0][1])
    for unit in found:
        if not any(unit.overlaps(other) for other in units):
            units.append(unit)
    return sorted(units, key=lambda unit: unit.spans[0][0])


@cache
def _lexicon() -> dict[str, tuple[str, tuple[tuple[str, ...], ...]]]:
    """Return, by English words, the kind of unit and its forms in each of the other languages."""
    lexicon: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {}

    def add(text: Any, kind: str = "words", **forms: tuple[str, ...]) -> None:
        lexicon[text.en] = kind, tuple(forms.get(lang) or (getattr(text, lang),) for lang in LANGS[1:])

    for day in grammar.DAYS:
        add(day)
        for part in grammar.DAY_PARTS:
            add(Text(f"{day.en} {part.en}", f"{day.fr} {part.fr}", f"{day.de}{part.de}", f"{day.zh}{part.zh}"))
    for text in (*grammar.NEAR_TIMES, *grammar.TOMORROW, *grammar.AUDIENCES, *grammar.ADJECTIVES, *grammar.REGIONS):
        add(text)
    for what in grammar.PHENOMENA:
        add(what, fr=(what.fr_bare,), de=tuple({what.de, what.de_dative}))
    for city in grammar.CITIES:
        add(city, "city")
    return lexicon


def chinese_words() -> list[str]:
    """Return the Chinese words of the lexicon, and further ones of the grammar."""
    further = (*grammar.STRENGTHS, *grammar.DIRECTIONS, *grammar.COLOURS, *(hazard for hazard, _ in grammar.HAZARDS))
    return sorted({*(word for _, forms in _lexicon().values() for word in forms[-1]), *(text.zh for text in further)})


@cache
def _english() -> re.Pattern[str]:
    words = sorted(_lexicon(), key=len, reverse=True)
    forms = (re.escape(word) if word[0].isupper() else f"[{word[0]}{word[0].upper()}]{re.escape(word[1:])}"
             for word in words)  # fmt: skip
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)")


def _words(text: Text) -> Iterator[Unit]:
    matches = list(_english().finditer(text.en))
    known = [match[0] if match[0] in _lexicon() else match[0][0].lower() + match[0][1:] for match in matches]
    for match, key in zip(matches, known, strict=True):
        kind, forms = _lexicon()[key]
        if known.count(key) > 1:
            continue
        spans = [match.span()]
        for lang, variants in zip(LANGS[1:], forms, strict=True):
            spans += [*_occurrences(text.in_language(lang), variants, is_spaced=lang != "zh")]
        if len(spans) == len(LANGS):
            yield Unit(kind, tuple(spans))


def _occurrences(text: str, variants: Sequence[str], *, is_spaced: bool) -> list[tuple[int, int]]:
    """Return where the words stand, if they do so once; else several positions, or none."""
    found: set[tuple[int, int]] = set()
    for variant in variants:
        for form in {variant, variant[0].upper() + variant[1:]}:
            start = text.find(form)
            while start >= 0:
                end = start + len(form)
                inside = is_spaced and (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())
                if not inside:
                    found.add((start, end))
                start = text.find(form, start + 1)
    return [*found] if len(found) == 1 else [*found] * 9


_NUMBER = re.compile(r"(?<![\d.,])\d+(?![\d.,]*\d)")
_MEASURES = {
    "en": re.compile(r" ?(degrees?|km/h|metres|centimetres)"),
    "fr": re.compile(r" ?(degrés?|km/h|mètres|centimètres)"),
    "de": re.compile(r" ?(Grad|km/h|Metern?|Zentimeter)"),
    "zh": re.compile(r"(度|公里|米|厘米)"),
}


def _numbers(text: Text) -> Iterator[Unit]:
    """Yield the whole numbers that each language has exactly once."""
    by_lang = []
    for lang in LANGS:
        found: dict[str, list[tuple[int, int]]] = {}
        for match in _NUMBER.finditer(text.in_language(lang)):
            found.setdefault(match[0], []).append(match.span())
        by_lang.append(found)
    for number in by_lang[0]:
        everywhere = [found.get(number, []) for found in by_lang]
        if all(len(spans) == 1 for spans in everywhere):
            spans = tuple(spans[0] for spans in everywhere)
            ends = zip(LANGS, spans, strict=True)
            measures = [_MEASURES[lang].match(text.in_language(lang), end) for lang, (_, end) in ends]
            gap = tuple((match.start(), match.start(1)) for match in measures if match)
            yield Unit("number", spans, gap if len(gap) == len(LANGS) else ())


def sentences(text: Text) -> list[Text] | None:
    """Return the sentences of a bulletin, each with the space after it; None if a language has another number."""
    parts = [re.findall(r".+?\.(?: |$)", text.in_language(lang)) for lang in LANGS[:3]]
    parts.append(re.findall(r"[^。]+。", text.zh))
    whole = ["".join(part) for part in parts] == [text.in_language(lang) for lang in LANGS]
    if not whole or len({len(part) for part in parts}) > 1:
        return None
    return [Text(*sentence) for sentence in zip(*parts, strict=True)]


class Edits:
    """Changes of a text in each language, at positions of the unchanged text."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.changes: list[list[tuple[int, bool, int, str]]] = [[] for _ in LANGS]  # start, opens, end, new

    def replace(self, spans: Sequence[tuple[int, int]], news: Sequence[str]) -> None:
        for changes, (start, end), new in zip(self.changes, spans, news, strict=True):
            changes.append((start, True, end, new))

    def around(self, spans: Sequence[tuple[int, int]], before: str, after: str) -> None:
        for changes, (start, end) in zip(self.changes, spans, strict=True):
            changes += [(start, True, start, before), (end, False, end, after)]

    def result(self) -> Text:
        """Return the changed text; where two pieces meet, the first one's codes close before the next ones open."""
        results = []
        for lang, changes in zip(LANGS, self.changes, strict=True):
            text = self.text.in_language(lang)
            for start, _, end, new in sorted(changes, reverse=True):
                text = text[:start] + new + text[end:]
            results.append(text)
        return Text(*results)
