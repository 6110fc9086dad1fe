"""Rows with several text fields: each text is a document, and an output row joins the documents of its row again.

A row without a text, or one that cannot be read, is one document, as where rows have one text field. Every document of
a row has the digest of the row. Knows no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hymt_batch.formats.language_codes import LanguageCodes
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, RowError, error_document
from hymt_batch.records import Document, Input, Status


@dataclass(frozen=True, slots=True)
class FieldPlace:
    """Which text of its row a document is."""

    row: int  # index of the row within its file, from 0
    name: str | None  # name or path of the field, such as messages.0.content; None: the document is the row
    is_last: bool  # no further document of the row follows


@dataclass(frozen=True, slots=True)
class FieldText:
    """A text of a row."""

    name: str
    text: str | None  # None if it cannot be read
    error: RowError | None = None  # why it is not translated


def file_row(document: Document) -> int:
    """Return the index of a document's row within its file, from 0."""
    return int(document.row_index if document.field is None else document.field.row)


def ends_row(document: Document) -> bool:
    """Return whether no further document of its row follows."""
    return bool(document.field is None or document.field.is_last)


class FieldRows:
    """Makes the documents of the rows of one input, from the context's first row on.

    Args:
        input: The file.
        config: The settings.
        context: What else the reader needs.
    """

    def __init__(self, input: Input, config: ReadOptions, context: ReadContext) -> None:
        self._input, self._full = input, context.full
        self._codes = LanguageCodes(config, context)
        self._next_index, self.next_row = context.first_row, context.first_file_row

    @property
    def language_fields(self) -> tuple[str | None, str | None]:
        return self._codes.fields

    def of_texts(
        self,
        digest: bytes,
        texts: Sequence[FieldText],
        languages: tuple[Any, Any],
        *,
        error: RowError | None = None,
        raw: bytes = b"",
        values: Any = None,
    ) -> Iterator[Document]:
        """Yield the documents of the next row.

        Args:
            digest: Digest of the row.
            texts: Its texts; () for a row without one, which is a single blank document.
            languages: What it has in its language fields.
            error: Why none of its texts can be translated.
            raw: The row as read; used in the second pass only.
            values: The parsed row; used in the second pass only.
        """
        row, source_language, target_language = self.next_row, None, None
        if not self._full:
            raw, values = b"", None
        if any(self._codes.fields):
            try:
                source_language, target_language = self._codes.get(languages)
            except RowError as language_error:
                error = error or language_error
        if not texts:
            yield self._blank(digest, error, raw, values, (source_language, target_language))
        for index, text in enumerate(texts):
            failure = text.error or error
            yield Document(
                f"{self._input.rel}#{row + 1}[{text.name}]",
                self._take_index(),
                text.text if self._full or failure is None else None,
                digest,
                raw,
                source_language,
                target_language,
                Status.OK if failure is None else failure.status,
                "" if failure is None else f"{self._input.rel}:{row + 1} {failure}",
                values,
                field=FieldPlace(row, text.name, is_last=index == len(texts) - 1),
            )
        self.next_row += 1

    def of_error(self, digest: bytes, error: RowError, **shown: Any) -> Document:
        """Return the one document of the next row, which cannot be read; see `error_document`."""
        document = error_document(self._input, self.next_row, digest, error, **(shown if self._full else {}))
        self.next_row += 1
        return replace(document, row_index=self._take_index(), field=FieldPlace(self.next_row - 1, None, is_last=True))

    def of_blank(self, digest: bytes, raw: bytes) -> Document:
        """Return the one document of the next row, which is empty."""
        self.next_row += 1
        name = f"{self._input.rel}#{self.next_row}"
        place = FieldPlace(self.next_row - 1, None, is_last=True)
        return Document(name, self._take_index(), "", digest, raw if self._full else b"", field=place)

    def _blank(
        self,
        digest: bytes,
        error: RowError | None,
        raw: bytes,
        values: Any,
        languages: tuple[str | None, str | None],
    ) -> Document:
        """Return the document of a row whose fields hold no text; `of_texts` counts the row."""
        row = self.next_row
        place = FieldPlace(row, None, is_last=True)
        if error is None:
            name = f"{self._input.rel}#{row + 1}"
            return Document(name, self._take_index(), "", digest, raw, *languages, values=values, field=place)
        document = error_document(self._input, row, digest, error, raw=raw, values=values)
        return replace(document, row_index=self._take_index(), field=place)

    def _take_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1
