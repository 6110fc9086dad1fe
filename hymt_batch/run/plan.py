"""What a run resolves once, before the weights are read: inputs, prompt template, part limits, identity.

A plan decides what is sent to the model and how it is cut into parts; nothing here reads rows or decodes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, file_units, manifest, prompt
from hymt_batch.batch import PartLimits
from hymt_batch.check import assemble
from hymt_batch.check.settings import of_earlier_version
from hymt_batch.errors import LeaseError
from hymt_batch.fs import OS_FS, stat_or_none
from hymt_batch.launch.settings import IfHeld
from hymt_batch.model import demo_models
from hymt_batch.prompt import PromptTemplate
from hymt_batch.records import PLAN_VERSION, Input
from hymt_batch.run import identity
from hymt_batch.signals import StopRequest
from hymt_batch.source.input_names import OutputNames
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.spool import Spool
from hymt_batch.write import file_record, identity_versions, new_layout, output_name
from hymt_batch.write.claim import REFUSE_TASKS, TaskRule
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.published_file import InputAccess

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run resolves once."""

    template: PromptTemplate
    part_limits: PartLimits  # with the version of the plan
    identity: dict[str, Any]  # decides which output folders the job may continue
    aliases: Sequence[dict[str, Any]]  # identities that the job would have on another device
    environment: dict[str, Any]  # what may change a translation by rounding alone
    max_context: int  # maximum length of a prompt and its translation, in tokens

    @classmethod
    def resolve(cls, job: TranslateJob, model: PreparedModel) -> Plan:
        """Resolve the plan of a new job.

        Args:
            job: All settings.
            model: The result of `prepare.prepare_model`.

        Raises:
            ConfigError: The model does not translate between these languages.
        """
        template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
        part_limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
        device = model.placement.device.label
        return cls(
            template,
            part_limits,
            identity.build_identity(job, model.identity, template, part_limits, device),
            identity.alias_identities(job, model.identity, template, model.num_parameters, device),
            {**model.environment, **identity.build_environment(job)},
            model.max_context,
        )

    def of_folder(
        self, job: TranslateJob, folder_identity: dict[str, Any], *, has_measures: bool
    ) -> tuple[TranslateJob, Plan]:
        """Return job and plan with the plan version and the `auto` values with which the folder's job was created.

        Args:
            job: The settings of this run.
            folder_identity: The identity of the folder, with the keys of this version.
            has_measures: False if an earlier version began the job, whose rows have other flags.
        """
        if not has_measures:
            job = replace(job, check=replace(job.check, flag=of_earlier_version(job.check)))
        job = identity.with_generation_prompt(job, folder_identity["prompt"]["add_generation_prompt"])
        job = identity.with_code_ladder(job, folder_identity["check"].get("code_ladder", []))  # earlier ones had none
        return job, replace(self, part_limits=identity.part_limits_of(folder_identity), identity=folder_identity)


@contextmanager
def open_inputs(job: TranslateJob, stop: StopRequest, *, only_stored: bool = False) -> Iterator[Inputs]:
    """Find the inputs of a job; what is stored of standard input and of the hub is removed at the end.

    With `only_stored`, standard input is that of an earlier run.

    Raises:
        HymtError: An input cannot be found, read or stored.
    """
    folder = Path(job.output_dir) / str(job.name)
    starts_over = job.overwrite or job.on_input_change.is_accepted  # with whatever is read now
    spool = Spool(folder, replace=starts_over, only_stored=only_stored)
    with stop.remove_on_exit(spool.staging_folder):
        yield Inputs(
            job.source,
            spool,
            outputs=OutputNames(
                job.write.format.value,
                lambda name: output_name.make(job.write.name, name, job.src_lang, job.tgt_lang),
            ),
            added_fields=job.write.added_fields,
            plan_version=PLAN_VERSION if job.overwrite else identity.stored_plan_version(folder),
            folder=folder,
            formats=None if starts_over else identity.stored_formats(folder),
            has_begun=_has_begun(job, folder),
            tgt_lang=job.tgt_lang,
        )


