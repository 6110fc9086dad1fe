"""Errors are fields: what is wrong, why, how to fix it, and the id of the failure mode."""

from __future__ import annotations

import pickle

import pytest

from hymt_batch.errors import ConfigError, DeviceError, HymtError, PreflightError, Problem


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"what": "x=0 is too small"}, "x=0 is too small."),
        ({"what": "x=0 is too small", "fix": "Set x=1."}, "x=0 is too small. Set x=1."),
        ({"what": "f cannot be read", "why": "Permission denied"}, "f cannot be read: Permission denied."),
        ({"what": "f is cut", "why": "so rows would be lost"}, "f is cut, so rows would be lost."),
        ({"what": "f is cut", "why": "It has 3 rows.", "fix": "Copy it."}, "f is cut. It has 3 rows. Copy it."),
        ({"what": "the GPU is idle", "fix": "device_map=replicate"}, "the GPU is idle. Fix: device_map=replicate."),
        ({"what": "two lines:\n  a", "fix": "Drop a."}, "two lines:\n  a\nDrop a."),
        (
            {"what": "E: a\n  b", "why": "No room.", "fix": "Free some"},
            "E: a\n  b\n  Cause: No room.\n  Fix: Free some",
        ),
    ],
)
def test_a_message_is_composed_of_the_fields(fields: dict[str, str], message: str) -> None:
    assert HymtError(**fields).message == message
    assert Problem(**fields).message == message
    assert str(HymtError(**fields)) == message
    assert str(HymtError(**fields, id="B1")) == f"{message} [B1: hymt-batch doctor explain=B1]"


@pytest.mark.parametrize("error_class", [HymtError, ConfigError, PreflightError, DeviceError])
def test_errors_keep_their_class_and_fields_across_processes_and_changes(error_class: type[HymtError]) -> None:
    error = error_class("w", why="y", fix="Set x=1.", id="B1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert (copy.problem, str(copy), copy.exit_code) == (error.problem, str(error), error.exit_code)
    changed = error.replace(fix="Set x=2.")
    assert type(changed) is error_class
    assert (changed.what, changed.why, changed.fix, changed.id) == ("w", "y", "Set x=2.", "B1")
    assert error.fix == "Set x=1."
