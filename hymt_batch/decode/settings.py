"""Decoding settings, and how they are resolved with the model card's defaults. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hymt_batch.decode import registry
from hymt_batch.decode.registry import Draws
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.errors import ConfigError
from hymt_batch.model.settings import RecommendedSampling
from hymt_batch.setting import Environment, Identity


class Method(Enum):
    """How the next token is chosen."""

    greedy = "greedy"
    sampling = "sampling"


class Kernels(Enum):
    """When the slot engine runs the layers itself instead of transformers: on CUDA with kernels, on the CPU without."""

    auto = "auto"  # on CUDA with captured steps, on the CPU always
    on = "on"  # on CUDA with plain steps too, on the CPU always
    off = "off"


@dataclass(kw_only=True, slots=True)
class DecodeConfig:
    """How text is generated; every field is explained in conf/decode/."""

    method: Identity[Method] = Method.greedy
    engine: Environment[str] = field(default=registry.AUTO, metadata={"choices": registry.job_choices})
    temperature: Identity[float | None] = None
    top_p: Identity[float | None] = None
    top_k: Identity[int | None] = None
    repetition_penalty: Identity[float | None] = None
    max_new_tokens: Identity[int] = 4096
    new_tokens_ratio: Identity[float] = 2.0
    new_tokens_extra: Identity[int] = 32
    stop_loops: Identity[bool] = True
    stages: Environment[Any] = "auto"
    read_every: Environment[int] = 1
    capture: Environment[bool] = False
    kernels: Environment[Kernels] = Kernels.auto

    @property
    def draws(self) -> Draws:
        """How the engine draws tokens where a job samples."""
        return registry.draws_of(self.engine)

    @property
    def in_worker(self) -> bool:
        """Whether jobs run the engine in worker processes only."""
        return self.engine != registry.AUTO and registry.ENGINES[self.engine].in_worker

    def __post_init__(self) -> None:
        if self.engine not in registry.job_choices():
            raise ConfigError(
                f"decode.engine={self.engine} is not an engine",
                fix=f"Set decode.engine to one of {', '.join(registry.job_choices())}.",
            )
        positive = {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}
        for key, value in positive.items():
            if value is not None and value <= 0:
                raise ConfigError(
                    f"decode.{key}={value} must be above 0",
                    fix="To always choose the most likely token, set decode=greedy.",
                )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(
                f"decode.top_p={self.top_p} must be above 0 and at most 1", fix="Set decode.top_p=1 for no limit."
            )
        if self.top_k is not None and self.top_k < -1:
            raise ConfigError(
                f"decode.top_k={self.top_k} is not a number of tokens", fix="Set decode.top_k=0 for no limit."
            )
        if self.max_new_tokens < 1 or self.new_tokens_ratio < 0 or self.new_tokens_extra < 0:
            raise ConfigError(
                f"decode.max_new_tokens={self.max_new_tokens} must be at least 1; decode.new_tokens_ratio="
                f"{self.new_tokens_ratio} and decode.new_tokens_extra={self.new_tokens_extra} at least 0",
                fix="Drop the wrong one to use its default.",
            )
        if self.new_tokens_ratio == 0 and self.new_tokens_extra == 0:
            raise ConfigError(
                "decode.new_tokens_ratio and decode.new_tokens_extra are both 0",
                why="so translations would be cut",
                fix="Set decode.new_tokens_extra=32.",
            )
        if self.stages != "auto" and (type(self.stages) is not int or self.stages < 1):
            raise ConfigError(
                f"decode.stages={self.stages} is neither auto nor a whole number of at least 1",
                fix="Set decode.stages=auto.",
            )
        if self.method is Method.sampling and self.draws is Draws.none:
            raise ConfigError(
                f"decode.method=sampling, but decode.engine={self.engine} cannot sample",
                fix="Set decode=greedy, or decode.engine=auto.",
            )
        if self.read_every < 1:
            raise ConfigError(
                f"decode.read_every={self.read_every} must be at least 1 step", fix="Set decode.read_every=1."
            )


def resolve_sampling_params(settings: DecodeConfig, card: RecommendedSampling) -> SamplingParams:
    """Resolve the sampling parameters; when sampling, fields that `settings` leaves unset come from `card`."""
    if settings.method is Method.greedy:
        return SamplingParams(False, 1.0, 1.0, 0, settings.repetition_penalty or 1.0, settings.stop_loops)
    default = card_sampling_params(card)
    return SamplingParams(
        True,
        default.temperature if settings.temperature is None else settings.temperature,
        default.top_p if settings.top_p is None else settings.top_p,
        default.top_k if settings.top_k is None else max(0, settings.top_k),
        default.repetition_penalty if settings.repetition_penalty is None else settings.repetition_penalty,
        settings.stop_loops,
    )


def num_stages(settings: DecodeConfig, devices: Sequence[str]) -> int:
    """Return the number of slot groups: one per GPU that has layers, so that each is busy; else 1."""
    if settings.stages != "auto":
        return int(settings.stages)
    return max(1, sum(device.startswith("cuda") for device in devices))


def card_sampling_params(card: RecommendedSampling) -> SamplingParams:
    """Return the sampling parameters that the model card recommends."""
    return SamplingParams(True, card.temperature, card.top_p, max(0, card.top_k), card.repetition_penalty)


def resolved_sampling(settings: DecodeConfig, card: RecommendedSampling) -> dict[str, Any]:
    """Return the resolved sampling parameters for the job's identity; those of greedy decoding are None."""
    params = resolve_sampling_params(settings, card)
    return {
        "temperature": params.temperature if params.do_sample else None,
        "top_p": params.top_p if params.do_sample else None,
        "top_k": params.top_k if params.do_sample else None,
        "repetition_penalty": params.repetition_penalty,
    }
