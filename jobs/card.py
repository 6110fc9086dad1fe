"""Write the data card of a finished job, for those who release or use its translations: `hymt-batch card name=NAME`.

Reads the folder of the job alone, takes no lease, and writes `card/` in it. Loads no model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import sanitize, streams
from hymt_batch.card import contents, store
from hymt_batch.errors import ExitCode, MissingError
from hymt_batch.fs import OS_FS
from hymt_batch.write import job_folders

if TYPE_CHECKING:
    from hymt_batch.schema import CardJob


def run(job: CardJob) -> ExitCode:
    """Write the card of a job, or of each point of a sweep, and print where it is.

    Returns:
        COMPLETE; MISSING if a point of a sweep is not complete.

    Raises:
        UsageError: There is no such folder, or it is not that of a job.
        MissingError: The job is not complete, or a file that it published has changed.
    """
    parent = Path(job.output_dir) / job.name
    folders = job_folders.find(OS_FS, parent)
    code = ExitCode.COMPLETE
    for folder in folders:
        try:
            path = str(write(folder, job))
            shown, line = {"folder": str(folder), "card": path}, path
        except MissingError as error:
            if folders == [parent]:
                raise
            code = error.exit_code
            shown, line = {"folder": str(folder), "error": str(error)}, f"{folder}: {error}"
        streams.print_result(
            sanitize.sanitize_text(json.dumps(shown, sort_keys=True) if job.format.value == "json" else line)
        )
    return code


def write(folder: Path, job: CardJob) -> Path:
    """Write the card of one job, and return the path of its text."""
    fs = OS_FS.within(folder)
    card = contents.gather(fs, folder, job.licence, job.about)
    return store.save(fs, folder, card, contents.timings(fs, folder)) / "README.md"


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("card")
