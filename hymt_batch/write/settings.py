"""Settings of the write stage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.setting import Operation, Output
from hymt_batch.write import output_name


class WriteFormat(Enum):
    """Format of the translated files."""

    _ignore_ = ["_name"]  # noqa: RUF012 - Enum takes only a list
    input = "input"  # the input's own
    for _name in registry.WRITE_NAMES:
        vars()[_name] = _name


class OnError(Enum):
    """What the output holds for a row without a translation."""

    empty = "empty"
    source = "source"


class Retire(Enum):
    """Which outputs an update keeps in retired/."""

    removed = "removed"  # those whose inputs are gone
    all = "all"  # also the earlier versions of changed files
    none = "none"


@dataclass(kw_only=True, slots=True)
class WriteConfig:
    """How translations are written; every field is explained in conf/write/."""

    format: Output[WriteFormat] = WriteFormat.input
    name: Output[str] = output_name.DEFAULT
    encoding: Output[str] = "utf-8"
    on_error: Output[OnError] = OnError.empty
    raw_errors: Output[bool] = True
    review: Output[bool] = True
    translation_field: Output[str] = "translation"
    meta_field: Output[str] = "hymt"
    row_group_rows: Output[int] = 65536
    fuzzy: Output[bool] = False
    wrap_cues: Output[bool] = True
    keep_rows: Operation[bool] = True
    retire: Operation[Retire] = Retire.removed
    keep_retired_days: Operation[int | None] = None
    min_free: Operation[Any] = "auto"

    def __post_init__(self) -> None:
        output_name.check(self.name)
        self.encoding = {"utf8": "utf-8"}.get(self.encoding.lower(), self.encoding.lower())
        if self.encoding not in ("utf-8", "input"):
            raise ConfigError(
                f"write.encoding={self.encoding} is neither utf-8 nor input",
                fix="Set write.encoding=utf-8 (the default), or write.encoding=input to keep the encoding of each "
                "input.",
            )
        is_table = self.format is not WriteFormat.input and (
            "encoding" not in registry.get(self.format.value).source_settings
        )
        if self.encoding == "input" and is_table:
            raise ConfigError(
                f"write.encoding=input has no effect with write.format={self.format.value}, which has one encoding",
                fix="Set write.encoding=utf-8 (the default).",
            )
        for name in ("translation_field", "meta_field"):
            if not getattr(self, name):
                raise ConfigError(f"write.{name} is empty", fix=f"Set write.{name}=NAME.")
        if self.translation_field == self.meta_field:
            raise ConfigError(
                f"write.translation_field and write.meta_field are both {self.meta_field!r}",
                why="one would overwrite the other",
                fix="Set write.meta_field=hymt (the default).",
            )
        if self.keep_retired_days is not None and self.keep_retired_days < 0:
            raise ConfigError(
                f"write.keep_retired_days={self.keep_retired_days} must be 0 or more days",
                fix="Set write.keep_retired_days=null to keep retired outputs for ever.",
            )
        if self.row_group_rows < 1:
            raise ConfigError(
                f"write.row_group_rows={self.row_group_rows} must be at least 1 row",
                fix="Set write.row_group_rows=65536 (the default).",
            )
        size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B|B?)", str(self.min_free).strip())
        if str(self.min_free).strip().lower() == "auto":
            self.min_free = "auto"
        elif size and not isinstance(self.min_free, bool):
            number, unit, binary = size.groups()
            self.min_free = int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit) if unit else 0))
        else:
            raise ConfigError(
                f"write.min_free={self.min_free} is not a size",
                fix="Set write.min_free=auto, a number of bytes, or a number with a unit such as write.min_free=5GiB.",
            )

    @property
    def names_source_language(self) -> bool:
        """True if the names of the outputs have the code of the source language."""
        return "{src}" in self.name

    @property
    def added_fields(self) -> tuple[str, ...]:
        """Fields added to every row of the output; a row of the input must not have them."""
        has_fields = self.format is WriteFormat.input or registry.get(self.format.value).has_fields
        return (self.translation_field, self.meta_field) if has_fields else ()
