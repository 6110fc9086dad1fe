"""Track open parts from the plan to the commit, and finish a shard when its last part is committed.

Independent of how parts are decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hymt_batch import segment
from hymt_batch.check import assemble
from hymt_batch.records import Part, Prompt, Shard, Translation
from hymt_batch.run.breaker import CircuitBreaker
from hymt_batch.run.identity import build_environment
from hymt_batch.run.monitor import Progress, sample_pairs
from hymt_batch.run.reporter import Reporter
from hymt_batch.run.worker_pool import Task
from hymt_batch.write.output import Output

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


class PartTracker:
    """Tracks the open parts of a job: those that are planned but not committed."""

    def __init__(self, job: TranslateJob, output: Output, reporter: Reporter, progress: Progress) -> None:
        self._job, self._output, self._reporter, self.progress = job, output, reporter, progress
        self._breaker = CircuitBreaker(job.check)
        self._num_open_parts: Counter[tuple[str, int]] = Counter()  # open parts by shard
        self._submitted_shards: dict[tuple[str, int], Shard] = {}  # shards whose parts are all submitted
        self.nothing_committed = True

    @property
    def needs_isolation(self) -> bool:
        """True if decoding some part has ended its process too often."""
        return self._output.attempts.needs_isolation

    @property
    def has_open_parts(self) -> bool:
        """True while some parts are not committed."""
        return any(self._num_open_parts.values())

    def on_hang(self) -> None:
        """Release the lease but keep the attempt marker of the hung part."""
        self._output.close(orderly=False)

    def open_task(self, part: Part) -> Task:
        """Count a part as open and return its task."""
        self._num_open_parts[part.shard.input.file_id, part.shard.index] += 1
        return Task(part, part.prompts)

    def begin_attempt(self, task: Task) -> int:
        """Write an attempt marker; see `AttemptMarkers.begin`."""
        return self._output.attempts.begin(task.part.shard, task.part)

    def set_environment(self, replica_environment: Mapping[str, Any]) -> None:
        self._output.set_environment(build_environment(self._job, replica_environment))

    def commit(self, tasks: Iterable[Task]) -> None:
        """Commit finished tasks, and finish the shards that this completes."""
        for task in tasks:
            part, shard = task.part, task.part.shard
            translations = [_with_prompt(prompt, task.results[index]) for index, prompt in enumerate(part.prompts)]
            rows = assemble.assemble_rows(
                part, translations, segment.join_translations, one_line=self._output.is_one_line(shard.input)
            )
            self._output.commit(shard, part, rows, degraded=tuple(dict.fromkeys(task.marks)))
            self.nothing_committed = False
            if len(self._reporter.sample_pairs) < self._job.launch.samples:
                texts = {document.row_index: document.text for document in shard.documents}
                self._reporter.sample_pairs += sample_pairs(
                    texts, rows, self._job.launch.samples - len(self._reporter.sample_pairs)
                )
            self.progress.add_part(
                len(rows), part.num_source_tokens, Counter(flag for row in rows for flag in row.flags)
            )
            self._breaker.observe(shard.input.rel, rows)
            self._num_open_parts[shard.input.file_id, shard.index] -= 1
            self._finish_if_complete(shard.input.file_id, shard.index)

    def mark_submitted(self, shard: Shard) -> None:
        """Record that all parts of a shard are committed or open, and finish the shard if none is open."""
        self._submitted_shards[shard.input.file_id, shard.index] = shard
        self._finish_if_complete(shard.input.file_id, shard.index)

    def _finish_if_complete(self, file_id: str, index: int) -> None:
        if (
            not self._num_open_parts[file_id, index]
            and (shard := self._submitted_shards.pop((file_id, index), None)) is not None
        ):
            del self._num_open_parts[file_id, index]
            self._output.finish_shard(shard)


def _with_prompt(prompt: Prompt, translation: Translation) -> Translation:
    """Add the prompt to a translation; workers send translations without prompts."""
    return translation if translation.prompt is prompt else replace(translation, prompt=prompt)
