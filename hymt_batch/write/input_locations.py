"""Store where the inputs of a job were when it last ran, so that `verify inputs=true` finds them.

This is only a hint, not part of the job's identity: the same files may be elsewhere next time. Best effort.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import replace, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Input, SkippedFile


def path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "inputs.json"


def save(fs: Fs, folder: Path, inputs: Sequence[Input], skipped: Sequence[SkippedFile] = ()) -> None:
    """Write the paths of the inputs: the folder that most of them share, and the full paths of the inputs elsewhere.

    The files that were skipped are listed too, for `status`.
    """
    with contextlib.suppress(OSError, ValueError):
        value = _encode_locations(folder, inputs)
        if skipped:
            value["skipped"] = [asdict(file) for file in skipped]
        with contextlib.suppress(manifest.StateDamagedError):
            if manifest.load(fs, path(folder)) == value:
                return
        tmp = manifest.state_folder(folder) / f".tmp-inputs.json-{uuid.uuid4().hex}"
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path(folder))


def _encode_locations(folder: Path, inputs: Sequence[Input]) -> JsonDict:
    paths = {input.rel: _spooled_path(folder, os.path.abspath(input.path)) for input in inputs}
    roots = Counter(path[: -len(rel) - 1] for rel, path in paths.items() if path.endswith(f"/{rel}"))
    root = roots.most_common(1)[0][0] if roots else ""
    return {"root": root, "others": {rel: path for rel, path in paths.items() if path != f"{root}/{rel}"}}


def _spooled_path(folder: Path, path: str) -> str:
    """Return an input's final path: stdin and hub data are staged beside the job's folder, then moved into it."""
    spool_prefix = f"{os.path.abspath(folder.parent)}/.spool-"
    if not path.startswith(spool_prefix):
        return path
    return str(manifest.state_folder(folder) / "spool" / path.removeprefix(spool_prefix).partition("/")[2])


def read_skipped(fs: Fs, folder: Path) -> tuple[SkippedFile, ...]:
    """Return the files that the last run skipped, () if that is not known."""
    try:
        return manifest.skipped_in(manifest.load(fs, path(folder)))
    except manifest.StateDamagedError:
        return ()


def find(fs: Fs, folder: Path, rels: Sequence[str], search_paths: Sequence[str]) -> dict[str, str]:
    """Find the inputs at or below one of the `search_paths`; if there are none, where the last run found the inputs.

    Returns:
        Relative name -> path, for the inputs that exist.
    """
    if search_paths:
        names_without_suffix = {
            rel: rel.removesuffix(".parquet") for rel in rels
        }  # the folder of a saved dataset has no suffix
        candidates = [
            (f"{root}/{name}", rel)
            for root in search_paths
            for rel in rels
            for name in (rel, names_without_suffix[rel])
        ]
        candidates += [
            (root, rel) for root in search_paths for rel in rels if Path(root).name in (rel, names_without_suffix[rel])
        ]
    else:
        try:
            value = manifest.load(fs, path(folder))
            root, other_paths = str(value["root"]), dict(value["others"])
        except (manifest.StateDamagedError, KeyError, TypeError, ValueError):
            return {}
        candidates = [(str(other_paths.get(rel, f"{root}/{rel}")), rel) for rel in rels]
    paths: dict[str, str] = {}
    for candidate, rel in candidates:
        if rel not in paths and os.path.exists(candidate) and (os.path.isfile(candidate) or rel.endswith(".parquet")):
            paths[rel] = candidate
    return paths
