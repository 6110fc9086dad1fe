"""Find the files of a model, verify that they are complete and safe, and read their headers.

Does not import torch and does not read weights into memory. Faults that transformers accepts silently (a missing shard
entry, a path that leaves the folder, a pickle) are refused here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.device_map import network_spec
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.errors import ConfigError, PreflightError, first_line
from hymt_batch.model import safe_json, safetensors_header, tensor_check
from hymt_batch.model.refusal import refusal

MODEL_TYPES = {"hunyuan_v1_dense": "4.56.0", "hy_v3": "5.6.0"}
"""Supported model types, with the first version of transformers that supports each."""

FILE_NAME = re.compile(r"[A-Za-z0-9._-]+")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MAX_LAYERS = 1024  # the family's models have 32 to 80 layers
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
_IDENTITY_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_OPTIONAL_FILES = ("special_tokens_map.json", "chat_template.jinja", "chat_template.json", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A verified model folder."""

    folder: Path
    config: dict[str, Any]
    weight_files: tuple[str, ...]  # names of the safetensors files, sorted
    file_names: tuple[str, ...]  # names of all files that affect the translations, weights included
    num_parameters: int
    num_bytes: int  # of the weights as stored
    network: NetworkSpec  # as config.json describes it
    tensors: dict[str, tuple[str, list[int]]]  # name -> (number format, shape), from all weight files
    commit: str = ""  # resolved commit of a hub model

    @property
    def quantisation(self) -> str:
        """Quantisation method of the checkpoint, such as "compressed-tensors" or "gptq"; "" if it is not quantised."""
        section = self.config.get("quantization_config")
        return (
            "" if not section else str(section.get("quant_method", "?")) if isinstance(section, dict) else repr(section)
        )


def resolve(path: str, revision: str, download: bool) -> tuple[Path, str]:
    """Find the model's folder: the embedded demo model, a local folder, or a complete copy in the hub cache.

    Returns:
        The folder and, for a hub model, its commit; "" for a local folder.

    Raises:
        ConfigError: model.path is a file.
        PreflightError: The path is neither a folder nor a hub id, the hub model is not in the cache and
            model.download=false, or the download fails.
    """
    if path == "demo:model":
        return Path(__file__).parent.parent / "demo" / "model", ""
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return folder, ""
    if folder.exists():
        raise ConfigError(
            f"model.path={path} is a file", fix="Give the folder that holds config.json and *.safetensors."
        )
    if not HUB_ID.fullmatch(path) or path.startswith((".", "/", "~")):
        raise PreflightError(
            f"model.path={path} is neither a folder nor a hub id like tencent/HY-MT1.5-1.8B",
            fix="Correct model.path.",
            id="B7",
        )
    return _resolve_hub(path, revision, download)


