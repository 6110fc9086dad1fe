"""Baseline: transformers' continuous batching, where rows share a paged cache and a finished row frees its pages."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext, UnsupportedError
from hymt_batch.decode.request import Request
from hymt_batch.decode.sequence import shared_prefix

BATCH_TOKENS = 512
"""Tokens per forward pass, prompts included. The attention mask has this many rows."""

POLL_S = 1.0
"""Seconds between checks that the manager is still running."""


def open_engine(context: EngineContext) -> ContinuousEngine:
    """Make the engine.

    Raises:
        ImportError: This version of transformers has no continuous batching.
        UnsupportedError: It cannot limit the new tokens of each row.
    """
    from transformers.generation.continuous_batching import ContinuousBatchingManager

    if "max_new_tokens" not in inspect.signature(ContinuousBatchingManager.add_request).parameters:
        raise UnsupportedError("this version of transformers cannot limit the new tokens of each row")
    if not hasattr(context.load().network, "continuous_batching_context_manager"):
        raise UnsupportedError("this version of transformers does not support continuous batching for this network")
    return ContinuousEngine(context)


class ContinuousEngine(FixedLengthEngine):
    """Starts transformers' manager for each call, longest prompt first.

    A page is as long as the common prefix of the prompts, so that rows share it.
    """

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `FixedLengthEngine`.

        Raises:
            RuntimeError: The manager or a row failed.
        """
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        max_rows = self.context.budget.max_rows
        order = sorted(range(len(requests)), key=lambda n: (-len(requests[n].prompt_ids), n))
        longest = max(request.max_length for request in requests)
        page = max(1, shared_prefix([request.prompt_ids for request in requests]))
        settings = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=max_rows * -(-longest // page),
            max_batch_tokens=max(BATCH_TOKENS, max_rows),
            max_requests_per_batch=max_rows,
        )
        most = max(request.max_new_tokens for request in requests)
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=most, use_cache=True)
        tokens: list[list[int]] = [[] for _ in order]
        with self.context.load().network.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=settings
        ) as manager:
            for index in order:
                request = requests[index]
                manager.add_request(
                    list(request.prompt_ids), request_id=str(index), max_new_tokens=request.max_new_tokens
                )
            for _ in order:
                index, ids = _next_result(manager)
                tokens[index] = ids
        return tokens


def _next_result(manager: Any) -> tuple[int, list[int]]:
    """Wait for the next finished row, and return its index and new tokens.

    Raises:
        RuntimeError: The row failed, or the manager stopped.
    """
    while True:
        output = manager.get_result(timeout=POLL_S)
        if output is None:
            if not manager.is_running():
                raise RuntimeError("transformers' manager stopped before all rows were finished")
        elif output.error is not None:
            raise RuntimeError(f"transformers' manager failed on a row: {output.error}")
        elif output.is_finished():
            return int(output.request_id), list(output.generated_tokens)
