"""Resolve the language fields of rows to codes, once for each distinct value."""

from __future__ import annotations

from typing import Any

from hymt_batch import languages
from hymt_batch.errors import ConfigError
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, RowError, not_utf8_message
from hymt_batch.records import Status

MAX_CODE_CHARS = 64  # characters of a language code or name; no similar codes are suggested for a longer value


def abbreviate(value: Any) -> str:
    """Format a value for a message, with at most 80 characters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class LanguageCodes:
    """Resolves the language values of rows, once for each distinct value.

    Plans before version 4 understand the codes of the table alone, because which rows are sent is part of the plan.

    Raises:
        RowError: Raised by `get` for a value that is not a language; the caller makes the row an error row.
    """

    def __init__(self, config: ReadOptions, context: ReadContext) -> None:
        self.fields = config.lang_fields
        self._understands_all = context.plan_version > 3
        self._sample = context.language_sample
        self._cache: dict[tuple[str, str], str | RowError] = {}  # field, value -> code, or why there is none

    def get(self, values: tuple[Any, Any]) -> tuple[str | None, str | None]:
        """Return the codes of a row's source and target values; None if the value is empty (the job's language)."""
        source, target = (
            None if field is None else self._look_up(field, value)
            for field, value in zip(self.fields, values, strict=True)
        )
        if self._sample is not None:
            self._sample.pairs[source, target] += 1
        return source, target

    def _look_up(self, field: str, value: Any) -> str | None:
        if value is None or value == "" or (self._understands_all and isinstance(value, str) and value.isspace()):
            if self._sample is not None:
                self._sample.unnamed[field] += 1
            return None
        try:
            code = self._resolve(field, value)
        except RowError as error:
            if self._sample is not None:
                self._sample.unknown[field, value if isinstance(value, str) else abbreviate(value)] += 1
                self._sample.statuses[field, error.status] += 1
            raise
        if self._sample is not None:
            self._sample.understood[field, value, code] += 1
        return code

    def _resolve(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RowError(f"field {field!r} is {abbreviate(value)}, which is not a language code.", Status.BAD_ROW)
        if len(value) > MAX_CODE_CHARS:
            return self._understand(field, value)
        code = self._cache.get((field, value))
        if code is None:
            try:
                code = self._understand(field, value)
            except RowError as error:
                code = RowError(str(error), error.status)
            if len(self._cache) < 1024:  # real data has few spellings; a hostile column must not fill the memory
                self._cache[field, value] = code
        if isinstance(code, RowError):
            raise RowError(str(code), code.status)
        return code

    def _understand(self, field: str, value: str) -> str:
        try:
            value.encode()  # raises on a lone surrogate
            if len(value) > MAX_CODE_CHARS:
                raise ConfigError(f"field {field!r} is {abbreviate(value)}, which is not a language")
            code = languages.understand(value, field).language.code
        except UnicodeEncodeError as error:
            raise RowError(not_utf8_message(error, f"field {field!r}"), Status.BAD_ENCODING) from None
        except ConfigError as error:
            raise RowError(str(error), Status.BAD_LANGUAGE) from None
        if not self._understands_all and languages.find_code(value) is None:
            why = "which was not understood when this job was created"
            raise RowError(f"field {field!r} is {abbreviate(value)}, {why}. Write {code}.", Status.BAD_LANGUAGE)
        return code


def names_language(value: str, code: str) -> bool:
    """Return whether a field of a document, such as Language of a catalogue, names this language."""
    try:
        return bool(value.strip()) and languages.understand(value).language.code == code
    except ConfigError:
        return False
