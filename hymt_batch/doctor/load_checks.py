"""The checks that need the weights: load the model as the job would, and compare its logits.

Every load compares a batched pass with a single one. These checks also compare a split model with a whole one (if one
device holds it) and each replica with the first.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hymt_batch.device_map.settings import DeviceInventory, Strategy, gib
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import PreflightError
from hymt_batch.model import canary, prepare
from hymt_batch.model.detect_devices import torch_devices
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.memory import empty_cache
from hymt_batch.model.padded_batch import NUM_ROWS

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob


def run(job: DoctorJob) -> list[Finding]:
    """Load the model and compare its logits across batching, splits and replicas.

    Raises:
        PreflightError: The model cannot be loaded, or the logits differ too much.
    """
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    started_at = time.monotonic()
    hymt = prepared.load(tokenizer)
    seconds = time.monotonic() - started_at
    placement = hymt.placement
    assert placement is not None
    weights = gib(sum(use.weight_bytes for use in placement.usage))
    findings = [
        Finding(
            "load",
            Level.OK,
            f"{weights} in {hymt.dtype} with device_map={placement.strategy.value} in {seconds:.1f} s; all weights are "
            "present, finite and placed as planned",
        ),
        Finding(
            "canary: batched against single",
            Level.OK,
            f"difference: {hymt.canary_difference:.1e} of the logits' spread; limit: {canary.TOLERANCE[hymt.dtype]:g}",
        ),
    ]
    findings.append(_attention_finding(hymt))
    reference_logits = canary.logits(hymt.network, tokenizer, hymt.device)
    comparisons = _comparisons(placement, torch_devices())
    for device, name in comparisons:
        hymt = None  # type: ignore[assignment]  # frees its memory for the next one
        empty_cache(placement.device.name)
        strategy = Strategy.cpu if device == "cpu" else Strategy.single
        index = None if device == "cpu" else int(device.removeprefix("cuda:"))
        config = replace(job.device_map, strategy=strategy, device=index, max_memory=None, map=None, order=None)
        dtype = type(job.model.dtype)(prepared.dtype)
        try:
            prepared_copy = prepare.prepare_model(replace(job.model, dtype=dtype), config, job.launch.num_threads)
        except PreflightError as error:
            findings.append(
                Finding(name, Level.SKIP, f"{device} does not hold the whole model: {error.problem.statement}")
            )
            continue
        loaded = prepared_copy.load(tokenizer)
        logits = canary.logits(loaded.network, tokenizer, loaded.device)
        difference = canary.compare(reference_logits, logits, prepared.dtype, name.removeprefix("canary: "))
        findings.append(Finding(name, Level.OK, f"difference: {difference:.1e} of the logits' spread"))
        del loaded
    if not comparisons:
        findings.append(Finding("canary: replica against replica", Level.SKIP, "one replica on one device"))
    return findings


def _attention_finding(hymt: LoadedModel) -> Finding:
    name = "attention against the math backend"
    if hymt.attention_check is None:
        return Finding(name, Level.SKIP, "compared only if the whole model is on GPUs")
    seen = (
        f"{hymt.attention_check.equal_tokens} tokens of {NUM_ROWS} rows are equal, "
        f"{hymt.attention_check.diverged_rows} rows diverge at a tie"
    )
    return Finding(
        name, Level.OK, f"{seen}; logits differ by {hymt.attention_check.max_difference:.1e} of their spread"
    )


def _comparisons(placement: Any, inventory: DeviceInventory) -> list[tuple[str, str]]:
    """Return (device, check name) of each model to load for comparison.

    For a split model, that is a whole one on the main device; otherwise one on the device of each further replica.
    """
    if placement.is_split:
        return [(placement.device.name, f"canary: split against single on {placement.device.name}")]
    return [
        (group[0], f"canary: replica on {group[0]} against {placement.device.name}")
        for group in placement.replicas
        if group[0] != placement.device.name
    ]
