"""Read what precedes the rows of a file, and check that the file fits the settings; once for each file of a job."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.detect_encoding import check_encoding
from hymt_batch.formats.format import OpenInput
from hymt_batch.formats.text_encoding import HEAD_BYTES
from hymt_batch.records import Input, Preamble
from hymt_batch.source.settings import SourceConfig

HasBegun = Callable[[Input], bool]
MAX_SCHEMAS = 256  # distinct preambles in the cache; a file with a further one is read again at each use


def read_preamble(input: Input, config: SourceConfig, reserved: tuple[str, ...] = ()) -> Preamble:
    """Read what precedes the first row, and reject a file that does not fit the settings.

    Args:
        input: The file.
        config: The settings.
        reserved: Fields that the output adds; the input must not have them.

    Raises:
        ConfigError: A column that a setting names is missing (jsonl: in all of the first rows), the file has a reserved
            column, or its head is in another encoding.
        PreflightError: The file cannot be read.
        StoppedError: The disk fails.
    """
    return PreambleCache(config, reserved)(input)


class PreambleCache:
    """Caches the preambles of a job's inputs, and how many rows of the last input are within source.limit.

    Equal preambles share one object, because a job may have 100,000 files.

    Args:
        config: The settings.
        reserved: Fields that the output adds; the inputs must not have them.
        has_begun: Returns whether the job began with a file as it is; such a file is read, whatever its head looks like
            to this version. None: no file is excused.

    Raises:
        ConfigError, PreflightError, StoppedError: Raised by a call; see `read_preamble`.
    """

    def __init__(
        self, config: SourceConfig, reserved: tuple[str, ...] = (), *, has_begun: HasBegun | None = None
    ) -> None:
        self.config, self._reserved, self._has_begun = config, reserved, has_begun
        self._kept: OpenInput | None = None
        self._by_input: dict[str, Preamble] = {}  # key: relative name of the input
        self._interned: dict[Any, Preamble] = {}
        self.limited_rows: dict[str, int] = {}  # name of the last input -> its rows within source.limit

    def __call__(self, input: Input) -> Preamble:
        if (preamble := self._by_input.get(input.rel)) is not None:
            return preamble
        with contextlib.closing(registry.of_input(input).open_input(input)) as file:
            return self.of_open(file)

    def keep_open(self, file: OpenInput) -> None:
        """Keep a file open for the pass over its rows that begins next; `open_input` hands it out."""
        if self._kept is not None:
            self._kept.close()
        self._kept = file

    def open_input(self, input: Input) -> OpenInput:
        """Open an input, or take the file that was kept open for it."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.input == input:
            return kept
        if kept is not None:
            kept.close()
        return registry.of_input(input).open_input(input)

    def of_open(self, file: OpenInput) -> Preamble:
        """Return the preamble of an open input."""
        preamble = self._by_input.get(file.input.rel)
        if preamble is not None:
            return preamble
        format = registry.of_input(file.input)
        if "encoding" in format.source_settings:
            try:
                check_encoding(file.input, read_raw_start(file), is_utf8_only=not format.has_own_encoding)
            except ConfigError:
                if self._has_begun is None or not self._has_begun(file.input):
                    raise
        return self._remember(file.input, file.read_preamble(self.config, self._reserved))

    def _remember(self, input: Input, preamble: Preamble) -> Preamble:
        if preamble.schema is None:
            key: Any = preamble
        else:
            key = hashlib.sha256(preamble.schema.serialize()).digest()
            if len(self._interned) >= MAX_SCHEMAS and key not in self._interned:
                return preamble
        self._by_input[input.rel] = preamble = self._interned.setdefault(key, preamble)
        return preamble


def read_raw_start(file: OpenInput) -> bytes:
    """Return the first bytes of an open file, decompressed, but not transcoded."""
    if not file.input.encoding:
        return file.read_start(HEAD_BYTES)
    untranscoded = replace(file.input, encoding="")
    with contextlib.closing(registry.of_input(untranscoded).open_input(untranscoded)) as raw_file:
        return raw_file.read_start(HEAD_BYTES)