def _resolve_hub(repo: str, revision: str, download: bool) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    command = f"hf download {repo} --revision {revision}"
    try:
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                local_files_only=not download,
                allow_patterns=["*.json", "*.jinja", "*.safetensors"],
            )
        )
    except LocalEntryNotFoundError as error:
        if download:
            raise PreflightError(
                f"{repo} (revision {revision}) is not in the hub cache, and the hub is offline or could not be "
                f"reached ({first_line(error)})",
                fix=f"Unset HF_HUB_OFFLINE if it is set, or run `{command}` on a machine with a network.",
                id="B8",
            ) from error
        raise PreflightError(
            f"{repo} (revision {revision}) is not in the hub cache of this machine",
            fix=f"Download it first:\n    {command}\nor let the job download it with model.download=true, or set "
            "model.path=FOLDER.",
            id="B8",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise PreflightError(
            f"{repo} could not be downloaded from the hub",
            why=first_line(error),
            fix=command,
            id="B8",
        ) from error
    return folder, folder.name


def verify(folder: Path, commit: str = "") -> ModelFiles:
    """Verify that a model folder is complete and safe to load; reads the headers of the weight files only.

    Args:
        folder: The model's folder.
        commit: Resolved commit of a hub model.

    Raises:
        PreflightError: A file is missing, truncated, a Git-LFS pointer or a pickle, the model type is not supported, or
            config and weights do not match.
    """
    config = safe_json.read_object(folder / "config.json", "it is not a model folder, or the download is incomplete")
    _check_type(folder, config)
    safe_json.read_object(folder / "tokenizer.json", "without it no text can be encoded", missing_id="B6")
    _check_readable(folder, config)
    network = network_spec.from_config(config, str(folder / "config.json"))
    weights = _weight_files(folder)
    num_parameters = num_bytes = 0
    tensors: dict[str, tuple[str, list[int]]] = {}
    weight_map: dict[str, str] = {}
    for name in weights:
        for tensor, (dtype, shape) in safetensors_header.read(folder / name).items():
            weight_map[tensor] = name
            if tensor in tensors:
                raise refusal(f"{folder / name} holds {tensor} a second time", id="B22")
            tensors[tensor] = (dtype, shape)
            num_parameters += math.prod(shape)
            num_bytes += math.prod(shape) * element_bytes(dtype)
    if not num_parameters:
        raise refusal(f"{folder} holds no weights at all", id="B4")
    _check_index(folder, weight_map)
    tensor_check.check(folder, config, network, tensors)
    tensor_check.check_tied(folder, weights, network)
    names = [name for name in (*_IDENTITY_FILES, *_OPTIONAL_FILES) if (folder / name).is_file()]
    if (folder / "model.safetensors.index.json").is_file():
        names.append("model.safetensors.index.json")
    return ModelFiles(
        folder,
        config,
        tuple(weights),
        tuple(sorted([*names, *weights])),
        num_parameters,
        num_bytes,
        network,
        tensors,
        commit,
    )


def _check_type(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model of another family, or one that asks for custom code."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        allowed = ", ".join(MODEL_TYPES)
        raise PreflightError(
            f"{folder / 'config.json'}: model_type is {model_type!r}",
            why=f"hymt-batch runs {allowed}",
            fix="Set model.path to a model of the Hunyuan translation family.",
            id="B17" if model_type else "B5",
        )
    if "auto_map" in config:
        raise PreflightError(
            f"{folder / 'config.json'} asks for custom code (auto_map), which hymt-batch never runs",
            fix="Download the model from its publisher, or remove auto_map if the model works without it.",
            id="B16",
        )


def element_bytes(dtype: str) -> int:
    """Return the bytes of one element of a safetensors number format; formats below one byte count as one."""
    return _DTYPE_BYTES.get(dtype, 1)


def _weight_files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    file_names = sorted(path.name for path in folder.glob("*.safetensors"))
    if index.is_file():
        if "model.safetensors" in file_names:
            raise PreflightError(
                f"{folder} has both {index.name} and model.safetensors, and only one of them would be loaded",
                fix="Remove the one that does not belong to the model.",
                id="B18",
            )
        weight_map = safe_json.read_object(index, "").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise refusal(f"{index} lists no weights (weight_map)", id="B4")
        named = set(map(str, weight_map.values()))
        for name in sorted(named):
            if not FILE_NAME.fullmatch(name):
                raise PreflightError(
                    f"{index} names {name!r}, which is outside the folder",
                    why="so the model is refused",
                    fix="Download it from its publisher.",
                    id="B15",
                )
            if name not in file_names:
                raise PreflightError(
                    f"{folder / name} is missing although the index names it", fix="Download it again.", id="B3"
                )
        return sorted(named)
    if "model.safetensors" in file_names:
        return ["model.safetensors"]
    if file_names:
        raise refusal(f"{folder} holds {file_names[0]} but neither model.safetensors nor {index.name}", id="B4")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise PreflightError(
            f"{folder} holds {pickles[0]} but no *.safetensors",
            why="pickled weights are never loaded, because they can run code",
            fix="Download the safetensors files.",
            id="B14",
        )
    raise refusal(f"{folder} has no *.safetensors", id="B4")


def _check_index(folder: Path, weight_map: dict[str, str]) -> None:
    """Check that the index names the right file for each tensor; the libraries use only the index to find tensors."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    declared = {str(tensor): str(name) for tensor, name in safe_json.read_object(index, "")["weight_map"].items()}
    for tensor in sorted({*declared, *weight_map}):
        if declared.get(tensor) != weight_map.get(tensor):
            raise refusal(
                f"{index} has {tensor} in {declared.get(tensor, 'no file')}, but it is in "
                f"{weight_map.get(tensor, 'no file')}",
                id="B9",
            )


def _check_readable(folder: Path, config: dict[str, Any]) -> None:
    """Refuse files that would make the libraries hang or run out of memory: pipes, huge files, far too many layers."""
    for path in (folder / name for name in (*_IDENTITY_FILES, *_OPTIONAL_FILES)):
        if path.exists():
            safe_json.check_regular_file(path)
    if (folder / "generation_config.json").exists():
        safe_json.read_object(folder / "generation_config.json", "")
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MAX_LAYERS:
        raise refusal(f"{folder}: num_hidden_layers is {layers}", id="B24")
