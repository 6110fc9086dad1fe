"""Versions of a job's identity: upgrade the identity of an older folder, and derive those that earlier versions wrote.

A folder keeps the identity it was created with, because its parts carry the digest of it. One table lists what changed
between versions. Compares keys and values; independent of what the settings do.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict
from hymt_batch.records import PLAN_VERSION

VERSION = 7
"""Version of the identity, stored in the identity itself; version 1 did not store it."""

EARLIER = ((6, 8), (6, 7), (6, 6), (5, 6), (4, 5), (4, 4), (3, 3), (3, 2), (2, 2), (1, 1))
"""Earlier pairs of identity and plan version, newest first."""

NOT_RECORDED = "(not recorded)"
"""Marks a setting that an older version did not record: any requested value is accepted."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How identities differ between versions, by dotted key; `version` is the one that introduced the change."""

    added: Mapping[str, tuple[int, Any]] = field(default_factory=dict)  # key -> version, and earlier behaviour
    removed: Mapping[str, tuple[int, Any]] = field(default_factory=dict)  # key -> version, and the only value
    renamed: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # old key -> version, new key
    moved: Mapping[str, int] = field(default_factory=dict)  # key that became an output setting -> version
    added_output: Mapping[str, Any] = field(default_factory=dict)  # new output setting -> earlier behaviour
    renamed_output: Mapping[str, str] = field(default_factory=dict)  # old output setting -> new key


CHANGES = Changes(
    added={
        "batch.plan": (2, 1),
        "segment.max_segments": (2, None),
        "source.escape": (2, None),
        "check.min_logprob": (2, NOT_RECORDED),
        "source.encoding": (4, "utf-8"),
        "batch.part_new_tokens": (5, NOT_RECORDED),  # earlier plans divide no row
        "source.join_cues": (5, False),
        "source.keys": (6, None),
        "source.skip_keys": (6, None),
        "source.add_plural_forms": (6, False),
        "source.entries": (6, "empty"),
        "check.code_ladder": (6, []),
        "check.code_retry": (6, NOT_RECORDED),  # earlier versions had no ladder
        "check.code_rows": (6, False),
        "check.retry.kinds": (7, ["empty", "truncated", "loop"]),
        "check.retry.ladder": (7, ["card"]),
        "check.retry.min_logprob": (7, None),
        "check.retry.length_factor": (7, NOT_RECORDED),  # of kinds that earlier versions did not know
        "check.retry.foreign_share": (7, NOT_RECORDED),
        "check.retry.source_words": (7, NOT_RECORDED),
        "check.retry.language_margin": (7, NOT_RECORDED),
    },
    renamed={
        "check.retry": (7, "check.retry_sampling"),  # before the keys below it
        "check.max_attempts": (7, "check.retry.max_attempts"),
        "check.loop_repeats": (7, "check.retry.loop_repeats"),
    },
    moved={
        "check.min_logprob": 3,
        "write.format": 3,
        "write.on_error": 3,
        "write.translation_field": 3,
        "write.meta_field": 3,
        "write.row_group_rows": 3,
    },
    added_output={
        "write.encoding": "utf-8",
        "check.codes": False,
        "write.name": "{stem}{ext}",
        "write.review": NOT_RECORDED,  # earlier folders go on without it
        "write.fuzzy": False,
        "write.wrap_cues": NOT_RECORDED,  # earlier folders go on without it
        "check.on_fail": "keep",
        "check.fail_kinds": NOT_RECORDED,  # without a meaning while rows keep what failed
        **dict.fromkeys(  # earlier rows are measured for loops alone: see `MEASURES_SINCE`
            (
                "check.flag.kinds",
                "check.flag.loop_repeats",
                "check.flag.length_factor",
                "check.flag.foreign_share",
                "check.flag.source_words",
                "check.flag.language_margin",
            ),
            NOT_RECORDED,
        ),
        "check.flag.identify_share": 0.0,
    },
    renamed_output={"check.min_logprob": "check.flag.min_logprob"},
)


def version_of(identity: JsonDict) -> int:
    """Return the version that wrote an identity; an invalid version counts as a future one."""
    version = identity.get("version", 1)
    return version if type(version) is int and version >= 1 else VERSION + 1


def plan_version_of(identity: JsonDict) -> int:
    """Return the plan version that an identity records; the newest version if it is invalid."""
    version = identity.get("batch", {}).get("plan", 1)
    return version if type(version) is int else PLAN_VERSION


def upgrade(stored: JsonDict, requested: JsonDict, changes: Changes = CHANGES) -> JsonDict:
    """Convert the identity of a folder, written by this version or an earlier one, to this version's keys.

    Args:
        stored: The folder's identity.
        requested: The identity of this run; it fills in what an earlier version did not record.
        changes: For tests.
    """
    identity, version = copy.deepcopy(stored), version_of(stored)
    for old, (since, new) in changes.renamed.items():
        if version < since and _has(identity, old):
            _set(identity, new, _pop(identity, old))
    for key, (since, _) in changes.removed.items():
        if version < since and _has(identity, key):
            _pop(identity, key)
    for key, since in changes.moved.items():
        if version < since and _has(identity, key):
            _remove(identity, key)
    for key, (since, default) in changes.added.items():
        if version < since and not _has(identity, key) and _has(requested, key):
            _set(identity, key, _get(requested, key) if default == NOT_RECORDED else default)
    identity["version"] = max(version, VERSION)
    return identity


