"""Decode the prompts of a part with any engine: prompts in, one translation per prompt out.

Here is what is the same for all engines: limits of new tokens, seeds, texts, marks of degraded parts, errors of a
device. Nothing depends on time or on what was decoded earlier, so a part's text is the same wherever it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hymt_batch.decode.cuda_graph_runner import NOT_CAPTURED
from hymt_batch.decode.engine import Engine, EngineContext
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import SamplingParams, row_seed
from hymt_batch.decode.settings import card_sampling_params
from hymt_batch.decode.token_limit import max_new_tokens
from hymt_batch.errors import DeviceError, first_line
from hymt_batch.model.memory import is_gpu_failure, is_out_of_memory
from hymt_batch.model.settings import RecommendedSampling
from hymt_batch.records import FIRST, Attempt, Prompt, Translation

PENALTY = 1.15
"""Repetition penalty of a second try with one: above that of the cards (1.05), which a text survives without damage."""


class Decoder:
    """An engine with all settings of a run resolved; `run` decodes one part."""

    def __init__(
        self,
        engine: Engine,
        context: EngineContext,
        *,
        max_context: int,
        seed: int,
        card: RecommendedSampling,
        check_stop: Callable[[], None],
    ) -> None:
        """Store the settings of a run.

        Args:
            engine: Decodes.
            context: What the engine was made from.
            max_context: Limit of prompt and translation together, in tokens.
            seed: The job's seed.
            card: The model card's sampling parameters, used for second tries.
            check_stop: Called at every step; raises when the job must end at once.
        """
        self.engine, self.check_stop = engine, check_stop
        self._settings, self._tokenizer = context.settings, context.tokenizer
        self._sampling_params, self._card = context.sampling_params, card
        self._max_context, self._seed = max_context, seed

    @property
    def samples(self) -> bool:
        """True if the job samples; False if it always takes the most likely token."""
        return self._sampling_params.do_sample

    def run(self, prompts: Sequence[Prompt], attempts: Sequence[Attempt] = ()) -> list[Translation]:
        """Decode prompts: those that are sampled alike in one batch.

        Args:
            prompts: Prompts of a part.
            attempts: One for each prompt; () if all are the first.

        Returns:
            One translation per prompt, in the order of the prompts.

        Raises:
            StoppedError: The job must end at once; the results of these prompts are discarded.
            DeviceError: The GPU failed; the process must be started again.
        """
        attempts = attempts or [FIRST] * len(prompts)
        requests = self.make_requests(prompts, attempts)
        with _raise_device_errors():
            completions = self._generate(requests)
        texts = self._tokenizer.decode([completion.ids for completion in completions])
        return [
            self._make_translation(prompt, completion, text, attempt.number)
            for prompt, completion, text, attempt in zip(prompts, completions, texts, attempts, strict=True)
        ]

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Have the engine decode requests, in one call for each set of sampling parameters, as it has one at a time."""
        batches: dict[SamplingParams, list[int]] = {}
        for index, request in enumerate(requests):
            batches.setdefault(request.sampling_params, []).append(index)
        if len(batches) < 2:
            return self.engine.generate(requests, self.check_stop)
        completions: dict[int, Completion] = {}
        for indices in batches.values():
            answers = self.engine.generate([requests[index] for index in indices], self.check_stop)
            completions |= zip(indices, answers, strict=True)
        return [completions[index] for index in range(len(requests))]

    def make_requests(self, prompts: Sequence[Prompt], attempts: Sequence[Attempt] = ()) -> list[Request]:
        """Return what the engine is asked for; see `run`."""
        own = self._sampling_params
        params = {"job": own}
        if any(attempt.sampling != "job" for attempt in attempts):
            params["card"] = replace(card_sampling_params(self._card), stop_loops=self._settings.stop_loops)
            params["penalty"] = replace(own, repetition_penalty=max(PENALTY, own.repetition_penalty))
        requests = []
        for prompt, attempt in zip(prompts, attempts or [FIRST] * len(prompts), strict=True):
            sampling_params = params[attempt.sampling]
            # greedy decoding draws nothing
            seed = (
                row_seed(self._seed, prompt.row_id, prompt.segment.index, attempt.number)
                if sampling_params.do_sample
                else 0
            )
            limit = max_new_tokens(self._settings, self._max_context, prompt)
            requests.append(Request(prompt.ids, limit, seed, sampling_params))
        return requests

    def take_degraded(self) -> tuple[str, ...]:
        """Return and clear deviations, such as split batches, since the last call, for the part's header."""
        uncaptured = self._settings.capture and not self.engine.environment.get("capture")
        return (*self.engine.take_degraded(), *((NOT_CAPTURED,) if uncaptured else ()))

    def _make_translation(self, prompt: Prompt, completion: Completion, text: str, attempt: int) -> Translation:
        finish_reason, message = completion.finish_reason, ""
        if finish_reason == "memory":
            message = (
                f"{len(prompt.ids)} prompt tokens do not fit in the memory of {self.engine.device}, even as the only "
                "row"
            )
            return Translation(prompt, "", "error", message=message, attempt=attempt)
        if finish_reason == "non_finite":
            message = "the network returned NaN or infinity"
        return Translation(
            prompt,
            text,
            finish_reason,
            num_new_tokens=len(completion.ids),
            flags=("control_token",) if self._tokenizer.has_control_ids(completion.ids) else (),
            message=message,
            attempt=attempt,
            mean_logprob=completion.mean_logprob,
        )


@contextmanager
def _raise_device_errors() -> Iterator[None]:
    """Raise DeviceError for an error that leaves the GPU's context unusable; the process must be restarted."""
    try:
        yield
    except RuntimeError as error:
        if not is_gpu_failure(error) or is_out_of_memory(error):
            raise
        raise DeviceError(
            f"The GPU failed ({first_line(error)})", fix="Run the same command again to continue."
        ) from error
