"""What an executor takes and gives: units of parts in, one result per part out; and where it stops.

Independent of how parts are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from hymt_batch.records import Part, Translation
from hymt_batch.signals import StopRequest

Unit: TypeAlias = Sequence[Part]
"""Parts that are handed over together: one part, or several of one shard. Each is decoded and committed by itself."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """A decoded part."""

    part: Part
    translations: Sequence[Translation]  # one flagged translation per prompt, in the order of the prompts
    environment: dict[str, Any]  # of the process that decoded it
    degraded: tuple[str, ...] = ()  # degradations, such as "bisected" or "oom_split", each once


class Executor(Protocol):
    """Decodes units: in this process or in worker processes. It is open until the end of its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, units: Iterable[Unit]) -> Iterator[PartResult]:
        """Decode units, and yield their parts as they are finished.

        Units are pulled only as fast as parts are decoded. After a stop request no further unit is pulled: only the
        parts that are being decoded are yielded.

        Raises:
            HymtError: A part cannot be decoded, or the grace period of a stop request is over.
        """
        ...


def parts_until_stop(units: Iterable[Unit], stop: StopRequest) -> Iterator[Part]:
    """Yield the parts of the units, until a stop is requested."""
    for unit in units:
        for part in unit:
            if stop.noticed("after a finished part"):
                return
            yield part
