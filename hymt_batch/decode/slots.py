"""The slot engine: rows that end are replaced while the others go on, over transformers' own modules.

A slot is one row of the running batch. Slots in use are always the first ones, so that a step costs no more than the
rows that still run: a row that ends gives its slot to the last one, and prompts are taken in behind it, several of like
length at once. What all prompts of a call have in common at their start, the instruction, is computed once. Scheduling
depends on lengths and end tokens alone, never on time, so the same prompts decode the same wherever and whenever.

Where the network lies on several devices, as many independent groups of slots as devices are under way: while one
group's step is on a device, another's is on the next.

Out of memory takes fewer rows: a group of prompts is halved, or the younger half of the running rows starts over later.
Nothing of a finished row is lost. Does not know parts, documents or retries.
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
    """Decode prompts of any number.

    Args:
        hymt: The loaded model.
        prompts: Token ids; taken in in the order of their widths, the widest first.
        max_new_tokens: Limit of each row, at least 1.
        seeds: Seed of each row's draws; unused when greedy.
        choice: How a token is chosen.
        check_stop: Called at every step; raises to give everything up.
        max_rows: Slots at most.
        max_tokens: Tokens of keys and values at most, over all slots; a row over it runs alone.
        stages: Groups of slots under way; rows are dealt to them in turn.
        read_every: Steps whose tokens are read at once; more than 1 spares waits for a GPU, and wastes steps of rows
            whose end is not known yet. With several stages a step is read when its group's turn comes again.
        logprobs: Whether to keep the mean logarithm of the chosen tokens' probabilities.
        captured: Storage and graphs of steps that are run again without Python, for `stages` of 1; what an earlier
            call left there is used. Not used where positions may change the network's own numbers.
        on_rows: Told of rows that ended, and of their tokens.
        counters: Where to count.

    Returns:
        One result a prompt in the caller's order, and whether memory ran out on the way. A row that does not fit alone
        has the finish reason "memory".

    Raises:
        StoppedError: From check_stop.
    """
    import torch

    if not prompts:
        return [], False
    counters = Counters() if counters is None else counters
    refusals = counters.out_of_memory  # of earlier calls
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
                rows[number::stages],
                sampling_params,
                max_rows // stages,
                max_tokens // stages,
                counters,
                read_every=read_every,
                logprobs=logprobs,
                graph_runner=graph_runner,
            )
            for number in range(stages)
        ]
        _compute_prefix(groups, prompts, counters)
        while any(group.busy for group in groups):
            for group in groups:
                check_stop()
                ended = [] if stages == 1 else group.collect()
                group.admit()
                ended += group.collect() if stages == 1 and group.must_collect else []
                group.step()
                ended += group.collect() if stages == 1 and group.must_collect else []
                if ended:
                    on_finished(len(ended), sum(len(group.completions[row.index].ids) for row in ended))
    done = {index: one for group in groups for index, one in group.completions.items()}
    return [done[number] for number in range(len(prompts))], counters.out_of_memory > refusals


def _compute_prefix(groups: Sequence[Scheduler], prompts: Sequence[Sequence[int]], counters: Counters) -> None:
    """Compute what all prompts begin with, once; each keeps at least one token of its own."""
    common = shared_prefix(prompts)
    if common < 2 or len(prompts) < 2:
        return
    made: list[PrefixCache] = []
    if run_within_memory(
        lambda: made.append(groups[0].runner.compute_prefix(prompts[0][:common])), groups[0].hymt, counters
    ):
        counters.prefix_tokens += common
        for group in groups:
            group.runner.prefix = made[0]


@contextmanager
def patch_network(network: Any, max_length: int) -> Iterator[None]:
    """Inside, the network attends our way and looks for no positions beyond `longest`, where that is safe."""
    with _use_slot_attention(network), _skip_rope_update(network, max_length):
        yield


@contextmanager
def _release_on_error(graph_runner: CudaGraphRunner | None) -> Iterator[None]:
    """A call that is given up leaves nothing to the next: what stands in its slots may not be finite."""
    try:
        yield
    except BaseException:
        if graph_runner is not None:
            graph_runner.release()
        raise


def _skip_graphs(graph_runner: CudaGraphRunner) -> None:
    """These rows are decoded without captured steps; what was kept would take memory, or be changed by them."""
    if not graph_runner.disabled_reason:
        log.warning("decode.capture: not used for these rows, whose positions may change the network's own numbers")
    graph_runner.release()


def _has_dynamic_rope(network: Any) -> bool:
    """Whether the host looks at the positions of each step."""
    return any("dynamic" in str(getattr(module, "rope_type", "")) for module in network.modules())


@contextmanager
def _use_slot_attention(network: Any) -> Iterator[None]:
    """Our attention inside, the model's own again after; every module reads it from the one config."""
    register_attention()
    before = network.config._attn_implementation
    network.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        network.config._attn_implementation = before


@contextmanager
def _skip_rope_update(network: Any, max_length: int) -> Iterator[None]:
    """Spare the look for longer positions than ever, which makes the host wait for the GPU in every step.

    Only where no row can be so long that it would matter: then what is looked for is never found.

    Source: transformers 4.56, modeling_rope_utils.dynamic_rope_update; later versions know these checkpoints' scaling
    as one that never changes.
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
        for module, kind in paused:
            module.rope_type = kind
