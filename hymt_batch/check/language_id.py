"""Identify the language of a text, where its script leaves it open; with py3langid, imported when it is first used.

Source: py3langid 0.4 (BSD), a fork of langid.py. On 73,889 human translations in 37 languages, it took 0.05 % of those
with at least 30 characters for another language; it confuses Malay with Indonesian and Mandarin with Cantonese.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from hymt_batch import languages
from hymt_batch.check.pair import words_of
from hymt_batch.check.settings import CheckConfig, FlagConfig
from hymt_batch.errors import PreflightError
from hymt_batch.records import Document, Language, Row

log = logging.getLogger(__name__)

MIN_CHARS = 30
"""Characters of a text from which its language is identified."""

_WINDOW_CHARS, _MAX_WINDOWS = 600, 6  # of a long text, so that a part in another language is seen

_ALIASES = (
    frozenset({"ms", "id"}),
    frozenset({"zh", "zh-Hant", "yue", "wuu"}),
    frozenset({"bo", "dz"}),
    frozenset({"tl", "fil"}),
)
"""Languages that are not told apart."""


def is_installed() -> bool:
    return importlib.util.find_spec("py3langid") is not None


def prepare(config: CheckConfig) -> None:
    """Log which share of the rows is identified.

    Raises:
        PreflightError: Some are, and py3langid is not installed.
    """
    settings = []
    if config.retry.identifies:
        settings.append("check.retry.kinds with wrong_language")
    if share := config.flag.identify_share:
        settings.append(f"check.flag.identify_share={share:g}")
        log.info("the language of %g %% of the rows is identified", 100 * share)
    if settings and not is_installed():
        raise PreflightError(
            f"{settings[0]} needs py3langid, which is not installed",
            fix="Run `pip install 'hymt-batch[check]'`, or drop the setting.",
        )


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    own = {_label(code) for code in languages.LANGUAGES} | {label for aliases in _ALIASES for label in aliases}
    identifier.set_languages(sorted(own & set(identifier.labels)))
    return identifier


def _label(code: str) -> str:
    return "zh" if code == "zh-Hant" else code


def _same(code: str) -> frozenset[str]:
    return next((aliases for aliases in _ALIASES if code in aliases), frozenset({code}))


def is_sampled(row_id: str, share: float) -> bool:
    """Return whether a row is one of those whose language is identified; the same in every run."""
    if share >= 1:
        return True
    number = int.from_bytes(hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big")
    return number < share * (1 << 32)


@lru_cache
def is_open(code: str) -> bool:
    """Return whether the table has another language with the script of this one, which letters do not tell apart."""
    script = languages.get(code).script
    return (
        script not in ("Hans", "Hant", "Jpan")
        and sum(language.script == script for language in languages.LANGUAGES.values()) > 1
    )


def margin(text: str, code: str) -> float:
    """Return how much more probable another language is than the given one; see `identify`."""
    found = identify(text, code)
    return found[1] if found else 0.0


def identify(text: str, code: str) -> Language | None:
    """Return the most probable language of a text, and how much more probable than the given one it is, from 0 to 1.

    They are those of the worst piece of the text. The margin is 0 where the given language is the most probable one;
    its label is then that of the language or of one that is not told apart from it.

    Args:
        text: What is said to be in the language.
        code: A code of the table of languages.

    Returns:
        None if the text is too short, or if the script of the language alone tells it.
    """
    if len(text) < MIN_CHARS or not is_open(code):
        return None
    identifier, own = _identifier(), _same(_label(code))
    if not own & set(identifier.nb_classes):
        return None
    return max((_identify(identifier, piece, own) for piece in _windows(text)), key=lambda found: found[1])


Identify = Callable[[Document, Row], Language | None]
"""Returns the language of a row that is about to be committed; None if it is not identified."""


def row_identifier(config: FlagConfig, tgt_lang: str) -> Identify | None:
    """Return what identifies the rows that are in the sample; None if no row is.

    Args:
        config: Which rows are in the sample.
        tgt_lang: The target language of the job; that of a document counts first.
    """
    if not config.identifies:
        return None

    def identify_row(document: Document, row: Row) -> Language | None:
        if not (row.text and row.num_source_tokens and is_sampled(document.id, config.identify_share)):
            return None
        return identify(words_of(row.text), document.tgt_lang or tgt_lang)

    return identify_row


def _windows(text: str) -> list[str]:
    """Return the pieces of a text that are identified: all of it, or some of the same length at even distances."""
    if len(text) <= 2 * _WINDOW_CHARS:
        return [text]
    num = min(_MAX_WINDOWS, len(text) // _WINDOW_CHARS)
    step = (len(text) - _WINDOW_CHARS) / (num - 1)
    return [text[round(index * step) :][:_WINDOW_CHARS] for index in range(num)]


def _identify(identifier: Any, text: str, own: frozenset[str]) -> Language:
    scores = identifier.rank(text)
    own_score = sum(score for label, score in scores if label in own)
    label, other = max(((label, score) for label, score in scores if label not in own), key=lambda pair: pair[1])
    margin = round(max(0.0, float(other - own_score)), 3)
    return (label, margin) if margin else (next(label for label, _ in scores if label in own), 0.0)
