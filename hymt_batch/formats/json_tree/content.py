"""Tell strings with words from those without: numbers, codes, colours and addresses are not translated."""

from __future__ import annotations

import re

_LETTER = re.compile(r"[^\W\d_]")
_MAY_BE_CODE = re.compile(r"[{<%$&@#/:(]")
_TWO_WORDS = re.compile(r"\s*(?!rgb|hsl)[^\s(]+\s+\S")
# the whole string is one of these
_ADDRESS = re.compile(
    r"\s*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}://\S+|//[\w.-]+\.\w+\S*|www\.\S+|(?:mailto|tel|data|javascript):\S+"
    r"|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"
    r"|#(?:[0-9A-Fa-f]{3,4}|[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8})|(?:rgb|hsl)a?\([\d\s.,%/]*\))\s*"
)
# these are codes wherever they stand
_CODE = re.compile(
    r"\{\{[^{}\n]{0,200}\}\}|[$#%]?\{[^{}\n]{0,200}\}|\$t\([^()\n]{0,200}\)|</?[A-Za-z0-9][^<>\n]{0,500}>"
    r"|&(?:[A-Za-z][A-Za-z0-9]{0,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"
    r"|%\(\w{1,64}\)[-+#0]{0,4}\d{0,4}(?:\.\d{0,4})?[a-zA-Z]|%(?:\d{1,3}\$)?[-+#0]{0,4}\d{0,4}(?:\.\d{0,4})?l{0,2}[a-zA-Z@](?!\w)"
)


def has_words(text: str) -> bool:
    """Return whether a string has a letter outside of codes, and is not an address or a colour as a whole."""
    letter = _LETTER.search(text)
    if letter is None:
        return False
    code = _MAY_BE_CODE.search(text)
    if code is None and not text.startswith("www."):
        return True
    if code is not None and letter.start() < code.start() and _TWO_WORDS.match(text):
        return True  # the letter is before all codes, and no address is more than a word
    return _ADDRESS.fullmatch(text) is None and _LETTER.search(_CODE.sub("", text)) is not None
