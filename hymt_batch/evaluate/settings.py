"""What the settings of `evaluate` may be; conf/evaluate.yaml explains them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError


class MetricName(Enum):
    """A metric of sacrebleu."""

    chrf = "chrf"
    chrf_pp = "chrf++"
    bleu = "bleu"
    ter = "ter"


class BleuTokenizer(Enum):
    """A tokenizer of BLEU that needs no download and no further library."""

    auto = "auto"  # by the target language
    vars()["13a"] = "13a"
    intl = "intl"
    zh = "zh"
    char = "char"
    none = "none"


def metric_names(value: Any) -> list[MetricName]:
    """Return the metrics that a user listed, in the order in which they are shown; None means all.

    Raises:
        ConfigError: One of them is not a metric.
    """
    if value is None:
        return list(MetricName)
    listed = [str(name).lower() for name in (value if isinstance(value, (list, tuple)) else [value])]
    known = [name.value for name in MetricName]
    if not listed or not set(listed) <= set(known):
        raise ConfigError(
            f"metrics={value} is not a list of metrics", fix=f"Set metrics=[{','.join(known)}], or some of them."
        )
    return [name for name in MetricName if name.value in listed]


def as_paths(value: Any) -> list[str] | None:
    """Return one path or a list of paths as a list; None if there is none."""
    if value is None:
        return None
    paths = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(path, str) and path for path in paths):
        raise ConfigError(f"inputs={value} is not a path", fix="Set inputs=PATH, as you set source.path=.")
    return list(paths)


def check_scorer(scorer: str | None) -> None:
    """Check that a scorer is a command.

    Raises:
        ConfigError: It is empty.
    """
    if scorer is not None and not scorer.strip():
        raise ConfigError("scorer= is empty", fix="Set it to a command, such as 'python comet_scores.py', or drop it.")


def check_numbers(bootstrap: int, seed: int, scorer_timeout_s: float) -> None:
    """Check the numbers among the settings.

    Raises:
        ConfigError: One of them is out of its range.
    """
    if bootstrap < 1:
        raise ConfigError(f"bootstrap={bootstrap} must be at least 1 resample", fix="Set bootstrap=1000 (the default).")
    if seed < 0:
        raise ConfigError(f"seed={seed} must be at least 0", fix="Set seed=12345 (the default).")
    if not 0 < scorer_timeout_s < float("inf"):
        raise ConfigError(
            f"scorer_timeout_s={scorer_timeout_s} must be above 0 seconds", fix="Set scorer_timeout_s=3600."
        )
