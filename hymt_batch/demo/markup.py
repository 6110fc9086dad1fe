"""Put codes into bulletins: tags, placeholders, entities, addresses, line breaks; the same ones in each language.

A code belongs to a piece of the text that each language has exactly once, such as a city, a time or a number, so that
the position of each code in each translation is known. Knows the words of the grammar, and no format.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from random import Random
from typing import TypeVar

from hymt_batch.demo import grammar
from hymt_batch.demo.grammar import Text

T = TypeVar("T")

LANGS = tuple(field.name for field in fields(Text))
NAMES = (
    "name", "city", "place", "count", "user", "value", "day", "date", "time", "total", "num", "temp", "speed", "level",
    "x", "n", "id", "title", "station", "percent",
)  # fmt: skip
LETTERS, CONSONANTS, VOWELS = "abcdefghijklmnopqrstuvwxyz", "bcdfghjklmnpqrstvwz", "aeiou"
SITES = (".com", ".org", ".net", ".fr", ".de", ".cn", ".example")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece that each language has exactly once: its start and end, in the order of LANGS."""

    kind: str  # "city", "number" or "words"
    spans: tuple[tuple[int, int], ...]
    gap: tuple[tuple[int, int], ...] = ()  # what stands between the number and its unit of measurement

    def overlaps(self, other: "Unit") -> bool:
        return any(start < end2 and start2 < end for (start, end), (start2, end2) in zip(self.spans, other.spans))


def pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


# words that are no words: the model has to copy them


def identifier(rng: Random) -> str:
    """Draw the name of a placeholder: a usual one, or one that was never seen."""
    if rng.random() < 0.4:
        return pick(rng, NAMES)
    name = word(rng)
    draw = rng.random()
    if draw < 0.15:
        return name + pick(rng, ("_", ".", "-")) + word(rng)
    return name.upper() if draw < 0.22 else name.capitalize() if draw < 0.3 else name


def word(rng: Random) -> str:
    """Draw two to nine letters, pronounceable ones two times out of three."""
    if rng.random() < 0.33:
        return "".join(pick(rng, LETTERS) for _ in range(2 + int(rng.random() * 5)))
    return syllables(rng, 1 + int(rng.random() * 3))


def syllables(rng: Random, num: int) -> str:
    """Draw syllables of two or three letters; the first begins with a consonant."""
    parts = [pick(rng, CONSONANTS) + pick(rng, VOWELS) for _ in range(num)]
    return "".join(parts) + (pick(rng, "lmnrst") if rng.random() < 0.6 else "")


def url(rng: Random) -> str:
    """Draw an address of a page."""
    parts = [pick(rng, ("https://", "http://")), pick(rng, ("", "", "www.")), word(rng), pick(rng, SITES)]
    for _ in range(int(rng.random() * 3)):
        parts += ["/", word(rng) if rng.random() < 0.7 else str(int(rng.random() * 900) + 10)]
    return "".join(parts)


def email(rng: Random) -> str:
    return f"{word(rng)}@{word(rng)}{pick(rng, SITES)}"


def placeholder(rng: Random) -> str:
    """Draw a placeholder as of Python, printf, i18next, ICU, Qt, XLIFF."""
    name, number = identifier(rng), 1 + int(rng.random() * 4)
    return pick(rng, (
        f"{{{name}}}", f"{{{name}}}", f"{{{name}}}", f"{{{{{name}}}}}", f"{{{{{name}}}}}", f"{{{{ {name} }}}}",
        f"${{{name}}}", f"{{{number - 1}}}", "{}", "%s", "%s", "%d", f"%({name})s", f"%({name})d", f"%{number}$s",
        f"%{number}$d", "%@", f'<x id="{number}"/>', f"<x{number}/>", f"{{{name}, number}}", f"<s{number}></s{number}>", f"`{name}`", f"`{name}()`",
    ))  # fmt: skip


