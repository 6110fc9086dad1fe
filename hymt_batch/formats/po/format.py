"""The record of gettext catalogues, for the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.spliced import PlaceOptions, read_published, spliced_format

_parse = Deferred("hymt_batch.formats.po.catalogue", "Catalogue")


def _count_rows(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
    """Return how many entries and forms the job can have translated; see `Format.count_rows`.

    An output does not tell which of its translations are new, unless all are.
    """
    options = PlaceOptions.of(source_settings.get)
    left, every = _parse(read_published(path, {})).count_places(options)
    return {every} if options.entries == "all" else set(range(left, every + 1))


FORMAT = spliced_format(
    _parse,
    name="po",
    about="Gettext catalogues; the entries without a translation",
    extension=".po",
    input_extensions=(".po", ".pot"),
    text_start=re.compile(rb'(?:#[^\n]*+\n|\s++)*+(?:msgid|msgctxt)[ \t]*+"'),
    source_settings=("entries",),
    open_writer=Deferred("hymt_batch.formats.po.writer", "CatalogueWriter"),
    count_rows=_count_rows,
)
