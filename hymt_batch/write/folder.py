"""The state of a job's folder: what its names may be, what lies there, and the wiping of it.

What changes anything is called under the lease. Does not know parts beyond their names.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.fs import Fs, exists, names, remove
from hymt_batch.manifest import StateDamage
from hymt_batch.records import Input
from hymt_batch.write import aside, final
from hymt_batch.write import part as parts
from hymt_batch.write.final import TMP
from hymt_batch.write.store import PROBE, Folders

log = logging.getLogger(__name__)


def read_header(fs: Fs, path: Path) -> parts.Header:
    """The header of a part, its payload unread. Raises OSError or PartDamage."""
    data = fs.read(path, 0, 4096)
    if b"\n" not in data:
        data = fs.read(path, 0, parts.MAX_HEADER_BYTES)
    return parts.decode_header(data.partition(b"\n")[0])


def homes(fs: Fs, folder: Path) -> list[Path]:
    root = manifest.state(folder)
    return [root / name for name in names(fs, root) if name.startswith("f") and len(name) > 1]


def forget(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove what a job knows and made of some inputs: first what calls it finished, then outputs, then state.

    The state tells which bytes are the job's own: what differs is kept in set_aside/.
    """
    made = aside.made(fs, folder)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    for input in inputs:
        record = final.read_record(fs, folder, input)
        ours = (made.get(input.out_rel), record["output"]["sha256"] if record else None)
        aside.spare(fs, folder, input.out_rel, ours, Folders(fs, folder).ensure)
        for path in (manifest.translated(folder, input.out_rel), manifest.errors_file(folder, input.rel)):
            remove(fs, path)
            _leave(fs, folder, path.parent)
    for input in inputs:
        _remove_home(fs, manifest.file_state(folder, input.file_id))


def _leave(fs: Fs, folder: Path, path: Path) -> None:
    """Remove the folders of an output that hold nothing any more; a folder that is not of a job counts as damage."""
    with contextlib.suppress(OSError):
        while path.parent != folder and not names(fs, path):
            fs.rmdir(path)
            path = path.parent


def wipe(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Start over: what a killed wipe leaves still belongs to the old job, whose `job.json` goes last."""
    job: Any = None
    with contextlib.suppress(StateDamage):
        job = manifest.read_job(fs, folder)
    if exists(fs, folder / "manifest.json") or job is not None or homes(fs, folder):
        log.warning("overwrite folder=%s", folder.name)
    forget(fs, folder, [*(job.inputs if job else ()), *inputs])
    for home in homes(fs, folder):
        _remove_home(fs, home)
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
