"""The state of a job's folder: what its names may be, what lies there, and the wiping of it.

What changes anything is called under the lease. Does not know parts beyond their names.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.errors import ConfigError
from hymt_batch.fs import Fs, exists, names, remove
from hymt_batch.manifest import StateDamage
from hymt_batch.records import Input
from hymt_batch.write import part as parts
from hymt_batch.write.final import TMP
from hymt_batch.write.store import PROBE

log = logging.getLogger(__name__)


def check_names(inputs: Sequence[Input]) -> None:
    """Refuse names that would lead out of the folder, that the store cannot hold, or that two inputs share."""
    taken: dict[str, str] = {}
    for input in inputs:
        for rel in (input.out_rel, f"{input.rel}.errors.jsonl"):
            pieces = rel.split("/")
            if any(piece in ("", ".", "..") for piece in pieces) or "\0" in rel:
                raise ConfigError(f"the input {input.rel!r} would be written outside of the output folder. Rename it.")
            if max(len(os.fsencode(piece)) for piece in pieces) > 255:
                raise ConfigError(f"the name {pieces[-1]!r} is longer than 255 bytes. Rename the input {input.rel!r}.")
        other = taken.setdefault(input.out_rel, input.rel)
        if other != input.rel:
            raise ConfigError(f"{other!r} and {input.rel!r} would both be written to {input.out_rel!r}. Rename one.")


def read_header(fs: Fs, path: Path) -> parts.Header:
    """The header of a part, its payload unread. Raises OSError or PartDamage."""
    data = fs.read(path, 0, 4096)
    while b"\n" not in data and (more := fs.read(path, len(data), 1 << 16)):
        data += more
    return parts.decode_header(data.partition(b"\n")[0])


def homes(fs: Fs, folder: Path) -> list[Path]:
    root = manifest.state(folder)
    return [root / name for name in names(fs, root) if name.startswith("f") and len(name) > 1]


def forget(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove what a job knows and made of some inputs: first what calls it finished, then state, then outputs."""
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    for input in inputs:
        _remove_home(fs, manifest.file_state(folder, input.file_id))
    for input in inputs:
        remove(fs, manifest.translated(folder, input.out_rel))
        remove(fs, manifest.errors_file(folder, input.rel))


def wipe(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Start over: what a killed wipe leaves still belongs to the old job, whose `job.json` goes last."""
    job: Any = None
    with contextlib.suppress(StateDamage):
        job = manifest.read_job(fs, folder)
    if exists(fs, folder / "manifest.json") or job is not None or homes(fs, folder):
        log.warning("overwrite folder=%s", folder.name)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    for home in homes(fs, folder):
        _remove_home(fs, home)
    forget(fs, folder, [*(job.inputs if job else ()), *inputs])
    remove(fs, manifest.state(folder) / "job.json")
    fs.fsync_dir(manifest.state(folder))


def _remove_home(fs: Fs, home: Path) -> None:
    remove(fs, home / "file.json")
    collect(fs, home)
    for name in names(fs, home):
        if name.startswith(".tmp-"):
            remove(fs, home / name)
    with contextlib.suppress(OSError):
        fs.rmdir(home)


def collect(fs: Fs, home: Path) -> None:
    """Remove the parts of a file, and what a kill left beside them; its `file.json` stays."""
    for shard in names(fs, home):
        if parts.SHARD_NAME.fullmatch(shard):
            for name in names(fs, home / shard):
                with contextlib.suppress(OSError):
                    fs.unlink(home / shard / name)
            with contextlib.suppress(OSError):
                fs.rmdir(home / shard)


def tidy(fs: Fs, home: Path) -> None:
    """`collect` for a file that is finished: what the store refuses to remove is in nobody's way."""
    try:
        collect(fs, home)
    except OSError as error:
        log.warning("parts of %s are left: %s", home.name, error.strerror)


def sweep(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove what killed processes left half-made. Under the lease; a writer without one notices and tries again."""
    root = manifest.state(folder)
    half = [(folder, ".tmp-"), (root, ".tmp-"), (root, PROBE), (root / "lease", "stale-"), (root / "lease", ".tmp-")]
    for input in inputs:
        half += [(path.parent, TMP) for path in (manifest.translated(folder, input.out_rel),)]
        half += [(manifest.errors_file(folder, input.rel).parent, TMP)]
        home = manifest.file_state(folder, input.file_id)
        half += [(home, ".tmp-"), *((home / shard, ".tmp-") for shard in names(fs, home) if shard.startswith("s"))]
    for place, prefix in dict.fromkeys(half):
        for name in names(fs, place):
            if name.startswith(prefix):
                with contextlib.suppress(OSError):
                    fs.unlink(place / name)
