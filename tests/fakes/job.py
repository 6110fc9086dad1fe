"""`hymt-batch translate` with the fake model and engine: python -m tests.fakes.job OVERRIDES."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hymt_batch import streams
from hymt_batch.decode.request import Completion, Request
from hymt_batch.model import prepare
from hymt_batch.run import worker_process
from hymt_batch.run.reporter import Reporter
from jobs import __main__ as front
from jobs.translate import translate
from tests.fakes import engine, model


@contextlib.contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Context in which a name of a module has another value. `unittest.mock` would add 5 MiB to what is measured."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextlib.contextmanager
def installed(decode: engine.Decode = engine.upper, worker_command: Sequence[str] = ()) -> Iterator[None]:
    """Context in which every job of this process has the fake model, and an engine with this decode function.

    Args:
        decode: Decodes a batch.
        worker_command: Starts a worker process in place of the product's command.
    """
    command = tuple(worker_command) or worker_process.COMMAND
    with (
        engine.registered(decode),
        replaced(prepare, "prepare_model", model.prepare),
        replaced(prepare, "is_unchanged", lambda prepared: True),
        replaced(worker_process, "COMMAND", command),
    ):
        yield


def run(overrides: Sequence[str], decode: engine.Decode = engine.upper, worker_command: Sequence[str] = ()) -> int:
    """Run the command line of the job with the fakes, and return its exit code."""
    with installed(decode, worker_command):
        return front.main(["translate", "launch.report=false", *overrides])  # a later one holds


def translate_with(job: Any, reporter: Any, decode: engine.Decode = engine.upper) -> Any:
    """Translate in this process with this decode function."""
    with installed(decode):
        return translate(job, reporter)


class Interrupted(Exception):
    """Ends a job in the middle."""


class Job:
    """Runs the job in this process and counts the decoded rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.decoded = folder, 0
        self.fail: Callable[[int], None] = lambda calls: None
        self.calls = 0

    def __call__(self, *overrides: str) -> Any:
        from hymt_batch import config

        words = [f"output_dir={self.folder / 'out'}", "tgt_lang=fr", "model=demo", "launch.report=false"]
        job = config.load("translate", [*words, *overrides])
        with Reporter("off") as reporter:
            return translate_with(job, reporter, self._decode)

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        self.calls += 1
        self.fail(self.calls)
        self.decoded += len(requests)
        return engine.upper(requests, check_stop)

    def interrupt(self, *overrides: str, at: int) -> None:
        """Run the job until it fails in the batch with this number, counted from 1 over all runs, and in all later."""

        def fail(calls: int) -> None:
            if calls >= at:
                raise Interrupted

        self.fail = fail
        with contextlib.suppress(Interrupted):
            self(*overrides)
            raise AssertionError("the job was not interrupted")
        self.fail = lambda calls: None


if __name__ == "__main__":
    streams.restart_if_needed()
    sys.exit(run(sys.argv[1:]))
