"""Unusable rows through the whole job: each keeps its position, its id and its fields, in every format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch import config as settings
from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Input, Row, Status
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import cut_shards, read_documents
from hymt_batch.write.settings import OnError, WriteConfig
from tests.fakes import job as fake_job

LIMIT = 300
LONG = "x" * 400


class Bad(NamedTuple):
    """One broken row and its expected result."""

    raw: bytes
    status: str
    fields: dict[str, Any]  # the fields that the output keeps
    source: str | None = None  # the translation with write.on_error=source; None: the raw row


def long_json(extra: str, close: str = "}") -> bytes:
    return f'{{"id": 7, "text": "{LONG}"{extra}{close}'.encode()


JSONL = [
    Bad(b'{"id": 7, "text": "a\xffb"}', "bad_encoding", {"id": 7, "text": "a\ufffdb"}, "a\ufffdb"),
    Bad(b'{"id": 7, "text": "ab", "n": "\xff"}', "bad_encoding", {"id": 7, "text": "ab", "n": "\ufffd"}, "ab"),
    Bad(b'{"id": 7, "text": "a\\ud800"}', "bad_encoding", {"id": 7, "text": "a\ud800"}, "a\ufffd"),
    Bad(b'{"id": 7, "text": "ab", "to": "f\\ud800"}', "bad_encoding", {"id": 7, "text": "ab"}, "ab"),
    Bad(b'{"id": 7, "text": "torn', "bad_row", {"id": 7}),
    Bad(b'{"id": 7, "text": "ab"} x', "bad_row", {"id": 7, "text": "ab"}),
    Bad(b'{"id": 7, "text": "ab", "n": [1, tru]}', "bad_row", {"id": 7, "text": "ab"}),
    Bad(b'{"id": 7, "text": "a\tb", "n": 1}', "bad_row", {"id": 7}),
    Bad(b'{"id": 7, "text": "ab",}', "bad_row", {"id": 7, "text": "ab"}),
    Bad(b'{"id": 7, "text": "\xffb', "bad_encoding", {"id": 7}),
    Bad(b"prose", "bad_row", {}),
    Bad(b"[1, 2]", "bad_row", {}),
    Bad(b'"text"', "bad_row", {}),
    Bad(b'{"id": 7, "body": "ab"}', "bad_row", {"id": 7, "body": "ab"}),
    Bad(b'{"id": 7, "text": 5}', "bad_row", {"id": 7, "text": 5}),
    Bad(b'{"id": 7, "text": NaN}', "bad_row", {"id": 7}),
    Bad(b'{"id": 7, "text": "ab", "to": NaN}', "bad_row", {"id": 7, "text": "ab"}, "ab"),
    Bad(b'{"id": 7, "text": "ab", "to": 5}', "bad_row", {"id": 7, "text": "ab", "to": 5}, "ab"),
    Bad(b'{"id": 7, "text": "ab", "to": "tlh"}', "bad_language", {"id": 7, "text": "ab", "to": "tlh"}, "ab"),
    Bad(b'{"id": 7, "text": "ab", "to": "%s"}' % (b"z" * 99), "bad_language", {"id": 7, "text": "ab"}, "ab"),
    Bad(b'{"id": 7, "text": "ab", "text": "cd"}', "bad_row", {"id": 7}),
    Bad(b'{"id": 7, "text": "ab", "to": "fr", "to": "de"}', "bad_row", {"id": 7, "text": "ab"}, "ab"),
    Bad(b'{"id": 7, "text": "ab", "n": ' + b"[" * 900 + b"]" * 900 + b"}", "too_long", {"id": 7}, "ab"),
    Bad(long_json(""), "too_long", {"id": 7, "text": LONG}, LONG),
    Bad(long_json(', "n": [{"a": "]"}, -1.5e3, NaN, true]', " }  "), "too_long", {"id": 7, "text": LONG}, LONG),
    Bad(long_json(', "n": "\\u00e9\\n\\""'), "too_long", {"id": 7, "text": LONG, "n": 'é\n"'}, LONG),
    Bad(long_json("").replace(b"xxx", b"\xff\xc3\xa9x", 1), "too_long", {"id": 7}, "\ufffdéx" + LONG[3:]),
    Bad(long_json(', "n": "torn', ""), "too_long", {"id": 7, "text": LONG}),
    Bad(long_json("", "} x"), "too_long", {"id": 7, "text": LONG}),
    Bad(long_json(', "text": "b"'), "too_long", {"id": 7}),
    Bad(long_json("").replace(b'"text"', b'"te\\u0078t"'), "too_long", {"id": 7, "text": LONG}, LONG),
    Bad(b"[" * 400, "too_long", {}),
]
DEEP = Bad(b'{"id": 7, "text": "ab", "n": ' + b"[" * 900 + b"]" * 900 + b"}", "bad_row", {"id": 7, "text": "ab"}, "ab")
CSV = [
    Bad(b"7,a\xffb,", "bad_encoding", {"id": "7", "text": "a\ufffdb"}, "a\ufffdb"),
    Bad(b'7,"a,b","\xff"', "bad_encoding", {"id": "7", "text": "a,b", "to": "\ufffd"}, "a,b"),
    Bad(b"7", "bad_row", {"id": "7", "text": "", "to": ""}),
    Bad(b"7,ab", "bad_row", {"id": "7", "text": "ab", "to": ""}),
    Bad(b"7,ab,fr,x", "bad_row", {"id": "7", "text": "ab", "to": "fr,x"}),
    Bad(b'7,ab,fr,"x ""y""",', "bad_row", {"id": "7", "text": "ab", "to": 'fr,x "y",'}),
    Bad(b'7,fr,"ab ""c', "bad_row", {"id": "7", "text": "fr", "to": 'ab "c'}, "fr"),
    Bad(b"7,ab,tlh", "bad_language", {"id": "7", "text": "ab", "to": "tlh"}, "ab"),
    Bad(b'"7",%s,fr' % LONG.encode(), "too_long", {"id": "7", "text": LONG, "to": "fr"}, LONG),
    Bad(b'7,"%s, ""b""\nc",fr' % LONG.encode(), "too_long", {"id": "7", "to": "fr"}, f'{LONG}, "b"\nc'),
    Bad(b'7,"a\nb\n%s\n\n",fr' % LONG.encode(), "too_long", {"id": "7", "to": "fr"}, f"a\nb\n{LONG}\n\n"),
    Bad(b"7,%s" % LONG.encode(), "too_long", {"id": "7", "text": LONG, "to": ""}),
    Bad(b"7,b,%s,d" % LONG.encode(), "too_long", {"id": "7", "text": "b", "to": f"{LONG},d"}),
    Bad(b'7,b,"%s' % LONG.encode(), "too_long", {"id": "7", "text": "b", "to": LONG}),
    Bad(b"7,%s\xff,fr" % LONG.encode(), "too_long", {"id": "7", "text": LONG + "\ufffd", "to": "fr"}, LONG + "\ufffd"),
    Bad(b"7,a\rb%s,fr" % LONG.encode(), "too_long", {"id": "7", "text": f"a\rb{LONG}", "to": "fr"}, f"a\rb{LONG}"),
]
TSV = [
    Bad(b"7\ta\xffb\t", "bad_encoding", {"id": "7", "text": "a\ufffdb"}, "a\ufffdb"),
    Bad(b"7", "bad_row", {"id": "7", "text": "", "to": ""}),
    Bad(b"7\tab\tfr\tx", "bad_row", {"id": "7", "text": "ab", "to": "fr x"}),
    Bad(b"7\tab\ttlh", "bad_language", {"id": "7", "text": "ab", "to": "tlh"}, "ab"),
    Bad(b'7\t"%s\tfr' % LONG.encode(), "too_long", {"id": "7", "text": '"' + LONG, "to": "fr"}, '"' + LONG),
    Bad(b"7\t%s" % LONG.encode(), "too_long", {"id": "7", "text": LONG, "to": ""}),
    Bad(b"7\t%s\tb\tc\td" % LONG.encode(), "too_long", {"id": "7", "text": LONG, "to": "b c d"}),
    Bad(b"7\t%s\xff\tfr" % LONG.encode(), "too_long", {"id": "7", "to": "fr"}, LONG + "\ufffd"),
]
TEXT = [Bad(b"a\xffb", "bad_encoding", {}), Bad(LONG.encode(), "too_long", {}), Bad(b"\xff" * 400, "too_long", {})]
PARQUET = [
    Bad(b"a\xffb", "bad_encoding", {"id": 7}, "a\ufffdb"),
    Bad(LONG.encode(), "too_long", {"id": 7}, LONG),
    Bad(b"ab", "bad_language", {"id": 7}, "ab"),
]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
}


