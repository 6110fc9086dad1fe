"""Where the inputs of a job lay when it last ran, so that `verify inputs=true` finds them.

A hint beside the job: no part of its identity, since the same files may lie elsewhere tomorrow. Best effort.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, replace, write_new
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Input


def path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "inputs.json"


def save(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Keep where the inputs lie: the one folder that most of them share, and the others' paths."""
    with contextlib.suppress(OSError, ValueError):
        value = _encode_locations(folder, inputs)
        with contextlib.suppress(manifest.StateDamagedError):
            if manifest.load(fs, path(folder)) == value:
                return
        tmp = manifest.state_folder(folder) / f".tmp-inputs.json-{uuid.uuid4().hex}"
        write_new(fs, tmp, manifest.seal(value))
        replace(fs, tmp, path(folder))


def _encode_locations(folder: Path, inputs: Sequence[Input]) -> JsonDict:
    paths = {input.rel: _spooled_path(folder, os.path.abspath(input.path)) for input in inputs}
    roots = Counter(at[: -len(rel) - 1] for rel, at in paths.items() if at.endswith(f"/{rel}"))
    root = roots.most_common(1)[0][0] if roots else ""
    return {"root": root, "others": {rel: at for rel, at in paths.items() if at != f"{root}/{rel}"}}


def _spooled_path(folder: Path, path: str) -> str:
    """A path; of an input that is stored aside while a job begins, the one in the job's own folder."""
    above = f"{os.path.abspath(folder.parent)}/.spool-"
    if not path.startswith(above):
        return path
    return str(manifest.state_folder(folder) / "spool" / path.removeprefix(above).partition("/")[2])


def find(fs: Fs, folder: Path, rels: Sequence[str], search_paths: Sequence[str]) -> dict[str, str]:
    """Where inputs lie: below or at one of the `given` paths, or where the last run found them.

    Returns:
        Relative name -> path, of those that are there.
    """
    if search_paths:
        short = {rel: rel.removesuffix(".parquet") for rel in rels}  # a saved dataset is a folder without it
        ways = [(f"{root}/{name}", rel) for root in search_paths for rel in rels for name in (rel, short[rel])]
        ways += [(root, rel) for root in search_paths for rel in rels if Path(root).name in (rel, short[rel])]
    else:
        try:
            value = manifest.load(fs, path(folder))
            root, others = str(value["root"]), dict(value["others"])
        except (manifest.StateDamagedError, KeyError, TypeError, ValueError):
            return {}
        ways = [(str(others.get(rel, f"{root}/{rel}")), rel) for rel in rels]
    found: dict[str, str] = {}
    for at, rel in ways:
        if rel not in found and os.path.exists(at) and (os.path.isfile(at) or rel.endswith(".parquet")):
            found[rel] = at
    return found
