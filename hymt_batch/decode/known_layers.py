"""What the decoder layers of a network are made of, for code that runs them instead of transformers.

Source: transformers 4.56 and 5.23, modeling_hunyuan_v1_dense (queries and keys are turned, then normalised) and
modeling_hy_v3 (normalised, then turned).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from hymt_batch.decode.cache import SlotCache


@dataclass(frozen=True, slots=True)
class LayerNames:
    """How transformers names what the layers of a network are made of."""

    prefix: str  # of the class names
    query_norm: str
    key_norm: str
    norm_first: bool  # True if queries and keys are normalised before the turn


KNOWN_LAYERS = {
    "hunyuan_v1_dense": LayerNames("HunYuanDenseV1", "query_layernorm", "key_layernorm", norm_first=False),
    "hy_v3": LayerNames("HYV3", "q_norm", "k_norm", norm_first=True),
}
"""Type of a network -> how its layers are named."""


class Layers(Protocol):
    """Runs the layers of a network over slots, instead of transformers."""

    needs_step_mask: bool  # whether a step gets a mask; if not, a row sees its keys up to its position

    def hidden_states(self, ids: Tensor, positions: Tensor, cache: SlotCache, mask: Tensor | None) -> Tensor:
        """Run a forward pass over slots, after `cache.start_prefill` or `cache.start_step`.

        Args:
            ids: [B, T] int64; T is 1 in a step.
            positions: [B, T] int64, at which the tokens are stored in their slots.
            cache: Storage of the slots; keys and values are written into it.
            mask: See `grouped_mask`; may be None in a step, see `needs_step_mask`.

        Returns:
            [B, T, H], normalised, as the network's model returns it.
        """


def unknown_module(model: Any, config: Any, names: LayerNames) -> str:
    """Return which part of a network's layers is not as expected; empty if all are."""
    norm = f"{names.prefix}RMSNorm"
    if config.hidden_act not in ("silu", "swish"):
        return f"the activation function is {config.hidden_act} instead of silu"
    for index, layer in enumerate(model.layers):
        modules = {
            "the layer": (layer, f"{names.prefix}DecoderLayer"),
            "self_attn": (layer.self_attn, f"{names.prefix}Attention"),
            "input_layernorm": (layer.input_layernorm, norm),
            "post_attention_layernorm": (layer.post_attention_layernorm, norm),
            names.query_norm: (getattr(layer.self_attn, names.query_norm, None), norm),
            names.key_norm: (getattr(layer.self_attn, names.key_norm, None), norm),
        }
        for name, (module, expected) in modules.items():
            if type(module).__name__ != expected:
                return f"{name} of layer {index} is {type(module).__name__} instead of {expected}"
    if type(model.norm).__name__ != norm:
        return f"the last norm is {type(model.norm).__name__} instead of {norm}"
    if config.num_attention_heads % config.num_key_value_heads:
        return "the number of query heads is not a multiple of that of key heads"
    return ""
