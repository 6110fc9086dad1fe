"""Whether the slot engine answers a loaded model's canaries as `generate` does, and captured steps as steps do.

And whether its attention on a GPU gives the tokens of torch's plainest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from hymt_batch.decode.captured import Captured
from hymt_batch.decode.forward import Forward
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.reading import Chosen, Reading
from hymt_batch.decode.rows import Counters, Row
from hymt_batch.decode.sampling import Choice
from hymt_batch.decode.slots import decode_rows, ready
from hymt_batch.model import attention, canary, padded
from hymt_batch.model.network import Hymt

if TYPE_CHECKING:
    from torch import Tensor

NUM_TOKENS = 4
"""New tokens of each canary that both must agree on."""

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference of a chosen token's logarithm of probability that rounding explains. A guess, not measured yet."""

GREEDY = Choice(False, 1.0, 1.0, 0, 1.0)


def agrees(hymt: Hymt, max_rows: int, max_tokens: int, check_stop: Callable[[], None]) -> bool:
    """Decode the canaries both ways; all of them at once in slots, so that padding, prefix and cache take part."""
    prompts = _canaries(hymt)
    limits, seeds = [NUM_TOKENS] * len(prompts), [0] * len(prompts)
    made, _ = decode_rows(hymt, prompts, limits, seeds, GREEDY, check_stop, max_rows=max_rows, max_tokens=max_tokens)
    return made == [decode_batch(hymt, [one], [NUM_TOKENS], [0], GREEDY, check_stop)[0] for one in prompts]


def captured_agrees(captured: Captured, choice: Choice, read_every: int, check_stop: Callable[[], None]) -> bool:
    """Give the canaries a few tokens by captured steps, of which all but the first are replays, and by steps as such.

    In float32 all tokens must be the same, by the run's own rule. In the others, the likeliest tokens are taken, and
    those up to the first difference must be about as likely: there, two tokens are.

    Returns:
        Whether they agree; False too where a step cannot be captured.
    """
    import torch

    hymt = captured.hymt
    prompts, exact = _canaries(hymt), hymt.dtype == "float32"
    rule = choice if exact else GREEDY
    width = max(map(len, prompts)) + NUM_TOKENS + 1
    made: list[list[Chosen]] = []
    with torch.inference_mode(), ready(hymt.network, width + read_every):
        captured.begin(rule, Counters(), len(prompts), width, max_tokens=1 << 30, read_every=read_every, logprobs=True)
        for forward in (Forward(hymt, rule, len(prompts), Counters(), logprobs=True), captured):
            rows = [Row(number, ids, NUM_TOKENS + 1, number) for number, ids in enumerate(prompts)]
            steps = Reading([forward.prefill(rows, 0)]).wait()
            for _ in range(NUM_TOKENS):
                check_stop()
                steps += Reading([forward.step(rows)]).wait()
            made.append(steps)
    if captured.refused:
        return False
    plain, fixed = ([[_of(one, number) for one in steps] for number in range(len(prompts))] for steps in made)
    tolerance = TOLERANCE[hymt.dtype]
    return all(_row_agrees(*rows, exact=exact, tolerance=tolerance) for rows in zip(plain, fixed, strict=True))


class _InSlots(Forward):
    """Steps of the slot engine over rows of unequal length, for `attention.compare`."""

    def __init__(self, hymt: Hymt, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(hymt, GREEDY, len(prompts), Counters(), logprobs=False)
        self._rows = [Row(number, ids, attention.NUM_TOKENS + 1, number) for number, ids in enumerate(prompts)]
        self._newest: Tensor | None = None

    def _logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        self._newest, finite = super()._logits(hidden)
        return self._newest, finite

    def logits(self) -> Tensor:
        Reading([self.step(self._rows) if self.last is not None else self.prefill(self._rows, 0)]).wait()
        assert self._newest is not None
        return self._newest


def check_attention(
    hymt: Hymt, own: attention.Context = nullcontext, reference: attention.Context = attention.math_kernel
) -> attention.Agreement:
    """Compare the slot engine's attention with torch's math back end.

    Args:
        hymt: The loaded model.
        own: What the engine runs in.
        reference: What it runs in to be compared with.

    Raises:
        PreflightError: They disagree (E26); the message names the back end.
    """
    prompts = padded.prompts(hymt.tokenizer)
    width = max(map(len, prompts)) + attention.NUM_TOKENS + 1
    with ready(hymt.network, width):
        what = f"decode.engine=slots on {hymt.device}"
        return attention.compare(lambda: _InSlots(hymt, prompts).logits, hymt.dtype, own, reference, what)


def _canaries(hymt: Hymt) -> list[list[int]]:
    tokenizer = hymt.tokenizer
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(canary.TEXTS)]


def _of(chosen: Chosen, row: int) -> tuple[int, float]:
    assert chosen.logprobs is not None
    return int(chosen.tokens[row]), float(chosen.logprobs[row]) if chosen.finite[row] else math.nan


def _row_agrees(one: list[tuple[int, float]], other: list[tuple[int, float]], *, exact: bool, tolerance: float) -> bool:
    """Compare a row's tokens and their logarithms of probability."""
    for (token, logprob), (other_token, other_logprob) in zip(one, other, strict=True):
        if not abs(logprob - other_logprob) <= tolerance or (exact and token != other_token):
            return False
        if token != other_token:
            break
    return True
