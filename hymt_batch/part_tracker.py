"""Parts that are under way: from the plan to the commit, and shards that are complete by it.

Does not know who decodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hymt_batch import check, languages, segment
from hymt_batch.breaker import CircuitBreaker
from hymt_batch.identity import build_environment
from hymt_batch.launch.pool import Task
from hymt_batch.progress import Progress, Reporter, sample_pairs
from hymt_batch.records import Part, Prompt, Rejection, Segment, Shard, Translation
from hymt_batch.write.output import Output

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


class PartTracker:
    """Parts that are under way: from the plan to the commit."""

    def __init__(self, job: TranslateJob, output: Output, reporter: Reporter, progress: Progress) -> None:
        self._job, self._output, self._reporter, self.progress = job, output, reporter, progress
        self._breaker = CircuitBreaker(job.check)
        self._num_open_parts: Counter[tuple[str, int]] = Counter()  # parts of a shard that are under way
        self._submitted_shards: dict[tuple[str, int], Shard] = {}  # shards without further parts
        self.nothing_committed = True  # nothing is committed yet

    @property
    def needs_isolation(self) -> bool:
        """Whether a part took its process down too often."""
        return self._output.attempts.needs_isolation

    @property
    def has_open_parts(self) -> bool:
        """Whether parts are not committed yet."""
        return any(self._num_open_parts.values())

    def on_hang(self) -> None:
        """Let the folder go, with the mark of the part that hangs."""
        self._output.close(orderly=False)

    @staticmethod
    def num_source_tokens(part: Part) -> int:
        return sum(one.num_source_tokens for one in part.prompts)

    def open_task(self, shard: Shard, part: Part, rejected: Mapping[int, Rejection]) -> Task:
        """A part, on its way."""
        self._num_open_parts[shard.input.file_id, shard.index] += 1
        return Task((shard, part, rejected), part.prompts)

    def begin_attempt(self, task: Task) -> int:
        """Mark a try; see `Attempts.begin`."""
        return self._output.attempts.begin(task.key[0], task.key[1])

    def set_environment(self, replica_environment: Mapping[str, Any]) -> None:
        self._output.set_environment(build_environment(self._job, replica_environment))

    def commit(self, tasks: Iterable[Task]) -> None:
        """Commit what is done, and finish the shards that are complete by it."""
        for task in tasks:
            shard, part, refused = task.key
            made = [_with_prompt(one, task.results[place]) for place, one in enumerate(part.prompts)]
            rows = check.assemble_rows(
                part, shard.documents, made, refused, join, one_line=self._output.is_one_line(shard.input)
            )
            self._output.commit(shard, part, rows, degraded=tuple(dict.fromkeys(task.marks)))
            self.nothing_committed = False
            if len(self._reporter.sample_pairs) < self._job.launch.samples:
                texts = {document.row_index: document.text for document in shard.documents}
                self._reporter.sample_pairs += sample_pairs(
                    texts, rows, self._job.launch.samples - len(self._reporter.sample_pairs)
                )
            self.progress.add_part(
                len(rows), self.num_source_tokens(part), Counter(flag for row in rows for flag in row.flags)
            )
            self._breaker.observe(shard.input.rel, rows)
            self._num_open_parts[shard.input.file_id, shard.index] -= 1
            self._finish_if_complete(shard.input.file_id, shard.index)

    def mark_submitted(self, shard: Shard) -> None:
        """All parts of a shard are committed or under way."""
        self._submitted_shards[shard.input.file_id, shard.index] = shard
        self._finish_if_complete(shard.input.file_id, shard.index)

    def _finish_if_complete(self, file_id: str, index: int) -> None:
        if (
            not self._num_open_parts[file_id, index]
            and (shard := self._submitted_shards.pop((file_id, index), None)) is not None
        ):
            del self._num_open_parts[file_id, index]
            self._output.finish_shard(shard)


def join(segments: Sequence[Segment], texts: Sequence[str], tgt_lang: str) -> str:
    """Join the texts of one document as its target language writes them."""
    return segment.join(segments, texts, spaced=languages.get(tgt_lang).spaced)


def _with_prompt(prompt: Prompt, translation: Translation) -> Translation:
    """A translation with its prompt, which workers leave out."""
    return translation if translation.prompt is prompt else replace(translation, prompt=prompt)
