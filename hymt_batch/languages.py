"""The 38 languages that the models translate, and how users may write them: codes, locales and names.

`understand` is the one place where a text becomes a code of the table; everything after it uses these codes. A text
that names another language, or a script that the models do not write, is refused, not taken for something near.
language_table.py has the table, other_languages.txt what is known of other languages. No settings.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from hymt_batch import language_table, language_tags
from hymt_batch.errors import ConfigError
from hymt_batch.language_tags import Tag


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its code, its names in the prompts, how else it is written, and properties of its text."""

    code: str
    english: str
    chinese: str
    native: str
    script: str  # ISO 15924, such as Latn
    codes: tuple[str, ...]  # ISO 639-2 and 639-3; the first one is that of FLORES-200
    names: tuple[str, ...]  # all names, with those above
    spaced: bool = True  # words are separated by spaces
    expansion: float = 1.0  # tokens per text relative to most languages, for max_new_tokens

    @property
    def accepted(self) -> tuple[str, ...]:
        """Codes that are understood besides its own, for lists; a region may follow most of them."""
        if self.code == "zh-Hant":
            return ("zho_Hant", "cmn_Hant", "zh-TW", "zh-HK", "zh-MO")
        chinese = ("zh-Hans", "zh-CN", "zh-SG") if self.code == "zh" else ()
        codes = [code for code in self.codes if code != self.code]
        return (*codes, f"{self.codes[0]}_{self.script}", *chinese)


def _language(row: str) -> Language:
    code, english, chinese, native, script, codes, names, stems = row.split("|")
    suffixes = ("语", "語", "文")
    all_names = [english, chinese, native, *filter(None, names.split("; "))]
    all_names += [stem + suffix for stem in stems.split() for suffix in suffixes]
    return Language(
        code,
        english,
        chinese,
        native,
        script,
        tuple(codes.split()),
        tuple(dict.fromkeys(all_names)),
        code not in language_table.UNSPACED,
        language_table.EXPANSION.get(code, 1.0),
    )


LANGUAGES: dict[str, Language] = {
    language.code: language for language in map(_language, language_table.ROWS.strip().split("\n"))
}
"""Code -> language, in the order of the model card."""

CHINESE_CODES = frozenset({"zh", "zh-Hant", "yue"})
"""A source or target language with one of these codes selects the Chinese prompt."""

