"""vLLM as an engine: our token ids, limits, end tokens and seeds, decoded by a process in vLLM's own interpreter.

vLLM needs other versions of torch and transformers than ours and changes transformers' classes when it is imported, so
it never runs in this process. Jobs run it in their worker processes: if it dies, the worker dies with it, and the
worker's unit is decoded again.

Not run on a GPU yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hymt_batch.decode import self_check
from hymt_batch.decode.batches import resolve_batch_budget
from hymt_batch.decode.engine import Engine, EngineContext, UnsupportedError
from hymt_batch.decode.request import Completion, Request, shared_sampling_params
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.vllm import options, parallel, process, reference
from hymt_batch.decode.vllm.parallel import Parallelism
from hymt_batch.decode.vllm.process import Installed, VllmProcess
from hymt_batch.device_map.settings import DeviceInventory
from hymt_batch.errors import PreflightError
from hymt_batch.model import attention, nvidia, padded_batch
from hymt_batch.model.detect_devices import torch_devices
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.prepare import PlacementPlan
from hymt_batch.model.settings import dtype_bytes

log = logging.getLogger(__name__)

NAME = "vllm"

MIN_RELEASE = (0, 32)
"""The oldest version of vLLM that was tried."""

ROPE_RELEASE = (0, 33)
"""The first version that reads the models' dynamic RoPE right when it compiles (vllm#57890)."""

SEED_MASK = (1 << 63) - 1


def open_engine(context: EngineContext) -> VllmEngine:
    """Make the engine; vLLM starts with the self-check.

    Raises:
        UnsupportedError: The model or its placement is not one that vLLM runs for us.
        PreflightError: launch.vllm_python has no vLLM.
    """
    if context.model is None:
        raise UnsupportedError("the weights have no files that vLLM could read")
    installed = process.probe(context.python)
    if reason := unsupported_version(installed) or unsupported_model(context.model.files):
        raise UnsupportedError(reason)
    model = context.model
    split = parallel.resolve(model.placement, model.network, model.files.config, model.dtype_bytes, torch_devices())
    return VllmEngine(context, model, installed, split)


def describe_draws(python: str | None) -> str:
    """Return what decides vLLM's draws, besides the device.

    Raises:
        PreflightError: The interpreter has no vLLM.
    """
    return f"{NAME} {process.probe(python).version}"


def place(plan: PlacementPlan, files: ModelFiles, inventory: DeviceInventory) -> tuple[PlacementPlan, Parallelism]:
    """Return a plan whose first placement is as vLLM runs it, and how it does.

    Raises:
        PreflightError: vLLM cannot run the model, or not as it is placed.
    """
    try:
        if reason := unsupported_model(files):
            raise UnsupportedError(reason)
        first, *others = plan.placements
        split = parallel.resolve(first, plan.network, files.config, dtype_bytes(plan.dtype), inventory)
    except UnsupportedError as error:
        raise PreflightError(f"decode.engine=vllm: {error}", fix="Set decode.engine=auto.") from None
    return replace(plan, placements=(split.placement, *others)), split


def unsupported_version(installed: Installed, setting: str = process.SETTING) -> str:
    """Return why the version of vLLM that a setting names is refused; empty if it is not."""
    if installed.release >= MIN_RELEASE:
        return ""
    oldest = ".".join(map(str, MIN_RELEASE))
    return f"{setting} has vLLM {installed.version}, and {oldest} is the oldest that was tried"


def unsupported_model(files: ModelFiles) -> str:
    """Return why vLLM cannot run a model, wherever it is placed; empty if it can."""
    if files.config["model_type"] != "hunyuan_v1_dense":
        return f"models of type {files.config['model_type']} were not tried with it"
    if files.quantisation:
        return f"weights in the format {files.quantisation} were not tried with it"
    return ""


def describe_rope(config: Mapping[str, Any], installed: Installed) -> str:
    """Return how this version of vLLM gets the RoPE of a model, for people."""
    if installed.release >= ROPE_RELEASE or not folded_rope(config):
        return "RoPE as the model's config.json says"
    return f"RoPE with alpha folded into the base, because vLLM before {'.'.join(map(str, ROPE_RELEASE))} misreads it"


def folded_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of RoPE that give the frequencies of a config with `alpha`; empty if it has none.

    Source: transformers, modeling_hunyuan_v1_dense.py: base * alpha ** (head_dim / (head_dim - 2)).
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not rope.get("alpha"):
        return {}
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = config.get("rope_theta") or rope["rope_theta"]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta * rope["alpha"] ** (size / (size - 2))}}


def rope_overrides(config: Mapping[str, Any], installed: Installed) -> dict[str, Any]:
    """Return the settings of RoPE that a version of vLLM must get instead of those of config.json; empty if none."""
    return folded_rope(config) if installed.release < ROPE_RELEASE else {}


