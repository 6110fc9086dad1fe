"""Checks of decode.engine=vllm: its interpreter and version, the model, the placement. Starts no vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.vllm import engine, process
from hymt_batch.device_map.placement import Placement
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import PreflightError

if TYPE_CHECKING:
    from hymt_batch.model.files import ModelFiles

CHECK = "vLLM"


def prepare(decode: DecodeConfig, python: str | None) -> None:
    """Refuse a job with decode.engine=vllm whose interpreter has no vLLM, before its model is looked at.

    Raises:
        PreflightError: It has none (A19).
    """
    if decode.engine == engine.NAME:
        process.probe(python)


def check(
    decode: DecodeConfig, python: str | None, files: ModelFiles | None, placement: Placement | None
) -> Iterator[Finding]:
    """Check what a job with decode.engine=vllm needs; nothing with another engine.

    Args:
        decode: The decoding settings.
        python: The setting launch.vllm_python.
        files: The model's files; None if they are not here.
        placement: Where the model would be; None if it is unknown.
    """
    if decode.engine != engine.NAME:
        return
    try:
        installed = process.probe(python)
    except PreflightError as error:
        yield Finding.of_problem(CHECK, Level.FAIL, error.problem)
        return
    versions = ", ".join(f"{name} {version}" for name, version in installed.versions.items())
    yield Finding("interpreter of vLLM", Level.OK, f"{installed.path}: {versions}")
    if files is None or placement is None:
        yield Finding(CHECK, Level.SKIP, "the model or its placement is not known")
    elif reason := engine.unsupported_reason(files, placement, installed):
        yield Finding(CHECK, Level.FAIL, f"decode.engine=vllm cannot run here: {reason}", "decode.engine=auto")
    else:
        seen = f"it gets {engine.describe_rope(files.config, installed)}"
        if placement.device.name != "cpu":
            seen += "; it was not run on a GPU yet"
        yield Finding(CHECK, Level.OK, seen)
