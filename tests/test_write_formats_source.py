"""Real files through the real readers to outputs that the same readers can read again."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Document, Input, Row, Status
from hymt_batch.source import discovery, shards
from hymt_batch.source.input_names import OutputNames
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.write.settings import WriteConfig

RESERVED = ("translation", "hymt")
WORDS = ["one", "", "  ", 'two "quoted", and more', "tab\tand\u2028sep\x85", "=3", "nul\0", "ünïcödé 🙂"]


def row_of(document: Document) -> Row:
    """Return the row that a job would commit for a document; the model upper-cases."""
    if document.status is not Status.OK:
        return Row(document.row_index, document.digest, document.status, "", (), document.message)
    text = document.text or ""
    if not text.strip():
        return Row(document.row_index, document.digest, Status.OK, "", ("blank",))
    return Row(document.row_index, document.digest, Status.OK, text.upper())


def translate(path: Path, out_format: str = "input", **settings: Any) -> tuple[bytes, list[Document]]:
    config = SourceConfig(path=str(path), **settings)
    [input] = discovery.find_inputs(config, outputs=OutputNames(out_format))
    documents = [document for document, _ in shards.read_documents(input, config, full=True, reserved=RESERVED)]
    file = io.BytesIO()
    kind = input.format if out_format == "input" else out_format
    writer = open_writer(input, kind, read_preamble(input, config), WriteConfig(), file)
    for document in documents:
        writer.write(document, row_of(document))
    writer.close()
    return file.getvalue(), documents


def read_again(data: bytes, input: Input, folder: Path, **settings: Any) -> list[Document]:
    """Read the rows of an output with our own readers."""
    path = folder / f"again-{Path(input.rel).name}"
    path.write_bytes(data)
    config = SourceConfig(path=str(path), **settings)
    [input_again] = discovery.find_inputs(config)
    return [document for document, _ in shards.read_documents(input_again, config, full=True)]


def write_text(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join(word.encode() for word in WORDS) + b"\r\nbad \xff\n" + b"x" * 99 + b"\nend"
    )
    return path


def write_jsonl(folder: Path) -> Path:
    path = folder / "a.jsonl"
    lines = [json.dumps({"id": row, "text": word}).encode() for row, word in enumerate(WORDS)]
    lines += [
        b"",
        b"{broken",
        b'{"text": "has", "hymt": 1}',
        b'{"text": 5, "id": 7}',
        b'{"text": "\\ud800"}',
        b"x" * 99,
    ]
    path.write_bytes(b"\n".join([*lines, b'{"text": "end"}']))
    return path


def write_csv(folder: Path) -> Path:
    path = folder / "a.csv"
    lines = [b'%d,"%s"' % (row, word.replace('"', '""').encode()) for row, word in enumerate(WORDS)]
    lines += [b'7,"two\r\nlines"', b"", b"too,many,fields", b"few", b'8,"open', b"9,\xff", b"a" * 99, b"10,lone\rcr"]
    path.write_bytes(b"\r\n".join([b'id,"text"', *lines, b"11,end"]))
    return path


def write_tsv(folder: Path) -> Path:
    path = folder / "a.tsv"
    lines = [f"{row}\t{word}".replace("tab\t", "") for row, word in enumerate(WORDS)]
    path.write_bytes("\n".join(["id\ttext", *lines, "", "few", 'quote"\t"x', "9\tend\n"]).encode())
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "a.parquet"
    table = pa.table({"id": list(range(len(WORDS) + 1)), "text": [*WORDS, None]})
    parquet.write_table(table, path, row_group_size=3)
    return path


WRITERS = {"text": write_text, "jsonl": write_jsonl, "csv": write_csv, "tsv": write_tsv, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_an_output_has_the_rows_of_its_input_each_with_its_translation(kind: str, tmp_path: Path) -> None:
    data, documents = translate(WRITERS[kind](tmp_path), max_row_bytes=80)
    assert len({document.status for document in documents}) == {"parquet": 1, "tsv": 2, "text": 3}.get(kind, 4)
    input = Input(f"a.{kind}", "", "", kind)
    field = {} if kind == "text" else {"text_field": "translation"}
    if kind == "text":
        input = Input("a.txt", "", "", "text")
    read_documents = read_again(data, input, tmp_path, **field)
    assert len(read_documents) == len(documents)
    assert all(document.status is Status.OK or b'"hymt": 1' in document.raw for document in read_documents)
    for document, read_document in zip(documents, read_documents, strict=True):
        row = row_of(document)
        if b'"hymt": 1' in document.raw:
            assert read_document.raw == document.raw
            continue
        blank = "blank" in row.flags
        expected = (document.text or "") if blank else row.text
        if kind in ("text", "tsv") and not blank:
            expected = expected.replace("\u2028", " ").replace("\x85", " ")
        assert read_document.text == expected
        if kind != "text" and read_document.values is not None and kind != "parquet":
            meta = read_document.values["hymt"]
            assert (meta if kind == "jsonl" else json.loads(meta))["id"] == document.id
        if document.values is not None and kind not in ("text", "parquet"):
            assert {name: read_document.values[name] for name in document.values} == document.values
            # the lone CR is requoted, to hold the added columns
            is_valid = document.status is Status.OK and document.text != "lone\rcr"
            assert not is_valid or document.raw.rstrip(b"}\r\n") in data


@pytest.mark.parametrize("out_format", WRITERS)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_conversion_has_the_rows_of_its_input(kind: str, out_format: str, tmp_path: Path) -> None:
    data, documents = translate(WRITERS[kind](tmp_path), out_format, max_row_bytes=80)
    name = {"text": "txt"}.get(out_format, out_format)
    field = {} if out_format == "text" else {"text_field": "translation"}
    read_documents = read_again(data, Input(f"a.{name}", "", "", out_format), tmp_path, **field)
    assert len(read_documents) == len(documents)
    assert all(document.status is Status.OK or b'"hymt": 1' in document.raw for document in read_documents)


def test_a_compressed_csv_without_header_keeps_its_name_and_its_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"three;columns;here\n1;two\n"))
    data, _ = translate(path, header=False, delimiter=";", text_field="2")
    lines = gzip.decompress(data).decode().split("\n")
    assert lines[0].startswith('three;columns;here;COLUMNS;"{""id"":""a.csv.gz#1""') and lines[2:] == [""]
    assert lines[1].startswith('1;two;;;"{""id"":""a.csv.gz#2"",""status"":""bad_row""')


@pytest.mark.parametrize("rows", [0, 3])
def test_a_saved_dataset_becomes_parquet(rows: int, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["a", "b"])})
    columns = {"text": [f"row {row}" for row in range(rows)], "kind": [0] * rows}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    data, documents = translate(tmp_path / "saved")
    assert len(documents) == rows
    output = parquet.read_table(io.BytesIO(data))
    assert output.column("translation").to_pylist() == [f"ROW {row}" for row in range(rows)]
    kept = datasets.Features.from_arrow_schema(output.schema)
    assert kept["kind"] == features["kind"] and list(kept) == ["text", "kind", "translation", "hymt"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_an_empty_file_stays_empty(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert translate(tmp_path / name)[0] == b""
