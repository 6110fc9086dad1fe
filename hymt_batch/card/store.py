"""The files of a data card: `card/README.md`, `card.json`, `SHA256SUMS` and `timings.json` in the folder of a job.

Each is replaced atomically. All but the timings are equal for equal jobs. They are no part of the job: not in the
manifest, read by no other command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hymt_batch.card import contents, text
from hymt_batch.fs import write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write.storage import DurableFolders

FOLDER = "card"


def save(fs: Fs, folder: Path, card: JsonDict, timings: JsonDict) -> Path:
    """Write a card and return its folder.

    Raises:
        StoppedError, PreflightError: The files cannot be written.
    """
    into = folder / FOLDER
    files = {
        "card.json": as_json(card),
        "timings.json": as_json(timings),
        "SHA256SUMS": checksums(contents.published(card)),
        "README.md": text.render(card).encode("utf-8", "backslashreplace"),
    }
    with wrap_os_errors(f"{FOLDER}/"):
        DurableFolders(fs, folder).ensure(into)
        for name, data in files.items():
            write_atomic(fs, into / name, data)
    return into


def as_json(value: JsonDict) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1).encode("utf-8", "backslashreplace") + b"\n"


def checksums(files: Iterable[JsonDict]) -> bytes:
    r"""Return a list for `sha256sum -c`; a name with a line break or a backslash is written as sha256sum does."""
    lines = []
    for file in files:
        path = str(file["path"])
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != path else ""
        lines.append(f"{mark}{file['sha256']}  {escaped}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")