def differences(
    stored: JsonDict, requested: JsonDict, auto_keys: Collection[str] = (), changes: Changes = CHANGES
) -> list[tuple[str, Any, Any]]:
    """Return how a folder's identity differs from the requested one, in the form of `manifest.diff`.

    Args:
        stored, requested, changes: See `upgrade`.
        auto_keys: Keys whose values are fixed when a folder is created, and therefore not compared.
    """
    all_differences = manifest.diff(upgrade(stored, requested, changes), requested)
    return [difference for difference in all_differences if difference[0] not in {"version", "batch.plan", *auto_keys}]


def name_models(differences: Sequence[tuple[str, Any, Any]], names: Mapping[str, str]) -> str:
    """Return a line that names the model a folder was begun with, if it has a name; else ""."""
    files = [(str(old), str(new)) for key, old, new in differences if key.startswith("model.files.")]
    old_names = [names[old] for old, _ in files if old in names]
    new_names = [names[new] for _, new in files if new in names]
    if not old_names:
        return ""
    now = f"this hymt-batch has {new_names[0]}" if new_names else "this run has another model"
    return f"\nIt was begun with {old_names[0]}, and {now}."


def earlier_identities(
    requested: JsonDict, output_settings: JsonDict | None = None, changes: Changes = CHANGES
) -> Iterator[JsonDict]:
    """Yield the identities of the job in the earlier versions that support its settings, newest first.

    Args:
        requested: The identity of this version.
        output_settings: The job's output settings, by dotted key: earlier versions had them in the identity.
        changes: For tests.
    """
    for version, plan in EARLIER:
        identity = copy.deepcopy(requested)
        possible = version < VERSION or _has(identity, "batch.plan")
        if _has(identity, "batch.plan"):
            _set(identity, "batch.plan", plan)
        for key, since in changes.moved.items():
            name = changes.renamed_output.get(key, key)
            if version < since and name in (output_settings or {}):
                _set(identity, key, (output_settings or {})[name])
        for key, (since, default) in changes.added.items():
            if version < since and _has(identity, key):
                value = _pop(identity, key)
                possible = possible and (key == "batch.plan" or default in (NOT_RECORDED, value))
        for key, (since, value) in changes.removed.items():
            if version < since:
                _set(identity, key, value)
        for old, (since, new) in reversed(list(changes.renamed.items())):
            if version < since and _has(identity, new):
                _set(identity, old, _pop(identity, new))
        identity.pop("version", None)
        if version > 1:
            identity["version"] = version
        if possible:
            yield identity


def has_output_settings(identity: JsonDict, changes: Changes = CHANGES) -> bool:
    """Return whether an identity is of an earlier version, which had the output settings in it."""
    return any(version_of(identity) < since for since in changes.moved.values())


MEASURES_SINCE = 7
"""Version of the identity since which rows are measured for more than loops, and flags are made of measurements."""


def has_measures(identity: JsonDict) -> bool:
    """Return whether the rows of a job are measured; those of earlier versions have the flags that they came with."""
    return version_of(identity) >= MEASURES_SINCE


def loop_repeats_of(identity: JsonDict) -> int | None:
    """Return from how many repetitions an earlier version flagged the loops of a job; None if its rows are measured."""
    return None if has_measures(identity) else int((identity.get("check") or {}).get("loop_repeats", 3))


def with_added_output(settings: JsonDict, changes: Changes = CHANGES) -> JsonDict:
    """Return the output settings of a job, with the behaviour of its version for those that were added later.

    Those that have another name today have it.
    """
    settings = with_today_names(settings, changes)
    return {**{key: value for key, value in changes.added_output.items() if value != NOT_RECORDED}, **settings}


def with_today_names(settings: JsonDict, changes: Changes = CHANGES) -> JsonDict:
    """Return output settings by the keys that they have today."""
    return {changes.renamed_output.get(key, key): value for key, value in settings.items()}


def output_settings_in(identity: JsonDict, changes: Changes = CHANGES) -> JsonDict:
    """Return the output settings that an identity of an earlier version has, by dotted key."""
    return {key: _get(identity, key) for key in changes.moved if _has(identity, key)}


def copy_value(source: JsonDict, target: JsonDict, key: str) -> None:
    """Give an identity the value that another one has under a dotted key, if it has one."""
    if _has(source, key):
        _set(target, key, copy.deepcopy(_get(source, key)))


def _get(identity: JsonDict, key: str) -> Any:
    value: Any = identity
    for name in key.split("."):
        value = value[name]
    return value


def _has(identity: JsonDict, key: str) -> bool:
    value: Any = identity
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def _set(identity: JsonDict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        identity = identity.setdefault(name, {})
    identity[last] = value


def _pop(identity: JsonDict, key: str) -> Any:
    *parents, last = key.split(".")
    for name in parents:
        identity = identity[name]
    return identity.pop(last)


def _remove(identity: JsonDict, key: str) -> None:
    """Remove a key, and its section if that is empty then."""
    section, _, name = key.rpartition(".")
    _pop(identity, key)
    if name and section in identity and not identity[section]:
        del identity[section]
