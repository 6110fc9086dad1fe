"""Decode the prompts of a part: batches in, one translation a prompt out.

Out of memory splits a batch in halves and goes on; a row that does not fit alone becomes an error row. Nothing here
depends on the time or on what was decoded before, so a part's text is the same wherever it is decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch import languages
from hymt_batch.decode.generate import Generated, decode_batch
from hymt_batch.decode.sampling import Choice, row_seed
from hymt_batch.errors import ConfigError, StoppedError
from hymt_batch.model.network import Hymt
from hymt_batch.model.settings import SamplingCard
from hymt_batch.records import Prompt, Translation

log = logging.getLogger(__name__)


class Method(Enum):
    """How the next token is chosen."""

    greedy = "greedy"
    sampling = "sampling"


class Engine(Enum):
    """Which loop runs the network."""

    generate = "generate"


@dataclass(kw_only=True, slots=True)
class DecodeConfig:
    """How text is generated; every field is explained in conf/decode/."""

    method: Method = Method.greedy
    engine: Engine = Engine.generate
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int = 4096
    new_tokens_ratio: float = 2.0
    new_tokens_extra: int = 32

    def __post_init__(self) -> None:
        positive = {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}
        for key, value in positive.items():
            if value is not None and value <= 0:
                raise ConfigError(f"decode.{key}={value} must be above 0. For the likeliest token use decode=greedy.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"decode.top_p={self.top_p} must be above 0 and at most 1.")
        if self.top_k is not None and self.top_k < -1:
            raise ConfigError(f"decode.top_k={self.top_k} must be a number of tokens; 0 or -1 mean no limit.")
        if self.max_new_tokens < 1 or self.new_tokens_ratio < 0 or self.new_tokens_extra < 0:
            raise ConfigError("decode.max_new_tokens must be at least 1, new_tokens_ratio and _extra at least 0.")
        if self.new_tokens_ratio == 0 and self.new_tokens_extra == 0:
            raise ConfigError("decode.new_tokens_ratio and decode.new_tokens_extra are both 0: no row could have text.")


class Decode:
    """The engine with everything a run has settled; `run` decodes one part."""

    def __init__(
        self,
        hymt: Hymt,
        settings: DecodeConfig,
        group: Callable[[Sequence[int]], Iterable[list[int]]],
        *,
        seed: int,
        check_stop: Callable[[], None],
        on_batch: Callable[[int, int], None] = lambda rows, tokens: None,
        decode: Callable[..., list[Generated]] = decode_batch,
        card: SamplingCard | None = None,
    ) -> None:
        """Settle a run.

        Args:
            hymt: The loaded model.
            settings: How text is generated.
            group: Widths of rows -> batches of their indices, the widest first.
            seed: The job's seed.
            check_stop: Raises when the job must end at once.
            on_batch: Told of every batch: rows decoded and new tokens.
            decode: Decodes one batch; tests put a small real thing here.
            card: The model card's sampling, for fields that `settings` leaves open.
        """
        self.hymt, self.settings, self.group, self.seed = hymt, settings, group, seed
        self.check_stop, self.on_batch, self.decode = check_stop, on_batch, decode
        self.choice = choice(settings, card or SamplingCard())
        self.card = card or SamplingCard()
        self._degraded: list[str] = []

    def run(self, prompts: Sequence[Prompt], attempt: int = 0) -> list[Translation]:
        """Decode prompts.

        Args:
            prompts: Prompts of a part.
            attempt: 0 at first; later tries draw with the card's sampling and a seed of their own.

        Returns:
            One translation a prompt, in the order of the prompts.

        Raises:
            StoppedError: The job must end at once; nothing of these prompts is kept.
        """
        rule = self.choice if attempt == 0 else _sampled(self.card)
        limits = [self._limit(prompt) for prompt in prompts]
        done: dict[int, Translation] = {}
        waiting = list(self.group([len(p.ids) + n for p, n in zip(prompts, limits, strict=True)]))[::-1]
        while waiting:
            self.check_stop()
            indices = waiting.pop()
            generated = self._attempt(prompts, limits, indices, rule, attempt)
            if generated is None and len(indices) > 1:
                half = (len(indices) + 1) // 2
                waiting += [indices[half:], indices[:half]]
                self._degraded.append("oom_split")
                log.warning("out of memory rows=%d: split in halves", len(indices))
            elif generated is None:
                prompt = prompts[indices[0]]
                message = f"{len(prompt.ids)} prompt tokens do not fit the memory of {self.hymt.device} alone"
                done[indices[0]] = Translation(prompt, "", "error", message=message, attempt=attempt)
            else:
                for index, translation in zip(
                    indices, self._translations(prompts, indices, generated, attempt), strict=True
                ):
                    done[index] = translation
                self.on_batch(len(indices), sum(len(row.ids) for row in generated))
        return [done[index] for index in range(len(prompts))]

    def take_degraded(self) -> tuple[str, ...]:
        """What went otherwise than planned since the last call, for the part's header."""
        taken, self._degraded = tuple(dict.fromkeys(self._degraded)), []
        return taken

    def _limit(self, prompt: Prompt) -> int:
        """Largest number of new tokens of a row, from its source length, language and the model's context."""
        expansion = languages.get(prompt.tgt_lang).expansion
        wanted = int(prompt.num_source_tokens * self.settings.new_tokens_ratio * expansion)
        wanted = min(wanted + self.settings.new_tokens_extra, self.settings.max_new_tokens)
        return max(1, min(wanted, self.hymt.max_context - len(prompt.ids)))

    def _attempt(
        self, prompts: Sequence[Prompt], limits: Sequence[int], indices: Sequence[int], rule: Choice, attempt: int
    ) -> list[Generated] | None:
        """Decode one batch; None when it did not fit the memory."""
        chosen = [prompts[index] for index in indices]
        seeds = [row_seed(self.seed, prompt.row_id, prompt.segment.index, attempt) for prompt in chosen]
        try:
            return self.decode(
                self.hymt,
                [prompt.ids for prompt in chosen],
                [limits[index] for index in indices],
                seeds,
                rule,
                self.check_stop,
            )
        except (MemoryError, RuntimeError) as error:
            if "CUDA error" in str(error):
                raise StoppedError(f"The GPU failed ({str(error).splitlines()[0]}); run again to continue") from error
            if not is_out_of_memory(error):
                raise
        # outside of the except block: the traceback would keep the tensors alive
        free_memory(self.hymt.device)
        return None

    def _translations(
        self, prompts: Sequence[Prompt], indices: Sequence[int], generated: Sequence[Generated], attempt: int
    ) -> list[Translation]:
        texts = self.hymt.tokenizer.decode([row.ids for row in generated])
        return [
            Translation(
                prompts[index],
                text,
                row.finish_reason,
                num_new_tokens=len(row.ids),
                flags=("control_token",) if self.hymt.tokenizer.leaks(row.ids) else (),
                message="the network returned NaN or infinity" if row.finish_reason == "non_finite" else "",
                attempt=attempt,
            )
            for index, row, text in zip(indices, generated, texts, strict=True)
        ]


