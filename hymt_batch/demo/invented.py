"""Draw words that were never seen, which a model can only copy: names, placeholders, tags, addresses."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

NAMES = (
    "name", "city", "place", "count", "user", "value", "day", "date", "time", "total", "num", "temp", "speed", "level",
    "x", "n", "id", "title", "station", "percent",
)  # fmt: skip
LETTERS, CONSONANTS, VOWELS = "abcdefghijklmnopqrstuvwxyz", "bcdfghjklmnpqrstvwz", "aeiou"
SITES = (".com", ".org", ".net", ".fr", ".de", ".cn", ".example")


def pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


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
        f"%{number}$d", "%@", f'<x id="{number}"/>', f"<x{number}/>", f"{{{name}, number}}", f"<s{number}></s{number}>",
        f"`{name}`", f"`{name}()`",
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
