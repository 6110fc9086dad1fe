"""Settings of the source stage."""

from __future__ import annotations

import difflib
import string
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.byte_size import parse_bytes
from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry, text_encoding
from hymt_batch.formats.options import MAX_ROW_BYTES
from hymt_batch.formats.zstd_frame import MAX_WINDOW
from hymt_batch.setting import Identity, Operation

DEFAULT_TEXT_FIELD = "text"
_ESCAPE_CHARACTERS = frozenset(string.punctuation) - {'"', ","}


class SourceFormat(Enum):
    """Format of the input: how its bytes are split into rows."""

    _ignore_ = ["_name"]  # noqa: RUF012 - Enum takes only a list
    auto = "auto"  # by extension
    for _name in registry.SOURCE_NAMES:
        vars()[_name] = _name


class Entries(Enum):
    """Which entries of a catalogue are translated."""

    empty = "empty"  # those without a translation
    fuzzy = "fuzzy"  # these, and those that are fuzzy
    all = "all"


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Settings of the input; conf/source/ explains every field."""

    path: Identity[Any]
    format: Identity[SourceFormat] = SourceFormat.auto
    pattern: Identity[Any] = None
    text_field: Identity[Any] = None
    src_lang_field: Identity[str | None] = None
    tgt_lang_field: Identity[str | None] = None
    limit: Identity[int | None] = None
    max_row_bytes: Identity[int] = 1 << 20
    header: Identity[bool] = True
    delimiter: Identity[str | None] = None
    escape: Identity[str | None] = None
    encoding: Identity[str] = text_encoding.UTF8
    join_cues: Identity[bool] = False
    keys: Identity[Any] = None
    skip_keys: Identity[Any] = None
    add_plural_forms: Identity[bool] = False
    document: Identity[bool] = False
    entries: Identity[Entries] = Entries.empty
    max_window: Operation[Any] = "2GiB"
    follow_symlinks: Identity[bool] = False
    subset: Identity[str | None] = None
    split: Identity[str | None] = None
    revision: Identity[str | None] = None

    def __post_init__(self) -> None:
        if self.path is None:
            return self._check()  # jobs that plan or check the machine need no input
        self.path = _as_names("path", self.path)
        if "-" in self.paths:
            if len(self.paths) > 1:
                raise ConfigError(
                    f"source.path={self.path} lists standard input (-) with other inputs",
                    fix="Set source.path=- alone, or write standard input to a file and list that.",
                )
            self.path = "-"
        return self._check()

    def _check(self) -> None:
        if self.pattern is not None:
            self.pattern = _as_names("pattern", self.pattern)
        self.keys = _as_keys("keys", self.keys)
        self.skip_keys = _as_keys("skip_keys", self.skip_keys)
        self.text_field = None if self.text_field is None else _as_fields(self.text_field)
        if self.limit is not None and self.limit < 1:
            raise ConfigError(
                f"source.limit={self.limit} must be at least 1 row", fix="Set source.limit=null for every row."
            )
        if not 1 <= self.max_row_bytes <= MAX_ROW_BYTES:
            raise ConfigError(
                f"source.max_row_bytes={self.max_row_bytes} must be between 1 and {MAX_ROW_BYTES} bytes",
                why="because rows are held in memory",
                fix="Set source.max_row_bytes=1048576 (the default).",
            )
        if self.delimiter is not None:
            self.delimiter = {"\\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter)
            if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
                raise ConfigError(
                    f"source.delimiter={self.delimiter!r} must be one character other than a quote or a line break",
                    fix="Set source.delimiter=';', source.delimiter=tab or source.delimiter=null (by format).",
                )

        if self.escape is not None:
            self.escape = "\\" if self.escape in ("backslash", "\\\\") else self.escape
            if self.escape not in _ESCAPE_CHARACTERS:
                raise ConfigError(
                    f"source.escape={self.escape!r} must be one ASCII punctuation mark other than a quote or a comma",
                    fix="Set source.escape=backslash, or source.escape=null (quotes are doubled).",
                )
            if self.escape == self.delimiter:
                raise ConfigError(
                    f"source.escape and source.delimiter are both {self.escape!r}",
                    why="so no field would ever end",
                    fix="Set source.escape=backslash, or source.escape=null (quotes are doubled).",
                )

        self.encoding = _encoding_name(self.encoding)
        if not 1024 <= parse_bytes("source.max_window", self.max_window) <= MAX_WINDOW:
            raise ConfigError(
                f"source.max_window={self.max_window} must be between 1024 and {MAX_WINDOW} bytes (2 GiB)",
                why="because zstd libraries hold no larger window",
                fix="Set source.max_window=2GiB (the default).",
            )

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path or ())

    @property
    def max_window_bytes(self) -> int:
        return parse_bytes("source.max_window", self.max_window)

    @property
    def patterns(self) -> list[str]:
        return [] if self.pattern is None else [self.pattern] if isinstance(self.pattern, str) else self.pattern

    @property
    def resolved_text_field(self) -> str | list[str]:
        """The name of the field, or the names of several."""
        return DEFAULT_TEXT_FIELD if self.text_field is None else self.text_field

    @property
    def text_fields(self) -> tuple[str, ...]:
        names = self.resolved_text_field
        return (names,) if isinstance(names, str) else tuple(names)

    @property
    def lang_fields(self) -> tuple[str | None, str | None]:
        return self.src_lang_field or None, self.tgt_lang_field or None


def _encoding_name(name: str) -> str:
    """Return the normal form of an encoding's name."""
    try:
        return text_encoding.normalize(name)
    except LookupError:
        names = ", ".join(text_encoding.USUAL_NAMES)
        near = difflib.get_close_matches(name.strip().lower().replace("_", "-"), text_encoding.USUAL_NAMES, cutoff=0.6)
        raise ConfigError(
            f"source.encoding={name} is not a text encoding that Python knows",
            fix=f"Set source.encoding={near[0] if near else 'utf-8'}, or another encoding of Python, such as {names}.",
        ) from None


def _as_keys(key: str, value: Any) -> list[str] | None:
    """Return patterns of keys as a list; None without one."""
    if value is None or value == []:
        return None
    names = _as_names(key, value)
    return [names] if isinstance(names, str) else names


def _as_fields(value: Any) -> str | list[str]:
    """Return the names of text fields; a list of one name is that name."""
    if value == "":
        raise ConfigError("source.text_field is empty", fix="Set source.text_field=text (the default).")
    names = _as_names("text_field", value)
    if isinstance(names, str):
        return names
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(f"source.text_field={names} names {repeated[0]!r} twice", fix="Name each field once.")
    return names if len(names) > 1 else names[0]


def _as_names(key: str, value: Any) -> str | list[str]:
    """Convert one name or a list of names to strings, because YAML reads a folder named 2024 as a number."""
    names = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str | int | float) and not isinstance(name, bool) for name in names):
        raise ConfigError(
            f"source.{key}={value!r} is neither a string nor a list of strings",
            fix=f"Set source.{key}=ONE or source.{key}=[ONE,TWO].",
        )
    texts = [str(name) for name in names]
    if not texts or not all(texts):
        raise ConfigError(f"source.{key}={value!r} is empty", fix=f"Set source.{key}=ONE or source.{key}=[ONE,TWO].")
    if any("\0" in text for text in texts):
        raise ConfigError(f"source.{key}={texts!r} contains a NUL character, which no name can have", fix="Remove it.")
    return texts if isinstance(value, list | tuple) else texts[0]
