"""Parts that are under way: from the plan to the commit, and shards that are complete by it.

Does not know who decodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hymt_batch import check, languages, segment
from hymt_batch.breaker import Breaker
from hymt_batch.identity import environment
from hymt_batch.launch.pool import Task
from hymt_batch.progress import Progress, Telling, samples
from hymt_batch.records import Part, Prompt, Refusal, Segment, Shard, Translation
from hymt_batch.write.output import Output

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


class Desk:
    """Parts that are under way: from the plan to the commit."""

    def __init__(self, job: TranslateJob, output: Output, telling: Telling, progress: Progress) -> None:
        self._job, self._output, self._telling, self.progress = job, output, telling, progress
        self._breaker = Breaker(job.check)
        self._open: Counter[tuple[str, int]] = Counter()  # parts of a shard that are under way
        self._given: dict[tuple[str, int], Shard] = {}  # shards without further parts
        self.empty = True  # nothing is committed yet

    @property
    def worn(self) -> bool:
        """Whether a part took its process down too often."""
        return self._output.attempts.worn

    @property
    def busy(self) -> bool:
        """Whether parts are not committed yet."""
        return any(self._open.values())

    def hung(self) -> None:
        """Let the folder go, with the mark of the part that hangs."""
        self._output.close(orderly=False)

    @staticmethod
    def tokens(part: Part) -> int:
        return sum(one.num_source_tokens for one in part.prompts)

    def task(self, shard: Shard, part: Part, refused: Mapping[int, Refusal]) -> Task:
        """A part, on its way."""
        self._open[shard.input.file_id, shard.index] += 1
        return Task((shard, part, refused), part.prompts)

    def begin(self, task: Task) -> int:
        """Mark a try; see `Attempts.begin`."""
        return self._output.attempts.begin(task.key[0], task.key[1])

    def made_in(self, environment_of_replica: Mapping[str, Any]) -> None:
        self._output.made_in(environment(self._job, environment_of_replica))

    def settle(self, tasks: Iterable[Task]) -> None:
        """Commit what is done, and finish the shards that are complete by it."""
        for task in tasks:
            shard, part, refused = task.key
            made = [_of(one, task.results[place]) for place, one in enumerate(part.prompts)]
            rows = check.rows(
                part, shard.documents, made, refused, join, one_line=self._output.holds_one_line(shard.input)
            )
            self._output.commit(shard, part, rows, degraded=tuple(dict.fromkeys(task.notes)))
            self.empty = False
            if len(self._telling.pairs) < self._job.launch.samples:
                texts = {document.row: document.text for document in shard.documents}
                self._telling.pairs += samples(texts, rows, self._job.launch.samples - len(self._telling.pairs))
            self.progress.part(len(rows), self.tokens(part), Counter(flag for row in rows for flag in row.flags))
            self._breaker.look(shard.input.rel, rows)
            self._open[shard.input.file_id, shard.index] -= 1
            self._finish(shard.input.file_id, shard.index)

    def all_given(self, shard: Shard) -> None:
        """All parts of a shard are committed or under way."""
        self._given[shard.input.file_id, shard.index] = shard
        self._finish(shard.input.file_id, shard.index)

    def _finish(self, file_id: str, index: int) -> None:
        if not self._open[file_id, index] and (shard := self._given.pop((file_id, index), None)) is not None:
            del self._open[file_id, index]
            self._output.finish(shard)


def join(segments: Sequence[Segment], texts: Sequence[str], tgt_lang: str) -> str:
    """Join the texts of one document as its target language writes them."""
    return segment.join(segments, texts, spaced=languages.get(tgt_lang).spaced)


def _of(prompt: Prompt, translation: Translation) -> Translation:
    """A translation with its prompt, which workers leave out."""
    return translation if translation.prompt is prompt else replace(translation, prompt=prompt)
