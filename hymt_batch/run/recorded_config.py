"""Settings of a finished job as `job.json` has them: of its identity, and of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hymt_batch.errors import IdentityError
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.run import stored_settings
from hymt_batch.source.settings import SourceConfig


def source_config(job: JobRecord) -> SourceConfig:
    """Return how the inputs are read. A limit counts documents of all inputs; paths are not among the settings."""
    recorded = job.identity.get("source")
    values = {**(recorded if isinstance(recorded, dict) else {}), "path": "recorded"}
    config: SourceConfig = _from_json(SourceConfig, values)
    return config


def from_settings(config_class: type, stage: str, values: Mapping[str, Any]) -> Any:
    """Return the settings of a stage from values by dotted key; the others have their defaults."""
    nested: JsonDict = {}
    for key, value in values.items():
        first, *names = key.split(".")
        if first == stage and names:
            inner = nested
            for name in names[:-1]:
                inner = inner.setdefault(name, {})
            inner[names[-1]] = value
    return _from_json(config_class, nested)


def _from_json(config_class: type, values: JsonDict) -> Any:
    try:
        return stored_settings.from_json(config_class, values)
    except IdentityError as error:
        raise error.replace(
            what="the settings in .hymt/job.json cannot be read by this hymt-batch",
            fix="Use the hymt-batch that ran the job.",
        ) from None
