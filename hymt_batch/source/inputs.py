"""The inputs of one job: its files, their rows within source.limit, and every way in which the job reads them.

Independent of the model and of what is done with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hymt_batch.formats import registry
from hymt_batch.records import Document, Input, Preamble, Shard, ShardRecord
from hymt_batch.source import discovery, stream
from hymt_batch.source.content import ContentCheck
from hymt_batch.source.input_names import OutputNames
from hymt_batch.source.language_check import LanguageReport, check_languages
from hymt_batch.source.planned_shards import SurveyedFile
from hymt_batch.source.preamble_reader import HasBegun, PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard, cut_shards
from hymt_batch.source.spool import Spool


class Inputs:
    """The input files of a job, in the order of its outputs.

    Attributes:
        files: The inputs within source.limit.
        skipped: Files that were found and are not read.
        formats: The formats that were looked for without source.format, which a job records; () if it recorded none.
    """

    def __init__(
        self,
        config: SourceConfig,
        spool: Spool | None,
        *,
        outputs: OutputNames,
        added_fields: tuple[str, ...],
        plan_version: int,
        folder: Path | None = None,
        formats: Sequence[str] | None = None,
        has_begun: HasBegun | None = None,
        tgt_lang: str | None = None,
    ) -> None:
        """Find the files; standard input and hub data are stored first.

        Args:
            config: The settings.
            spool: Where inputs are stored that cannot be read twice; None refuses such inputs.
            outputs: How the outputs are named.
            added_fields: Fields that the outputs add; the inputs must not have them.
            plan_version: Version of the plan by which the rows are read; see records.PLAN_VERSION.
            folder: The output folder of the job, whose files are never inputs.
            formats: The list of formats with which the job was created, empty for a job of a version that recorded
                none; None for a new job. See `discovery.find_inputs`.
            has_begun: Returns whether the job began with a file as it is; see `PreambleCache`.
            tgt_lang: The job's target language; None if it has none.

        Raises:
            HymtError: An input cannot be found, read or stored, or is not what it is named.
        """
        self._config, self._spool, self._added_fields = config, spool, added_fields
        self.plan_version = plan_version
        self._preambles = PreambleCache(config, added_fields, has_begun=has_begun)
        found = discovery.find_inputs(config, spool, outputs, folder, formats).with_target(tgt_lang or "")
        content = ContentCheck(found, config, self._preambles)
        # a job that recorded no formats goes on with what it began with
        inputs = found if formats is not None and not formats else content.inputs()
        self.files = tuple(stream.apply_limit(inputs, config, self._preambles, plan_version))
        content.report()
        self.skipped = (*found.skipped, *content.skipped)
        self.formats = registry.FOUND_NAMES if formats is None else tuple(formats)

    def preamble(self, input: Input) -> Preamble:
        """Return what precedes the first row of a file; see `preamble_reader.read_preamble` for its errors."""
        return self._preambles(input)

    def read(self, input: Input) -> Iterator[Document]:
        """Read a file from its beginning, and return its rows with all their fields."""
        rows = stream.read_full_documents(
            input, self._config, self.files, self._added_fields, self.plan_version, self._preambles
        )
        return (document for document, _ in rows)

    def cut_shards(
        self, shard_rows: int, shard_bytes: int, get_record: Callable[[Input, int], ShardRecord | None]
    ) -> Iterator[Shard | SkippedShard]:
        """Cut the files into shards; see `shards.cut_shards`."""
        return cut_shards(
            self.files,
            self._config,
            shard_rows=shard_rows,
            shard_bytes=shard_bytes,
            get_record=get_record,
            reserved=self._added_fields,
            plan_version=self.plan_version,
            preambles=self._preambles,
        )

    def survey(self) -> Iterator[SurveyedFile]:
        """Open the files one after the other, for a plan; the caller reads the shards of each before the next one."""
        left = self._config.limit
        for input in self.files:
            file = SurveyedFile(input, self._preambles, self._added_fields, left, self.plan_version)
            yield file
            left = file.rows_left

    def total_units(self) -> int | None:
        """Return the sum of `end - start` over all shards, or None if it is unknown before the input is read."""
        return stream.total_units(self.files, self._config)

    def check_first_rows(self) -> None:
        """Reject files whose first rows show that a setting is wrong; see `stream.check_first_rows`."""
        stream.check_text_fields(self.files, self._config, self._preambles)
        if self.plan_version > 1:
            stream.check_first_rows(self.files, self._config, self._preambles)

    def check_languages(self, job_languages: tuple[str | None, str | None] = (None, None)) -> LanguageReport:
        """Look at the languages that the first rows name; see `language_check.check_languages` for its errors."""
        if self.plan_version < 4:  # such a job understands less, and goes on with what it has
            return LanguageReport()
        return check_languages(self.files, self._config, self._preambles, job_languages)

    def keep_in(self, folder: Path) -> None:
        """Link inputs that cannot be read twice into the job's folder, whose lease the caller holds."""
        if self._spool is not None:
            self._spool.link_into(folder)
