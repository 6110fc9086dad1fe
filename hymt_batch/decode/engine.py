"""Decode the prompts of a part: batches in, one translation per prompt out.

When memory runs out, a batch is split in half and decoded again; a row that does not fit alone becomes an error row.
Nothing here depends on time or on what was decoded earlier, so a part's text is the same wherever it is decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hymt_batch import languages
from hymt_batch.decode import cuda_graph_runner, self_check
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.generate import Completion, decode_batch
from hymt_batch.decode.sampling import SamplingParams, row_seed
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.settings import DecodeConfig, Engine, card_sampling_params, num_stages, resolve_sampling_params
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.errors import DeviceError
from hymt_batch.model import attention
from hymt_batch.model.memory import empty_cache, is_out_of_memory
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.settings import RecommendedSampling
from hymt_batch.records import Prompt, Translation

log = logging.getLogger(__name__)


class Decoder:
    """The engine with all settings of a run resolved; `run` decodes one part."""

    def __init__(
        self,
        hymt: LoadedModel,
        settings: DecodeConfig,
        make_batches: Callable[[Sequence[int]], Iterable[list[int]]],
        *,
        seed: int,
        check_stop: Callable[[], None],
        on_batch: Callable[[int, int], None] = lambda rows, tokens: None,
        decode_fn: Callable[..., list[Completion]] | None = None,
        card: RecommendedSampling | None = None,
        max_rows: int = 64,
        max_tokens: int = 16_384,
        logprobs: bool = False,
    ) -> None:
        """Resolve the settings of a run.

        Args:
            hymt: The loaded model.
            settings: How text is generated.
            make_batches: Maps row lengths in tokens to batches of row indices, the longest rows first.
            seed: The job's seed.
            check_stop: Raises when the job must end at once.
            on_batch: Called with the number of rows and of new tokens after each batch.
            decode_fn: Decodes one batch in place of the engine; tests pass a small real decoder.
            card: The model card's sampling parameters, used for fields that `settings` leaves unset.
            max_rows: Maximum number of slots.
            max_tokens: Maximum number of tokens of keys and values, over all slots.
            logprobs: True to give each translation the mean log-probability of its tokens; slots engine only.
        """
        self.hymt, self.settings, self.make_batches, self.seed = hymt, settings, make_batches, seed
        self.check_stop, self.on_batch = check_stop, on_batch
        self.engine = settings.engine
        if self.engine is Engine.auto:
            self.engine = Engine.slots if hymt.device == "cpu" else Engine.generate
        self.by_batch = decode_fn is not None or self.engine is Engine.generate
        self.decode_fn = decode_fn or decode_batch
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.logprobs, self.stages = logprobs, num_stages(settings, hymt)
        self.counters = Counters()
        self.sampling_params = resolve_sampling_params(settings, card or RecommendedSampling())
        self.card = card or RecommendedSampling()
        self._degraded: list[str] = []
        self.graph_runner = self._make_graph_runner() if settings.capture else None

    def _make_graph_runner(self) -> CudaGraphRunner | None:
        """Make the runner of captured steps; if they cannot be captured, warn and return None."""
        reason = cuda_graph_runner.unsupported_reason(self.hymt, self.stages)
        if self.by_batch:
            reason = f"it requires decode.engine=slots, and this run uses {self.engine.value}"
        if not reason:
            return CudaGraphRunner(self.hymt, self.sampling_params)
        log.warning("decode.capture=true has no effect: %s", reason)
        return None

    def self_check(self) -> None:
        """Compare the slot engine with `generate` on the canary prompts, and fall back to `generate` if they differ.

        Only in float32: in other formats rounding alone may change a token when two are about equally likely. Captured
        steps are compared with plain steps in every number format, and on GPUs the engine's attention is compared with
        torch's math backend.

        Raises:
            PreflightError: The attention gives different tokens (E26).
        """
        if self.by_batch:
            return
        if self.hymt.placement and attention.all_on_gpu(self.hymt.placement.devices):
            self_check.check_attention(self.hymt)
        if self.hymt.dtype == "float32" and not self_check.matches_generate(
            self.hymt, self.max_rows, self.max_tokens, self.check_stop
        ):
            log.warning("decode.engine=slots and generate disagree on the canary prompts; using generate")
            self.engine, self.by_batch, self.graph_runner = Engine.generate, True, None
        if self.graph_runner is not None:
            self._self_check_graphs(self.graph_runner)
            self._drop_disabled_runner()

    def _self_check_graphs(self, graph_runner: CudaGraphRunner) -> None:
        try:
            agrees = self_check.graphs_match_steps(
                graph_runner, self.sampling_params, self.settings.read_every, self.check_stop
            )
            if not agrees and not graph_runner.disabled_reason:
                graph_runner.disable("captured and plain steps disagree on the canary prompts")
        except RuntimeError as error:  # capture fails with many kinds of errors; the engine works without it too
            if "CUDA error" in str(error):
                raise DeviceError(
                    f"The GPU failed ({str(error).splitlines()[0]}). Set decode.capture=false."
                ) from error
            graph_runner.disable(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _drop_disabled_runner(self) -> None:
        """Drop a runner whose capture was turned off; capture is not tried again."""
        if self.graph_runner is not None and self.graph_runner.disabled_reason:
            self.graph_runner.release()
            self.graph_runner = None

    def run(self, prompts: Sequence[Prompt], attempt: int = 0) -> list[Translation]:
        """Decode prompts.

        Args:
            prompts: Prompts of a part.
            attempt: 0 for the first try; later tries use the model card's sampling and a different seed.

        Returns:
            One translation per prompt, in the order of the prompts.

        Raises:
            StoppedError: The job must end at once; the results of these prompts are discarded.
        """
        sampling_params = (
            self.sampling_params
            if attempt == 0
            else replace(card_sampling_params(self.card), stop_loops=self.settings.stop_loops)
        )
        limits = [self._max_new_tokens(prompt) for prompt in prompts]
        if not self.by_batch:
            return self._decode_in_slots(prompts, limits, sampling_params, attempt)
        translations: dict[int, Translation] = {}
        waiting = list(self.make_batches([len(p.ids) + n for p, n in zip(prompts, limits, strict=True)]))[::-1]
        while waiting:
            self.check_stop()
            indices = waiting.pop()
            completions = self._try_batch(prompts, limits, indices, sampling_params, attempt)
            if completions is None and len(indices) > 1:
                half = (len(indices) + 1) // 2
                waiting += [indices[half:], indices[:half]]
                self._degraded.append("oom_split")
                log.warning("out of memory rows=%d: splitting the batch in half", len(indices))
            elif completions is None:
                translations[indices[0]] = self._out_of_memory_translation(prompts[indices[0]], attempt)
            else:
                for index, translation in zip(
                    indices, self._to_translations(prompts, indices, completions, attempt), strict=True
                ):
                    translations[index] = translation
                self.on_batch(len(indices), sum(len(row.ids) for row in completions))
        return [translations[index] for index in range(len(prompts))]

    def _decode_in_slots(
        self, prompts: Sequence[Prompt], limits: Sequence[int], sampling_params: SamplingParams, attempt: int
    ) -> list[Translation]:
        seeds = self._seeds(prompts, sampling_params, attempt)
        with _raise_device_errors():
            completions, degraded = decode_prompts(
                self.hymt,
                [prompt.ids for prompt in prompts],
                limits,
                seeds,
                sampling_params,
                self.check_stop,
                max_rows=self.max_rows,
                max_tokens=self.max_tokens,
                stages=self.stages,
                read_every=self.settings.read_every,
                logprobs=self.logprobs,
                graph_runner=self.graph_runner,
                on_finished=self.on_batch,
                counters=self.counters,
            )
        self._drop_disabled_runner()
        if degraded:
            self._degraded.append("oom_split")
            log.warning("out of memory: continued with fewer rows at a time")
        translations = self._to_translations(prompts, range(len(prompts)), completions, attempt)
        return [
            self._out_of_memory_translation(prompt, attempt) if completion.finish_reason == "memory" else translation
            for prompt, completion, translation in zip(prompts, completions, translations, strict=True)
        ]

    def _out_of_memory_translation(self, prompt: Prompt, attempt: int) -> Translation:
        message = (
            f"{len(prompt.ids)} prompt tokens do not fit in the memory of {self.hymt.device}, even as the only row"
        )
        return Translation(prompt, "", "error", message=message, attempt=attempt)

    def take_degraded(self) -> tuple[str, ...]:
        """Return and clear deviations, such as split batches, since the last call, for the part's header."""
        uncaptured = [cuda_graph_runner.NOT_CAPTURED] if self.settings.capture and self.graph_runner is None else []
        degraded, self._degraded = tuple(dict.fromkeys(self._degraded + uncaptured)), []
        return degraded

    def _seeds(self, prompts: Sequence[Prompt], sampling_params: SamplingParams, attempt: int) -> list[int]:
        """Return the seed of each row; all 0 for greedy decoding, which draws nothing."""
        if not sampling_params.do_sample:
            return [0] * len(prompts)
        return [row_seed(self.seed, prompt.row_id, prompt.segment.index, attempt) for prompt in prompts]

    def _max_new_tokens(self, prompt: Prompt) -> int:
        """Return a row's limit of new tokens, from its source length, its target language and the model's context."""
        expansion = languages.get(prompt.tgt_lang).expansion
        limit = int(prompt.num_source_tokens * self.settings.new_tokens_ratio * expansion)
        limit = min(limit + self.settings.new_tokens_extra, self.settings.max_new_tokens)
        return max(1, min(limit, self.hymt.max_context - len(prompt.ids)))

    def _try_batch(
        self,
        prompts: Sequence[Prompt],
        limits: Sequence[int],
        indices: Sequence[int],
        sampling_params: SamplingParams,
        attempt: int,
    ) -> list[Completion] | None:
        """Decode one batch; return None if it does not fit in memory."""
        batch = [prompts[index] for index in indices]
        seeds = self._seeds(batch, sampling_params, attempt)
        try:
            with _raise_device_errors():
                return self.decode_fn(
                    self.hymt,
                    [prompt.ids for prompt in batch],
                    [limits[index] for index in indices],
                    seeds,
                    sampling_params,
                    self.check_stop,
                )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # outside the except block, because the traceback would keep the tensors alive
        empty_cache(self.hymt.device)
        return None

    def _to_translations(
        self, prompts: Sequence[Prompt], indices: Sequence[int], completions: Sequence[Completion], attempt: int
    ) -> list[Translation]:
        texts = self.hymt.tokenizer.decode([row.ids for row in completions])
        return [
            Translation(
                prompts[index],
                text,
                row.finish_reason,
                num_new_tokens=len(row.ids),
                flags=("control_token",) if self.hymt.tokenizer.has_control_ids(row.ids) else (),
                message="the network returned NaN or infinity" if row.finish_reason == "non_finite" else "",
                attempt=attempt,
                mean_logprob=row.mean_logprob,
            )
            for index, row, text in zip(indices, completions, texts, strict=True)
        ]


@contextmanager
def _raise_device_errors() -> Iterator[None]:
    """Raise DeviceError for an error that leaves the GPU's context unusable; the process must be restarted."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" not in str(error) or is_out_of_memory(error):
            raise
        raise DeviceError(
            f"The GPU failed ({str(error).splitlines()[0]}). Run the same command again to continue."
        ) from error
