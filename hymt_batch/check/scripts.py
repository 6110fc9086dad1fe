"""Letters by script: which share of a text is in a script, and which language its letters rule out. Knows no settings.

Source: the blocks of Unicode; the letters of a language that others with the same script do not have: CLDR, exemplar
characters.
"""

from __future__ import annotations

import re
from functools import lru_cache

_HAN = "\u2e80-\u2fdf々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9d"
CHARACTERS = {
    "Arab": "\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06ee\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff"
    "\ufb50-\ufdff\ufe70-\ufefc",
    "Beng": "\u0980-\u09e5\u09f0\u09f1",
    "Cyrl": "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    "Deva": "\u0900-\u0963\u0970-\u097f",
    "Gujr": "\u0a80-\u0ae5",
    "Hang": "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff",
    "Hans": _HAN,
    "Hant": _HAN,
    "Hebr": "\u0591-\u05f2\ufb1d-\ufb4f",
    "Jpan": _HAN + _KANA,
    "Khmr": "\u1780-\u17d3",
    "Latn": "A-Za-zªºÀ-ÖØ-öø-\u02af\u0300-\u036f\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06Ａ-Ｚａ-ｚ",
    "Mymr": "\u1000-\u103f\u1050-\u108f",
    "Taml": "\u0b80-\u0be5",
    "Telu": "\u0c00-\u0c65",
    "Thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "Tibt": "\u0f40-\u0fbc",
}
"""Script, as `languages.Language.script` names it -> its letters and marks, for use inside [] in a pattern."""

UNSPACED = frozenset({"Hans", "Hant", "Jpan", "Khmr", "Mymr", "Thai", "Tibt"})
"""Scripts whose words are not separated by spaces."""

TYPICAL = {
    "Arab": "ar", "Beng": "bn", "Cyrl": "ru", "Deva": "hi", "Gujr": "gu", "Hang": "ko", "Hebr": "he", "Jpan": "ja",
    "Hans": "zh", "Khmr": "km", "Latn": "en", "Mymr": "my", "Taml": "ta", "Telu": "te", "Thai": "th", "Tibt": "bo",
}  # fmt: skip
"""Script -> the language whose texts have a typical length, where the language of a source is not known."""

_KANA_RUNS, _HAN_RUNS = re.compile(f"[{_KANA}]+"), re.compile(f"[{_HAN}]+")


@lru_cache
def _runs(script: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of runs of letters of a script, and of letters of all others."""
    characters = CHARACTERS[script]
    return re.compile(f"[{characters}]+"), re.compile(rf"[^\W\d_{characters}]+")


def count_letters(text: str, script: str) -> tuple[int, int]:
    """Return the number of letters and marks of a script, and of letters of other scripts."""
    own, others = _runs(script)
    if script == "Latn" and text.isascii():
        return sum(map(str.isalpha, text)), 0
    return len("".join(own.findall(text))), len("".join(others.findall(text)))


def main_script(text: str) -> str:
    """Return the script with most letters of a text; Chinese characters with kana are Japanese; "" without letters."""
    if text.isascii():
        return "Latn" if any(map(str.isalpha, text)) else ""
    counts = {script: count_letters(text, script)[0] for script in TYPICAL}
    if counts["Jpan"] == counts["Hans"]:
        counts["Jpan"] = 0  # no kana
    best = max(counts, key=lambda script: counts[script])
    return best if counts[best] else ""


_MIN_HAN = 12
"""Chinese characters without any kana from which a text is Chinese rather than Japanese."""

_LETTERS = {
    "ar": "\u0679\u0681\u0688\u0691\u0695\u06ba\u06be\u06c6-\u06cb\u06d0\u06d2\u06d5"
    "\u067e\u0686\u0698\u06a9\u06af\u06cc",
    "fa": "\u0679\u0681\u0688\u0691\u0695\u06ba\u06be\u06c6-\u06cb\u06d0\u06d2\u06d5\u0629\u0649",
    "ur": "\u06c6-\u06cb\u06d0\u0629\u064a\u0649\u0643\u06ad",
    "ug": "\u0679\u0688\u0691\u06ba\u06cc\u06a9\u0637\u0638\u0635\u0636\u0639\u062d\u062b\u0630",
    "uk": "ыэъёӘәҒғҚқҢңӨөҰұҮүҺһ",
    "kk": "їєґ",
    "mn": "іїєґӘәҒғҚқҢңҰұҺһ",
    "ru": "іїєґӘәҒғҚқҢңӨөҰұҮүҺһ",
}
"""Language -> letters of its script that it does not write."""

_MIN_LETTERS, _MIN_SHARE = 3, 0.03


@lru_cache
def _foreign_letters(code: str) -> re.Pattern[str] | None:
    return re.compile(f"[{_LETTERS[code]}]+", re.IGNORECASE) if code in _LETTERS else None


def has_letters_of_another(text: str, code: str, script: str) -> bool:
    """Return whether the letters of a text show that it is not of the given language.

    Args:
        text: A text whose letters are mostly of the script.
        code: Its supposed language.
        script: The script of that language.
    """
    if script in ("Hans", "Hant", "Jpan"):
        kana, han = (len("".join(runs.findall(text))) for runs in (_KANA_RUNS, _HAN_RUNS))
        if script == "Jpan":
            return kana == 0 and han >= _MIN_HAN
        return kana >= _MIN_LETTERS and kana > 0.1 * (kana + han)
    if (pattern := _foreign_letters(code)) is None:
        return False
    num = len("".join(pattern.findall(text)))
    return num >= _MIN_LETTERS and num >= _MIN_SHARE * len(text)


def words_in(text: str, script: str, other: str) -> list[str]:
    """Return the words of a script in a text, or its characters if it has no spaces, and its numbers, in order.

    A run of letters of the other script is one empty word.
    """
    words = _words(script, other).findall(text)
    return words if any(words) else []


@lru_cache
def _words(script: str, other: str) -> re.Pattern[str]:
    repeats = "" if script in UNSPACED else "+"
    return re.compile(rf"([{CHARACTERS[script]}]{repeats}|\d+)|[{CHARACTERS[other]}]+")


@lru_cache
def _variants() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of the characters that are in one of two character sets alone: GB 2312 and Big5."""
    simplified: list[str] = []
    traditional: list[str] = []
    for number in range(0x4E00, 0x9FA6):
        character = chr(number)
        in_gb, in_big5 = (bool(character.encode(name, "ignore")) for name in ("gb2312", "big5"))
        if in_gb != in_big5:
            (simplified if in_gb else traditional).append(character)
    return re.compile(f"[{''.join(simplified)}]"), re.compile(f"[{''.join(traditional)}]")


def count_variants(text: str) -> tuple[int, int]:
    """Return how many characters of a text are of Simplified Chinese alone, and how many of Traditional alone."""
    simplified, traditional = _variants()
    return len(simplified.findall(text)), len(traditional.findall(text))
