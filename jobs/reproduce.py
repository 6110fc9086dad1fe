"""Decode rows of a finished job again, and tell which differ: `hymt-batch reproduce manifest=PATH rows=K|all`.

With the model and the settings of the job; everything is written into a temporary folder. Takes no lease, and changes
nothing in the folder of the job.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hymt_batch import signals
from hymt_batch.decode.settings import Method
from hymt_batch.doctor import preflight
from hymt_batch.errors import ExitCode, UsageError
from hymt_batch.fs import OS_FS
from hymt_batch.launch.registry import Target
from hymt_batch.manifest import JsonDict
from hymt_batch.model.settings import Dtype
from hymt_batch.records import Shard, plural
from hymt_batch.run import (
    executor,
    kept_model,
    pass_shards,
    published_bytes,
    reproduced_rows,
    reproduction,
    retry_pass,
    stderr_capture,
)
from hymt_batch.run.executor import OpenExecutor
from hymt_batch.run.finished_rows import FinishedJob
from hymt_batch.run.monitor import Monitor
from hymt_batch.run.plan import Plan, open_folder
from hymt_batch.run.reporter import Reporter
from hymt_batch.run.reproduction import Reproduction
from hymt_batch.run.retry_errors import open_job_inputs
from hymt_batch.run.retry_pass import Settings
from hymt_batch.run.unit_reader import read_units
from hymt_batch.signals import StopRequest
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.shards import SkippedShard
from hymt_batch.write import job_folders
from hymt_batch.write.job_output import JobOutput
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob

log = logging.getLogger("hymt_batch.jobs.reproduce")

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import ReproduceJob, TranslateJob

DecodeUnits: TypeAlias = (
    "Callable[[TranslateJob, Plan, PreparedModel, JobOutput, Iterator[Sequence[Shard | SkippedShard]], Monitor, "
    "StopRequest, OpenExecutor], None]"
)
"""Decodes what is missing of some shards and commits it: `decode_units` in jobs/translate.py."""


def run(job: ReproduceJob, decode_units: DecodeUnits) -> ExitCode:
    """Compare the published bytes with the manifest, decode rows again, and print what differs.

    Args:
        job: The settings of the command line.
        decode_units: Decodes and commits.

    Returns:
        COMPLETE if all rows are equal; DIFFERENT if some differ; DAMAGE if a published file was changed.

    Raises:
        HymtError: The folder is not that of a finished job, or its inputs or its model are not those of the job.
    """
    stop = signals.install()
    if job.launch.target is not Target.local:
        raise UsageError(
            f"launch={job.launch.target.value} does not go with reproduce", fix="Drop it: it decodes in this process."
        )
    folder = job.folder
    if job_folders.find(OS_FS, folder) != [folder]:
        raise UsageError(f"{folder} is a sweep", fix="Set name= to one of its points, such as name=SWEEP/POINT.")
    with (
        Reporter(job.launch.progress.value, job.launch.log_detail.value) as reporter,
        stderr_capture.capture(),
    ):
        stop.flush_output = stderr_capture.flush
        result = reproduce(job, folder, reporter, stop, decode_units)
        as_json = job.format.value == "json"
        reporter.print_result(json.dumps(result.to_json(), sort_keys=True) if as_json else result.describe())
    return result.exit_code


def reproduce(
    job: ReproduceJob, folder: Path, reporter: Reporter, stop: StopRequest, decode_units: DecodeUnits
) -> Reproduction:
    """See `run`."""
    reporter.show_stage("comparing checksums")
    finished = FinishedJob(folder, job.input_paths, check_outputs=False)
    result = Reproduction(str(folder), whole_units=job.num_rows is None)
    result.changed_files = published_bytes.find_changed_files(finished)
    if result.changed_files:
        return result
    settings = _settings(job, folder, finished)
    reporter.show_stage("reading rows")
    found = reproduced_rows.survey(finished, job.num_rows, job.seed, stop.raise_if_requested)
    result.rows, result.left_out = found.num_comparable, dict(found.left_out)
    result.seed = None if result.whole_units else job.seed
    if result.whole_units and found.num_quarantined:
        raise UsageError(
            f"{plural(found.num_quarantined, 'row')} of {folder} ended the process that decoded it",
            why="rows=all would decode it again",
            fix=f"Set rows={found.num_comparable} to decode all others.",
        )
    if not found.num_comparable:
        return result
    preflight.check_process(settings.of_pass)
    reporter.show_stage("checking the model")
    model = kept_model.prepare_alone(settings.of_pass)
    pass_job, plan = retry_pass.resolve_plan(settings, model, finished.job.identity)
    reproduced_rows.check_identity(finished.job.identity, plan.identity)
    with stop.remove_on_exit(Path(tempfile.mkdtemp(prefix="hymt-reproduce-"))) as temporary:
        log.info("decoding again in %s, which is removed at the end", temporary)
        again = _Again(settings, pass_job, plan, model, reporter, stop, decode_units, temporary)
        if result.whole_units:
            environments = again.decode_all(finished, result)
        else:
            environments = again.decode_rows(finished, found.rows, result)
    result.environment = reproduced_rows.environment_differences(finished.manifest["environments"], environments)
    if result.num_different:
        result.causes = reproduction.possible_causes(
            whole_units=result.whole_units,
            dtype=str(model.dtype),
            samples=_samples(pass_job, finished.manifest),
            environment=result.environment,
            has_origins=bool(finished.manifest.get("origins") or finished.job.changes),
        )
    return result


def _samples(job: TranslateJob, manifest: JsonDict) -> bool:
    """Return whether a job drew tokens, in its first tries or in later ones."""
    has_second_tries = job.check.retry.max_attempts > 1 or "retry" in manifest.get("tries", {})
    return job.decode.method is Method.sampling or has_second_tries


def _settings(job: ReproduceJob, folder: Path, finished: FinishedJob) -> Settings:
    """Return the settings of the job, in the dtype that it resolved: this device might choose another one."""
    settings = retry_pass.read_settings(job, (), folder, finished.job)
    recorded = finished.job.identity["model"].get("dtype")
    dtype = Dtype(recorded) if recorded in {choice.value for choice in Dtype} else settings.job.model.dtype
    return replace(
        settings,
        job=replace(settings.job, model=replace(settings.job.model, dtype=dtype)),
        of_pass=replace(settings.of_pass, model=replace(settings.of_pass.model, dtype=dtype)),
    )


@dataclass(frozen=True, slots=True)
class _Again:
    """Decodes rows of a job in a temporary folder, which is that of a job with the same identity."""

    settings: Settings
    pass_job: TranslateJob
    plan: Plan
    model: PreparedModel
    reporter: Reporter
    stop: StopRequest
    decode_units: DecodeUnits
    temporary: Path

    def decode_rows(
        self, finished: FinishedJob, rows: Sequence[reproduced_rows.ChosenRow], result: Reproduction
    ) -> list[JsonDict]:
        """Decode some rows, each without what was decoded with it, and compare them; return the environments."""
        record = reproduced_rows.pass_of(rows, self.plan.identity, self.plan.environment)
        environments: list[JsonDict] = []
        with open_job_inputs(self.settings.job, self.stop) as inputs, self._open(finished, inputs) as out:
            out.create_pass(record)
            of_pass = out.open_pass(record)
            by_id = {input.file_id: input for input in inputs.files}
            limits = self.plan.part_limits
            shards = pass_shards.cut_shards(record, by_id, inputs.read, limits, of_pass.shard_record)
            monitor = Monitor(self.pass_job, self.reporter, record.num_rows)
            self._decode(self.pass_job, self.plan, of_pass, shards, monitor)
            decoded = reproduced_rows.read_pass(out.fs, out.folder, record, out.job_record.layout, environments)
            shapers = {input.file_id: finished.shaper(input) for input in finished.inputs}
            for chosen, row in zip(rows, decoded, strict=True):
                row = replace(row, row_index=chosen.row.row_index)
                shaped = shapers[chosen.input.file_id].shape(chosen.document, row)
                id, file = chosen.document.id, chosen.input.rel
                result.add(reproduced_rows.compare(id, file, chosen.row, shaped))
        return environments

    def decode_all(self, finished: FinishedJob, result: Reproduction) -> list[JsonDict]:
        """Decode all rows, in the units of the job, and compare them; return the environments."""
        with open_job_inputs(self.settings.job, self.stop) as inputs, self._open(finished, inputs) as out:
            job, plan = self.plan.of_folder(self.settings.of_pass, out.identity, has_measures=out.has_measures)
            inputs.plan_version = plan.part_limits.plan
            cut_shards = partial(inputs.cut_shards, plan.part_limits.shard_rows, plan.part_limits.shard_bytes)
            shards = read_units(out.units(), cut_shards, out.shard_record)
            monitor = Monitor(job, self.reporter, inputs.total_units(), inputs.files)
            self._decode(job, plan, out, shards, monitor)
            out.finalize()
            again = FinishedJob(out.folder, [input.path for input in inputs.files])
        identity_sha256 = finished.job.identity_sha256
        for input, new_input in zip(finished.inputs, again.inputs, strict=True):
            in_passes = finished.rows_of_passes(input)
            both = zip(finished.read(input), again.read(new_input), strict=True)
            for (document, row), (_, new_row) in both:
                if not reproduced_rows.why_left_out(document, row, row.row_index in in_passes, identity_sha256):
                    result.add(reproduced_rows.compare(document.id, input.rel, row, new_row))
        return list(again.manifest["environments"])

    def _open(self, finished: FinishedJob, inputs: Inputs) -> Output:
        """Open the temporary folder, as that of the job before anything was decoded."""
        reproduced_rows.check_inputs(finished.job.inputs, inputs.files)
        job = replace(
            finished.job,
            inputs=inputs.files,
            passes=(),
            changes=None,
            earlier=(),
            replaced_settings=(),
            replaced_paths={},
        )
        write = replace(self.settings.job.write, keep_rows=True)
        settings = replace(self.settings.job, output_dir=str(self.temporary), name="job", write=write)
        return open_folder(settings, RequestedJob(job, skipped=inputs.skipped), inputs, self.stop)

    def _decode(
        self,
        job: TranslateJob,
        plan: Plan,
        output: JobOutput,
        shards: Iterator[Sequence[Shard | SkippedShard]],
        monitor: Monitor,
    ) -> None:
        self.decode_units(job, plan, self.model, output, shards, monitor, self.stop, executor.open_executor)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("reproduce")
