"""The slot engine: continuous batching with transformers' own modules; finished rows are replaced at once.

A slot is one row of the running batch. The used slots are always the first ones, so that a step costs no more than its
running rows. When a row finishes, the row of the last slot moves into its slot, and new prompts are added after the
last row, several of similar length at once. The common prefix of all prompts of a call, the instruction, is computed
once. Scheduling depends only on lengths and end tokens, never on time, so the same prompts always decode the same way.

If the network is split over several devices, there is one independent group of slots per device: while one group's
step runs on one device, another group's step runs on the next.

When memory runs out, fewer rows run at once: a group of prompts is halved, or the newer half of the running rows starts
over later. Finished rows are never lost. Does not know about parts, documents or retries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hymt_batch.decode.cache import ATTENTION_NAME, PrefixCache, register_attention
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.generate import Completion
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.scheduler import Scheduler, run_within_memory
from hymt_batch.decode.sequence import Counters, SequenceState, shared_prefix
from hymt_batch.model.prepare import LoadedModel

log = logging.getLogger(__name__)


def decode_prompts(
    hymt: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    sampling_params: SamplingParams,
    check_stop: Callable[[], None],
    *,
    max_rows: int,
    max_tokens: int,
    stages: int = 1,
    read_every: int = 1,
    logprobs: bool = False,
    graph_runner: CudaGraphRunner | None = None,
    on_finished: Callable[[int, int], None] = lambda rows, tokens: None,
    counters: Counters | None = None,
) -> tuple[list[Completion], bool]:
    """Decode any number of prompts.

    Args:
        hymt: The loaded model.
        prompts: Token ids; admitted in order of maximum length, the longest first.
        max_new_tokens: Limit of new tokens of each row, at least 1.
        seeds: Seed of each row's draws; unused when greedy.
        sampling_params: How a token is chosen.
        check_stop: Called at every step; raises to abort the call.
        max_rows: Maximum number of slots.
        max_tokens: Maximum number of tokens of keys and values, over all slots; a row that needs more runs alone.
        stages: Number of groups of slots; rows are assigned to them round robin.
        read_every: Steps whose tokens are read together; more than 1 saves waits for a GPU, but wastes steps on rows
            whose end is not known yet. With several stages a step is read when its group's turn comes again.
        logprobs: True to keep the mean log-probability of the chosen tokens.
        graph_runner: Runs captured steps, for `stages` of 1; reuses storage and graphs of earlier calls. Not used if
            positions may change the RoPE frequencies (dynamic RoPE).
        on_finished: Called with the number of finished rows and of their new tokens.
        counters: Counters to update.

    Returns:
        One completion per prompt in the caller's order, and True if memory ran out at any time. A row that does not fit
        even alone has the finish reason "memory".

    Raises:
        StoppedError: From check_stop.
    """
    import torch

    if not prompts:
        return [], False
    counters = Counters() if counters is None else counters
    earlier_out_of_memory = counters.out_of_memory
    rows = [
        SequenceState(n, ids, limit, seed)
        for n, (ids, limit, seed) in enumerate(zip(prompts, max_new_tokens, seeds, strict=True))
    ]
    rows.sort(key=lambda row: (-row.max_length, row.index))
    stages = max(1, min(stages, max_rows, len(rows)))
    with (
        torch.inference_mode(),
        patch_network(hymt.network, rows[0].max_length + read_every),
        _release_on_error(graph_runner),
    ):
        if graph_runner is not None and (stages > 1 or graph_runner.disabled_reason or _has_dynamic_rope(hymt.network)):
            _skip_graphs(graph_runner)
            graph_runner = None
        groups = [
            Scheduler(
                hymt,
                rows[i::stages],
                sampling_params,
                max_rows // stages,
                max_tokens // stages,
                counters,
                read_every=read_every,
                logprobs=logprobs,
                graph_runner=graph_runner,
            )
            for i in range(stages)
        ]
        _compute_prefix(groups, prompts, counters)
        while any(group.busy for group in groups):
            for group in groups:
                check_stop()
                finished = [] if stages == 1 else group.collect()
                group.admit()
                finished += group.collect() if stages == 1 and group.must_collect else []
                group.step()
                finished += group.collect() if stages == 1 and group.must_collect else []
                if finished:
                    on_finished(len(finished), sum(len(group.completions[row.index].ids) for row in finished))
    completions = {index: completion for group in groups for index, completion in group.completions.items()}
    return [completions[i] for i in range(len(prompts))], counters.out_of_memory > earlier_out_of_memory


def _compute_prefix(groups: Sequence[Scheduler], prompts: Sequence[Sequence[int]], counters: Counters) -> None:
    """Compute the common prefix of all prompts once; it never includes the last token of a prompt."""
    common = shared_prefix(prompts)
    if common < 2 or len(prompts) < 2:
        return
    prefixes: list[PrefixCache] = []
    if run_within_memory(
        lambda: prefixes.append(groups[0].runner.compute_prefix(prompts[0][:common])), groups[0].hymt, counters
    ):
        counters.prefix_tokens += common
        for group in groups:
            group.runner.prefix = prefixes[0]


@contextmanager
def patch_network(network: Any, max_length: int) -> Iterator[None]:
    """Context in which the network uses our attention and, where safe, skips its RoPE update up to `max_length`."""
    with _use_slot_attention(network), _skip_rope_update(network, max_length):
        yield


@contextmanager
def _release_on_error(graph_runner: CudaGraphRunner | None) -> Iterator[None]:
    """Release the runner if the call fails: its slots may contain non-finite numbers."""
    try:
        yield
    except BaseException:
        if graph_runner is not None:
            graph_runner.release()
        raise


def _skip_graphs(graph_runner: CudaGraphRunner) -> None:
    """Warn that these rows run without captured steps, and free the runner's storage, which they do not need."""
    if not graph_runner.disabled_reason:
        log.warning("decode.capture: not used for these rows, because their positions may change the RoPE frequencies")
    graph_runner.release()


def _has_dynamic_rope(network: Any) -> bool:
    """Return whether the network has dynamic RoPE, for which the host reads the positions of each step."""
    return any("dynamic" in str(getattr(module, "rope_type", "")) for module in network.modules())


@contextmanager
def _use_slot_attention(network: Any) -> Iterator[None]:
    """Context with our attention instead of the model's own; every module reads the setting from one shared config."""
    register_attention()
    original = network.config._attn_implementation
    network.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        network.config._attn_implementation = original


@contextmanager
def _skip_rope_update(network: Any, max_length: int) -> Iterator[None]:
    """Context without dynamic RoPE's check for a new longest position, which makes the host wait for the GPU each step.

    Only for modules where no row can reach a length at which the check has an effect.

    Source: transformers 4.56, modeling_rope_utils.dynamic_rope_update; later versions treat the scaling of these
    checkpoints as static.
    """
    paused = [
        (module, module.rope_type)
        for module in network.modules()
        if "dynamic" in str(getattr(module, "rope_type", ""))
        and max_length <= min(getattr(module, "original_max_seq_len", 0), getattr(module, "max_seq_len_cached", 0))
    ]
    for module, _ in paused:
        module.rope_type = "default"
    try:
        yield
    finally:
        for module, rope_type in paused:
            module.rope_type = rope_type
