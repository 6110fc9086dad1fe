"""Versions of a job's identity: what the identity of an older folder means today, and what this one was called before.

A folder keeps the identity with which it was made, for its parts carry the digest of it. What differs between versions
stands in one table. Knows keys and values; not what the settings do.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict

VERSION = 2
"""Of the identity. It stands in the identity itself, but for version 1, which knew none."""

NOT_RECORDED = "(not recorded)"
"""What an older version did not record: a command may say it as it likes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How identities differ between versions. Keys are dotted; each stands with the version that brought the change."""

    added: Mapping[str, tuple[int, Any]] = field(default_factory=dict)  # key -> how earlier versions behaved
    removed: Mapping[str, tuple[int, Any]] = field(default_factory=dict)  # key -> the value that all folders had
    renamed: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # old key -> new key


CHANGES = Changes(
    added={
        "batch.plan": (2, 1),
        "segment.max_segments": (2, None),
        "source.escape": (2, None),
        "check.min_logprob": (2, NOT_RECORDED),
    }
)


def version_of(identity: JsonDict) -> int:
    """The version that made an identity; a value that no version writes counts as one from the future."""
    version = identity.get("version", 1)
    return version if type(version) is int and version >= 1 else VERSION + 1


def upgrade(stored: JsonDict, requested: JsonDict, changes: Changes = CHANGES) -> JsonDict:
    """The identity of a folder, of this version or an earlier one, in the words of this version.

    Args:
        stored: The folder's.
        wanted: What this run asks for; it fills in what an earlier version did not record.
        changes: For tests.
    """
    found, version = copy.deepcopy(stored), version_of(stored)
    for old, (since, new) in changes.renamed.items():
        if version < since and _has(found, old):
            _set(found, new, _pop(found, old))
    for key, (since, _) in changes.removed.items():
        if version < since and _has(found, key):
            _pop(found, key)
    for key, (since, before) in changes.added.items():
        if version < since and not _has(found, key) and _has(requested, key):
            _set(found, key, _get(requested, key) if before == NOT_RECORDED else before)
    found["version"] = max(version, VERSION)
    return found


def differences(
    stored: JsonDict, requested: JsonDict, auto_keys: Collection[str] = (), changes: Changes = CHANGES
) -> list[tuple[str, Any, Any]]:
    """What keeps a folder's job from being the wanted one, as of `manifest.diff`.

    Args:
        stored, wanted, changes: See `current`.
        own: Keys that a folder decides for itself when it is made; the wanted value is that of a new folder.
    """
    found = manifest.diff(upgrade(stored, requested, changes), requested)
    return [difference for difference in found if difference[0] not in {"version", "batch.plan", *auto_keys}]


def earlier_identities(requested: JsonDict, changes: Changes = CHANGES) -> Iterator[JsonDict]:
    """The identities that earlier versions would have given the wanted job, newest first; none where they could not."""
    for version in range(VERSION - 1, 0, -1):
        found = copy.deepcopy(requested)
        possible = True
        for key, (since, before) in changes.added.items():
            if version < since and _has(found, key):
                value = _pop(found, key)
                possible = possible and (key == "batch.plan" or before in (NOT_RECORDED, value))
        for key, (since, value) in changes.removed.items():
            if version < since:
                _set(found, key, value)
        for old, (since, new) in changes.renamed.items():
            if version < since and _has(found, new):
                _set(found, old, _pop(found, new))
        found.pop("version", None)
        if version > 1:
            found["version"] = version
        if possible:
            yield found


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
    *above, last = key.split(".")
    for name in above:
        identity = identity.setdefault(name, {})
    identity[last] = value


def _pop(identity: JsonDict, key: str) -> Any:
    *above, last = key.split(".")
    for name in above:
        identity = identity[name]
    return identity.pop(last)
