"""The files of an evaluation in the folder of a job: `evaluation/scores.json` and `evaluation/rows.jsonl`.

Both are written aside and renamed, the scores last. The scores name the manifest that they belong to: after the output
changed they are stale. Neither file holds a time, so equal evaluations give equal bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import NewFile, hash_file, replace, with_retries, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, StateDamagedError
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write.storage import DurableFolders

FOLDER, SCORES, ROWS = "evaluation", "scores.json", "rows.jsonl"


@dataclass(frozen=True, slots=True)
class StoredScores:
    """The scores in a folder."""

    value: JsonDict
    is_stale: bool  # they are of another output than the present one


def save(fs: Fs, folder: Path, value: JsonDict, rows: Iterable[JsonDict]) -> None:
    """Write an evaluation; an earlier one stays until both files are complete.

    Args:
        fs: The file system.
        folder: The output folder.
        value: The scores; the size and digest of the rows are added.
        rows: The line of each row.

    Raises:
        StoppedError, PreflightError: The files cannot be written.
    """
    into, lines = folder / FOLDER, list(rows)

    def attempt() -> None:
        DurableFolders(fs, folder).ensure(into)
        tmp = into / f".tmp-{ROWS}-{uuid.uuid4().hex}"
        with NewFile(fs, tmp) as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            sha256 = file.sync_and_close()
        about = {"path": f"{FOLDER}/{ROWS}", "rows": len(lines), "sha256": sha256}
        scores_tmp = into / f".tmp-{SCORES}-{uuid.uuid4().hex}"
        write_new(fs, scores_tmp, manifest.seal({**value, "rows_file": about}))
        replace(fs, tmp, into / ROWS)
        replace(fs, scores_tmp, into / SCORES)
        fs.fsync_dir(into)

    with wrap_os_errors(f"{FOLDER}/"):
        with_retries(FOLDER, attempt)


def read(fs: Fs, folder: Path) -> StoredScores | None:
    """Return the scores in a folder; None if there are none that can be read."""
    try:
        value = manifest.load(fs, folder / FOLDER / SCORES)
        is_stale = hash_file(fs, folder / "manifest.json")[1] != value["manifest_sha256"]
    except (StateDamagedError, OSError, KeyError):
        return None
    return StoredScores(value, is_stale)
