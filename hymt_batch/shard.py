"""Which units of a prepared job one task translates: the setting shard.index, and how lists of units are written.

Units are counted from 0 in the order of the plan; see `write/shard_plan.py`. Knows no plan and no environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.setting import Operation

AUTO = "auto"
MAX_INDEX_CHARS = 1 << 20  # of a list of units
EXAMPLES = "Set shard.index=3, shard.index='0-7 9' or shard.index=auto."


@dataclass(kw_only=True, slots=True)
class ShardConfig:
    """Which share of a prepared job a task translates; conf/shard/ explains every field."""

    index: Operation[Any] = None
    per_task: Operation[int] = 1

    def __post_init__(self) -> None:
        if self.per_task < 1:
            raise ConfigError(f"shard.per_task={self.per_task} must be at least 1 shard", fix="Set shard.per_task=1.")
        if self.index is not None and self.index != AUTO:
            parse_units(self.index)

    @property
    def is_task(self) -> bool:
        """True if this process translates some units of a prepared job, and publishes nothing."""
        return self.index is not None

    def units(self, num_units: int, task: int | None) -> list[int]:
        """Return the units of this task, in order, each once.

        Args:
            num_units: Units of the plan.
            task: Number of the task, from 0, for shard.index=auto; None if the environment does not tell one.

        Raises:
            ConfigError: The plan has no such unit, or the number of the task is unknown.
        """
        if self.index != AUTO:
            units = parse_units(self.index)
            if units[-1] >= num_units:
                raise _beyond_error(f"shard.index={self.index} names shard {units[-1]}", num_units)
            return units
        if task is None:
            raise ConfigError(
                "shard.index=auto, but no array index is in the environment",
                why="a scheduler sets it for the tasks of an array",
                fix="Set shard.index=3, the number of this shard.",
            )
        first = task * self.per_task
        if first >= num_units:
            raise _beyond_error(
                f"task {task} with shard.per_task={self.per_task} begins at shard {first}", num_units, self.per_task
            )
        return list(range(first, min(first + self.per_task, num_units)))


def _beyond_error(what: str, num_units: int, per_task: int = 1) -> ConfigError:
    tasks = format_units(range(-(-num_units // per_task)))
    fix = f"The numbers are {tasks}." if num_units else "There is nothing to translate."
    return ConfigError(f"{what}, but the plan has {num_units} shard{'' if num_units == 1 else 's'}", fix=fix)


def parse_units(value: Any) -> list[int]:
    """Parse a list of units: 3, "0-7 9" or "0-7,9"; return them in order, each once.

    Raises:
        ConfigError: It is not such a list.
    """
    entries = value if isinstance(value, (list, tuple)) else [value]
    units: set[int] = set()
    words = [word for entry in entries for word in re.split(r"[\s,]+", str(entry)[:MAX_INDEX_CHARS].strip())]
    for word in words:
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
        if match is None or isinstance(value, bool):
            raise ConfigError(f"shard.index={value} is not a list of shards", why="counted from 0", fix=EXAMPLES)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 10_000_000:
            raise ConfigError(f"shard.index={value}: {word} is not a range of shards", fix=EXAMPLES)
        units.update(range(first, last + 1))
    return sorted(units)


def format_units(units: Iterable[int], max_ranges: int | None = None) -> str:
    """Return units, in order, as text that `sbatch --array=` and shard.index= take: 1,4-6.

    Args:
        units: The units.
        max_ranges: Shorten the text for a message to this many ranges.
    """
    ranges: list[Sequence[int]] = []
    for _, run in groupby(enumerate(units), key=lambda pair: pair[1] - pair[0]):
        numbers = [unit for _, unit in run]
        ranges.append((numbers[0], numbers[-1]))
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:max_ranges]]
    more = len(ranges) - len(texts)
    return ",".join(texts) + (f" and {more} more ranges" if more else "")


def tasks_of(units: Iterable[int], per_task: int) -> list[int]:
    """Return the tasks, of `per_task` units each, that have these units, in order."""
    return sorted({unit // per_task for unit in units})
