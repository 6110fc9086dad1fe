"""Decode batch by batch under a budget of rows and tokens; a batch that does not fit in memory is halved.

For engines that decode one batch to its end before the next. The slot engine handles its memory itself, and takes only
the budget from here. Nothing depends on time or on what was decoded earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hymt_batch.decode.request import Completion, Request
from hymt_batch.model.memory import run_within_memory

log = logging.getLogger(__name__)

OOM_SPLIT = "oom_split"
"""Mark of a part that was decoded in smaller batches because memory ran out."""


CPU_ROWS, CPU_TOKENS = 64, 16_384
GPU_ROWS = (512, 256)
"""Rows on a GPU: the first of these that fit. More save no steps, because a part ends with its longest row."""

GPU_TOKENS = 1_048_576
"""At most 2,048 tokens of keys and values for each of 512 rows."""

MIN_TOKENS_PER_ROW = 256


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """The limits of one batch; not part of the job's identity, so a job can resume with a smaller budget."""

    max_tokens: int  # rows x (longest prompt + maximum new tokens)
    max_rows: int


def resolve_batch_budget(
    max_rows: int | str,
    max_tokens: int | str,
    cache_bytes_per_token: int,
    vocab_size: int,
    free_bytes: int,
    on_gpu: bool,
) -> BatchBudget:
    """Resolve `auto` batch sizes from the memory that the weights leave free.

    Args:
        max_rows: The setting batch.max_rows.
        max_tokens: The setting batch.max_tokens.
        cache_bytes_per_token: Bytes of key-value cache per token.
        vocab_size: Number of logits per row.
        free_bytes: Free memory of the device after the weights are loaded.
        on_gpu: True if the model runs on a GPU.
    """

    def tokens_beside(rows: int) -> int:
        room = max(0, free_bytes // 2 - logits_bytes(rows, vocab_size))
        return room // max(1, cache_bytes_per_token)

    if max_rows != "auto":
        rows = int(max_rows)
    elif on_gpu:
        rows = next((n for n in GPU_ROWS if tokens_beside(n) >= n * MIN_TOKENS_PER_ROW), GPU_ROWS[-1])
    else:
        rows = CPU_ROWS
    if max_tokens != "auto":
        return BatchBudget(int(max_tokens), rows)
    return BatchBudget(min(max(tokens_beside(rows), 512), GPU_TOKENS if on_gpu else CPU_TOKENS), rows)


def logits_bytes(max_rows: int, vocab_size: int) -> int:
    """Return the bytes of the rows' float32 logits, including the copies made during sampling."""
    return max_rows * vocab_size * 4 * 4


def group(widths: Sequence[int], batch_budget: BatchBudget) -> Iterator[list[int]]:
    """Group rows into batches under a budget of padded tokens.

    Args:
        widths: For each row, its prompt tokens plus its maximum number of new tokens.
        batch_budget: The limits of a batch.

    Yields:
        Indices into `widths`, widest rows first; a row over the budget is a batch by itself.
    """
    batch: list[int] = []
    for i in sorted(range(len(widths)), key=lambda i: (-widths[i], i)):
        # the first row of a batch is the widest, so every row is padded to its width
        if batch and (
            (len(batch) + 1) * widths[batch[0]] > batch_budget.max_tokens or len(batch) >= batch_budget.max_rows
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def decode_in_batches(
    requests: Sequence[Request],
    batches: Iterable[Sequence[int]],
    decode_batch: Callable[[Sequence[Request], Callable[[], None]], list[Completion]],
    check_stop: Callable[[], None],
    *,
    device: str,
    on_finished: Callable[[int, int], None],
) -> tuple[list[Completion], bool]:
    """Decode requests batch by batch.

    Args:
        requests: What to decode.
        batches: Indices into `requests`; each occurs once.
        decode_batch: Decodes one batch; gets `check_stop` too. It may run out of memory.
        check_stop: Called before each batch; raises to end the call.
        device: Device whose cache is emptied after it ran out of memory.
        on_finished: Called with the numbers of rows and of new tokens after each batch.

    Returns:
        One completion per request, in the order of the requests, and True if memory ran out. A row that does not fit
        even alone has the finish reason "memory".
    """
    completions: dict[int, Completion] = {}
    waiting = list(batches)[::-1]
    ran_out = False
    while waiting:
        check_stop()
        indices = waiting.pop()
        batch = [requests[index] for index in indices]
        decoded = run_within_memory(partial(decode_batch, batch, check_stop), device)
        if decoded is not None:
            completions.update(zip(indices, decoded, strict=True))
            on_finished(len(decoded), sum(len(completion.ids) for completion in decoded))
        elif len(indices) > 1:
            half = (len(indices) + 1) // 2
            waiting += [indices[half:], indices[:half]]
            ran_out = True
            log.warning("out of memory rows=%d: splitting the batch in half", len(indices))
        else:
            completions[indices[0]] = Completion([], "memory")
    return [completions[index] for index in range(len(requests))], ran_out
