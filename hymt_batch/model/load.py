"""Load the weights of a prepared model, and refuse every fault that transformers would repair or hide silently.

After loading, every weight is present, finite, on the planned device and in the requested dtype. The canary prompts
give the same logits in a batch as alone, and on GPUs the attention agrees with torch's math backend.

Source: transformers fills missing weights with random numbers and mentions it only in a log line that is easily missed.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hymt_batch.device_map import table
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import gib
from hymt_batch.errors import PreflightError, first_line
from hymt_batch.model import attention, canary, cudnn, transformers_compat, weight_packing
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.detect_devices import torch_devices
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.memory import is_gpu_failure, is_out_of_memory, run_within_memory
from hymt_batch.model.refusal import refusal
from hymt_batch.model.requirements import QUANTISATION_PACKAGES
from hymt_batch.model.settings import Attention, ModelConfig, dtype_bytes
from hymt_batch.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that is verified and placed but whose weights are not loaded yet."""

    config: ModelConfig
    files: ModelFiles
    placements: tuple[Placement, ...]  # to try in order; more than one only with device_map=fallback
    dtype: str
    network: NetworkSpec  # shapes and formats as they will be in memory
    identity: dict[str, Any]
    num_threads: int | None = None
    warnings: tuple[str, ...] = ()  # about devices, placement and speed

    @property
    def placement(self) -> Placement:
        return self.placements[0]

    @property
    def num_parameters(self) -> int:
        return self.network.num_parameters

    @property
    def max_context(self) -> int:
        return int(min(self.config.max_context, self.files.config["max_position_embeddings"]))

    @property
    def dtype_bytes(self) -> int:
        return dtype_bytes(self.dtype)

    @property
    def on_gpu(self) -> bool:
        return self.placement.device.name != "cpu"

    @property
    def environment(self) -> dict[str, Any]:
        return self.environment_for(self.placement)

    def environment_for(self, placement: Placement) -> dict[str, Any]:
        """Return the facts about machine and libraries that can change a translation through rounding."""
        return {
            "device": " + ".join(dict.fromkeys(use.label for use in placement.usage)),
            "device_map": {"strategy": placement.strategy.value, **table.compact_map(placement.map, self.network)},
            "attention": self.config.attention.value,
            "packed": self.packs_weights(placement),
            "licence": self.config.licence_text,
            "num_threads": self.num_threads,
            **({cudnn.ENVIRONMENT_KEY: False} if cudnn.uses_gpu(placement.devices) else {}),
            **{name: importlib.metadata.version(name) for name in self._packages()},
        }

    def packs_weights(self, placement: Placement) -> bool:
        """Return whether weights are repacked for faster matrix products: only if the whole model is on the CPU."""
        return self.config.packed and placement.devices == ("cpu",) and not self.files.quantisation

    def _packages(self) -> list[str]:
        """Return the packages whose versions can change a translation through rounding."""
        quantised = [package.partition(">=")[0] for package in QUANTISATION_PACKAGES.get(self.files.quantisation, ())]
        flash = ["flash-attn"] if self.config.attention is Attention.flash_attention_2 else []
        return ["torch", "transformers", "tokenizers", "accelerate", *quantised, *flash]

    def load_tokenizer(self, *, add_generation_prompt: bool) -> Tokenizer:
        return tokenizing.load(self.files.folder, self.files.config, add_generation_prompt=add_generation_prompt)

    def load(self, tokenizer: Tokenizer) -> LoadedModel:
        return load_model(self, tokenizer)


REPORT_VERSIONS = "Report this with the versions that `hymt-batch doctor` prints."


def set_num_threads(num_threads: int | None) -> None:
    """Set the number of CPU threads of torch; None leaves the choice to torch."""
    if num_threads is not None:
        import torch

        torch.set_num_threads(num_threads)


