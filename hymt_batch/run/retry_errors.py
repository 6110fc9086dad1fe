"""Errors of inputs as `retry` tells them: with the settings that it has, and not those of `translate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hymt_batch.errors import ConfigError, InputChangedError

_SOURCE_PATH, _ON_INPUT_CHANGE = "source.path", "on_input_change="


@contextmanager
def told_for_retry(*, has_inputs: bool) -> Iterator[None]:
    """Raise the errors of a block with a fix that `retry` takes.

    Args:
        has_inputs: Whether the command line sets `inputs=`, which then stands for `source.path`.
    """
    try:
        yield
    except InputChangedError as error:
        if _ON_INPUT_CHANGE not in error.fix:
            raise
        fix = (
            "Restore the old input, or run hymt-batch translate with the settings of the job and on_input_change=redo."
        )
        raise error.replace(fix=fix) from None
    except ConfigError as error:
        if _SOURCE_PATH not in error.what:
            raise
        what = error.what.replace(_SOURCE_PATH, "inputs") if has_inputs else error.what
        fix = "Set inputs=PATH, as in source.path=, to where the inputs of the job are now."
        raise error.replace(what=what, fix=fix) from None
