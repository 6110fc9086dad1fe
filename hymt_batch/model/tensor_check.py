"""Whether the tensors that the files hold are those that the config's network needs; names, shapes and number formats.

Transformers loads a checkpoint that lacks a tensor and fills the gap with random numbers, which nobody sees. This is
known from the headers alone, before a byte of the weights is read.

Source: names as HunYuanDenseV1ForCausalLM and HYV3ForCausalLM of transformers 5.23 read them, the latter through its
renamings (conversion_mapping.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.errors import PreflightError

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
    """Compare what is stored with what the network needs.

    Args:
        folder: For messages.
        config: Content of config.json.
        network: What it describes.
        tensors: Of all weight files together.

    Raises:
        PreflightError: A tensor is missing or left over (B9), of another shape (B10), or of no float format (B24).
    """
    if config.get("quantization_config"):
        _check_modules(folder, network, tensors)
        return
    needed = {
        tensor.name: tensor.shape for tensor in network.weights() if tensor.stored and tensor.name not in network.tied
    }
    found = {name: tuple(shape) for name, (_, shape) in tensors.items() if not _BUFFER.fullmatch(name)}
    sparse = config.get("model_type") == "hy_v3"
    if sparse:
        found = _fuse_experts({_canonical_name(name): shape for name, shape in found.items()}, needed)
    found = {name: shape for name, shape in found.items() if name not in network.tied}
    where = f"{folder / 'config.json'} describes a network"
    missing = [name for name in needed if name not in found]
    beyond = f"model.layers.{network.num_layers}."  # a layer for another use, which some checkpoints of hy_v3 add
    extra = [name for name in found if name not in needed and not (sparse and name.startswith(beyond))]
    if missing:
        raise PreflightError(
            f"{where} that needs {_join_names(missing)}, which no weight file holds; transformers would fill "
            f"{'it' if len(missing) == 1 else 'them'} with random numbers in silence. Download the model again.",
            id="B9",
        )
    if extra:
        raise PreflightError(
            f"{where} that has no place for {_join_names(extra)}; weights and config belong to different models. "
            "Download the model again.",
            id="B9",
        )
    for name, shape in needed.items():
        if found[name] != shape:
            raise PreflightError(
                f"{where} in which {name} has the shape {list(shape)}, but the file has {list(found[name])}: they "
                "belong to different models. Download the model again.",
                id="B10",
            )
    for name, (dtype, _) in tensors.items():
        if dtype not in FLOAT_DTYPES:
            raise PreflightError(
                f"{folder}: {name} is stored as {dtype}, though config.json names no quantisation. Download the model "
                "again.",
                id="B24",
            )


def _check_modules(folder: Path, network: NetworkSpec, tensors: TensorHeaders) -> None:
    """A quantised checkpoint has tensors of its own for each module; here each module must have some."""
    holders = {name.rpartition(".")[0] for name in tensors}
    experts = {match[1] for name in tensors if (match := _EXPERT.match(_canonical_name(name)))}
    tied = {name.rpartition(".")[0] for name in network.tied}
    missing = [
        module.name
        for module in network.root.walk()
        if any(tensor.stored for tensor in module.tensors) and module.name not in holders | experts | tied
    ]
    if missing:
        raise PreflightError(
            f"{folder / 'config.json'} describes a network that needs weights for {_join_names(missing)}, which no "
            "file "
            "holds. Download the model again.",
            id="B9",
        )


def _canonical_name(name: str) -> str:
    for pattern, right in _RENAMES:
        name = pattern.sub(right, name)
    return name


def _fuse_experts(
    shapes: dict[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Experts stored one by one, as the fused tensors that they are loaded into."""
    fused: dict[str, tuple[int, ...]] = {}
    counts: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        if match := _EXPERT.fullmatch(name):
            counts.setdefault(match[1], {}).setdefault(match[3], []).append(shape)
        else:
            fused[name] = shape
    for experts, kinds in counts.items():
        whole = needed.get(f"{experts}.down_proj", (0,))[0]
        gate, up, down = (kinds.get(kind, []) for kind in ("gate", "up", "down"))
        if len(gate) == len(up) == whole and len({*gate, *up}) == 1:
            fused[f"{experts}.gate_up_proj"] = (whole, 2 * gate[0][0], *gate[0][1:])
        if len(down) == whole and len(set(down)) == 1:
            fused[f"{experts}.down_proj"] = (whole, *down[0])
    return fused


def check_tied(folder: Path, weights: Sequence[str], network: NetworkSpec) -> None:
    """A weight that is tied and stored all the same must equal the one it is tied to.

    Transformers 5 keeps both where they differ, and 4 keeps one: the text would depend on the version.
    """
    for tied, weight in network.tied.items():
        one, other = (_tensor_digest(folder, weights, name) for name in (tied, weight))
        if one is not None and one != other:
            raise PreflightError(
                f"{folder}: {tied} is stored beside {weight}, to which config.json ties it (tie_word_embeddings), and "
                "differs from it. Download the model again.",
                id="B11",
            )


def _tensor_digest(folder: Path, weights: Sequence[str], name: str) -> bytes | None:
    """Digest of a stored tensor's bytes; None where no file holds it."""
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
