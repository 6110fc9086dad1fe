"""The slot engine: continuous batching with the modules of the loaded network; finished rows are replaced at once.

A slot is one row of the running batch. The used slots are always the first ones, so that a step costs no more than its
running rows. When rows finish, the rows of the last slots move into their slots, and new prompts are added after the
last row: on a CPU in groups of similar length, on a GPU mostly in one pass. The common prefix of all prompts of a call,
the instruction, is computed once. Scheduling depends only on lengths and end tokens, never on time, so the same prompts
always decode the same way.

If the network is split over several devices, there is one independent group of slots per device: while one group's
step runs on one device, another group's step runs on the next.

When memory runs out, fewer rows run at once: a group of prompts is halved, or the newer half of the running rows starts
over later. Finished rows are never lost. Does not know about parts, documents or retries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hymt_batch.decode import cuda_graph_runner, self_check
from hymt_batch.decode.batches import OOM_SPLIT
from hymt_batch.decode.cache import PrefixCache
from hymt_batch.decode.cpu_layers import open_cpu_layers
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner, with_first_error
from hymt_batch.decode.engine import Engine, EngineContext
from hymt_batch.decode.generate import GenerateEngine
from hymt_batch.decode.kernels.fused_layers import FusedLayers
from hymt_batch.decode.kernels.opening import open_fused_layers
from hymt_batch.decode.known_layers import Layers
from hymt_batch.decode.network_patch import has_dynamic_rope, patch_network
from hymt_batch.decode.request import Completion, Request, shared_sampling_params
from hymt_batch.decode.scheduler import Scheduler, SlotLimits
from hymt_batch.decode.sequence import Counters, SequenceState, shared_prefix
from hymt_batch.decode.settings import Kernels
from hymt_batch.errors import DeviceError, first_line
from hymt_batch.model import attention
from hymt_batch.model.memory import is_gpu_failure, run_within_memory
from hymt_batch.model.settings import Attention

log = logging.getLogger(__name__)

NAME = "slots"


def open_engine(context: EngineContext) -> SlotEngine:
    """Make the slot engine, with kernels and captured steps if the settings ask for them and they are possible."""
    graph_runner = None
    layers: Layers | None = open_fused_layers(context.load(), context.settings)
    if layers is None and context.settings.kernels is not Kernels.off:
        layers = open_cpu_layers(context.load())
    if context.settings.capture:
        reason = cuda_graph_runner.unsupported_reason(context.load(), context.num_stages)
        if reason:
            log.warning("decode.capture=true has no effect: %s", reason)
        else:
            graph_runner = CudaGraphRunner(context.load(), context.sampling_params, layers=layers)
    return SlotEngine(context, graph_runner, layers=layers)


class SlotEngine(Engine):
    """The slots of a loaded model; each call of `generate` starts with empty slots."""

    def __init__(
        self,
        context: EngineContext,
        graph_runner: CudaGraphRunner | None = None,
        device_type: str = "",
        layers: Layers | None = None,
    ) -> None:
        """Load the model and resolve the limits.

        Args:
            context: What the engine is made from.
            graph_runner: Runs captured steps, for one group of slots; reuses storage and graphs of earlier calls. Not
                used if positions may change the RoPE frequencies (dynamic RoPE).
            device_type: Type of device that prompts are grouped for, such as cpu or cuda; empty: that of the model.
            layers: Run the network's layers, as in `graph_runner`; None to run them as transformers does.
        """
        self.context, self.hymt, self.graph_runner = context, context.load(), graph_runner
        self.layers = layers
        self.loaded, self.device = self.hymt, self.hymt.device
        self._device_type = device_type or self.device.partition(":")[0]
        self.uncaptured_reason = ""  # why capture was turned off
        self.counters = Counters()  # of all calls since it was last replaced
        self._ran_out_of_memory = False

    @property
    def environment(self) -> dict[str, Any]:
        return {
            **self.context.environment(NAME),
            "capture": self.graph_runner is not None,
            "kernels": isinstance(self.layers, FusedLayers),
        }

    def take_degraded(self) -> tuple[str, ...]:
        ran_out, self._ran_out_of_memory = self._ran_out_of_memory, False
        return (OOM_SPLIT,) if ran_out else ()

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        """Decode requests; they are admitted in order of maximum length, the longest first.

        With more than one stage, rows are assigned to the groups of slots round robin, and a step is read when its
        group's turn comes again.
        """
        import torch

        if not requests:
            return []
        earlier_out_of_memory = self.counters.out_of_memory
        rows = [
            SequenceState(n, request.prompt_ids, request.max_new_tokens, request.seed)
            for n, request in enumerate(requests)
        ]
        rows.sort(key=lambda row: (-row.max_length, row.index))
        with (
            torch.inference_mode(),
            patch_network(self.hymt.network, rows[0].max_length + self.context.settings.read_every),
            _release_on_error(self.graph_runner),
        ):
            groups = self._make_groups(rows, requests)
            self._compute_prefix(groups, [request.prompt_ids for request in requests])
            self._run(groups, check_stop)
        self._drop_disabled_runner()
        if self.counters.out_of_memory > earlier_out_of_memory:
            self._ran_out_of_memory = True
            log.warning("out of memory: continued with fewer rows at a time")
        completions = {index: completion for group in groups for index, completion in group.completions.items()}
        return [completions[index] for index in range(len(requests))]

    def _make_groups(self, rows: Sequence[SequenceState], requests: Sequence[Request]) -> list[Scheduler]:
        """Make the groups of slots: one per stage, but never more than rows."""
        settings, budget, graph_runner = self.context.settings, self.context.budget, self.graph_runner
        stages = max(1, min(self.context.num_stages, budget.max_rows, len(rows)))
        if graph_runner is not None and (
            stages > 1 or graph_runner.disabled_reason or has_dynamic_rope(self.hymt.network)
        ):
            _skip_graphs(graph_runner)
            graph_runner = None
        limits = SlotLimits(
            budget.max_rows // stages,
            budget.max_tokens // stages,
            settings.read_every,
            self.context.logprobs,
            self._device_type,
        )
        sampling_params = shared_sampling_params(requests)
        return [
            Scheduler(self.hymt, rows[i::stages], sampling_params, limits, self.counters, graph_runner, self.layers)
            for i in range(stages)
        ]

    def _compute_prefix(self, groups: Sequence[Scheduler], prompts: Sequence[Sequence[int]]) -> None:
        """Compute the common prefix of all prompts once; it never includes the last token of a prompt."""
        common = shared_prefix(prompts)
        if common < 2 or len(prompts) < 2:
            return
        prefix: PrefixCache | None = run_within_memory(
            lambda: groups[0].runner.compute_prefix(prompts[0][:common]), self.device
        )
        if prefix is None:
            self.counters.out_of_memory += 1
            return
        self.counters.prefix_tokens += common
        for group in groups:
            group.runner.prefix = prefix

    def _run(self, groups: Sequence[Scheduler], check_stop: Callable[[], None]) -> None:
        """Run the groups in turn until no row is left."""
        while any(group.busy for group in groups):
            for group in groups:
                check_stop()
                finished = [] if len(groups) == 1 else group.collect()
                group.admit()
                finished += group.collect() if len(groups) == 1 and group.must_collect else []
                group.step()
                finished += group.collect() if len(groups) == 1 and group.must_collect else []
                if finished:
                    num_tokens = sum(len(group.completions[row.index].ids) for row in finished)
                    self.context.on_finished(len(finished), num_tokens)

    def self_check(self, check_stop: Callable[[], None]) -> Engine:
        """Compare the engine with `generate` on the canary prompts; return `generate` if they differ.

        Only in float32: in other formats rounding alone may change a token when two are about equally likely. Captured
        steps are compared with plain steps in every number format. On GPUs the engine's attention is compared with
        torch's math backend, and the kernels with transformers' own layers; kernels that disagree are turned off.

        Raises:
            PreflightError: The attention gives different tokens (E26).
            DeviceError: The GPU failed.
        """
        hymt = self.hymt
        if hymt.placement and attention.all_on_gpu(hymt.placement.devices):
            self_check.check_attention(hymt)
        if hymt.dtype == "float32":
            plain = replace(self.context.settings, stages=1, read_every=1)
            context = replace(self.context, settings=plain, on_finished=lambda rows, tokens: None)
            layers = None if isinstance(self.layers, FusedLayers) else self.layers  # kernels are compared below
            engines = SlotEngine(context, layers=layers), GenerateEngine(context)
            if not self_check.engines_agree(*engines, hymt.tokenizer, check_stop):
                log.warning("decode.engine=slots and generate disagree on the canary prompts; using generate")
                return GenerateEngine(self.context)
        if isinstance(self.layers, FusedLayers):
            self._self_check_kernels(self.layers)
        if self.graph_runner is not None:
            self._self_check_graphs(self.graph_runner, check_stop)
            self._drop_disabled_runner()
        if self.context.model is not None and self.context.model.config.attention is not Attention.sdpa:
            log.warning(
                "model.attention=%s has no effect with decode.engine=slots, which has its own attention",
                self.context.model.config.attention.value,
            )
        return self

    def _self_check_kernels(self, fused: FusedLayers) -> None:
        """Turn the kernels off if they do not give the tokens of transformers' own layers."""
        reason = self_check.kernels_refusal(self.hymt, fused)
        if not reason:
            return
        log.warning("decode.kernels: off, and torch's own operators are used: %s", reason)
        self.layers = None
        if self.graph_runner is not None:
            self.graph_runner.release()
            self.graph_runner.layers = None

    def _self_check_graphs(self, graph_runner: CudaGraphRunner, check_stop: Callable[[], None]) -> None:
        try:
            agrees = self_check.graphs_match_steps(
                graph_runner, self.context.sampling_params, self.context.settings.read_every, check_stop
            )
            if not agrees and not graph_runner.disabled_reason:
                graph_runner.disable("captured and plain steps disagree on the canary prompts")
        except RuntimeError as error:  # capture fails with many kinds of errors; the engine works without it too
            if is_gpu_failure(error):
                raise DeviceError(f"The GPU failed ({first_line(error)})", fix="Set decode.capture=false.") from error
            graph_runner.disable(with_first_error(error))

    def _drop_disabled_runner(self) -> None:
        """Drop a runner whose capture was turned off; capture is not tried again."""
        if self.graph_runner is not None and self.graph_runner.disabled_reason:
            self.uncaptured_reason = self.graph_runner.disabled_reason
            self.graph_runner.release()
            self.graph_runner = None


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
