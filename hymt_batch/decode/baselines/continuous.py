"""transformers' continuous batching: rows share a paged cache, and one that ends makes room for the next."""

from __future__ import annotations

import inspect
from typing import Any

from hymt_batch.decode.benchmark import INSTRUCTION_TOKENS, Engine, Workload
from hymt_batch.model.prepare import LoadedModel

BATCH_TOKENS = 512
"""Tokens of one pass, prompts included. The attention's mask has this many rows."""

POLL_S = 1.0
"""Seconds between two looks whether the manager still runs."""


def continuous_engine(hymt: LoadedModel, max_rows: int) -> Engine:
    """transformers' manager of continuous batching, started anew for each workload; the longest prompt first.

    Pages are as long as the common start of the prompts, so that rows share it.

    Raises:
        ImportError: This version of transformers has none.
        RuntimeError: It has no limit of new tokens for each row; on a run, the manager or a row failed.
    """
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching import ContinuousBatchingManager

    if "max_new_tokens" not in inspect.signature(ContinuousBatchingManager.add_request).parameters:
        raise RuntimeError("this version of transformers has no limit of new tokens for each row")
    if not hasattr(hymt.network, "continuous_batching_context_manager"):
        raise RuntimeError("this version of transformers has no continuous batching of this network")

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
        made: list[list[int]] = [[] for _ in order]
        with hymt.network.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=settings
        ) as manager:
            for number in order:
                manager.add_request(
                    work.prompts[number], request_id=str(number), max_new_tokens=work.output_lengths[number]
                )
            for _ in order:
                number, ids = _next_result(manager)
                made[number] = ids
        return made

    return run


def _next_result(manager: Any) -> tuple[int, list[int]]:
    """The next row that has ended, and its new tokens.

    Raises:
        RuntimeError: The row failed, or the manager ended.
    """
    while True:
        output = manager.get_result(timeout=POLL_S)
        if output is None:
            if not manager.is_running():
                raise RuntimeError("transformers' manager ended before its rows")
        elif output.error is not None:
            raise RuntimeError(f"transformers' manager gave a row up: {output.error}")
        elif output.is_finished():
            return int(output.request_id), list(output.generated_tokens)