WAIT_S = 5.0
"""Seconds between two looks at a folder in which another run works."""

CHECKS_ENCODING_SINCE = 4
"""Version of the identity since which the encoding of each file of a new job is checked."""


def _has_begun(job: TranslateJob, folder: Path) -> Callable[[Input], bool] | None:
    """Return what tells whether the job in a folder began with a file as it is; None if all files are new to it."""
    if job.overwrite or identity.stored_encoding(folder) != job.source.encoding:
        return None
    refuses_changes = job.on_input_change.value == "refuse"
    try:
        stored = manifest.read_job(OS_FS, folder)
    except manifest.StateDamagedError:
        return (lambda input: True) if refuses_changes else None
    listed = {input.file_id for input in stored.inputs}
    was_checked = identity_versions.version_of(stored.identity) >= CHECKS_ENCODING_SINCE

    def has_begun(input: Input) -> bool:
        if input.file_id not in listed:
            return refuses_changes  # another list of inputs ends the job later
        if was_checked and stat_or_none(OS_FS, stored.layout.file_state(folder, input.file_id)) is None:
            return False  # it may have been replaced while the job was stopped
        if refuses_changes:
            return True  # a file that changed ends the job later, with the rows that differ
        with contextlib.suppress(OSError, KeyError, TypeError):  # what is not known of a file is found out later
            record = file_record.read_record(OS_FS, folder, input, stored.layout)
            return record is None or bool(record["input"]["bytes"] == os.path.getsize(input.path))
        return True

    return has_begun


def open_output(
    job: TranslateJob, plan: Plan, inputs: Inputs, stop: StopRequest, tasks: TaskRule = REFUSE_TASKS
) -> Output:
    """Open the output folder of a job; see `open_folder`."""
    return open_folder(job, requested_job(job, plan, inputs), inputs, stop, tasks)


def open_folder(
    job: TranslateJob, requested: RequestedJob, inputs: Inputs, stop: StopRequest, tasks: TaskRule = REFUSE_TASKS
) -> Output:
    """Open the output folder of a job; see `Output.open`. Waits for another run with launch.if_held=wait."""
    access = input_access(job, inputs)
    lease_times = LeaseTimes(job.launch.lease_ttl_s, job.launch.lease_beat_s)
    folder, is_waiting = Path(job.output_dir) / str(job.name), False
    while True:
        try:
            return Output.open(folder, requested, access, job.write, lease_times, tasks=tasks)
        except LeaseError as error:
            if job.launch.if_held is IfHeld.fail:
                raise error.replace(fix=f"{error.fix} launch.if_held=wait waits for it.") from None
            if not is_waiting:
                log.warning("%s: waiting until it has ended (launch.if_held=wait)", error.what)
            is_waiting = True
        time.sleep(WAIT_S)
        stop.raise_if_requested()


def requested_job(job: TranslateJob, plan: Plan, inputs: Inputs) -> RequestedJob:
    """Return the job that a run asks for."""
    return RequestedJob(
        manifest.new_job(
            plan.identity,
            inputs.files,
            plan.environment,
            identity.build_output(job),
            inputs.formats,
            file_units.plan(inputs.files, plan.identity),
            new_layout.choose(inputs.files, plan.identity),
        ),
        identity.auto_keys(job),
        tuple(plan.aliases),
        overwrite=job.overwrite,
        on_mismatch=job.on_mismatch.value,
        on_input_change=job.on_input_change.value,
        skipped=inputs.skipped,
        model_names=demo_models.NAMES,
    )


def input_access(job: TranslateJob, inputs: Inputs) -> InputAccess:
    """Return how the inputs are read a second time, and how rows are shaped."""
    earlier = replace(job.check, flag=of_earlier_version(job.check))
    shape = partial(assemble.shape_row, tgt_lang=job.tgt_lang)
    return InputAccess(inputs.read, inputs.preamble, partial(shape, config=job.check), partial(shape, config=earlier))
