"""Hostile rows with several text fields, read a second, simple way that the readers and the job are compared with."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch import config as settings
from hymt_batch.records import ShardRecord
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard, cut_shards
from jobs import verify
from tests.campaigns import hostile, outputs
from tests.campaigns.hostile import BAD, BAD_ROW, OK
from tests.fakes import job as fake_job

PATHS = (
    ["title", "body"],
    ["messages.*.content"],
    ["messages.*.content", "title"],
    ["tags.*", "doc.a\\.b", "messages.0.role"],
    ["a.b", "doc.*.*"],
)
BAD_LINES = (b"{", b"[]", b"null", b'"title"', b"{'title': 1}", b'{"tit": "a"}', b"{} {}", b'{"title": "a",}')
Text = tuple[str, str, str | None]
"""Id, status and text of a document; the text is None where its status is not ok."""


@dataclass(frozen=True)
class FieldsCase:
    """A file, and the documents of each of its rows."""

    data: bytes
    fields: list[str]
    rows: list[list[Text]]


def _value(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.75:
        return hostile.text(rng, long=False)
    return rng.choice((None, None, "", 5, 1.5, True, [], {}, {"content": "x"}, ["y", None], "\ud800"))


def _object(rng: random.Random) -> dict[str, Any]:
    value: dict[str, Any] = {"id": rng.randrange(10**6)}
    for name in ("title", "body", "a.b"):
        if rng.random() < 0.6:
            value[name] = _value(rng)
    if rng.random() < 0.7:
        messages = [{"role": "user", "content": _value(rng)} for _ in range(rng.choice((0, 1, 2, 5)))]
        value["messages"] = rng.choice((messages, messages, messages, {"x": {"content": "z"}}, "none", [1, {}]))
    if rng.random() < 0.5:
        value["tags"] = rng.choice((["t", "t"], {"k.1": "t", "*": "s", "b\\": _value(rng)}, [], 7))
    if rng.random() < 0.5:
        value["doc"] = {"a.b": _value(rng), "c": rng.choice(({"d": _value(rng)}, [_value(rng), _value(rng)], "e"))}
    return value


def _walk(value: Any, parts: list[str], keys: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield the keys and values that a path matches; a container without elements yields itself without a key."""
    if len(keys) == len(parts):
        yield keys, value
        return
    part = parts[len(keys)]
    items = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    if part == "*":
        if not items and isinstance(value, dict | list):
            yield [], None
        for key, item in items:
            yield from _walk(item, parts, [*keys, key])
        return
    wanted = part.replace("\\.", ".")
    for key, item in items:
        if key == wanted:
            yield from _walk(item, parts, [*keys, key])


def _escaped(key: str) -> str:
    return "\\*" if key == "*" else key.replace("\\", "\\\\").replace(".", "\\.")


def _documents(rel: str, row: int, value: dict[str, Any], fields: list[str]) -> list[Text]:
    found: dict[str, Any] = {}
    is_present = False
    for field in fields:
        parts = field.replace("\\.", "\0").split(".")
        parts = [part.replace("\0", "\\.") for part in parts]
        matches = iter([([field], value[field])]) if field in value else _walk(value, parts, [])
        for keys, item in matches:
            is_present = True
            if item is not None:
                name = ".".join(map(_escaped, keys)) if "*" in parts and field not in value else field
                found.setdefault(name, item)
    if not is_present:
        return [(f"{rel}#{row}", BAD_ROW, None)]
    if not found:
        return [(f"{rel}#{row}", OK, "")]
    return [(f"{rel}#{row}[{name}]", *_outcome(item)) for name, item in found.items()]


def _outcome(item: Any) -> tuple[str, str | None]:
    if not isinstance(item, str):
        return BAD_ROW, None
    try:
        item.encode()
    except UnicodeEncodeError:
        return BAD, None
    return OK, item


def jsonl_case(rng: random.Random, rel: str, num: int) -> FieldsCase:
    fields = rng.choice(PATHS)
    lines, rows = [json.dumps(dict.fromkeys(("title", "a.b"), "x") | _every()).encode()], []
    for _ in range(num):
        kind = rng.random()
        line = json.dumps(_object(rng), ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
        lines.append(rng.choice(BAD_LINES) if kind < 0.05 else b" " if kind < 0.08 else line)
    for row, line in enumerate(lines, 1):
        if line in BAD_LINES:
            rows.append([(f"{rel}#{row}", BAD_ROW, None)])
        elif line == b" ":
            rows.append([(f"{rel}#{row}", OK, "")])
        else:
            try:
                rows.append(_documents(rel, row, json.loads(line.decode()), fields))
            except UnicodeDecodeError:
                rows.append([(f"{rel}#{row}", BAD, None)])
    return FieldsCase(b"".join(line + b"\n" for line in lines), fields, rows)


def _every() -> dict[str, Any]:
    """Return what a first row needs so that each path has a match."""
    return {
        "body": "x",
        "messages": [{"role": "x", "content": "x"}],
        "tags": ["x"],
        "doc": {"a.b": "x", "c": {"d": "x"}},
    }


def csv_case(rng: random.Random, rel: str, num: int) -> FieldsCase:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "title", "body", "more"])
    rows = []
    for row in range(1, num + 1):
        cells = [hostile.text(rng, long=False).replace("\r", " ").replace("\\", "/") for _ in range(2)]
        writer.writerow([row, *cells, "x"])
        rows.append([(f"{rel}#{row}[{name}]", OK, cell) for name, cell in zip(("title", "body"), cells, strict=True)])
    return FieldsCase(out.getvalue().encode(), ["title", "body"], rows)


