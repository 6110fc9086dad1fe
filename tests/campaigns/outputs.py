"""The expected output of a job with the stub model for a hostile file, derived with a simple second parser."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from hymt_batch.blank import is_blank
from hymt_batch.records import Status
from tests.campaigns import hostile
from tests.campaigns.hostile import BOM, OK, Case

_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
STATUSES = {status.value for status in Status}
SPLIT = 2000
"""A text of more bytes is split into segments, between which white space may differ: only its status is compared."""


def unpacked(path: Path) -> bytes:
    """Return the decompressed bytes of a file; uncompressed files are read as they are."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if path.suffix == ".zst":
        return bytes(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read())
    with openers.get(path.suffix, open)(path, "rb") as file:
        return bytes(file.read())


def upper(text: str) -> str:
    """Return the stub's translation of a text; a blank text is copied."""
    return text if not text or text.isspace() else text.upper()


def compare(folder: Path, path: Path, case: Case, *, keeps: bool) -> str:
    """Return what is wrong with the output of a file; "" if nothing is.

    Args:
        folder: The job's folder.
        path: The input file.
        case: The rows of the input file.
        keeps: True if the output has the format of the input; otherwise the output is JSON Lines.
    """
    errors = folder / "errors" / f"{path.name}.errors.jsonl"
    listed = [json.loads(line) for line in unpacked(errors).splitlines()] if errors.exists() else []
    known = {line["id"]: line["status"] for line in listed}
    ids = [f"{path.name}#{row + 1}" for row in range(len(case.rows))]
    if list(known) != [id for id in ids if id in known] or len(known) != len(listed):
        return "the errors file is not in order"
    for id, (status, _) in zip(ids, case.rows, strict=True):
        if status != OK and known.get(id) != status:
            return f"{id} is {status} but the errors file has {known.get(id)}"
    format = (
        next(kind for kind, end in hostile.NAMES.items() if end in path.name) if ".parquet" not in path.name else ""
    )
    if keeps and format == "text":
        return _text(unpacked(folder / "translated" / path.name), case, known, path.name)
    if keeps and format in ("csv", "tsv"):
        return _delimited(unpacked(folder / "translated" / path.name), case, format)
    if keeps and not format:
        return _table(folder / "translated" / path.name, case, ids)
    name = path.name if keeps or format == "jsonl" else _jsonl_name(path.name)
    return _jsonl(unpacked(folder / "translated" / name), case, ids)


def _jsonl_name(name: str) -> str:
    stem, _, packing = re.fullmatch(r"(\w+)\.(\w+)(\.\w+)?", name).groups()  # type: ignore[union-attr]
    return f"{stem}.jsonl{packing or ''}"


def _differs(text: str | None, translation: str) -> bool:
    # a line break and the spaces around it become one space
    return text is not None and len(text.encode()) <= SPLIT and translation.split() != upper(text).split()


def _text(data: bytes, case: Case, known: dict[str, str], name: str) -> str:
    start = data.removeprefix(BOM) if case.data.startswith(BOM) else data
    lines = hostile.lines(start)
    if len(lines) != len(case.rows):
        return f"{len(lines)} lines for {len(case.rows)} rows"
    for index, (line, (status, text)) in enumerate(zip(lines, case.rows, strict=True)):
        body = hostile.content(line)
        blank = status == OK and is_blank(text or "")
        if blank and body != (text or "").encode():
            return f"blank row {index + 1} is not copied: {body!r:.100}"
        if not blank and _BREAK.search(body.decode()):
            return f"row {index + 1} contains a line break"
        failed = status != OK or (not body and f"{name}#{index + 1}" in known)
        if status != OK and body:
            return f"error row {index + 1} contains {body!r:.100}"
        if not failed and not blank and _differs(text, body.decode()):
            return f"row {index + 1}: {text!a:.100} became {body!r:.100}"
    return ""


def _jsonl(data: bytes, case: Case, ids: list[str]) -> str:
    lines = hostile.lines(data.removeprefix(BOM))
    if len(lines) != len(case.rows):
        return f"{len(lines)} lines for {len(case.rows)} rows"
    for id, line, (status, text) in zip(ids, lines, case.rows, strict=True):
        if status == OK and text == "" and line.isspace():
            continue
        try:
            value = json.loads(line, parse_int=str)
        except RecursionError:  # a row nested too deeply keeps its fields
            value = json.loads(b'{"translation"' + line.rpartition(b', "translation"')[2])
        why = _row(value, id, status, text)
        if why:
            return why
    return ""


def _row(value: dict[str, Any], id: str, status: str, text: str | None) -> str:
    meta = value["hymt"]
    if meta["id"] != id or meta["status"] not in STATUSES:
        return f"{id} is recorded as {meta!a:.100}"
    if status != OK and (meta["status"] != status or value["translation"]):
        return f"{id} is {status}, recorded as {meta!a:.100}"
    if status == OK and meta["status"] in ("ok", "copied") and _differs(text, value["translation"]):
        return f"{id}: {text!a:.100} became {value['translation']!a:.100}"
    return ""


def _delimited(data: bytes, case: Case, format: str) -> str:
    body = data.removeprefix(BOM).partition(b"\n")[2]
    if format == "tsv":
        records: list[Any] = hostile.lines(body)
        widths = {line.count(b"\t") + 1 for line in records if not line.isspace()}
    else:
        rows = hostile.csv_rows(body, 1 << 30, num_fields=5)
        records = [record for _, record in rows]
        widths = {5 if status == OK else 0 for (status, _), record in rows if record.strip(b"\r\n")}
    if len(records) != len(case.rows):
        return f"{len(records)} records for {len(case.rows)} rows"
    return f"records of {sorted(widths)} fields" if widths - {5} else ""


def _table(path: Path, case: Case, ids: list[str]) -> str:
    # the user's column may contain bytes that are not UTF-8, so only our columns are converted
    rows = parquet.read_table(path, columns=["translation", "hymt"]).to_pylist()
    if len(rows) != len(case.rows):
        return f"{len(rows)} rows for {len(case.rows)}"
    for id, row, (status, text) in zip(ids, rows, case.rows, strict=True):
        why = _row({**row, "translation": row["translation"] or ""}, id, status, text)
        if why:
            return why
    return ""
