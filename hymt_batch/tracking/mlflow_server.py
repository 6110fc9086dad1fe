"""Record a completed job as a run of MLflow, in a database or on a server. Needs the extra `mlflow`.

Names of parameters and metrics may have letters, digits, `_`, `-`, `.`, `:`, `/` and spaces, at most 250 of them (the
Python API of MLflow, `mlflow.client`).
"""

from __future__ import annotations

import os
import re
import time

from hymt_batch.tracking.settings import TrackingConfig
from hymt_batch.tracking.tracked_run import TrackedRun

MAX_KEY_CHARS, MAX_VALUE_CHARS, MAX_PARAMS = 250, 500, 100


def record(run: TrackedRun, config: TrackingConfig) -> None:
    """Record a job.

    Raises:
        Exception: MLflow is not installed, or the database or the server cannot be reached.
    """
    # by default, a server that does not answer is asked for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(config.timeout_s))))
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=config.uri)
    found = client.get_experiment_by_name(config.experiment)
    experiment_id = found.experiment_id if found is not None else client.create_experiment(config.experiment)
    tags = {"folder": run.folder, "identity_sha256": run.identity_sha256, "program": run.program}
    run_id = client.create_run(experiment_id, run_name=run.name).info.run_id
    now = int(time.time() * 1000)
    params = [Param(_key(key), value[:MAX_VALUE_CHARS]) for key, value in run.params.items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
    metrics = [Metric(_key(key), value, now, 0) for key, value in run.metrics.items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run_id, status="FINISHED")


def _key(name: str) -> str:
    return re.sub(r"[^\w\-.:/ ]", "_", name)[:MAX_KEY_CHARS]
