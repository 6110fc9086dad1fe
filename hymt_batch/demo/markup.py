"""Put codes into bulletins: tags, placeholders, entities, addresses, line breaks; the same ones in each language.

A code stands around or in the place of a piece that each language has exactly once, so that its position in each
translation is known. Knows no format.
"""

from collections.abc import Callable, Sequence
from random import Random

from hymt_batch.demo.grammar import Text
from hymt_batch.demo.invented import NAMES, email, pick, placeholder, tags, url
from hymt_batch.demo.units import LANGS, Edits, Unit, can_be_hidden, can_be_named, find_units, sentences


def with_codes(text: Text, rng: Random, *, is_new: bool = False) -> Text | None:
    """Put codes into a bulletin, of new words or known ones; None where none of them finds a place in it."""
    edits, units = Edits(text), find_units(text)
    num_codes = pick(rng, (1, 1, 2, 2, 3))
    taken: list[Unit] = []
    for _ in range(num_codes):
        free = [unit for unit in units if unit not in taken]
        if not free:
            break
        unit = pick(rng, free)
        if _code_unit(text, unit, edits, rng, is_new):
            taken.append(unit)
    coded = edits.result()
    draw = rng.random()
    if draw < 0.45 or not taken:
        coded = pick(rng, WHOLE)(coded, rng, is_new) or coded
    # two pieces in * that meet in a translation would have ** between them
    num_marks = {coded.in_language(lang).count("**") for lang in LANGS}
    return coded if coded != text and len(num_marks) == 1 else None


def _code_unit(text: Text, unit: Unit, edits: Edits, rng: Random, is_new: bool) -> bool:
    draw = rng.random()
    if unit.gap and draw < 0.25:
        edits.replace(unit.gap, [pick(rng, ("&nbsp;", "&nbsp;", "&#160;", "&#xA0;", "&thinsp;"))] * len(LANGS))
        return True
    if draw < 0.5 and (can_be_hidden(text, unit) or can_be_named(text, unit)):
        edits.replace(unit.spans, [placeholder(rng, is_new=is_new)] * len(LANGS))
        return True
    edits.around(unit.spans, *tags(rng, is_new=is_new))
    return True


def _around_all(text: Text, rng: Random, is_new: bool) -> Text | None:
    before, after = pick(rng, (("<i>", "</i>"), ("<i>", "</i>"), ("<b>", "</b>"), tags(rng, is_new=is_new)))
    return _map(text, lambda words: before + words + after)


def _around_sentence(text: Text, rng: Random, is_new: bool) -> Text | None:
    parts = sentences(text)
    if parts is None or len(parts) < 2:
        return None
    index, (before, after) = int(rng.random() * len(parts)), pick(rng, (("<i>", "</i>"), tags(rng, is_new=is_new)))

    def around(words: str) -> str:
        bare = words.rstrip(" ")
        return before + bare + after + words[len(bare) :]

    return _join([_map(part, around) if i == index else part for i, part in enumerate(parts)])


def _between_sentences(text: Text, rng: Random, is_new: bool) -> Text | None:
    parts = sentences(text)
    if parts is None or len(parts) < 2:
        return None
    index, code = int(rng.random() * (len(parts) - 1)), pick(rng, ("\n", "\n", "<br>", "<br/>", "<br />"))
    return _join(
        [_map(part, lambda words: words.rstrip(" ") + code) if i == index else part for i, part in enumerate(parts)]
    )


def _at_the_start(text: Text, rng: Random, is_new: bool) -> Text | None:
    code = pick(
        rng, ("{\\an8}", "{\\an8}", f"{{\\an{1 + int(rng.random() * 9)}}}", f"<v {pick(rng, NAMES).capitalize()}>")
    )
    return _map(text, lambda words: code + words)


def _with_address(text: Text, rng: Random, is_new: bool) -> Text | None:
    is_page = rng.random() < 0.7
    address = url(rng, is_new=is_new) if is_page else email(rng, is_new=is_new)
    sentence = pick(rng, PAGES if is_page else MAILS)
    coded = _map(sentence, lambda words: words.replace("@", address))
    return Text(*(f"{text.in_language(lang)}{' ' if lang != 'zh' else ''}{coded.in_language(lang)}" for lang in LANGS))


WHOLE: tuple[Callable[[Text, Random, bool], Text | None], ...] = (
    _around_all, _around_all, _around_sentence, _between_sentences, _between_sentences, _at_the_start, _with_address,
)  # fmt: skip
PAGES = (
    Text("See @ for details.", "Voir @ pour plus de détails.", "Einzelheiten unter @ im Internet.", "详情请见 @ 。"),
    Text(
        "More at @ today.",
        "Plus d'infos sur @ aujourd'hui.",
        "Mehr heute unter @ im Internet.",
        "今天更多信息请见 @ 。",
    ),
)
MAILS = (
    Text(
        "Write to @ for advice.", "Écrivez à @ pour un conseil.", "Schreiben Sie an @ für Rat.", "如需建议请写信至 @ 。"
    ),
)


def _map(text: Text, function: Callable[[str], str]) -> Text:
    return Text(*(function(text.in_language(lang)) for lang in LANGS))


def _join(parts: Sequence[Text]) -> Text:
    return Text(*("".join(part.in_language(lang) for part in parts) for lang in LANGS))