def tags(rng: Random) -> tuple[str, str]:
    """Draw a pair of codes that stand around a piece of text."""
    draw, name = rng.random(), pick(rng, ("b", "i", "u", "em", "strong", "small", "span", "a", "g", "c"))
    if draw < 0.4:
        return f"<{name}>", f"</{name}>"
    if draw < 0.55:
        number = 1 + int(rng.random() * 9)
        return pick(rng, ((f"<s{number}>", f"</s{number}>"), (f"<{number}>", f"</{number}>"),
                          (f'<g id="{number}">', "</g>"), (f"<s{number}>", f"</s{number}>")))  # fmt: skip
    if draw < 0.75:
        return pick(rng, (
            (f'<a href="{url(rng)}">', "</a>"),
            (f'<span class="{identifier(rng)}">', "</span>"),
            (f'<font color="#{int(rng.random() * 900_000) + 100_000}">', "</font>"),
            (f"<c.{identifier(rng)}>", "</c>"),
            (f"<{(tag := word(rng))}>", f"</{tag}>"),
        ))  # fmt: skip
    if draw < 0.9:
        return pick(rng, (("**", "**"), ("**", "**"), ("*", "*"), ("~~", "~~"), ("[", f"]({url(rng)})")))
    outer, inner = tags(rng), tags(rng)
    return outer[0] + inner[0], inner[1] + outer[1]


# pieces of a text that each language has exactly once


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

    def add(text: object, kind: str = "words", **forms: tuple[str, ...]) -> None:
        lexicon[getattr(text, "en")] = kind, tuple(forms.get(lang) or (getattr(text, lang),) for lang in LANGS[1:])

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
        everywhere = [found.get(number, ()) for found in by_lang]
        if all(len(spans) == 1 for spans in everywhere):
            spans = tuple(spans[0] for spans in everywhere)
            measures = [_MEASURES[lang].match(text.in_language(lang), span[1]) for lang, span in zip(LANGS, spans)]
            gap = tuple((match.start(), match.start(1)) for match in measures if match)
            yield Unit("number", spans, gap if len(gap) == len(LANGS) else ())


def sentences(text: Text) -> list[Text] | None:
    """Return the sentences of a bulletin, each with the space after it; None if a language has another number."""
    parts = [re.findall(r".+?\.(?: |$)", text.in_language(lang)) for lang in LANGS[:3]]
    parts.append(re.findall(r"[^。]+。", text.zh))
    if len({len(part) for part in parts}) > 1 or any("".join(part) != text.in_language(lang)
                                                      for lang, part in zip(LANGS, parts)):  # fmt: skip
        return None
    return [Text(*sentence) for sentence in zip(*parts, strict=True)]


# edits


class Edits:
    """Changes of a text in each language, at positions of the unchanged text."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.changes: list[list[tuple[int, int, str]]] = [[] for _ in LANGS]

    def replace(self, spans: Sequence[tuple[int, int]], news: Sequence[str]) -> None:
        for changes, (start, end), new in zip(self.changes, spans, news, strict=True):
            changes.append((start, end, new))

    def around(self, spans: Sequence[tuple[int, int]], before: str, after: str) -> None:
        self.replace([(start, start) for start, _ in spans], [before] * len(LANGS))
        self.replace([(end, end) for _, end in spans], [after] * len(LANGS))

    def result(self) -> Text:
        results = []
        for lang, changes in zip(LANGS, self.changes, strict=True):
            text = self.text.in_language(lang)
            for start, end, new in sorted(changes, reverse=True):
                text = text[:start] + new + text[end:]
            results.append(text)
        return Text(*results)


def can_be_named(text: Text, unit: Unit) -> bool:
    """Return whether another name can take the place of this city's: French elides no word before it."""
    start = unit.spans[1][0]
    return unit.kind == "city" and text.fr[start - 1 : start] != "'"