def load_model(prepared: PreparedModel, tokenizer: Tokenizer) -> LoadedModel:
    """Load the weights onto the planned devices, check every weight, and run the canary prompts.

    Args:
        prepared: The verified and placed model.
        tokenizer: The model's tokenizer.

    Returns:
        The loaded model, on the first placement that did not run out of memory.

    Raises:
        PreflightError: A weight is missing, unexpected, misplaced, of the wrong shape or dtype, or not finite; the
            canary prompts disagree; or every placement runs out of memory.
    """
    start_time, failed_strategies = time.monotonic(), list[str]()
    set_num_threads(prepared.num_threads)
    for placement in prepared.placements:
        load = partial(_load_on_placement, prepared, placement, tokenizer)
        attempt = run_within_memory(load, placement.device.name)
        if attempt is None:
            failed_strategies.append(placement.strategy.value)
            log.warning("out of memory while loading with device_map=%s", placement.strategy.value)
            continue
        network, difference, agreement = attempt
        if placement is not prepared.placement:
            for warning in placement.warnings:
                log.warning("%s", warning.text)
        _log_loaded(prepared, placement, time.monotonic() - start_time, difference)
        free_bytes = {device.name: device.free_bytes for device in torch_devices().devices}
        return LoadedModel(
            network=network,
            tokenizer=tokenizer,
            device=placement.device.name,
            dtype=prepared.dtype,
            max_context=prepared.max_context,
            cache_bytes_per_token=prepared.network.cache_bytes_per_token(prepared.dtype_bytes),
            vocab_size=network.config.vocab_size,
            free_bytes=placement.free_cache_bytes(free_bytes),
            placement=placement,
            canary_difference=difference,
            attention_check=agreement,
        )
    raise PreflightError(
        f"{prepared.placement.device.name} does not have enough memory for {prepared.files.folder} (tried: "
        f"{', '.join(failed_strategies)})",
        fix="Free memory, choose a smaller model, or set model.dtype=bfloat16.",
        id="C21" if prepared.on_gpu else "C22",
    )


def _load_on_placement(
    prepared: PreparedModel, placement: Placement, tokenizer: Tokenizer
) -> tuple[Any, float, attention.AttentionComparison | None]:
    """Load and check the network on one placement; may run out of memory.

    Returns:
        The network, the canary difference and the attention comparison (None if attention was not compared).
    """
    network = _load_checkpoint(prepared, placement)
    _check_weights(prepared, placement, network)
    network.eval().requires_grad_(False)
    _set_generation_config(network, tokenizer)
    if prepared.packs_weights(placement):
        weight_packing.pack(network)
    if placement.devices == ("cpu",):
        weight_packing.keep_head_input_contiguous(network)
    cudnn.disable_attention(placement.devices)  # not earlier: CUDA is initialised by now
    strict = prepared.files.config["model_type"] == "hunyuan_v1_dense" and not prepared.files.quantisation
    device, dtype, agreement = placement.device.name, prepared.dtype, None
    difference = canary.check(network, tokenizer, device, dtype, strict=strict)
    if attention.all_on_gpu(placement.devices):
        agreement = attention.check(network, tokenizer, device, dtype, by_layer=not strict)
    return network, difference, agreement


