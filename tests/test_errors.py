"""Errors are fields: what is wrong, why, how to fix it, and the id of the failure mode."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from hymt_batch import errors, storage_error
from hymt_batch.errors import ConfigError, DeviceError, HymtError, PreflightError, Problem, StoppedError


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


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_one_function_decides_whether_a_system_error_may_pass(number: int, tmp_path: Path) -> None:
    """What is converted while a job writes, while its folder is opened, or anywhere else, has the same verdict."""
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    may_pass = errors.is_transient(error)
    assert isinstance(errors.wrap_os_error(error), StoppedError) == may_pass
    has_no_space = number in (errno.ENOSPC, errno.EDQUOT)  # before a job starts, the check of the space says how much
    opened = storage_error.output_folder_error(tmp_path, error)
    assert isinstance(opened, StoppedError) == (may_pass and not has_no_space)
    written = storage_error.write_error("a part", error)
    assert isinstance(written, StoppedError) == errors.is_transient(error, writing=True)
    comes_back = number in (errno.ENOENT, errno.EROFS, errno.EEXIST)  # the folder, after the job could write to it
    assert errors.is_transient(error, writing=True) == (may_pass or comes_back)
    for helper, expected in (
        (storage_error.wrap_os_errors("a part"), written),
        (storage_error.wrap_folder_errors(tmp_path, "the output"), opened),
    ):
        with pytest.raises(HymtError) as raised, helper:
            raise error
        assert (type(raised.value), raised.value.problem) == (type(expected), expected.problem)
    for converted in (errors.wrap_os_error(error), opened, written):
        assert converted.fix.endswith(".")
