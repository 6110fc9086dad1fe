"""Settings of the processes of a job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.launch.scheduler_settings import SchedulerConfig
from hymt_batch.setting import Environment, Operation

MAX_SAMPLES = 1000


class IfHeld(Enum):
    """What to do if another run works in the folder."""

    fail = "fail"  # exit 5
    wait = "wait"  # until it has ended


class ProgressMode(Enum):
    """How progress is shown on stderr."""

    auto = "auto"  # a bar on a terminal, log lines elsewhere
    bar = "bar"
    log = "log"
    off = "off"


class LogDetail(Enum):
    """Which lines of the log are also written to stderr."""

    parts = "parts"  # all, also a line for each part and each file
    summary = "summary"  # progress lines in place of them, and repeated warnings are counted


@dataclass(kw_only=True, slots=True)
class LaunchConfig(SchedulerConfig):
    """How the job runs; only num_threads can change a translation, by rounding. conf/launch/ explains every field."""

    grace_s: Operation[float] = 25.0
    lease_ttl_s: Operation[float] = 180.0
    lease_beat_s: Operation[float] = 20.0
    prefetch_shards: Operation[int] = 1
    progress: Operation[ProgressMode] = ProgressMode.auto
    log_every_s: Operation[float] = 30.0
    log_detail: Operation[LogDetail] = LogDetail.parts
    keep_logs: Operation[int | None] = 100
    samples: Operation[int] = 3
    num_threads: Environment[int | None] = None
    workers: Operation[Any] = "auto"
    vllm_python: Operation[str | None] = None
    hang_s: Operation[float] = 1800.0
    if_held: Operation[IfHeld] = IfHeld.fail
    report: Operation[bool] = True
    on_success: Operation[str | None] = None
    on_failure: Operation[str | None] = None
    hook_timeout_s: Operation[float] = 60.0
    metrics_file: Operation[str | None] = None

    def __post_init__(self) -> None:
        self._check_hooks()
        self.check_scheduler()
        for name in ("grace_s", "log_every_s"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"launch.{name}={getattr(self, name)} is negative", fix=f"Set launch.{name}=0 or more seconds."
                )
        for name in ("prefetch_shards", "samples"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"launch.{name}={getattr(self, name)} is negative", fix=f"Set launch.{name}=0 or more."
                )
        if self.keep_logs is not None and self.keep_logs < 0:
            raise ConfigError(
                f"launch.keep_logs={self.keep_logs} is negative",
                fix="Set launch.keep_logs=100 (the default), or launch.keep_logs=null to keep all.",
            )
        if self.samples > MAX_SAMPLES:
            raise ConfigError(
                f"launch.samples={self.samples} is more than {MAX_SAMPLES}, the limit",
                fix="Set launch.samples=3 (the default); every translation is in the output.",
            )
        if self.lease_ttl_s <= 0:
            raise ConfigError(
                f"launch.lease_ttl_s={self.lease_ttl_s} must be above 0",
                fix="Set launch.lease_ttl_s=180 (the default).",
            )
        if not 0 < self.lease_beat_s <= self.lease_ttl_s / 3:
            raise ConfigError(
                f"launch.lease_beat_s={self.lease_beat_s} must be above 0 and at most a third of "
                f"launch.lease_ttl_s={self.lease_ttl_s}",
                why="a late heartbeat must not end the lease",
                fix=f"Set launch.lease_beat_s={self.lease_ttl_s / 9:g}.",
            )
        if self.workers != "auto" and (type(self.workers) is not int or self.workers < 1):
            raise ConfigError(
                f"launch.workers={self.workers} is neither auto nor a number of processes from 1",
                fix="Set launch.workers=auto.",
            )
        if self.hang_s <= 0:
            raise ConfigError(f"launch.hang_s={self.hang_s} must be above 0 seconds", fix="Set launch.hang_s=1800.")
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(
                f"launch.num_threads={self.num_threads} must be at least 1",
                fix="Set launch.num_threads=null to leave the choice to torch.",
            )

    def _check_hooks(self) -> None:
        if not 0 < self.hook_timeout_s <= 86400:
            raise ConfigError(
                f"launch.hook_timeout_s={self.hook_timeout_s} must be above 0 and at most 86400 seconds",
                why="the job ends only after the command",
                fix="Set launch.hook_timeout_s=60 (the default).",
            )
        for name in ("on_success", "on_failure", "metrics_file"):
            value = getattr(self, name)
            if value is not None and (not value.strip() or "\0" in value):
                raise ConfigError(f"launch.{name} is empty", fix=f"Set launch.{name}=null (the default).")
