"""What worker processes decode of a unit: the whole unit, or pieces of one that ended its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hymt_batch.records import Prompt, Translation
from hymt_batch.run.unit import Unit


@dataclass(eq=False, slots=True)
class RunningUnit:
    """A unit that waits for a worker or is being decoded."""

    unit: Unit
    tries: int = 0  # attempts at the whole unit, in this run and earlier ones
    translations: dict[int, Translation] = field(default_factory=dict)  # by index of the prompt
    degraded: list[str] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Piece:
    """Prompts of a unit that one worker decodes together."""

    of: RunningUnit
    indices: Sequence[int]  # indices of the unit's prompts
    deaths: int = 0  # number of workers that died while decoding it, in this run

    @property
    def is_whole_unit(self) -> bool:
        return len(self.indices) == len(self.of.unit.prompts)


def quarantined_translation(prompt: Prompt, reason: str) -> Translation:
    """Return the result of a segment that killed its worker on its own."""
    return Translation(prompt, "", "crash", message=f"decoding this row alone ended the process ({reason})")
