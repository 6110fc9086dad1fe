"""Rows of every format: a bad row keeps its index, reading continues after it, and nothing is lost or shifted."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from pyarrow import parquet

from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.formats import registry
from hymt_batch.formats.detect_encoding import check_encoding
from hymt_batch.formats.file_error import FileError
from hymt_batch.formats.long_rows import InputRereader
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.records import Document, Input, Status
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents


def compress_zst(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": compress_zst}


def source(tmp_path: Path, name: str, data: bytes, **settings: Any) -> tuple[Input, SourceConfig]:
    path = tmp_path / name
    path.write_bytes(data)
    config = SourceConfig(path=str(path), **settings)
    (input,) = discovery.find_inputs(config)
    return input, config


def read(tmp_path: Path, name: str, data: bytes, *, full: bool = False, **settings: Any) -> list[Document]:
    input, config = source(tmp_path, name, data, **settings)
    return [document for document, _ in read_documents(input, config, full=full)]


def read_from(
    input: Input, config: SourceConfig, *, cursor: int, first_row: int, full: bool = False
) -> Iterator[tuple[Document, int]]:
    """Read the rows from a cursor on, as a shard after the first one is read."""
    with (
        contextlib.closing(registry.of_input(input).open_input(input)) as file,
        contextlib.closing(InputRereader(input)) as rereader,
    ):
        preamble = file.read_preamble(config, ())
        context = ReadContext(
            first_row=first_row, full=full, header=preamble.header, fields=preamble.fields, rereader=rereader
        )
        yield from file.rows(config, context, cursor)


def texts(documents: list[Document]) -> list[str | None]:
    return [document.text for document in documents]


def bad(documents: list[Document]) -> dict[int, str]:
    return {document.row_index: document.message for document in documents if document.status is not Status.OK}


# text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb\r\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\rb\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8c\n\0\n", ["a\rb\x0b\x0c\x1c\x85\u2028c", "\0"]),
    ],
)
@pytest.mark.fault(53, 54)
def test_text_is_split_only_at_line_feeds(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    assert texts(read(tmp_path, "a.txt", data)) == expected


def test_rows_have_ids_cursors_raw_bytes_and_digests(tmp_path: Path) -> None:
    input, config = source(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\nthree")
    rows = list(read_documents(input, config, full=True))
    assert [document.id for document, _ in rows] == ["a.txt#1", "a.txt#2", "a.txt#3"]
    assert [cursor for _, cursor in rows] == [8, 12, 17]
    assert [document.raw for document, _ in rows] == [b"one\r\n", b"two\n", b"three"]
    assert rows[1][0].digest == blake2b(b"two\n", digest_size=8).digest()
    again = list(read_from(input, config, cursor=8, first_row=1, full=True))
    assert again == rows[1:]
    assert list(read_documents(input, config, max_rows=2, full=True)) == rows[:2]
    assert list(read_documents(input, config, max_rows=0)) == []
    head = read_preamble(input, config)
    assert (head.bom, head.newline, head.num_bytes) == (b"\xef\xbb\xbf", b"\r\n", 3)


@pytest.mark.fault(56)
def test_a_row_that_is_not_utf8_is_an_error_row_and_reading_continues(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.txt", b"good\nab\xff\n\xed\xa0\x80\nlast\n")
    assert texts(rows) == ["good", None, None, "last"]
    assert rows[1].status is Status.BAD_ENCODING
    assert "a.txt:2" in rows[1].message and "0xff at offset 2" in rows[1].message


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("size", range(5, 14))
@pytest.mark.fault(57)
def test_a_row_is_too_long_only_above_the_limit(tmp_path: Path, end: bytes, size: int) -> None:
    data = b"x" * size + end
    (row,) = read(tmp_path, "a.txt", data, max_row_bytes=9, full=True)
    assert row.digest == blake2b(data, digest_size=8).digest()
    if size <= 9:
        assert (row.status, row.raw) == (Status.OK, data)
    else:
        assert (row.status, row.raw) == (Status.TOO_LONG, end)


@pytest.mark.fault(57, 84)
def test_an_endless_row_is_read_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    input, config = source(tmp_path, "a.txt", b"a\n" + b"x" * (32 << 20) + b"\r\nb\n", max_row_bytes=1000)
    tracemalloc.start()
    rows = [document for document, _ in read_documents(input, config, full=True)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts(rows) == ["a", None, "b"]
    assert rows[1].raw == b"\r\n"
    assert peak < 4 << 20


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(1, 12))
@example(b"\x1b$)G", 1)  # the escape sequence of ISO-2022-CN
@pytest.mark.fault(53, 54, 55)
def test_the_raw_rows_of_any_file_join_to_the_file(tmp_path: Path, data: bytes, limit: int) -> None:
    input, config = source(tmp_path, "a.txt", data, max_row_bytes=limit)
    try:
        check_encoding(input, data, is_utf8_only=True)
    except FileError:
        reject()
    rows = list(read_documents(input, config, full=True))
    bom = read_preamble(input, config).bom
    lines = data[len(bom) :].split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    assert [document.digest for document, _ in rows] == [blake2b(line, digest_size=8).digest() for line in lines]
    for (document, _), line in zip(rows, lines, strict=True):
        if document.status is Status.TOO_LONG:
            assert line.endswith(document.raw) and document.raw in (b"", b"\n", b"\r\n")
        else:
            assert document.raw == line
    for index, (_, cursor) in enumerate(rows):
        assert list(read_from(input, config, cursor=cursor, first_row=index + 1, full=True)) == rows[index + 1 :]


def test_utf16_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="iconv -f UTF-16"):
        read(tmp_path, "a.txt", "a\n".encode("utf-16"))


# compression


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.fault(64)
def test_concatenated_members_are_one_stream(tmp_path: Path, kind: str) -> None:
    data = PACK[kind](b"a\nb") + PACK[kind](b"") + PACK[kind](b"c\nd\n")
    input, config = source(tmp_path, f"a.txt.{kind}", data)
    rows = list(read_documents(input, config))
    assert [document.text for document, _ in rows] == ["a", "bc", "d"]
    assert list(read_from(input, config, cursor=rows[0][1], first_row=1)) == rows[1:]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.fault(64)
def test_the_error_for_a_truncated_or_damaged_compressed_file_names_it(tmp_path: Path, kind: str) -> None:
    body = b"".join(b"row %d of some length\n" % index for index in range(5000))
    packed = PACK[kind](body)
    second = PACK[kind](b"more\n")
    broken = [packed[: len(packed) // 2], packed[:-1], packed + second[:-1], packed + second[:3], b"", packed + b"junk"]
    for data in broken:
        with pytest.raises(PreflightError, match=rf"a\.txt\.{kind} is truncated or damaged"):
            read(tmp_path, f"a.txt.{kind}", data)


def test_padding_after_a_member_is_allowed_but_not_padding_alone(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.txt.gz", gzip.compress(b"a\n") + bytes(512))) == ["a"]
    with pytest.raises(PreflightError):
        read(tmp_path, "a.txt.gz", bytes(512))


# jsonl


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


@pytest.mark.fault(56, 61)
def test_jsonl_rows_that_cannot_be_read_are_error_rows_and_reading_continues(tmp_path: Path) -> None:
    good = {"id": 1, "text": "2024-01-01"}
    odd = [
        b'{"text": "a"',  # cut off
        b"[1]",
        b'{"id": 2}',
        b'{"text": 5}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "\\u0074ext": "b"}',
        b'{"text": "a", "n": NaN}',
        b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
        b'{"text": "a"} x',
        b"\0",
    ]
    first = read(tmp_path, "in.jsonl", lines(good, *odd, good))
    assert texts(first) == ["2024-01-01", *[None] * 6, "a", *[None] * 4, "a", None, None, "2024-01-01"]
    rows = read(tmp_path, "in.jsonl", lines(good, *odd, good), full=True)
    assert [row.status for row in rows] == [row.status for row in first]
    assert [row.row_index for row in rows if row.status is Status.BAD_ENCODING] == [9, 10, 11]
    assert [row.row_index for row in rows if row.status is Status.BAD_ROW] == [1, 2, 3, 4, 5, 6, 8, 13, 14]
    assert texts(rows)[8:12] == [
        "a",
        "\ufffd",
        "\ufffd",
        "\ufffd\ufffd\ufffd",
    ]  # the text is known although the rows are rejected
    rows = [row for row in rows if row.status is not Status.OK or row.values == good]
    assert all(row.message.startswith(f"in.jsonl:{row.row_index + 1} ") for row in rows[1:-1])
    assert (
        rows[3].message
        == "in.jsonl:4 has no field 'text'. Its fields are ['id']. Set source.text_field to one of them."
    )
    assert rows[3].values == {"id": 2}
    assert rows[1].values == {"text": "a"}
    assert rows[2].values is None
    assert rows[0].values == good
    rows = read(tmp_path, "in.jsonl", lines(good, *odd, good), full=True)
    assert b"".join(row.raw for row in rows) == lines(good, *odd, good)


def test_blank_lines_and_nulls_are_rows_without_text(tmp_path: Path) -> None:
    rows = read(tmp_path, "in.jsonl", b'{"text": "a"}\n\n \t\r\n{"text": null}\r\n{"text": "b"}')
    assert texts(rows) == ["a", "", "", "", "b"]
    assert not bad(rows)


def test_dotted_fields_reach_into_objects_but_a_plain_name_wins(tmp_path: Path) -> None:
    data = lines({"a": {"b": "in"}}, {"a.b": "plain", "a": {"b": "in"}}, {"a": 1}, {"a": {"b": {"c": 1}}})
    rows = read(tmp_path, "in.jsonl", data, text_field="a.b")
    assert texts(rows) == ["in", "plain", None, None]


@pytest.mark.fault(61)
def test_a_jsonl_file_without_the_text_field_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "in.jsonl", lines({"id": 1, "body": "x"}, {"id": 2}))
    assert "in.jsonl:1 has no field 'text'" in str(caught.value)
    assert "Its fields are ['id', 'body']. Set source.text_field to one of them." in str(caught.value)
    assert texts(read(tmp_path, "in.jsonl", lines(*[{"id": 1}] * 99, {"text": "a"}))) == [None] * 99 + ["a"]
    with pytest.raises(ConfigError, match="not a JSON lines file"):
        read(tmp_path, "in.jsonl", b"prose\n" * 100)


def test_the_language_of_each_row_is_checked(tmp_path: Path) -> None:
    data = lines(
        {"text": "a", "to": "fr"},
        {"text": "b", "to": "ZH_hant"},
        {"text": "c", "to": "tlh"},
        {"text": "d", "to": 5},
        {"text": "e"},
        {"text": "f", "to": ""},
    )
    rows = read(tmp_path, "in.jsonl", data, tgt_lang_field="to")
    assert [row.tgt_lang for row in rows] == ["fr", "zh-Hant", None, None, None, None]
    assert texts(rows) == ["a", "b", None, None, "e", "f"]
    assert "to=tlh is not a language" in rows[2].message


def test_fields_that_the_output_adds_are_refused(tmp_path: Path) -> None:
    reserved = ("translation", "hymt")
    input, config = source(tmp_path, "in.jsonl", lines({"text": "a", "hymt": 1}))
    with pytest.raises(ConfigError, match="already has a field 'hymt'"):
        stream.check_fields([input], config, reserved)
    late = lines(*[{"text": "a"}] * 150, {"text": "b", "translation": "c"}, {"text": "d"})
    input, config = source(tmp_path, "in.jsonl", late)
    stream.check_fields([input], config, reserved)
    rows = [document for document, _ in read_documents(input, config, reserved=reserved)]
    assert not bad(rows)  # settings of the output do not decide which rows are translated
    for plan, full in ((1, False), (1, True), (2, True)):
        rows = [d for d, _ in read_documents(input, config, reserved=reserved, plan_version=plan, full=full)]
        assert list(bad(rows)) == [150] and rows[150].status is Status.BAD_ROW
    assert (rows[150].text, rows[150].values) == ("b", {"text": "b", "translation": "c"})
    for name, data in (("in.csv", b"text,hymt\na,b\n"), ("in.tsv", b"text\thymt\na\tb\n")):
        input, config = source(tmp_path, name, data)
        with pytest.raises(ConfigError, match="already has a field 'hymt'"):
            stream.check_fields([input], config, reserved)


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.tsv"])
def test_the_output_of_a_job_is_refused_with_settings_that_translate_it(tmp_path: Path, name: str) -> None:
    fields = {"text": "a", "translation": "b", "hymt": "c"}
    separator = "," if name == "in.csv" else "\t"
    table = "".join(f"{separator.join(row)}\n" for row in (fields, fields.values())).encode()
    data = lines(fields) if name == "in.jsonl" else table
    reserved = ("translation", "hymt")
    input, config = source(tmp_path, name, data)
    with pytest.raises(ConfigError) as caught:
        stream.check_fields([input], config, reserved)
    fix = "write.translation_field=translation_mt write.meta_field=hymt_mt. To translate these translations, set also "
    assert f"{fix}source.text_field=translation." in str(caught.value)
    input, config = source(tmp_path, name, data, text_field="translation")
    stream.check_fields([input], config, ("translation_mt", "hymt_mt"))
    assert texts([document for document, _ in read_documents(input, config)]) == ["b"]


# csv and tsv


def test_csv_records_may_contain_line_breaks_delimiters_and_quotes(tmp_path: Path) -> None:
    data = b'id,text\r\n1,"a\nb, ""c"""\r\n2,plain "quoted" word\n3,\n\n4,"x"y\n5,last'
    input, config = source(tmp_path, "in.csv", data)
    rows = list(read_documents(input, config, full=True))
    assert [document.text for document, _ in rows] == ['a\nb, "c"', 'plain "quoted" word', "", "", "xy", "last"]
    assert rows[0][0].values == {"id": "1", "text": 'a\nb, "c"'}
    head = read_preamble(input, config)
    assert (head.header, head.fields, head.newline) == (b"id,text\r\n", ("id", "text"), b"\r\n")
    assert head.header + b"".join(document.raw for document, _ in rows) == data
    for index, (_, cursor) in enumerate(rows):
        assert list(read_from(input, config, cursor=cursor, first_row=index + 1, full=True)) == rows[index + 1 :]


