"""Convert the demo model to an FP8 checkpoint in the compressed-tensors format, like the family's FP8 models."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.corruptions import edit, weights


def quantise(folder: Path) -> None:
    """Store each of the decoder's linear layers as float8 with one scale; everything else stays bfloat16."""
    import torch
    from safetensors.torch import load_file, save

    tensors = {}
    for name, weight in load_file(weights(folder)).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight
            continue
        scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = scale.to(torch.bfloat16).reshape(1)
    weights(folder).write_bytes(save(tensors, metadata={"format": "pt"}))
    edit(
        folder / "config.json",
        quantization_config={
            "quant_method": "compressed-tensors",
            "format": "naive-quantized",
            "quantization_status": "compressed",
            "ignored_layers": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True},
                }
            },
        },
    )
