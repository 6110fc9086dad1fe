"""Recognise what lies in the output folder of a job: translations, errors and set-aside files are not sources.

A job's folder is recognised by its state, whatever its name is and wherever it was moved. Reads only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import OS_FS
from hymt_batch.source.input_names import STATE_FOLDER

_STAGING_FOLDER = re.compile(r"\.spool-[0-9a-f]{32}")  # stored standard input of a run that was killed; see spool.py
_TRANSLATED, _MANIFEST = "translated", "manifest.json"


class JobFolders:
    """The output folders of jobs around the files that a job finds.

    Args:
        own_folder: The output folder of the job itself, which may not exist yet.
    """

    def __init__(self, own_folder: Path | None = None) -> None:
        self._own = None if own_folder is None else _real(str(own_folder))
        self._around: dict[str, str | None] = {}  # folder -> the job's folder that it lies in
        self.left_out: dict[
            str, None
        ] = {}  # the folders whose files were left out, in the order in which they were met

    def around(self, path: str) -> str | None:
        """Return the job's folder that a path lies in or is, also through links; None if there is none."""
        for absolute in dict.fromkeys((_real(path), _absolute(path))):
            inner = absolute if os.path.isdir(absolute) else os.path.dirname(absolute)
            if (folder := self._find(inner)) is not None:
                return folder
        return None

    def leaves_out(self, path: str) -> bool:
        """Return whether a path that was found lies in a job's folder, and remember that folder."""
        folder = self.around(path)
        if folder is not None:
            self.left_out[show(folder)] = None
        return folder is not None

    def leaves_out_folder(self, folder: str, real: str, names: Collection[str]) -> bool:
        """Return whether a folder is the output folder of a job, and remember it.

        Args:
            folder: The folder.
            real: Its path without links.
            names: The names in it, so that nothing has to be looked up.
        """
        may_be = STATE_FOLDER in names or _MANIFEST in names or _STAGING_FOLDER.fullmatch(os.path.basename(folder))
        is_job = real == self._own or bool(may_be and _has_state(folder))
        if is_job:
            self.left_out[show(folder)] = None
        return is_job

    def is_own(self, folder: str) -> bool:
        """Return whether a job's folder is that of the job itself."""
        return _real(folder) == self._own

    def _find(self, folder: str) -> str | None:
        waiting = []
        while folder not in self._around:
            waiting.append(folder)
            if folder == self._own or _has_state(folder):
                self._around[folder] = folder
            elif (parent := os.path.dirname(folder)) == folder:
                self._around[folder] = None
            else:
                folder = parent
        found = self._around[folder]
        self._around.update(dict.fromkeys(waiting, found))
        return found


def _has_state(folder: str) -> bool:
    """Return whether a folder has the state of a job, or at least its manifest, or is where a job stored its input."""
    if os.path.isdir(os.path.join(folder, STATE_FOLDER)) or _STAGING_FOLDER.fullmatch(os.path.basename(folder)):
        return True
    path = Path(folder)
    if not (os.path.isfile(path / _MANIFEST) and os.path.isdir(path / _TRANSLATED)):
        return False
    try:
        manifest.read(OS_FS, path)
    except manifest.StateDamagedError:
        return False
    return True


def is_in_translations(folder: str, path: str) -> bool:
    """Return whether a path is the folder translated/ of a job, or lies in it."""
    translated = os.path.join(_real(folder), _TRANSLATED)
    return f"{_real(path)}/".startswith(os.path.join(translated, ""))


def show(folder: str) -> str:
    """Return a folder relative to the working directory, if it lies below it."""
    try:
        relative = os.path.relpath(folder)
    except OSError:  # the working directory was removed
        return folder
    return folder if relative.startswith("..") else relative


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except OSError:  # the working directory was removed, and the path is relative
        return path


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:
        return path
