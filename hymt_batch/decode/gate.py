"""Whether the slot engine answers a loaded model's canaries as `generate` does, one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable

from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.sampling import Choice
from hymt_batch.decode.slots import decode_rows
from hymt_batch.model import canary
from hymt_batch.model.network import Hymt

NUM_TOKENS = 4
"""New tokens of each canary that both must agree on."""

GREEDY = Choice(False, 1.0, 1.0, 0, 1.0)


def agrees(hymt: Hymt, max_rows: int, max_tokens: int, check_stop: Callable[[], None]) -> bool:
    """Decode the canaries both ways; all of them at once in slots, so that padding, prefix and cache take part."""
    tokenizer = hymt.tokenizer
    prompts = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(canary.TEXTS)]
    limits, seeds = [NUM_TOKENS] * len(prompts), [0] * len(prompts)
    made, _ = decode_rows(hymt, prompts, limits, seeds, GREEDY, check_stop, max_rows=max_rows, max_tokens=max_tokens)
    return made == [decode_batch(hymt, [one], [NUM_TOKENS], [0], GREEDY, check_stop)[0] for one in prompts]
