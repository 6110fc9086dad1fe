"""The program of a worker process: it loads one replica and translates the parts that its parent sends.

`run/worker_process.py` starts it with the file descriptor of a socket. After the settings of a job it gets prompts; it
may then get those of another job with the same model, for which nothing is loaded again. It sends these messages:
"ready" with its identity and environment, or "refused" with an error; "batch" after each batch and as a heartbeat;
"log" with a log record; and "done" with the translations of the prompts that it received.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from hymt_batch.child_process import IGNORED_SIGNALS, exit_with_parent
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import HymtError, first_line
from hymt_batch.model import prepare
from hymt_batch.run import message
from hymt_batch.run.replica import Replica

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0


def serve(pipe: Connection) -> None:
    """Serve requests until the parent closes the socket: the settings of a job, then its prompts, then another job."""
    root = logging.getLogger()
    replica: Replica | None = None
    last_sent = [time.monotonic()]

    def send_heartbeat() -> None:
        if time.monotonic() - last_sent[0] >= HEARTBEAT_S:
            send_batch(0, 0)

    def send_batch(rows: int, tokens: int) -> None:
        pipe.send(("batch", rows, tokens))
        last_sent[0] = time.monotonic()

    while True:
        received = pipe.recv()
        if replica is not None and isinstance(received, tuple):
            translations = replica.translate(message.unpack_prompts(received))
            pipe.send(("done", message.pack_translations(translations), list(replica.decoder.take_degraded())))
            continue
        try:
            with explain_errors("loading the model"):
                if replica is None:
                    root.addHandler(_PipeHandler(pipe))
                    root.setLevel(logging.INFO)
                    replica = load_replica(received, check_stop=send_heartbeat, on_batch=send_batch)
                else:
                    replica.use(received, check_stop=send_heartbeat, on_batch=send_batch)
        except HymtError as error:
            pipe.send(("refused", error))
            return
        pipe.send(("ready", replica.model.identity, replica.environment))


def load_replica(job: TranslateJob, *, check_stop: Callable[[], None], on_batch: Callable[[int, int], None]) -> Replica:
    """Load the model of a job; opening the replica checks it: the canary prompts, and the engine against `generate`."""
    model = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    return Replica(job, model, tokenizer, check_stop=check_stop, on_batch=on_batch)


class _PipeHandler(logging.Handler):
    """Sends log records over the pipe; the parent logs them."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(("log", record.name, record.levelno, record.getMessage()))


def main(arguments: Sequence[str]) -> int:
    """Serve on the given socket; this process ends when the parent closes its end or dies."""
    for signal_number in IGNORED_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(int(arguments[0])) as pipe:
        exit_with_parent(pipe)
        try:
            serve(pipe)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            log.error("ended by %s: %s", type(error).__name__, first_line(error))
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
