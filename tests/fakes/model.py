"""A model without torch, whose tokens are bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import Device, Strategy

ON_CPU = Placement(
    strategy=Strategy.cpu,
    map={"": "cpu"},
    device=Device("cpu", "a CPU", 1 << 40, bfloat16=False),
    usage=(DeviceUsage("cpu", 1000, 1, "a CPU"),),
    replicas=(("cpu",),),
    reasons=(),
)

COUNT_S = float(os.environ.get("STUB_COUNT_S", "0"))
"""Seconds that the tokenizer takes to count a text, so that the preparation of a row takes long."""


@dataclass(frozen=True)
class Bytes:
    """A tokenizer with one token for each byte, of which `control_byte` is a control token."""

    prefix: tuple[int, ...] = (256,)
    suffix: tuple[int, ...] = (257,)
    control_byte: int | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8")) for text in texts]

    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        return self.encode([head + text for text in texts])

    def count(self, text: str) -> int:
        time.sleep(COUNT_S)
        return len(text.encode("utf-8"))

    def has_control_ids(self, body: Sequence[int]) -> bool:
        return self.control_byte in body

    token_starts: None = None  # texts are counted instead

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [bytes(row).decode("utf-8", "replace") for row in rows]


@dataclass(frozen=True)
class Model:
    """Stands in for the results of `prepare.prepare_model` and of its `load`."""

    identity: dict[str, Any] = field(default_factory=lambda: {"files": {"stub": "upper"}})
    environment: dict[str, Any] = field(default_factory=lambda: {"device": "stub"})
    num_parameters: int = 1000
    on_gpu: bool = False
    dtype_bytes: int = 4
    tokenizer: Bytes = field(default_factory=Bytes)
    device: str = "cpu"
    max_context: int = 1 << 20
    dtype: str = "float32"
    placements: tuple[Placement, ...] = (ON_CPU,)
    cache_bytes_per_token: int = 1
    vocab_size: int = 258
    free_bytes: int = 1 << 30
    warnings: tuple[str, ...] = ()

    @property
    def placement(self) -> Placement:
        return self.placements[0]

    def environment_for(self, placement: Placement) -> dict[str, Any]:
        return self.environment

    def load_tokenizer(self, *, add_generation_prompt: bool) -> Bytes:
        return self.tokenizer

    def load(self, tokenizer: Bytes) -> Model:
        return self


def prepare(*_: object) -> Model:
    return Model()
