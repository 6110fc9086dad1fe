"""Baseline: vLLM with the same weights, in its own process and interpreter, which `vllm_python` names.

Its process waits while other engines run, so that all take turns, round by round. It runs as vLLM does by default: the
network is compiled, and on a GPU its steps are captured. It gives no log-probabilities, as the other engines here. The
time for compiling is not measured. Not run on a GPU yet.
"""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext, UnsupportedError
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.vllm import engine, process
from hymt_batch.decode.vllm import options as vllm_options
from hymt_batch.decode.vllm.process import VllmProcess
from hymt_batch.model import nvidia

MAX_LENGTH = 512
"""Tokens of the longest row that it can decode; the rows of the benchmark have at most 283."""


def open_engine(context: EngineContext) -> VllmBaseline:
    """Make the engine; writes and loads the weights once, here.

    Raises:
        PreflightError: The interpreter has no vLLM, or vLLM cannot load the network.
        UnsupportedError: Its version is too old.
    """
    installed = process.probe(context.python, setting="vllm_python")
    if reason := engine.unsupported_version(installed, setting="vllm_python"):
        raise UnsupportedError(reason)
    return VllmBaseline(context, installed)


class VllmBaseline(FixedLengthEngine):
    """All rows in one call; vLLM decodes up to max_rows of them at once, the longest first."""

    def __init__(self, context: EngineContext, installed: process.Installed) -> None:
        super().__init__(context)
        import torch

        hymt = context.load()
        folder = tempfile.TemporaryDirectory(prefix="hymt-bench-")
        hymt.network.save_pretrained(folder.name)
        config = json.loads(Path(folder.name, "config.json").read_bytes())
        max_rows = context.budget.max_rows
        options = vllm_options.engine_args(
            folder.name,
            hymt.dtype,
            max_length=MAX_LENGTH,
            max_rows=max_rows,
            cache_bytes=vllm_options.cache_tokens(max_rows * MAX_LENGTH) * hymt.cache_bytes_per_token,
            rope=engine.rope_overrides(config, installed),
            eager=False,
        )
        variables = {} if self.device == "cpu" else nvidia.visible_variables([self.device])
        self._process = VllmProcess(installed.path, options, torch.get_num_threads(), variables)
        self._close = weakref.finalize(self, self._process.close)
        try:
            self._process.wait_until_ready(lambda: None)
        except BaseException:
            self._close()
            raise
        finally:
            folder.cleanup()

    def close(self) -> None:
        self._close()

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `FixedLengthEngine`.

        Raises:
            UnsupportedError: A row is longer than `MAX_LENGTH`.
            DeviceError: The process ended.
        """
        if max(request.max_length for request in requests) > MAX_LENGTH:
            raise UnsupportedError(f"it is run here with rows of at most {MAX_LENGTH} tokens")
        order = sorted(range(len(requests)), key=lambda n: (-requests[n].max_length, n))
        call = {
            "rows": [(list(requests[n].prompt_ids), requests[n].max_new_tokens, 0) for n in order],
            "sampling": asdict(GREEDY),
            "stop_ids": [],
            "stop_loops": False,
            "logprobs": False,
        }
        answers = self._process.decode(call, lambda: None, lambda rows, tokens: None)
        tokens: list[list[int]] = [[] for _ in requests]
        for index, (ids, _, _, _) in zip(order, answers, strict=True):
            tokens[index] = ids
        return tokens
