"""Write a catalogue with its translations: as a whole, because its header depends on what the translations hold."""

from __future__ import annotations

from typing import BinaryIO, cast

from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.output_stream import unencodable_character
from hymt_batch.formats.po.catalogue import Catalogue, Written
from hymt_batch.formats.row_values import encodable
from hymt_batch.formats.spliced import Place, ReadPlace, SplicedWriter, keeps_source
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.records import Document, Row


class CatalogueWriter(SplicedWriter):
    """Writes one catalogue; see `spliced.SplicedWriter`.

    An entry of which a form has no translation stays as it is, so that no program shows an empty form. The charset of
    the input is kept unless a translation has a character that it lacks: then the whole file becomes UTF-8.
    """

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        super().__init__(spec, file)
        self._results: list[tuple[Place, Written | None]] = []
        self._catalogue: Catalogue | None = None

    def write(self, document: Document, row: Row) -> None:
        read: ReadPlace = document.values
        self._data, self._catalogue = read.file.data, cast(Catalogue, read.file.parsed)
        has_text = row.text and not keeps_source(row)
        result = Written(encodable(row.text), bool(row.flags)) if has_text else None
        self._results.append((read.place, result))

    def close(self) -> None:
        if self._catalogue is not None and self._data is not None:
            self._write_edits(self._catalogue, self._data)
        super().close()

    def _write_edits(self, catalogue: Catalogue, data: bytes) -> None:
        """Write the input up to its last edit, with the edits; all of it where it gets another charset."""
        tgt_lang = self._spec.input.tgt_lang
        edits = catalogue.edits(self._results, tgt_lang, marks_flagged=self._spec.options.fuzzy)
        old_codec = codec = catalogue.charset.codec
        if any(unencodable_character(edit.text, codec) for edit in edits):
            codec = UTF8
        is_ascii = data.isascii() and all(edit.text.isascii() for edit in edits)
        header = catalogue.header_edits(tgt_lang, is_ascii=is_ascii, codec=codec) if edits else []
        for edit in sorted([*header, *edits], key=lambda edit: edit.start):
            self._stream.write(self._transcoded(data[self._written_to : edit.start], old_codec, codec))
            self._stream.write(edit.text.encode(codec))
            self._written_to = edit.end
        if old_codec != codec:
            self._stream.write(self._transcoded(data[self._written_to :], old_codec, codec))
            self._written_to = len(data)

    @staticmethod
    def _transcoded(data: bytes, old_codec: str, codec: str) -> bytes:
        return data if old_codec == codec else data.decode(old_codec, "replace").encode(codec)
