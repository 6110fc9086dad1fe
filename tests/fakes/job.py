"""`hymt-batch translate` with the fake model and engine: python -m tests.fakes.job OVERRIDES."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hymt_batch import streams
from hymt_batch.model import prepare
from hymt_batch.run import worker_process
from jobs import __main__ as front
from jobs.translate import translate
from tests.fakes import engine, model


@contextmanager
def installed(decode: engine.Decode = engine.upper, worker_command: Sequence[str] = ()) -> Iterator[None]:
    """Context in which every job of this process has the fake model, and an engine with this decode function.

    Args:
        decode: Decodes a batch.
        worker_command: Starts a worker process in place of the product's command.
    """
    command = tuple(worker_command) or worker_process.COMMAND
    with (
        engine.registered(decode),
        mock.patch.object(prepare, "prepare_model", model.prepare),
        mock.patch.object(worker_process, "COMMAND", command),
    ):
        yield


def run(overrides: Sequence[str], decode: engine.Decode = engine.upper, worker_command: Sequence[str] = ()) -> int:
    """Run the command line of the job with the fakes, and return its exit code."""
    with installed(decode, worker_command):
        return front.main(["translate", *overrides])


def translate_with(job: Any, reporter: Any, decode: engine.Decode = engine.upper) -> Any:
    """Translate in this process with this decode function."""
    with installed(decode):
        return translate(job, reporter)


if __name__ == "__main__":
    streams.restart_if_needed()
    sys.exit(run(sys.argv[1:]))
