from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hymt_batch.errors import InputChangedError, StoppedError
from hymt_batch.records import Input
from hymt_batch.write import input_changes


def an_input(path: Path) -> Input:
    return Input(path.name, path.name, str(path), "text")


@pytest.mark.fault(22)
@pytest.mark.parametrize("cause", [errno.EIO, errno.ESTALE, errno.EDQUOT, errno.ENFILE, errno.ETIMEDOUT])
def test_an_input_whose_disk_fails_is_not_a_changed_input(tmp_path: Path, cause: int) -> None:
    error = input_changes.input_unreadable_error(an_input(tmp_path / "in.txt"), OSError(cause, os.strerror(cause)))
    assert isinstance(error, StoppedError)
    assert os.strerror(cause) in str(error) and "run the same command again" in str(error)


@pytest.mark.parametrize("cause", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_a_missing_or_unreadable_input_counts_as_changed(tmp_path: Path, cause: int) -> None:
    error = input_changes.input_unreadable_error(an_input(tmp_path / "in.txt"), OSError(cause, os.strerror(cause)))
    assert isinstance(error, InputChangedError)


def test_an_input_that_cannot_be_decompressed_counts_as_changed(tmp_path: Path) -> None:
    error = input_changes.input_unreadable_error(an_input(tmp_path / "in.txt.bz2"), OSError("Invalid data stream"))
    assert isinstance(error, InputChangedError)
    assert "Invalid data stream" in str(error)


def test_hashing_a_missing_input_reports_it(tmp_path: Path) -> None:
    with pytest.raises(InputChangedError, match=r"in\.txt can no longer be read"):
        input_changes.hash_input(an_input(tmp_path / "in.txt"))
