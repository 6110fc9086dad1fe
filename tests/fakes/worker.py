"""A worker process with the fake model, which tests let `run/worker_pool.py` start instead of a real one.

Some texts are deadly: POISON kills the process, HANG never ends, BUG raises an error, and FRAIL kills the process as
often as $STUB_FRAIL sets. $STUB_GPUS tells what is wrong with some GPUs, by their numbers. A worker cannot load its
model if its $CUDA_VISIBLE_DEVICES is in $STUB_BROKEN_GPUS. Run as a program with the number of a socket, it is a
worker. Run with overrides, it is `hymt-batch translate` with this model, in the process itself or in workers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import PreflightError
from hymt_batch.model import prepare
from hymt_batch.run import worker
from tests.fakes import engine, job, model

COMMAND = (sys.executable, "-m", "tests.fakes.worker")


def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Upper-case, unless a text is deadly; append the process id and its GPUs to $STUB_PIDS for each batch."""
    if pids := os.environ.get("STUB_PIDS"):
        with Path(pids).open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()} {len(requests)} {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}\n")
    suffer(json.loads(os.environ.get("STUB_GPUS", "{}")).get(os.environ.get("CUDA_VISIBLE_DEVICES", ""), ""), requests)
    text = b"".join(bytes(request.prompt_ids[1:-1]) for request in requests)
    if b"POISON" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"FRAIL" in text and innocent_death():
        os.kill(os.getpid(), signal.SIGKILL)
    if b"BUG" in text:
        raise ValueError("a bug")
    while b"HANG" in text:
        time.sleep(0.05)
    return engine.upper(requests, check_stop)


def suffer(what: str, requests: Sequence[Request]) -> None:
    """Do what is wrong with this GPU: it is slow, has no memory for two rows, or ends its process once (a path)."""
    if what == "slow":
        time.sleep(4)
    elif what == "small" and len(requests) > 1:
        raise MemoryError
    elif what.startswith("/") and not Path(what).exists():
        Path(what).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def innocent_death() -> bool:
    """Return True if the process must die; $STUB_FRAIL is the number of deaths and the file that counts them."""
    num_deaths, _, path = os.environ["STUB_FRAIL"].partition(":")
    with Path(path).open("a+", encoding="ascii") as file:
        file.write(".")
        return file.tell() <= int(num_deaths)


def prepare_on_gpu(*_: object) -> model.Model:
    """Prepare the model, unless the GPU of this process is broken."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    if gpu in os.environ.get("STUB_BROKEN_GPUS", "").split():
        raise PreflightError(f"GPU {gpu} is full", fix="Free its memory.", id="C21")
    return model.Model()


def main(arguments: Sequence[str]) -> int:
    if arguments[0].isdecimal():
        with job.installed(decode), mock.patch.object(prepare, "prepare_model", prepare_on_gpu):
            return worker.main(arguments)
    return job.run(arguments, decode, COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
