"""One complete model with its engine, in this process or in a worker process.

Run as a program, with the file descriptor of a socket, this module is a worker that `run/pool.py` starts. It sends
these messages: "ready" with its identity and environment, or "refused" with an error; "batch" after each batch and as a
heartbeat; "log" with a log record; and "done" with the translations of the prompts that it received.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hymt_batch.check import retry
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.engine import EngineContext, open_engine
from hymt_batch.decode.settings import resolve_sampling_params
from hymt_batch.errors import HymtError, first_line
from hymt_batch.model import prepare
from hymt_batch.records import Prompt, Translation
from hymt_batch.run.pool import IGNORED_SIGNALS, picklable_error

if TYPE_CHECKING:
    from hymt_batch.schema import PipelineJob

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0


class Replica:
    """A loaded model that translates parts."""

    def __init__(
        self,
        job: PipelineJob,
        model: Any,
        tokenizer: Any,
        *,
        check_stop: Callable[[], None],
        on_batch: Callable[[int, int], None],
    ) -> None:
        """Load the weights.

        Args:
            job: All settings.
            model: The result of `prepare.prepare_model`.
            tokenizer: The model's tokenizer.
            check_stop: Called at every step; raises when the job must end at once.
            on_batch: Called with the number of rows and new tokens after each batch.
        """
        self._check_config, self._model = job.check, model
        context = EngineContext(
            load=cache(partial(model.load, tokenizer)),
            model=model,
            tokenizer=tokenizer,
            settings=job.decode,
            sampling_params=resolve_sampling_params(job.decode, job.model.sampling),
            max_rows=job.batch.max_rows,
            max_tokens=job.batch.max_tokens,
            logprobs=job.check.min_logprob is not None,
            on_finished=on_batch,
        )
        self.decoder = Decoder(
            open_engine(context, check_stop),
            context,
            max_context=model.max_context,
            seed=job.seed,
            card=job.model.sampling,
            check_stop=check_stop,
        )

    @property
    def environment(self) -> dict[str, Any]:
        """The resolved settings that may change a translation through rounding errors in low precision."""
        loaded = self.decoder.engine.loaded
        placement = loaded.placement if loaded else None
        return {
            **(self._model.environment_for(placement) if placement else self._model.environment),
            **self.decoder.engine.environment,
        }

    def translate(self, prompts: Sequence[Prompt]) -> list[Translation]:
        """Decode the prompts of a part; flag the translations and retry those with a hard flag."""
        return retry.flag_and_retry(self.decoder.run(prompts), self.decoder.run, self._check_config)


def serve(
    pipe: Connection,
    prepare_model: Callable[..., Any] = prepare.prepare_model,
) -> None:
    """Serve requests until the parent closes the socket."""
    job = pipe.recv()
    root = logging.getLogger()
    root.addHandler(_PipeHandler(pipe))
    root.setLevel(logging.INFO)
    last_sent = [time.monotonic()]

    def send_heartbeat() -> None:
        if time.monotonic() - last_sent[0] >= HEARTBEAT_S:
            send_batch(0, 0)

    def send_batch(rows: int, tokens: int) -> None:
        pipe.send(("batch", rows, tokens))
        last_sent[0] = time.monotonic()

    try:
        model = prepare_model(job.model, job.device_map, job.launch.num_threads)
        tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
        replica = Replica(job, model, tokenizer, check_stop=send_heartbeat, on_batch=send_batch)
    except HymtError as error:
        pipe.send(("refused", picklable_error(error)))
        return
    pipe.send(("ready", (model.identity, replica.environment)))
    while True:
        translations = replica.translate(pipe.recv())
        # leave out the prompts, which the parent already has
        pipe.send(
            (
                "done",
                [replace(translation, prompt=None) for translation in translations],  # type: ignore[arg-type]
                list(replica.decoder.take_degraded()),
            )
        )


class _PipeHandler(logging.Handler):
    """Sends log records over the pipe; the parent logs them."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(("log", record.name, record.levelno, record.getMessage()))


def main(arguments: Sequence[str], serve: Callable[[Connection], None] = serve) -> int:
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


def exit_with_parent(pipe: Connection) -> None:
    """End this process once the other end is closed, even during the minutes of loading a model.

    `child_process.die_with_parent_command` does the same where the system has a signal for it; this works everywhere.
    """
    poll = select.poll()
    poll.register(pipe.fileno(), getattr(select, "POLLRDHUP", 0))  # poll always reports a closed end

    def watch() -> None:
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
