"""Schedule one group of slots: admit prompts, run a step for all rows, remove finished rows. Start at `slots.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hymt_batch.decode import prefill_group
from hymt_batch.decode.async_copy import AsyncCopy, SampledTokens, is_gpu
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.graph import bucket_slots
from hymt_batch.decode.known_layers import Layers
from hymt_batch.decode.model_runner import ModelRunner
from hymt_batch.decode.prefill_group import take_group
from hymt_batch.decode.request import Completion
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState, is_looping
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.memory import run_within_memory

REFILL_DIVISOR = 8
"""Prompts are admitted once 1/REFILL_DIVISOR of the slots is free: fewer small prefills, few idle slots."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """How one group of slots runs, whatever its prompts are."""

    max_rows: int  # maximum number of slots
    max_tokens: int  # maximum number of tokens of keys and values; a row that needs more runs alone
    # Steps whose tokens are read together; more than 1 saves waits for a GPU, but wastes steps on rows whose end is not
    # known yet.
    read_every: int = 1
    logprobs: bool = False  # True to keep the mean log-probability of the chosen tokens
    device_type: str = "cpu"  # prompts are grouped, and storage is laid out, for this type of device


class Scheduler:
    """The running rows in their slots, the waiting rows, and the completed ones."""

    def __init__(
        self,
        hymt: LoadedModel,
        sequences: Sequence[SequenceState],
        sampling_params: SamplingParams,
        limits: SlotLimits,
        counters: Counters,
        graph_runner: CudaGraphRunner | None = None,
        layers: Layers | None = None,
    ) -> None:
        self.hymt, self.sampling_params, self.counters = hymt, sampling_params, counters
        self.limits, self.graph_runner = limits, graph_runner
        self.max_rows = limits.max_rows  # fewer after memory ran out
        self.num_slots = self._slots_that_fit(sequences[0].max_length, len(sequences))
        self.waiting = deque(sequences)
        self.running: list[SequenceState] = []  # in slot order
        self.completions: dict[int, Completion] = {}
        self.runner: ModelRunner
        if graph_runner is None:
            self.runner = ModelRunner(
                hymt,
                sampling_params,
                self.num_slots,
                counters,
                logprobs=limits.logprobs,
                device_type=limits.device_type,
                layers=layers,
            )
        else:
            graph_runner.start(
                sampling_params,
                counters,
                self._storage_slots(self.num_slots, sequences[0].max_length),
                sequences[0].max_length,
                max_tokens=limits.max_tokens,
                read_every=limits.read_every,
                logprobs=limits.logprobs,
            )
            self.runner = graph_runner
        self.stop_ids = frozenset(hymt.tokenizer.stop_ids)
        self._unread: list[SampledTokens] = []
        # only with captured steps: tokens that are read while the next step runs
        self._pending_copy: AsyncCopy | None = None

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def _slot_tokens(self, max_length: int) -> int:
        """Return the tokens of storage for a row of `max_length` tokens."""
        return max_length if self.graph_runner is None else self.graph_runner.slot_tokens(max_length)

    def _slots_that_fit(self, max_length: int, num_rows: int) -> int:
        """Return how many slots rows of `max_length` tokens may have, at least 1."""
        return max(1, min(self.max_rows, self.limits.max_tokens // self._slot_tokens(max_length), num_rows))

    def _storage_slots(self, num_slots: int, max_length: int) -> int:
        """Return the slots to allocate for `num_slots` rows.

        With captured steps these are whole buckets, if they fit, so that parts of any number of rows share graphs.
        """
        if self.graph_runner is None:
            return num_slots
        return bucket_slots(num_slots, self._slots_that_fit(max_length, self.max_rows))

    def admit(self) -> None:
        """Move waiting prompts into slots, if enough slots are free."""
        if self.waiting:
            self._grow()
        free = self.num_slots - len(self.running)
        if not self.waiting or (self.running and free < max(1, self.num_slots // REFILL_DIVISOR)):
            return
        while self.waiting and len(self.running) < self.num_slots:
            free, common = self.num_slots - len(self.running), self.runner.prefix_length
            group = take_group(self.waiting, free, common, prefill_group.limits_for(self.limits.device_type))
            if not self._run_within_memory(lambda group=group: self._prefill(group)):  # type: ignore[misc]
                self._requeue(group)

    def _prefill(self, group: Sequence[SequenceState]) -> None:
        self._unread.append(self.runner.prefill(group, len(self.running)))
        self.running += group

    def _requeue(self, group: list[SequenceState]) -> None:
        """Requeue a group whose prefill ran out of memory, and use fewer slots; a prompt that ran alone fails."""
        if len(group) == 1 and not self.running:
            self.completions[group[0].index] = Completion([], "memory")
            return
        for row in group:
            row.reset()
        self.waiting.extendleft(reversed(group))
        self._shrink(max(1, len(self.running) + len(group) // 2, self.num_slots // 2))

    def _shrink(self, num: int) -> None:
        """Reduce the number of slots; if even that runs out of memory, all running rows start over."""
        self.num_slots = self.max_rows = min(num, self.num_slots)
        if not self._run_within_memory(lambda: self.runner.resize(self.num_slots)):
            self._preempt(self.running)
            self.running = []
            self.runner = self.runner.recreate(self.num_slots)

    def _preempt(self, sequences: Sequence[SequenceState]) -> None:
        """Put these rows back at the front of the queue, in their order; they start over."""
        preempted = {row.index for row in sequences}
        self._unread = [_drop_sequences(sampled, preempted) for sampled in self._unread]
        for row in reversed(sequences):
            row.reset()
            self.waiting.appendleft(row)

    def _grow(self) -> None:
        """Add slots, if they fit: rows are sorted longest first, so more rows fit once the longest have finished."""
        widest = max(row.max_length for row in (*self.running, self.waiting[0]))
        new_num_slots = self._slots_that_fit(widest, len(self.running) + len(self.waiting))
        if new_num_slots > self.num_slots + self.num_slots // REFILL_DIVISOR:
            longest = max((row.position + 1 for row in self.running), default=0)
            storage_slots = self._storage_slots(new_num_slots, widest)
            if self._run_within_memory(lambda: self.runner.resize(storage_slots, longest, widest)):
                self.num_slots = new_num_slots
            else:
                self.max_rows = self.num_slots

    def step(self) -> None:
        """Start a step for every running row. Its tokens are known after `collect`."""
        if self.graph_runner is not None and len(self._unread) >= self.limits.read_every:
            self._pending_copy, self._unread = AsyncCopy(self._unread), []
        if self.running and not self._run_within_memory(lambda: self._unread.append(self.runner.step(self.running))):
            if self._pending_copy is not None:
                self._unread, self._pending_copy = list(self._pending_copy.sampled), None
            self._preempt_half()

    @property
    def must_collect(self) -> bool:
        """True if tokens must be read now: enough steps were launched, or a row reached its limit.

        Captured steps are cheap. So another step runs while the tokens of earlier ones are read, and a row at its limit
        takes part in a few more steps, whose tokens are ignored.
        """
        if self.graph_runner is not None:
            return self._pending_copy is not None
        return len(self._unread) >= self.limits.read_every or any(
            row.num_new_tokens >= row.max_new_tokens for row in self.running
        )

    def _preempt_half(self) -> None:
        """Preempt the newer half of the rows after a step ran out of memory; they start over later in fewer slots."""
        keep = len(self.running) // 2
        if keep == 0:
            row = self.running.pop()
            self._unread = []
            self.completions[row.index] = Completion([], "memory")
            return
        preempted, self.running = self.running[keep:], self.running[:keep]
        self._preempt(preempted)
        self._shrink(keep)

    def collect(self) -> list[SequenceState]:
        """Read the sampled tokens; finished rows leave their slots, and the rows of the last slots fill the gaps.

        Returns:
            The rows that finished.
        """
        for sampled in self._wait_for_tokens():
            self._append_tokens(sampled)
        finished = [slot for slot, row in enumerate(self.running) if row.index in self.completions]
        for slot in finished:
            if self.completions[self.running[slot].index].finish_reason == "non_finite":
                # masking would not protect the next row in this slot, because 0 * NaN is NaN
                self.runner.cache.clear(slot)
        rows = [self.running[slot] for slot in finished]
        self._close_gaps(finished)
        return rows

    def _close_gaps(self, finished: Sequence[int]) -> None:
        """Remove the rows of the slots `finished` (ascending); the last rows move into the gaps, all in one copy."""
        num_left = len(self.running) - len(finished)
        targets, gone = [slot for slot in finished if slot < num_left], set(finished)
        sources = [slot for slot in range(len(self.running) - 1, num_left - 1, -1) if slot not in gone]
        if targets:
            self.runner.move(sources, targets, max(self.running[slot].position + 1 for slot in sources))
        for source, target in zip(sources, targets, strict=True):
            self.running[target] = self.running[source]
        del self.running[num_left:]

    def _wait_for_tokens(self) -> Sequence[SampledTokens]:
        """Wait for the unread tokens and return them on the host."""
        if self.graph_runner is not None:
            copy, self._pending_copy = self._pending_copy, None
        else:
            unread, self._unread = self._unread, []
            if not is_gpu(self.hymt.device):
                self.counters.host_reads += bool(unread)
                return unread
            copy = AsyncCopy(unread) if unread else None
        self.counters.host_reads += copy is not None
        return copy.wait() if copy else []

    def _append_tokens(self, sampled: SampledTokens) -> None:
        tokens, finite = sampled.tokens.tolist(), sampled.finite.tolist()
        logprobs = [0.0] * len(tokens) if sampled.logprobs is None else sampled.logprobs.tolist()
        for row, token, is_finite, logprob in zip(sampled.sequences, tokens, finite, logprobs, strict=True):
            row.num_unread -= 1
            if row.index in self.completions:
                continue  # this token was sampled before the end of the row was known
            row.sum_logprob += logprob
            if not is_finite:
                self.completions[row.index] = Completion([], "non_finite")
            elif token in self.stop_ids:
                self._finish(row, "stop", len(row.new_ids))
            else:
                row.new_ids.append(token)
                if self.sampling_params.stop_loops and is_looping(row.new_ids, row.prompt_ids):
                    self._finish(row, "loop", len(row.new_ids) - 1)
                elif len(row.new_ids) >= row.max_new_tokens:
                    self._finish(row, "length", len(row.new_ids) - 1)

    def _finish(self, sequence: SequenceState, reason: str, steps: int) -> None:
        self.counters.useful_row_steps += steps
        mean = sequence.sum_logprob / (steps + 1) if self.runner.logprobs else None
        self.completions[sequence.index] = Completion(sequence.new_ids, reason, mean)

    def _run_within_memory(self, work: Callable[[], object]) -> bool:
        """Run `work`; return False if memory ran out, after freeing what can be freed."""
        fits = run_within_memory(lambda: (work(),), self.hymt.device) is not None
        self.counters.out_of_memory += not fits
        return fits


def _drop_sequences(sampled: SampledTokens, dropped: set[int]) -> SampledTokens:
    """Return the sampled tokens without those of rows that start over."""
    kept = [index for index, row in enumerate(sampled.sequences) if row.index not in dropped]
    if len(kept) == len(sampled.sequences):
        return sampled
    logprobs = None if sampled.logprobs is None else sampled.logprobs[kept]
    return SampledTokens(
        tuple(sampled.sequences[index] for index in kept), sampled.tokens[kept], sampled.finite[kept], logprobs
    )
