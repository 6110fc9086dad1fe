"""How many characters a translation has for each character of its source, by language pair. Data, and what reads it.

Source: computed from the English source of NTREX-128 (newstest2019; Federmann et al. 2022, CC BY-SA 4.0) and its human
translations into the other 37 languages, 1,997 segments each: of the ratios of a language, the 0.1st percentile, the
median and the 99.9th.
"""

from __future__ import annotations

from functools import lru_cache

FROM_ENGLISH = {
    "en": (0.600, 1.000, 1.700),  # of itself: not measured; it stands for a source in English and for rewording
    "zh": (0.170, 0.339, 1.132),
    "fr": (0.529, 1.181, 2.296),
    "pt": (0.525, 1.118, 2.154),
    "es": (0.636, 1.153, 2.174),
    "ja": (0.245, 0.455, 1.000),
    "tr": (0.554, 1.063, 3.000),
    "ru": (0.478, 1.103, 2.417),
    "ar": (0.485, 0.917, 2.160),
    "ko": (0.273, 0.526, 1.467),
    "th": (0.454, 0.957, 1.625),
    "it": (0.646, 1.164, 2.045),
    "de": (0.618, 1.188, 2.194),
    "vi": (0.463, 1.095, 2.680),
    "ms": (0.545, 1.117, 2.045),
    "id": (0.636, 1.157, 2.261),
    "tl": (0.643, 1.182, 2.288),
    "hi": (0.558, 1.053, 2.077),
    "zh-Hant": (0.126, 0.347, 1.364),
    "pl": (0.526, 1.118, 2.116),
    "cs": (0.491, 0.968, 1.742),
    "nl": (0.614, 1.171, 2.130),
    "km": (0.636, 1.141, 2.769),
    "my": (0.558, 1.263, 2.761),
    "fa": (0.456, 0.981, 2.096),
    "gu": (0.551, 0.991, 1.615),
    "ur": (0.549, 1.000, 1.933),
    "te": (0.509, 1.012, 2.045),
    "mr": (0.606, 1.051, 2.019),
    "he": (0.484, 0.802, 1.500),
    "bn": (0.553, 0.986, 2.019),
    "ta": (0.673, 1.269, 2.455),
    "uk": (0.556, 1.052, 2.340),
    "bo": (0.614, 1.213, 2.519),
    "kk": (0.537, 1.053, 2.200),
    "mn": (0.503, 1.061, 2.161),
    "ug": (0.581, 1.244, 3.319),
    "yue": (0.182, 0.319, 0.885),
}
"""Language -> ratio of its length to that of the English text: 0.1st percentile, median, 99.9th percentile."""


@lru_cache
def limits(source: str, target: str) -> tuple[float, float]:
    """Return the lowest and the highest ratio that is usual for a pair of languages.

    Between two languages other than English, the ratio is that of their ratios to English: the spread is that of the
    wider one of the two.
    """
    low, median, high = FROM_ENGLISH[target]
    source_low, source_median, source_high = FROM_ENGLISH[source]
    spread_low = min(low / median, source_median / source_high if source != "en" else 1.0)
    spread_high = max(high / median, source_median / source_low if source != "en" else 1.0)
    expected = median / source_median
    return expected * spread_low, expected * spread_high
