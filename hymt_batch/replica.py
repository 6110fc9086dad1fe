"""One whole model with the engine around it: loaded in this process, or in a process of its own that is handed parts.

Run as a program, with the number of a socket, it is such a process: `launch/pool.py` starts it. What it says there:
"ready" with what it is, "batch" at every sign of life, "log", and "done" with the translations of what it was given.
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
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, check
from hymt_batch.decode import engine
from hymt_batch.decode.settings import Engine
from hymt_batch.errors import HymtError, first_line
from hymt_batch.launch.pool import IGNORED_SIGNALS, picklable_error
from hymt_batch.model import prepare
from hymt_batch.records import Prompt, Translation

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
        decode_batch: Callable[..., Any] | None = None,
    ) -> None:
        """Load the weights.

        Args:
            job: All settings.
            model: What `network.prepare` gave.
            tokenizer: The model's own.
            check_stop: Called at every step; raises when the job must end at once.
            on_batch: Told of rows that were decoded, and of their new tokens.
            decode: Decodes one batch instead of the engine; tests put a small real thing here.
        """
        self._check_config, self._model = job.check, model
        hymt = model.load(tokenizer)
        self.batch_budget = batch.resolve_batch_budget(
            job.batch, hymt.cache_bytes_per_token, hymt.vocab_size, hymt.free_bytes, hymt.device != "cpu"
        )
        self.decode = engine.Decoder(
            hymt,
            job.decode,
            partial(batch.group, batch_budget=self.batch_budget),
            seed=job.seed,
            card=job.model.sampling,
            check_stop=check_stop,
            on_batch=on_batch,
            decode_fn=decode_batch,
            max_rows=self.batch_budget.max_rows,
            max_tokens=self.batch_budget.max_tokens,
            logprobs=job.check.min_logprob is not None,
        )
        self.decode.self_check()
        if self.decode.engine is Engine.slots and job.model.attention.value != "sdpa":
            log.warning(
                "model.attention=%s has no effect with decode.engine=slots, which has an attention of its own",
                job.model.attention.value,
            )

    @property
    def environment(self) -> dict[str, Any]:
        """What may change a low-precision text by rounding, as it was settled."""
        placement = self.decode.hymt.placement
        return {
            **(self._model.environment_for(placement) if placement else self._model.environment),
            "engine": self.decode.engine.value,
            "stages": self.decode.stages,
            "capture": self.decode.graph_runner is not None,
            "max_rows": self.batch_budget.max_rows,
            "max_tokens": self.batch_budget.max_tokens,
        }

    def translate(self, prompts: Sequence[Prompt]) -> list[Translation]:
        """Decode the prompts of a part, and look at what came out."""
        return check.flag_and_retry(self.decode.run(prompts), self.decode.run, self._check_config)


def serve(
    pipe: Connection,
    prepare_model: Callable[..., Any] = prepare.prepare_model,
    decode_batch: Callable[..., Any] | None = None,
) -> None:
    """Be a worker until the other end closes."""
    job = pipe.recv()
    root = logging.getLogger()
    root.addHandler(_PipeHandler(pipe))
    root.setLevel(logging.INFO)
    spoken = [time.monotonic()]

    def alive() -> None:
        if time.monotonic() - spoken[0] >= HEARTBEAT_S:
            spoke(0, 0)

    def spoke(rows: int, tokens: int) -> None:
        pipe.send(("batch", rows, tokens))
        spoken[0] = time.monotonic()

    try:
        model = prepare_model(job.model, job.device_map, job.launch.num_threads)
        tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
        replica = Replica(job, model, tokenizer, check_stop=alive, on_batch=spoke, decode_batch=decode_batch)
    except HymtError as error:
        pipe.send(("refused", picklable_error(error)))
        return
    pipe.send(("ready", (model.identity, replica.environment)))
    while True:
        made = replica.translate(pipe.recv())
        # without the prompts, which the other side has
        pipe.send(("done", [replace(one, prompt=None) for one in made], list(replica.decode.take_degraded())))  # type: ignore[arg-type]


class _PipeHandler(logging.Handler):
    """Log records over the pipe: the parent writes them where they belong."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.INFO)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(("log", record.name, record.levelno, record.getMessage()))


def main(arguments: Sequence[str], serve: Callable[[Connection], None] = serve) -> int:
    """Serve on the socket that was handed over; the parent's end, or its death, ends this process."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
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
    """End this process once the other end is closed, also while it loads a model for minutes.

    `child.tied` does the same where the system has such a signal; this does it everywhere.
    """
    poll = select.poll()
    poll.register(pipe.fileno(), getattr(select, "POLLRDHUP", 0))  # an end that is closed is told in any case

    def watch() -> None:
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
