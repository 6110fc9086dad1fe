"""Paired bootstrap: whether two systems differ by more than the choice of the rows explains.

The resamples, and so the p-values, are those of sacrebleu's `--paired-bs` with the same seed; the sums are exact, and
memory does not grow with the number of resamples.

Source: Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004; sacrebleu 2.6,
`sacrebleu.significance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PairedResult:
    """A system beside its baseline."""

    score: float
    baseline: float
    p_value: float  # of a difference as large as this one, or larger, if there were none
    mean: float  # score of the system over the resamples
    ci: float  # half of the width of its 95 % interval
    baseline_mean: float
    baseline_ci: float

    @property
    def difference(self) -> float:
        return self.score - self.baseline


def paired(
    score_of: Callable[[Sequence[float]], float],
    system: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    *,
    num_samples: int,
    seed: int,
) -> PairedResult:
    """Compare two systems on the same rows.

    Args:
        score_of: Returns the score of rows whose statistics have a given sum.
        system: The statistics of each row.
        baseline: The same of the baseline.
        num_samples: Number of resamples, at least 1.
        seed: Of the resamples; equal seeds give equal results.
    """
    import numpy

    generator = numpy.random.default_rng(seed)
    both = [numpy.array(statistics, dtype="float64") for statistics in (system, baseline)]
    num_rows, scores = len(system), numpy.empty((2, num_samples))
    for sample in range(num_samples):
        times = numpy.bincount(generator.choice(num_rows, size=num_rows, replace=True), minlength=num_rows)
        for index, statistics in enumerate(both):
            scores[index, sample] = score_of((times @ statistics).tolist())
    score, baseline_score = (score_of(statistics.sum(0).tolist()) for statistics in both)
    differences = numpy.abs(scores[0] - scores[1])
    exceeding = int(numpy.sum(differences - differences.mean() > abs(score - baseline_score)))
    (mean, ci), (baseline_mean, baseline_ci) = map(_interval, scores)
    p_value = (exceeding + 1) / (num_samples + 1)
    return PairedResult(score, baseline_score, p_value, mean, ci, baseline_mean, baseline_ci)


def _interval(scores: Any) -> tuple[float, float]:
    """Return the mean of some scores, and half of the width of their 95 % interval."""
    ordered = sorted(scores.tolist())
    outside = len(ordered) // 40
    return float(scores.mean()), 0.5 * (ordered[-1 - outside] - ordered[outside])
