"""The protocol of an engine, and the choice of the one that a job uses.

An engine turns requests into completions: token ids in, token ids out. It knows nothing of parts, documents, languages
or retries; `decoder.py` does what is the same for all engines. `registry.py` lists the engines.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from hymt_batch.decode import registry
from hymt_batch.decode.batches import BatchBudget, resolve_batch_budget
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.settings import DecodeConfig, num_stages
from hymt_batch.errors import PreflightError
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A decoding engine, ready to run. Inherit from it for the defaults, or only have its members."""

    device: str  # device of the input tokens, such as cpu or cuda:0
    loaded: LoadedModel | None = None  # None if the engine holds the weights in another process

    @property
    def environment(self) -> dict[str, Any]:
        """What the engine adds to the environment of a part, among others its name under the key `engine`."""

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        """Decode any number of requests.

        Args:
            requests: What to decode. A completion depends on its request alone, up to rounding.
            check_stop: Called at every step; raises to abort the call.

        Returns:
            One completion per request, in the order of the requests. A row that does not fit in memory even alone has
            the finish reason "memory"; no other row is lost.

        Raises:
            StoppedError: From check_stop.
        """

    def self_check(self, check_stop: Callable[[], None]) -> Engine:
        """Compare the engine with the reference, `generate`, and return the engine to use; jobs call this once.

        Raises:
            PreflightError: The engine gives wrong tokens, and no other engine can replace it.
        """
        return self

    def take_degraded(self) -> tuple[str, ...]:
        """Return and clear the marks of deviations, such as oom_split, since the last call."""
        return ()

    def close(self) -> None:
        """Free what the engine holds besides its own objects, such as a process; called once, after the last call.

        A worker process, and one that is killed, ends without it: what an engine starts must end with its process.
        """
        return


class EngineModule(Protocol):
    """What the module of an engine defines."""

    def open_engine(self, context: EngineContext) -> Engine:
        """Make the engine.

        Raises:
            UnsupportedError: The engine cannot run here. Raised before the weights are loaded, if possible.
        """

    # an engine whose draws are its own may also define describe_draws(python) -> str: its name with what decides them


class UnsupportedError(Exception):
    """An engine cannot run what it is asked to run; the text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """What an engine is made from."""

    load: Callable[[], LoadedModel]  # loads the weights in this process, or returns them if they are loaded
    model: PreparedModel | None  # for an engine that loads the weights itself; None if the weights have no files
    tokenizer: Tokenizer
    settings: DecodeConfig
    sampling_params: SamplingParams  # of first tries; an engine may prepare for them
    max_rows: int | str = "auto"  # rows decoded at once; auto: from the free memory
    max_tokens: int | str = "auto"  # tokens of keys and values over all rows; auto: from the free memory
    logprobs: bool = False  # True to give each completion the mean log-probability of its tokens, if the engine can
    python: str | None = None  # launch.vllm_python, for the engine that runs in an interpreter of its own
    on_finished: Callable[[int, int], None] = lambda rows, tokens: None  # finished rows and their new tokens

    @property
    def budget(self) -> BatchBudget:
        """How many rows and tokens are decoded at once, beside the loaded weights."""
        hymt = self.load()
        return resolve_batch_budget(
            self.max_rows,
            self.max_tokens,
            hymt.cache_bytes_per_token,
            hymt.vocab_size,
            hymt.free_bytes,
            hymt.device != "cpu",
        )

    @property
    def num_stages(self) -> int:
        """Number of slot groups."""
        placement = self.load().placement
        return num_stages(self.settings, placement.devices if placement else ())

    def environment(self, engine: str) -> dict[str, Any]:
        """Return what an engine that runs the loaded model adds to the environment."""
        return {
            "engine": engine,
            "stages": self.num_stages,
            "capture": False,
            "max_rows": self.budget.max_rows,
            "max_tokens": self.budget.max_tokens,
        }


def find(name: str, *, in_benchmark: bool = False) -> EngineModule:
    """Return the module of an engine, and import it if necessary."""
    entry = registry.ENGINES[name]
    module = entry.benchmark_module if in_benchmark and entry.benchmark_module else entry.module
    return cast(EngineModule, importlib.import_module(module) if isinstance(module, str) else module)


def open_engine(context: EngineContext, check_stop: Callable[[], None]) -> Engine:
    """Open the engine that decode.engine names, and check it against the reference.

    Args:
        context: What the engine is made from.
        check_stop: Called at every step of the self-check; raises to end it.

    Raises:
        PreflightError: The engine cannot run here, the model cannot be loaded, or the self-check fails.
    """
    name = context.settings.engine
    if name == registry.AUTO:
        name = registry.auto_choice(context.load().device)
    try:
        opened = find(name).open_engine(context)
    except UnsupportedError as error:
        raise PreflightError(
            f"decode.engine={name} cannot run here", why=str(error), fix="Set decode.engine=auto."
        ) from error
    used: Engine | None = None
    try:
        used = opened.self_check(check_stop)
    finally:
        if used is not opened:
            opened.close()
    return used
