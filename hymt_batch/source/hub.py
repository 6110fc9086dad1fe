"""Download a dataset of the Hugging Face hub as parquet files.

`fetch` runs in a separate process that exits without cleanup, because a streamed parquet dataset that is not read to
its end hangs the process at exit (apache/arrow#45214).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hymt_batch import child_process
from hymt_batch.errors import ExitCode, PreflightError, StoppedError, first_line, is_transient

BATCH_ROWS = 1000
STORED_FORMAT = "parquet"  # what `fetch` writes
ROW_GROUP_ROWS = 16 * BATCH_ROWS


def fetch_in_subprocess(name: str, subset: str | None, split: str | None, revision: str | None, folder: Path) -> None:
    """Run `fetch` in a subprocess: write one parquet file per split into the folder.

    Raises:
        PreflightError: The hub has no such dataset, or cannot be reached.
        StoppedError: The disk fails, or the network fails with a temporary error of the operating system.
    """
    request = json.dumps([name, subset, split, revision, str(folder)])
    run = subprocess.run(
        child_process.die_with_parent_command([sys.executable, "-m", __name__, request]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if run.returncode:
        lines = run.stderr.decode(errors="replace").strip().splitlines() or ["no error message"]
        if run.returncode == ExitCode.STOPPED:
            raise StoppedError(f"{name} could not be stored ({lines[-1]})", fix="Run the same command again.")
        raise PreflightError(
            f"No file or folder is named {name}, and the hub returned no dataset of that name ({lines[-1]})",
            fix="Fix source.path, or save the dataset on a machine with network access "
            f"(datasets.load_dataset({name!r}).save_to_disk('saved')) and set source.path=saved.",
        )


def fetch(name: str, subset: str | None, split: str | None, revision: str | None, folder: Path) -> list[Path]:
    """Write one parquet file per split into the folder, one row group at a time."""
    import datasets

    dataset: Any = datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True)
    splits = {split: dataset} if split is not None else dict(dataset)
    files = []
    for key, rows in splits.items():
        files.append(folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', str(key))}.parquet")
        _write_parquet(rows, files[-1])
    return files


def _write_parquet(rows: Any, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = rows.features.arrow_schema if rows.features is not None else None
    writer: Any = None
    pending: list[Any] = []
    with open(path, "xb") as file:
        for table in rows.with_format("arrow").iter(BATCH_ROWS):
            schema = table.schema if schema is None else schema
            writer = parquet.ParquetWriter(file, schema) if writer is None else writer
            pending.append(table.cast(schema))
            if sum(len(chunk) for chunk in pending) >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(pending))
                pending.clear()
        if writer is None:
            writer = parquet.ParquetWriter(file, schema if schema is not None else pa.schema([]))
        if pending:
            writer.write_table(pa.concat_tables(pending))
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    code = 0
    try:
        name, subset, split, revision, folder = json.loads(sys.argv[1])
        fetch(name, subset, split, revision, Path(folder))
    except BaseException as error:
        first = first_line(error)
        print(f"{type(error).__name__}: {first}", file=sys.stderr)
        code = ExitCode.STOPPED.value if is_transient(error) else 1
    sys.stderr.flush()
    os._exit(code)  # no cleanup: see the module docstring


if __name__ == "__main__":
    main()
