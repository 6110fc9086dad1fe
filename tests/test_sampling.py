"""The draws of a row do not depend on its neighbours, the batch size or the order of rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hymt_batch.decode import noise, sampling
from hymt_batch.decode.sampling import SamplingParams, row_seed, sample

pytestmark = pytest.mark.core

CARD = SamplingParams(True, 0.7, 0.6, 20, 1.05)


def noise_of(seed: int, step: int, tokens: list[int]) -> list[float]:
    key = noise.as_int64(noise.rng_key(seed, step))
    draws: list[float] = noise.uniform(torch.tensor([[key]]), torch.tensor([tokens]))[0].tolist()
    return draws


def test_the_noise_is_uniform_and_never_changes_between_versions() -> None:
    assert row_seed(0, "a.txt#1", 0, 0) == 985316587521258211
    assert noise_of(985316587521258211, 1, [7]) == [0.9921708770543871]
    draws = [
        draw
        for row in range(100)
        for step in range(10)
        for draw in noise_of(row_seed(7, f"a.txt#{row}", 0, 0), step, [0, 1, 2, 120_817])
    ]
    assert all(0 < draw < 1 for draw in draws)
    assert math.isclose(sum(draws) / len(draws), 0.5, abs_tol=0.02)
    assert math.isclose(sum(draw < 0.1 for draw in draws) / len(draws), 0.1, abs_tol=0.02)
    assert len(set(draws)) == len(draws)


def test_a_rounding_difference_in_the_scores_does_not_change_the_sampled_token() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(400, 1400, generator=generator) * 0.3  # nearly flat: many scores are close together
    perturbed = logits + torch.randn(logits.shape, generator=generator) * 1e-6
    flat = SamplingParams(True, 3.0, 1.0, 0, 1.0)
    seeds = [row_seed(0, str(row), 0, 0) for row in range(400)]
    num_equal = (sample(logits, None, flat, seeds, 0) == sample(perturbed, None, flat, seeds, 0)).sum()
    assert num_equal == 400


def test_a_row_samples_the_same_tokens_alone_and_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 300, generator=generator) * 3
    seeds = [row_seed(0, f"r{row}", 0, 0) for row in range(16)]
    seen = torch.rand(16, 300, generator=generator) < 0.1
    for step in range(5):
        together = sample(logits, seen, CARD, seeds, step)
        for row in range(16):
            alone = sample(logits[row : row + 1], seen[row : row + 1], CARD, seeds[row : row + 1], step)
            assert alone.item() == together[row].item()


def test_draws_follow_the_probabilities_within_top_k_and_top_p() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]]))
    params = SamplingParams(True, 1.0, 0.8, 0, 1.0)  # keeps 0.5, 0.25 and 0.15, which is the one that crosses 0.8
    rows = logits.expand(6000, 4)
    counts = Counter(sample(rows, None, params, [row_seed(0, str(row), 0, 0) for row in range(6000)], 0).tolist())
    assert counts[3] == 0
    assert counts[0] / 6000 == pytest.approx(0.5 / 0.9, abs=0.02)
    assert counts[1] / 6000 == pytest.approx(0.25 / 0.9, abs=0.02)
    top_1 = SamplingParams(True, 1.0, 1.0, 1, 1.0)
    assert set(sample(rows, None, top_1, [row_seed(0, str(row), 0, 0) for row in range(6000)], 0).tolist()) == {0}


def test_greedy_takes_the_most_likely_token_and_the_penalty_lowers_seen_tokens() -> None:
    logits = torch.tensor([[2.0, 1.95, -1.0]])
    greedy = SamplingParams(False, 1.0, 1.0, 0, 1.1)
    assert sample(logits, None, greedy, [0], 0).item() == 0
    assert sample(logits, torch.tensor([[True, False, False]]), greedy, [0], 0).item() == 1


def test_another_attempt_segment_row_or_job_seed_gives_another_row_seed() -> None:
    seeds = {row_seed(0, "a", 0, 0), row_seed(1, "a", 0, 0), row_seed(0, "b", 0, 0), row_seed(0, "a", 1, 0)}
    assert len(seeds | {row_seed(0, "a", 0, 1)}) == 5


@pytest.mark.parametrize("width", [1, 300, 2048, 5000, 6017])
def test_argmax_equals_that_of_torch_and_takes_the_first_of_equal_values(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    for spread in (2, 5, 1000, 10**6):  # few distinct values: many are equal
        logits = torch.randint(0, spread, (9, width), generator=generator).float()
        logits[1] = 0.0
        logits[2, -1] = spread + 1.0
        logits[3] = float("-inf")
        assert torch.equal(sampling.argmax(logits), logits.argmax(dim=-1))


def test_argmax_of_a_row_with_nan_is_still_a_valid_token() -> None:
    logits = torch.zeros(2, 5000)
    logits[0, 4321] = float("nan")
    assert sampling.argmax(logits).tolist() == [4321, 0]


def sample_with_all_scores(logits: Any, seen: Any, params: SamplingParams, seeds: list[int], step: int) -> Any:
    """Sample as earlier versions did: with float64 copies of all scores."""
    if seen is not None and params.repetition_penalty != 1.0:
        penalised = torch.where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    width = logits.shape[-1]
    order = torch.arange(width, dtype=torch.float64) * 2.0**-34
    k = min(params.top_k or width, width)
    ids = torch.topk((logits / params.temperature).double() - order, k, dim=-1).indices
    probabilities = torch.softmax(logits.gather(1, ids) / params.temperature, dim=-1)
    nucleus = probabilities.cumsum(dim=-1) - probabilities < params.top_p
    keys = torch.tensor([[noise.as_int64(noise.rng_key(seed, step))] for seed in seeds])
    noisy = torch.log(probabilities.double()) - torch.log(-torch.log(noise.uniform(keys, ids)))
    rank = torch.where(nucleus, noisy, float("-inf")).argmax(dim=-1, keepdim=True)
    return ids.gather(1, rank).squeeze(1)


def made_up_logits(kind: str, rows: int, width: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=generator) * 3
    if kind == "bfloat16":  # many equal scores
        return logits.bfloat16().float()
    if kind == "few values":
        return torch.randint(0, 40, (rows, width), generator=generator).float()
    if kind == "nearly equal":  # differences around the tie step times the ids
        return torch.randint(0, 4, (rows, width), generator=generator) * 2e-6 + 1.0
    if kind == "tiny":
        return logits * 1e-7
    return logits


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "few values", "nearly equal", "tiny"])
@pytest.mark.parametrize("width", [1400, 7000, 20_001])
def test_the_draws_are_those_of_sorting_all_scores_in_float64(kind: str, width: int) -> None:
    seeds = [row_seed(1, f"{kind}{row}", 0, 0) for row in range(12)]
    for number, (temperature, top_p, top_k, penalty) in enumerate(
        [
            (0.7, 0.6, 20, 1.05),
            (1.0, 1.0, 1, 1.0),
            (3.0, 0.95, 20, 1.3),
            (1.5, 1.0, 50, 1.05),
            (0.2, 0.9, 5, 1.0),
            (0.7, 0.6, 0, 1.05),
            (1.0, 0.95, 0, 1.0),
            (0.2, 0.9, 0, 1.0),
            (1.0, 1.0, 0, 1.05),
        ]
    ):
        params = SamplingParams(True, temperature, top_p, top_k, penalty)
        for step in range(4):
            logits = made_up_logits(kind, 12, width, 100 * number + step)
            seen = torch.rand(12, width, generator=torch.Generator().manual_seed(step)) < 0.1
            expected = sample_with_all_scores(logits, seen, params, seeds, step)
            assert torch.equal(sample(logits, seen, params, seeds, step), expected)
            order = torch.arange(width, dtype=torch.float64) * 2.0**-34
            top = torch.topk((logits / temperature).double() - order, top_k or width, dim=-1).indices
            assert torch.equal(sampling.top_ids(logits, top_k or width, temperature), top), (
                "the same ids in the same order"
            )


def test_equal_scores_at_the_edge_of_top_k_are_taken_by_id() -> None:
    logits = torch.zeros(2, 20_000)
    logits[1, 19_999], logits[1, 12_345] = 1.0, 1.0
    assert sampling.top_ids(logits, 4, 0.7).tolist() == [[0, 1, 2, 3], [12_345, 19_999, 0, 1]]


def test_no_float64_copy_of_all_scores_is_made() -> None:
    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for value in torch.utils._pytree.tree_leaves(result):
                if isinstance(value, torch.Tensor) and value.dtype is torch.float64:
                    largest[0] = max(largest[0], value.numel())
            return result

    logits = torch.randn(2, 120_818)
    with Watch():
        sample(logits, None, CARD, [1, 2], 0)
    assert 0 < largest[0] < logits.numel() / 25
    with Watch():
        sample(logits * 9, None, SamplingParams(True, 0.7, 0.6, 0, 1.05), [1, 2], 0)
    assert largest[0] < logits.numel() / 6
    with Watch():
        sample(logits * 9, None, SamplingParams(True, 0.7, 1.0, 0, 1.05), [1, 2], 0)
    assert largest[0] < logits.numel() / 6


def test_without_top_k_a_row_samples_the_same_token_alone_and_beside_rows_that_need_all_scores() -> None:
    params = SamplingParams(True, 1.0, 0.9, 0, 1.0)
    logits = torch.cat([made_up_logits("float32", 4, 9000, 1) * 4, made_up_logits("tiny", 4, 9000, 2)])[
        torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    ]
    for step in range(20):
        together = sample(logits, None, params, list(range(8)), step).tolist()
        assert together == [sample(logits[[row]], None, params, [row], step).item() for row in range(8)]


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_without_top_k_few_rows_sort_all_scores_and_many_draw_beyond_the_candidates(
    top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, rows, width = SamplingParams(True, 1.0, top_p, 0, 1.0), 8, 20_001
    num_sorted, top_ids = [0], sampling.top_ids

    def counted(logits: Any, k: int, temperature: float) -> Any:
        num_sorted[0] += len(logits) if k == width else 0
        return top_ids(logits, k, temperature)

    monkeypatch.setattr(sampling, "top_ids", counted)
    num_beyond = 0
    for step in range(40):
        logits = made_up_logits("float32", rows, width, step)
        seeds = [row_seed(2, str(row), 0, 0) for row in range(rows)]
        tokens = sample(logits, None, params, seeds, step)
        assert torch.equal(tokens, sample_with_all_scores(logits, None, params, seeds, step))
        ranks = (logits > logits.gather(1, tokens[:, None])).sum(dim=-1)
        num_beyond += int((ranks >= sampling.NUCLEUS_CANDIDATES).sum())
    assert num_beyond > 40
    assert num_sorted[0] <= 40 * rows * (1 - top_p + 0.05)
