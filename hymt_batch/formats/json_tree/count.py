"""Count the places of a published JSON tree, for `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.json_tree.plural_categories import MOST_CATEGORIES, MOST_ORDINAL
from hymt_batch.formats.spliced import PlaceOptions, read_published


def count_rows(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
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
