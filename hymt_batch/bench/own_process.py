"""An engine of another project in a process of its own, where it cannot slow down the engines beside it.

Measured: once CTranslate2 had decoded a few rows, the slot engine of the same process took 3.8 instead of 2.5 s.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, cast

from hymt_batch import child_process
from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext, EngineModule
from hymt_batch.decode.request import Request
from hymt_batch.errors import first_line
from hymt_batch.model.loaded_model import LoadedModel

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "hymt_batch.bench.own_process")
"""Starts the process; -P prevents the import of a user's folder that has the name of one of our packages."""

EXIT_TIMEOUT_S = 5.0
"""Seconds that the process has to exit after its socket was closed, before it is killed."""


@dataclass(frozen=True, slots=True)
class _Start:
    """What the process makes its engine from."""

    module: str  # of the engine
    hymt: LoadedModel  # without its network
    folder: str  # that has the network's files
    context: EngineContext  # without what cannot be sent
    num_threads: int


class OwnProcess(FixedLengthEngine):
    """An engine of a benchmark that runs in a process of its own, with a copy of the weights."""

    def __init__(self, context: EngineContext, module: str, packages: Sequence[str] = ()) -> None:
        """Start the process, and wait until its engine is open.

        Args:
            context: What the engine is made from.
            module: Dotted name of its module.
            packages: Packages that it needs.

        Raises:
            ModuleNotFoundError: A package is not installed.
            Exception: What opening the engine raised.
        """
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        super().__init__(context)
        import torch

        self._module = module
        self._process, self._pipe = child_process.start_connected(
            COMMAND,
            ignored_signals=[signal.SIGINT],  # from the keyboard it reaches this process too, which ends the other one
            stdout=2,  # standard output is that of the figures
        )
        self._close = weakref.finalize(self, _end, self._process, self._pipe)
        hymt = context.load()
        try:
            with tempfile.TemporaryDirectory(prefix="hymt-bench-") as folder:
                hymt.network.save_pretrained(folder)
                sent = replace(context, load=_not_loaded, on_finished=_ignore)
                self._ask(_Start(module, replace(hymt, network=None), folder, sent, torch.get_num_threads()))
        except BaseException:
            self._close()
            raise

    @property
    def environment(self) -> dict[str, Any]:
        return {"engine": self._module, "max_rows": self.context.budget.max_rows}

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `FixedLengthEngine`.

        Raises:
            RuntimeError: The process ended.
            Exception: What the engine raised.
        """
        return cast(list[list[int]], self._ask(list(requests)))

    def close(self) -> None:
        self._close()

    def _ask(self, message: object) -> object:
        """Send a message, and return the answer, or raise the exception that is the answer."""
        try:
            self._pipe.send(message)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise RuntimeError(f"its process ended with exit code {code}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _not_loaded() -> LoadedModel:
    """Stand for a model that is loaded in another process."""
    raise RuntimeError("the model is in another process")


def _ignore(rows: int, tokens: int) -> None:
    """Do nothing with finished rows."""


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    """End the process: it exits when its socket is closed."""
    pipe.close()
    try:
        process.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(pipe: Connection) -> None:
    """Open the engine that the first message names, and decode the requests of all others."""
    start = pipe.recv()
    try:
        engine = _open(start)
    except Exception as error:  # another project may raise anything; the benchmark leaves the engine out
        _send_error(pipe, error)
        return
    pipe.send(None)
    while True:
        requests = pipe.recv()
        try:
            tokens = [completion.ids for completion in engine.generate(requests, lambda: None)]
        except Exception as error:
            _send_error(pipe, error)
        else:
            pipe.send(tokens)


def _open(start: _Start) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(start.num_threads)
    network: Any = AutoModelForCausalLM.from_pretrained(
        start.folder, dtype=getattr(torch, start.hymt.dtype), attn_implementation="sdpa"
    )
    hymt = replace(start.hymt, network=network.eval().requires_grad_(False))
    module = cast(EngineModule, importlib.import_module(start.module))
    return module.open_engine(replace(start.context, load=lambda: hymt))


def _send_error(pipe: Connection, error: Exception) -> None:
    """Send an exception; one that cannot be sent becomes one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of another project may have any constructor
        error = RuntimeError(first_line(error))
    pipe.send(error)


def main(arguments: Sequence[str]) -> int:
    """Serve on the given socket; this process ends when the other end is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(int(arguments[0])) as pipe:
        serve(pipe)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
