"""What discovery finds: the inputs of a job, and the files beside them that are not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

from hymt_batch.records import Input, SkippedFile


class FoundInputs(Sequence[Input]):
    """The inputs of a job, in the order of its outputs, and what was found beside them."""

    def __init__(self, inputs: Iterable[Input], named: Iterable[str], skipped: Iterable[SkippedFile]) -> None:
        self._inputs = tuple(inputs)
        self.named = frozenset(named)  # `rel`s of the inputs that a path names; the others were found
        self.skipped = tuple(skipped)  # files that were found and have the name of a format that is not read

    @overload
    def __getitem__(self, index: int) -> Input: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Input]: ...
    def __getitem__(self, index: int | slice) -> Input | Sequence[Input]:
        return self._inputs[index]

    def __len__(self) -> int:
        return len(self._inputs)

    def with_target(self, tgt_lang: str) -> FoundInputs:
        """Return the inputs of a job with this target language."""
        return FoundInputs([replace(input, tgt_lang=tgt_lang) for input in self._inputs], self.named, self.skipped)
