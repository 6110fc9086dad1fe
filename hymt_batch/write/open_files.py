"""The temporary files of one output and of its errors file, and how both are published by rename."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import NewFile, remove, replace, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Input

TMP_PREFIX = ".tmp-final-"


class OpenFiles:
    """The temporary files of one output and of its errors, which are renamed when both are complete."""

    def __init__(
        self, fs: Fs, folder: Path, input: Input, make_folder: Callable[[Path], None], stack: contextlib.ExitStack
    ) -> None:
        """Create the temporary file of an output.

        Args:
            fs: The file system.
            folder: The output folder.
            input: The input of the output.
            make_folder: Creates a folder that survives a power loss.
            stack: Removes the temporary files that were not published.
        """
        self._fs, self._stack, self._make_folder = fs, stack, make_folder
        self._final = manifest.translated_path(folder, input.out_rel)
        self._final_errors = manifest.errors_path(folder, input.rel)
        self._errors: NewFile | None = None
        self._num_errors = 0
        self.out = stack.enter_context(NewFile(fs, tmp_path(self._final)))

    def write_error(self, line: bytes) -> None:
        """Write a line of the errors file, which is created for the first one."""
        if self._errors is None:
            self._make_folder(self._final_errors.parent)
            self._errors = self._stack.enter_context(NewFile(self._fs, tmp_path(self._final_errors)))
        self._errors.write(line)
        self._num_errors += 1

    def publish(self, num_rows: int | None, before: Callable[[str], bool]) -> JsonDict:
        """Sync both files, give them their names, and return their rows, bytes and checksums.

        A new name is durable when its folder is synced, at the latest with the manifest. A file that replaces another
        one is durable at once: its record must never stand beside the earlier file, which would look like a user's.

        Args:
            num_rows: Rows of the output; None for a failed file, which has no output: one that an earlier version of
                the input had is removed.
            before: Called with the sha256 of the output, "" without one, when both are synced and have no names yet;
                returns whether the output will replace a file.
        """
        output = None
        if num_rows is not None:
            output = {"rows": num_rows, "bytes": self.out.size, "sha256": self.out.sync_and_close()}
        errors = None
        if self._errors:
            sha256 = self._errors.sync_and_close()
            errors = {"rows": self._num_errors, "bytes": self._errors.size, "sha256": sha256}
        replaces = before(str(output["sha256"]) if output else "")
        if self._errors:
            replace(self._fs, self._errors.path, self._final_errors)
            if replaces:
                self._fs.fsync_dir(self._final_errors.parent)
        elif stat_or_none(self._fs, self._final_errors):  # left by an earlier run that had errors
            remove(self._fs, self._final_errors)
            self._fs.fsync_dir(self._final_errors.parent)
        if output:
            replace(self._fs, self.out.path, self._final)
        else:
            remove(self._fs, self._final)
        if replaces:
            self._fs.fsync_dir(self._final.parent)
        return {"output": output, "errors": errors}


def tmp_path(path: Path) -> Path:
    return path.with_name(f"{TMP_PREFIX}{uuid.uuid4().hex}")
