"""The network: which model, on which device, in which dtype; prepared without weights, then loaded.

Everything that can fail cheaply fails in `prepare`. Loading passes an explicit device map and refuses whatever
transformers would mend in silence. Does not know prompts or decoding.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hymt_batch import device_map as placing
from hymt_batch.device_map import Census, DeviceMapConfig, Placement
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.census import census
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CPU_FLOPS = 4e10
"""Guess of the useful operations a second on a CPU, two a parameter and token; 40 tokens a row."""


class Dtype(Enum):
    """Number format of the weights and of the arithmetic."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class ModelFamily(Enum):
    """Which model card the model belongs to; selects the wording of prompts."""

    hunyuan_mt = "hunyuan_mt"
    hy_mt1_5 = "hy_mt1_5"
    hy_mt2 = "hy_mt2"


class Attention(Enum):
    """Attention implementation asked of transformers."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass(kw_only=True, slots=True)
class SamplingCard:
    """The model card's own decoding settings, used by decode=recommended."""

    temperature: float = 0.7
    top_p: float = 0.6
    top_k: int = 20
    repetition_penalty: float = 1.05

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ConfigError("model.sampling.temperature and model.sampling.repetition_penalty must be above 0.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"model.sampling.top_p={self.top_p} must be above 0 and at most 1.")
        if self.top_k < -1:
            raise ConfigError(f"model.sampling.top_k={self.top_k} must be a number of tokens; 0 or -1 mean no limit.")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model; every field is explained in conf/model/."""

    path: str
    family: ModelFamily = ModelFamily.hy_mt1_5
    revision: str = "main"
    download: bool = False
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.sdpa
    max_context: int = 8192
    sha256: str | None = None
    sampling: SamplingCard = field(default_factory=SamplingCard)


@dataclass(frozen=True, slots=True)
class Hymt:
    """A loaded model: what the engine needs."""

    network: Any  # transformers' HunYuanDenseV1ForCausalLM, in evaluation mode
    tokenizer: Tokenizer
    device: str
    dtype: str
    max_context: int  # tokens of prompt and translation together
    cache_bytes_per_token: int  # keys and values of one token over all layers
    vocab_size: int
    free_bytes: int  # on the device, after loading


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is verified and placed, its weights not yet read."""

    config: ModelConfig
    files: ModelFiles
    placement: Placement
    dtype: str
    identity: dict[str, Any]
    environment: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        return self.files.num_parameters

    @property
    def on_gpu(self) -> bool:
        return self.placement.device.name != "cpu"

    def load_tokenizer(self, *, add_generation_prompt: bool) -> Tokenizer:
        return tokenizing.load(self.files.folder, self.files.config, add_generation_prompt=add_generation_prompt)

    def load(self, tokenizer: Tokenizer) -> Hymt:
        return load(self, tokenizer)


def prepare(config: ModelConfig, device_map: DeviceMapConfig, num_threads: int | None = None) -> Prepared:
    """Verify the files, count the devices, choose dtype and placement. Reads no weights.

    Args:
        config: Which model.
        device_map: Where it goes.
        num_threads: Threads of the CPU's arithmetic; None leaves the choice to torch.

    Raises:
        PreflightError: The model is not there, not whole, not allowed, or fits no device.
    """
    folder, commit = model_files.resolve(config.path, config.revision, config.download)
    files = model_files.verify(folder, commit)
    _check_libraries(files, config.attention)
    hashes = model_files.hashes(files)
    if config.sha256 and config.sha256.lower() not in {hashes[name] for name in files.weights}:
        raise PreflightError(
            f"No weights of {folder} have the sha256 {config.sha256}. Check model.path, or set model.sha256=null."
        )
    devices = census()
    if num_threads is not None:
        import torch

        torch.set_num_threads(num_threads)
    dtype = _dtype(config, device_map, devices)
    placement = placing.place(device_map, devices, files.num_parameters * (4 if dtype == "float32" else 2))
    if placement.device.name == "cpu" and files.num_parameters > 50_000_000:
        rows = 3600 * CPU_FLOPS / (2 * files.num_parameters) / 40
        log.warning(
            "running on the CPU (%s): expect about %s rows per hour", "; ".join(placement.reasons), f"{rows:,.0f}"
        )
    return Prepared(
        config,
        files,
        placement,
        dtype,
        identity={"files": hashes, "commit": commit, "family": config.family.value, "dtype": dtype},
        environment={
            "device": placement.device.label,
            "device_map": placement.map,
            "attention": config.attention.value,
            "num_threads": num_threads,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        },
    )


def load(prepared: Prepared, tokenizer: Tokenizer) -> Hymt:
    """Read the weights onto the placed device.

    Raises:
        PreflightError: A weight is missing, left over, of another shape, or not finite.
    """
    import torch
    import transformers

    # its warnings are about what is checked here, and its bar would stand between our lines
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config, folder = prepared.config, prepared.files.folder
    dtype_key = "dtype" if _version("transformers") >= (5,) else "torch_dtype"
    try:
        network, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            device_map=dict(prepared.placement.map),
            attn_implementation=config.attention.value,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **{dtype_key: getattr(torch, prepared.dtype)},
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise PreflightError(
            f"{prepared.placement.device.name} has not enough memory for {folder}. Free it, choose a smaller model, or "
            "model.dtype=bfloat16."
        ) from error
    except Exception as error:  # whatever a damaged config makes transformers raise, its cause is the folder
        first = next(iter(str(error).strip().splitlines()), "")
        raise PreflightError(
            f"{folder} cannot be loaded ({type(error).__name__}: {first}). Download the model again."
        ) from error
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if wrong:
        what = "; ".join(f"{key}: {', '.join(names[:3])}" for key, names in wrong.items())
        raise PreflightError(f"{folder}: the weights do not fit the network ({what}). Download the model again.")
    for name, weight in network.named_parameters():
        if weight.is_meta:
            raise PreflightError(f"{folder}: {name} was not loaded. Free memory on {prepared.placement.device.name}.")
        if not bool(torch.isfinite(weight.detach().sum(dtype=torch.float32))) and not bool(
            torch.isfinite(weight.detach()).all()
        ):
            raise PreflightError(f"{folder}: {name} holds NaN or infinity; every text would be wrong.")
    network.eval().requires_grad_(False)
    _own_generation(network, tokenizer)
    settings = network.config
    head_dim = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    size = 4 if prepared.dtype == "float32" else 2
    return Hymt(
        network=network,
        tokenizer=tokenizer,
        device=prepared.placement.device.name,
        dtype=prepared.dtype,
        max_context=min(config.max_context, settings.max_position_embeddings),
        cache_bytes_per_token=2 * settings.num_hidden_layers * settings.num_key_value_heads * head_dim * size,
        vocab_size=settings.vocab_size,
        free_bytes=next(d.free_bytes for d in census().devices if d.name == prepared.placement.device.name),
    )


def _own_generation(network: Any, tokenizer: Tokenizer) -> None:
    """Replace the checkpoint's generation settings: what they ask for is not ours (sampling, lengths, beams)."""
    from transformers import GenerationConfig

    network.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=list(tokenizer.stop), pad_token_id=tokenizer.pad, use_cache=True
    )