@pytest.mark.fault(61)
def test_an_unclosed_quote_costs_one_row(tmp_path: Path) -> None:
    data = b'id,text\n1,"open\n' + b"".join(b"%d,row\n" % index for index in range(2, 3000))
    rows = read(tmp_path, "in.csv", data, max_row_bytes=500)
    assert list(bad(rows)) == [0]
    assert len(rows) == 2999
    for tail in (b'2,"b"\n3,c\n', b'2,he said "no"\n3,c\n', b'2,"b",x\n3,c\n'):
        rows = read(tmp_path, "in.csv", b'id,text\n1,"open\n' + tail)
        assert [row.row_index for row in rows][-1] == 2, tail
        assert texts(rows)[-1] == "c"


def test_a_quote_that_closes_with_a_wrong_number_of_fields_costs_one_row(tmp_path: Path) -> None:
    rows = read(tmp_path, "in.csv", b'id,text\n1,"open\n2,b",x\n3,c\n', full=True)
    assert [row.raw for row in rows] == [b'1,"open\n', b'2,b",x\n', b"3,c\n"]
    assert list(bad(rows)) == [0, 1]


def test_records_with_a_wrong_number_of_fields_are_error_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, "in.csv", b"id,text\n1,a\n2,b,c\n3\n4,d\n")
    assert texts(rows) == ["a", None, None, "d"]
    assert "in.csv:2 has 3 fields, but the file has 2 columns" in rows[1].message


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    rows = read(tmp_path, "in.tsv", b'id\ttext\n1\t"\n2\t5" disk\n3\tNA\n')
    assert texts(rows) == ['"', '5" disk', "NA"]


