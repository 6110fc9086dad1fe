"""Warn of what a job does not use: settings of the source stage, and files beside its inputs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from hymt_batch.formats import registry
from hymt_batch.records import Input, SkippedFile
from hymt_batch.source import unread
from hymt_batch.source.path_errors import describe_skipped
from hymt_batch.source.settings import SourceConfig

log = logging.getLogger(__name__)

_DEFAULTS = SourceConfig(path="-")


def warn(config: SourceConfig, inputs: Sequence[Input], used_settings: Collection[str]) -> None:
    """Log a warning for each setting that is not its default and has no effect.

    Args:
        config: The settings.
        inputs: All inputs of the job.
        used_settings: Settings of folders and datasets that a source has used.
    """
    names = sorted({registry.of_input(input).name for input in inputs})
    if names and not any(registry.get(name).has_fields for name in names):
        for key in ("text_field", "src_lang_field", "tgt_lang_field"):
            _warn_if_set(config, key, f"rows of {' and '.join(names)} files have no fields")
    for key in registry.SOURCE_SETTINGS:
        owners = [format.name for format in registry.FORMATS if key in format.source_settings]
        if names and not set(owners) & set(names):
            _warn_if_set(config, key, f"it applies only to {' and '.join(owners)}")
    for key in ("pattern", "subset", "split", "revision"):
        if getattr(config, key) and key not in used_settings:
            kind = "folders" if key == "pattern" else "data sets"
            log.warning("source.%s=%s is ignored: it applies only to %s", key, getattr(config, key), kind)


def warn_of_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Log one warning for all files that were found and are not read."""
    if not skipped:
        return
    unknown = [file.rel for file in skipped if file.why == unread.UNKNOWN]
    hint = ""
    if len(unknown) == len(skipped):
        hint = f", with unknown extensions; source.format={registry.DEFAULT.name} reads them as text"
    elif unknown:
        hint = f"; name {unknown[0]!r} in source.path to read it as text"
    log.warning(
        "skipped files=%d that are not read (%s), such as %s%s",
        len(skipped),
        describe_skipped(skipped),
        [file.rel for file in skipped[:3]],
        hint,
    )


def _warn_if_set(config: SourceConfig, key: str, reason: str) -> None:
    value = getattr(config, key)
    if value != getattr(_DEFAULTS, key):
        log.warning("source.%s=%s is ignored: %s", key, str(value).lower() if value is False else value, reason)
