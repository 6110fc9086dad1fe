"""Sources of every format a campaign uses, and the translations read back from an output, each without our own code."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns import warm

OPEN: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def opened(path: Path, mode: str) -> Any:
    return OPEN.get(path.suffix, open)(path, mode)


def write(path: Path, texts: Sequence[str]) -> None:
    """A source of one of the formats."""
    if path.suffix == ".parquet":
        warm.within(partial(_write_parquet, path, texts))
        return
    with opened(path, "wb") as file:
        for row, text in enumerate(texts):
            line = json.dumps({"id": row, "text": text}) if ".jsonl" in path.name else text
            file.write(f"{line}\n".encode())


def _write_parquet(path: Path, texts: Sequence[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": list(texts)}), path, row_group_size=32)


def read(path: Path) -> list[str]:
    """The translations of an output, in order."""
    if path.suffix == ".parquet":
        told = path.with_name(f"{path.name}.told")
        warm.within(partial(_read_parquet, path, told))
        texts = json.loads(told.read_text(encoding="utf-8"))
        told.unlink()
        return list(texts)
    with opened(path, "rb") as file:
        lines = file.read().decode().split("\n")[:-1]
    return [json.loads(line)["translation"] for line in lines] if ".jsonl" in path.name else lines


def _read_parquet(path: Path, told: Path) -> None:
    from pyarrow import parquet

    told.write_text(json.dumps(parquet.read_table(path)["translation"].to_pylist()), encoding="utf-8")
