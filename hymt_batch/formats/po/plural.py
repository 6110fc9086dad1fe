"""Plural forms: how many a language has, which number each is for, and which text of an entry it is made from.

The rules are those of gettext's own table (msginit) where it has the language, else those of CLDR for whole numbers.
The rules of CLDR for millions, which French, Italian, Spanish and Portuguese have since version 38, are left out, as
in gettext: catalogues and programs have two forms there.

Source: The GNU gettext manual, "Plural forms"; Unicode CLDR 46, plural rules.
"""

from __future__ import annotations

import gettext
import re
from dataclasses import dataclass
from functools import lru_cache

MAX_FORMS = 16
_SAMPLE = 1000  # numbers that are tried to find what a form is for
_FEW = 5  # msgfmt lets a form for at most this many numbers leave the number out

_ONE = "nplurals=1; plural=0;"
_NOT_ONE = "nplurals=2; plural=(n != 1);"
_ABOVE_ONE = "nplurals=2; plural=(n > 1);"
_EAST_SLAVIC = "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);"
_FIELDS = {
    **dict.fromkeys(("zh", "zh-Hant", "yue", "ja", "ko", "th", "vi", "ms", "id", "km", "my", "bo"), _ONE),
    **dict.fromkeys(
        ("en", "es", "pt", "tr", "it", "de", "nl", "ur", "te", "mr", "he", "ta", "kk", "mn", "ug"), _NOT_ONE
    ),
    **dict.fromkeys(("fr", "hi", "fa", "gu", "bn"), _ABOVE_ONE),
    **dict.fromkeys(("ru", "uk"), _EAST_SLAVIC),
    "tl": "nplurals=2; plural=(n%10==4 || n%10==6 || n%10==9);",
    "pl": "nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);",
    "cs": "nplurals=3; plural=(n==1) ? 0 : (n>=2 && n<=4) ? 1 : 2;",
    "ar": "nplurals=6; plural=(n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5);",
}
"""Code of a language -> value of the header field Plural-Forms."""

DEFAULT_FIELD = _NOT_ONE
"""What gettext takes for a catalogue that has no rule."""

_FIELD = re.compile(r"\s*nplurals\s*=\s*(\d+)\s*;\s*plural\s*=\s*([^;]+);?\s*")
_DIRECTIVE = re.compile(r"%(?:\(\w+\))?[-+ #0-9.$*]*[A-Za-z]+|\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class PluralRule:
    """The plural forms of a catalogue."""

    field: str  # value of the header field
    num_forms: int
    one: int  # index of the form for the number 1
    is_for_few: bool  # that form is for a few numbers only
    sample: tuple[int, ...]  # index of the form for 0, 1, 2, ...


def of_language(code: str) -> PluralRule:
    """Return the rule of a language; that of a catalogue without one for a language that is not in the table."""
    rule = parse(_FIELDS.get(code, DEFAULT_FIELD))
    assert rule is not None  # every rule of the table can be parsed
    return rule


@lru_cache(64)
def parse(field: str) -> PluralRule | None:
    """Return the rule of a header field; None if it has none that gettext reads."""
    match = _FIELD.fullmatch(field)
    if match is None or not 1 <= int(match[1]) <= MAX_FORMS:
        return None
    num_forms = int(match[1])
    try:
        form_of = gettext.c2py(match[2].strip())
        sample = tuple(form_of(number) for number in range(_SAMPLE))
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    if not all(0 <= form < num_forms for form in sample):
        return None
    return PluralRule(field, num_forms, sample[1], sample.count(sample[1]) <= _FEW, sample)


def is_from_singular(rule: PluralRule, form: int, singular: str, plural: str) -> bool:
    """Return whether a form is translated from the msgid of its entry, not from its msgid_plural.

    That is the form for the number 1, unless the form is for other numbers too and only the plural writes the number.
    """
    if rule.num_forms == 1 or form != rule.one:
        return False
    return rule.is_for_few or sorted(_DIRECTIVE.findall(singular)) == sorted(_DIRECTIVE.findall(plural))
