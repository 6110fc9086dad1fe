"""Published shapes of the family's models, for plans on a machine without the files; never used to load a model.

A plan states when it uses these shapes; if the files are present, their config and headers are used instead.

Source: HY-MT1.5, Hunyuan-MT and Hy-MT2 (model cards, configs of ports, Hy-MT2's training script). The resulting numbers
of parameters, 1,791,080,448 and 7,504,568,320, equal those of the networks on the meta device.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hymt_batch.device_map import network_spec
from hymt_batch.model.files import ModelFiles

_ALPHA_ROPE = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1}

_DENSE: dict[str, Any] = {
    "model_type": "hunyuan_v1_dense",
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 262144,
    "rope_theta": 10000.0,
    "rope_scaling": {**_ALPHA_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "attention_bias": False,
}
SMALL = {
    **_DENSE,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 120818,
}
"""1.8B: HY-MT1.5 and Hy-MT2."""

LARGE = {
    **_DENSE,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128167,
}
"""7B: Hunyuan-MT, HY-MT1.5 and Hy-MT2."""

SPARSE: dict[str, Any] = {
    "model_type": "hy_v3",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 6912,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 120832,
    "tie_word_embeddings": False,
    "max_position_embeddings": 262144,
}
"""30B-A3B: Hy-MT2's mixture of experts."""

_FP8 = {"quantization_config": {"quant_method": "compressed-tensors"}}
_GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}

PUBLISHED: dict[str, dict[str, Any]] = {
    "tencent/HY-MT1.5-1.8B": SMALL,
    "tencent/HY-MT1.5-1.8B-FP8": {**SMALL, **_FP8},
    "tencent/HY-MT1.5-1.8B-GPTQ-Int4": {**SMALL, **_GPTQ},
    "tencent/HY-MT1.5-7B": LARGE,
    "tencent/HY-MT1.5-7B-FP8": {**LARGE, **_FP8},
    "tencent/Hunyuan-MT-7B": LARGE,
    "tencent/Hunyuan-MT-7B-fp8": {**LARGE, **_FP8},
    "tencent/Hunyuan-MT-Chimera-7B": LARGE,
    "tencent/Hunyuan-MT-Chimera-7B-fp8": {**LARGE, **_FP8},
    "tencent/Hy-MT2-1.8B": SMALL,
    "tencent/Hy-MT2-1.8B-FP8": {**SMALL, **_FP8},
    "tencent/Hy-MT2-7B": LARGE,
    "tencent/Hy-MT2-7B-FP8": {**LARGE, **_FP8},
    "tencent/Hy-MT2-30B-A3B": SPARSE,
    "tencent/Hy-MT2-30B-A3B-FP8": {**SPARSE, **_FP8},
}
"""Hub id -> the fields of its config.json that define the network's shape.

The quantisation format of the FP8 models is known for HY-MT1.5 and assumed for the others.
"""


def published_model(path: str) -> ModelFiles | None:
    """Return the published shape of a hub model, without reading files; None if the hub id is unknown."""
    config = PUBLISHED.get(path)
    if config is None:
        return None
    network = network_spec.from_config(config, path)
    tensors: dict[str, tuple[str, list[int]]] = {
        tensor.name: ("BF16", list(tensor.shape)) for tensor in network.weights() if tensor.stored
    }
    if config.get("quantization_config") == _GPTQ["quantization_config"]:
        tensors = _gptq_tensors(tensors)
    return ModelFiles(
        folder=Path(path),
        config=config,
        weight_files=(),
        file_names=(),
        num_parameters=network.num_parameters,
        num_bytes=sum(math.prod(shape) * {"BF16": 2, "I32": 4}[dtype] for dtype, shape in tensors.values()),
        network=network,
        tensors=tensors,
    )


def _gptq_tensors(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, tuple[str, list[int]]]:
    """Return the tensors of a 4-bit GPTQ checkpoint with group size 128: 8 weights per integer, one scale per group."""
    gptq_tensors: dict[str, tuple[str, list[int]]] = {}
    for name, (dtype, shape) in tensors.items():
        module = name.removesuffix(".weight")
        if ".layers." not in name or not name.endswith("_proj.weight"):
            gptq_tensors[name] = (dtype, shape)
            continue
        rows, columns = shape[1], shape[0]
        groups = math.ceil(rows / 128)
        gptq_tensors[f"{module}.qweight"] = ("I32", [rows // 8, columns])
        gptq_tensors[f"{module}.qzeros"] = ("I32", [groups, columns // 8])
        gptq_tensors[f"{module}.scales"] = ("BF16", [groups, columns])
        gptq_tensors[f"{module}.g_idx"] = ("I32", [rows])
    return gptq_tensors
