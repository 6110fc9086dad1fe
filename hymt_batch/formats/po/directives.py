"""Format directives of an entry, such as `%s`: a translation must have them so that no program reads a wrong argument.

Which directives an entry has, its flags say (`c-format`, `python-format`, ...). Where a translation has them in another
order, those of C are numbered (`%2$s`); Python cannot number them.

Source: The GNU gettext manual, "c-format Format Strings" and "python-format Format Strings".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from hymt_batch.records import FormatCodes

_C = re.compile(
    r"%(?:%|(?:\d{1,3}\$)?[-+ #0'I]{0,6}(?:\*|\d{1,9})?(?:\.(?:\*|\d{0,9}))?(?:hh|h|ll|l|L|q|j|z|t)?"
    r"(?:[diouxXeEfFgGaAcspnCSm@]|<PRI\w{1,12}>))"
)
_PYTHON = re.compile(
    r"%(?:%|(?:\([^()\n]{1,64}\))?[-+ #0]{0,6}(?:\*|\d{1,9})?(?:\.(?:\*|\d{0,9}))?[hlL]?[diouxXeEfFgGcrsa])"
)
_NUMBERED = re.compile(r"%L?\d{1,2}|%n")
_KINDS = {
    "c-format": _C,
    "objc-format": _C,
    "php-format": _C,
    "python-format": _PYTHON,
    "qt-format": _NUMBERED,
    "kde-format": _NUMBERED,
    "boost-format": re.compile(r"%%|%\d{1,2}%|%\|[^|\n]{1,32}\|"),
}
_CAN_NUMBER = ("c-format", "objc-format", "php-format")
_HAS_PERCENT = ("c-format", "objc-format", "php-format", "python-format")


def find_kind(flags: Collection[str]) -> str:
    """Return the flag that says which directives an entry has; "" for none."""
    return next((kind for kind in _KINDS if kind in flags), "")


def find_codes(text: str, kind: str) -> FormatCodes:
    """Return the directives of a text as codes that its translation must keep."""
    if not kind or "%" not in text:
        return ()
    return tuple((code, "") for code in dict.fromkeys(_KINDS[kind].findall(text)) if code != "%%")


def fit(source: str, translation: str, kind: str) -> tuple[str, bool]:
    """Return a translation whose directives a program can read, and whether it has those of its source.

    A percent sign that is none of them is doubled. Directives in another order are numbered.
    """
    if kind not in _HAS_PERCENT or "%" not in source + translation:
        return translation, True
    pattern = _KINDS[kind]
    wanted = [code for code in pattern.findall(source) if code != "%%"]
    if not wanted and "%%" not in source:
        return translation, True  # no program formats a text without directives
    left, found = Counter(wanted), []

    def kept(match: re.Match[str]) -> str:
        code = match[0]
        if code != "%%" and left[code] > 0:
            left[code] -= 1
            found.append(code)
            return code
        return code if code == "%%" else f"%{code}"

    text = re.sub(f"{pattern.pattern}|%", kept, translation)
    if len(found) != len(wanted):
        return text, False
    if found == wanted or all("$" in code or code.startswith("%(") for code in wanted):
        return text, True
    if kind not in _CAN_NUMBER or any("$" in code or "*" in code or code == "%m" for code in wanted):
        return text, False
    numbers = {code: [index for index, other in enumerate(wanted, 1) if other == code] for code in wanted}

    def numbered(match: re.Match[str]) -> str:
        code = match[0]
        return code if code == "%%" or not numbers.get(code) else f"%{numbers[code].pop(0)}${code[1:]}"

    return pattern.sub(numbered, text), True
