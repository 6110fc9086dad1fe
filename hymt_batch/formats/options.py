"""What readers and writers need from the settings of the stages source and write.

The settings are dataclasses of those stages (`source/settings.py`, `write/settings.py`), which a format does not
import: any object with these attributes will do.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

MAX_ROW_BYTES = 1 << 30
"""Largest source.max_row_bytes, because rows are held in memory."""


class ReadOptions(Protocol):
    """Settings of the source stage that readers use; conf/source/ explains each."""

    @property
    def text_fields(self) -> tuple[str, ...]: ...
    @property
    def lang_fields(self) -> tuple[str | None, str | None]: ...
    @property
    def max_row_bytes(self) -> int: ...
    @property
    def header(self) -> bool: ...
    @property
    def delimiter(self) -> str | None: ...
    @property
    def escape(self) -> str | None: ...
    @property
    def join_cues(self) -> bool: ...
    @property
    def entries(self) -> Enum | str: ...
    @property
    def keys(self) -> Any: ...
    @property
    def skip_keys(self) -> Any: ...
    @property
    def add_plural_forms(self) -> bool: ...


class WriteOptions(Protocol):
    """Settings of the write stage that writers use; conf/write/ explains each."""

    @property
    def on_error(self) -> Enum: ...
    @property
    def encoding(self) -> str: ...
    @property
    def translation_field(self) -> str: ...
    @property
    def meta_field(self) -> str: ...
    @property
    def row_group_rows(self) -> int: ...
    @property
    def fuzzy(self) -> bool: ...
