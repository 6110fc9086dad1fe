"""Find the ids of the texts of a file that is not published, where they have names that only the file itself has.

So have the places of a spliced file, and the texts of rows that have several.

Reads the file where the last run found it. A row whose digest differs has no id here: the file changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hymt_batch.errors import HymtError
from hymt_batch.formats import registry
from hymt_batch.formats.format import Kind
from hymt_batch.formats.options import MAX_ROW_BYTES
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.records import Input, Row
from hymt_batch.write import identity_versions, input_locations


@dataclass(frozen=True, slots=True)
class _Options:
    """The settings that readers ask for, as an identity records them."""

    max_row_bytes: int
    text_fields: tuple[str, ...]
    lang_fields: tuple[str | None, str | None]
    header: bool
    delimiter: str | None
    escape: str | None
    join_cues: bool
    keys: Any
    skip_keys: Any
    add_plural_forms: bool
    entries: str

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> _Options:
        return cls(
            int(source.get("max_row_bytes", MAX_ROW_BYTES)),
            _text_fields(source),
            (source.get("src_lang_field") or None, source.get("tgt_lang_field") or None),
            source.get("header") is not False,
            source.get("delimiter"),
            source.get("escape"),
            source.get("join_cues") is True,
            source.get("keys"),
            source.get("skip_keys"),
            source.get("add_plural_forms") is True,
            str(source.get("entries", "empty")),
        )


def _text_fields(source: Mapping[str, Any]) -> tuple[str, ...]:
    names = source.get("text_field", "text")
    return tuple(map(str, names)) if isinstance(names, list) else (str(names),)


def are_needed(job: JobRecord, input: Input) -> bool:
    """Return whether the number of a text of this input does not tell its id."""
    format = registry.of_input(input)
    return format.kind is Kind.SPLICED or (format.has_fields and TextFields(_text_fields(_source(job))).is_several)


def _source(job: JobRecord) -> Mapping[str, Any]:
    source = job.identity.get("source")
    return source if isinstance(source, dict) else {}


def find(fs: Fs, folder: Path, job: JobRecord, input: Input, rows: Sequence[Row]) -> dict[int, str]:
    """Return row index -> id of the rows, as far as the file is still there and has them."""
    path = input_locations.find(fs, folder, [input.rel], []).get(input.rel) if rows else None
    if path is None:
        return {}
    digests, source = {row.row_index: row.digest for row in rows}, _source(job)
    encoding = str(source.get("encoding", "utf-8"))  # jobs of earlier versions have UTF-8
    tgt_lang = str((job.identity.get("prompt") or {}).get("tgt_lang") or "")
    located = replace(input, path=path, encoding="" if encoding == "utf-8" else encoding, tgt_lang=tgt_lang)
    # what cannot be read any more has no ids; the next run says why
    unreadable = contextlib.suppress(OSError, HymtError, ValueError, RecursionError)
    with unreadable, contextlib.closing(registry.of_input(located).open_input(located)) as file:
        options = _Options.of(source)
        preamble = file.read_preamble(options, ())
        plan_version = identity_versions.plan_version_of(job.identity)
        context = ReadContext(header=preamble.header, fields=preamble.fields, plan_version=plan_version)
        documents = (document for document, _ in file.rows(options, context, preamble.num_bytes))
        return {
            document.row_index: document.id
            for document in documents
            if digests.get(document.row_index) == document.digest
        }
    return {}
