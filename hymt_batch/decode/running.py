"""The running batch of the slot engine: prompts into slots, a step for all, rows out. Start at `slots.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.cache import PrefixCache, SlotCache
from hymt_batch.decode.generate import Generated
from hymt_batch.decode.rows import Counters, Row, common_start
from hymt_batch.decode.sampling import Choice, choose
from hymt_batch.model.memory import free_memory, is_out_of_memory
from hymt_batch.model.network import Hymt

if TYPE_CHECKING:
    from torch import Tensor

REFILL_SHARE = 8
"""Prompts are taken in when one slot of so many is free: fewer forward passes over few prompts, little idle room."""

MAX_PREFILL_TOKENS = 8192
"""Padded tokens of one forward pass over prompts, so that it takes no more memory than the steps do."""

PAD_SHARE = 1.15
"""The longest prompt of a group is at most so many times as long as its shortest."""


class Running:
    """The rows in slots, those that wait, and those that are done."""

    def __init__(
        self, hymt: Hymt, rows: Sequence[Row], choice: Choice, max_rows: int, max_tokens: int, counters: Counters
    ) -> None:
        self.hymt, self.choice, self.counters = hymt, choice, counters
        self.max_rows, self.max_tokens = max_rows, max_tokens
        num_slots = max(1, min(max_rows, max_tokens // rows[0].width, len(rows)))
        self.num_slots = num_slots
        self.waiting = deque(rows)
        self.running: list[Row] = []  # in the order of their slots
        self.done: dict[int, Generated] = {}
        self.cache = SlotCache(num_slots)
        self.prefix: PrefixCache | None = None
        self.stop = frozenset(hymt.tokenizer.stop)
        self.seen: Tensor | None = None  # [slots, V], for the repetition penalty

    def share(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compute what all prompts begin with, once; each keeps at least one token of its own."""
        import torch

        common = common_start(prompts)
        if common < 2 or len(prompts) < 2:
            return
        prefix = PrefixCache()
        ids = torch.tensor([list(prompts[0][:common])], device=self.hymt.device)
        mask = torch.ones(1, 1, common, common, dtype=torch.bool).tril()
        if self._guarded(lambda: self._forward(ids, mask, torch.arange(common)[None], prefix)):
            self.prefix = prefix
            self.counters.prefix_tokens += common

    @property
    def common(self) -> int:
        return self.prefix.length if self.prefix else 0

    def fill(self) -> None:
        """Take prompts in, if enough slots are free."""
        if self.waiting:
            self._more_slots()
        free = self.num_slots - len(self.running)
        if not self.waiting or (self.running and free < max(1, self.num_slots // REFILL_SHARE)):
            return
        while self.waiting and len(self.running) < self.num_slots:
            group = self._next_group(self.num_slots - len(self.running))
            if not self._guarded(lambda group=group: self._prefill(group)):  # type: ignore[misc]
                self._give_back(group)

    def _next_group(self, most: int) -> list[Row]:
        """The next prompts of like length, within the room for one forward pass."""
        group = [self.waiting.popleft()]
        longest = shortest = len(group[0].ids) - self.common
        while self.waiting and len(group) < most:
            length = len(self.waiting[0].ids) - self.common
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
            row.new.clear()
        self.waiting.extendleft(reversed(group))
        self._fewer_slots(max(1, len(self.running) + len(group) // 2))

    def _fewer_slots(self, num: int) -> None:
        """Take fewer slots from now on; if even that needs more memory than there is, all running rows start over."""
        self.num_slots = self.max_rows = min(num, self.num_slots)
        if not self._guarded(lambda: self.cache.resize(self.num_slots)):
            for row in reversed(self.running):
                row.new.clear()
                self.waiting.appendleft(row)
            self.running.clear()
            self.cache = SlotCache(self.num_slots)

    def _more_slots(self) -> None:
        """Rows come the widest first: when the widest are done, more of the narrower ones fit."""
        widest = max(row.width for row in (*self.running, self.waiting[0]))
        wanted = max(1, min(self.max_rows, self.max_tokens // widest, len(self.running) + len(self.waiting)))
        if wanted > self.num_slots + self.num_slots // REFILL_SHARE:
            longest = max((row.position + 1 for row in self.running), default=0)
            if self._guarded(lambda: self.cache.resize(wanted, longest)):
                self.num_slots = wanted
                if self.seen is not None:
                    self.seen = _with_rows(self.seen, wanted)
            else:
                self.max_rows = self.num_slots

    def _prefill(self, group: list[Row]) -> None:
        """Run prompts through the network into the slots behind those in use, and choose their first tokens."""
        import torch

        common, count = self.common, len(group)
        lengths = torch.tensor([len(row.ids) - common for row in group])
        width = int(lengths.max())
        ids = torch.full((count, width), self.hymt.tokenizer.pad, dtype=torch.int64)
        for number, row in enumerate(group):
            ids[number, : len(row.ids) - common] = torch.tensor(row.ids[common:])
        places = torch.arange(width)
        causal = places[None, :] <= places[:, None]
        inside = places[None, None, :] < lengths[:, None, None]
        own = causal[None] & (inside | torch.eye(width, dtype=torch.bool)[None])
        mask = torch.cat([torch.ones(count, width, common, dtype=torch.bool), own], dim=-1)[:, None]
        first = len(self.running)
        self.cache.take_in(first, count, self.prefix, max(len(row.ids) + 1 for row in group))
        hidden = self._forward(ids.to(self.hymt.device), mask, (common + places)[None].expand(count, -1), self.cache)
        last = hidden[torch.arange(count, device=hidden.device), (lengths - 1).to(hidden.device)]
        if self.choice.repetition_penalty != 1.0:
            self._see_prompts(first, group)
        self.counters.prefill_tokens += int(lengths.sum())
        self.counters.prefill_padded += count * width
        self.counters.first_tokens += count
        self._choose(last, first, group)
        self.running += group

    def step(self) -> list[Row]:
        """Give every running row one more token; the rows that ended leave their slots.

        Returns:
            The rows that ended, first tokens of new prompts included.
        """
        import torch

        ended = self._leave()
        if not self.running:
            return ended
        positions = [row.position for row in self.running]
        longest = max(positions) + 1

        def forward() -> None:
            at = torch.tensor(positions)
            mask = (torch.arange(longest)[None, :] <= at[:, None])[:, None, None, :]
            self.cache.write_at(at, longest)
            ids = torch.tensor([[row.new[-1]] for row in self.running], device=self.hymt.device)
            hidden = self._forward(ids, mask, at[:, None], self.cache)
            self.counters.steps += 1
            self.counters.row_steps += len(self.running)
            self._choose(hidden[:, -1], 0, self.running)

        if not self._guarded(forward):
            self._halve()
        return ended + self._leave()

    def _halve(self) -> None:
        """Memory ran out in a step: the younger half of the rows starts over later, with fewer slots."""
        keep = len(self.running) // 2
        if keep == 0:
            row = self.running.pop()
            self.done[row.index] = Generated([], "memory")
            return
        for row in reversed(self.running[keep:]):
            row.new.clear()
            self.waiting.appendleft(row)
        del self.running[keep:]
        self._fewer_slots(keep)

    def _leave(self) -> list[Row]:
        """Take out the rows whose last token ended them; the last slot's row moves into each gap."""
        ended = []
        number = 0
        while number < len(self.running):
            row = self.running[number]
            if row.index not in self.done:
                number += 1
                continue
            ended.append(row)
            if self.done[row.index].finish_reason == "non_finite":
                self.cache.clear(number)  # zero times NaN is NaN: the next in this slot would suffer
            final = len(self.running) - 1
            if number != final:
                self.cache.move(final, number, self.running[final].position + 1)
                if self.seen is not None:
                    self.seen[number] = self.seen[final]
                self.running[number] = self.running[final]
            self.running.pop()
        return ended

    def _choose(self, hidden: Tensor, first: int, rows: Sequence[Row]) -> None:
        """Choose a token for each of `rows`, which stand in the slots from `first` on; note those that end."""
        import torch

        logits = self.hymt.network.lm_head(hidden).float()
        finite = torch.isfinite(logits).all(dim=-1)
        logits = torch.where(finite[:, None], logits, torch.zeros_like(logits))
        seen = None if self.seen is None else self.seen[first : first + len(rows)].to(logits.device)
        steps = [len(row.new) for row in rows]
        chosen = choose(logits, seen, self.choice, [row.seed for row in rows], steps)
        if self.seen is not None:
            self.seen[torch.arange(first, first + len(rows)), chosen.to(self.seen.device)] = True
        for row, token, good in zip(rows, chosen.tolist(), finite.tolist(), strict=True):
            if not good:
                self.done[row.index] = Generated([], "non_finite")
            elif token in self.stop:
                self.counters.useful_row_steps += len(row.new)
                self.done[row.index] = Generated(row.new, "stop")
            else:
                row.new.append(token)
                if len(row.new) >= row.limit:
                    self.counters.useful_row_steps += len(row.new) - 1
                    self.done[row.index] = Generated(row.new, "length")

    def _see_prompts(self, first: int, group: Sequence[Row]) -> None:
        import torch

        if self.seen is None:
            self.seen = torch.zeros(self.num_slots, self.hymt.vocab_size, dtype=torch.bool, device=self.hymt.device)
        for number, row in enumerate(group, first):
            self.seen[number] = False
            self.seen[number, torch.tensor(row.ids, device=self.seen.device)] = True

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Hidden states [B, T, H] of the last layer."""
        device = self.hymt.device
        output = self.hymt.network.model(
            input_ids=ids,
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _guarded(self, work: Callable[[], object]) -> bool:
        """Whether the work was done; False where memory ran out, which is then given back."""
        try:
            work()
            return True
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # outside of the except block: the traceback would keep the tensors alive
        self.counters.out_of_memory += 1
        free_memory(self.hymt.device)
        return False


def _with_rows(seen: Tensor, num: int) -> Tensor:
    """The same flags with room for more rows."""
    grown = seen.new_zeros((num, seen.shape[1]))
    grown[: len(seen)] = seen
    return grown
