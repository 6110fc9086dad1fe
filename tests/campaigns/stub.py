"""A model that upper-cases, without torch: the job around it is the real one.

Run as a program it is `hymt-batch translate` with this model: python -m tests.campaigns.stub OVERRIDES
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hymt_batch import streams
from hymt_batch.decode.generate import Completion
from jobs import __main__ as front
from jobs import translate

PAUSE_S = float(os.environ.get("STUB_PAUSE_S", "0"))
"""Seconds a batch takes, so that a kill finds the job at work."""

COUNT_S = float(os.environ.get("STUB_COUNT_S", "0"))
"""Seconds the tokenizer takes to count a text, so that a row is long in preparation."""


@dataclass(frozen=True)
class Bytes:
    """A tokenizer whose tokens are bytes."""

    prefix: tuple[int, ...] = (256,)
    suffix: tuple[int, ...] = (257,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8")) for text in texts]

    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        return self.encode([head + text for text in texts])

    def count(self, text: str) -> int:
        time.sleep(COUNT_S)
        return len(text.encode("utf-8"))

    def has_control_ids(self, body: Sequence[int]) -> bool:
        return False

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [bytes(row).decode("utf-8", "replace") for row in rows]


@dataclass(frozen=True)
class Stub:
    """What `network.prepare` and `network.load` would give."""

    identity: dict[str, Any] = field(default_factory=lambda: {"files": {"stub": "upper"}})
    environment: dict[str, Any] = field(default_factory=lambda: {"device": "stub"})
    num_parameters: int = 1000
    on_gpu: bool = False
    tokenizer: Bytes = field(default_factory=Bytes)
    device: str = "cpu"
    max_context: int = 1 << 20
    placement: None = None
    cache_bytes_per_token: int = 1
    vocab_size: int = 258
    free_bytes: int = 1 << 30

    def load_tokenizer(self, *, add_generation_prompt: bool) -> Bytes:
        return self.tokenizer

    def load(self, tokenizer: Bytes) -> Stub:
        return self


def prepare(*_: object) -> Stub:
    return Stub()


def decode_batch(
    hymt: Stub,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    choice: object,
    check_stop: Callable[[], None],
) -> list[Completion]:
    """Upper-case what stands after the instruction."""
    check_stop()
    time.sleep(PAUSE_S)
    rows = []
    for ids in prompts:
        _, _, text = bytes(ids[1:-1]).partition(b"\n\n")
        rows.append(Completion(list(text.decode("utf-8").upper().encode("utf-8")), "stop"))
    return rows


def run(overrides: Sequence[str], **settings: Any) -> int:
    """Run the job with this model, or what `settings` says otherwise; the exit code as the command line gives it."""
    right, given = translate.run, {"prepare_model": prepare, "decode_batch": decode_batch, **settings}
    translate.run = partial(right, translate=partial(translate.translate, **given))
    try:
        return front.main(["translate", *overrides])
    finally:
        translate.run = right


if __name__ == "__main__":
    streams.restart_if_needed()
    sys.exit(run(sys.argv[1:]))
