"""Describe a network as a tree of modules with the shapes of their tensors, from config.json, without torch.

Order and grouping of the modules are those of transformers' classes, because its planner walks them; tests compare both
on the meta device. Does not know about devices.

Source: HunYuanDenseV1ForCausalLM and HYV3ForCausalLM of transformers 5.23 (modeling files). The dense network of 4.56
has the same parameters and differs only in the name of one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hymt_batch.errors import PreflightError

FLOAT32_BYTES = 4
"""Bytes per element; RoPE frequencies stay in float32 for every model dtype."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One weight or buffer."""

    name: str  # full name, such as model.norm.weight
    shape: tuple[int, ...]
    stored: bool = True  # False for a buffer that no file contains
    element_bytes: int | None = None  # None if they have the model's dtype

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    def num_bytes(self, dtype_bytes: int) -> int:
        return self.num_elements * (self.element_bytes or dtype_bytes)


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One module: its direct tensors and its child modules, in the network's order."""

    name: str  # "" for the root
    tensors: tuple[TensorSpec, ...] = ()
    children: tuple[ModuleSpec, ...] = ()
    no_split: bool = False  # True for a decoder layer, which must be on one device

    def walk(self) -> Iterator[ModuleSpec]:
        yield self
        for child in self.children:
            yield from child.walk()

    def all_tensors(self) -> Iterator[TensorSpec]:
        for module in self.walk():
            yield from module.tensors


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network's shape."""

    root: ModuleSpec
    tied: Mapping[str, str] = field(default_factory=dict)  # weight that is not stored -> the weight it equals
    num_layers: int = 0
    cache_elements: int = 0  # elements of keys and values per token and layer
    vocab_size: int = 0

    @property
    def layers(self) -> tuple[ModuleSpec, ...]:
        return tuple(module for module in self.root.walk() if module.no_split)

    def weights(self) -> Iterator[TensorSpec]:
        """Return all tensors except tied weights, so that each is counted once."""
        return (tensor for tensor in self.root.all_tensors() if tensor.name not in self.tied)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_elements for tensor in self.weights() if tensor.stored)

    def num_bytes(self, dtype_bytes: int) -> int:
        return sum(tensor.num_bytes(dtype_bytes) for tensor in self.weights())

    def module_bytes(self, dtype_bytes: int) -> dict[str, int]:
        """Return name -> bytes of every module and every tensor; tied weights count as 0."""
        sizes: dict[str, int] = {}
        for tensor in self.weights():
            parts = tensor.name.split(".")
            for length in range(len(parts) + 1):
                name = ".".join(parts[:length])
                sizes[name] = sizes.get(name, 0) + tensor.num_bytes(dtype_bytes)
        return sizes

    def with_stored_tensors(self, headers: Mapping[str, tuple[int, Sequence[int]]]) -> NetworkSpec:
        """Return the same modules with the tensors that a checkpoint stores for them, such as packed integers.

        Args:
            headers: Tensor name -> (bytes per element, shape), from the safetensors headers.
        """
        by_module: dict[str, list[TensorSpec]] = {}
        for name, (element_bytes, shape) in headers.items():
            by_module.setdefault(name.rpartition(".")[0], []).append(
                TensorSpec(name, tuple(shape), element_bytes=element_bytes)
            )

        def swap(module: ModuleSpec) -> ModuleSpec:
            unstored = [tensor for tensor in module.tensors if not tensor.stored]
            tied = [tensor for tensor in module.tensors if tensor.name in self.tied]
            return ModuleSpec(
                module.name,
                (*(by_module.get(module.name) or tied), *unstored),
                tuple(swap(child) for child in module.children),
                module.no_split,
            )

        return replace(self, root=swap(self.root))

    def cache_bytes_per_token(self, dtype_bytes: int) -> int:
        return self.num_layers * self.cache_elements * dtype_bytes