def run(folder: Path, *overrides: str) -> Any:
    overrides = ("tgt_lang=fr", "model=demo", f"output_dir={folder}", "name=out", "check.max_error_rate=1", *overrides)
    with Reporter("off") as reporter:
        return fake_job.translate_with(settings.load("translate", overrides), reporter)


def rows_of(data: bytes, kind: str) -> list[dict[str, Any]]:
    """Read the rows of an output without the readers of this project."""
    if kind == "csv":
        return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))
    lines = data.split(b"\n")[:-1]
    if kind == "jsonl":
        return [json.loads(line) for line in lines]
    if kind == "text":
        return [{"translation": line} for line in lines]
    names, *records = (line.decode().split("\t") for line in lines)
    return [dict(zip(names, record, strict=True)) for record in records]


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "tsv"])
@pytest.mark.fault(56, 57, 61)
def test_an_unusable_row_keeps_everything_but_its_translation(
    tmp_path: Path, kind: str, packing: str, on_error: str
) -> None:
    cases = {"text": TEXT, "jsonl": JSONL, "csv": CSV, "tsv": TSV}[kind]
    head = {"csv": b"id,text,to\n", "tsv": b"id\ttext\tto\n"}.get(kind, b"")
    good = {"text": b"ok %d", "jsonl": b'{"id": %d, "text": "ok"}', "csv": b"%d,ok,", "tsv": b"%d\tok\t"}[kind]
    lines: list[bytes] = []
    for index, bad in enumerate(cases):
        lines += [good % index, bad.raw]
    name = f"in.{'txt' if kind == 'text' else kind}{packing}"
    (tmp_path / name).write_bytes(PACK[packing](head + b"".join(line + b"\n" for line in [*lines, good % 99])))
    overrides = [] if kind == "text" else ["source.tgt_lang_field=to"]
    summary = run(
        tmp_path,
        f"source.path={tmp_path / name}",
        f"source.max_row_bytes={LIMIT}",
        f"write.on_error={on_error}",
        "batch.shard_rows=5",
        *overrides,
    )
    data = UNPACK[packing]((tmp_path / "out/translated" / name).read_bytes())
    output_rows = rows_of(data, kind)
    assert len(output_rows) == summary.rows == 2 * len(cases) + 1
    errors = [json.loads(line) for line in (tmp_path / f"out/errors/{name}.errors.jsonl").read_text().splitlines()]
    assert [line["row"] for line in errors] == list(range(2, 2 * len(cases) + 1, 2))
    for index, (bad, error) in enumerate(zip(cases, errors, strict=True)):
        good_row, row = output_rows[2 * index], output_rows[2 * index + 1]
        assert good_row["translation"] in ("OK", f"OK {index}".encode())
        assert good_row.get("id") in (None, index, str(index))
        assert (error["id"], error["status"]) == (f"{name}#{2 * index + 2}", bad.status), bad
        shown = bad.raw.decode("utf-8", "backslashreplace")
        assert error["raw"] == shown and "raw_cut" not in error
        assert error["message"].startswith(f"{name}:{2 * index + 2} ")
        if kind != "text":
            metadata = row["hymt"] if kind == "jsonl" else json.loads(row["hymt"])
            assert metadata == {"id": error["id"], "status": bad.status, "flags": []}
            kept_fields = {name: row.get(name) for name in bad.fields}
            assert kept_fields == bad.fields, bad
            source = bad.source if bad.source is not None else bad.raw.decode("utf-8", "replace")
            source = source.replace("\t", " ") if kind == "tsv" else source
            assert row["translation"] == (source if on_error == "source" else ""), bad
        else:
            assert row["translation"] == (bad.raw if on_error == "source" else b"")
    assert output_rows[-1]["translation"] in ("OK", b"OK 99")
    assert sum(summary.counts.values()) == summary.rows and summary.counts["ok"] == len(cases) + 1


