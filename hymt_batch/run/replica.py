"""One complete model with its engine, which translates the prompts of a part: in this process or in a worker process.

Independent of where the prompts come from and of where the translations go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from hymt_batch.check import retry
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.engine import EngineContext, open_engine
from hymt_batch.decode.settings import resolve_sampling_params
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
    ) -> None:
        """Load the weights.

        Args:
            job: All settings.
            model: The result of `prepare.prepare_model`.
            tokenizer: The model's tokenizer.
            check_stop: Called at every step; raises when the job must end at once.
            on_batch: Called with the number of rows and new tokens after each batch.
        """
        self._check_config, self._model = job.check, model
        context = EngineContext(
            load=cache(partial(model.load, tokenizer)),
            model=model,
            tokenizer=tokenizer,
            settings=job.decode,
            sampling_params=resolve_sampling_params(job.decode, job.model.sampling),
            max_rows=job.batch.max_rows,
            max_tokens=job.batch.max_tokens,
            logprobs=job.check.min_logprob is not None,
            on_finished=on_batch,
        )
        self.decoder = Decoder(
            open_engine(context, check_stop),
            context,
            max_context=model.max_context,
            seed=job.seed,
            card=job.model.sampling,
            check_stop=check_stop,
        )

    @property
    def environment(self) -> dict[str, Any]:
        """The resolved settings that may change a translation through rounding errors in low precision."""
        loaded = self.decoder.engine.loaded
        placement = loaded.placement if loaded else None
        return {
            **(self._model.environment_for(placement) if placement else self._model.environment),
            **self.decoder.engine.environment,
        }

    def translate(self, prompts: Sequence[Prompt]) -> list[Translation]:
        """Decode the prompts of a part; flag the translations and retry those with a hard flag."""
        return retry.flag_and_retry(self.decoder.run(prompts), self.decoder.run, self._check_config)