def from_config(config: Mapping[str, Any], where: str = "config.json") -> NetworkSpec:
    """Build the network that a config describes.

    Args:
        config: Content of config.json.
        where: Path of the config, for messages.

    Raises:
        PreflightError: A field is missing or is not a valid size (B12, B24).
    """
    field = _ConfigFields(config, where)
    layers, hidden, vocab = field("num_hidden_layers"), field("hidden_size"), field("vocab_size")
    heads, kv_heads, head_dim = field("num_attention_heads"), field("num_key_value_heads"), field("head_dim")
    if heads % kv_heads:
        raise PreflightError(
            f"{where}: num_attention_heads={heads} is not a multiple of num_key_value_heads={kv_heads}",
            fix="Download the model again.",
            id="B24",
        )
    build = _sparse_layer if config.get("model_type") == "hy_v3" else _dense_layer
    decoder = tuple(build(field, f"model.layers.{index}", index) for index in range(layers))
    rope = "model.rotary_emb"
    model = ModuleSpec(
        "model",
        children=(
            _leaf("model.embed_tokens", vocab, hidden),
            ModuleSpec("model.layers", children=decoder),
            _leaf("model.norm", hidden),
            ModuleSpec(
                rope,
                tuple(
                    TensorSpec(f"{rope}.{name}", (head_dim // 2,), stored=False, element_bytes=FLOAT32_BYTES)
                    for name in ("inv_freq", "original_inv_freq")
                ),
            ),
        ),
    )
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.get("tie_word_embeddings") else {}
    return NetworkSpec(
        ModuleSpec("", children=(model, _leaf("lm_head", vocab, hidden))),
        tied,
        num_layers=layers,
        cache_elements=2 * kv_heads * head_dim,
        vocab_size=vocab,
    )


class _ConfigFields:
    """Reads sizes from a config; an invalid one raises an error that names the field."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def __call__(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problem = "is missing" if value is None else f"is {value!r}, which is not a size"
            raise PreflightError(
                f"{self.where}: {name} {problem}",
                why="the network cannot be built",
                fix="Download the model again.",
                id="B12" if name == "head_dim" and value is None else "B24",
            )
        return value

    def flag(self, name: str) -> bool:
        return bool(self.config.get(name))


def _leaf(name: str, *shape: int, bias: bool = False) -> ModuleSpec:
    tensors = [TensorSpec(f"{name}.weight", shape)]
    if bias:
        tensors.append(TensorSpec(f"{name}.bias", shape[:1]))
    return ModuleSpec(name, tuple(tensors))


def _attention(field: _ConfigFields, name: str, norms: tuple[str, str]) -> ModuleSpec:
    hidden, head_dim, bias = field("hidden_size"), field("head_dim"), field.flag("attention_bias")
    query, key = field("num_attention_heads") * head_dim, field("num_key_value_heads") * head_dim
    return ModuleSpec(
        name,
        children=(
            _leaf(f"{name}.q_proj", query, hidden, bias=bias),
            _leaf(f"{name}.k_proj", key, hidden, bias=bias),
            _leaf(f"{name}.v_proj", key, hidden, bias=bias),
            _leaf(f"{name}.o_proj", hidden, query, bias=bias),
            *(_leaf(f"{name}.{norm}", head_dim) for norm in norms),
        ),
    )


def _mlp(field: _ConfigFields, name: str, inner: int, *, bias: bool = False) -> ModuleSpec:
    hidden = field("hidden_size")
    return ModuleSpec(
        name,
        children=(
            _leaf(f"{name}.gate_proj", inner, hidden, bias=bias),
            _leaf(f"{name}.up_proj", inner, hidden, bias=bias),
            _leaf(f"{name}.down_proj", hidden, inner, bias=bias),
            ModuleSpec(f"{name}.act_fn"),
        ),
    )


def _layer(field: _ConfigFields, name: str, attention: ModuleSpec, mlp: ModuleSpec) -> ModuleSpec:
    hidden = field("hidden_size")
    return ModuleSpec(
        name,
        children=(
            attention,
            mlp,
            _leaf(f"{name}.input_layernorm", hidden),
            _leaf(f"{name}.post_attention_layernorm", hidden),
        ),
        no_split=True,
    )


def _dense_layer(field: _ConfigFields, name: str, index: int) -> ModuleSpec:
    attention = _attention(field, f"{name}.self_attn", ("query_layernorm", "key_layernorm"))
    return _layer(field, name, attention, _mlp(field, f"{name}.mlp", field("intermediate_size")))


def _sparse_layer(field: _ConfigFields, name: str, index: int) -> ModuleSpec:
    """Build a layer of hy_v3; by default the first is dense and the others are a mixture of experts."""
    attention = _attention(field, f"{name}.self_attn", ("q_norm", "k_norm"))
    kinds, bias = field.config.get("mlp_layer_types"), field.flag("mlp_bias")
    sparse = kinds[index] == "sparse" if isinstance(kinds, list) and len(kinds) > index else index > 0
    if not sparse:
        return _layer(field, name, attention, _mlp(field, f"{name}.mlp", field("intermediate_size"), bias=bias))
    hidden, inner, experts = field("hidden_size"), field("moe_intermediate_size"), field("num_experts")
    mlp = f"{name}.mlp"
    shared = inner * field("num_shared_experts", 1)
    return _layer(
        field,
        name,
        attention,
        ModuleSpec(
            mlp,
            (TensorSpec(f"{mlp}.e_score_correction_bias", (experts,)),),
            (
                _leaf(f"{mlp}.gate", experts, hidden),
                ModuleSpec(
                    f"{mlp}.experts",
                    (
                        TensorSpec(f"{mlp}.experts.gate_up_proj", (experts, 2 * inner, hidden)),
                        TensorSpec(f"{mlp}.experts.down_proj", (experts, hidden, inner)),
                    ),
                    (ModuleSpec(f"{mlp}.experts.act_fn"),),
                ),
                _mlp(field, f"{mlp}.shared_experts", shared, bias=bias),
            ),
        ),
    )
