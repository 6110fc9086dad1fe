"""Recognise a split that `datasets.save_to_disk` saved. Imports no reader."""

from __future__ import annotations

import os

STATE_FILE = "state.json"


def is_saved_split(folder: str) -> bool:
    """Return whether a folder is one split saved by `datasets.save_to_disk`."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (STATE_FILE, "dataset_info.json"))
