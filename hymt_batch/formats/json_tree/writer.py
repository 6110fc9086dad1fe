"""Write a tree of keys with its translations; a resource bundle (ARB) names the language of them."""

from __future__ import annotations

from typing import BinaryIO, cast

from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.spliced import ReadPlace, SplicedWriter, keeps_source
from hymt_batch.records import Document, Row


class JsonTreeWriter(SplicedWriter):
    """Writes one tree; see `spliced.SplicedWriter`.

    `@@locale` of a bundle becomes the target language if anything is translated. It mostly precedes all texts, so rows
    wait for the first one with a translation.
    """

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        super().__init__(spec, file)
        self._waiting: list[tuple[Document, Row]] | None = []
        self._locale: tuple[int, int, bytes] | None = None  # start and end of its value, and the new one

    def write(self, document: Document, row: Row) -> None:
        if self._waiting is None:
            super().write(document, row)
            return
        self._waiting.append((document, row))
        if not keeps_source(row):
            read: ReadPlace = document.values
            self._locale = cast(JsonTreeFile, read.file.parsed).new_locale(self._spec.input.tgt_lang)
            self._write_waiting()

    def close(self) -> None:
        self._write_waiting()
        super().close()

    def _write_waiting(self) -> None:
        rows, self._waiting = self._waiting or (), None
        for document, row in rows:
            super().write(document, row)

    def _write_gap(self, data: bytes, end: int) -> None:
        if self._locale is not None and self._written_to <= self._locale[0] and self._locale[1] <= end:
            start, value_end, value = self._locale
            super()._write_gap(data, start)
            self._stream.write(value)
            self._written_to = value_end
        super()._write_gap(data, end)