def choice(settings: DecodeConfig, card: SamplingCard) -> Choice:
    """Resolve the token rule: what `settings` leaves open comes from the model card when sampling."""
    if settings.method is Method.greedy:
        return Choice(False, 1.0, 1.0, 0, settings.repetition_penalty or 1.0)
    default = _sampled(card)
    return Choice(
        True,
        default.temperature if settings.temperature is None else settings.temperature,
        default.top_p if settings.top_p is None else settings.top_p,
        default.top_k if settings.top_k is None else max(0, settings.top_k),
        default.repetition_penalty if settings.repetition_penalty is None else settings.repetition_penalty,
    )


def _sampled(card: SamplingCard) -> Choice:
    return Choice(True, card.temperature, card.top_p, max(0, card.top_k), card.repetition_penalty)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error) or "CUDA out of memory" in str(error)


def free_memory(device: str) -> None:
    """Give cached memory back before the next try."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def describe(settings: DecodeConfig, card: SamplingCard) -> dict[str, Any]:
    """What of the settings decides the text, resolved, for the job's identity."""
    rule = choice(settings, card)
    return {
        "method": settings.method.value,
        "temperature": rule.temperature if rule.sample else None,
        "top_p": rule.top_p if rule.sample else None,
        "top_k": rule.top_k if rule.sample else None,
        "repetition_penalty": rule.repetition_penalty,
        "max_new_tokens": settings.max_new_tokens,
        "new_tokens_ratio": settings.new_tokens_ratio,
        "new_tokens_extra": settings.new_tokens_extra,
    }