def with_codes(text: Text, rng: Random) -> Text | None:
    """Put codes into a bulletin; None where none of those that were drawn finds a place in it."""
    edits, units = Edits(text), find_units(text)
    num_codes = pick(rng, (1, 1, 2, 2, 3))
    taken: list[Unit] = []
    for _ in range(num_codes):
        free = [unit for unit in units if unit not in taken]
        if not free:
            break
        unit = pick(rng, free)
        if _code_unit(text, unit, edits, rng):
            taken.append(unit)
    coded = edits.result()
    draw = rng.random()
    if draw < 0.45 or not taken:
        coded = pick(rng, WHOLE)(coded, rng) or coded
    return coded if coded != text else None


def _code_unit(text: Text, unit: Unit, edits: Edits, rng: Random) -> bool:
    draw = rng.random()
    if unit.gap and draw < 0.25:
        edits.replace(unit.gap, [pick(rng, ("&nbsp;", "&nbsp;", "&#160;", "&#xA0;", "&thinsp;"))] * len(LANGS))
        return True
    is_percent = text.en[unit.spans[0][1] :][:1] == "%"
    if draw < 0.5 and (unit.kind == "number" and not is_percent or can_be_named(text, unit)):
        edits.replace(unit.spans, [placeholder(rng)] * len(LANGS))
        return True
    edits.around(unit.spans, *tags(rng))
    return True


def _around_all(text: Text, rng: Random) -> Text | None:
    before, after = pick(rng, (("<i>", "</i>"), ("<i>", "</i>"), ("<b>", "</b>"), tags(rng)))
    return _map(text, lambda words: before + words + after)


def _around_sentence(text: Text, rng: Random) -> Text | None:
    parts = sentences(text)
    if parts is None or len(parts) < 2:
        return None
    index, (before, after) = int(rng.random() * len(parts)), pick(rng, (("<i>", "</i>"), tags(rng)))

    def around(words: str) -> str:
        bare = words.rstrip(" ")
        return before + bare + after + words[len(bare) :]

    return _join([_map(part, around) if i == index else part for i, part in enumerate(parts)])


def _between_sentences(text: Text, rng: Random) -> Text | None:
    parts = sentences(text)
    if parts is None or len(parts) < 2:
        return None
    index, code = int(rng.random() * (len(parts) - 1)), pick(rng, ("\n", "\n", "<br>", "<br/>", "<br />"))
    return _join([
        _map(part, lambda words: words.rstrip(" ") + code) if i == index else part for i, part in enumerate(parts)
    ])


def _at_the_start(text: Text, rng: Random) -> Text | None:
    code = pick(rng, ("{\\an8}", "{\\an8}", f"{{\\an{1 + int(rng.random() * 9)}}}", f"<v {word(rng).capitalize()}>"))
    return _map(text, lambda words: code + words)


def _with_address(text: Text, rng: Random) -> Text | None:
    is_page = rng.random() < 0.7
    address = url(rng) if is_page else email(rng)
    sentence = pick(rng, PAGES if is_page else MAILS)
    coded = _map(sentence, lambda words: words.replace("@", address))
    return Text(*(f"{text.in_language(lang)}{' ' if lang != 'zh' else ''}{coded.in_language(lang)}" for lang in LANGS))


WHOLE: tuple[Callable[[Text, Random], Text | None], ...] = (
    _around_all, _around_all, _around_sentence, _between_sentences, _between_sentences, _at_the_start, _with_address,
)  # fmt: skip
PAGES = (
    Text("See @ for details.", "Voir @ pour plus de détails.", "Einzelheiten unter @ im Internet.", "详情请见 @ 。"),
    Text("More at @ today.", "Plus d'infos sur @ aujourd'hui.", "Mehr heute unter @ im Internet.", "今天更多信息请见 @ 。"),
)
MAILS = (
    Text("Write to @ for advice.", "Écrivez à @ pour un conseil.", "Schreiben Sie an @ für Rat.", "如需建议请写信至 @ 。"),
)


def _map(text: Text, function: Callable[[str], str]) -> Text:
    return Text(*(function(text.in_language(lang)) for lang in LANGS))


def _join(parts: Sequence[Text]) -> Text:
    return Text(*("".join(part.in_language(lang) for part in parts) for lang in LANGS))

