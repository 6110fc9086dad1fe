"""Conversions between formats: every pair keeps columns and rows; values that a format cannot hold become text."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch import config as settings
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.formats.jsonl import columns
from hymt_batch.formats.row_values import json_number
from hymt_batch.formats.writer import check, open_writer
from hymt_batch.records import Document, Row, Status
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.input_names import OutputNames
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.write.settings import WriteConfig
from jobs import verify
from tests.fakes import job as fake_job

LOW, HIGH = -(2**63), 2**63 - 1
EXTENSION = {"text": "txt", "jsonl": "jsonl", "csv": "csv", "tsv": "tsv", "parquet": "parquet"}
NESTED = {"x": [1, None], "y": "ü"}
ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": "first, with a comma", "score": 0.5, "ok": True, "deep": NESTED},
    {"id": 2, "text": 'second "quoted"', "score": None, "ok": False, "deep": None},
    {"id": 3, "text": "third", "score": 2.25, "ok": None, "deep": {"x": [], "y": ""}},
]


def save(folder: Path, table: Any) -> Path:
    """Save a table like `datasets` saves a split."""
    folder.mkdir()
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def delimited(rows: list[dict[str, Any]], delimiter: str) -> str:
    file = io.StringIO(newline="")
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    quotechar = None if delimiter == "\t" else '"'
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting, quotechar=quotechar)
    writer.writerow(rows[0])
    writer.writerows([as_text(value) for value in row.values()] for row in rows)
    return file.getvalue()


def write(kind: str, folder: Path) -> Path:
    """Write ROWS as an input of one kind."""
    if kind == "dataset":
        return save(folder / "in", pa.Table.from_pylist(ROWS))
    path = folder / f"in.{EXTENSION[kind]}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "text":
        path.write_text("".join(row["text"] + "\n" for row in ROWS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(delimited(ROWS, "," if kind == "csv" else "\t"))
    return path


def read(path: Path, kind: str) -> list[dict[str, Any]]:
    """Read the rows of an output with independent readers."""
    if kind == "parquet":
        return list(parquet.read_table(path).to_pylist())
    text = path.read_text(encoding="utf-8")
    if kind == "jsonl":
        return [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in text.splitlines()]
    if kind == "text":
        return [{"translation": line} for line in text.split("\n")[:-1]]
    quoting: Any = csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
    delimiter = "\t" if kind == "tsv" else ","
    file = io.StringIO(text, newline="")
    records = list(csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True))
    return [{**row, "hymt": json.loads(row["hymt"])} for row in records]


def run(folder: Path, *overrides: str) -> Any:
    """Run the job with the stub model, then verify."""
    job = settings.load("translate", [f"output_dir={folder}", "tgt_lang=fr", "model=demo", "name=n", *overrides])
    with Reporter("off") as reporter:
        result = fake_job.translate_with(job, reporter)
    report = verify.verify(folder / "n")
    assert (report.exit_code, report.damage, report.rows) == (ExitCode.COMPLETE, [], result.rows)
    return result


@pytest.mark.parametrize("out_format", EXTENSION)
@pytest.mark.parametrize("kind", [*EXTENSION, "dataset"])
def test_every_pair_of_formats_keeps_all_columns_values_and_rows(kind: str, out_format: str, tmp_path: Path) -> None:
    result = run(tmp_path / "out", f"source.path={write(kind, tmp_path)}", f"write={out_format}")
    assert result.rows == len(ROWS)
    rows = read(tmp_path / f"out/n/translated/in.{EXTENSION[out_format]}", out_format)
    assert [row["translation"] for row in rows] == [str(row["text"]).upper() for row in ROWS]
    if out_format == "text":
        return
    keeps_types = kind in ("parquet", "dataset", "jsonl") and out_format in ("parquet", "jsonl")
    for row_number, (row, source) in enumerate(zip(rows, ROWS, strict=True), 1):
        expected: dict[str, Any] = {"text": source["text"]} if kind == "text" else dict(source)
        if not keeps_types:
            expected = {name: as_text(value) for name, value in expected.items()}
        elif (kind, out_format) == ("jsonl", "parquet"):  # a column has one type; objects become text
            expected["deep"] = None if expected["deep"] is None else as_text(expected["deep"])
        assert {name: value for name, value in row.items() if name not in ("translation", "hymt")} == expected
        assert list(row) == [*expected, "translation", "hymt"]
        assert (row["hymt"]["status"], row["hymt"]["id"].endswith(f"#{row_number}")) == ("ok", True)


def test_fields_that_only_some_rows_of_jsonl_have_become_columns(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = ['{"text": "a", "n": 1}', "", '{"b": [NaN], "text": "b"}', '{"text": "c", "late": "x\\ty\\ud800"}']
    source.write_text("\n".join(lines).replace("NaN", "0.5") + "\n")
    for out_format in ("csv", "tsv", "parquet"):
        run(tmp_path / out_format, f"source.path={source}", f"write={out_format}")
        rows = read(tmp_path / out_format / f"n/translated/in.{out_format}", out_format)
        assert [list(row) for row in rows] == [["text", "n", "b", "late", "translation", "hymt"]] * 4
        null = None if out_format == "parquet" else ""
        assert [row["n"] for row in rows] == [1 if out_format == "parquet" else "1", null, null, null]
        assert [row["b"] for row in rows] == [null, null, "[0.5]", null]
        late = "x y\\ud800" if out_format == "tsv" else "x\ty\\ud800"
        assert [row["late"] for row in rows] == [null, null, null, late]
        assert [row["text"] for row in rows] == ["a", null, "b", "c"]


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        ([True, None, False], [True, None, False], "bool"),
        ([1, LOW, HIGH], [1, LOW, HIGH], "int64"),
        ([1, 2.5, -(2**53)], [1.0, 2.5, -(2.0**53)], "double"),
        ([1e400, -1e400, 0.1], [float("inf"), float("-inf"), 0.1], "double"),
        ([HIGH + 1, 1], [str(HIGH + 1), "1"], "string"),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"], "string"),
        ([True, 1], ["true", "1"], "string"),
        (["1", 1, None], ["1", "1", None], "string"),
        ([[1], {"a": None}, "x"], ["[1]", '{"a":null}', "x"], "string"),
        ([None, None], [None, None], "string"),
    ],
)
def test_jsonl_fields_get_the_narrowest_type_that_holds_them_all(
    values: list[Any], expected: list[Any], kind: str, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    lines = (json.dumps({"text": "a", "v": value}).replace("Infinity", "1e400") for value in values)
    source.write_text("".join(f"{line}\n" for line in lines))
    data, _ = converted(source, "parquet")
    column = parquet.read_table(io.BytesIO(data)).column("v")
    assert (str(column.type), column.to_pylist()) == (kind, expected)
    texts = [row["v"] for row in csv.DictReader(io.StringIO(converted(source, "csv")[0].decode(), newline=""))]
    assert texts == [as_text(json_number(value) if isinstance(value, float) else value) for value in values]


def test_more_fields_than_the_column_limit_are_refused_before_decoding(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": "a", f"k{n}": 1}) + "\n" for n in range(columns.MAX_COLUMNS)))
    with pytest.raises(ConfigError, match=r"rows up to 1000 have more than 1000 different.*Set write\.format=jsonl"):
        run(tmp_path / "out", f"source.path={source}", "write=csv")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "out", f"source.path={source}", "write=jsonl").rows == columns.MAX_COLUMNS


def test_names_that_an_output_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": "a", "b\tc": 1, "b c": 2}) + "\n")
    assert converted(source, "csv")[0].startswith(b"text,b\tc,b c,")
    with pytest.raises(ConfigError, match="more than one column 'b c'"):
        converted(source, "tsv")


def converted(path: Path, out_format: str, **options: Any) -> tuple[bytes, int]:
    """Convert a file with the real readers and writers, after the checks before a job; return output and row count."""
    config = SourceConfig(path=str(path), **options)
    (input,) = discovery.find_inputs(config, outputs=OutputNames(out_format))

    def documents() -> Iterator[Document]:
        return (document for document, _ in stream.read_full_documents(input, config, [input], ("translation", "hymt")))

    kind = input.format if out_format == "input" else out_format
    preamble, file = read_preamble(input, config), io.BytesIO()
    check(input, kind, preamble, WriteConfig(), documents)
    writer = open_writer(input, kind, preamble, WriteConfig(), file, documents)
    num_rows = 0
    for document in documents():
        writer.write(document, Row(document.row_index, document.digest, document.status, f"T{document.row_index}"))
        num_rows += 1
    writer.close()
    return file.getvalue(), num_rows


def test_a_field_that_has_the_name_of_an_added_column_gets_a_prefixed_column(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    config = SourceConfig(path=str(tmp_path / "in.jsonl"))
    (input,) = discovery.find_inputs(config, outputs=OutputNames("csv"))
    documents = [
        Document("in.jsonl#1", 0, "a", b"", values={"text": "a"}),
        Document("in.jsonl#2", 1, "b", b"", values={"text": "b", "translation": [1]}),
    ]
    rows = [Row(0, b"", Status.OK, "A"), Row(1, b"", Status.BAD_ROW, "")]
    for out_format, own_value in (("csv", "[1]"), ("parquet", "[1]")):
        file = io.BytesIO()
        writer = open_writer(
            input, out_format, read_preamble(input, config), WriteConfig(), file, lambda: iter(documents)
        )
        for document, row in zip(documents, rows, strict=True):
            writer.write(document, row)
        writer.close()
        path = tmp_path / f"out.{out_format}"
        path.write_bytes(file.getvalue())
        output_rows = read(path, out_format)
        assert [list(row) for row in output_rows] == [["text", "source.translation", "translation", "hymt"]] * 2
        assert [row["translation"] for row in output_rows] == ["A", ""]
        assert [row["source.translation"] or "" for row in output_rows] == ["", own_value]
        assert [row["hymt"]["status"] for row in output_rows] == ["ok", "bad_row"]


def test_unusable_rows_are_kept_in_every_conversion(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'id,text\n1,one\n\n2\n3,a,b\n4,"open\n5,\xff\n6,last')
    (tmp_path / "in.tsv").write_bytes(b"id\ttext\n1\tone\n\n2\n3\ta\tb\n4\tfour\n5\t\xff\n6\tlast")
    (tmp_path / "in.jsonl").write_bytes(
        b'{"id": 1, "text": "one"}\n\n[]\n{"id": 3}\n{"id": 4, "text": 4}\n{"id": 5, "text": "\xff"}\n'
        b'{"id": 6, "text": "last"}'
    )
    for kind in ("csv", "tsv", "jsonl"):
        for out_format in EXTENSION:
            if out_format == kind:
                continue
            out_folder = tmp_path / f"{kind}-{out_format}"
            result = run(
                out_folder, f"source.path={tmp_path}/in.{kind}", f"write={out_format}", "check.max_error_rate=1"
            )
            rows = read(out_folder / f"n/translated/in.{EXTENSION[out_format]}", out_format)
            assert result.rows == len(rows) == 7
            assert (rows[0]["translation"], rows[-1]["translation"]) == ("ONE", "LAST")
            if out_format != "text":
                assert [row["hymt"]["id"] for row in rows] == [f"in.{kind}#{row}" for row in range(1, 8)]
                assert (str(rows[0]["id"]), str(rows[-1]["id"])) == ("1", "6")
                assert rows[1]["hymt"]["flags"] == ["blank"]


def test_tabs_and_line_breaks_of_fields_become_spaces_in_tsv_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.csv").write_text('id,text\n"a\tb","two\nlines"\n1,plain\n')
    data, _ = converted(tmp_path / "in.csv", "tsv")
    assert data.splitlines()[1].startswith(b"a b\ttwo lines\tT0\t") and len(data.splitlines()) == 3
    assert [record.message for record in caplog.records] == [
        "in.csv: tabs and line breaks in 2 fields became spaces, since tsv cannot hold them. Set write.format=csv or"
        " write.format=jsonl to keep them."
    ]
    assert converted(tmp_path / "in.csv", "jsonl")[0].startswith(b'{"id": "a\\tb", "text": "two\\nlines", ')


@pytest.mark.parametrize("out_format", ["parquet", "tsv"])
def test_the_demo_model_keeps_the_columns_too(out_format: str, tmp_path: Path) -> None:
    text = "Heavy rain is expected in Athens on Saturday."
    rows = [{"id": "7", "text": text}]
    (tmp_path / "a.csv").write_text(delimited(rows, ","))
    (tmp_path / "b.jsonl").write_text(json.dumps(rows[0]) + "\n")
    command = [sys.executable, "-m", "jobs.translate", f"source.path=[{tmp_path}/a.csv,{tmp_path}/b.jsonl]"]
    command += ["preset=demo", "name=n", f"write={out_format}", "strict=true", "tgt_lang=de", f"output_dir={tmp_path}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent.parent)
    assert process.returncode == 0, process.stderr
    for name in "ab":
        (row,) = read(tmp_path / f"n/translated/{name}.{out_format}", out_format)
        assert (row["id"], row["text"]) == ("7", text)
        assert row["translation"] == "In Athen wird am Samstag starker Regen erwartet."
