"""The 38 languages of the models' table: code, English and Chinese name. No I/O, no settings.

Source: language table of the HY-MT1.5 model card (33 languages and 5 minority languages or dialects).
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from hymt_batch.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its code, its names as the prompts need them, and how its text is written."""

    code: str
    english: str
    chinese: str
    spaced: bool = True  # words are separated by spaces
    expansion: float = 1.0  # how many more tokens than most a text takes, for max_new_tokens


_TABLE = """
zh|Chinese|中文
en|English|英语
fr|French|法语
pt|Portuguese|葡萄牙语
es|Spanish|西班牙语
ja|Japanese|日语
tr|Turkish|土耳其语
ru|Russian|俄语
ar|Arabic|阿拉伯语
ko|Korean|韩语
th|Thai|泰语
it|Italian|意大利语
de|German|德语
vi|Vietnamese|越南语
ms|Malay|马来语
id|Indonesian|印尼语
tl|Filipino|菲律宾语
hi|Hindi|印地语
zh-Hant|Traditional Chinese|繁体中文
pl|Polish|波兰语
cs|Czech|捷克语
nl|Dutch|荷兰语
km|Khmer|高棉语
my|Burmese|缅甸语
fa|Persian|波斯语
gu|Gujarati|古吉拉特语
ur|Urdu|乌尔都语
te|Telugu|泰卢固语
mr|Marathi|马拉地语
he|Hebrew|希伯来语
bn|Bengali|孟加拉语
ta|Tamil|泰米尔语
uk|Ukrainian|乌克兰语
bo|Tibetan|藏语
kk|Kazakh|哈萨克语
mn|Mongolian|蒙古语
ug|Uyghur|维吾尔语
yue|Cantonese|粤语
"""
_UNSPACED = frozenset({"zh", "zh-Hant", "yue", "ja", "th", "km", "my", "bo"})
# scripts that the tokenizer cuts into many byte-level pieces: their texts need more new tokens for the same meaning
_EXPANSION = {"bo": 4.0, "my": 4.0, "km": 4.0, "ug": 2.5, "gu": 3.0, "te": 3.0, "ta": 3.0, "mr": 2.5, "bn": 2.5}
_EXPANSION |= {"hi": 2.0, "mn": 2.0, "kk": 2.0, "th": 2.0, "he": 2.0, "fa": 2.0, "ur": 2.0, "ar": 1.5, "uk": 1.5}


LANGUAGES: dict[str, Language] = {
    code: Language(code, english, chinese, code not in _UNSPACED, _EXPANSION.get(code, 1.0))
    for code, english, chinese in (line.split("|") for line in _TABLE.strip().split("\n"))
}
"""Code -> language, in the order of the model card."""

CHINESE_CODES = frozenset({"zh", "zh-Hant", "yue"})
"""Codes whose presence on either side selects the Chinese prompt."""


_SUGGESTIONS = {
    "zh-tw": ("zh-Hant",),
    "zh-hk": ("zh-Hant", "yue"),
    "zh-cn": ("zh",),
    "zh-hans": ("zh",),
    "cn": ("zh",),
    "jp": ("ja",),
    "kr": ("ko",),
    "ua": ("uk",),
    "cz": ("cs",),
    "fil": ("tl",),
    "iw": ("he",),
}


def get(code: str, key: str = "tgt_lang") -> Language:
    """Look a language up by its code.

    Args:
        code: A code of the table, in any case, `_` for `-`.
        key: Name of the setting it came from, for the message.

    Raises:
        ConfigError: Not one of the 38; the message names the nearest.
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    folded = {known.casefold(): language for known, language in LANGUAGES.items()}
    wanted = str(code).strip().replace("_", "-").casefold()
    if wanted in folded:
        return folded[wanted]
    names = {language.english.casefold(): language.code for language in LANGUAGES.values()}
    names |= {language.chinese: language.code for language in LANGUAGES.values()}
    near = [names[name] for name in get_close_matches(wanted, names, n=2, cutoff=0.75)]
    near += [folded[known].code for known in get_close_matches(wanted.split("-")[0], folded, n=3, cutoff=0.5)]
    near = [*_SUGGESTIONS.get(wanted, ())] or near
    hint = f"Nearest: {', '.join(dict.fromkeys(near))}. " if near else ""
    raise ConfigError(
        f"{key}={code} is not a language of the models. {hint}All {len(LANGUAGES)}: {', '.join(LANGUAGES)}."
    )
