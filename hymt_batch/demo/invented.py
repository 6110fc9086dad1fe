"""Draw codes that a translation keeps: placeholders, tags, addresses; and names that were never seen.

The words inside of codes are of short lists, in any combination; with `is_new`, they are words that were never seen,
which a model can only copy. The names of places are made of syllables.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

NAMES = (
    "name", "city", "place", "count", "user", "value", "day", "date", "time", "total", "num", "temp", "speed", "level",
    "x", "n", "id", "title", "station", "percent",
)  # fmt: skip
WORDS = ("weather", "rain", "snow", "storm", "info", "news", "help", "radar", "maps", "alerts", "today", "meteo")
COLOURS = ("#ff0000", "#00ff00", "#ffff00", "#ffffff", "yellow", "red", "white", "cyan")
SIMPLE_TAGS = ("b", "i", "u", "em", "strong", "small", "span", "a", "g", "c")
MARKS = ("</", '">', '="', "{{", "}}", "**", "~~", "](", "://", "%(", "()")  # always beside each other
LETTERS, CONSONANTS, VOWELS = "abcdefghijklmnopqrstuvwxyz", "bdfgklmnprstvz", "aeiou"
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)  # each is one token
SITES = (".com", ".org", ".net", ".fr", ".de", ".cn", ".example")


def pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def identifier(rng: Random, *, is_new: bool) -> str:
    """Draw the name of a placeholder, one word or two."""
    name, draw = _word(rng, NAMES, is_new=is_new), rng.random()
    if draw < 0.1:
        return name + pick(rng, ("_", ".", "-")) + _word(rng, NAMES, is_new=is_new)
    return name.upper() if draw < 0.15 else name


def _word(rng: Random, words: Sequence[str], *, is_new: bool) -> str:
    """Draw one of the words, or two to nine letters, pronounceable ones two times out of three."""
    if not is_new:
        return pick(rng, words)
    if rng.random() < 0.33:
        return "".join(pick(rng, LETTERS) for _ in range(2 + int(rng.random() * 5)))
    return syllables(rng, 1 + int(rng.random() * 3))


def syllables(rng: Random, num: int) -> str:
    """Draw different syllables of two letters; a consonant may end the last one."""
    parts: list[str] = []
    while len(parts) < num:
        part = pick(rng, SYLLABLES)
        if part not in parts:
            parts.append(part)
    return "".join(parts) + (pick(rng, "lmnrst") if rng.random() < 0.3 else "")


def url(rng: Random, *, is_new: bool) -> str:
    """Draw an address of a page."""
    host = _word(rng, WORDS, is_new=is_new)
    parts = [pick(rng, ("https://", "http://")), pick(rng, ("", "", "www.")), host, pick(rng, SITES)]
    for _ in range(int(rng.random() * 2.5)):
        number = str(int(rng.random() * 90) + 10)
        parts += ["/", _word(rng, WORDS, is_new=is_new) if rng.random() < 0.7 else number]
    return "".join(parts)


def email(rng: Random, *, is_new: bool) -> str:
    return f"{_word(rng, WORDS, is_new=is_new)}@{_word(rng, WORDS, is_new=is_new)}{pick(rng, SITES)}"


def placeholder(rng: Random, *, is_new: bool) -> str:
    """Draw a placeholder as of Python, printf, i18next, ICU, Qt, XLIFF."""
    name, number = identifier(rng, is_new=is_new), 1 + int(rng.random() * 4)
    return pick(rng, (
        f"{{{name}}}", f"{{{name}}}", f"{{{name}}}", f"{{{{{name}}}}}", f"{{{{{name}}}}}", f"{{{{ {name} }}}}",
        f"${{{name}}}", f"{{{number - 1}}}", "{}", "%s", "%s", "%d", f"%({name})s", f"%({name})d", f"%{number}$s",
        f"%{number}$d", "%@", f'<x id="{number}"/>', f"<x{number}/>", f"{{{name}, number}}", f"<s{number}></s{number}>",
        f"`{name}`", f"`{name}()`",
    ))  # fmt: skip


def tags(rng: Random, *, is_new: bool) -> tuple[str, str]:
    """Draw a pair of codes that stand around a piece of text."""
    draw, name = rng.random(), _word(rng, SIMPLE_TAGS, is_new=is_new and rng.random() < 0.3)
    if draw < 0.45:
        return f"<{name}>", f"</{name}>"
    if draw < 0.6:
        number = 1 + int(rng.random() * 9)
        return pick(rng, ((f"<s{number}>", f"</s{number}>"), (f"<{number}>", f"</{number}>"),
                          (f'<g id="{number}">', "</g>"), (f"<s{number}>", f"</s{number}>")))  # fmt: skip
    if draw < 0.75:
        value = _word(rng, NAMES, is_new=is_new)
        colour = f"#{int(rng.random() * 900_000) + 100_000}" if is_new else pick(rng, COLOURS)
        return pick(rng, (
            (f'<a href="{url(rng, is_new=is_new)}">', "</a>"),
            (f'<span class="{value}">', "</span>"),
            (f'<font color="{colour}">', "</font>"),
            (f'<font color="{colour}">', "</font>"),
            (f"<c.{value}>", "</c>"),
        ))  # fmt: skip
    if draw < 0.93:
        link = f"]({url(rng, is_new=is_new)})"
        return pick(rng, (("**", "**"), ("**", "**"), ("*", "*"), ("~~", "~~"), ("[", link)))
    outer, inner = tags(rng, is_new=is_new), tags(rng, is_new=is_new)
    return outer[0] + inner[0], inner[1] + outer[1]
