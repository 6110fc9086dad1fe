"""Find the row ids of a spliced file that is not published: its places have names that only the file itself has.

Reads the file where the last run found it. A row whose digest differs has no id here: the file changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hymt_batch.errors import HymtError
from hymt_batch.formats import registry
from hymt_batch.formats.options import MAX_ROW_BYTES
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.records import Input, Row
from hymt_batch.write import input_locations


@dataclass(frozen=True, slots=True)
class _Options:
    """The settings that readers ask for; what a spliced file does not use has no value."""

    max_row_bytes: int = MAX_ROW_BYTES
    text_field: str = ""
    lang_fields: tuple[str | None, str | None] = (None, None)
    header: bool = False
    delimiter: str | None = None
    escape: str | None = None
    join_cues: bool = False
    keys: Any = None
    skip_keys: Any = None
    add_plural_forms: bool = False


def find(fs: Fs, folder: Path, job: JobRecord, input: Input, rows: Sequence[Row]) -> dict[int, str]:
    """Return row index -> id of the rows, as far as the file is still there and has them."""
    path = input_locations.find(fs, folder, [input.rel], []).get(input.rel) if rows else None
    if path is None:
        return {}
    digests, source = {row.row_index: row.digest for row in rows}, job.identity.get("source")
    source = source if isinstance(source, dict) else {}
    encoding = str(source.get("encoding", "utf-8"))  # jobs of earlier versions have UTF-8
    names = ("join_cues", "keys", "skip_keys", "add_plural_forms")
    options = _Options(**{name: source[name] for name in names if name in source})
    tgt_lang = str((job.identity.get("prompt") or {}).get("tgt_lang") or "")
    located = replace(input, path=path, encoding="" if encoding == "utf-8" else encoding, tgt_lang=tgt_lang)
    # what cannot be read any more has no ids; the next run says why
    unreadable = contextlib.suppress(OSError, HymtError, ValueError, RecursionError)
    with unreadable, contextlib.closing(registry.of_input(located).open_input(located)) as file:
        documents = (document for document, _ in file.rows(options, ReadContext(), 0))
        return {
            document.row_index: document.id
            for document in documents
            if digests.get(document.row_index) == document.digest
        }
    return {}
