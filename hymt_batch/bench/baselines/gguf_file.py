"""Write a network's unchanged weights in llama.cpp's file format, for the llama.cpp baseline.

llama.cpp's graph of `hunyuan-dense` rotates the halves of a head (neox style), as transformers does, so queries and
keys need no reordering. It normalises them after the rotation, and uses the embedding as output matrix if the file has
none.
Source: llama.cpp's converter, which folds a fixed alpha into the base of the rotation, as transformers does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Module name in transformers, without the layer -> tensor name in llama.cpp."""


def write(network: Any, path: Path) -> None:
    """Write a Hunyuan network: matrices in the network's dtype, float32 or bfloat16, and vectors in float32.

    Args:
        network: transformers' HunYuanDenseV1ForCausalLM on the CPU.
        path: File to create; as large as the weights.

    Raises:
        KeyError: The network has a tensor that llama.cpp does not know.
    """
    import gguf

    config = network.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.HUNYUAN_DENSE])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope_base(config))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_tokenizer_model("none")
    tied = config.tie_word_embeddings
    for name, weight in network.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            _add_tensor(writer, tensor_name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rope_base(config: Any) -> float:
    """Return the base of the rotary embedding, including the fixed alpha of the configuration."""
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
    base, dim = float(rope["rope_theta"]), config.head_dim
    return float(base * float(rope.get("alpha") or 1.0) ** (dim / (dim - 2)))


def tensor_name(name: str) -> str:
    """Return llama.cpp's name of a weight of the transformers network.

    Raises:
        KeyError: llama.cpp has no such weight.
    """
    module, _, kind = name.rpartition(".")
    block = ""
    if module.startswith("model.layers."):
        layer, _, module = module.removeprefix("model.layers.").partition(".")
        block = f"blk.{layer}."
    return f"{block}{TENSOR_NAMES[module]}.{kind}"


def _add_tensor(writer: Any, name: str, weight: Tensor) -> None:
    import gguf
    import torch

    if weight.ndim == 2 and weight.dtype is torch.bfloat16:
        writer.add_tensor(name, weight.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, weight.float().numpy())
