"""Recognise the folders that `datasets.save_to_disk` wrote, and find the splits in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.format import Format

_SPLITS_FILE = "dataset_dict.json"


def is_dataset(folder: str) -> bool:
    """Return whether a folder was written by `datasets.save_to_disk`: one split, or a folder of splits."""
    return registry.of_folder(folder) is not None or os.path.isfile(os.path.join(folder, _SPLITS_FILE))


def find_splits(rel: str, path: str, split: str | None) -> Iterator[tuple[str, str, Format]]:
    """Yield relative name, folder and format of each split of a saved dataset.

    Args:
        rel: Relative name of the dataset.
        path: Its folder.
        split: The only split to read; None for all. Without effect on a dataset without splits.

    Raises:
        ConfigError: The dataset cannot be read, or has no such split.
    """
    if format := registry.of_folder(path):
        yield rel, path, format
        return
    try:
        names = [str(name) for name in json.loads(Path(path, _SPLITS_FILE).read_text(encoding="utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}/{_SPLITS_FILE} cannot be read ({error})", fix="Save the dataset again.") from error
    if split is not None:
        if split not in names:
            raise ConfigError(
                f"{path} has no split {split!r}", why=f"Its splits are {names}.", fix="Set source.split to one."
            )
        names = [split]
    for name in sorted(names):
        folder = os.path.join(path, name)
        if not (format := registry.of_folder(folder)):
            raise ConfigError(f"{folder} is missing or is not a saved split", fix="Save the dataset again.")
        yield f"{rel}/{name}", folder, format
