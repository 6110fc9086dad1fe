"""Plural categories of the target languages, for numbers (cardinal) and for ranks (ordinal).

A number has one of them; `other` is in every language. The table is as small as this because only the categories are
needed, not the rules which number has which.

Source: Unicode CLDR 47, plurals.xml and ordinals.xml, as in Babel 2.19 (`Locale.plural_form.tags`).
"""

from __future__ import annotations

_ONE, _ONE_MANY, _SLAVIC = ("one", "other"), ("one", "many", "other"), ("one", "few", "many", "other")
_ENGLISH = ("one", "two", "few", "other")
_NONE = ("other",)

_CARDINAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("zh", "zh-Hant", "yue", "ja", "ko", "th", "vi", "ms", "id", "km", "my", "bo"), _NONE),
    **dict.fromkeys(("en", "tr", "de", "tl", "hi", "nl", "fa", "gu", "ur", "te", "mr", "bn", "ta", "kk", "mn"), _ONE),
    **dict.fromkeys(("fr", "pt", "es", "it"), _ONE_MANY),
    **dict.fromkeys(("ru", "pl", "cs", "uk"), _SLAVIC),
    "ug": _ONE,
    "he": ("one", "two", "other"),
    "ar": ("zero", "one", "two", "few", "many", "other"),
}
_ORDINAL: dict[str, tuple[str, ...]] = {
    "en": _ENGLISH,
    **dict.fromkeys(("fr", "vi", "ms", "tl"), _ONE),
    **dict.fromkeys(("hi", "gu", "bn"), ("one", "two", "few", "many", "other")),
    **dict.fromkeys(("it", "kk"), ("many", "other")),
    "mr": _ENGLISH,
    "uk": ("few", "other"),
}


MOST_CATEGORIES, MOST_ORDINAL = "ar", "hi"
"""Languages of which none has more categories."""


def categories(language: str, *, is_ordinal: bool = False) -> tuple[str, ...]:
    """Return the plural categories of a language, `other` last."""
    return (_ORDINAL if is_ordinal else _CARDINAL).get(language, _NONE)
