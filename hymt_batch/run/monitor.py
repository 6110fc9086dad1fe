"""What is told while a job runs: its progress, a few translations, and the circuit breaker.

Independent of where parts are decoded and how they are written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from hymt_batch import batch
from hymt_batch.check import assemble
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.records import Input, Part, Row, Shard, ShardRecord, Status
from hymt_batch.run.breaker import CircuitBreaker
from hymt_batch.run.progress import Progress
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import run_progress
from hymt_batch.write.output import Output
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.timeline import Interval, Timeline

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

SAVE_EVERY_S = 10.0
"""Time between two records of the progress in the folder, in seconds; each is one small file that is synced."""


class Monitor:
    """Follows the parts of a running job; stops the job if its translations are unusable."""

    def __init__(
        self,
        job: TranslateJob,
        reporter: Reporter,
        total_units: int | None,
        inputs: Sequence[Input] = (),
        output: Output | None = None,
    ) -> None:
        """Start the clock.

        Args:
            job: All settings.
            reporter: Where the progress is shown.
            total_units: See `Progress`; if it is unknown, the size is source.limit, in rows.
            inputs: The inputs of the job, in order.
            output: The output folder, which keeps the progress for `status`; None if it is only shown.
        """
        self._max_samples, self._reporter = job.launch.samples, reporter
        self._counts_rows = total_units is None and job.source.limit is not None
        total_units = job.source.limit if self._counts_rows else total_units
        self._progress = Progress(reporter, job.launch.log_every_s, total_units)
        self._progress.num_files = len(inputs)
        self._last_file_id = inputs[-1].file_id if inputs else None
        self._row_segments_done: Counter[str] = Counter()  # committed segments of divided rows, by row
        self._output, self._saved_at = output, -SAVE_EVERY_S
        self._check, self._breaker = job.check, CircuitBreaker(job.check)
        self._timeline = Timeline(_earlier_intervals(output))

    def __enter__(self) -> Monitor:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._count_files()
        self._progress.__exit__()
        self._save(at_once=True)

    def refresh(self) -> None:
        """Update the display while nothing is decoded."""
        self._progress.refresh()

    def status_line(self) -> str:
        """Return one line with rows, speed, time left and flags."""
        return self._progress.status_line()

    def add_batch(self, segments: int, new_tokens: int) -> None:
        """Count a decoded batch; its rows are not committed yet."""
        self._progress.add_batch(segments, new_tokens)
        self._timeline.add(new_tokens=new_tokens)

    def skip_shard(self, input: Input, record: ShardRecord) -> None:
        """Count a shard whose parts were all committed by earlier runs, and whose rows were not read again."""
        self._count_files()
        self._progress.add_kept_shard(record.num_rows, self._num_units(record), last=self._is_last(input, record))

    def add_shard(self, shard: Shard, parts: Sequence[Part]) -> None:
        """Count a shard that was read, and what is to be decoded of it."""
        prompts = [prompt for part in parts for prompt in part.prompts]
        self._progress.add_shard(
            self._num_units(shard),
            sum(part.num_source_tokens for part in parts),
            last=self._is_last(shard.input, shard),
            rows=len({prompt.segment.document_index for prompt in prompts}),
            segments=len(prompts),
            parts=sum(len(part.run_lengths) or 1 for part in parts),
            all_rows=len(shard.documents),
        )
        self._save()

    def end_of_input(self) -> None:
        """Record that everything was read."""
        self._progress.end_of_input()

    def skip_part(self, part: Part) -> None:
        """Count a part that an earlier run committed; of a divided row, all its runs, or one of them."""
        self._progress.add_kept_part(len(part.document_indices), part.num_source_tokens, len(part.run_lengths) or 1)
        if part.run is not None:
            self._row_segments_done[part.prompts[0].row_id] += len(part.prompts)

    def begin_part(self, part: Part) -> None:
        """Record that a part is about to be decoded."""
        self._timeline.begin()
        self._progress.begin_part(*batch.longest_row(part), part.num_source_tokens)
        if part.run is not None:
            row = part.prompts[0].row_id
            self._progress.begin_run(row, len(part.run.of.prompts), self._row_segments_done[row])

    def add_part(self, part: Part, rows: Sequence[Row], *, one_line: bool) -> None:
        """Count a committed part, and keep its first rows for the summary.

        Args:
            part: The part, or a run of a divided row.
            rows: The rows that were committed with it; they are counted as they will be written.
            one_line: See `assemble.shape_row`.

        Raises:
            PreflightError: Too many of the translations are unusable; see `CircuitBreaker`.
        """
        documents, first_row = part.shard.documents, part.shard.first_row
        rows = [assemble.shape_row(documents[r.row_index - first_row], r, one_line, self._check) for r in rows]
        pairs = self._reporter.sample_pairs
        if len(pairs) < self._max_samples:
            texts = {document.row_index: document.text for document in documents}
            pairs += sample_pairs(texts, rows, self._max_samples - len(pairs))
        flags = Counter(flag for row in rows for flag in row.flags)
        self._count_files()
        self._progress.add_part(len(rows), part.num_source_tokens, flags, len(part.prompts))
        self._timeline.add(rows=len(rows))
        if part.run is not None:
            self._row_segments_done[part.prompts[0].row_id] += len(part.prompts)
        self._save()
        of_rows = [documents[row.row_index - first_row] for row in rows]
        sources = {document.row_index: document.text for document in of_rows if document.text}
        self._breaker.observe({document.row_index: document.id for document in of_rows}, rows, sources)

    def _num_units(self, shard: Shard | ShardRecord) -> int:
        """Return the size of a shard in bytes or in rows; the first one of a file has what precedes its rows."""
        if self._counts_rows:
            return shard.num_rows if isinstance(shard, ShardRecord) else sum(map(ends_row, shard.documents))
        return shard.end - (shard.start if shard.index else 0)

    def _is_last(self, input: Input, shard: Shard | ShardRecord) -> bool:
        return shard.last and input.file_id == self._last_file_id

    def _count_files(self) -> None:
        if self._output is not None:
            self._progress.num_files_done = self._output.num_published

    def _save(self, *, at_once: bool = False) -> None:
        """Write the progress into the folder, for `status`; not more often than SAVE_EVERY_S, unless `at_once`."""
        now = time.monotonic()
        if self._output is None or (now - self._saved_at < SAVE_EVERY_S and not at_once):
            return
        self._saved_at, progress = now, self._progress
        num_rows, is_estimate = progress.num_rows()
        saved = RunProgress(
            self._check.max_error_rate,
            self._check.max_failed_files,
            num_rows,
            is_estimate,
            progress.share(),
            progress.eta_s(),
            timeline=self._timeline.intervals(),
        )
        self._output.save_progress(saved)
        if self._reporter.run_status is not None:
            self._reporter.run_status.update(
                saved,
                rows=progress.rows + progress.kept_rows,
                files=progress.num_files_done,
                files_total=progress.num_files,
                flags=dict(progress.flags),
            )


def _earlier_intervals(output: Output | None) -> tuple[Interval, ...]:
    """Return the timeline of the job's earlier runs; () for a job that this run created."""
    if output is None:
        return ()
    recorded = run_progress.read(output.fs, output.folder)
    created = datetime.fromisoformat(output.job_record.created).timestamp()
    return tuple(interval for interval in recorded.timeline if interval.end >= created) if recorded else ()


def sample_pairs(texts: Mapping[int, str | None], rows: Sequence[Row], limit: int) -> list[tuple[str, str]]:
    """Return the first `limit` (source, translation) pairs of a part; `texts` maps a row index to its source."""
    pairs = ((texts[row.row_index] or "", row.text) for row in rows if row.status is Status.OK and row.text)
    return list(islice(pairs, limit))
