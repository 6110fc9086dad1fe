"""The Markdown parser that decides what is text: pyromark, with the extensions that real files use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

Event = tuple[Any, int, int]
"""An event of the parser, with the start and the end of its bytes."""

INLINE_TAGS = frozenset({"Emphasis", "Strong", "Strikethrough", "Link", "Image"})
INLINE_EVENTS = frozenset({"Text", "Code", "InlineMath", "DisplayMath", "InlineHtml", "FootnoteReference"})


@lru_cache(1)
def _options() -> Any:
    from pyromark import Options  # a compiled library, which most commands do not need

    return (
        Options.ENABLE_TABLES
        | Options.ENABLE_FOOTNOTES
        | Options.ENABLE_STRIKETHROUGH
        | Options.ENABLE_TASKLISTS
        | Options.ENABLE_MATH
        | Options.ENABLE_GFM
        | Options.ENABLE_HEADING_ATTRIBUTES
    )


def read_events(text: str, offset: int = 0) -> list[Event]:
    """Return the events of a text that begins at this offset of its file."""
    import pyromark

    return [
        (event, span["start"] + offset, span["end"] + offset)
        for event, span in pyromark.events_with_range(text, options=_options())
    ]


def read_tags(text: str, has_reference: Callable[[str], bool]) -> Iterator[Any]:
    """Yield the events of a fragment of a file; `has_reference` tells whether the file defines a link's label."""
    import pyromark

    def resolve(link: Any) -> tuple[str, str] | None:
        return ("", "") if has_reference(normal_label(link["reference"])) else None

    yield from pyromark.events(text, options=_options(), broken_link_callback=resolve if "[" in text else None)


def find_references(text: str) -> frozenset[str]:
    """Return the normal labels of the link reference definitions of a file."""
    import pyromark

    return frozenset(map(normal_label, pyromark.reference_definitions(text, options=_options())))


def normal_label(label: str) -> str:
    return " ".join(label.split()).casefold()