def _dtype(config: ModelConfig, device_map: DeviceMapConfig, devices: Census) -> str:
    if config.dtype is not Dtype.auto:
        return str(config.dtype.value)
    gpus = () if device_map.strategy is placing.Strategy.cpu else devices.gpus
    return "bfloat16" if gpus and all(device.bfloat16 for device in gpus) else "float32"


def _check_libraries(files: ModelFiles, attention: Attention) -> None:
    model_type = files.config["model_type"]
    needed = model_files.MODEL_TYPES[model_type]
    if _version("transformers") < tuple(map(int, needed.split("."))):
        raise PreflightError(
            f"{model_type} needs transformers {needed} or newer; {importlib.metadata.version('transformers')} is "
            f"installed. Run: pip install 'transformers>={needed}'"
        )
    if attention is Attention.flash_attention_2 and importlib.util.find_spec("flash_attn") is None:
        raise PreflightError(
            "model.attention=flash_attention_2 needs the package flash-attn, which is not installed. "
            "Set model.attention=sdpa."
        )
    quantisation = files.config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "?") if isinstance(quantisation, dict) else repr(quantisation)
        packages = {"compressed-tensors": ["compressed-tensors"], "gptq": ["optimum", "gptqmodel"]}.get(method)
        if packages is None:
            raise PreflightError(f"{files.folder}: quantisation {method!r} is not supported.")
        missing = [name for name in packages if not _installed(name)]
        if missing:
            raise PreflightError(f"{files.folder} is quantised with {method}. Run: pip install {' '.join(missing)}")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _version(package: str) -> tuple[int, ...]:
    parts = importlib.metadata.version(package).split("+")[0].split(".")
    return tuple(int(part) for part in parts[:3] if part.isdigit())
