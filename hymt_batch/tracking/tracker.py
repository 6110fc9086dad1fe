"""Choose the tracker of the settings, and record a completed job with it. A tracker that fails is a warning."""

from __future__ import annotations

import importlib
import logging

from hymt_batch.errors import first_line
from hymt_batch.tracking.settings import TrackerName, TrackingConfig
from hymt_batch.tracking.tracked_run import TrackedRun

log = logging.getLogger(__name__)

MODULES = {TrackerName.csv: "csv_file", TrackerName.mlflow: "mlflow_server"}
"""Tracker -> its module, which is imported when it is used."""


def record(run: TrackedRun, config: TrackingConfig) -> None:
    """Record a job; log a warning if that fails, because the job is complete all the same."""
    module = importlib.import_module(f"hymt_batch.tracking.{MODULES[config.tracker]}")
    try:
        module.record(run, config)
    except ImportError as error:
        log.warning(
            "tracking=%s: the job is not recorded: %s. Install it: pip install 'hymt-batch[%s]'",
            config.tracker.value, first_line(error), config.tracker.value,
        )  # fmt: skip
    except Exception as error:  # whatever a tracker's library raises: no row is lost, and the job is complete
        log.warning("tracking=%s: the job is not recorded: %s", config.tracker.value, first_line(error))
