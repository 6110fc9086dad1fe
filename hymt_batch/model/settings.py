"""Settings of the model: its files, number format, attention and recommended sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.setting import Environment, Identity, Operation


class Dtype(Enum):
    """Number format of weights and computation."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def dtype_bytes(dtype: str) -> int:
    """Return the bytes of one element of a dtype, given by its name."""
    return 4 if dtype == "float32" else 2


class ModelFamily(Enum):
    """Model family, named after its model card; selects the prompt template."""

    hunyuan_mt = "hunyuan_mt"
    hunyuan_mt_chimera = "hunyuan_mt_chimera"  # combines several candidate translations of a text into one
    hy_mt1_5 = "hy_mt1_5"
    hy_mt2 = "hy_mt2"


class Attention(Enum):
    """Attention implementation of transformers."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass(kw_only=True, slots=True)
class RecommendedSampling:
    """Decoding settings that the model card recommends, used by decode=recommended."""

    temperature: Identity[float] = 0.7
    top_p: Identity[float] = 0.6
    top_k: Identity[int] = 20
    repetition_penalty: Identity[float] = 1.05

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ConfigError(
                f"model.sampling.temperature={self.temperature} and "
                f"model.sampling.repetition_penalty={self.repetition_penalty} must be above 0",
                fix="Set model.sampling.temperature=0.7 and model.sampling.repetition_penalty=1.05 (the defaults).",
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                f"model.sampling.top_p={self.top_p} must be above 0 and at most 1",
                fix="Set model.sampling.top_p=0.6 (the default).",
            )
        if self.top_k < -1:
            raise ConfigError(
                f"model.sampling.top_k={self.top_k} is not a number of tokens",
                fix="Set model.sampling.top_k=20 (the default), or 0 or -1 for no limit.",
            )


TENCENT_RESTRICTIONS = "does not apply in the EU, the UK and South Korea; outputs may not improve other AI models"
"""Restrictions of the licence of HY-MT1.5 and Hunyuan-MT. Source: License.txt of both repositories, line 3, 5b, 5c."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Settings of the model; conf/model/ explains every field."""

    path: Identity[str]
    family: Identity[ModelFamily] = ModelFamily.hy_mt1_5
    add_generation_prompt: Identity[bool] = False
    licence: Environment[str] = "Tencent HY Community License Agreement"
    licence_limits: Environment[str | None] = TENCENT_RESTRICTIONS
    revision: Identity[str] = "main"
    download: Operation[bool] = False
    dtype: Identity[Dtype] = Dtype.auto
    attention: Environment[Attention] = Attention.sdpa
    packed: Environment[bool] = True
    max_context: Identity[int] = 8192
    sha256: Operation[Any] = None
    sampling: RecommendedSampling = field(default_factory=RecommendedSampling)

    @property
    def licence_text(self) -> str:
        """The licence of the weights and its restrictions, in one line."""
        return f"{self.licence}: {self.licence_limits}" if self.licence_limits else self.licence

    @property
    def refines(self) -> bool:
        """True if the model makes one translation of several; it cannot translate a text directly."""
        return self.family is ModelFamily.hunyuan_mt_chimera

    def check_translates(self) -> None:
        """Refuse a model that cannot translate a text directly.

        Raises:
            ConfigError: The model's prompt needs candidate translations.
        """
        if self.refines:
            raise ConfigError(
                "model.family=hunyuan_mt_chimera combines several candidate translations into one",
                why="it cannot translate a text directly",
                fix="Set model=hunyuan_mt_7b. Of a finished job, hymt-batch retry refines the translations with it: "
                "docs/retry.md.",
            )

    def __post_init__(self) -> None:
        if self.sha256 is None:
            return
        pins = self.sha256 if isinstance(self.sha256, (list, tuple)) else [self.sha256]
        self.sha256 = [str(pin).lower() for pin in pins]
        if not pins or not all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in self.sha256):
            raise ConfigError(
                f"model.sha256={pins} is neither a sha256 of 64 hexadecimal digits nor a list of them, one for each "
                "weight file",
                fix="Set model.sha256=null to accept any weights.",
            )
