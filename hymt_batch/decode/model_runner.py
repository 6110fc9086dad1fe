"""Forward passes of the network over the slots: chunked prefill, steps, and sampling. Start at `slots.py`.

Sampled tokens stay on the device; the host reads them when the caller asks. Knows which rows are in which slots, but
not which prompts come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.async_copy import SampledTokens, to_device
from hymt_batch.decode.cache import PrefixCache, SlotCache
from hymt_batch.decode.known_layers import Layers
from hymt_batch.decode.sampling import SamplingParams, sample
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.slot_attention import grouped_mask, make_spans
from hymt_batch.model import transformers_compat
from hymt_batch.model.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

PREFILL_CHUNK_TOKENS = 1024
"""Maximum tokens of each prompt in one pass, because the memory of attention grows with the square of this."""


class ModelRunner:
    """Runs the network over one group of slots."""

    def __init__(
        self,
        hymt: LoadedModel,
        sampling_params: SamplingParams,
        num_slots: int,
        counters: Counters,
        *,
        logprobs: bool,
        device_type: str = "",
        layers: Layers | None = None,
    ) -> None:
        """Make a runner with empty slots.

        Args:
            hymt: The loaded model.
            sampling_params: How a token is chosen.
            num_slots: Number of slots.
            counters: Counters to update.
            logprobs: True to keep the log-probabilities of chosen tokens.
            device_type: Type of device that the storage is laid out for, such as cpu or cuda; empty: that of the model.
            layers: Run the network's layers; None to run them as transformers does.
        """
        self.hymt, self.sampling_params, self.counters, self.logprobs = hymt, sampling_params, counters, logprobs
        self.layers = layers
        self.device_type = device_type or hymt.device.partition(":")[0]
        self.cache = self._make_cache(num_slots)
        self.prefix: PrefixCache | None = None
        self.last_tokens: Tensor | None = None  # [slots] int64, the newest token of each
        self.seen: Tensor | None = None  # [slots, V] bool, for the repetition penalty
        config = hymt.network.config
        self._group_size = config.num_attention_heads // config.num_key_value_heads
        self._cache_kwarg = transformers_compat.cache_argument(hymt.network.model)

    def recreate(self, num_slots: int) -> ModelRunner:
        """Make a runner with empty slots and with the common prefix of this runner."""
        fresh = ModelRunner(
            self.hymt,
            self.sampling_params,
            num_slots,
            self.counters,
            logprobs=self.logprobs,
            device_type=self.device_type,
            layers=self.layers,
        )
        fresh.prefix = self.prefix
        return fresh

    def _make_cache(self, num_slots: int) -> SlotCache:
        """Make storage: of all layers in one block on one GPU, where each copy is a launch; else layer by layer."""
        devices = self.hymt.placement.devices if self.hymt.placement else (self.hymt.device,)
        one_block = self.device_type == "cuda" and len(devices) == 1
        return SlotCache(num_slots, self.hymt.network.config.num_hidden_layers if one_block else 1)

    @property
    def prefix_length(self) -> int:
        return self.prefix.length if self.prefix else 0

    def compute_prefix(self, ids: Sequence[int]) -> PrefixCache:
        """Compute keys and values of the common prefix `ids`."""
        import torch

        ids_on_device = to_device(torch.tensor(list(ids)), self.hymt.device)
        prefix, positions = PrefixCache(ids_on_device), torch.arange(len(ids), device=self.hymt.device)
        visible = (positions[None, :] <= positions[:, None])[None]
        self._hidden_states(ids_on_device[None], visible, positions[None], prefix)
        return prefix

    def prefill(self, sequences: Sequence[SequenceState], first_slot: int) -> SampledTokens:
        """Prefill the slots from `first_slot` on with prompts, in chunks, and sample the first new token of each."""
        import torch

        common, count = self.prefix_length, len(sequences)
        own_lengths = [len(row.prompt_ids) - common for row in sequences]
        width = max(own_lengths)
        ids, lengths = self._upload_prompts(sequences, own_lengths)
        self.cache.reserve(common + width + 1)
        positions = torch.arange(width, device=ids.device)
        last = None
        for start in range(0, width, PREFILL_CHUNK_TOKENS):
            chunk = positions[start : start + PREFILL_CHUNK_TOKENS]
            end = start + len(chunk)
            visible = _visible_in_chunk(chunk, positions[:end], lengths, common)
            self.cache.start_prefill(first_slot, count, self.prefix, common + start, common + end)
            hidden = self._hidden_states(
                ids[:, start:end], visible, (common + chunk)[None].expand(count, -1), self.cache
            )
            last_index = lengths.to(hidden.device, non_blocking=True) - 1 - start
            last_hidden = hidden[torch.arange(count, device=hidden.device), last_index.clamp(0, len(chunk) - 1)]
            inside = ((last_index >= 0) & (last_index < len(chunk)))[:, None]
            last = last_hidden if last is None else torch.where(inside, last_hidden, last)
        assert last is not None
        self._allocate_state()
        if self.sampling_params.repetition_penalty != 1.0:
            self._mark_prompts_seen(first_slot, ids, lengths)
        sampled = self._sample(last, first_slot, sequences)
        self.counters.prefills += 1
        self.counters.prefill_tokens += sum(own_lengths)
        self.counters.prefill_padded += count * width
        self.counters.first_tokens += count
        return sampled

    def _upload_prompts(self, sequences: Sequence[SequenceState], own_lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the prompts without the common prefix, padded [B, T] int64, and their lengths [B], in one copy."""
        import torch

        width = max(own_lengths)
        packed = torch.full((len(sequences), width + 1), self.hymt.tokenizer.pad_id, dtype=torch.int64)
        for index, (row, length) in enumerate(zip(sequences, own_lengths, strict=True)):
            packed[index, :length] = torch.tensor(row.prompt_ids[len(row.prompt_ids) - length :])
        packed[:, width] = torch.tensor(own_lengths)
        packed = to_device(packed, self.hymt.device)
        return packed[:, :width], packed[:, width]

    def step(self, sequences: Sequence[SequenceState]) -> SampledTokens:
        """Generate one more token for every row; the rows are in the first slots, in this order."""
        import torch

        lengths = [row.position + 1 for row in sequences]
        positions, longest = to_device(torch.tensor(lengths) - 1, self.hymt.device), max(lengths)
        self.cache.start_step(positions, longest, make_spans(lengths))
        assert self.last_tokens is not None
        ids = self.last_tokens[: len(sequences), None]
        hidden = self._hidden_states(ids, self._visible_in_step(positions, longest), positions[:, None], self.cache)
        sampled = self._sample(hidden[:, -1], 0, sequences)
        self.count_step(len(sequences))
        return sampled

    def count_step(self, num_sequences: int) -> None:
        """Count one step over `num_sequences` rows."""
        self.counters.steps += 1
        self.counters.row_steps += num_sequences
        self.counters.steps_of_rows[num_sequences] = self.counters.steps_of_rows.get(num_sequences, 0) + 1

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Move rows from the slots `sources` to the slots `targets`; the longest row has `length` tokens."""
        import torch

        slots = to_device(torch.tensor([sources, targets]), self.hymt.device)
        self.cache.move(slots[0], slots[1], length)
        for state in (self.last_tokens, self.seen):
            if state is not None:
                state[slots[1]] = state[slots[0]]
        self.counters.moved_rows += len(sources)
        self.counters.moves += 1

    def resize(self, num_slots: int, length: int | None = None, max_length: int = 0) -> None:
        """Change the number of slots (see `SlotCache.resize`); `max_length` is the most tokens that a slot may hold."""
        self.cache.resize(num_slots, length)
        self._allocate_state()

    def _allocate_state(self) -> None:
        """Allocate storage for each slot's newest token and, for the repetition penalty, all tokens seen so far."""
        import torch

        num, device = self.cache.num_slots, self.hymt.device
        if self.last_tokens is None or len(self.last_tokens) < num:
            self.last_tokens = _copy_into(self.last_tokens, torch.zeros(num, dtype=torch.int64, device=device))
        if self.sampling_params.repetition_penalty != 1.0 and (self.seen is None or len(self.seen) < num):
            fresh = torch.zeros(num, self.hymt.vocab_size, dtype=torch.bool, device=device)
            self.seen = _copy_into(self.seen, fresh)

    def _mark_prompts_seen(self, first_slot: int, ids: Tensor, lengths: Tensor) -> None:
        import torch

        assert self.seen is not None
        seen = self.seen[first_slot : first_slot + len(ids)]
        is_prompt = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        # padding marks the first token of its row once more
        seen.fill_(False).scatter_(1, torch.where(is_prompt, ids, ids[:, :1]), True)
        if self.prefix is not None:
            seen.index_fill_(1, self.prefix.ids, True)

    def _sample(self, hidden: Tensor, first_slot: int, sequences: Sequence[SequenceState]) -> SampledTokens:
        """Sample a token for each of `sequences`, which are in the slots from `first_slot` on."""

        logits, finite = self._logits(hidden)
        seen = None if self.seen is None else self.seen[first_slot : first_slot + len(sequences)].to(logits.device)
        steps = [row.num_new_tokens for row in sequences]
        tokens = sample(logits, seen, self.sampling_params, [row.seed for row in sequences], steps)
        logprobs = token_logprobs(logits, tokens) if self.logprobs else None
        assert self.last_tokens is not None
        newest = tokens.to(self.last_tokens.device)
        self.last_tokens[first_slot : first_slot + len(sequences)] = newest
        if self.seen is not None:
            self.seen[first_slot : first_slot + len(sequences)].scatter_(1, newest[:, None], True)
        for row in sequences:
            row.num_unread += 1
        return SampledTokens(tuple(sequences), tokens, finite, logprobs)

    def _logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 logits [B, V] of hidden states [B, H], and a bool [B]: True if a row's logits are finite."""
        import torch

        logits = self.hymt.network.lm_head(hidden).float()
        finite = torch.isfinite(logits.sum(dim=-1))  # one non-finite number makes the sum non-finite
        if self.sampling_params.do_sample:
            logits = logits.masked_fill(~finite[:, None], 0.0)
        return logits, finite

    def _visible_in_step(self, positions: Tensor, length: int) -> Tensor | None:
        """Return which of `length` keys each row [B] sees, [B, 1, length] bool; None if the layers need no mask."""
        import torch

        if self.layers is not None and not self.layers.needs_step_mask:
            return None
        return torch.arange(length, device=positions.device)[None, None, :] <= positions[:, None, None]

    def _hidden_states(self, ids: Tensor, visible: Tensor | None, positions: Tensor, cache: Any) -> Tensor:
        """Return the hidden states [B, T, H] of the last layer; all inputs are on the device of the input tokens."""
        import torch

        mask = None if visible is None else grouped_mask(visible, self._group_size, getattr(torch, self.hymt.dtype))
        if self.layers is not None and isinstance(cache, SlotCache):
            return self.layers.hidden_states(ids, positions, cache, mask)
        output = self.hymt.network.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_kwarg: cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities [B] of chosen tokens [B], from logits [B, V]."""
    import torch

    return logits.gather(1, tokens[:, None]).squeeze(1) - torch.logsumexp(logits, dim=-1)


def _visible_in_chunk(chunk: Tensor, keys: Tensor, lengths: Tensor, common: int) -> Tensor:
    """Return which keys each query of a chunk sees.

    Args:
        chunk: [T] positions of the queries, counted after the common prefix.
        keys: [L] positions of the keys, up to the last query.
        lengths: [B] lengths of the prompts, without the common prefix.
        common: Length of the common prefix, which every query sees.

    Returns:
        [B, T, common + L] bool.
    """
    import torch

    # a query past the end of its prompt still sees itself, so that no row of scores is fully masked
    is_self = keys[None, :] == chunk[:, None]
    sees = (keys[None, :] <= chunk[:, None])[None] & ((keys[None, None, :] < lengths[:, None, None]) | is_self[None])
    before = torch.ones(len(lengths), len(chunk), common, dtype=torch.bool, device=chunk.device)
    return torch.cat([before, sees], dim=-1)


def _copy_into(old: Tensor | None, fresh: Tensor) -> Tensor:
    """Copy `old` into the start of `fresh`, and return `fresh`."""
    if old is not None:
        fresh[: len(old)] = old
    return fresh
