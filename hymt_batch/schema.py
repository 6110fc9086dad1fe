"""The settings of each job, as dataclasses composed of those of the stages. Does not use Hydra and reads no file.

conf/<job>.yaml documents every field and its default.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hymt_batch.batch import BatchConfig
from hymt_batch.check.settings import RETRIED_FLAGS, RETRIED_STATUSES, CheckConfig, selected_words
from hymt_batch.decode import registry
from hymt_batch.decode.registry import InBenchmark
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.device_map.settings import DeviceMapConfig
from hymt_batch.errors import ConfigError
from hymt_batch.evaluate import settings as evaluate_settings
from hymt_batch.evaluate.settings import BleuTokenizer, MetricName
from hymt_batch.launch.settings import LaunchConfig
from hymt_batch.model.settings import ModelConfig
from hymt_batch.model.synthetic import Shape
from hymt_batch.prompt import PromptConfig
from hymt_batch.segment import SegmentConfig
from hymt_batch.setting import Identity, Operation
from hymt_batch.shard import ShardConfig
from hymt_batch.source.settings import SourceConfig
from hymt_batch.tracking.settings import TrackingConfig
from hymt_batch.write.settings import WriteConfig

MAX_PART_S = 300.0


class OnMismatch(Enum):
    """What to do if the folder's job was started with other settings."""

    refuse = "refuse"
    keep = "keep"
    fork = "fork"


class OnInputChange(Enum):
    """What to do if rows that are already translated have changed."""

    refuse = "refuse"
    redo = "redo"
    update = "update"
    fork = "fork"

    @property
    def is_accepted(self) -> bool:
        """True if changed inputs are translated again in the same folder."""
        return self in (OnInputChange.redo, OnInputChange.update)


class BenchDtype(Enum):
    """Dtypes that a benchmark can measure."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class ReportFormat(Enum):
    """Format of a printed report."""

    text = "text"
    json = "json"


@dataclass(kw_only=True, slots=True)
class PipelineJob:
    """Settings shared by the jobs that translate or that examine what a translation would do."""

    name: Operation[str | None] = None
    src_lang: Identity[str | None] = None
    output_dir: Operation[str] = "outputs"
    overwrite: Operation[bool] = False
    on_mismatch: Operation[OnMismatch] = OnMismatch.refuse
    on_input_change: Operation[OnInputChange] = OnInputChange.refuse
    strict: Operation[bool] = False
    seed: Identity[int] = 0
    source: SourceConfig
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig
    device_map: DeviceMapConfig = field(default_factory=DeviceMapConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    write: WriteConfig = field(default_factory=WriteConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def add_generation_prompt(self) -> bool:
        """True if prompts end with the assistant's token; the only place that decides this."""
        return self.prompt.adds_generation_prompt(self.model.add_generation_prompt)

    @property
    def model_settings(self) -> object:
        """What decides how a model is loaded; jobs for which it is equal can share a loaded one."""
        return self.model, self.device_map, self.launch.num_threads, self.launch.workers, self.add_generation_prompt


