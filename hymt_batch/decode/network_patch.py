"""How a network runs inside the slot engine: with our attention, and without checks that make the host wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hymt_batch.decode.slot_attention import ATTENTION_NAME, register_attention


@contextmanager
def patch_network(network: Any, max_length: int) -> Iterator[None]:
    """Context in which the network uses our attention and, where safe, skips its RoPE update up to `max_length`."""
    with _use_slot_attention(network), _skip_rope_update(network, max_length):
        yield


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


def has_dynamic_rope(network: Any) -> bool:
    """Return whether the network has dynamic RoPE, for which the host reads the positions of each step."""
    return any("dynamic" in str(getattr(module, "rope_type", "")) for module in network.modules())
