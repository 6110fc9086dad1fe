"""The record of the format Markdown."""

from __future__ import annotations

from functools import partial

from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.markdown.blocks import MarkdownFile
from hymt_batch.formats.spliced import SplicedInput, SplicedWriter, count_places
from hymt_batch.records import Document


def _can_hold(document: Document, text: str) -> bool:
    return text == document.text or document.values.context.write(text) is not None


FORMAT = Format(
    name="markdown",
    about="Markdown; paragraphs, headings, list items and table cells",
    kind=Kind.SPLICED,
    addressing=Addressing.START,
    extension=".md",
    input_extensions=(".md", ".markdown"),
    has_fields=False,
    source_settings=("encoding",),
    can_hold=_can_hold,
    open_input=partial(SplicedInput, parse=MarkdownFile),
    open_writer=partial(SplicedWriter, parse=MarkdownFile),
    count_rows=partial(count_places, parse=MarkdownFile),
)
