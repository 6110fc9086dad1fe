"""The 38 languages that the models translate: code, English name and Chinese name. No I/O, no settings.

Source: language table of the HY-MT1.5 model card (33 languages and 5 minority languages or dialects).
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from hymt_batch.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its code, its names in the prompts, and properties of its text."""

    code: str
    english: str
    chinese: str
    spaced: bool = True  # words are separated by spaces
    expansion: float = 1.0  # tokens per text relative to most languages, for max_new_tokens


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
# the tokenizer splits these scripts into many byte-level pieces, so the same meaning needs more new tokens
_EXPANSION = {"bo": 4.0, "my": 4.0, "km": 4.0, "ug": 2.5, "gu": 3.0, "te": 3.0, "ta": 3.0, "mr": 2.5, "bn": 2.5}
_EXPANSION |= {"hi": 2.0, "mn": 2.0, "kk": 2.0, "th": 2.0, "he": 2.0, "fa": 2.0, "ur": 2.0, "ar": 1.5, "uk": 1.5}


LANGUAGES: dict[str, Language] = {
    code: Language(code, english, chinese, code not in _UNSPACED, _EXPANSION.get(code, 1.0))
    for code, english, chinese in (line.split("|") for line in _TABLE.strip().split("\n"))
}
"""Code -> language, in the order of the model card."""

CHINESE_CODES = frozenset({"zh", "zh-Hant", "yue"})
"""A source or target language with one of these codes selects the Chinese prompt."""


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
    """Return the language with this code.

    Args:
        code: A code in upper or lower case, with `-` or `_`.
        key: Name of the setting that holds the code, for the message.

    Raises:
        ConfigError: The code is unknown; the message lists the nearest ones.
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    by_folded_code = {known.casefold(): language for known, language in LANGUAGES.items()}
    normalized = str(code).strip().replace("_", "-").casefold()
    if normalized in by_folded_code:
        return by_folded_code[normalized]
    code_by_name = {language.english.casefold(): language.code for language in LANGUAGES.values()}
    code_by_name |= {language.chinese: language.code for language in LANGUAGES.values()}
    near = [code_by_name[name] for name in get_close_matches(normalized, code_by_name, n=2, cutoff=0.75)]
    near += [
        by_folded_code[known].code
        for known in get_close_matches(normalized.split("-")[0], by_folded_code, n=3, cutoff=0.5)
    ]
    near = [*_SUGGESTIONS.get(normalized, ())] or near
    hint = f"Nearest: {', '.join(dict.fromkeys(near))}. " if near else ""
    raise ConfigError(
        f"{key}={code} is not a language of the models",
        fix=f"{hint}All {len(LANGUAGES)}: {', '.join(LANGUAGES)}.",
    )
