"""The record of the format Markdown."""

from __future__ import annotations

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.spliced import spliced_format
from hymt_batch.records import Document


def _can_hold(document: Document, text: str) -> bool:
    return text == document.text or document.values.place.context.write(text) is not None


FORMAT = spliced_format(
    Deferred("hymt_batch.formats.markdown.blocks", "MarkdownFile"),
    name="markdown",
    about="Markdown; paragraphs, headings, list items and table cells",
    extension=".md",
    input_extensions=(".md", ".markdown"),
    source_settings=("encoding",),
    can_hold=_can_hold,
)
