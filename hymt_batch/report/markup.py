"""Build HTML and SVG: a text is escaped unless this module made it, so that no text of a user can act as markup.

The only place that escapes. Characters that no reader can see, or that change the direction of what follows, are shown
as escapes such as `\\u202e`.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import TypeAlias

from hymt_batch.sanitize import redact

JOINERS = frozenset("\u200c\u200d")
"""Invisible characters without which words of Persian, the scripts of India and emoji are written wrongly."""

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Controls, direction marks, surrogates, private and unassigned characters, separators of lines."""

EMPTY_TAGS = frozenset({"meta", "br", "circle", "line", "path", "polyline", "rect"})

Child: TypeAlias = "Markup | str | Iterable[Child] | None"


class Markup(str):
    """Text that is markup; adding a plain text to it gives a plain text, which is escaped when it is used."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Return a text as markup that shows it: without secrets, and with its invisible characters as escapes."""
    text = redact(text)
    if not text.isprintable():
        text = "".join(map(_shown, text))
    return Markup(html.escape(text, quote=True))


def _shown(character: str) -> str:
    if character.isprintable() or character in JOINERS or unicodedata.category(character) not in HIDDEN_CATEGORIES:
        return character
    if character in "\n\t":
        return {"\n": "\\n", "\t": "\\t"}[character]
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        tag: Its name, and its classes after dots: `td.number`.
        children: Its content: markup as it is, texts escaped; iterables are flattened, None is left out.
        attributes: Its attributes; `_` in a name is `-`, a trailing one is left out (`class_`, `for_`). None and False
            leave an attribute out, True gives one without a value.
    """
    name, *classes = tag.split(".")
    words = [name]
    if classes:
        words.append(f'class="{escape(" ".join(classes))}"')
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escape(_text_of(value))}"')
    start = f"<{' '.join(words)}>"
    if name in EMPTY_TAGS:
        return Markup(start if name in ("meta", "br") else f"{start[:-1]}/>")
    return Markup(f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return what follows one another; texts are escaped."""
    return Markup("".join(map(_markup_of, children)))


def _markup_of(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, str):
        return child if isinstance(child, Markup) else escape(child)
    return join(child)


def _text_of(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def shorten(text: str, max_chars: int) -> str:
    """Return at most `max_chars` characters of a text; the last one of a shortened text is an ellipsis."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"
