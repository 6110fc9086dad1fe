"""One complete model with its engine, which translates the prompts of a part: in this process or in a worker process.

Independent of where the prompts come from and of where the translations go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hymt_batch import batch
from hymt_batch.check import retry
from hymt_batch.decode import engine
from hymt_batch.decode.settings import Engine
from hymt_batch.records import Prompt, Translation

if TYPE_CHECKING:
    from hymt_batch.schema import PipelineJob

log = logging.getLogger(__name__)


class Replica:
    """A loaded model that translates parts."""

    def __init__(
        self,
        job: PipelineJob,
        model: Any,
        tokenizer: Any,
        *,
        check_stop: Callable[[], None],
        on_batch: Callable[[int, int], None],
        decode_batch: Callable[..., Any] | None = None,
    ) -> None:
        """Load the weights.

        Args:
            job: All settings.
            model: The result of `prepare.prepare_model`.
            tokenizer: The model's tokenizer.
            check_stop: Called at every step; raises when the job must end at once.
            on_batch: Called with the number of rows and new tokens after each batch.
            decode_batch: Decodes one batch in place of the engine; tests pass a small implementation here.
        """
        self._check_config, self._model = job.check, model
        hymt = model.load(tokenizer)
        self.batch_budget = batch.resolve_batch_budget(
            job.batch, hymt.cache_bytes_per_token, hymt.vocab_size, hymt.free_bytes, hymt.device != "cpu"
        )
        self.decode = engine.Decoder(
            hymt,
            job.decode,
            partial(batch.group, batch_budget=self.batch_budget),
            seed=job.seed,
            card=job.model.sampling,
            check_stop=check_stop,
            on_batch=on_batch,
            decode_fn=decode_batch,
            max_rows=self.batch_budget.max_rows,
            max_tokens=self.batch_budget.max_tokens,
            logprobs=job.check.min_logprob is not None,
        )
        self.decode.self_check()
        if self.decode.engine is Engine.slots and job.model.attention.value != "sdpa":
            log.warning(
                "model.attention=%s has no effect with decode.engine=slots, which has its own attention",
                job.model.attention.value,
            )

    @property
    def environment(self) -> dict[str, Any]:
        """The resolved settings that may change a translation through rounding errors in low precision."""
        placement = self.decode.hymt.placement
        return {
            **(self._model.environment_for(placement) if placement else self._model.environment),
            "engine": self.decode.engine.value,
            "stages": self.decode.stages,
            "capture": self.decode.graph_runner is not None,
            "max_rows": self.batch_budget.max_rows,
            "max_tokens": self.batch_budget.max_tokens,
        }

    def translate(self, prompts: Sequence[Prompt]) -> list[Translation]:
        """Decode the prompts of a part; flag the translations and retry those with a hard flag."""
        return retry.flag_and_retry(self.decode.run(prompts), self.decode.run, self._check_config)
