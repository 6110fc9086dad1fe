"""What an executor takes and gives: units of parts in, one result per part out; and where it stops.

Independent of how units are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from hymt_batch.records import Part, Prompt, Translation
from hymt_batch.signals import StopRequest


@dataclass(frozen=True, slots=True)
class PartResult:
    """A decoded part."""

    part: Part
    translations: Sequence[Translation]  # one flagged translation per prompt, in the order of the prompts
    environment: dict[str, Any]  # of the process that decoded it
    degraded: tuple[str, ...] = ()  # degradations, such as "bisected" or "oom_split", each once


@dataclass(frozen=True, slots=True)
class Unit:
    """Parts that are decoded as one batch: one part, or all parts of a run of small files.

    What is already committed is decoded again with the rest, because the text of a row may depend on its batch; so the
    text does not depend on where an earlier run stopped.
    """

    parts: Sequence[Part]
    missing: Sequence[Part]  # those that are not committed yet, in the same order; at least one
    prompts: Sequence[Prompt] = field(init=False)  # of all parts, in decoding order
    _positions: Sequence[int] = field(init=False)  # of each prompt, part by part, in `prompts`

    def __post_init__(self) -> None:
        prompts = [prompt for part in self.parts for prompt in part.prompts]
        order = list(range(len(prompts)))
        if len(self.parts) > 1:  # each part has its longest rows first, and so must the whole
            order.sort(key=lambda index: len(prompts[index].ids), reverse=True)
        positions = [0] * len(order)
        for position, index in enumerate(order):
            positions[index] = position
        object.__setattr__(self, "prompts", [prompts[index] for index in order])
        object.__setattr__(self, "_positions", positions)

    @classmethod
    def of_part(cls, part: Part) -> Unit:
        return cls((part,), (part,))

    def results(
        self, translations: Sequence[Translation], environment: dict[str, Any], degraded: Sequence[str]
    ) -> Iterator[PartResult]:
        """Yield the result of each missing part.

        Args:
            translations: One per prompt, in the order of `prompts`.
            environment: Of the process that decoded them.
            degraded: Degradations of the whole unit; repeated ones count once.
        """
        start, each_once = 0, tuple(dict.fromkeys(degraded))
        missing = {id(part) for part in self.missing}
        for part in self.parts:
            end = start + len(part.prompts)
            if id(part) in missing:
                own = [translations[position] for position in self._positions[start:end]]
                yield PartResult(part, own, environment, each_once)
            start = end


class Executor(Protocol):
    """Decodes units: in this process or in worker processes. It is open until the end of its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, units: Iterable[Unit]) -> Iterator[PartResult]:
        """Decode units, and yield their missing parts as they are finished.

        Units are pulled only as fast as they are decoded. After a stop request no further unit is pulled: only the
        parts of the units that are being decoded are yielded.

        Raises:
            HymtError: A unit cannot be decoded, or the grace period of a stop request is over.
        """
        ...


def units_until_stop(units: Iterable[Unit], stop: StopRequest) -> Iterator[Unit]:
    """Yield the units, until a stop is requested."""
    for unit in units:
        if stop.noticed("after a finished part"):
            return
        yield unit