def test_columns_by_number_without_a_header_and_by_another_delimiter(tmp_path: Path) -> None:
    rows = read(tmp_path, "in.csv", b"x;a\ny;b\n", header=False, delimiter=";", text_field="2", full=True)
    assert texts(rows) == ["a", "b"]
    assert rows[0].values == {"1": "x", "2": "a"}
    with pytest.raises(ConfigError, match=r"source\.text_field=text is not a column number"):
        read(tmp_path, "in.csv", b"x,a\n", header=False)
    with pytest.raises(ConfigError, match=r"has no column 'text'.*source\.delimiter=';'"):
        read(tmp_path, "in.csv", b"id;text\n1;a\n")
    with pytest.raises(ConfigError, match=r"\['id', 'body'\]\. Set source\.text_field"):
        read(tmp_path, "in.csv", b"id,body\n1,a\n")


def test_a_changed_header_changes_every_digest(tmp_path: Path) -> None:
    original = read(tmp_path, "in.csv", b"text,note\na,b\n")
    changed = read(tmp_path, "in.csv", b"note,text\na,b\n")
    assert original[0].digest != changed[0].digest


@pytest.mark.fault(53)
def test_empty_csv_files_have_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "in.csv", b"") == []
    assert read(tmp_path, "in.csv", b"id,text\n") == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(['"', ",", "a", "\n", "\r\n", "é"]), max_size=24), st.integers(4, 40))
