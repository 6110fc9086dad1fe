"""What a job with the stub model must have written for a hostile file, by the simple reading."""

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
"""A longer text is cut into segments, whose white space may be anywhere; only its status is compared."""


def unpacked(path: Path) -> bytes:
    """Bytes of a file that may be compressed."""
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if path.suffix == ".zst":
        return bytes(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read())
    with openers.get(path.suffix, open)(path, "rb") as file:
        return bytes(file.read())


def upper(text: str) -> str:
    """The stub's translation of a text; a blank one is copied."""
    return text if not text or text.isspace() else text.upper()


def compare(folder: Path, path: Path, one: Case, *, keeps: bool) -> str:
    """What is wrong with the output of a file; "" if nothing is.

    Args:
        folder: The job's folder.
        path: The input.
        one: Its rows.
        keeps: The output has the format of the input; else it is jsonl.
    """
    errors = folder / "errors" / f"{path.name}.errors.jsonl"
    listed = [json.loads(line) for line in unpacked(errors).splitlines()] if errors.exists() else []
    known = {line["id"]: line["status"] for line in listed}
    ids = [f"{path.name}#{row + 1}" for row in range(len(one.rows))]
    if list(known) != [id for id in ids if id in known] or len(known) != len(listed):
        return "the errors file is not in order"
    for id, (status, _) in zip(ids, one.rows, strict=True):
        if status != OK and known.get(id) != status:
            return f"{id} is {status} but the errors file says {known.get(id)}"
    format = (
        next(kind for kind, end in hostile.NAMES.items() if end in path.name) if ".parquet" not in path.name else ""
    )
    if keeps and format == "text":
        return _text(unpacked(folder / "translated" / path.name), one, known, path.name)
    if keeps and format in ("csv", "tsv"):
        return _delimited(unpacked(folder / "translated" / path.name), one, format)
    if keeps and not format:
        return _table(folder / "translated" / path.name, one, ids)
    name = path.name if keeps or format == "jsonl" else _jsonl_name(path.name)
    return _jsonl(unpacked(folder / "translated" / name), one, ids)


def _jsonl_name(name: str) -> str:
    stem, _, packing = re.fullmatch(r"(\w+)\.(\w+)(\.\w+)?", name).groups()  # type: ignore[union-attr]
    return f"{stem}.jsonl{packing or ''}"


def _differs(text: str | None, found: str) -> bool:
    # a line break becomes a space, and spaces around it go with it
    return text is not None and len(text.encode()) <= SPLIT and found.split() != upper(text).split()


def _text(data: bytes, one: Case, known: dict[str, str], name: str) -> str:
    start = data.removeprefix(BOM) if one.data.startswith(BOM) else data
    lines = hostile.lines(start)
    if len(lines) != len(one.rows):
        return f"{len(lines)} lines for {len(one.rows)} rows"
    for number, (line, (status, text)) in enumerate(zip(lines, one.rows, strict=True)):
        body = hostile.content(line)
        blank = status == OK and is_blank(text or "")
        if blank and body != (text or "").encode():
            return f"blank row {number + 1} is not copied: {body!r:.100}"
        if not blank and _BREAK.search(body.decode()):
            return f"row {number + 1} holds a line break"
        failed = status != OK or (not body and f"{name}#{number + 1}" in known)
        if status != OK and body:
            return f"error row {number + 1} holds {body!r:.100}"
        if not failed and not blank and _differs(text, body.decode()):
            return f"row {number + 1}: {text!a:.100} became {body!r:.100}"
    return ""


def _jsonl(data: bytes, one: Case, ids: list[str]) -> str:
    lines = hostile.lines(data.removeprefix(BOM))
    if len(lines) != len(one.rows):
        return f"{len(lines)} lines for {len(one.rows)} rows"
    for id, line, (status, text) in zip(ids, lines, one.rows, strict=True):
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
        return f"{id} is told as {meta!a:.100}"
    if status != OK and (meta["status"] != status or value["translation"]):
        return f"{id} is {status}, told as {meta!a:.100}"
    if status == OK and meta["status"] in ("ok", "copied") and _differs(text, value["translation"]):
        return f"{id}: {text!a:.100} became {value['translation']!a:.100}"
    return ""


def _delimited(data: bytes, one: Case, format: str) -> str:
    body = data.removeprefix(BOM).partition(b"\n")[2]
    if format == "tsv":
        found: list[Any] = hostile.lines(body)
        widths = {line.count(b"\t") + 1 for line in found if not line.isspace()}
    else:
        rows = hostile.csv_rows(body, 1 << 30, num_fields=5)
        found = [record for _, record in rows]
        widths = {5 if status == OK else 0 for (status, _), record in rows if record.strip(b"\r\n")}
    if len(found) != len(one.rows):
        return f"{len(found)} records for {len(one.rows)} rows"
    return f"records of {sorted(widths)} fields" if widths - {5} else ""


def _table(path: Path, one: Case, ids: list[str]) -> str:
    # the user's column may hold bytes that are no text, so only ours are turned into values
    rows = parquet.read_table(path, columns=["translation", "hymt"]).to_pylist()
    if len(rows) != len(one.rows):
        return f"{len(rows)} rows for {len(one.rows)}"
    for id, row, (status, text) in zip(ids, rows, one.rows, strict=True):
        why = _row({**row, "translation": row["translation"] or ""}, id, status, text)
        if why:
            return why
    return ""
