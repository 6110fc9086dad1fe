"""What is measured of a translation beside its source: one small function each; it gives a number, 0 if all is well.

Measurements are kept with the rows, and thresholds make flags of them (DERIVED), so a threshold can change later
without decoding. The larger a number, the worse. Pure functions of a pair; nothing here decodes.

The false-alarm rates, at the default thresholds, are those on 97,853 human translations: NTREX-128 into Arabic,
Cantonese, Chinese, French, German, Japanese and Thai, from English and from each other (`tests/campaigns/checks.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from hymt_batch.check import leaks, length_ratios, scripts, surface
from hymt_batch.check.loops import count_repeats, has_loop
from hymt_batch.check.pair import Pair
from hymt_batch.check.settings import Thresholds
from hymt_batch.records import Measures


def measure_loop(pair: Pair, loops_from: int = 3) -> float:
    """Count how often a piece of 3 to 100 characters stands in a row, from `loops_from` on, if the source has no loop.

    False alarms: at most 0.1 % of 73,889 human translations in 37 languages (3 of 1,997 in the worst language).
    """
    num = count_repeats(pair.translation, loops_from)
    return 0 if num and has_loop(pair.source, loops_from) else num


_NGRAM_WORDS, _NGRAM_CHARS = 4, 16
_MIN_NGRAM_CHARS = 30


def measure_repetition(pair: Pair) -> float:
    """Count how much more often the most frequent n-gram stands in the translation than one does in the source.

    An n-gram is four words, or 16 characters of a script without spaces. False alarms, from 2 on: none in 26 of 29
    spaced languages of NTREX, at most 2 of 1,997 in the others, and at most 5 of 1,997 without spaces.
    """
    if len(pair.translation) < _MIN_NGRAM_CHARS:
        return 0
    most = _most_frequent(pair.translation, spaced=pair.target.spaced)
    if most < 3:
        return 0
    excess = most - max(1, _most_frequent(pair.source, spaced=pair.source_script not in scripts.UNSPACED))
    return excess if excess >= 2 else 0


def _most_frequent(text: str, *, spaced: bool) -> int:
    """Return how often the most frequent n-gram of a text occurs."""
    if spaced:
        words = text.split()
        grams: Sequence[object] = list(zip(*(words[start:] for start in range(_NGRAM_WORDS)), strict=False))
    else:
        grams = [text[start : start + _NGRAM_CHARS] for start in range(len(text) - _NGRAM_CHARS + 1)]
    if len(set(grams)) == len(grams):
        return min(1, len(grams))
    return max(Counter(grams).values())


def measure_long(pair: Pair) -> float:
    """Return the length by the longest that is usual for the pair of languages; 0 if it is not above that.

    False alarms, from 1.2 on: 0.07 % together with `measure_short`, 0.09 % in the worst language.
    """
    if not pair.is_long:
        return 0
    _, high = length_ratios.limits(pair.source_code, pair.target.code)
    times = len(pair.words) / (high * len(pair.source_words))
    return round(times, 2) if times > 1 else 0


def measure_short(pair: Pair) -> float:
    """Return the shortest length that is usual for the pair of languages by the length; 0 if it is not below that.

    False alarms: see `measure_long`.
    """
    if not pair.is_long or not pair.words:
        return 0
    low, _ = length_ratios.limits(pair.source_code, pair.target.code)
    times = low * len(pair.source_words) / len(pair.words)
    return round(times, 2) if times > 1 else 0


_MIN_LETTERS = 8


def measure_foreign(pair: Pair) -> float:
    """Return the share of the letters that are not of the target's script, from a half on.

    False alarms, from 0.8 on: 0.02 %, 0.09 % in Chinese. Names in Latin letters make many more at lower thresholds.
    """
    if not pair.is_long:
        return 0
    own, others = scripts.count_letters(pair.words, pair.target.script)
    return round(others / (own + others), 3) if own + others >= _MIN_LETTERS and others >= own else 0


def measure_letters(pair: Pair) -> float:
    """Return 1 if the letters alone show another language: kana in Chinese, none in Japanese, letters of a neighbour.

    False alarms: none. Languages with the same letters are told apart by `language_id` alone.
    """
    if not pair.is_long:
        return 0
    return float(scripts.has_letters_of_another(pair.words, pair.target.code, pair.target.script))


_MIN_VARIANT_CHARACTERS = 2


def measure_variant(pair: Pair) -> float:
    """Return the share of characters of the other kind of Chinese, of those that are of one kind alone, above a half.

    False alarms: none in Chinese; 0.9 % of the Cantonese, which are in Simplified characters.
    """
    if pair.target.script not in ("Hans", "Hant"):
        return 0
    simplified, traditional = scripts.count_variants(pair.translation)
    own, other = (simplified, traditional) if pair.target.script == "Hans" else (traditional, simplified)
    return round(other / (own + other), 3) if other >= _MIN_VARIANT_CHARACTERS and other > own else 0


_MIN_LEFT_WORDS = 3
_CHARACTERS_A_WORD = 2  # of a script without spaces


def measure_left(pair: Pair) -> float:
    """Return the longest piece of the source in its own script that stands in the translation: words, or half the
    characters of a script without spaces; from 3 on.

    False alarms, from 5 on: 0.09 %, 0.34 % in Thai; they are titles, names of organizations and quotations.
    """
    script, own = pair.source_script, pair.target.script
    if not script or script == own or {script, own} <= {"Hans", "Hant", "Jpan"} or not pair.is_long:
        return 0
    is_unspaced = script in scripts.UNSPACED
    size = _MIN_LEFT_WORDS * (_CHARACTERS_A_WORD if is_unspaced else 1)
    words = scripts.words_in(pair.words, script, own)
    if len(words) < size:
        return 0
    of_source = scripts.words_in(pair.source_words, script, own)
    longest = _longest_common(words, of_source, size)
    return longest / _CHARACTERS_A_WORD if is_unspaced else longest


def _longest_common(words: Sequence[str], others: Sequence[str], size: int) -> int:
    """Return the number of letter words in the longest run of words that both have; 0 if it is below `size`.

    An empty word is in no run.
    """
    positions: dict[tuple[str, ...], list[int]] = {}
    for at in range(len(others) - size + 1):
        positions.setdefault(tuple(others[at : at + size]), []).append(at)
    best = 0
    for start in range(len(words) - size + 1):
        gram = tuple(words[start : start + size])
        if "" in gram:
            continue
        for at in positions.get(gram, ())[:4]:
            length = size
            while start + length < len(words) and at + length < len(others) and words[start + length]:
                if words[start + length] != others[at + length]:
                    break
                length += 1
            best = max(best, sum(not word.isdecimal() for word in words[start : start + length]))
    return best if best >= size else 0


def measure_leak(pair: Pair) -> float:
    """Return 1 if the translation has a note, an introduction, or the words of a prompt that the source has not.

    False alarms: none.
    """
    return float(leaks.has_leak(pair.translation) and not leaks.may_have_note(pair.source))


MEASURES: Mapping[str, Callable[[Pair], float]] = {
    "loop": measure_loop,
    "repetition": measure_repetition,
    "long": measure_long,
    "short": measure_short,
    "foreign": measure_foreign,
    "letters": measure_letters,
    "variant": measure_variant,
    "left": measure_left,
    "leak": measure_leak,
    "urls": surface.measure_urls,
    "numbers": surface.measure_numbers,
    "markdown": surface.measure_markdown,
}
"""Name under which rows keep a measurement -> its function, in the order in which they keep them."""

_Measured = Mapping[str, float]


def _repeats(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return measured.get("loop", 0) >= limits.loop_repeats


def _is_unsure(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return limits.min_logprob is not None and logprob is not None and logprob < limits.min_logprob


def _has_other_length(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return max(measured.get("long", 0), measured.get("short", 0)) >= limits.length_factor


def _is_in_other_script(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return measured.get("foreign", 0) >= limits.foreign_share


def _is_in_other_language(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return "letters" in measured or measured.get("language", 0) >= limits.language_margin


def _has_source_words(measured: _Measured, logprob: float | None, limits: Thresholds) -> bool:
    return measured.get("left", 0) >= limits.source_words


def _has(name: str) -> Callable[[_Measured, float | None, Thresholds], bool]:
    return lambda measured, logprob, limits: name in measured


DERIVED: Mapping[str, Callable[[_Measured, float | None, Thresholds], bool]] = {
    "loop": _repeats,
    "low_logprob": _is_unsure,
    "repetition": _has("repetition"),
    "length": _has_other_length,
    "wrong_script": _is_in_other_script,
    "wrong_language": _is_in_other_language,
    "wrong_variant": _has("variant"),
    "left_in_source": _has_source_words,
    "leak": _has("leak"),
    "urls": _has("urls"),
    "numbers": _has("numbers"),
    "markdown": _has("markdown"),
}
"""Flag -> whether measurements and a mean log-probability give it."""


def measure(pair: Pair, *, loops_from: int = 3, may_loop: bool = True) -> Measures:
    """Return what is not 0, by name.

    Args:
        pair: A text and its translation.
        loops_from: See `measure_loop`.
        may_loop: False if it is known that the translation has no loop.
    """
    others = ((name, function) for name, function in MEASURES.items() if name != "loop")
    found = [(name, value) for name, function in others if (value := function(pair))]
    if may_loop and (loop := measure_loop(pair, loops_from)):
        found.insert(0, ("loop", loop))
    return tuple((name, int(value) if value == int(value) else value) for name, value in found)


def worst(measures: Sequence[Measures]) -> Measures:
    """Return the largest of each measurement, over the segments of a row."""
    found: dict[str, float] = {}
    for each in measures:
        for name, value in each:
            found[name] = max(value, found.get(name, 0))
    return tuple((name, found[name]) for name in (*MEASURES, "language") if name in found)