def test_csv_loses_and_shifts_no_byte_with_any_quotes(tmp_path: Path, pieces: list[str], limit: int) -> None:
    body = "".join(pieces).encode()
    input, config = source(tmp_path, "in.csv", b"t,u\n" + body, max_row_bytes=limit, text_field="t")
    rows = list(read_documents(input, config, full=True))
    if all(document.status is not Status.TOO_LONG for document, _ in rows):
        assert b"".join(document.raw for document, _ in rows) == body
    for index, (_, cursor) in enumerate(rows):
        assert list(read_from(input, config, cursor=cursor, first_row=index + 1, full=True)) == rows[index + 1 :]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=6), st.text(alphabet='a",\n\r', max_size=6)), max_size=6))
@example([("\\", "\n")])  # the line ending of the record is not a part of its last field
@example([("\\", "a\n"), ("b", "c")])
def test_what_the_csv_module_writes_is_read_back(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    import csv

    records = [tuple(cell.encode("utf-8", "replace").decode() for cell in record) for record in records]  # type: ignore[misc]
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "text"])
    writer.writerows(records)
    rows = read(tmp_path, "in.csv", file.getvalue().encode())
    assert texts(rows) == [text for _, text in records]


# parquet and saved datasets


def table(tmp_path: Path, columns: dict[str, Any], **options: Any) -> Input:
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table(columns), path, **options)
    (input,) = discovery.find_inputs(SourceConfig(path=str(path)))
    return input


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_parquet_text_of_every_arrow_type_reads_the_same(tmp_path: Path, kind: Any) -> None:
    values = ["a", None, "", "é"] * 10
    column = pa.array(values, pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    input = table(tmp_path, {"id": range(40), "text": column}, row_group_size=7)
    config = SourceConfig(path="x")
    rows = list(read_documents(input, config))
    assert [document.text for document, _ in rows] == ["a", "", "", "é"] * 10
    assert [cursor for _, cursor in rows] == list(range(1, 41))
    assert rows[1][0].digest != rows[2][0].digest
    for cursor in (0, 1, 6, 7, 8, 39, 40):
        assert list(read_from(input, config, cursor=cursor, first_row=cursor)) == rows[cursor:]


def test_parquet_rows_carry_their_whole_batch_for_the_writer(tmp_path: Path) -> None:
    input = table(tmp_path, {"id": range(10), "text": [f"t{n}" for n in range(10)]}, row_group_size=4)
    config = SourceConfig(path="x")
    for cursor in (0, 5):
        for document, _ in read_from(input, config, cursor=cursor, first_row=cursor, full=True):
            batch, index = document.values
            assert batch.schema.names == ["id", "text"]
            assert batch.slice(index, 1).to_pylist() == [{"id": document.row_index, "text": document.text}]
    head = read_preamble(input, config)
    assert head.fields == ("id", "text") and head.schema.names == ["id", "text"]


def test_parquet_can_be_read_from_the_middle_of_a_large_row_group(tmp_path: Path) -> None:
    input = table(tmp_path, {"text": [f"t{n}" for n in range(5000)]})
    rows = list(read_documents(input, SourceConfig(path="x")))
    for cursor in (1023, 1024, 2500, 4999):
        assert list(read_from(input, SourceConfig(path="x"), cursor=cursor, first_row=cursor)) == rows[cursor:]


def test_parquet_digests_differ_when_a_null_moves_to_the_next_column(tmp_path: Path) -> None:
    languages = pa.array([None, "fr"])
    input = table(tmp_path, {"text": pa.array(["fr", None]), "to": languages})
    first, second = read_documents(input, SourceConfig(path="x", tgt_lang_field="to"))
    assert first[0].digest != second[0].digest


@pytest.mark.fault(56, 65)
def test_parquet_rows_with_bad_bytes_or_too_long_are_error_rows(tmp_path: Path) -> None:
    input = table(tmp_path, {"text": pa.array([b"a", b"\xff", b"x" * 20, b"b"], pa.binary())})
    rows = [document for document, _ in read_documents(input, SourceConfig(path="x", max_row_bytes=10))]
    assert [row.status for row in rows] == [Status.OK, Status.BAD_ENCODING, Status.TOO_LONG, Status.OK]
    assert "in.parquet:2" in rows[1].message


@pytest.mark.fault(65)
def test_parquet_nested_and_language_columns_are_read(tmp_path: Path) -> None:
    docs = pa.array([{"body": "a", "n": 1}, None, {"body": "c", "n": 3}])
    input = table(tmp_path, {"doc": docs, "to": ["fr", "de", "tlh"]})
    config = SourceConfig(path="x", text_field="doc.body", tgt_lang_field="to")
    for full in (False, True):
        rows = [document for document, _ in read_documents(input, config, full=full)]
        assert texts(rows) == ["a", "", "c" if full else None]
        assert rows[2].status is Status.BAD_LANGUAGE
        assert [row.tgt_lang for row in rows] == ["fr", "de", None]


def test_missing_or_non_text_parquet_columns_are_refused(tmp_path: Path) -> None:
    input = table(tmp_path, {"n": [1], "body": ["a"]})
    with pytest.raises(ConfigError, match=r"no column 'text'\. Its text columns are \['body'\]"):
        list(read_documents(input, SourceConfig(path="x")))
    with pytest.raises(ConfigError, match="is int64, not text"):
        list(read_documents(input, SourceConfig(path="x", text_field="n")))


@pytest.mark.fault(65)
def test_the_error_for_truncated_parquet_names_the_file(tmp_path: Path) -> None:
    input = table(tmp_path, {"text": ["a"] * 100})
    data = Path(input.path).read_bytes()
    for piece in (data[:-10], b"", b"nonsense"):
        Path(input.path).write_bytes(piece)
        with pytest.raises(PreflightError, match=r"in\.parquet cannot be read as a parquet file"):
            list(read_documents(input, SourceConfig(path="x")))


def test_saved_datasets_are_read_in_the_selected_order(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(3000)], "n": list(range(3000))})
    rows.select(range(2999, -1, -1)).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    config = SourceConfig(path=str(tmp_path / "saved"))
    (input,) = discovery.find_inputs(config)
    read_all = list(read_documents(input, config))
    assert [document.text for document, _ in read_all] == [f"t{n}" for n in range(2999, -1, -1)]
    for cursor in (1, 999, 1000, 1001, 2500, 3000):
        assert list(read_from(input, config, cursor=cursor, first_row=cursor)) == read_all[cursor:]
    document, _ = next(read_from(input, config, cursor=1500, first_row=1500, full=True))
    batch, index = document.values
    assert batch.slice(index, 1).to_pylist() == [{"text": "t1499", "n": 1499}]


def test_empty_tables_have_no_rows_but_a_schema(tmp_path: Path) -> None:
    import datasets

    input = table(tmp_path, {"text": pa.array([], pa.string())})
    assert list(read_documents(input, SourceConfig(path="x"))) == []
    datasets.Dataset.from_dict({"text": []}, features=datasets.Features(text=datasets.Value("string"))).save_to_disk(
        str(tmp_path / "none")
    )
    config = SourceConfig(path=str(tmp_path / "none"))
    (input,) = discovery.find_inputs(config)
    assert list(read_documents(input, config)) == []
    assert read_preamble(input, config).schema.names == ["text"]
