"""Networks of a real shape with random weights, for benchmarks. Reads no files; the output has no meaning."""

from __future__ import annotations

from enum import Enum
from typing import Any

from hymt_batch.model import cudnn, weight_packing
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.shapes import SMALL
from hymt_batch.model.tokenizer import Tokenizer

NO_STOP_TOKEN = -1
"""End token that no network generates: rows end only at their limit, so that every engine does the same work."""


Shape = Enum("Shape", {"demo": "demo", "mid": "mid", "1.8b_slice": "1.8b_slice", "1.8b": "1.8b"})
"""The bundled demo model, a network of 66 million parameters, four layers of the 1.8B model, the whole 1.8B model."""


def config(shape: Shape) -> dict[str, Any]:
    """Return the contents of config.json for a shape."""
    small = {**SMALL, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return {
        "demo": {
            **small,
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": 3114,
        },
        "mid": {
            **small,
            "num_hidden_layers": 12,
            "hidden_size": 640,
            "intermediate_size": 1920,
            "num_attention_heads": 10,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "vocab_size": 16384,
        },
        "1.8b_slice": {**small, "num_hidden_layers": 4},
        "1.8b": small,
    }[shape.value]


def make_model(shape: Shape, dtype: str, seed: int, device: str = "cpu") -> LoadedModel:
    """Make a network with random weights on a device; they are larger than usual, so that logits differ clearly."""
    cudnn.deprioritise()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, logging

    logging.set_verbosity_error()
    torch.manual_seed(seed)
    settings = config(shape)
    with torch.device(device):  # a large network takes minutes on one core of the CPU
        network: Any = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**settings), dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 1.5 / weight.shape[1] ** 0.5)
    network.eval().requires_grad_(False).to(device)
    cudnn.disable_attention([device])
    if device == "cpu":
        weight_packing.keep_head_input_contiguous(network)
    network.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, use_cache=True)
    size = 4 if dtype == "float32" else 2
    cache = 2 * settings["num_hidden_layers"] * settings["num_key_value_heads"] * settings["head_dim"] * size
    tokenizer = Tokenizer(None, None, (), (), frozenset(), (NO_STOP_TOKEN,), 0)
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        max_context=settings["max_position_embeddings"],
        cache_bytes_per_token=cache,
        vocab_size=settings["vocab_size"],
        free_bytes=0,
    )
