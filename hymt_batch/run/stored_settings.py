"""Settings as JSON, and back: a folder keeps those of its job, so that `merge` and `retry` need no other."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, get_type_hints

from hymt_batch.errors import HymtError, IdentityError
from hymt_batch.sanitize import redact
from hymt_batch.source.discovery import DEMO_PREFIX, STDIN, is_hub_id

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


def to_json(config: Any) -> Any:
    """Return a settings dataclass as nested dicts; a choice is stored as its value."""
    if is_dataclass(config):
        return {field.name: to_json(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_json(value) for value in config]
    if isinstance(config, dict):
        return {str(key): to_json(value) for key, value in config.items()}
    return config.value if isinstance(config, Enum) else config


def of_job(job: TranslateJob) -> dict[str, Any]:
    """Return the settings of a job as JSON, with paths that hold in any working directory.

    A secret that a user put into a setting is masked, as in the log, but in the launch stage, whose commands need it.
    """
    settings = to_json(job)
    value: dict[str, Any] = {key: each if key == "launch" else _without_secrets(each) for key, each in settings.items()}
    value["source"]["path"] = absolute_paths(job)
    if os.path.isdir(job.model.path):
        value["model"]["path"] = os.path.abspath(job.model.path)
    return value


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def absolute_paths(job: TranslateJob) -> list[str]:
    """Return the setting source.path with absolute paths; standard input, the hub and demos keep their names."""

    def is_no_path(path: str) -> bool:
        return path == STDIN or path.startswith(DEMO_PREFIX) or (is_hub_id(path) and not os.path.lexists(path))

    return [path if is_no_path(path) else os.path.abspath(os.path.expanduser(path)) for path in job.source.paths]


def from_json(config_class: type, value: Any) -> Any:
    """Return a settings dataclass; a setting that is not stored has its default, one that is unknown is ignored.

    Raises:
        IdentityError: The settings are not those of this program.
    """
    try:
        hints = get_type_hints(config_class)
        given = {}
        for field in fields(config_class):
            if field.name in value:
                given[field.name] = _field_from_json(hints[field.name], value[field.name])
        return config_class(**given)
    except (TypeError, ValueError, KeyError, HymtError) as error:
        raise IdentityError(
            "the settings that the folder keeps cannot be read by this hymt-batch",
            why=str(error),
            fix="Run the hymt-batch that wrote them, or `translate` with the settings of the job, which also publishes "
            "what was prepared.",
        ) from None


def _field_from_json(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return value
