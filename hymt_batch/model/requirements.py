"""Check that the packages needed to load a model are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from hymt_batch.errors import PreflightError
from hymt_batch.model import files as model_files
from hymt_batch.model import transformers_compat
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.settings import Attention

QUANTISATION_PACKAGES = {"compressed-tensors": ("compressed-tensors>=0.15.0",), "gptq": ("optimum", "gptqmodel")}
"""Quantisation method -> requirements (in pip's syntax) of the packages that load it."""


def check_libraries(files: ModelFiles, attention: Attention) -> None:
    """Check that the installed packages can load the model.

    Args:
        files: The verified model.
        attention: model.attention.

    Raises:
        PreflightError: transformers is too old (A2), or a package is missing (A7, F1, F5).
    """
    model_type = files.config["model_type"]
    min_version = model_files.MODEL_TYPES[model_type]
    if transformers_compat.installed_version("transformers") < tuple(map(int, min_version.split("."))):
        raise PreflightError(
            f"{model_type} needs transformers {min_version} or newer",
            why=f"{importlib.metadata.version('transformers')} is installed",
            fix=f"pip install 'transformers>={min_version}'",
            id="A2",
        )
    if attention is Attention.flash_attention_2 and importlib.util.find_spec("flash_attn") is None:
        raise PreflightError(
            "model.attention=flash_attention_2 needs the package flash-attn, which is not installed",
            fix="Set model.attention=sdpa.",
            id="A7",
        )
    method = files.quantisation
    if not method:
        return
    if method not in QUANTISATION_PACKAGES:
        raise PreflightError(
            f"{files.folder}: quantisation {method!r} is not supported",
            fix="Choose a checkpoint in bfloat16, FP8 (compressed-tensors) or GPTQ.",
            id="B17",
        )
    missing = [package for package in QUANTISATION_PACKAGES[method] if not transformers_compat.is_satisfied(package)]
    if missing:
        quoted = " ".join(f"'{requirement}'" if ">" in requirement else requirement for requirement in missing)
        raise PreflightError(
            f"{files.folder} is quantised with {method}",
            fix=f"pip install {quoted}",
            id="F1" if method == "compressed-tensors" else "F5",
        )