@pytest.mark.parametrize("on_error", ["empty", "source"])
def test_an_unusable_parquet_row_keeps_everything_but_its_translation(tmp_path: Path, on_error: str) -> None:
    texts = pa.array([b"ok", *(bad.raw for bad in PARQUET)], pa.binary()).view(pa.string())
    table = pa.table({"id": [0, 7, 7, 7], "text": texts, "to": ["", "", "", "tlh"]})
    parquet.write_table(table, tmp_path / "in.parquet")
    run(
        tmp_path,
        f"source.path={tmp_path / 'in.parquet'}",
        f"source.max_row_bytes={LIMIT}",
        f"write.on_error={on_error}",
        "source.tgt_lang_field=to",
    )
    output_rows = parquet.read_table(tmp_path / "out/translated/in.parquet", columns=["id", "translation", "hymt"])
    errors = [json.loads(line) for line in (tmp_path / "out/errors/in.parquet.errors.jsonl").read_text().splitlines()]
    assert len(output_rows) == 4 and len(errors) == 3
    for bad, row, error in zip(PARQUET, output_rows.to_pylist()[1:], errors, strict=True):
        assert (row["id"], row["hymt"]["status"], error["status"]) == (7, bad.status, bad.status)
        assert row["translation"] == (bad.source if on_error == "source" else "")
        assert error["raw"] == bad.raw.decode("utf-8", "backslashreplace")


