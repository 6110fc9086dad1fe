"""Settings of the tracking of completed jobs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hymt_batch.errors import ConfigError
from hymt_batch.setting import Operation


class TrackerName(Enum):
    """Where completed jobs are recorded."""

    none = "none"
    csv = "csv"
    mlflow = "mlflow"


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where a job is recorded when it is complete; conf/tracking/ explains every field."""

    tracker: Operation[TrackerName] = TrackerName.none
    file: Operation[str] = "tracking.csv"
    uri: Operation[str] = "sqlite:///mlflow.db"
    experiment: Operation[str] = "hymt-batch"
    timeout_s: Operation[float] = 10.0

    def __post_init__(self) -> None:
        for name in ("file", "uri", "experiment"):
            if not getattr(self, name):
                raise ConfigError(f"tracking.{name} is empty", fix=f"Drop tracking.{name}= to use the default.")
        if not 1 <= self.timeout_s <= 3600:
            raise ConfigError(
                f"tracking.timeout_s={self.timeout_s} must be between 1 and 3600 seconds",
                fix="Set tracking.timeout_s=10.",
            )
        if self.tracker is TrackerName.mlflow and self.uri.startswith(("file:", "/", ".")):
            raise ConfigError(
                f"tracking.uri={self.uri} is a folder, which mlflow no longer accepts",
                fix="Set tracking.uri=sqlite:///mlflow.db, or the address of a server.",
            )
