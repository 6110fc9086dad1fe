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
    hunyuan_mt_chimera = "hunyuan_mt_chimera"  # its prompt takes several translations of a text, and makes one of them
    hy_mt1_5 = "hy_mt1_5"
    hy_mt2 = "hy_mt2"


class Attention(Enum):
    """Attention implementation asked of transformers."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass(kw_only=True, slots=True)
class RecommendedSampling:
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


TENCENT_RESTRICTIONS = "does not apply in the EU, the UK and South Korea; outputs may not improve other AI models"
"""Of HY-MT1.5 and Hunyuan-MT. Source: License.txt of both repositories, line 3 and 5b, 5c."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model; every field is explained in conf/model/."""

    path: str
    family: ModelFamily = ModelFamily.hy_mt1_5
    add_generation_prompt: bool = False
    licence: str = "Tencent HY Community License Agreement"
    licence_limits: str | None = TENCENT_RESTRICTIONS
    revision: str = "main"
    download: bool = False
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.sdpa
    packed: bool = True
    max_context: int = 8192
    sha256: Any = None
    sampling: RecommendedSampling = field(default_factory=RecommendedSampling)

    @property
    def licence_text(self) -> str:
        """The licence of the weights with what it limits."""
        return f"{self.licence}: {self.licence_limits}" if self.licence_limits else self.licence

    def check_translates(self) -> None:
        """Refuse a model that does not translate a text by itself.

        Raises:
            ConfigError: Its prompt takes candidates.
        """
        if self.family is ModelFamily.hunyuan_mt_chimera:
            raise ConfigError(
                "model.family=hunyuan_mt_chimera makes one translation out of several candidates, which its prompt "
                "takes; it cannot translate a text by itself, and nothing here gives it candidates yet. Set "
                "model=hunyuan_mt_7b."
            )

    def __post_init__(self) -> None:
        if self.sha256 is None:
            return
        pins = self.sha256 if isinstance(self.sha256, (list, tuple)) else [self.sha256]
        self.sha256 = [str(pin).lower() for pin in pins]
        if not pins or not all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in self.sha256):
            raise ConfigError(
                f"model.sha256={pins} is not a sha256 of 64 hexadecimal digits, nor a list of one for each weight file."
            )