@dataclass(kw_only=True, slots=True)
class TranslateJob(PipelineJob):
    """Settings of `hymt-batch translate`; documented in conf/translate.yaml."""

    tgt_lang: Identity[str]
    shard: ShardConfig = field(default_factory=ShardConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def check_request(self) -> None:
        """Check the settings of a job that a user asks for; a pass of `retry` may have a model that only refines.

        Raises:
            ConfigError: It has no input, or its model cannot translate a text directly.
        """
        if self.source.path is None:
            raise ConfigError(
                "source.path is null", fix="Set source.path to a file, a folder, a glob, a hub id, or - for stdin."
            )
        self.model.check_translates()


@dataclass(kw_only=True, slots=True)
class PrepareJob(TranslateJob):
    """Settings of `hymt-batch prepare`; documented in conf/prepare.yaml."""

    devices: Operation[Any] = None
    part_s: Operation[float] = 20.0

    def __post_init__(self) -> None:
        if not 1 <= self.part_s <= MAX_PART_S:
            raise ConfigError(
                f"part_s={self.part_s} must be between 1 and {MAX_PART_S:g} seconds",
                why="what a task was decoding is lost if it is killed",
                fix="Set part_s=20 (the default), or more for thousands of tasks.",
            )


@dataclass(kw_only=True, slots=True)
class PlanJob(PipelineJob):
    """Settings of `hymt-batch plan`; documented in conf/plan.yaml."""

    tgt_lang: Identity[str | None] = None
    devices: Operation[Any] = None
    probe: Operation[bool] = False
    probe_s: Operation[float] = 60.0
    sample_rows: Operation[int] = 50_000
    format: Operation[ReportFormat] = ReportFormat.text

    def __post_init__(self) -> None:
        if self.probe_s <= 0:
            raise ConfigError(f"probe_s={self.probe_s} must be above 0 seconds", fix="Set probe_s=60 (the default).")
        if self.sample_rows < 1:
            raise ConfigError(f"sample_rows={self.sample_rows} must be at least 1 row", fix="Set sample_rows=50000.")
        if self.probe and self.devices is not None:
            raise ConfigError(
                "probe=true measures this machine, but devices= simulates another", fix="Drop one of the two."
            )
        if self.probe:
            self.model.check_translates()
        if self.probe and (self.source.path is None or self.tgt_lang is None):
            missing = "source.path=FILE" if self.source.path is None else "tgt_lang=fr"
            raise ConfigError("probe=true translates a sample and needs an input and a language", fix=f"Add {missing}.")


@dataclass(kw_only=True, slots=True)
class DoctorJob(PipelineJob):
    """Settings of `hymt-batch doctor`; documented in conf/doctor.yaml."""

    tgt_lang: Identity[str | None] = None
    devices: Operation[Any] = None
    load: Operation[bool] = False
    explain: Operation[str | None] = None
    format: Operation[ReportFormat] = ReportFormat.text

    def __post_init__(self) -> None:
        if self.load and self.devices is not None:
            raise ConfigError(
                "load=true loads on this machine, but devices= simulates another", fix="Drop one of the two."
            )


@dataclass(kw_only=True, slots=True)
class BenchJob:
    """Settings of `hymt-batch bench`; documented in conf/bench.yaml."""

    shape: Operation[Shape] = Shape.mid
    dtype: Operation[BenchDtype] = BenchDtype.float32
    segments: Operation[int] = 192
    rounds: Operation[int] = 3
    max_rows: Operation[int] = 64
    generate_rows: Operation[int] = 32
    compare_rows: Operation[int] = 24
    num_threads: Operation[int | None] = None
    engines: Operation[Any] = None
    vllm_python: Operation[str | None] = None
    part_rows: Operation[int | None] = None
    device: Operation[str] = "cpu"
    read_every: Operation[int] = 1
    seed: Operation[int] = 20261124
    format: Operation[ReportFormat] = ReportFormat.text

    def __post_init__(self) -> None:
        counts = ("segments", "rounds", "max_rows", "generate_rows", "compare_rows", "part_rows", "read_every")
        for key in (*counts, "num_threads"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1", fix="Drop it to use the default.")
        if not re.fullmatch(r"cpu|cuda:[0-9]+", self.device):
            raise ConfigError(f"device={self.device} is not a device", fix="Set device=cpu or device=cuda:0.")
        if self.engines is not None:
            self.engines = [self.engines] if isinstance(self.engines, str) else [str(engine) for engine in self.engines]
            choices = registry.benchmark_choices(InBenchmark.default, InBenchmark.on_request)
            if unknown := [engine for engine in self.engines if engine not in choices]:
                known = ", ".join(choices)
                raise ConfigError(
                    f"engines={unknown[0]} is not an engine", fix=f"Set engines to one or more of {known}."
                )


@dataclass(kw_only=True, slots=True)
class InspectJob:
    """Settings shared by the jobs that examine the folder of a job."""

    name: Operation[str]
    output_dir: Operation[str] = "outputs"
    format: Operation[ReportFormat] = ReportFormat.text


@dataclass(kw_only=True, slots=True)
class StatusJob(InspectJob):
    """Settings of `hymt-batch status`; documented in conf/status.yaml."""

    errors: Operation[int] = 0
    fail: Operation[bool] = False
    max_error_rate: Operation[float | None] = None

    def __post_init__(self) -> None:
        if self.max_error_rate is not None and not 0 <= self.max_error_rate <= 1:
            raise ConfigError(
                f"max_error_rate={self.max_error_rate} is not a share of the rows",
                fix="Set max_error_rate=0.01, or another value from 0 to 1.",
            )
        if self.errors < 0:
            raise ConfigError(f"errors={self.errors} must be at least 0 rows", fix="Set errors=20.")


@dataclass(kw_only=True, slots=True)
class MissingJob(InspectJob):
    """Settings of `hymt-batch missing`; documented in conf/missing.yaml."""

    per_task: Operation[int] = 1

    def __post_init__(self) -> None:
        if self.per_task < 1:
            raise ConfigError(f"per_task={self.per_task} must be at least 1 shard", fix="Set per_task=1.")


@dataclass(kw_only=True, slots=True)
class MergeJob(InspectJob):
    """Settings of `hymt-batch merge`; documented in conf/merge.yaml."""


@dataclass(kw_only=True, slots=True)
class RetryJob(InspectJob):
    """Settings of `hymt-batch retry`; documented in conf/retry.yaml. Stages that are not set are those of the job."""

    statuses: Operation[Any] = None
    flags: Operation[Any] = None
    inputs: Operation[Any] = None
    candidates: Operation[Any] = None
    overwrite: Operation[bool] = False
    strict: Operation[bool] = False
    seed: Identity[int] = 0
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig
    device_map: DeviceMapConfig = field(default_factory=DeviceMapConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self) -> None:
        self.statuses = selected_words("statuses", self.statuses, RETRIED_STATUSES)
        self.flags = selected_words("flags", self.flags, RETRIED_FLAGS)
        paths = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        if self.inputs is not None and not all(isinstance(path, str) and path for path in paths):
            raise ConfigError(f"inputs={self.inputs} is not a path", fix="Set inputs=PATH as you set source.path=.")
        if self.candidates is not None:
            names = self.candidates if isinstance(self.candidates, list) else [self.candidates]
            if not names or not all(isinstance(name, str) and name for name in names):
                raise ConfigError(
                    f"candidates={self.candidates} is not a list of jobs", fix="Set candidates=[NAME,...]."
                )
            self.candidates = names
            if not self.model.refines:
                raise ConfigError(
                    "candidates= is for a model that makes one translation of several",
                    why=f"model.family={self.model.family.value} translates each row from its source alone",
                    fix="Add model=hunyuan_mt_chimera_7b, or drop candidates=.",
                )


@dataclass(kw_only=True, slots=True)
class VerifyJob(InspectJob):
    """Settings of `hymt-batch verify`; documented in conf/verify.yaml."""

    inputs: Operation[Any] = False

    def __post_init__(self) -> None:
        paths = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        if not isinstance(self.inputs, bool) and not all(isinstance(path, str) and path for path in paths):
            raise ConfigError(
                f"inputs={self.inputs} is not a path", fix="Set inputs=true, or inputs=PATH as you set source.path=."
            )


@dataclass(kw_only=True, slots=True)
class EvaluateJob(InspectJob):
    """Settings of `hymt-batch evaluate`; documented in conf/evaluate.yaml."""

    references: Operation[str]
    references_field: Operation[Any] = None
    references_id: Operation[str | None] = None
    references_encoding: Operation[str] = "utf-8"
    inputs: Operation[Any] = None
    metrics: Operation[Any] = None
    bleu_tokenize: Operation[BleuTokenizer] = BleuTokenizer.auto
    baseline: Operation[str | None] = None
    bootstrap: Operation[int] = 1000
    seed: Operation[int] = 12345
    scorer: Operation[str | None] = None
    scorer_timeout_s: Operation[float] = 3600.0

    def __post_init__(self) -> None:
        evaluate_settings.check_numbers(self.bootstrap, self.seed, self.scorer_timeout_s)
        self.metrics = [name.value for name in evaluate_settings.metric_names(self.metrics)]
        self.inputs = evaluate_settings.as_paths(self.inputs)
        evaluate_settings.check_scorer(self.scorer)

    @property
    def metric_names(self) -> list[MetricName]:
        return evaluate_settings.metric_names(self.metrics)

    @property
    def input_paths(self) -> list[str]:
        return list(self.inputs or ())


@dataclass(kw_only=True, slots=True)
class ReproduceJob:
    """Settings of `hymt-batch reproduce`; documented in conf/reproduce.yaml."""

    name: Operation[str | None] = None
    manifest: Operation[str | None] = None
    output_dir: Operation[str] = "outputs"
    format: Operation[ReportFormat] = ReportFormat.text
    rows: Operation[Any] = 20
    seed: Operation[int] = 1
    inputs: Operation[Any] = None
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def __post_init__(self) -> None:
        if (self.name is None) == (self.manifest is None):
            both = "both are set" if self.name is not None else "neither is set"
            raise ConfigError(
                f"name= or manifest= is needed, and {both}",
                fix="Set name=NAME, or manifest=outputs/NAME/manifest.json.",
            )
        if self.manifest is not None and Path(self.manifest).name != "manifest.json":
            raise ConfigError(
                f"manifest={self.manifest} is not a manifest.json", fix="Set manifest=outputs/NAME/manifest.json."
            )
        if self.rows != "all" and (isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1):
            raise ConfigError(
                f"rows={self.rows} is not a number of rows", fix="Set rows=20 (the default), or rows=all."
            )
        self.inputs = evaluate_settings.as_paths(self.inputs)

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return Path(self.manifest).parent if self.manifest is not None else Path(self.output_dir) / str(self.name)

    @property
    def num_rows(self) -> int | None:
        """How many rows are drawn; None for all."""
        return None if self.rows == "all" else int(self.rows)

    @property
    def input_paths(self) -> list[str]:
        return list(self.inputs or ())


@dataclass(kw_only=True, slots=True)
class CompareJob:
    """Settings of `hymt-batch compare`; documented in conf/compare.yaml."""

    name: Operation[str | None] = None
    names: Operation[Any] = None
    output_dir: Operation[str] = "outputs"
    format: Operation[ReportFormat] = ReportFormat.text
    baseline: Operation[str | None] = None
    out: Operation[str | None] = None

    def __post_init__(self) -> None:
        if (self.name is None) == (self.names is None):
            both = "both are set" if self.name is not None else "neither is set"
            raise ConfigError(f"name= or names= is needed, and {both}", fix="Set name=SWEEP, or names=[A,B].")
        if self.names is not None:
            names = self.names if isinstance(self.names, (list, tuple)) else [self.names]
            if not names or not all(names):
                raise ConfigError(f"names={self.names} names no job", fix="Set names=[A,B].")
            self.names = [str(name) for name in names]
        if self.out is not None and not Path(self.out).name:
            raise ConfigError(f"out={self.out!r} is not a file", fix="Set out=comparison.csv, or drop it.")


@dataclass(kw_only=True, slots=True)
class ReportJob(InspectJob):
    """Settings of `hymt-batch report`; documented in conf/report.yaml."""


@dataclass(kw_only=True, slots=True)
class CardJob(InspectJob):
    """Settings of `hymt-batch card`; documented in conf/card.yaml."""

    licence: Operation[str | None] = None
    about: Operation[str | None] = None


@dataclass(kw_only=True, slots=True)
class LanguagesJob:
    """Settings of `hymt-batch languages`; documented in conf/languages.yaml."""

    format: Operation[ReportFormat] = ReportFormat.text


@dataclass(kw_only=True, slots=True)
class FormatsJob:
    """Settings of `hymt-batch formats`; documented in conf/formats.yaml."""

    format: Operation[ReportFormat] = ReportFormat.text


JOBS: dict[str, type] = {
    "translate": TranslateJob,
    "prepare": PrepareJob,
    "missing": MissingJob,
    "merge": MergeJob,
    "retry": RetryJob,
    "plan": PlanJob,
    "doctor": DoctorJob,
    "bench": BenchJob,
    "status": StatusJob,
    "verify": VerifyJob,
    "evaluate": EvaluateJob,
    "reproduce": ReproduceJob,
    "report": ReportJob,
    "card": CardJob,
    "compare": CompareJob,
    "languages": LanguagesJob,
    "formats": FormatsJob,
}
"""Job name -> its dataclass; conf/<name>.yaml has its defaults."""

OPTIONAL_SETTINGS = {"plan": ("source.path",), "doctor": ("source.path",)}
"""Settings that a stage requires but that these jobs do not need: None if not set."""