def check(folder: Path, rng: random.Random, num: int) -> tuple[FieldsCase, Path, str]:
    """Write a file, read it as shards, again as finished shards and in full; return it, and what is wrong, if any."""
    kind = rng.choice(("jsonl", "jsonl", "csv"))
    path = folder / f"fields.{kind}"
    case = (jsonl_case if kind == "jsonl" else csv_case)(rng, path.name, num)
    path.write_bytes(case.data)
    limit = rng.choice((None, 1, num // 2 or 1))
    config = SourceConfig(path=str(path), text_field=case.fields, limit=limit)
    (input,) = discovery.find_inputs(config)
    expected = [text for row in case.rows[:limit] for text in row]
    limits = {"shard_rows": rng.choice((1, 7, 400)), "shard_bytes": rng.choice((1 << 24, 900))}
    shards = [
        s for s in cut_shards([input], config, **limits, get_record=lambda *_: None) if not isinstance(s, SkippedShard)
    ]
    documents = [document for shard in shards for document in shard.documents]
    if (read := [(d.id, d.status.value, d.text) for d in documents]) != expected:
        return (
            case,
            path,
            f"differs: {next((pair for pair in zip(read, expected, strict=False) if pair[0] != pair[1]), '')!a:.300}",
        )
    if [d.row_index for d in documents] != list(range(len(documents))):
        return case, path, "the documents are not numbered"
    if not all(shard.documents[-1].field.is_last for shard in shards):
        return case, path, "a shard ends within a row"
    records = {
        s.index: ShardRecord(s.index, s.first_row, len(s.documents), s.start, s.end, s.sha256, s.last) for s in shards
    }
    skipped = rng.randrange(len(shards)) if shards else 0
    again = cut_shards([input], config, **limits, get_record=lambda _, n: None if n == skipped else records.get(n))
    for shard, first in zip(again, shards, strict=True):
        if isinstance(shard, SkippedShard) == (first.index == skipped):
            return case, path, "finished shards are not skipped, or others are"
        if not isinstance(shard, SkippedShard) and (shard.documents, shard.sha256) != (first.documents, first.sha256):
            return case, path, "a shard after a finished one is read differently"
    full = [document for document, _ in stream.read_full_documents(input, config, [input])]
    outcomes = [(d.id, d.status.value, d.text if d.status.value == OK else None, d.digest) for d in full]
    if outcomes != [(d.id, d.status.value, d.text, d.digest) for d in documents]:
        return case, path, "the finishing pass reads different texts"
    return case, path, ""


def check_job(folder: Path, case: FieldsCase, path: Path) -> str:
    """Translate a file with the stub model; return what is wrong with its output, if anything."""
    overrides = [f"source.path={path}", f"output_dir={folder}", "name=fields", "tgt_lang=fr", "model=demo"]
    overrides += ["check.max_error_rate=1", "batch.part_rows=7", "batch.shard_rows=20", "launch.samples=0"]
    with Reporter("off") as reporter:
        job = settings.load("translate", [*overrides, f"source.text_field=[{','.join(case.fields)}]"])
        if job.source.text_fields != tuple(case.fields):
            return f"the setting became {job.source.text_fields}"
        fake_job.translate_with(job, reporter)
    report = verify.verify(folder / "fields", inputs=True)
    if report.exit_code or report.rows != len(case.rows):
        return f"verify: {report.exit_code} {report.rows} rows {report.damage}"
    errors = folder / "fields/errors" / f"{path.name}.errors.jsonl"
    listed = [json.loads(line)["id"] for line in errors.read_text().splitlines()] if errors.exists() else []
    failed = [id for row in case.rows for id, status, _ in row if status != OK]
    if [id for id in listed if id in set(failed)] != failed:
        return "the errors file lacks a text"
    with open(folder / "fields/translated" / path.name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [line for line in file if line]
    if len(rows) != len(case.rows):
        return f"{len(rows)} rows for {len(case.rows)}"
    for number, (row, texts) in enumerate(zip(rows, case.rows, strict=True), 1):
        if isinstance(row, str) and row.isspace():
            continue
        written = json.loads(row["translation"]) if isinstance(row, dict) else json.loads(row)["translation"]
        names = {id.partition("[")[2][:-1]: (status, text) for id, status, text in texts if "[" in id}
        if list(written) != list(names):
            return f"row {number} has the fields {list(written)}"
        for name, (status, text) in names.items():
            wanted = outputs.upper(text or "") if status == OK else ""
            if written[name].split() != wanted.split():
                return f"row {number} {name}: {text!a:.100} became {written[name]!a:.100}"
    return ""
