"""The slot engine with captured steps, as a benchmark runs it beside the one with plain steps."""

from __future__ import annotations

from dataclasses import replace

from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner, unsupported_reason
from hymt_batch.decode.engine import EngineContext, UnsupportedError
from hymt_batch.decode.kernels.opening import open_fused_layers
from hymt_batch.decode.slots import SlotEngine

NAME = "slots_captured"


def open_engine(context: EngineContext) -> SlotEngine:
    """Make the engine.

    Raises:
        UnsupportedError: Steps of this network cannot be captured.
    """
    hymt = context.load()
    if reason := unsupported_reason(hymt, context.num_stages):
        raise UnsupportedError(reason)
    captured = replace(context, settings=replace(context.settings, capture=True))
    layers = open_fused_layers(hymt, captured.settings)
    return SlotEngine(captured, CudaGraphRunner(hymt, context.sampling_params, layers=layers), layers=layers)
