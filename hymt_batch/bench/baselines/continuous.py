"""Baseline: transformers' continuous batching, where rows share a paged cache and a finished row frees its pages."""

from __future__ import annotations

import inspect
from typing import Any

from hymt_batch.bench.benchmark import INSTRUCTION_TOKENS, Engine, Workload
from hymt_batch.model.prepare import LoadedModel

BATCH_TOKENS = 512
"""Tokens per forward pass, prompts included. The attention mask has this many rows."""

POLL_S = 1.0
"""Seconds between checks that the manager is still running."""


def continuous_engine(hymt: LoadedModel, max_rows: int) -> Engine:
    """Make an engine that starts transformers' continuous batching manager for each workload, longest prompt first.

    A page is as long as the common prefix of the prompts, so that rows share it.

    Args:
        hymt: The network.
        max_rows: Maximum number of rows decoded at once.

    Raises:
        ImportError: This version of transformers has no continuous batching.
        RuntimeError: It cannot limit the new tokens of each row. When the engine runs: the manager or a row failed.
    """
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching import ContinuousBatchingManager

    if "max_new_tokens" not in inspect.signature(ContinuousBatchingManager.add_request).parameters:
        raise RuntimeError("this version of transformers cannot limit the new tokens of each row")
    if not hasattr(hymt.network, "continuous_batching_context_manager"):
        raise RuntimeError("this version of transformers does not support continuous batching for this network")

    def run(work: Workload) -> list[list[int]]:
        order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
        longest = max(len(prompt) + limit for prompt, limit in zip(work.prompts, work.output_lengths, strict=True))
        settings = ContinuousBatchingConfig(
            page_size=INSTRUCTION_TOKENS,
            num_blocks=max_rows * -(-longest // INSTRUCTION_TOKENS),
            max_batch_tokens=max(BATCH_TOKENS, max_rows),
            max_requests_per_batch=max_rows,
        )
        greedy = GenerationConfig(
            do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max(work.output_lengths), use_cache=True
        )
        tokens: list[list[int]] = [[] for _ in order]
        with hymt.network.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=settings
        ) as manager:
            for index in order:
                manager.add_request(
                    work.prompts[index], request_id=str(index), max_new_tokens=work.output_lengths[index]
                )
            for _ in order:
                index, ids = _next_result(manager)
                tokens[index] = ids
        return tokens

    return run


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
