"""Measure the processor time that the file operations of a small file take by themselves. Ends with one JSON line.

Makes the calls of the commit protocol for files of one part, and nothing else: no model, no rows, no checks. So it is
the least that a job can take on a file system, beside what it takes on one in memory. Three ways, in turns: file by
file, as a job does; all files of a group in each step, so that their syncs follow each other; and without any sync,
which no job may do. TMPDIR decides the file system.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

NUM_BYTES = 700  # of a record, of an output of a few rows, and of `file.json`
NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC

Sync = Callable[[int], None]


def write_files(names: Sequence[tuple[str, int]], sync: Sync) -> None:
    """Write new files, then sync and close each of them; the descriptors are those of their folders."""
    opened = [os.open(name, NEW_FILE, 0o666, dir_fd=folder) for name, folder in names]
    for fd in opened:
        os.write(fd, b"x" * NUM_BYTES)
    for fd in opened:
        # starts writing the whole page, which spares most journal commits of the syncs that follow
        if len(opened) > 1:
            os.posix_fadvise(fd, 0, NUM_BYTES - 1, os.POSIX_FADV_DONTNEED)
    for fd in opened:
        sync(fd)
        os.close(fd)


def publish_group(numbers: range, state: int, translated: int, sync: Sync) -> None:
    """Record and publish some files, each step for all of them: records, folders, outputs with `file.json`."""
    folders = {number: os.open(f"f{number}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=state) for number in numbers}
    write_files([(".tmp-record", fd) for fd in folders.values()], sync)
    for fd in folders.values():
        os.link(".tmp-record", "s0.rows", src_dir_fd=fd, dst_dir_fd=fd)
    for fd in folders.values():
        sync(fd)
        os.unlink(".tmp-record", dir_fd=fd)
    outputs = [(f".tmp-{number}", translated) for number in numbers]
    records = [(".tmp-file", fd) for fd in folders.values()]
    if len(numbers) > 1:
        write_files(outputs + records, sync)
    else:
        write_files(outputs, sync)
    for number in numbers:
        os.rename(f".tmp-{number}", f"{number}.txt", src_dir_fd=translated, dst_dir_fd=translated)
    if len(numbers) == 1:
        write_files(records, sync)
    for fd in folders.values():
        os.rename(".tmp-file", "file.json", src_dir_fd=fd, dst_dir_fd=fd)
        os.close(fd)


def publish_all(files: int, group: int, folder: Path, sync: Sync) -> float:
    """Record and publish files in groups of this size; return the seconds of processor time, system time included."""
    (folder / "state").mkdir()
    (folder / "translated").mkdir()
    state, translated = (os.open(folder / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("state", "translated"))
    started = time.process_time()
    for number in range(files):  # of one unit: one sync
        os.mkdir(f"f{number}", dir_fd=state)
    sync(state)
    for first in range(0, files, group):
        publish_group(range(first, min(files, first + group)), state, translated, sync)
    for number in range(files):  # before the manifest
        fd = os.open(f"f{number}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=state)
        sync(fd)
        os.close(fd)
    sync(translated)
    seconds = time.process_time() - started
    os.close(state)
    os.close(translated)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="files of one measurement")
    parser.add_argument("--group", type=int, default=64, help="files whose syncs follow each other")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    ways: dict[str, tuple[int, Sync]] = {
        "file_by_file": (1, os.fsync),
        "in_groups": (options.group, os.fsync),
        "without_syncs": (1, lambda fd: None),
    }
    ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (group, sync) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds = publish_all(options.files, group, Path(folder), sync)
            ms[name].append(1000 * seconds / options.files)
    figures = {
        name: {"best": round(min(values), 3), "median": round(statistics.median(values), 3)}
        for name, values in ms.items()
    }
    print(json.dumps({"files": options.files, "ms_per_file": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
