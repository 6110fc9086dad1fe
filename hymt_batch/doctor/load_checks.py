"""The checks that need the weights: load the model as the job would, and compare its answers.

Batched against single is done at every load. Here also: a split model against a whole one, where one device holds it,
and each replica against the first.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hymt_batch.device_map.settings import DeviceInventory, Strategy, gib
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import PreflightError
from hymt_batch.model import canary, prepare
from hymt_batch.model.detect_devices import torch_devices
from hymt_batch.model.padded_batch import NUM_ROWS
from hymt_batch.model.prepare import LoadedModel

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob


def run(job: DoctorJob) -> list[Finding]:
    """Load and compare.

    Raises:
        PreflightError: The model cannot be loaded, or an answer is wrong.
    """
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    began = time.monotonic()
    hymt = prepared.load(tokenizer)
    seconds = time.monotonic() - began
    placement = hymt.placement
    assert placement is not None
    weights = gib(sum(use.weight_bytes for use in placement.usage))
    found = [
        Finding(
            "load",
            Level.OK,
            f"{weights} in {hymt.dtype} with device_map={placement.strategy.value} in {seconds:.1f} s; every weight is "
            "there, placed as planned and finite",
        ),
        Finding(
            "canary: batched against single",
            Level.OK,
            f"differ by {hymt.canary_difference:.1e} of the logits' spread, allowed {canary.TOLERANCE[hymt.dtype]:g}",
        ),
    ]
    found.append(_attention_finding(hymt))
    wanted = canary.logits(hymt.network, tokenizer, hymt.device)
    others = _comparisons(placement, torch_devices())
    for device, name in others:
        hymt = None  # type: ignore[assignment]  # so that its memory can serve the next
        _free_memory()
        strategy = Strategy.cpu if device == "cpu" else Strategy.single
        number = None if device == "cpu" else int(device.removeprefix("cuda:"))
        config = replace(job.device_map, strategy=strategy, device=number, max_memory=None, map=None, order=None)
        dtype = type(job.model.dtype)(prepared.dtype)
        try:
            other = prepare.prepare_model(replace(job.model, dtype=dtype), config, job.launch.num_threads)
        except PreflightError as error:
            found.append(Finding(name, Level.SKIP, f"{device} does not hold the whole model: {error.message}"))
            continue
        loaded = other.load(tokenizer)
        answer = canary.logits(loaded.network, tokenizer, loaded.device)
        difference = canary.compare(wanted, answer, prepared.dtype, name.removeprefix("canary: "))
        found.append(Finding(name, Level.OK, f"differ by {difference:.1e} of the logits' spread"))
        del loaded
    if not others:
        found.append(Finding("canary: replica against replica", Level.SKIP, "one replica on one device"))
    return found


def _attention_finding(hymt: LoadedModel) -> Finding:
    name = "attention against the math back end"
    if hymt.attention_check is None:
        return Finding(name, Level.SKIP, "compared where the whole model lies on GPUs")
    seen = (
        f"{hymt.attention_check.equal_tokens} tokens of {NUM_ROWS} rows are the same, "
        f"{hymt.attention_check.diverged_rows} rows part at a tie"
    )
    return Finding(
        name, Level.OK, f"{seen}; logits differ by {hymt.attention_check.max_difference:.1e} of their spread"
    )


def _comparisons(placement: Any, inventory: DeviceInventory) -> list[tuple[str, str]]:
    """What to compare with: the main device alone for a split model, each other replica's device for a whole one."""
    if placement.is_split:
        return [(placement.device.name, f"canary: split against single on {placement.device.name}")]
    return [
        (group[0], f"canary: replica on {group[0]} against {placement.device.name}")
        for group in placement.replicas
        if group[0] != placement.device.name
    ]


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
