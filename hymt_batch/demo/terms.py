"""Put terms of a glossary into bulletins: places that were never seen, or known ones that the glossary translates anew.

A place is the name of a city in a bulletin; the translation has the glossary's term in its position. Knows no prompts.
"""

from random import Random

from hymt_batch.demo.grammar import Text
from hymt_batch.demo.invented import CONSONANTS, pick, syllables
from hymt_batch.demo.units import Edits, can_be_named, find_units

# each is one token; no bulletin has these characters
SOUNDS = "埃贝博蒂杜恩法菲福戈霍卡库莱梅诺帕奇萨索塔图沃泽扎佐妮柯邦拜迪费坎穆珀"
ENDINGS = ("burg", "heim", "ville", "stadt", "mont", "dorf")  # each is one token


def draw_term(rng: Random, english: str) -> Text:
    """Draw a term; its translations begin with a consonant, because French elides words before a vowel."""
    name = _name(rng)
    translated: list[str] = []
    for _ in ("fr", "de"):
        draw = rng.random()
        root = name if name[0].lower() in CONSONANTS else _name(rng)
        if draw < 0.5:
            root += pick(rng, ENDINGS)
        translated.append(_name(rng) if draw > 0.8 else root)
    sounds: list[str] = []
    while len(sounds) < 2 or (len(sounds) < 4 and rng.random() < 0.5):
        sound = pick(rng, SOUNDS)
        if sound not in sounds:
            sounds.append(sound)
    chinese = "".join(sounds)
    french, german = translated
    return Text(english or name, french, german, chinese)


def _name(rng: Random) -> str:
    """Draw a name of one or two words, of two syllables each or more: a model of this size confuses shorter ones."""
    name = syllables(rng, 2 + int(rng.random() * 2)).capitalize()
    return name if rng.random() < 0.85 else f"{name} {syllables(rng, 2).capitalize()}"


def with_terms(text: Text, rng: Random) -> tuple[Text, tuple[Text, ...]] | None:
    """Put one or two terms into a bulletin that names cities.

    Returns:
        The bulletin and its terms, in any order; None if no term can take the place of a city's name.
    """
    cities = [unit for unit in find_units(text) if can_be_named(text, unit)]
    if not cities:
        return None
    edits, terms = Edits(text), []
    for city in cities[: 1 + int(rng.random() * 2)]:
        start, end = city.spans[0]
        term = draw_term(rng, text.en[start:end] if rng.random() < 0.3 else "")
        terms.append(term)
        edits.replace(city.spans, (term.en, term.fr, term.de, term.zh))
    if rng.random() < 0.5:
        terms.reverse()
    return edits.result(), tuple(terms)
