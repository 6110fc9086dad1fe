"""One group of slots: prompts into slots, a step for all, rows out. Start at `slots.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hymt_batch.decode.captured import Captured
from hymt_batch.decode.forward import Forward
from hymt_batch.decode.generate import Generated
from hymt_batch.decode.reading import Chosen, Reading
from hymt_batch.decode.rows import Counters, Row, loops
from hymt_batch.decode.sampling import Choice
from hymt_batch.model.memory import free_memory, is_out_of_memory
from hymt_batch.model.network import Hymt

REFILL_SHARE = 8
"""Prompts are taken in when one slot of so many is free: fewer forward passes over few prompts, little idle room."""

MAX_PREFILL_TOKENS = 8192
"""Padded tokens of one forward pass over prompts, so that it takes no more memory than the steps do."""

PAD_SHARE = 1.15
"""The longest prompt of a group is at most so many times as long as its shortest."""


class Running:
    """The rows in slots, those that wait, and those that are done."""

    def __init__(
        self,
        hymt: Hymt,
        rows: Sequence[Row],
        choice: Choice,
        max_rows: int,
        max_tokens: int,
        counters: Counters,
        *,
        read_every: int = 1,
        logprobs: bool = False,
        captured: Captured | None = None,
    ) -> None:
        self.hymt, self.choice, self.counters = hymt, choice, counters
        self.max_rows, self.max_tokens, self.read_every = max_rows, max_tokens, read_every
        self.captured = captured
        self.num_slots = max(1, min(max_rows, max_tokens // self._room(rows[0].width), len(rows)))
        self.waiting = deque(rows)
        self.running: list[Row] = []  # in the order of their slots
        self.done: dict[int, Generated] = {}
        self.forward: Forward
        if captured is None:
            self.forward = Forward(hymt, choice, self.num_slots, counters, logprobs=logprobs)
        else:
            settings: dict[str, Any] = {"max_tokens": max_tokens, "read_every": read_every, "logprobs": logprobs}
            captured.begin(choice, counters, self.num_slots, rows[0].width, **settings)
            self.forward = captured
        self.stop = frozenset(hymt.tokenizer.stop)
        self._unread: list[Chosen] = []
        self._coming: Reading | None = None  # with captured steps: what is read while a further step runs

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def _room(self, width: int) -> int:
        """Tokens of storage that a row of so many takes."""
        return width if self.captured is None else self.captured.room(width)

    def fill(self) -> None:
        """Take prompts in, if enough slots are free."""
        if self.waiting:
            self._more_slots()
        free = self.num_slots - len(self.running)
        if not self.waiting or (self.running and free < max(1, self.num_slots // REFILL_SHARE)):
            return
        while self.waiting and len(self.running) < self.num_slots:
            group = self._next_group(self.num_slots - len(self.running))
            if not self._guarded(lambda group=group: self._take_in(group)):  # type: ignore[misc]
                self._give_back(group)

    def _take_in(self, group: Sequence[Row]) -> None:
        self._unread.append(self.forward.prefill(group, len(self.running)))
        self.running += group

    def _next_group(self, most: int) -> list[Row]:
        """The next prompts of like length, within the room for one forward pass."""
        common = self.forward.common
        group = [self.waiting.popleft()]
        longest = shortest = len(group[0].ids) - common
        while self.waiting and len(group) < most:
            length = len(self.waiting[0].ids) - common
            longest, shortest = max(longest, length), min(shortest, length)
            if longest > PAD_SHARE * shortest + 4 or (len(group) + 1) * longest > MAX_PREFILL_TOKENS:
                break
            group.append(self.waiting.popleft())
        return group

    def _give_back(self, group: list[Row]) -> None:
        """Memory ran out over a group of prompts: fewer at once from now on, and a prompt alone is given up."""
        if len(group) == 1 and not self.running:
            self.done[group[0].index] = Generated([], "memory")
            return
        for row in group:
            row.start_over()
        self.waiting.extendleft(reversed(group))
        self._fewer_slots(max(1, len(self.running) + len(group) // 2, self.num_slots // 2))

    def _fewer_slots(self, num: int) -> None:
        """Take fewer slots from now on; if even that needs more memory than there is, all running rows start over."""
        self.num_slots = self.max_rows = min(num, self.num_slots)
        if not self._guarded(lambda: self.forward.resize(self.num_slots)):
            self._start_over(self.running)
            self.running = []
            self.forward = self.forward.anew(self.num_slots)

    def _start_over(self, rows: Sequence[Row]) -> None:
        """These rows wait again, in their order, the first of all."""
        gone = {row.index for row in rows}
        self._unread = [_without(chosen, gone) for chosen in self._unread]
        for row in reversed(rows):
            row.start_over()
            self.waiting.appendleft(row)

    def _more_slots(self) -> None:
        """Rows come the widest first: when the widest are done, more of the narrower ones fit."""
        widest = max(row.width for row in (*self.running, self.waiting[0]))
        wanted = max(
            1, min(self.max_rows, self.max_tokens // self._room(widest), len(self.running) + len(self.waiting))
        )
        if wanted > self.num_slots + self.num_slots // REFILL_SHARE:
            longest = max((row.position + 1 for row in self.running), default=0)
            if self._guarded(lambda: self.forward.resize(wanted, longest, widest)):
                self.num_slots = wanted
            else:
                self.max_rows = self.num_slots

    def launch(self) -> None:
        """Begin a step for every running row. What it chose is not known before `harvest`."""
        if self.captured is not None and len(self._unread) >= self.read_every:
            self._coming, self._unread = Reading(self._unread), []
        if self.running and not self._guarded(lambda: self._unread.append(self.forward.step(self.running))):
            if self._coming is not None:
                self._unread, self._coming = list(self._coming.chosen), None
            self._halve()

    @property
    def due(self) -> bool:
        """Whether what was chosen must be read now: enough steps were launched, or a row came to its limit.

        A captured step costs the GPU little and the host nothing: one more runs while those before it are read, and a
        row at its limit takes part in a few that nobody reads.
        """
        if self.captured is not None:
            return self._coming is not None
        return len(self._unread) >= self.read_every or any(row.num_new >= row.limit for row in self.running)

    def _halve(self) -> None:
        """Memory ran out in a step: the younger half of the rows starts over later, with fewer slots."""
        keep = len(self.running) // 2
        if keep == 0:
            row = self.running.pop()
            self._unread = []
            self.done[row.index] = Generated([], "memory")
            return
        later, self.running = self.running[keep:], self.running[:keep]
        self._start_over(later)
        self._fewer_slots(keep)

    def harvest(self) -> list[Row]:
        """Read what was chosen; rows that ended leave their slots, and the last slot's row moves into each gap.

        Returns:
            The rows that ended.
        """
        for chosen in self._arrived():
            self._read(chosen)
        ended, number = [], 0
        while number < len(self.running):
            row = self.running[number]
            if row.index not in self.done:
                number += 1
                continue
            ended.append(row)
            if self.done[row.index].finish_reason == "non_finite":
                self.forward.cache.clear(number)  # zero times NaN is NaN: the next in this slot would suffer
            final = len(self.running) - 1
            if number != final:
                self.forward.move(final, number, self.running[final].position + 1)
                self.running[number] = self.running[final]
            self.running.pop()
        return ended

    def _arrived(self) -> Sequence[Chosen]:
        """What is to be read, on the host; waits for it."""
        if self.captured is not None:
            coming, self._coming = self._coming, None
        else:
            unread, self._unread = self._unread, []
            if not self.hymt.device.startswith("cuda"):
                self.counters.host_reads += bool(unread)
                return unread
            coming = Reading(unread) if unread else None
        self.counters.host_reads += coming is not None
        return coming.wait() if coming else []

    def _read(self, chosen: Chosen) -> None:
        tokens, finite = chosen.tokens.tolist(), chosen.finite.tolist()
        logprobs = [0.0] * len(tokens) if chosen.logprobs is None else chosen.logprobs.tolist()
        for row, token, good, logprob in zip(chosen.rows, tokens, finite, logprobs, strict=True):
            row.unread -= 1
            if row.index in self.done:
                continue  # chosen before its end was known
            row.logprob += logprob
            if not good:
                self.done[row.index] = Generated([], "non_finite")
            elif token in self.stop:
                self._end(row, "stop", len(row.new))
            else:
                row.new.append(token)
                if self.choice.stop_loops and loops(row.new, row.ids):
                    self._end(row, "loop", len(row.new) - 1)
                elif len(row.new) >= row.limit:
                    self._end(row, "length", len(row.new) - 1)

    def _end(self, row: Row, reason: str, steps: int) -> None:
        self.counters.useful_row_steps += steps
        mean = row.logprob / (steps + 1) if self.forward.logprobs else None
        self.done[row.index] = Generated(row.new, reason, mean)

    def _guarded(self, work: Callable[[], object]) -> bool:
        """Whether the work was done; False where memory ran out, which is then given back."""
        return guarded(work, self.hymt, self.counters)


def guarded(work: Callable[[], object], hymt: Hymt, counters: Counters) -> bool:
    """Whether the work was done; False where memory ran out, which is then given back."""
    try:
        work()
        return True
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # outside of the except block: the traceback would keep the tensors alive
    counters.out_of_memory += 1
    free_memory(hymt.device)
    return False


def _without(chosen: Chosen, gone: set[int]) -> Chosen:
    """What was chosen, without the rows that start over."""
    kept = [number for number, row in enumerate(chosen.rows) if row.index not in gone]
    if len(kept) == len(chosen.rows):
        return chosen
    logprobs = None if chosen.logprobs is None else chosen.logprobs[kept]
    return Chosen(tuple(chosen.rows[number] for number in kept), chosen.tokens[kept], chosen.finite[kept], logprobs)
