"""One complete model with its engine, which translates the prompts of a part: in this process or in a worker process.

Independent of where the prompts come from and of where the translations go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from hymt_batch import prompt
from hymt_batch.check import ladder, retry
from hymt_batch.code_prompt import CodePrompts
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.engine import Engine, EngineContext, open_engine
from hymt_batch.decode.settings import resolve_sampling_params
from hymt_batch.records import Prompt, Translation

if TYPE_CHECKING:
    from hymt_batch.schema import PlanJob, TranslateJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _OpenedEngine:
    settings: object  # see `_engine_settings`
    context: EngineContext
    engine: Engine


def _engine_settings(job: TranslateJob | PlanJob) -> object:
    """Return what an engine is made from, besides the model; jobs for which it is equal can share an engine."""
    batch = job.batch.max_rows, job.batch.max_tokens
    return job.decode, job.model.sampling, batch, job.check.needs_logprobs, job.launch.vllm_python


_LOGGERS = (logging.getLogger("hymt_batch"), logging.getLogger("py.warnings"))
"""Loggers whose warnings a job counts."""


class _RecordedWarnings(logging.Handler):
    """Warnings that are logged once, when something is opened, and that every job that uses it must count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record what is logged inside the `with` block."""
        self._records.clear()
        for logger in _LOGGERS:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in _LOGGERS:
                logger.removeHandler(self)

    def replay(self) -> None:
        """Log the recorded warnings again."""
        for record in self._records:
            logging.getLogger(record.name).handle(record)


class Replica:
    """A loaded model that translates parts; other jobs with the same model can go on with it, one after the other."""

    def __init__(
        self,
        job: TranslateJob | PlanJob,
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
        self.model, self._tokenizer = model, tokenizer
        self._load = cache(partial(model.load, tokenizer))
        self._opened: _OpenedEngine | None = None
        self._warnings = _RecordedWarnings()
        self.use(job, check_stop=check_stop, on_batch=on_batch)

    def use(
        self, job: TranslateJob | PlanJob, *, check_stop: Callable[[], None], on_batch: Callable[[int, int], None]
    ) -> None:
        """Go on with a job whose settings of the model are the same, without loading the weights again.

        The engine is opened again, and checked, if the job has other settings of it. What was logged as a warning when
        model and engine were opened is logged for this job, too.

        Args:
            job: Its settings.
            check_stop: See `__init__`; replaces that of the job before.
            on_batch: See `__init__`; replaces that of the job before.
        """
        self._check_config, self._on_batch = job.check, on_batch
        settings = _engine_settings(job)
        if self._opened is not None and self._opened.settings == settings:
            self._warnings.replay()
        else:
            self.close()
            vars(self).pop("decoder", None)  # the memory of the engine before must be free for the next one
            with self._warnings.record():
                self._opened = self._open_engine(job, settings, check_stop)
        self.decoder = Decoder(
            self._opened.engine,
            self._opened.context,
            max_context=self.model.max_context,
            seed=job.seed,
            card=job.model.sampling,
            check_stop=check_stop,
        )
        template = prompt.make_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang or "en")
        self._code_prompts = CodePrompts(template, self._tokenizer, self.model.max_context)

    def _open_engine(
        self, job: TranslateJob | PlanJob, settings: object, check_stop: Callable[[], None]
    ) -> _OpenedEngine:
        context = EngineContext(
            load=self._load,
            model=self.model,
            tokenizer=self._tokenizer,
            settings=job.decode,
            sampling_params=resolve_sampling_params(job.decode, job.model.sampling),
            max_rows=job.batch.max_rows,
            max_tokens=job.batch.max_tokens,
            logprobs=job.check.needs_logprobs,
            python=job.launch.vllm_python,
            on_finished=lambda rows, tokens: self._on_batch(rows, tokens),
        )
        return _OpenedEngine(settings, context, open_engine(context, check_stop))

    def close(self) -> None:
        """Close the engine; the replica can only be used again by another call of `use`."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.engine.close()

    @property
    def environment(self) -> dict[str, Any]:
        """The resolved settings that may change a translation through rounding errors in low precision."""
        loaded = self.decoder.engine.loaded
        placement = loaded.placement if loaded else None
        return {
            **(self.model.environment_for(placement) if placement else self.model.environment),
            **self.decoder.engine.environment,
        }

    def translate(self, prompts: Sequence[Prompt]) -> list[Translation]:
        """Decode the prompts of a part, check the translations, and try those again that need it."""
        ladders = ladder.open_ladders(prompts, self._code_prompts, self._check_config)
        return retry.translate(
            prompts,
            self.decoder.run,
            self._check_config,
            ladders,
            self._code_prompts,
            is_greedy=not self.decoder.samples,
        )