_BY_FOLDED_CODE = {code.casefold(): language for code, language in LANGUAGES.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """A language as it was understood."""

    language: Language
    note: str = ""  # what was understood, in words; "" if the text is the language's own code


def get(code: str, key: str = "tgt_lang") -> Language:
    """Return the language that a text names; see `understand`, which also says how it was understood."""
    return LANGUAGES[code] if code in LANGUAGES else understand(code, key).language


def find_code(text: str) -> Language | None:
    """Return the language with this code in upper or lower case, with `-` or `_`; nothing else is understood.

    Plans before version 4 read the languages of rows in this way.
    """
    return LANGUAGES.get(text) or _BY_FOLDED_CODE.get(text.strip().replace("_", "-").casefold())


def understand(text: str, key: str = "tgt_lang") -> Reading:
    """Return the language that a code, a locale or a name means.

    Args:
        text: BCP-47 (`fr-FR`), ISO 639 (`fra`, `ger`), FLORES-200 (`zho_Hant`), a POSIX locale, or a name in English,
            in Chinese or in the language itself.
        key: Name of the setting or field that holds it, for messages.

    Raises:
        ConfigError: The text names no language of the table, or one in another script; the message has the nearest.
    """
    if (language := find_code(text)) is not None:
        return Reading(language)
    plain = unicodedata.normalize("NFKC", text).strip()
    plain = language_table.OLD_TAGS.get(plain.replace("_", "-").casefold(), plain)
    if (named := _read_name(plain)) is not None:
        code, qualifier = named
        tag = Tag(code, *((qualifier, "") if qualifier.isalpha() and len(qualifier) == 4 else ("", qualifier)))
        return _resolve(tag, text, key)
    tag = language_tags.parse(plain) or Tag("")
    if tag.language in _by_code() and not _read_pair(plain):
        return _resolve(tag, text, key)
    raise _unknown(plain, tag, text, key)


def _resolve(tag: Tag, text: str, key: str) -> Reading:
    """Return the language of a tag whose language is one of the table."""
    language, script, notes = _by_code()[tag.language], tag.script, []
    script = script or language_table.IMPLIED_SCRIPTS.get((language.code, tag.region), "")
    script = language_table.EQUAL_SCRIPTS.get(script, script)
    region = tag.region
    if language.code in ("zh", "zh-Hant"):
        if script == "Hant" or (not script and region in language_table.TRADITIONAL_REGIONS):
            language = LANGUAGES["zh-Hant"]
        script = "" if script in ("Hans", "Hant", "Hani") else script
        region = "" if region in language_table.CHINESE_REGIONS else region
    if script not in ("", language.script):
        raise _other_script(language, _script_name(script), text, key)
    if transcriptions := sorted(language_table.TRANSCRIPTIONS.intersection(tag.variants)):
        raise _other_script(language, f"the transcription {transcriptions[0]}", text, key)
    if dropped := " ".join(filter(None, (region, *tag.variants, *tag.others))):
        notes.append(f"{dropped} is dropped, because the models do not distinguish it")
    if remark := language_table.REMARKS.get(tag.language) or language_table.REMARKS.get(text.strip().casefold()):
        notes.append(remark)
    return Reading(language, "; ".join([f"{key}={text} is read as {language.code} ({language.english})", *notes]))


def _script_name(script: str) -> str:
    return f"{language_table.SCRIPT_NAMES.get(script, script)} script"


def _other_script(language: Language, writing: str, text: str, key: str) -> ConfigError:
    return ConfigError(
        f"{key}={text} is {language.english} in {writing}",
        why=f"but the table of languages has it in {_script_name(language.script)} only",
        fix=f"Set {key}={language.code} if that is what you need.",
    )


@lru_cache(maxsize=1)
def _by_code() -> dict[str, Language]:
    """Map each code without subtags to its language, in lower case."""
    return {code: language for language in LANGUAGES.values() for code in language.codes} | _BY_FOLDED_CODE


@lru_cache(maxsize=1)
def _by_name() -> dict[str, str]:
    """Map each name, as `_name_key` folds it, to the code of its language."""
    return {_name_key(name): language.code.casefold() for language in LANGUAGES.values() for name in language.names}


def _name_key(name: str) -> str:
    """Fold a name: case, accents, and the punctuation between its words do not matter."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
    return " ".join(re.split(r"[\s_,;:/()\[\]-]+", plain.casefold())).strip().removesuffix(" language")


def _read_name(text: str) -> tuple[str, str] | None:
    """Return the code of a named language and the script or region beside it, or ""; None if it is no known name."""
    names, key = _by_name(), _name_key(text)
    if key in names:
        return names[key], ""
    if " " not in key or key in _others()[1]:
        return None
    qualifiers = {_name_key(word): meaning for word, meaning in language_table.QUALIFIERS.items()}
    words = key.split(" ")
    for index in range(1, len(words)):
        left, right = " ".join(words[:index]), " ".join(words[index:])
        for name, qualifier in ((left, right), (right, left)):
            if name in names and qualifier in qualifiers:
                meaning = qualifiers[qualifier]
                if meaning in ("Hans", "Hant") and names[name] not in {code.casefold() for code in CHINESE_CODES}:
                    return None
                return names[name], meaning
    return None


@dataclass(frozen=True, slots=True)
class _OtherLanguage:
    """A language that the models do not translate."""

    name: str
    nearest: tuple[str, ...]  # codes of supported languages, the nearest first


@lru_cache(maxsize=1)
def _others() -> tuple[dict[str, _OtherLanguage], dict[str, _OtherLanguage]]:
    """Read what is known of other languages, by code and by name."""
    by_code: dict[str, _OtherLanguage] = {}
    by_name: dict[str, _OtherLanguage] = {}
    for line in (Path(__file__).parent / "other_languages.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            codes, names, nearest = line.split("|")
            other = _OtherLanguage(names.partition(";")[0], tuple(nearest.split()))
            by_code |= dict.fromkeys(codes.split(), other)
            by_name |= dict.fromkeys(map(_name_key, names.split("; ")), other)
    return by_code, by_name


def describe(text: str) -> str:
    """Return what a text names that is refused, such as "Norwegian" or "Hindi in Latin script"; "" if nothing known."""
    by_code, by_name = _others()
    plain = unicodedata.normalize("NFKC", text).strip()
    tag = language_tags.parse(plain) or Tag("")
    if other := by_code.get(tag.language) or by_name.get(_name_key(plain)):
        return other.name
    base = _by_code().get(tag.language)
    return f"{base.english} in {_script_name(tag.script)}" if base and tag.script else ""


def _unknown(plain: str, tag: Tag, text: str, key: str) -> ConfigError:
    """Return the error for a text that names no language of the table."""
    by_code, by_name = _others()
    name = _name_key(plain)
    why, hint = "", ""
    nearest: tuple[str, ...] = ()
    if other := by_code.get(tag.language) or by_name.get(name):
        nearest = other.nearest
        reasons = [f"it is {other.name}"] if name != _name_key(other.name) else []
        reasons += [] if nearest else [f"none of the {len(LANGUAGES)} is close to it"]
        why = ", and ".join(reasons)
    elif base := _by_code().get(name.partition(" ")[0]):
        nearest = (base.code,)
    elif misspelled := get_close_matches(name, _by_name(), n=1, cutoff=0.8):
        nearest = (_BY_FOLDED_CODE[_by_name()[misspelled[0]]].code,)
    if pair := _read_pair(plain):
        hint = f"To translate from {pair[0].english} to {pair[1].english}, set src_lang={pair[0].code} and "
        hint += f"tgt_lang={pair[1].code}. "
    elif country := language_table.COUNTRY_CODES.get(name):
        hint = f"For {LANGUAGES[country].english}, set {key}={country}. "
    elif nearest:
        hint = f"Nearest: {', '.join(nearest)}. "
    return ConfigError(
        f"{key}={text} is not a language of the models",
        why=why,
        fix=f"{hint}All {len(LANGUAGES)}: {', '.join(LANGUAGES)}.",
    )


def _read_pair(plain: str) -> tuple[Language, Language] | None:
    """Return both languages of a text such as `en-fr`, which as a tag would be the English of France; else None.

    A region in capitals (`en-FR`) or after a language that is spoken there (`es-ar`) is a region.
    """
    match = re.fullmatch(r"([a-z]{2,3})(?:[-_/]|->|2)([a-z]{2,3})", plain)
    if match is None or match[1] == match[2] or f"{match[1]}-{match[2]}" in language_table.LOCALES_LIKE_PAIRS:
        return None
    first, second = (_by_code().get(code) for code in match.groups())
    return (first, second) if first and second and first != second else None
