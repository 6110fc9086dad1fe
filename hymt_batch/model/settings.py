"""Settings of the model: which one, in which number format, how it samples."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError


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
    packed: bool = True
    max_context: int = 8192
    sha256: Any = None
    sampling: SamplingCard = field(default_factory=SamplingCard)

    def __post_init__(self) -> None:
        if self.sha256 is None:
            return
        pins = self.sha256 if isinstance(self.sha256, (list, tuple)) else [self.sha256]
        self.sha256 = [str(pin).lower() for pin in pins]
        if not pins or not all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in self.sha256):
            raise ConfigError(
                f"model.sha256={pins} is not a sha256 of 64 hexadecimal digits, nor a list of one for each weight file."
            )
