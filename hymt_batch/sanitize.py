"""What may be shown of a text: nothing that a terminal obeys, and no secret.

Names of files, fields and models, and words of a command line, come from strangers; they end up in messages, log lines
and tracebacks. Imports nothing but the standard library, so that the front can use it before anything else.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from typing import Any

SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
"""Variables of the environment whose values are never shown."""

MIN_SECRET_CHARS = 8  # characters; a shorter value would blank out ordinary words
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # a token of the hub
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"  # name and password in an address
    r"|(?i:(?<=bearer ))[A-Za-z0-9._~+/=-]{16,}"
)
_MASK = "***"
_ALLOWED_CONTROLS = frozenset("\n\t")


def redact(text: str) -> str:
    """The text without the secrets of the environment, tokens of the hub, and passwords in addresses."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "").strip()
        if len(value) >= MIN_SECRET_CHARS:
            text = text.replace(value, _MASK)
    return _SECRET.sub(_MASK, text)


def escape_control_chars(text: str) -> str:
    r"""The text with control characters, C1 and bidirectional ones too, as \uXXXX; line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c in _ALLOWED_CONTROLS or c.isprintable() or unicodedata.category(c) == "Zs" else _escape_character(c)
        for c in text
    )


def sanitize_text(text: str) -> str:
    """The text as a terminal or a log may have it."""
    return escape_control_chars(redact(text))


def sanitize_logs() -> None:
    """Let every log record of this process, whoever makes it, show its message so; one line a record.

    A log that cannot be written is no error of a job, and no traceback either.
    """
    logging.setLogRecordFactory(_SanitizedRecord)
    logging.raiseExceptions = False


class _SanitizedRecord(logging.LogRecord):
    def getMessage(self) -> str:  # logging's own name
        return sanitize_text(super().getMessage())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[1] is not None:  # the formatter prints this text as it stands
            self.exc_text = sanitize_text(logging.Formatter().formatException(self.exc_info))


def _escape_character(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
