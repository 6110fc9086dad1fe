"""Score the rows of a job, and compare it with a baseline. Pure: reads and writes no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.evaluate import bootstrap, metrics
from hymt_batch.evaluate.bootstrap import PairedResult
from hymt_batch.evaluate.rows import Rows, ScoredRow
from hymt_batch.evaluate.settings import BleuTokenizer, MetricName
from hymt_batch.records import plural

SCORER = "scorer"
"""Name of the scores of the command hook, among those of the metrics."""

ScoreCommand = Callable[[Sequence[ScoredRow]], list[float]]


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A score of one language."""

    name: str
    score: float  # of the corpus; of the command hook, the mean
    signature: str
    paired: PairedResult | None = None  # beside the baseline


@dataclass(slots=True)
class LanguageResult:
    """The scores of the rows of one target language."""

    tgt_lang: str
    num_rows: int
    metrics: list[MetricResult] = field(default_factory=list)
    not_computed: list[str] = field(default_factory=list)  # metrics that mean nothing for this language


@dataclass(slots=True)
class Evaluation:
    """All scores of a job."""

    languages: list[LanguageResult] = field(default_factory=list)
    by_row: dict[str, dict[str, float]] = field(default_factory=dict)  # row id -> metric -> score


@dataclass(frozen=True, slots=True)
class Options:
    """What is computed."""

    metrics: Sequence[MetricName]
    bleu_tokenizer: BleuTokenizer
    num_samples: int  # of the bootstrap
    seed: int


def evaluate(rows: Rows, baseline: dict[str, ScoredRow] | None, options: Options) -> Evaluation:
    """Compute the metrics of each target language.

    Args:
        rows: The rows of the job.
        baseline: The same rows of the baseline by id; None without one. See `of_same_rows`.
        options: What is computed.

    Raises:
        PreflightError: sacrebleu is not installed.
    """
    result = Evaluation(by_row={row.id: {} for row in rows.scored})
    for tgt_lang, scored in rows.by_language().items():
        language = LanguageResult(tgt_lang, len(scored))
        names = metrics.metrics_for(options.metrics, tgt_lang)
        language.not_computed = [name.value for name in options.metrics if name not in names]
        references = [row.reference for row in scored]
        for name in names:
            texts = [row.translation for row in scored]
            scores = metrics.compute(name, tgt_lang, texts, references, options.bleu_tokenizer)
            paired = None
            if baseline is not None:
                others = [baseline[row.id].translation for row in scored]
                other = metrics.compute(name, tgt_lang, others, references, options.bleu_tokenizer)
                paired = _paired(scores.of_statistics, scores.statistics, other.statistics, options)
            language.metrics.append(MetricResult(name.value, scores.score, scores.signature, paired))
            for row, value in zip(scored, scores.of_rows(), strict=True):
                result.by_row[row.id][name.value] = value
        result.languages.append(language)
    return result


def add_scorer(
    result: Evaluation, rows: Rows, baseline: dict[str, ScoredRow] | None, score: ScoreCommand, options: Options
) -> None:
    """Add the scores of a command to those of the metrics; it is called once, with the rows of the baseline too.

    Raises:
        PreflightError: The command failed; nothing is added.
    """
    others = [] if baseline is None else [baseline[row.id] for row in rows.scored]
    values = score([*rows.scored, *others])
    own = {row.id: value for row, value in zip(rows.scored, values, strict=False)}
    of_baseline = {row.id: value for row, value in zip(others, values[len(rows.scored) :], strict=True)}
    by_language = rows.by_language()
    for language in result.languages:
        ids = [row.id for row in by_language[language.tgt_lang]]
        statistics = [[own[row_id], 1.0] for row_id in ids]
        paired = None
        if baseline is not None:
            paired = _paired(_mean, statistics, [[of_baseline[row_id], 1.0] for row_id in ids], options)
        score_of_all = _mean([sum(column) for column in zip(*statistics, strict=True)])
        language.metrics.append(MetricResult(SCORER, score_of_all, "", paired))
    for row_id, value in own.items():
        result.by_row[row_id][SCORER] = value


def _mean(total: Sequence[float]) -> float:
    return total[0] / total[1]


def _paired(score_of: Callable[[Sequence[float]], float], system: Any, baseline: Any, options: Options) -> PairedResult:
    return bootstrap.paired(score_of, system, baseline, num_samples=options.num_samples, seed=options.seed)


def of_same_rows(rows: Rows, baseline: Rows, name: str) -> dict[str, ScoredRow]:
    """Return the rows of a baseline by id, if they are those of the job.

    Raises:
        ConfigError: The baseline translated other rows, or into another language.
    """
    others = {row.id: row for row in baseline.scored}
    for row in rows.scored:
        other = others.get(row.id)
        what = ""
        if other is None:
            what = f"has no row {row.id}"
        elif other.digest != row.digest or other.source != row.source:
            what = f"has another source in row {row.id}"
        elif other.tgt_lang != row.tgt_lang:
            what = f"has row {row.id} in {other.tgt_lang}, not in {row.tgt_lang}"
        if what:
            raise ConfigError(
                f"baseline={name} {what}",
                why=f"It has {plural(len(others), 'row')} with a reference, and this job {len(rows.scored)}.",
                fix="Set baseline= to a job with the same inputs and languages.",
            )
    return others
