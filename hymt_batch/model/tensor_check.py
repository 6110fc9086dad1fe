"""Check that the weight files hold exactly the tensors that config.json's network needs: names, shapes, number formats.

Transformers fills a missing tensor of a checkpoint with random numbers, which is easy to miss. The headers show such a
fault before any weight is read.

Source: names as read by HunYuanDenseV1ForCausalLM and HYV3ForCausalLM of transformers 5.23, the latter after its
renames (conversion_mapping.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.model.refusal import refusal

TensorHeaders = Mapping[str, tuple[str, Sequence[int]]]
"""Tensor name -> (number format, shape)."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")

_RENAMES = (
    (re.compile(r"\.mlp\.router\.gate\.weight$"), ".mlp.gate.weight"),
    (re.compile(r"\.mlp\.expert_bias$"), ".mlp.e_score_correction_bias"),
    (re.compile(r"\.mlp\.shared_mlp\."), ".mlp.shared_experts."),
)
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_BUFFER = re.compile(r".*rotary_emb\.(original_)?inv_freq")


def check(folder: Path, config: Mapping[str, Any], network: NetworkSpec, tensors: TensorHeaders) -> None:
    """Compare the stored tensors with those that the network needs.

    Args:
        folder: The model's folder, for messages.
        config: Content of config.json.
        network: The network that config.json describes.
        tensors: Headers of all weight files together.

    Raises:
        PreflightError: A tensor is missing or unexpected (B9), has the wrong shape (B10) or is not in a floating-point
            format (B24).
    """
    if config.get("quantization_config"):
        _check_modules(folder, network, tensors)
        return
    needed_shapes = {
        tensor.name: tensor.shape for tensor in network.weights() if tensor.stored and tensor.name not in network.tied
    }
    stored_shapes = {name: tuple(shape) for name, (_, shape) in tensors.items() if not _BUFFER.fullmatch(name)}
    sparse = config.get("model_type") == "hy_v3"
    if sparse:
        stored_shapes = _fuse_experts(
            {_canonical_name(name): shape for name, shape in stored_shapes.items()}, needed_shapes
        )
    stored_shapes = {name: shape for name, shape in stored_shapes.items() if name not in network.tied}
    where = f"{folder / 'config.json'} describes a network"
    missing = [name for name in needed_shapes if name not in stored_shapes]
    extra_layer = (
        f"model.layers.{network.num_layers}."  # extra layer, not used for translation, in some hy_v3 checkpoints
    )
    extra = [
        name for name in stored_shapes if name not in needed_shapes and not (sparse and name.startswith(extra_layer))
    ]
    if missing:
        raise refusal(
            f"{where} that needs {_join_names(missing)}, which no weight file holds",
            why=f"transformers would silently fill {'it' if len(missing) == 1 else 'them'} with random numbers",
            id="B9",
        )
    if extra:
        raise refusal(
            f"{where} that has no place for {_join_names(extra)}",
            why="weights and config belong to different models",
            id="B9",
        )
    for name, shape in needed_shapes.items():
        if stored_shapes[name] != shape:
            raise refusal(
                f"{where} in which {name} has the shape {list(shape)}, but the file has {list(stored_shapes[name])}",
                why="weights and config belong to different models",
                id="B10",
            )
    for name, (dtype, _) in tensors.items():
        if dtype not in FLOAT_DTYPES:
            raise refusal(
                f"{folder}: {name} is stored as {dtype}, although config.json names no quantisation", id="B24"
            )


def _check_modules(folder: Path, network: NetworkSpec, tensors: TensorHeaders) -> None:
    """Check that a quantised checkpoint has a tensor for each module; tensor names depend on the method."""
    holders = {name.rpartition(".")[0] for name in tensors}
    experts = {match[1] for name in tensors if (match := _EXPERT.match(_canonical_name(name)))}
    tied = {name.rpartition(".")[0] for name in network.tied}
    missing = [
        module.name
        for module in network.root.walk()
        if any(tensor.stored for tensor in module.tensors) and module.name not in holders | experts | tied
    ]
    if missing:
        raise refusal(
            f"{folder / 'config.json'} describes a network that needs weights for {_join_names(missing)}, which no "
            "file holds",
            id="B9",
        )


def _canonical_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _fuse_experts(
    shapes: dict[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes with separately stored experts replaced by the fused tensors that transformers loads."""
    fused: dict[str, tuple[int, ...]] = {}
    expert_shapes: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        if match := _EXPERT.fullmatch(name):
            expert_shapes.setdefault(match[1], {}).setdefault(match[3], []).append(shape)
        else:
            fused[name] = shape
    for experts, shapes_by_kind in expert_shapes.items():
        num_experts = needed.get(f"{experts}.down_proj", (0,))[0]
        gate, up, down = (shapes_by_kind.get(kind, []) for kind in ("gate", "up", "down"))
        if len(gate) == len(up) == num_experts and len({*gate, *up}) == 1:
            fused[f"{experts}.gate_up_proj"] = (num_experts, 2 * gate[0][0], *gate[0][1:])
        if len(down) == num_experts and len(set(down)) == 1:
            fused[f"{experts}.down_proj"] = (num_experts, *down[0])
    return fused


def check_tied(folder: Path, weights: Sequence[str], network: NetworkSpec) -> None:
    """Check that a tied weight that is stored nevertheless equals the weight it is tied to.

    If they differ, transformers 5 keeps both and transformers 4 keeps one, so translations would depend on the version.

    Raises:
        PreflightError: The two differ (B11).
    """
    for tied, weight in network.tied.items():
        tied_digest, weight_digest = (_tensor_digest(folder, weights, name) for name in (tied, weight))
        if tied_digest is not None and tied_digest != weight_digest:
            raise refusal(
                f"{folder}: {tied} is stored and differs from {weight}, to which config.json ties it "
                "(tie_word_embeddings)",
                id="B11",
            )


def _tensor_digest(folder: Path, weights: Sequence[str], name: str) -> bytes | None:
    """Return a digest of a stored tensor's format, shape and bytes; None if no file holds it."""
    for file_name in weights:
        with (folder / file_name).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length)).get(name)
            if entry is None:
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            digest, left = hashlib.sha256(json.dumps([entry["dtype"], entry["shape"]]).encode()), end - start
            while left > 0 and (piece := file.read(min(left, 1 << 24))):
                digest.update(piece)
                left -= len(piece)
            return digest.digest()
    return None


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
