"""Batches keep to their budget, and running out of memory loses no row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hymt_batch.decode.batches import BatchBudget, decode_in_batches, group, logits_bytes, resolve_batch_budget
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import GREEDY


def test_a_batch_exceeds_its_budget_only_if_a_single_row_does() -> None:
    widths = [5, 100, 30, 30, 7, 6]
    groups = list(group(widths, BatchBudget(max_tokens=60, max_rows=3)))
    assert groups == [[1], [2, 3], [4, 5, 0]]


def test_auto_limits_follow_the_free_memory_and_an_explicit_limit_is_kept() -> None:
    small, large = (resolve_batch_budget("auto", "auto", 1000, 100, free, False) for free in (4_000_000, 8_000_000))
    assert (small.max_rows, large.max_rows) == (64, 64)
    assert 512 < small.max_tokens < large.max_tokens < 16_384
    assert resolve_batch_budget(7, 99, 1000, 100, 0, True) == BatchBudget(99, 7)
    assert resolve_batch_budget("auto", "auto", 1000, 100, 0, True) == BatchBudget(512, 256)


def test_the_slots_of_a_gpu_follow_its_memory() -> None:
    """The 1.8B model: 64 KiB of keys and values a token, 120,818 scores a row."""
    for free_gib, rows, tokens in ((130, 512, 1_048_576), (40, 512, None), (19, 512, None), (12, 256, None)):
        budget = resolve_batch_budget("auto", "auto", 65_536, 120_818, free_gib * 2**30, True)
        assert budget.max_rows == rows
        assert tokens is None or budget.max_tokens == tokens
        used = budget.max_tokens * 65_536 + logits_bytes(rows, 120_818)
        assert used <= free_gib * 2**29, "storage may be moved, so it takes at most half of the free memory"
        assert budget.max_tokens >= 256 * rows or rows == 256
    assert resolve_batch_budget(1024, "auto", 65_536, 120_818, 130 * 2**30, True).max_rows == 1024


def test_a_batch_that_does_not_fit_is_halved_until_only_rows_that_never_fit_are_lost() -> None:
    """At most three rows fit at once, and the row with prompt 5 never does."""
    sizes, finished = list[int](), list[tuple[int, int]]()

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if len(requests) > 3 or any(request.prompt_ids == [5] for request in requests):
            raise MemoryError
        sizes.append(len(requests))
        return [Completion([*request.prompt_ids], "stop") for request in requests]

    requests = [Request([number], 1, 0, GREEDY) for number in range(8)]
    completions, ran_out = decode_in_batches(
        requests,
        [range(8)],
        decode,
        lambda: None,
        device="cpu",
        on_finished=lambda rows, tokens: finished.append((rows, tokens)),
    )
    assert ran_out
    assert completions == [Completion([], "memory") if n == 5 else Completion([n], "stop") for n in range(8)]
    assert sum(sizes) == 7
    assert finished == [(size, size) for size in sizes]
    assert decode_in_batches(
        requests[:3], [[2], [0, 1]], decode, lambda: None, device="cpu", on_finished=lambda *_: None
    ) == (completions[:3], False)
