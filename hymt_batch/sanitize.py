"""Make a text safe to print: no characters that control a terminal, and no secrets.

Names of files, fields and models and words of the command line are untrusted, and they appear in messages, log lines
and tracebacks. Imports only the standard library, so that the entry point can use it before anything else.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from typing import Any

SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
"""Environment variables whose values are never shown."""

MIN_SECRET_CHARS = 8  # masking a shorter value would mask ordinary words
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # a Hugging Face token
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"  # user name and password in a URL
    r"|(?i:(?<=bearer ))[A-Za-z0-9._~+/=-]{16,}"
)
_MASK = "***"
_ALLOWED_CONTROLS = frozenset("\n\t")


def redact(text: str) -> str:
    """Mask the secrets of the environment, Hugging Face tokens, and passwords in URLs."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "").strip()
        if len(value) >= MIN_SECRET_CHARS:
            text = text.replace(value, _MASK)
    return _SECRET.sub(_MASK, text)


def escape_control_chars(text: str) -> str:
    r"""Replace control characters, including C1 and bidirectional ones, by \uXXXX; line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c in _ALLOWED_CONTROLS or c.isprintable() or unicodedata.category(c) == "Zs" else _escape_character(c)
        for c in text
    )


def escape_line(text: str, width: int = 100) -> str:
    """Escape control characters and line breaks for display, and shorten to `width` characters."""
    escaped = "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
    return escaped if len(escaped) <= width else escaped[: width - 1] + "…"


def sanitize_text(text: str) -> str:
    """Return the text masked and escaped for a terminal or a log."""
    return escape_control_chars(redact(text))


def sanitize_logs() -> None:
    """Sanitize the message of every log record of this process, also those of libraries.

    A log that cannot be written causes neither an error of the job nor a traceback.
    """
    logging.setLogRecordFactory(_SanitizedRecord)
    logging.raiseExceptions = False
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line has them


class _SanitizedRecord(logging.LogRecord):
    def getMessage(self) -> str:  # the method that logging calls
        return sanitize_text(super().getMessage())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[1] is not None:  # the formatter prints exc_text unchanged
            self.exc_text = sanitize_text(logging.Formatter().formatException(self.exc_info))


def _escape_character(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