@pytest.mark.fault(61)
def test_a_too_deeply_nested_row_keeps_its_fields_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "ok"}\n' + DEEP.raw + b"\n")
    run(tmp_path, f"source.path={tmp_path / 'in.jsonl'}", "write.on_error=source")
    line = (tmp_path / "out/translated/in.jsonl").read_bytes().splitlines()[1]
    assert line.startswith(DEEP.raw[:-1] + b', "translation": "ab", "hymt": {"id": "in.jsonl#2", "status": "bad_row"')


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 5000, "[NaN]"])
def test_an_unreadable_number_in_an_unused_field_is_harmless(tmp_path: Path, value: str) -> None:
    raw = f'{{"id": 1, "n": {value}, "text": "ab"}}'.encode()
    (tmp_path / "in.jsonl").write_bytes(raw + b"\n")
    summary = run(tmp_path, f"source.path={tmp_path / 'in.jsonl'}")
    assert summary.counts == {"ok": 1}
    assert (tmp_path / "out/translated/in.jsonl").read_bytes().startswith(raw[:-1] + b', "translation": "AB"')
    (input,) = discovery.find_inputs(config := SourceConfig(path=str(tmp_path / "in.jsonl")))
    plan_1_statuses = [document.status.value for document, _ in read_documents(input, config, plan_version=1)]
    assert plan_1_statuses == ["ok" if value == "1e999" else "bad_row"]  # plan 1 does not translate these rows


