"""The decoder layers of a network with fused kernels: 12 launches in each layer of a step instead of 57.

Replaces the forward functions of the layers, not their products: linear layers, experts and the embedding stay the
network's own modules. Each row attends to its own keys only, so a step needs no mask. A prefill uses the attention of
`slot_attention.py`. Networks whose modules are unknown are refused with a reason. Not yet run on a GPU.

Source: see `known_layers.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.cache import SlotCache
from hymt_batch.decode.kernels.operators import is_triton_installed, load_operators
from hymt_batch.decode.known_layers import KNOWN_LAYERS, unknown_module
from hymt_batch.decode.slot_attention import attend
from hymt_batch.model.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


DTYPES = ("float32", "bfloat16", "float16")


def unsupported_reason(hymt: LoadedModel) -> str:
    """Return why the kernels cannot run a loaded network; empty if no reason is known."""
    config, model = hymt.network.config, hymt.network.model
    devices = hymt.placement.devices if hymt.placement else (hymt.device,)
    if len(devices) > 1:
        return "the network is split over several devices"
    if not is_triton_installed():
        return "triton is not installed"
    names = KNOWN_LAYERS.get(str(getattr(config, "model_type", "")))
    if names is None:
        return f"the layers of a network of type {config.model_type} are unknown"
    if hymt.dtype not in DTYPES:
        return f"model.dtype={hymt.dtype} is not one of {', '.join(DTYPES)}"
    for layer in model.layers:
        size = layer.self_attn.head_dim
        if size < 16 or size & (size - 1):
            return f"the size of a head is {size}, not a power of two of at least 16"
    return unknown_module(model, config, names)


class FusedLayers:
    """Runs the layers of one network on one device."""

    needs_step_mask = False

    def __init__(self, network: Any) -> None:
        self.operators = load_operators()
        self.network = network
        self.names = KNOWN_LAYERS[network.config.model_type]
        self.layers = list(network.model.layers[: network.config.num_hidden_layers])
        self._gated_mlp = f"{self.names.prefix}MLP"

    def hidden_states(self, ids: Tensor, positions: Tensor, cache: SlotCache, mask: Tensor | None) -> Tensor:
        """Run a forward pass over slots; see `Layers.hidden_states`. The mask is that of a prefill, None in a step."""
        model = self.network.model
        with _current_device(ids):
            hidden = model.embed_tokens(ids)
            cos, sin = model.rotary_emb(hidden, positions)
            first_norm = self.layers[0].input_layernorm
            normed = self.operators.rms_norm(hidden, first_norm.weight, first_norm.variance_epsilon)
            for index, layer in enumerate(self.layers):
                attended = self._attention(layer.self_attn, index, normed, (cos, sin), positions, cache, mask)
                normed, hidden = self._add_and_normalise(attended, hidden, layer.post_attention_layernorm)
                last = index + 1 == len(self.layers)
                next_norm = model.norm if last else self.layers[index + 1].input_layernorm
                normed, hidden = self._add_and_normalise(self._mlp(layer.mlp, normed), hidden, next_norm)
        result: Tensor = normed
        return result

    def _add_and_normalise(self, output: Tensor, residual: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
        normed, total = self.operators.add_rms_norm(output, residual, norm.weight, norm.variance_epsilon)
        return normed, total

    def _attention(
        self,
        module: Any,
        index: int,
        normed: Tensor,
        rotation: tuple[Tensor, Tensor],
        positions: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
    ) -> Tensor:
        query, key, value = module.q_proj(normed), module.k_proj(normed), module.v_proj(normed)
        query_norm, key_norm = getattr(module, self.names.query_norm), getattr(module, self.names.key_norm)
        heads = key.view(*key.shape[:2], -1, module.head_dim)
        keys, values = cache.prepare_layer(index, heads.transpose(1, 2))
        query = self.operators.rotate_and_store(
            query,
            key,
            value,
            *rotation,
            query_norm.weight,
            key_norm.weight,
            positions,
            keys,
            values,
            cache.first_slot,
            query_norm.variance_epsilon,
            self.names.norm_first,
        )
        if mask is None:
            attended = self.operators.decode_attention(query[:, 0], keys, values, positions[:, 0], module.scaling)
        else:
            attended, _ = attend(module, query.transpose(1, 2), *cache.prefilled(index), mask, module.scaling)
        output: Tensor = module.o_proj(attended.reshape(*normed.shape[:-1], -1))
        return output

    def _mlp(self, module: Any, normed: Tensor) -> Tensor:
        if type(module).__name__ != self._gated_mlp:  # experts
            experts: Tensor = module(normed)
            return experts
        product: Tensor = module.down_proj(
            self.operators.gated_product(module.gate_proj(normed), module.up_proj(normed))
        )
        return product


def _current_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Context in which the device of a tensor is the current one: Triton launches on the current device."""
    import torch

    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