class VllmEngine(Engine):
    """A process of vLLM, and what it is asked for; it starts when it is needed first."""

    def __init__(self, context: EngineContext, model: PreparedModel, installed: Installed, split: Parallelism) -> None:
        self.context, self._model, self._installed, self._split = context, model, installed, split
        self.device = model.placement.device.name
        self._cache_bytes_per_token = model.network.cache_bytes_per_token(model.dtype_bytes)
        self.budget = resolve_batch_budget(
            context.max_rows,
            context.max_tokens,
            self._cache_bytes_per_token,
            model.network.vocab_size,
            split.placement.predicted_cache_bytes(torch_devices()),
            model.on_gpu,
        )
        self.max_length = min(model.max_context, self.budget.max_tokens)  # of a row
        self._process: VllmProcess | None = None

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "engine": NAME,
            "stages": 1,
            "capture": self.context.settings.capture,
            "max_rows": self.budget.max_rows,
            "max_tokens": self.budget.max_tokens,
            **self._split.environment,
            **{
                name if name == NAME else f"vllm_{name}": self._installed.versions[name]
                for name in self._installed.names
            },
        }

    @property
    def options(self) -> dict[str, Any]:
        """The fields of vLLM's EngineArgs."""
        args = options.engine_args(
            str(self._model.files.folder),
            self._model.dtype,
            max_length=self.max_length,
            max_rows=self.budget.max_rows,
            cache_bytes=self._split.cache_bytes(
                options.cache_tokens(self.budget.max_tokens), self._cache_bytes_per_token
            ),
            rope=rope_overrides(self._model.files.config, self._installed),
            eager=not self.context.settings.capture,
        )
        return {**args, **self._split.options}

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its process: vLLM takes the first GPUs that it sees."""
        if not self._model.on_gpu:
            return self._split.variables
        return {**self._split.variables, **nvidia.visible_variables(self._model.placement.devices)}

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        """See `Engine.generate`; the longest rows start first."""
        fitting = [index for index, request in enumerate(requests) if request.max_length <= self.max_length]
        fitting.sort(key=lambda index: (-requests[index].max_length, index))
        completions = [Completion([], "memory") for _ in requests]
        if fitting:
            rows = [requests[index] for index in fitting]
            answers = self._decode(
                rows,
                shared_sampling_params(rows),
                self.context.tokenizer.stop_ids,
                check_stop,
                self.context.on_finished,
            )
            for index, (ids, finish_reason, mean_logprob, _) in zip(fitting, answers, strict=True):
                kept = mean_logprob if self.context.logprobs and finish_reason != "non_finite" else None
                completions[index] = Completion(ids, finish_reason, kept)
        return completions

    def _decode(
        self,
        requests: Sequence[Request],
        sampling_params: SamplingParams,
        stop_ids: Sequence[int],
        check_stop: Callable[[], None],
        on_finished: Callable[[int, int], None],
    ) -> list[process.Answer]:
        if self._process is None:
            self._process = self._start(check_stop)
        call = {
            "rows": [(list(row.prompt_ids), row.max_new_tokens, row.seed & SEED_MASK) for row in requests],
            "sampling": asdict(sampling_params),
            "stop_ids": list(stop_ids),
            "stop_loops": sampling_params.stop_loops,
        }
        return self._process.decode(call, check_stop, on_finished)

    def _start(self, check_stop: Callable[[], None]) -> VllmProcess:
        started = VllmProcess(self._installed.path, self.options, self._model.num_threads, self.variables)
        try:
            started.wait_until_ready(check_stop)
        except BaseException:
            started.close()
            raise
        return started

    def self_check(self, check_stop: Callable[[], None]) -> Engine:
        """Compare vLLM with our own network: 64 greedy tokens of 16 rows, each up to its end token.

        In float32 the tokens must be equal. In other formats, up to and including the first token that differs, both
        must have about the same log-probability.

        Raises:
            PreflightError: They disagree (E27), or vLLM cannot load the model.
        """
        prompts = padded_batch.prompts(self.context.tokenizer)
        expected = reference.answers(self._model, prompts, check_stop)
        requests = [Request(ids, attention.NUM_TOKENS, 0, GREEDY) for ids in prompts]
        answers = self._decode(requests, GREEDY, (), check_stop, lambda rows, tokens: None)
        dtype, stop_ids = self._model.dtype, self.context.tokenizer.stop_ids
        equal = 0
        for row, (ids, finish_reason, _, logprobs) in zip(expected, answers, strict=True):
            end = next((index for index, (token, _) in enumerate(row, 1) if token in stop_ids), len(row))
            actual = list(zip(ids, logprobs, strict=True))[:end] if finish_reason == "length" else []
            equal += [token for token, _ in row[:end]] == ids[:end]
            if not actual or not self_check.row_matches(
                row[:end], actual, exact=dtype == "float32", tolerance=self_check.TOLERANCE[dtype]
            ):
                raise PreflightError(
                    f"vLLM {self._installed.version} in {dtype} does not give the tokens of the reference",
                    why="Every translation could be wrong.",
                    fix="Set decode.engine=auto, and report this with the versions that `hymt-batch doctor` prints.",
                    id="E27",
                )
        log.info("vLLM %s agrees with the reference equal_rows=%d of %d", self._installed.version, equal, len(expected))
        return self

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
