"""What lies in translated/ and errors/ and is not of the job: files, links, pipes, and folders, empty ones too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, exists, names
from hymt_batch.records import Input
from hymt_batch.store_error import kind


def find(fs: Fs, folder: Path, inputs: Sequence[Input]) -> Iterator[tuple[Path, str]]:
    """Each of them, in no folder of another, with what it is ("a link").

    Raises:
        PermissionError: This user may not look.
    """
    wanted = {manifest.translated(folder, input.out_rel) for input in inputs}
    wanted |= {manifest.errors_file(folder, input.rel) for input in inputs}
    ways = {above for path in wanted for above in path.parents}
    todo = [folder / "errors", folder / "translated"]
    while todo:
        path = todo.pop()
        found = exists(fs, path)
        if found is None or (found.kind == "file" and path in wanted):
            continue
        if found.kind == "dir" and (path in ways or path.parent == folder):
            todo += [path / name for name in reversed(names(fs, path))]
        else:
            yield path, kind(path) or "a file"
