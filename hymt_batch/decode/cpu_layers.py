"""The decoder layers of a network on the CPU with fewer operators: the same bits as transformers' own layers.

Part of a step on a CPU is neither products nor attention: calls between modules, and small operators, which take some
time to start. Here, queries and keys are turned and normalised together, most operators work in place, and nothing is
looked up again that a step has already found. The products stay those of the network's own modules, and so does the
order of the operations that round.

Networks whose modules are unknown run as transformers runs them.

Source: see `known_layers.py`.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hymt_batch.decode.cache import SlotCache
from hymt_batch.decode.known_layers import KNOWN_LAYERS, unknown_module
from hymt_batch.decode.network_patch import patch_network
from hymt_batch.decode.self_check import SlotEngineSteps
from hymt_batch.decode.slot_attention import attend
from hymt_batch.errors import first_line
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.weight_packing import joint_projection

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

CHECK_PROMPTS = ((1, 2, 3), (5, 6, 7))
"""Tokens of the prompts with which the layers are compared with transformers' own."""


def open_cpu_layers(hymt: LoadedModel) -> CpuLayers | None:
    """Return the layers of a network that is entirely on the CPU, or None if transformers has to run them."""
    if hymt.network not in _reasons:
        _reasons[hymt.network] = _refusal(hymt)
        if _reasons[hymt.network]:
            log.info("layers of transformers are used: %s", _reasons[hymt.network])
    return None if _reasons[hymt.network] else CpuLayers(hymt.network)


_reasons: MutableMapping[Any, str] = WeakKeyDictionary()
"""Network -> why transformers runs its layers, or empty. Kept, since the comparison reads all weights four times."""


def unsupported_reason(hymt: LoadedModel) -> str:
    """Return why the layers of a loaded network have to be run by transformers; empty if no reason is known."""
    config, model = hymt.network.config, hymt.network.model
    devices = hymt.placement.devices if hymt.placement else (hymt.device,)
    if set(devices) != {"cpu"} or any(hasattr(module, "_hf_hook") for module in model.modules()):
        return "not all of the network is on the CPU"
    names = KNOWN_LAYERS.get(str(getattr(config, "model_type", "")))
    if names is None:
        return f"the layers of a network of type {config.model_type} are unknown"
    return unknown_module(model, config, names)


def _refusal(hymt: LoadedModel) -> str:
    """Return why transformers has to run the layers of a network, after a comparison; empty if it has not."""
    try:
        reason = unsupported_reason(hymt)
        if reason or equal_bits(hymt, CpuLayers(hymt.network)):
            return reason
    except Exception as error:  # another version of a library may raise anything; transformers' layers work too
        return f"{type(error).__name__}: {first_line(error)}"
    return "they do not give the same bits as those of transformers"


def equal_bits(hymt: LoadedModel, layers: CpuLayers) -> bool:
    """Return whether the layers give the same bits as transformers' own, for some prompts and a step after them."""
    import torch

    with torch.inference_mode(), patch_network(hymt.network, len(CHECK_PROMPTS[0]) + 2):
        theirs, ours = (SlotEngineSteps(hymt, CHECK_PROMPTS, used) for used in (None, layers))
        for _ in ("prefill", "step"):
            if not torch.equal(theirs.next_logits(), ours.next_logits()):
                return False
        return all(
            torch.equal(stored, own)
            for index, pair in theirs.cache.layers.items()
            for stored, own in zip(pair, ours.cache.layers[index], strict=True)
        )


class CpuLayers:
    """Runs the layers of one network on the CPU."""

    needs_step_mask = True

    def __init__(self, network: Any) -> None:
        import torch

        self.network = network
        self._names = names = KNOWN_LAYERS[network.config.model_type]
        self._layers = list(network.model.layers[: network.config.num_hidden_layers])
        self._gated_mlp = f"{names.prefix}MLP"
        self._head_weights: list[Tensor] = []  # per layer, of the norms of all query and key heads, [H + K, D]
        for layer in self._layers:
            module = layer.self_attn
            query, key = (getattr(module, name).weight.detach() for name in (names.query_norm, names.key_norm))
            groups = module.num_key_value_groups
            num_keys = network.config.num_key_value_heads
            self._head_weights.append(torch.cat([query.expand(groups * num_keys, -1), key.expand(num_keys, -1)]))

    def hidden_states(self, ids: Tensor, positions: Tensor, cache: SlotCache, mask: Tensor | None) -> Tensor:
        """Run a forward pass over slots; see `Layers.hidden_states`. Each call needs a mask."""
        import torch

        model = self.network.model
        hidden: Tensor = model.embed_tokens(ids)
        cos, sin = model.rotary_emb(hidden, positions)
        half = cos.shape[-1] // 2
        # a half-turn moves the halves of a head, and changes the sign of the one that is then the first
        signed_sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        turn = cos[:, :, None], signed_sin[:, :, None]
        for index, layer in enumerate(self._layers):
            normed = _normalise(hidden, layer.input_layernorm)
            attended = self._attention(index, layer.self_attn, normed, turn, cache, mask)
            hidden = hidden + attended  # a new tensor, to which the output of the MLP is added in place
            normed = _normalise(hidden, layer.post_attention_layernorm)
            hidden += self._mlp(layer.mlp, normed)
        return _normalise(hidden, model.norm)

    def _attention(
        self,
        index: int,
        module: Any,
        normed: Tensor,
        turn: tuple[Tensor, Tensor],
        cache: SlotCache,
        mask: Tensor | None,
    ) -> Tensor:
        import torch

        rows, width, _ = normed.shape
        weight = self._head_weights[index]
        joint = joint_projection(module)
        if joint is not None:
            heads = joint(normed).view(rows, width, -1, module.head_dim)
            turned, value = heads[:, :, : len(weight)], heads[:, :, len(weight) :]
        else:
            query_and_key = torch.cat((module.q_proj(normed), module.k_proj(normed)), dim=-1)
            turned = query_and_key.view(rows, width, -1, module.head_dim)
            value = module.v_proj(normed).view(rows, width, -1, module.head_dim)
        norm = getattr(module, self._names.query_norm)
        if self._names.norm_first:
            turned = _rotate(_normalise(turned, norm, weight), *turn)
        else:
            turned = _normalise(_rotate(turned, *turn), norm, weight)
        num_queries = len(weight) - value.shape[2]
        query, key = turned[:, :, :num_queries].transpose(1, 2), turned[:, :, num_queries:].transpose(1, 2)
        keys, values = cache.update(key, value.transpose(1, 2), index)
        attended, _ = attend(module, query, keys, values, mask, module.scaling)
        output: Tensor = module.o_proj(attended.reshape(rows, width, -1))
        return output

    def _mlp(self, module: Any, normed: Tensor) -> Tensor:
        import torch

        if type(module).__name__ != self._gated_mlp:  # experts
            experts: Tensor = module(normed)
            return experts
        gate = torch.nn.functional.silu(module.gate_proj(normed), inplace=True)
        product: Tensor = module.down_proj(gate.mul_(module.up_proj(normed)))
        return product


def _normalise(hidden: Tensor, norm: Any, weight: Tensor | None = None) -> Tensor:
    """Apply an RMS norm to the last dimension, with its own weights or others; rounds before it multiplies them."""
    import torch

    normed = torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], None, norm.variance_epsilon)
    return normed.mul_(norm.weight if weight is None else weight)


def _rotate(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn heads [B, T, N, D] by RoPE; cos and signed_sin are [B, T, 1, D]."""
    half_turned = heads.roll(heads.shape[-1] // 2, dims=-1)
    return (heads * cos).add_(half_turned.mul_(signed_sin))
