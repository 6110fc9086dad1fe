"""The record of the format json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.json_tree.plural_categories import MOST_CATEGORIES, MOST_ORDINAL
from hymt_batch.formats.json_tree.writer import JsonTreeWriter
from hymt_batch.formats.spliced import PlaceOptions, read_published, spliced_format


def _count_rows(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
    """Count the places of a published file, of which some may be plural forms that were not inserted.

    See `Format.count_rows`.
    """
    options = PlaceOptions.of(source_settings.get)
    file = JsonTreeFile(read_published(path, source_settings))
    fewest, cardinal, ordinal = (
        sum(1 for _ in file.places(replace(options, tgt_lang=language)))
        for language in ("", MOST_CATEGORIES, MOST_ORDINAL)
    )
    return set(range(fewest, cardinal + ordinal - fewest + 1))


FORMAT = spliced_format(
    JsonTreeFile,
    name="json",
    about="JSON trees of keys (.json, .arb); all strings",
    extension=".json",
    input_extensions=(".json",),
    head_extensions={".arb": re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")},
    source_settings=("encoding", "keys", "skip_keys", "add_plural_forms"),
    escapes_characters=True,
    open_writer=JsonTreeWriter,
    count_rows=_count_rows,
)
