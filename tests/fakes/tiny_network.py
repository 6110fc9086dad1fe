"""Networks of a few thousand random weights, with layers of the Hunyuan families."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from hymt_batch.model.loaded_model import LoadedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 32}


def tiny_model(model_type: str = "hunyuan_v1_dense", dtype: str = "float32", **changes: Any) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    experts = EXPERTS if model_type == "hy_v3" else {}
    torch.manual_seed(3)
    network: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{**TINY, **experts, "model_type": model_type, **changes}),
        dtype=DTYPES[dtype],
        attn_implementation="sdpa",
    )
    with torch.no_grad():
        for weight in network.parameters():  # logits that differ clearly, and norms that are not all ones
            weight.normal_(0.0, 1.5 / weight.shape[1] ** 0.5) if weight.ndim == 2 else weight.uniform_(0.5, 1.5)
    network.eval().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(prefix=(), suffix=(), stop_ids=(-1,), pad_id=0)
    return LoadedModel(network, tokenizer, "cpu", dtype, 512, 4096, 300, 0)
