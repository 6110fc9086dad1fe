"""The scores of sacrebleu for one target language. The figures are those of its command line with the same options.

The statistics of each row are collected once; the scores of the corpus, of each row and of each resample of a bootstrap
are computed from them. sacrebleu is the extra `eval`.

Source: sacrebleu 2.6 (Apache-2.0), `sacrebleu.metrics.base.Metric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.errors import PreflightError
from hymt_batch.evaluate.settings import BleuTokenizer, MetricName

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

ZH_LANGUAGES = frozenset({"zh", "zh-Hant", "yue"})
CHAR_LANGUAGES = frozenset({"ja", "ko", "th", "km", "my", "bo"})
"""BLEU counts the characters of these. sacrebleu has tokenizers of Japanese and Korean words that need further
libraries, and others that download a model; none of them is used."""
UNSPACED_LANGUAGES = frozenset({"th", "km", "my", "bo"})
"""TER counts words, which nothing here can find in these. It splits Chinese and Japanese into characters itself."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one system by one metric."""

    name: MetricName
    score: float  # of the corpus
    signature: str  # as sacrebleu prints it
    statistics: Any  # list of statistics, one list per row, from which scores of any rows can be computed
    metric: Metric
    row_metric: Metric  # as `metric`, for single rows

    def of_rows(self) -> list[float]:
        """Return the score of each row on its own."""
        return [float(self.row_metric._compute_score_from_stats(row).score) for row in self.statistics]

    def of_statistics(self, total: Sequence[float]) -> float:
        """Return the score of rows whose statistics have this sum."""
        return float(self.metric._compute_score_from_stats(list(total)).score)


def bleu_tokenizer(tgt_lang: str) -> str:
    """Return the tokenizer of BLEU for a language: one that needs no download and no further library."""
    return "zh" if tgt_lang in ZH_LANGUAGES else "char" if tgt_lang in CHAR_LANGUAGES else "13a"


def metrics_for(names: Sequence[MetricName], tgt_lang: str) -> list[MetricName]:
    """Return those of the metrics that mean something for a language."""
    return [name for name in names if name is not MetricName.ter or tgt_lang not in UNSPACED_LANGUAGES]


def compute(
    name: MetricName,
    tgt_lang: str,
    translations: Sequence[str],
    references: Sequence[str],
    tokenizer: BleuTokenizer = BleuTokenizer.auto,
) -> Scores:
    """Compute one metric of at least one row.

    Args:
        name: The metric.
        tgt_lang: The language of the translations; it decides how BLEU and TER tokenize.
        translations: One per row; "" for a row without one.
        references: One per row.
        tokenizer: The tokenizer of BLEU.

    Raises:
        PreflightError: sacrebleu is not installed.
    """
    metric, row_metric = _open(name, tgt_lang, tokenizer)
    statistics = metric._extract_corpus_statistics(translations, [references])
    score = metric._aggregate_and_compute(statistics).score
    return Scores(name, float(score), str(metric.get_signature()), statistics, metric, row_metric)


def version() -> str:
    """Return the version of sacrebleu.

    Raises:
        PreflightError: It is not installed.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise PreflightError(
            f"sacrebleu cannot be imported ({error})",
            why="it computes the scores",
            fix="pip install 'hymt-batch[eval]'",
        ) from None
    return str(sacrebleu.__version__)


def _open(name: MetricName, tgt_lang: str, tokenizer: BleuTokenizer) -> tuple[Metric, Metric]:
    """Return the metric for a corpus and the one for single rows."""
    version()
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    if name is MetricName.bleu:
        tokenize = bleu_tokenizer(tgt_lang) if tokenizer is BleuTokenizer.auto else str(tokenizer.value)
        # a row may be shorter than four words: its BLEU is of the orders that it has
        return BLEU(tokenize=tokenize, force=True), BLEU(tokenize=tokenize, force=True, effective_order=True)
    if name is MetricName.ter:
        has_no_spaces = tgt_lang in ZH_LANGUAGES or tgt_lang == "ja"
        ter = TER(normalized=has_no_spaces, asian_support=has_no_spaces)
        return ter, ter
    chrf = CHRF(word_order=2 if name is MetricName.chrf_pp else 0)
    return chrf, chrf
