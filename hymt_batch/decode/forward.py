"""Passes of the network over the slots: prompts in pieces, steps, and the choice of tokens. Start at `slots.py`.

Tokens stay on the device that takes them; what the host must know is read when the caller asks. Knows which rows
stand in which slots, and nothing of who comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.cache import PrefixCache, SlotCache, grouped, spans
from hymt_batch.decode.reading import Chosen, sent
from hymt_batch.decode.rows import Counters, Row
from hymt_batch.decode.sampling import Choice, choose
from hymt_batch.model import library
from hymt_batch.model.network import Hymt

if TYPE_CHECKING:
    from torch import Tensor

PIECE_TOKENS = 1024
"""Tokens of each prompt in one pass: attention over a long prompt takes memory by its square."""


class Forward:
    """The network over one group of slots."""

    def __init__(self, hymt: Hymt, choice: Choice, num_slots: int, counters: Counters, *, logprobs: bool) -> None:
        self.hymt, self.choice, self.counters, self.logprobs = hymt, choice, counters, logprobs
        self.cache = SlotCache(num_slots)
        self.prefix: PrefixCache | None = None
        self.last: Tensor | None = None  # [slots], the newest token of each
        self.seen: Tensor | None = None  # [slots, V], for the repetition penalty
        config = hymt.network.config
        self._groups = config.num_attention_heads // config.num_key_value_heads
        self._cache_word = library.cache_word(hymt.network.model)

    def anew(self, num_slots: int) -> Forward:
        """Another one with empty slots, in which nothing of this one is held but what all prompts begin with."""
        fresh = Forward(self.hymt, self.choice, num_slots, self.counters, logprobs=self.logprobs)
        fresh.prefix = self.prefix
        return fresh

    @property
    def common(self) -> int:
        return self.prefix.length if self.prefix else 0

    def share(self, ids: Sequence[int]) -> PrefixCache:
        """Compute what all prompts begin with."""
        import torch

        prefix, num = PrefixCache(), len(ids)
        visible = torch.ones(1, num, num, dtype=torch.bool).tril()
        self._run(torch.tensor([list(ids)]), visible, torch.arange(num)[None], prefix)
        return prefix

    def prefill(self, rows: Sequence[Row], first: int) -> Chosen:
        """Run prompts through the network into the slots from `first` on, piece by piece; choose their first tokens."""
        import torch

        common, count = self.common, len(rows)
        lengths = torch.tensor([len(row.ids) - common for row in rows])
        width = int(lengths.max())
        ids = torch.full((count, width), self.hymt.tokenizer.pad, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids) - common] = torch.tensor(row.ids[common:])
        self.cache.reserve(common + width + 1)
        places = torch.arange(width)
        last = None
        for start in range(0, width, PIECE_TOKENS):
            here = places[start : start + PIECE_TOKENS]
            before = places[: start + len(here)]
            own = before[None, None, :] <= here[None, :, None]
            # a query behind the end of its prompt still sees itself: no row of the scores is empty
            own = own & ((before[None, None, :] < lengths[:, None, None]) | (before[None, :] == here[:, None])[None])
            visible = torch.cat([torch.ones(count, len(here), common, dtype=torch.bool), own], dim=-1)
            self.cache.take_in(first, count, self.prefix, common + start, common + start + len(here))
            hidden = self._run(ids[:, here], visible, (common + here)[None].expand(count, -1), self.cache)
            at = sent(lengths - 1 - start, hidden.device)
            found = hidden[torch.arange(count, device=hidden.device), at.clamp(0, len(here) - 1)]
            inside = ((at >= 0) & (at < len(here)))[:, None]
            last = found if last is None else torch.where(inside, found, last)
        assert last is not None
        self._room()
        if self.choice.repetition_penalty != 1.0:
            self._see_prompts(first, rows)
        chosen = self._choose(last, first, rows)
        self.counters.prefill_tokens += int(lengths.sum())
        self.counters.prefill_padded += count * width
        self.counters.first_tokens += count
        return chosen

    def step(self, rows: Sequence[Row]) -> Chosen:
        """Give every row, in the slots from the first on, one more token."""
        import torch

        lengths = [row.position + 1 for row in rows]
        at, longest = torch.tensor(lengths) - 1, max(lengths)
        self.cache.write_at(at, longest, spans(lengths))
        assert self.last is not None
        ids = self.last[: len(rows), None]
        visible = torch.arange(longest)[None, None, :] <= at[:, None, None]
        hidden = self._run(ids, visible, at[:, None], self.cache)
        chosen = self._choose(hidden[:, -1], 0, rows)
        self.count(len(rows))
        return chosen

    def count(self, rows: int) -> None:
        """Count a step over so many rows."""
        self.counters.steps += 1
        self.counters.row_steps += rows
        self.counters.steps_of_rows[rows] = self.counters.steps_of_rows.get(rows, 0) + 1

    def move(self, source: int, target: int, length: int) -> None:
        """Take a row to another slot."""
        self.cache.move(source, target, length)
        for held in (self.last, self.seen):
            if held is not None:
                held[target] = held[source]

    def resize(self, num_slots: int, length: int | None = None, widest: int = 0) -> None:
        """Another number of slots; see `SlotCache.resize`. `widest`: tokens that a slot may come to hold."""
        self.cache.resize(num_slots, length)
        self._room()

    def _room(self) -> None:
        """Room for the newest token of every slot, and for what each has seen."""
        import torch

        num, device = self.cache.num_slots, self.hymt.device
        if self.last is None or len(self.last) < num:
            self.last = _with_rows(self.last, torch.zeros(num, dtype=torch.int64, device=device))
        if self.choice.repetition_penalty != 1.0 and (self.seen is None or len(self.seen) < num):
            fresh = torch.zeros(num, self.hymt.vocab_size, dtype=torch.bool, device=device)
            self.seen = _with_rows(self.seen, fresh)

    def _see_prompts(self, first: int, rows: Sequence[Row]) -> None:
        import torch

        assert self.seen is not None
        for number, row in enumerate(rows, first):
            ids = sent(torch.tensor(row.ids), self.seen.device)
            self.seen[number].fill_(False).index_fill_(0, ids, True)

    def _choose(self, hidden: Tensor, first: int, rows: Sequence[Row]) -> Chosen:
        """Choose a token for each of `rows`, which stand in the slots from `first` on."""

        logits, finite = self._logits(hidden)
        seen = None if self.seen is None else self.seen[first : first + len(rows)].to(logits.device)
        steps = [row.num_new for row in rows]
        chosen = choose(logits, seen, self.choice, [row.seed for row in rows], steps)
        logprobs = logprobs_of(logits, chosen) if self.logprobs else None
        assert self.last is not None
        here = chosen.to(self.last.device)
        self.last[first : first + len(rows)] = here
        if self.seen is not None:
            self.seen[first : first + len(rows)].scatter_(1, here[:, None], True)
        for row in rows:
            row.unread += 1
        return Chosen(tuple(rows), chosen, finite, logprobs)

    def _logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, V] in float32 of hidden states [B, H], and whether they are finite [B]."""
        import torch

        logits = self.hymt.network.lm_head(hidden).float()
        finite = torch.isfinite(logits.sum(dim=-1))  # as one number that is not is enough
        if self.choice.sample:
            logits = torch.where(finite[:, None], logits, torch.zeros_like(logits))
        return logits, finite

    def _run(self, ids: Tensor, visible: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Hidden states [B, T, H] of the last layer."""
        import torch

        device = self.hymt.device
        mask = grouped(visible, self._groups, getattr(torch, self.hymt.dtype))
        output = self.hymt.network.model(
            input_ids=sent(ids, device),
            attention_mask=sent(mask, device),
            position_ids=sent(positions, device),
            use_cache=True,
            **{self._cache_word: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def logprobs_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Logarithms of the chosen tokens' probabilities: [B] from logits [B, V] and tokens [B]."""
    import torch

    return logits.gather(1, chosen[:, None]).squeeze(1) - torch.logsumexp(logits, dim=-1)


def _with_rows(old: Tensor | None, fresh: Tensor) -> Tensor:
    """`fresh`, beginning with what `old` holds."""
    if old is not None:
        fresh[: len(old)] = old
    return fresh
