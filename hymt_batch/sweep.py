"""The points of a sweep: every combination of the listed values, and the name of each one's folder.

A point's name depends on its own values alone, so that the same sweep finds its finished points again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

from hymt_batch.job_name import MAX_BYTES, to_folder_name
from hymt_batch.override import Override

MAX_LABEL_CHARS = 100
"""Of a point's name; a longer one becomes a hash."""


def expand_sweep(overrides: Sequence[Override]) -> list[tuple[str, list[Override]]]:
    """Every point of a sweep, the last key varying fastest.

    Args:
        overrides: As read with sweep=True.

    Returns:
        The point's name and its settings, one value each. The name is "" where nothing is swept; a swept `name` is
        not part of it, because it names the folder above.
    """
    swept = {override.key for override in overrides if override.is_swept and override.key != "name"}
    return [
        (point_label([override for override in point if override.key in swept]), list(point))
        for point in itertools.product(*(override.expand() for override in overrides))
    ]


def point_label(point: Sequence[Override]) -> str:
    """The folder of a point: its keys and values in the order of the alphabet.

    A hash follows where a character had to be replaced, and stands alone where the name would be too long, so that two
    points never share a folder.
    """
    if not point:
        return ""
    pairs = sorted((override.key, override.texts[0]) for override in point)
    whole = ",".join(f"{key}={text}" for key, text in pairs)
    plain = ",".join(f"{key}={to_folder_name(text)}" for key, text in pairs)
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()
    named = plain if plain == whole else f"{plain}-{digest[:8]}"
    return named if len(named) <= MAX_LABEL_CHARS and len(named.encode()) <= MAX_BYTES else digest[:16]
