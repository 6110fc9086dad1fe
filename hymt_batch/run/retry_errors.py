"""Errors of inputs as `retry` and `reproduce` tell them: with the settings that they have, not those of `translate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hymt_batch.errors import ConfigError, InputChangedError
from hymt_batch.run.plan import open_inputs
from hymt_batch.signals import StopRequest
from hymt_batch.source.inputs import Inputs

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


@contextmanager
def open_job_inputs(job: TranslateJob, stop: StopRequest) -> Iterator[Inputs]:
    """Context with the inputs of a finished job; errors of them, found now or later, have a fix that works there.

    Raises:
        ConfigError: An input is gone, or is not what it was when the job was done.
        InputChangedError: Its rows have changed.
    """
    with ExitStack() as stack:
        try:
            inputs = stack.enter_context(open_inputs(job, stop, only_stored=True))
        except ConfigError as error:
            fix = "Set inputs=PATH, as in source.path=, to where the inputs of the job are now."
            raise error.replace(fix=fix) from None
        try:
            yield inputs
        except InputChangedError as error:
            fix = (
                "Restore the old input, or run hymt-batch translate with the settings of the job and "
                "on_input_change=redo."
            )
            raise error.replace(fix=fix) from None
