"""The points of a sweep: every combination of the listed values, and the folder name of each point.

The name of a point depends only on the values of this point, so that a repeated sweep finds its finished points.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from hymt_batch import languages
from hymt_batch.cli.job_name import MAX_BYTES, to_folder_name
from hymt_batch.cli.override import Override
from hymt_batch.cli.validate import LANGUAGE_KEYS
from hymt_batch.errors import ConfigError

T = TypeVar("T")

MAX_LABEL_CHARS = 100
"""Maximum length of a point's name; a longer name is replaced by a hash."""


def expand_sweep(overrides: Sequence[Override]) -> list[tuple[str, list[Override]]]:
    """Return every point of a sweep; the last key varies fastest. A point that is listed twice is one point.

    Args:
        overrides: Parsed with sweep=True.

    Returns:
        Per point its label and its overrides, each with one value. The label is "" if no setting is swept. A swept
        `name` is not part of the label, because it names the parent folder.
    """
    swept = {override.key for override in overrides if override.is_swept and override.key != "name"}
    points: dict[tuple[str, ...], tuple[str, list[Override]]] = {}
    for point in itertools.product(*(override.expand() for override in overrides)):
        label = point_label([override for override in point if override.key in swept])
        name = [override.texts[0] for override in point if override.key == "name"]
        points.setdefault((label, *name), (label, list(point)))
    return list(points.values())


def in_run_order(points: Sequence[T], model_settings: Callable[[T], object]) -> list[T]:
    """Return the points of a sweep so that those with equal settings of the model follow one another.

    Args:
        points: In the order of the command line, which is kept as far as possible.
        model_settings: Returns what must be equal for two points to share a loaded model.
    """
    groups: list[tuple[object, list[T]]] = []  # a list, because the settings cannot be hashed
    for point in points:
        settings = model_settings(point)
        group = next((members for known, members in groups if known == settings), None)
        if group is None:
            groups.append((settings, group := []))
        group.append(point)
    return [point for _, members in groups for point in members]


def point_label(point: Sequence[Override]) -> str:
    """Return the folder name of a point: its keys and values in alphabetical order, a language by its code.

    If a character had to be replaced, a hash is appended; if the name would be too long, the hash alone is the name. So
    two points never share a folder.
    """
    if not point:
        return ""
    pairs = sorted((override.key, _label_text(override)) for override in point)
    whole = ",".join(f"{key}={text}" for key, text in pairs)
    plain = ",".join(f"{key}={to_folder_name(text)}" for key, text in pairs)
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()
    label = plain if plain == whole else f"{plain}-{digest[:8]}"
    return label if len(label) <= MAX_LABEL_CHARS and len(label.encode()) <= MAX_BYTES else digest[:16]


def _label_text(override: Override) -> str:
    """Return a value as the label has it: two spellings of one language are one point."""
    text = override.texts[0]
    if override.key not in LANGUAGE_KEYS:
        return text
    try:
        return languages.understand(text).language.code
    except ConfigError:
        return text
