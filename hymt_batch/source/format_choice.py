"""Choose the format by which a file is read: that of source.format, or the one that its name and its head tell."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from enum import Enum
from functools import partial

from hymt_batch.formats import registry
from hymt_batch.formats.extraction import split_compression
from hymt_batch.formats.format import Format
from hymt_batch.source import input_names, json_format, unread
from hymt_batch.source.settings import SourceConfig, SourceFormat

log = logging.getLogger(__name__)


class Origin(Enum):
    """How a file came to be looked at."""

    NAMED = "a path names it"
    MATCHED = "a pattern matches it"
    FOUND = "it is in a folder"


class FormatChoice:
    """Chooses the formats of a job's files.

    Args:
        config: The settings.
        formats: The list of formats with which the job was created; see `discovery.find_inputs`.
    """

    def __init__(self, config: SourceConfig, formats: Sequence[str] | None) -> None:
        self.config = config
        self.set_format = None if config.format is SourceFormat.auto else registry.get(config.format.value)
        self._has_no_list = formats is not None and not formats  # the job is of a version that recorded no formats
        self._formats = registry.FOUND_NAMES if formats is None else formats or registry.EARLIER_NAMES
        self._addable: list[str] = []  # skipped files of formats that were not read when the job was created
        self._trees: list[str] = []  # JSON files that are not rows

    def choose(self, path: str, origin: Origin) -> tuple[Format | None, str]:
        """Return the format of a file; None with the reason if it is not read.

        Raises:
            ConfigError: It is JSON that does not fit source.text_field.
        """
        if self.set_format is None:
            return self._by_name(path, origin)
        if origin is Origin.NAMED or self._has_no_list:
            return self.set_format, ""
        reason = unread.why_not_set(path, self.set_format, is_matched=origin is Origin.MATCHED)
        return None if reason else self.set_format, reason

    def report(self) -> None:
        """Tell of JSON files that are read as trees, and of files that the job could read and does not."""
        if self._trees:
            log.info(
                "all strings are translated of files=%d, which are JSON without rows that have source.text_field: %s",
                len(self._trees),
                self._trees[:3],
            )
        if self._addable:
            log.warning(
                "found files=%d that are read now, but were not when this job was created, such as %s: "
                "on_input_change=redo adds them",
                len(self._addable),
                self._addable[:3],
            )

    def _by_name(self, path: str, origin: Origin) -> tuple[Format | None, str]:
        known, compression = input_names.parse_extension(path)
        if known is None and not self._has_no_list:
            extension = os.path.splitext(split_compression(path)[0])[1]
            known = registry.by_extension_and_head(extension, partial(unread.head_of, path))
        is_named = origin is Origin.NAMED
        if known is not None and (known.name in self._formats or (is_named and not self._has_no_list)):
            return self._of_json(path, compression, known), ""
        kind = unread.of_name(path)
        was_text = self._has_no_list and origin is not Origin.FOUND and not (kind and kind.was_refused)
        if known is not None and not is_named and not was_text:
            self._addable.append(path)
            return None, f"a {known.extension} file, which was not read when the job was created"
        if kind is not None and not was_text:
            return None, kind.what
        return (None, unread.UNKNOWN) if origin is Origin.FOUND else (registry.DEFAULT, "")

    def _of_json(self, path: str, compression: str, named: Format) -> Format:
        if self._has_no_list:
            return named
        format = json_format.choose(path, compression, named, self.config)
        if format is json_format.TREE:
            self._trees.append(path)
        return format
