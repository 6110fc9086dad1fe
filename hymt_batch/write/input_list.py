"""Give a job another list of inputs: drop those that are gone, and group new and changed files into units.

Independent of what a run does about rows that changed. Call it under the lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hymt_batch import file_units, manifest
from hymt_batch.fs import stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.write.changed_inputs import read_differently
from hymt_batch.write.cleanup import discard_inputs

log = logging.getLogger(__name__)


def take_inputs(
    fs: Fs,
    folder: Path,
    job: JobRecord,
    requested: JobRecord,
    keep: Callable[[str], None] | None,
    check_lease: Callable[[], None],
) -> JobRecord:
    """Give the job of a folder the requested inputs, and return it; what was made of others is removed.

    Args:
        fs: The file system.
        folder: The output folder.
        job: Its job.
        requested: The job of this run.
        keep: Keeps an output, given by its path below translated/, before it is removed; None to keep none.
        check_lease: Raises if this process must not write any more.
    """
    wanted = {input.rel: input for input in requested.inputs}
    reread = {input.rel for input in read_differently(job.inputs, requested.inputs)}
    removed = [input for input in job.inputs if input.rel not in wanted or input.rel in reread]
    # an update makes the output anew from the closed generation, so both stay until the new output takes its place
    updated = {input.file_id for input in removed if keep is not None and input.rel in reread}
    lost_outputs = [
        input.out_rel for input in removed if input.file_id not in updated or input.out_rel != wanted[input.rel].out_rel
    ]
    paths = (manifest.translated_path(folder, out_rel) for out_rel in lost_outputs)
    if lost := [path.relative_to(folder).as_posix() for path in paths if stat_or_none(fs, path)]:
        names = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        if keep is None:
            log.warning("redo folder=%s removes outputs whose inputs were removed or changed: %s", folder.name, names)
        else:
            log.info("update folder=%s retires outputs whose inputs were removed or changed: %s", folder.name, names)
    if keep is not None:
        for out_rel in lost_outputs:
            keep(out_rel)
    paths_in_use = frozenset(input.out_rel for input in requested.inputs)
    discard_inputs(fs, folder, removed, job.layout, check_lease, job.replaced_paths, paths_in_use, updated)
    changed = {input.rel for input in removed}
    units = file_units.regroup(requested.inputs, job.inputs, job.units, job.identity, changed)
    job = replace(job, inputs=requested.inputs, formats=requested.formats, units=units)
    manifest.replace_job(fs, folder, job)
    return job
