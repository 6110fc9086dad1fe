"""Sizes in bytes, as users write them: 10GiB, 500 MB, 1048576."""

from __future__ import annotations

import re
from typing import Any

from hymt_batch.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


def parse_bytes(key: str, value: Any) -> int:
    """Parse a size such as 10GiB, 10GB, 500MiB, 1.5 GB, or a plain number of bytes.

    Args:
        key: Name of the setting, for the message.
        value: The size as the user wrote it.

    Returns:
        The size in bytes.

    Raises:
        ConfigError: The value is not a size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", str(value))
    unit = match[2].upper() if match else ""
    if match is None or isinstance(value, bool) or unit not in _UNITS:
        raise ConfigError(
            f"{key}={value} is not a size", fix="Write bytes, or a number with a unit such as 10GiB or 500MB.", id="C6"
        )
    return int(float(match[1]) * _UNITS[unit]) if "." in match[1] or unit else int(match[1])
