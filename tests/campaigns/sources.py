"""Write inputs of every format that campaigns use, and read translations from outputs, without the project's code."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns import warm

OPEN: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


FIELDS = ".fields."
"""In the name of an input whose rows have several texts."""

FIELDS_SETTING = "source.text_field=[title,body]"

DOCUMENT = ".document."
"""In the name of a text file that is read as one document."""

DOCUMENT_SETTING = "source.document=true"


def open_file(path: Path, mode: str) -> Any:
    return OPEN.get(path.suffix, open)(path, mode)


def write(path: Path, texts: Sequence[str]) -> None:
    """Write an input in the format of the path's extension."""
    if path.suffix == ".parquet":
        warm.within(partial(_write_parquet, path, texts))
        return
    with open_file(path, "wb") as file:
        if FIELDS in path.name:
            file.writelines(_rows_of_fields(texts))
            return
        if path.suffix == ".json":
            file.write(_json(path, texts).encode())
            return
        for row, text in enumerate(texts):
            file.write(_entry(path, row, text).encode())


def _entry(path: Path, row: int, text: str) -> str:
    """Return what an input holds for a text without quotes and backslashes."""
    if ".jsonl" in path.name:
        return json.dumps({"id": row, "text": text}) + "\n"
    if path.suffix == ".po":
        return f'# {row}\nmsgctxt "{row}"\nmsgid "{text}"\nmsgstr ""\n\n'
    if path.suffix == ".md":
        return f"- {text}\n"
    if path.suffix == ".srt":
        return f"{row + 1}\n00:00:01,000 --> 00:00:02,000\n{text}\n\n"
    if path.suffix == ".vtt":
        header = "" if row else "WEBVTT\n\n"
        return f"{header}00:01.000 --> 00:02.000\n{text}\n\n"
    if DOCUMENT in path.name:
        return f"{text}\n\n"
    return f"key{row} = {text}\n" if path.suffix == ".properties" else f"{text}\n"


TREE = ".tree."
"""In the name of a `.json` that is a tree of keys; any other is an array of rows."""


def _json(path: Path, texts: Sequence[str]) -> str:
    if TREE in path.name:
        return json.dumps({f"key{row}": {"text": text} for row, text in enumerate(texts)}, indent=1)
    return json.dumps([{"id": row, "text": text} for row, text in enumerate(texts)], indent=1)


def _rows_of_fields(texts: Sequence[str]) -> Iterator[bytes]:
    """Yield rows that have the texts, in order: two texts, then one, then two."""
    row, left = 0, list(texts)
    while left:
        names = ("title", "body")[: 1 + (row % 2 == 0)]
        fields = dict(zip(names, left, strict=False))
        left, row = left[len(fields) :], row + 1
        yield f"{json.dumps({'id': row, **fields})}\n".encode()


def _write_parquet(path: Path, texts: Sequence[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": list(texts)}), path, row_group_size=32)


def read(path: Path) -> list[str]:
    """Return the translations of an output, in order."""
    if path.suffix == ".parquet":
        json_path = path.with_name(f"{path.name}.told")
        warm.within(partial(_read_parquet, path, json_path))
        texts = json.loads(json_path.read_text(encoding="utf-8"))
        json_path.unlink()
        return list(texts)
    if path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        inner = [entry["text"] for entry in value.values()] if TREE in path.name else None
        return inner if inner is not None else [row["translation"] for row in value]
    with open_file(path, "rb") as file:
        lines = file.read().decode().split("\n")[:-1]
    if FIELDS in path.name:
        return [text for line in lines for text in json.loads(line)["translation"].values()]
    if path.suffix in (".po", ".properties"):
        matches = (re.fullmatch(r'msgstr "(.*)"|key\d+ = (.*)', line) for line in lines)
        return [match[1] or match[2] or "" for match in matches if match]
    if path.suffix in (".srt", ".vtt"):
        return [line for before, line in itertools.pairwise(lines) if "-->" in before]
    if path.suffix == ".md" or DOCUMENT in path.name:
        return [line.removeprefix("- ") for line in lines if line]
    return [json.loads(line)["translation"] for line in lines] if ".jsonl" in path.name else lines


def _read_parquet(path: Path, json_path: Path) -> None:
    from pyarrow import parquet

    json_path.write_text(json.dumps(parquet.read_table(path)["translation"].to_pylist()), encoding="utf-8")
