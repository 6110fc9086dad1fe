"""The inputs of a prepared job, as its plan lists them: nothing is looked for, and only what is asked for is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hymt_batch.records import Input, Shard, ShardRecord, SkippedFile
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.planned_shards import PlannedReader, ShardLimits
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig


class PlannedInputs(Inputs):
    """See the module."""

    def __init__(
        self,
        config: SourceConfig,
        files: Sequence[Input],
        *,
        last_max_rows: int | None,
        added_fields: tuple[str, ...],
        plan_version: int,
        skipped: Sequence[SkippedFile] = (),
        formats: Sequence[str] = (),
    ) -> None:
        """Take the inputs as they are; see `Inputs`. `last_max_rows` are the rows of the last file within the limit."""
        self._config, self._spool, self._added_fields = config, None, added_fields
        self.plan_version = plan_version
        # a file that changed is found out by the bytes of its shards
        self._preambles = PreambleCache(config, added_fields, has_begun=lambda input: True)
        self.files, self.skipped, self.formats = tuple(files), tuple(skipped), tuple(formats)
        if last_max_rows is not None and files:
            self._preambles.limited_rows = {files[-1].rel: last_max_rows}
        self._reader: PlannedReader | None = None

    def read_shard(
        self,
        input: Input,
        max_rows: int | None,
        index: int,
        get_record: Callable[[int], ShardRecord],
        limits: ShardLimits,
    ) -> Shard | None:
        """Read one shard; see `PlannedReader.read`."""
        if self._reader is None:
            self._reader = PlannedReader(self._preambles, self._added_fields, self.plan_version, limits)
        return self._reader.read(input, max_rows, index, get_record)

    def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            self._reader.close()
