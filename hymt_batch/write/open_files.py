"""The temporary files of one output and of the lists beside it, and how all are published by rename."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import NewFile, read_twice, remove, replace, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Input

TMP_PREFIX = ".tmp-final-"


class RowList:
    """A list of rows beside an output, as JSON lines; a file only if there is a row."""

    def __init__(
        self,
        fs: Fs,
        get_path: Callable[[], Path],
        make_folder: Callable[[Path], None],
        stack: contextlib.ExitStack,
        *,
        may_exist: bool,
    ) -> None:
        self._fs, self._get_path, self._make_folder, self._stack = fs, get_path, make_folder, stack
        self._may_exist = may_exist
        self._file: NewFile | None = None
        self._num_rows = 0

    def write(self, line: bytes) -> None:
        """Write a line of the file, which is created for the first one."""
        if self._file is None:
            final = self._get_path()
            self._make_folder(final.parent)
            self._file = self._stack.enter_context(NewFile(self._fs, tmp_path(final)))
        self._file.write(line)
        self._num_rows += 1

    def sync(self) -> JsonDict | None:
        """Sync the file; return its rows, bytes and checksum, None without a file."""
        if self._file is None:
            return None
        sha256 = self._file.sync_and_close()
        return {"rows": self._num_rows, "bytes": self._file.size, "sha256": sha256}

    def publish(self, *, durable: bool) -> None:
        """Give the file its name, or remove that of an earlier run, which had rows to list."""
        if self._file is None and not self._may_exist:
            return
        final = self._get_path()
        if self._file is not None:
            replace(self._fs, self._file.path, final)
            if durable:
                self._fs.fsync_dir(final.parent)
        elif read_twice(lambda: stat_or_none(self._fs, final)):
            remove(self._fs, final)
            self._fs.fsync_dir(final.parent)


class OpenFiles:
    """The temporary files of one output and of the lists beside it, which are renamed when all are complete."""

    def __init__(
        self,
        fs: Fs,
        folder: Path,
        input: Input,
        make_folder: Callable[[Path], None],
        stack: contextlib.ExitStack,
        *,
        has_lists: bool,
    ) -> None:
        """Create the temporary file of an output.

        Args:
            fs: The file system.
            folder: The output folder.
            input: The input of the output.
            make_folder: Creates a folder that survives a power loss.
            stack: Removes the temporary files that were not published.
            has_lists: An earlier run may have written lists of rows.
        """
        self._fs, self._final = fs, manifest.translated_path(folder, input.out_rel)
        self.out = stack.enter_context(NewFile(fs, tmp_path(self._final)))
        self._lists = {
            key: RowList(fs, partial(get_path, folder, input.rel), make_folder, stack, may_exist=has_lists)
            for key, get_path in (("errors", manifest.errors_path), ("review", manifest.review_path))
        }
        self.write_error, self.write_review = self._lists["errors"].write, self._lists["review"].write

    def publish(self, num_rows: int | None, before: Callable[[str], bool]) -> JsonDict:
        """Sync the files, give them their names, and return their rows, bytes and checksums.

        A new name is durable when its folder is synced, at the latest with the manifest. A file that replaces another
        one is durable at once: its record must never stand beside the earlier file, which would look like a user's.

        Args:
            num_rows: Rows of the output; None for a failed file, which has no output: one that an earlier version of
                the input had is removed.
            before: Called with the sha256 of the output, "" without one, when all are synced and have no names yet;
                returns whether the output will replace a file.
        """
        output = None
        if num_rows is not None:
            output = {"rows": num_rows, "bytes": self.out.size, "sha256": self.out.sync_and_close()}
        lists = {key: row_list.sync() for key, row_list in self._lists.items()}
        replaces = before(str(output["sha256"]) if output else "")
        for row_list in self._lists.values():
            row_list.publish(durable=replaces)
        if output:
            replace(self._fs, self.out.path, self._final)
        else:
            remove(self._fs, self._final)
        if replaces:
            self._fs.fsync_dir(self._final.parent)
        review = {"review": lists["review"]} if lists["review"] else {}
        return {"output": output, "errors": lists["errors"], **review}


def tmp_path(path: Path) -> Path:
    return path.with_name(f"{TMP_PREFIX}{uuid.uuid4().hex}")
