"""Look into the inputs that were found by name: the first bytes show how a file is compressed and whether it is text.

A file that cannot be what its name or source.format says is refused where a path names it, and skipped where it was
found. The file is opened once for this and for its preamble.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.formats import registry
from hymt_batch.formats.extraction import decompress, rename, split_compression
from hymt_batch.formats.file_error import FileError
from hymt_batch.formats.format import Format, Kind
from hymt_batch.formats.text_encoding import HEAD_BYTES
from hymt_batch.records import Input, SkippedFile
from hymt_batch.source import ignored_settings, input_names, unread
from hymt_batch.source.first_bytes import find_compression, looks_binary
from hymt_batch.source.found_inputs import FoundInputs
from hymt_batch.source.preamble_reader import PreambleCache, read_raw_start
from hymt_batch.source.settings import SourceConfig, SourceFormat

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file is by its content, and what to do with it."""

    what: str  # completes "x.csv is ..."
    fix: str


@dataclass(frozen=True, slots=True)
class _Unread:
    """Why an input cannot be read as it is named."""

    why: str  # what it is, for the list of skipped files
    error: ConfigError


class ContentCheck:
    """Checks the inputs of a job by their first bytes.

    Args:
        found: The inputs, found by name.
        config: The settings.
        preambles: Receives the preamble of each input.
    """

    def __init__(self, found: FoundInputs, config: SourceConfig, preambles: PreambleCache) -> None:
        self._found, self._config, self._preambles = found, config, preambles
        self.skipped: list[SkippedFile] = []  # among the inputs that were checked so far
        self._last_error: ConfigError | None = None  # of a skipped file
        self._compressed: list[str] = []  # files that are compressed although their names do not say so

    def inputs(self) -> Iterator[Input]:
        """Yield the inputs that can be read, with the compression that their bytes show; see `check` for the errors.

        Raises:
            ConfigError: No input is left.
        """
        num_inputs = 0
        for input in self._found:
            if (checked := self.check(input)) is not None:
                num_inputs += 1
                yield checked
        if self._last_error is not None and not num_inputs:
            raise self._last_error

    def report(self) -> None:
        """Log what was skipped and what is compressed, after the inputs that the job needs were checked."""
        ignored_settings.warn_of_skipped(self.skipped)
        if self._compressed:
            log.warning(
                "read files=%d as compressed, which their content shows and their names do not: such as %s",
                len(self._compressed),
                self._compressed[:3],
            )

    def check(self, input: Input) -> Input | None:
        """Return an input with the compression that its bytes show; None if it was found and is skipped.

        Raises:
            ConfigError: A path names it, and it cannot be what it is named; or it does not fit the settings.
            PreflightError: It is damaged or cannot be read.
            StoppedError: The disk fails.
        """
        try:
            checked = self._check(input)
        except FileError as error:
            if error.fix_among_others and not unread.is_only_path(input.path, self._config):
                raise error.replace(fix=error.fix_among_others) from None
            raise
        if isinstance(checked, Input):
            return checked
        if input.rel in self._found.named:
            raise checked.error
        self._last_error = checked.error
        self.skipped.append(SkippedFile(input.rel, checked.why))
        return None

    def _check(self, input: Input) -> Input | _Unread:
        format = registry.of_input(input)
        if format.is_folder is not None:
            return input
        if format.magic:
            return self._check_table(input, format)
        try:
            return self._check_text(input, format)
        except PreflightError:
            head = _read_start(input.path) if input.compression else b""
            compression = find_compression(head)
            if compression not in ("", input.compression):
                return self._check_compressed(input, format, compression)
            if not head or compression or looks_binary(head):
                raise  # it cannot be read, or is damaged
            return self._not_compressed(input)

    def _check_table(self, input: Input, format: Format) -> Input | _Unread:
        head = _read_start(input.path)
        if not head or head.startswith(format.magic):
            return input
        if compression := find_compression(head):
            return self._decompress(input, f"a file that is compressed with {compression}", compression)
        if (other := self._identify(input, head)) is not None:
            return self._unread(input, format, other)
        if looks_binary(head):
            return input  # it is damaged: its reader reports it
        named = _named_format(input)
        fix = self._set_format(input, named) if named not in (None, format) else "Give it the name of what it is."
        return self._unread(input, format, _Content("text", fix))

    def _check_text(self, input: Input, format: Format) -> Input | _Unread:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(contextlib.closing(format.open_input(input)))
            head = read_raw_start(file)
            if compression := find_compression(head):
                if input.compression:
                    return self._decompress(input, "compressed twice", input.compression)
                return self._check_compressed(input, format, compression)
            other = self._identify(input, head)
            if other is None and looks_binary(head, input.encoding):
                other = _Content(unread.BINARY.what, unread.BINARY.fix)
            if other is not None:
                return self._unread(input, format, other)
            text = file.read_start(HEAD_BYTES) if input.encoding else head
            if format.check_head is not None:
                format.check_head(input, text, len(text) < HEAD_BYTES, self._config)
            named = _named_format(input) if self._is_set else None
            if named not in (None, format) and format.fits is not None and not format.fits(text):
                return self._unread(input, format, _Content("other text", self._set_format(input, named)))
            if named is not None and _contradicts(format, named, text):
                return self._unread(input, format, _Content(f"a {named.name} file", self._set_format(input, named)))
            self._preambles.of_open(file)
            if self._config.limit is not None:  # its rows are counted next
                stack.pop_all()
                self._preambles.keep_open(file)
        return input

    def _check_compressed(self, input: Input, format: Format, compression: str) -> Input | _Unread:
        self._compressed.append(input.path)
        return self._check_text(replace(input, compression=compression), format)

    def _identify(self, input: Input, head: bytes) -> _Content | None:
        """Return what a file is by its first bytes, if that is a table or not read; None for text."""
        if (format := registry.by_magic(head)) is not None:
            return _Content(f"a {format.name} file", self._set_format(input, format))
        kind = unread.of_magic(head, input.path)
        if kind is None and not self._is_set and _named_format(input) is None:
            if (format := registry.by_text(head)) is not None:
                return _Content(f"a {format.name} file", self._set_format(input, format))
            kind = unread.of_text(head)
        return None if kind is None else _Content(kind.what, kind.advice(input.path, self._config))

    @property
    def _is_set(self) -> bool:
        return self._config.format is not SourceFormat.auto

    def _set_format(self, input: Input, format: Format | None) -> str:
        """Return how to have a file read as a format."""
        assert format is not None
        if unread.is_only_path(input.path, self._config):
            return f"Set source.format={format.name}."
        if self._is_set:
            return f"Translate it in a job of its own, with source.format={format.name}."
        stem = os.path.splitext(split_compression(input.path)[0])[0]
        return f"Rename it to what it is. {rename(input.path, stem, format.extension)}"

    def _unread(self, input: Input, format: Format, content: _Content) -> _Unread:
        why = "which is not read"
        if self._is_set or _named_format(input) is not None:
            why = f"but {'source.format' if self._is_set else 'its name'} says that it is {format.name}"
        return _Unread(
            f"{content.what} by its content",
            ConfigError(f"{input.path!r} is {content.what} by its content", why=why, fix=content.fix),
        )

    def _decompress(self, input: Input, what: str, compression: str) -> _Unread:
        return _Unread(
            what,
            ConfigError(f"{input.path!r} is {what}", why="which is not read", fix=decompress(input.path, compression)),
        )

    def _not_compressed(self, input: Input) -> _Unread:
        what = f"text, and not compressed as .{input.compression}"
        fix = f"Rename it to what it is. {rename(input.path, *os.path.splitext(split_compression(input.path)[0]))}"
        return _Unread(what, ConfigError(f"{input.path!r} is {what}", why="but its name says that it is", fix=fix))


def _named_format(input: Input) -> Format | None:
    """Return the format that the name of a file says it has; None if its extension says nothing."""
    return input_names.parse_extension(input.path)[0]


def _contradicts(format: Format, named: Format, text: bytes) -> bool:
    """Return whether a file is by its name and its content of another format than the set one, which takes all text."""
    if named is format or named.fits is None or not text.strip():
        return False
    return (format.has_fields or format.kind is Kind.SPLICED) and named.fits(text)


def _read_start(path: str) -> bytes:
    """Return the first bytes of a file as they are on the disk; b"" if it cannot be read, which its reader reports."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