@pytest.mark.parametrize("name", ["translation", "hymt"])
def test_a_row_with_a_reserved_field_is_translated_and_becomes_a_bad_row_when_written(
    tmp_path: Path, name: str
) -> None:
    row = f'{{"text": "cd", "{name}": [1]}}'
    lines = [*['{"text": "ab"}'] * 120, row, '{"text": ""}'.replace("}", f', "{name}": 2}}'), '{"text": "ef"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    overrides = [f"source.path={tmp_path / 'in.jsonl'}", "batch.shard_rows=50"]
    summary = run(tmp_path, *overrides)
    output_lines = (tmp_path / "out/translated/in.jsonl").read_text().splitlines()
    assert output_lines[120:122] == lines[120:122] and json.loads(output_lines[122])["translation"] == "EF"
    assert summary.counts == {"ok": 121, "bad_row": 2}
    errors = [json.loads(line) for line in (tmp_path / "out/errors/in.jsonl.errors.jsonl").read_text().splitlines()]
    assert [(line["row"], line["status"], line["raw"]) for line in errors] == [
        (121, "bad_row", lines[120]),
        (122, "bad_row", lines[121]),
    ]
    assert f"already has a field '{name}'" in errors[0]["message"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["counts"] == {"bad_row": 2, "ok": 121}
    assert run(tmp_path, *overrides).num_rows_decoded == 0  # a second run keeps the result
    text_summary = run(
        tmp_path, overrides[0], "write=text", "name=text"
    )  # text output adds no field, so there is no conflict
    assert text_summary.counts == {"ok": 123}
    assert (tmp_path / "text/translated").is_dir()


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.fault(57, 84)
def test_a_row_of_any_size_is_copied_in_bounded_memory(tmp_path: Path, kind: str, packing: str) -> None:
    size = 12 << 20
    row = {
        "txt": b"%s",
        "jsonl": b'{"id": 7, "text": "%s", "n": [1]}',
        "csv": b'7,"%s"',
        "tsv": b"7\t%s",
    }[kind] % (b"x" * size)
    head = {"csv": b"id,text\n", "tsv": b"id\ttext\n"}.get(kind, b"")
    path = tmp_path / f"in.{kind}{packing}"
    data = head + row + b"\n" + row + b"\n"
    path.write_bytes(gzip.compress(data, 1) if packing else data)
    config = SourceConfig(path=str(path))
    (input,) = discovery.find_inputs(config)

    class Out(io.RawIOBase):
        size, last = 0, b""

        def write(self, data: Any) -> int:
            self.size, self.last = self.size + len(data), bytes(data[-200:])
            return len(data)

    out = Out()
    writer = open_writer(
        input if not packing else Input(input.rel, input.rel.removesuffix(packing), input.path, input.format),
        input.format,
        read_preamble(input, config),
        WriteConfig(on_error=OnError.source),
        out,  # type: ignore[arg-type]
    )
    tracemalloc.start()
    for document, _ in stream.read_full_documents(input, config, [input]):
        assert document.status is Status.TOO_LONG
        writer.write(document, Row(document.row_index, document.digest, Status.TOO_LONG, ""))
    writer.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    copies = 2 if kind == "txt" else 4  # the field itself, and the source text as the translation
    assert copies * size < out.size < copies * size + 2000


def test_plan_1_splits_a_record_over_the_limit_at_its_lines(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'id,text\n1,"%s\nb"\n2,ok\n' % LONG.encode())
    (input,) = discovery.find_inputs(config := SourceConfig(path=str(tmp_path / "in.csv"), max_row_bytes=LIMIT))
    for plan, expected in ((1, ["too_long", "bad_row", "ok"]), (2, ["too_long", "ok"])):
        for full in (False, True):
            rows = [d.status.value for d, _ in read_documents(input, config, plan_version=plan, full=full)]
            assert rows == expected
        shards = list(
            cut_shards([input], config, shard_rows=1, shard_bytes=9, get_record=lambda *_: None, plan_version=plan)
        )
        assert [len(shard.documents) for shard in shards] == [1] * len(expected)  # type: ignore[union-attr]
        assert shards[-1].end == (tmp_path / "in.csv").stat().st_size  # type: ignore[union-attr]


def test_an_unclosed_quote_in_a_row_over_the_limit_costs_one_row(tmp_path: Path) -> None:
    for packing, pack in PACK.items():
        name = f"in.csv{packing}"
        (tmp_path / name).write_bytes(pack(b'id,text\n1,"%s\n2,a\n3,"b"\n' % LONG.encode()))
        (input,) = discovery.find_inputs(config := SourceConfig(path=str(tmp_path / name), max_row_bytes=LIMIT))
        rows = [(d.status.value, d.text) for d, _ in read_documents(input, config)]
        assert rows == [("too_long", None), ("ok", "a"), ("ok", "b")]
