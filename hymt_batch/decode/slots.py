"""The slot engine: rows that end are replaced while the others go on, over transformers' own modules.

A slot is one row of the running batch. Slots in use are always the first ones, so that a step costs no more than the
rows that still run: a row that ends gives its slot to the last one, and prompts are taken in behind it, several of like
length at once. What all prompts of a call have in common at their start, the instruction, is computed once. Scheduling
depends on lengths and end tokens alone, never on time, so the same prompts decode the same wherever and whenever.

Out of memory takes fewer rows: a group of prompts is halved, or the younger half of the running rows starts over later.
Nothing of a finished row is lost. Does not know parts, documents or retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hymt_batch.decode.cache import ATTENTION, register
from hymt_batch.decode.generate import Generated
from hymt_batch.decode.rows import Counters, Row
from hymt_batch.decode.running import Running
from hymt_batch.decode.sampling import Choice
from hymt_batch.model.network import Hymt


def decode_rows(
    hymt: Hymt,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    choice: Choice,
    check_stop: Callable[[], None],
    *,
    max_rows: int,
    max_tokens: int,
    on_rows: Callable[[int, int], None] = lambda rows, tokens: None,
    counters: Counters | None = None,
) -> tuple[list[Generated], bool]:
    """Decode prompts of any number.

    Args:
        hymt: The loaded model.
        prompts: Token ids; taken in in the order of their widths, the widest first.
        max_new_tokens: Limit of each row, at least 1.
        seeds: Seed of each row's draws; unused when greedy.
        choice: How a token is chosen.
        check_stop: Called at every step; raises to give everything up.
        max_rows: Slots at most.
        max_tokens: Tokens of keys and values at most, over all slots; a row over it runs alone.
        on_rows: Told of rows that ended, and of their tokens.
        counters: Where to count.

    Returns:
        One result a prompt in the caller's order, and whether memory ran out on the way. A row that does not fit alone
        has the finish reason "memory".

    Raises:
        StoppedError: From check_stop.
    """
    import torch

    if not prompts:
        return [], False
    counters = Counters() if counters is None else counters
    rows = [
        Row(n, ids, limit, seed)
        for n, (ids, limit, seed) in enumerate(zip(prompts, max_new_tokens, seeds, strict=True))
    ]
    rows.sort(key=lambda row: (-row.width, row.index))
    with torch.inference_mode(), _own_attention(hymt.network):
        run = Running(hymt, rows, choice, max_rows, max_tokens, counters)
        run.share(prompts)
        while run.waiting or run.running:
            check_stop()
            run.fill()
            ended = run.step()
            if ended:
                on_rows(len(ended), sum(len(run.done[row.index].ids) for row in ended))
    return [run.done[number] for number in range(len(prompts))], counters.out_of_memory > 0


@contextmanager
def _own_attention(network: Any) -> Iterator[None]:
    """Our attention inside, the model's own again after; every module reads it from the one config."""
    register()
    before = network.config._attn_implementation
    network.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        network.config._attn_implementation = before