def _load_checkpoint(prepared: PreparedModel, placement: Placement) -> Any:
    """Load the checkpoint with transformers, and refuse it if transformers reports missing or unexpected weights."""
    folder = prepared.files.folder
    try:
        network, info = transformers_compat.from_pretrained(
            folder, placement.map, prepared.dtype, prepared.config.attention.value, placement.offload_folder
        )
    except Exception as error:
        if is_out_of_memory(error) or is_gpu_failure(error):
            raise
        fix = "Download the model again."
        if isinstance(error, ImportError):
            fix = "Install hymt-batch again in a new environment."
        elif isinstance(error, OSError):
            fix = "Check that its files can be read."
        raise PreflightError(
            f"{folder} cannot be loaded ({type(error).__name__}: {first_line(error)})", fix=fix
        ) from error
    problems = {key: sorted(map(str, value)) for key, value in info.items()}
    if prepared.files.config["model_type"] == "hy_v3" and "unexpected_keys" in problems:
        extra_layer = (
            f"model.layers.{prepared.network.num_layers}."  # extra layer, not used for translation, in some checkpoints
        )
        problems["unexpected_keys"] = [name for name in problems["unexpected_keys"] if not name.startswith(extra_layer)]
    problems = {key: names for key, names in problems.items() if names}
    if problems:
        details = "; ".join(f"{key}: {', '.join(names[:3])}" for key, names in problems.items())
        raise refusal(f"{folder}: the weights do not match the network ({details})", id="B9")
    return network


def _check_weights(prepared: PreparedModel, placement: Placement, network: Any) -> None:
    """Check that every weight is on its planned device, in the requested dtype, and finite."""
    import torch

    folder = prepared.files.folder
    actual_map = transformers_compat.loaded_device_map(network)
    if actual_map is not None and actual_map != placement.map:
        raise PreflightError(
            f"The libraries did not place the model as planned: {_describe_differences(actual_map, placement.map)}",
            fix=REPORT_VERSIONS,
            id="C19",
        )
    for name, device, weight in transformers_compat.iter_weights(network, placement.map):
        data = weight
        if weight.is_meta:
            offloaded = transformers_compat.offloaded_weight(network, name) if device in ("cpu", "disk") else None
            if offloaded is None:
                raise PreflightError(
                    f"{folder}: {name} was not loaded, although it is planned on {device}",
                    fix="Free memory there.",
                    id="C3",
                )
            data = offloaded
        elif str(weight.device) != device:
            raise PreflightError(
                f"{name} is on {weight.device}, but was planned on {device}", fix=REPORT_VERSIONS, id="C19"
            )
        elif not prepared.files.quantisation and str(weight.dtype) != f"torch.{prepared.dtype}":
            raise PreflightError(
                f"{name} was loaded as {weight.dtype} instead of {prepared.dtype}", fix=REPORT_VERSIONS, id="C28"
            )
        if data.is_floating_point() and data.element_size() > 1 and not _is_finite(torch, data.detach()):
            raise refusal(
                f"{folder}: {name} contains NaN or infinity", why="so every translation would be wrong", id="B21"
            )


def _is_finite(torch: Any, weight: Any) -> bool:
    # the sum is a cheap test; it may overflow although every element is finite
    return bool(torch.isfinite(weight.sum(dtype=torch.float32))) or bool(torch.isfinite(weight).all())


def _describe_differences(actual: Mapping[str, str], planned: Mapping[str, str]) -> str:
    names = [name for name in {**planned, **actual} if actual.get(name) != planned.get(name)]
    return "; ".join(f"{name or 'all'} on {actual.get(name)}, planned {planned.get(name)}" for name in names[:3])


def _log_loaded(prepared: PreparedModel, placement: Placement, seconds: float, difference: float) -> None:
    log.info(
        "model loaded device_map=%s dtype=%s weights=%s load_s=%.1f canary_relative_difference=%.1e",
        placement.strategy.value,
        prepared.dtype,
        gib(sum(use.weight_bytes for use in placement.usage)),
        seconds,
        difference,
    )
    if placement.is_split:
        rows = table.rows(placement, prepared.network, prepared.dtype_bytes, 0)
        log.info("device map:\n%s", table.render([(row[0], row[1], row[2], row[4]) for row in rows]))


def _set_generation_config(network: Any, tokenizer: Tokenizer) -> None:
    """Replace the checkpoint's generation settings (sampling, lengths, beams), which must not affect our decoding."""
    from transformers import GenerationConfig

    network.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=list(tokenizer.stop_ids),
        pad_token_id=tokenizer.pad_id,
        use_cache=True,
    )
