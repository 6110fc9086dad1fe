"""parquet output: schema and metadata kept, row groups bounded, saved datasets, values that JSON lacks."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch.errors import ConfigError
from hymt_batch.formats.parquet import writer as module
from hymt_batch.formats.writer import check, open_writer
from hymt_batch.records import Document, Input, Preamble, Row, Status
from hymt_batch.write.settings import WriteConfig


def input_of(table: Any, folder: Path, **options: Any) -> Input:
    path = folder / "in.parquet"
    parquet.write_table(table, path, **options)
    return Input("in.parquet", "in.parquet", str(path), "parquet")


def documents_of(batches: list[Any], column: str = "text") -> list[Document]:
    positions = [(batch, index) for batch in batches for index in range(batch.num_rows)]
    return [
        Document(f"in.parquet#{row + 1}", row, batch.column(column)[index].as_py(), b"", values=(batch, index))
        for row, (batch, index) in enumerate(positions)
    ]


def written(input: Input, out_format: str, documents: list[Document], **config: Any) -> bytes:
    file = io.BytesIO()
    schema = documents[0].values[0].schema
    writer = open_writer(input, out_format, Preamble(schema=schema), WriteConfig(**config), file)
    for document in documents:
        writer.write(document, Row(document.row_index, b"", Status.OK, f"T{document.row_index}", ("f",)))
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "kept"), [("snappy", "SNAPPY"), ("none", "UNCOMPRESSED"), ("gzip", "GZIP"), ("brotli", "BROTLI")]
)
def test_columns_schema_metadata_and_codec_of_the_input_are_kept(codec: str, kept: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None, "c"],
            "label": pa.array(["x", "y", "x"]).dictionary_encode(),
            "deep": pa.array([{"a": [1, 2], "b": None}, None, {"a": [], "b": b"x"}]),
            "when": pa.array([1, 2, None], pa.timestamp("us", "Europe/Berlin")),
            "big": pa.array(["1", "2", "3"], pa.large_string()),
        }
    ).replace_schema_metadata({"owner": "me", "pandas": '{"columns": []}'})
    field = table.schema.field("label").with_metadata({"note": "kept"})
    table = table.cast(table.schema.set(1, field))
    input = input_of(table, tmp_path, compression=codec)
    batches = list(parquet.ParquetFile(input.path).iter_batches(2))
    data = written(input, "parquet", documents_of(batches))
    output = parquet.read_table(io.BytesIO(data))
    assert output.select(table.column_names).equals(parquet.read_table(input.path))
    assert output.schema.metadata == parquet.read_schema(input.path).metadata
    assert output.schema.field("label").metadata[b"note"] == b"kept"
    assert output.column("translation").to_pylist() == ["T0", "T1", "T2"]
    assert output.column("hymt")[1].as_py() == {"id": "in.parquet#2", "status": "ok", "flags": ["f"]}
    assert parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).compression == kept
    assert data == written(input, "parquet", documents_of(batches))


def test_row_groups_have_the_configured_number_of_rows_for_any_batch_size(tmp_path: Path) -> None:
    table = pa.table({"text": [str(row) for row in range(23)]})
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches(max_chunksize=3)), row_group_rows=5)
    metadata = parquet.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [5, 5, 5, 5, 3]
    assert parquet.read_table(io.BytesIO(data)).column("translation").to_pylist() == [f"T{row}" for row in range(23)]
    assert data == written(input, "parquet", documents_of(table.to_batches(max_chunksize=7)), row_group_rows=5)


def test_a_row_group_ends_early_at_its_byte_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1000)
    table = pa.table({"text": ["x" * 400] * 12})
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches(max_chunksize=2)))
    assert parquet.ParquetFile(io.BytesIO(data)).metadata.num_row_groups == 3
    assert parquet.read_table(io.BytesIO(data)).num_rows == 12


def test_long_texts_of_a_conversion_end_a_row_group_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1000)
    monkeypatch.setattr(module, "_RUN_CHARS", 1000)
    documents = [Document(f"a.txt#{row + 1}", row, "x" * 400, b"") for row in range(12)]
    file = io.BytesIO()
    writer = open_writer(Input("a.txt", "a.parquet", "", "text"), "parquet", Preamble(), WriteConfig(), file)
    for document in documents:
        writer.write(document, Row(document.row_index, b"", Status.OK, f"T{document.row_index}"))
    writer.close()
    assert parquet.ParquetFile(io.BytesIO(file.getvalue())).metadata.num_row_groups == 4


def test_a_limited_pass_writes_only_the_rows_it_was_given(tmp_path: Path) -> None:
    table = pa.table({"text": [str(row) for row in range(10)]})
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches(max_chunksize=4))[:6])
    assert parquet.read_table(io.BytesIO(data)).column("text").to_pylist() == [str(row) for row in range(6)]


def test_a_saved_dataset_keeps_its_features(tmp_path: Path) -> None:
    rows = ["a", "b"]
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["n", "p"]), "image": datasets.Image()}
    )
    columns = {"text": rows, "kind": [1] * len(rows), "image": [{"bytes": b"x", "path": None}] * len(rows)}
    table = pa.table(columns, schema=features.arrow_schema)
    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    input = Input("saved", "saved.parquet", str(tmp_path / "saved"), "parquet", dataset="arrow")
    data = written(input, "parquet", documents_of(table.to_batches(max_chunksize=1)))
    (tmp_path / "out.parquet").write_bytes(data)
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert {name: loaded.features[name] for name in features} == features
    assert loaded.features["translation"] == datasets.Value("string")
    assert list(loaded["translation"]) == [f"T{row}" for row in range(len(rows))]
    assert all(meta["flags"] == ["f"] for meta in loaded["hymt"])


def test_the_dataset_fingerprint_of_the_input_is_dropped(tmp_path: Path) -> None:
    huggingface = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}}}, "fingerprint": "1234"}
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": json.dumps(huggingface)})
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches()))
    dataset_info = json.loads(parquet.read_schema(io.BytesIO(data)).metadata[b"huggingface"])
    assert (
        list(dataset_info["info"]["features"]) == ["text", "translation", "hymt"] and "fingerprint" not in dataset_info
    )


@pytest.mark.parametrize("value", [b"no json", b"[]", b'{"info": 1}', b'{"info": {"features": []}}'])
def test_malformed_features_are_kept_unchanged(value: bytes, tmp_path: Path) -> None:
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": value})
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches()))
    assert parquet.read_schema(io.BytesIO(data)).metadata[b"huggingface"] == value


def test_taken_names_and_types_that_parquet_lacks_are_refused_before_the_job(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "hymt": [1]})
    input = input_of(table, tmp_path)
    with pytest.raises(ConfigError, match=r"already has a field 'hymt'.*Set write\.meta_field"):
        check(input, "parquet", Preamble(schema=table.schema), WriteConfig())
    check(input, "text", Preamble(schema=table.schema), WriteConfig())
    union = pa.schema([("text", pa.string()), ("u", pa.sparse_union([pa.field("a", pa.int8())]))])
    with pytest.raises(
        ConfigError, match=r"in\.parquet has a column that parquet cannot store.*Set write\.format=jsonl"
    ):
        check(input, "parquet", Preamble(schema=union), WriteConfig())


def test_values_that_json_lacks_become_text_or_numbers(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "text": ["a"],
        "b": [b"\xff\0"],
        "d": [date(2024, 1, 2)],
        "t": [time(3, 4, 5)],
        "dt": [datetime(2024, 1, 2, 3, 4, 5, 6, UTC)],
        "ns": pa.array([1_704_164_645_123_456_789], pa.timestamp("ns")),
        "td": [timedelta(seconds=90)],
        "n": [Decimal("1.50")],
        "f": [float("nan")],
        "i": [2**60],
        "z": pa.array([None], pa.null()),
        "y": [True],
    }
    input = input_of(pa.table(columns), tmp_path)
    batches = list(parquet.ParquetFile(input.path).iter_batches())
    row = json.loads(written(input, "jsonl", documents_of(batches)))
    expected = {
        "text": "a",
        "b": base64.b64encode(b"\xff\0").decode(),
        "d": "2024-01-02",
        "t": "03:04:05",
        "dt": "2024-01-02T03:04:05.000006+00:00",
        "ns": "2024-01-02T03:04:05.123456789",
        "td": 90.0,
        "n": "1.50",
        "f": "NaN",
        "i": 2**60,
        "z": None,
        "y": True,
    }
    assert list(row)[:-2] == list(expected) and row == {**row, **expected}
    record = next(csv.DictReader(io.StringIO(written(input, "csv", documents_of(batches)).decode(), newline="")))
    assert (record["f"], record["z"]) == ("NaN", "") and record["y"] == "true" and record["i"] == str(2**60)


def test_nested_columns_become_objects_in_jsonl_and_json_text_in_csv(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "deep": [{"x": [b"1"]}, None]})
    input = input_of(table, tmp_path)
    documents = documents_of(table.to_batches())
    lines = [json.loads(line) for line in written(input, "jsonl", documents).splitlines()]
    assert [line["deep"] for line in lines] == [{"x": ["MQ=="]}, None]
    records = list(csv.DictReader(io.StringIO(written(input, "csv", documents).decode(), newline="")))
    assert [list(record) for record in records] == [["text", "deep", "translation", "hymt"]] * 2
    assert [record["deep"] for record in records] == ['{"x":["MQ=="]}', ""]
    assert [record["text"] for record in records] == ["a", "b"]


def test_a_string_column_with_invalid_utf_8_is_converted(tmp_path: Path) -> None:
    broken = pa.array([b"ok", b"\xff!"]).view(pa.string())
    nested = pa.StructArray.from_arrays([broken], ["s"])
    table = pa.table({"text": ["a", "b"], "broken": broken, "nested": nested})
    input = input_of(table, tmp_path)
    documents = documents_of(table.to_batches())
    lines = [json.loads(line) for line in written(input, "jsonl", documents).splitlines()]
    assert [line["broken"] for line in lines] == ["ok", "\ufffd!"]
    assert [line["nested"] for line in lines] == [{"s": "ok"}, {"s": "\ufffd!"}]
    kept = parquet.read_table(io.BytesIO(written(input, "parquet", documents)))
    assert kept.column("broken").cast(pa.binary()).to_pylist() == [b"ok", b"\xff!"]


def test_converting_in_windows_pairs_every_row_with_its_own_fields(tmp_path: Path) -> None:
    table = pa.table({"text": [str(row) for row in range(300)]})
    input = input_of(table, tmp_path)
    documents = documents_of(table.to_batches(max_chunksize=130))
    lines = [json.loads(line) for line in written(input, "jsonl", documents).splitlines()]
    assert [(line["text"], line["translation"]) for line in lines] == [(str(row), f"T{row}") for row in range(300)]


def test_two_columns_with_the_same_name_are_kept_in_parquet_and_refused_in_jsonl(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["text", "n", "n"])
    input = input_of(table, tmp_path)
    data = written(input, "parquet", documents_of(table.to_batches()))
    assert parquet.read_schema(io.BytesIO(data)).names == ["text", "n", "n", "translation", "hymt"]
    with pytest.raises(ConfigError, match="more than one column 'n'"):
        check(input, "jsonl", Preamble(schema=table.schema), WriteConfig())
