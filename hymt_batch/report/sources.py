"""Read rows of a job's inputs again, where its last run found them, by nothing but the job's folder.

A shard is read from its position. An input that is gone or has changed has no rows here, which is no error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, get_type_hints

from hymt_batch.errors import HymtError
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Document, Input, Preamble, ShardRecord
from hymt_batch.source.planned_shards import PlannedReader, ShardLimits
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.write import identity_versions
from hymt_batch.write.shard_table import ShardTable

UNREADABLE = (HymtError, OSError, ValueError, RecursionError, EOFError)


def source_config(job: JobRecord) -> SourceConfig:
    """Return the settings of the source stage as an identity records them; what it lacks has its default."""
    recorded: Mapping[str, Any] = job.identity.get("source") or {}
    hints = get_type_hints(SourceConfig)
    given: dict[str, Any] = {"path": "input"}
    for field in fields(SourceConfig):
        if field.name in recorded and field.name != "path":
            hint, value = hints[field.name], recorded[field.name]
            given[field.name] = hint(value) if isinstance(hint, type) and issubclass(hint, Enum) else value
    return SourceConfig(**given)


class SourceReader:
    """Reads shards of the inputs of a job."""

    def __init__(self, job: JobRecord, paths: Mapping[str, str]) -> None:
        """Open nothing yet.

        Args:
            job: The job.
            paths: Where the inputs are, by relative name.
        """
        self._config, self._paths = source_config(job), paths
        batch: Mapping[str, Any] = job.identity.get("batch") or {}
        limits = ShardLimits(int(batch.get("shard_rows", 1 << 15)), int(batch.get("shard_bytes", 1 << 26)))
        self._preambles = PreambleCache(self._config, has_begun=lambda input: True)
        version = identity_versions.plan_version_of(job.identity)
        self._reader = PlannedReader(self._preambles, (), version, limits)
        self._encoding = "" if self._config.encoding == "utf-8" else self._config.encoding
        self._tgt_lang = str((job.identity.get("prompt") or {}).get("tgt_lang") or "")
        self.unread: set[str] = set()  # names of inputs that could not be read as they were

    def _locate(self, input: Input) -> Input | None:
        path = self._paths.get(input.rel)
        if path is None:
            self.unread.add(input.rel)
            return None
        return replace(input, path=path, encoding=self._encoding, tgt_lang=self._tgt_lang)

    def preamble(self, input: Input) -> Preamble | None:
        """Return what precedes the rows of an input; None if it cannot be read."""
        located = self._locate(input)
        with contextlib.suppress(*UNREADABLE):
            return self._preambles(located) if located else None
        self.unread.add(input.rel)
        return None

    def documents(self, input: Input, record: JsonDict, shards: ShardTable, index: int) -> dict[int, Document]:
        """Return row index -> document of a shard; {} if it cannot be read."""

        def get_record(index: int) -> ShardRecord:
            found = shards.get(index)
            if found is None:
                raise ValueError("no such shard")
            return found

        located = self._locate(input)
        if located is None:
            return {}
        max_rows = None if self._config.limit is None else int(record["rows"])
        with contextlib.suppress(*UNREADABLE):
            shard = self._reader.read(located, max_rows, index, get_record)
            if shard is not None:
                return {document.row_index: document for document in shard.documents}
        self.unread.add(input.rel)
        self._reader.close()
        return {}

    def close(self) -> None:
        """Close the file that is open."""
        self._reader.close()
