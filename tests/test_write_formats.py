"""Every input format to every output format, read with the standard library and pyarrow."""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hymt_batch.errors import ConfigError
from hymt_batch.formats.writer import check, open_writer
from hymt_batch.records import Document, Input, Preamble, Row, Status
from hymt_batch.write.error_line import error_line
from hymt_batch.write.settings import OnError, WriteConfig

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
EXTENSION = {"text": "txt", "jsonl": "jsonl", "csv": "csv", "tsv": "tsv", "parquet": "parquet"}

OK, LONG, BAD = Status.OK, Status.TOO_LONG, Status.BAD_ENCODING
# source text, translation, status, flags
NASTY: list[tuple[str, str, Status, tuple[str, ...]]] = [
    ("plain", "schlicht", OK, ()),
    ("", "", OK, ("blank",)),
    (" \u3000 ", "", OK, ("blank",)),
    ('say "hi", now', 'sag "hallo", jetzt', OK, ()),
    ("tab\there", "ein\tTab", OK, ("tab",)),
    ("nul\0", "nul\0", Status.COPIED, ()),
    ("u2028\u2028x\x85y", "zwei\u2028drei\x85vier", OK, ()),
    ("", "", Status.EMPTY, ()),
    ("too much", "", Status.GENERATION_ERROR, ("oom",)),
    ("=1+1", "=2", OK, ()),
    ("'\"", '"', Status.TRUNCATED, ("length",)),
    ("\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "🙂 ok", OK, ()),
    ("last", "letzte", OK, ()),
]
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def flat(text: str) -> str:
    return "".join(" " if char in BREAKS else char for char in text)


def expected(text: str, translation: str, status: Status, flags: Sequence[str]) -> str:
    if "blank" in flags:
        return text
    return translation if status in (OK, Status.COPIED, Status.TRUNCATED) else ""


def document(rel: str, row: int, text: str | None, raw: bytes, values: Any = None, status: Status = OK) -> Document:
    return Document(f"{rel}#{row + 1}", row, text, b"%08d" % row, raw, status=status, values=values)


def case(kind: str, folder: Path, newline: str = "\n", bom: bytes = b"") -> tuple[Input, Preamble, list[Document]]:
    """The nasty rows as an input of one format."""
    rel = f"in.{EXTENSION[kind]}"
    input = Input(rel, rel, str(folder / rel), kind)
    texts = [text for text, *_ in NASTY]
    if kind == "text":
        documents = [document(rel, row, text, f"{text}{newline}".encode()) for row, text in enumerate(texts)]
        return input, Preamble(bom=bom, newline=newline.encode()), documents
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({"n": list(range(len(texts))), "text": texts})
        parquet.write_table(table, input.path)
        batches = table.to_batches(max_chunksize=4)
        positions = [(batch, index) for batch in batches for index in range(batch.num_rows)]
        documents = [document(rel, row, texts[row], b"", values) for row, values in enumerate(positions)]
        return input, Preamble(fields=("n", "text"), schema=table.schema), documents
    rows = [{"n": str(row), "text": text} for row, text in enumerate(texts)]
    header = b""
    if kind == "jsonl":
        raws = [json.dumps(row, ensure_ascii=False) + newline for row in rows]
    elif kind == "csv":
        header = f'n,"text"{newline}'.encode()
        raws = []
        for row in rows:
            file = io.StringIO(newline="")
            csv.writer(file, lineterminator=newline).writerow(row.values())
            raws.append(file.getvalue())
    else:
        header = f"n\ttext{newline}".encode()
        rows = [{"n": row["n"], "text": row["text"].replace("\t", " ")} for row in rows]
        raws = ["\t".join(row.values()) + newline for row in rows]
    documents = [document(rel, row, rows[row]["text"], raw.encode(), dict(rows[row])) for row, raw in enumerate(raws)]
    fields = ("n", "text") if header else ()
    return input, Preamble(bom=bom, header=header, fields=fields, newline=newline.encode()), documents


def results() -> list[Row]:
    return [
        Row(row, b"%08d" % row, status, translation, flags) for row, (_, translation, status, flags) in enumerate(NASTY)
    ]


def written(
    input: Input,
    out_format: str,
    preamble: Preamble,
    documents: Sequence[Document],
    rows: Sequence[Row],
    config: WriteConfig | None = None,
) -> bytes:
    file = io.BytesIO()
    writer = open_writer(input, out_format, preamble, config or WriteConfig(), file, lambda: documents)
    for doc, row in zip(documents, rows, strict=True):
        writer.write(doc, row)
    writer.close()
    return file.getvalue()


def read_back(data: bytes, kind: str) -> list[dict[str, Any]]:
    """Read the records of an output with independent readers."""
    if kind == "parquet":
        from pyarrow import parquet

        return list(parquet.read_table(io.BytesIO(data)).to_pylist())
    text = data.decode("utf-8-sig")
    if kind == "csv":
        records: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    else:
        lines = text.split("\n")
        assert lines.pop() == ""
        lines = [line.removesuffix("\r") for line in lines]
        if kind == "text":
            return [{"translation": line} for line in lines]
        if kind == "jsonl":
            return [json.loads(line) for line in lines]
        records = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    return [{**record, "hymt": json.loads(record["hymt"])} for record in records]


@pytest.mark.parametrize("out_format", FORMATS)
@pytest.mark.parametrize("in_format", FORMATS)
@pytest.mark.parametrize(("newline", "bom"), [("\n", b""), ("\r\n", b"\xef\xbb\xbf")])
def test_every_format_converts_to_every_format_row_by_row(
    in_format: str, out_format: str, newline: str, bom: bytes, tmp_path: Path
) -> None:
    input, preamble, documents = case(in_format, tmp_path, newline, bom)
    data = written(input, out_format, preamble, documents, results())
    assert data == written(input, out_format, preamble, documents, results())  # reproducible
    same_format = in_format == out_format
    if out_format != "parquet":
        assert data.startswith(b"\xef\xbb\xbf") == (same_format and bool(bom))
        assert in_format == "parquet" or data.endswith(newline.encode())
        without_crlf = data.replace(b"\r\n", b"") if newline == "\r\n" and in_format != "parquet" else b""
        assert b"\n" not in without_crlf
    records = read_back(data, out_format)
    assert len(records) == len(NASTY)
    for record, doc, nasty in zip(records, documents, NASTY, strict=True):
        text, translation, status, flags = nasty
        if in_format == "tsv":
            text = text.replace("\t", " ")
        expected_text = expected(text, translation, status, flags)
        if out_format == "text" and "blank" not in flags:
            expected_text = flat(expected_text)
        if out_format == "tsv":
            expected_text, text = (
                flat(expected_text).replace("\t", " "),
                text if same_format else flat(text).replace("\t", " "),
            )
        assert record["translation"] == expected_text
        if out_format == "text":
            continue
        assert record["hymt"] == {"id": doc.id, "status": status.value, "flags": list(flags)}
        assert record["text"] == text
        names = ["text"] if in_format == "text" else ["n", "text"]
        assert list(record) == [*names, "translation", "hymt"]
        assert in_format == "text" or str(record["n"]) == str(doc.row_index)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_rows_gives_a_valid_file_without_rows(kind: str, tmp_path: Path) -> None:
    input, preamble, _ = case(kind, tmp_path)
    for out_format in FORMATS:
        data = written(input, out_format, preamble, [], [])
        assert read_back(data, out_format) == [] if out_format == "parquet" else data.count(b"\n") <= 1


def text_input(out_rel: str = "a.txt") -> Input:
    return Input("a.txt", out_rel, "a.txt", "text")


@pytest.mark.fault(53)
def test_text_rows_keep_their_own_line_endings_and_the_missing_last_one() -> None:
    raws = [b"a\r\n", b" \t\r\n", b"b\n", b"\n", b"c"]
    documents = [document("a.txt", row, raw.decode().rstrip("\r\n"), raw) for row, raw in enumerate(raws)]
    flags = [(), ("blank",), (), ("blank",), ()]
    rows = [Row(row, b"", OK, f"T{row}", flag) for row, flag in enumerate(flags)]
    data = written(text_input(), "text", Preamble(), documents, rows)
    assert data == b"T0\r\n \t\r\nT2\n\nT4"


def test_an_error_row_is_an_empty_line_or_the_source() -> None:
    raws = [b"long one\r\n", b"bad \xff\x85\n", b"x\x1cy\n", b"\r\n"]
    texts = ["long one", None, "x\x1cy", None]
    states = [Status.NON_FINITE, BAD, Status.CRASH_QUARANTINED, LONG]
    documents = [document("a.txt", *args) for args in zip(range(4), texts, raws, strict=True)]
    rows = [Row(row, b"", status, "ignored") for row, status in enumerate(states)]
    assert written(text_input(), "text", Preamble(), documents, rows) == b"\r\n\n\n\r\n"
    config = WriteConfig(on_error=OnError.source)
    assert written(text_input(), "text", Preamble(), documents, rows, config) == b"".join(raws)
    lines = written(text_input(), "jsonl", Preamble(), documents, rows, config).splitlines()
    assert [json.loads(line)["translation"] for line in lines] == ["long one", "bad \ufffd\ufffd", "x\x1cy", ""]


def test_an_empty_last_line_without_a_line_ending_is_still_a_line() -> None:
    documents = [document("a.txt", 0, "a", b"a\r\n"), document("a.txt", 1, None, b"\xff")]
    rows = [Row(0, b"", OK, "A"), Row(1, b"", BAD, "")]
    data = written(text_input(), "text", Preamble(newline=b"\r\n"), documents, rows)
    assert data == b"A\r\n\r\n"


@pytest.mark.parametrize("out_format", ["text", "tsv"])
@pytest.mark.fault(54)
def test_a_line_of_text_or_tsv_never_contains_a_line_break(out_format: str) -> None:
    doc, row = document("a.txt", 0, "a", b"a\n"), Row(0, b"", OK, f"<{BREAKS}\r\n\t>")
    data = written(text_input(), out_format, Preamble(), [doc], [row]).decode()
    assert len(data.splitlines()) == data.count("\n") == (1 if out_format == "text" else 2)
    assert "<" + " " * (len(BREAKS) + 1) in data


def test_a_multi_line_translation_survives_in_formats_that_can_hold_it(tmp_path: Path) -> None:
    input, preamble, documents = case("csv", tmp_path)
    for out_format in ("jsonl", "csv", "parquet"):
        data = written(input, out_format, preamble, documents[:1], [Row(0, b"", OK, "a\r\n\nb\rc\u2028")])
        assert read_back(data, out_format)[0]["translation"] == "a\r\n\nb\rc\u2028"


def jsonl(*raws: bytes) -> tuple[Input, list[Document]]:
    documents = []
    for row, raw in enumerate(raws):
        try:
            values = json.loads(raw)
        except ValueError:
            values = None
        values = values if isinstance(values, dict) else None
        documents.append(document("a.jsonl", row, None if values is None else values.get("text", ""), raw, values))
    return Input("a.jsonl", "a.jsonl", "a.jsonl", "jsonl"), documents


def test_jsonl_bytes_around_the_added_fields_are_unchanged() -> None:
    input, documents = jsonl(
        b'{"text":"a","x":1.0,"y":"\\u00e9"}\r\n', b'  { "text" : "b" } \t\n', b"{}\n", b"{ }\n", b'{"text":"}"}'
    )
    rows = [Row(row, b"", OK, "T") for row in range(5)]
    lines = written(input, "jsonl", Preamble(), documents, rows).split(b"\n")
    added = '"translation": "T", "hymt": {"id": "a.jsonl#%d", "status": "ok", "flags": []}'
    assert lines == [
        b'{"text":"a","x":1.0,"y":"\\u00e9", ' + (added % 1).encode() + b"}\r",
        b'  { "text" : "b", ' + (added % 2).encode() + b" } \t",
        b"{" + (added % 3).encode() + b"}",
        b"{" + (added % 4).encode() + b" }",
        b'{"text":"}", ' + (added % 5).encode() + b"}",
    ]


def test_jsonl_rows_that_are_not_objects_get_the_added_fields_and_blank_lines_and_taken_names_stay() -> None:
    bad = [b"{broken\r\n", b"[1, 2]\n", b'"text"\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\r\n", b'{"a": NaN}\n']
    conflicting = [b'{"text": "a", "hymt": 1}\n', b'{"translation": "a"}\n']
    input, documents = jsonl(*conflicting, b" \n")
    documents += [document("a.jsonl", row + 3, None, raw, None, BAD) for row, raw in enumerate(bad)]
    rows = [Row(row, b"", BAD, "", ("x",)) for row in range(10)]
    rows[2] = Row(2, b"", OK, "", ("blank",))
    lines = written(input, "jsonl", Preamble(), documents, rows).split(b"\n")
    assert lines[2] == b" " and lines.pop() == b""
    assert lines[:2] == [raw.rstrip() for raw in conflicting]
    for row in range(3, 10):
        meta = {"id": f"a.jsonl#{row + 1}", "status": "bad_encoding", "flags": ["x"]}
        record = json.loads(lines[row])
        assert str(record.pop("a", "nan")) == "nan" and record == {"translation": "", "hymt": meta}
    assert lines[9].startswith(b'{"a": NaN, "translation"')
    assert lines[3].endswith(b"\r") and lines[8].endswith(b"\r")


def test_an_error_row_that_is_a_valid_object_keeps_its_fields() -> None:
    input, _ = jsonl()
    doc = document("a.jsonl", 0, None, b'{"id": 7, "text": 3}\n', None, BAD)
    data = written(input, "jsonl", Preamble(), [doc], [Row(0, b"", BAD, "")])
    assert json.loads(data) == {
        "id": 7,
        "text": 3,
        "translation": "",
        "hymt": {"id": "a.jsonl#1", "status": "bad_encoding", "flags": []},
    }


def csv_input(kind: str = "csv") -> Input:
    return Input(f"a.{kind}", f"a.{kind}", f"a.{kind}", kind)


def test_csv_records_keep_their_bytes_and_bad_ones_become_empty_fields() -> None:
    raws = [b'1,"a ""b""\r\nc"\r\n', b"2,it's 5\" wide\r\n", b"too,many,fields\r\n", b'3,"open\r\n', b"\r\n", b"4,\xff"]
    values: list[Any] = [{"n": "1", "text": 'a "b"\r\nc'}, {"n": "2", "text": "it's 5\" wide"}, None, None, None, None]
    documents = [document("a.csv", *args) for args in zip(range(6), ["x"] * 6, raws, values, strict=True)]
    rows = [Row(row, b"", BAD if row in (2, 3, 5) else OK, f"T,{row}") for row in range(6)]
    rows[4] = Row(4, b"", OK, "", ("blank",))
    preamble = Preamble(header=b"n,text\r\n", fields=("n", "text"), newline=b"\r\n")
    data = written(csv_input(), "csv", preamble, documents, rows)
    assert data.startswith(b'n,text,translation,hymt\r\n1,"a ""b""\r\nc","T,0",')
    assert b'\r\n2,it\'s 5" wide,"T,1",' in data and not data.endswith(b"\n") and b"\r\n\r\n" in data
    records = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    assert [len(record) for record in records] == [4, 4, 4, 4, 4, 0, 4]
    assert [record[:3] for record in records if record][3:] == [["", "", ""]] * 3


def test_a_csv_field_that_would_swallow_the_added_columns_is_requoted() -> None:
    raws = [b"1,a\r\r\n", b'2,"open\n', b'"3"x,"y"\n']
    values = [{"n": "1", "text": "a\r"}, {"n": "2", "text": "open"}, {"n": "3x", "text": "y"}]
    documents = [document("a.csv", row, "a", raws[row], values[row]) for row in range(3)]
    rows = [Row(row, b"", OK, "T") for row in range(3)]
    preamble = Preamble(header=b"n,text\n", fields=("n", "text"))
    data = written(csv_input(), "csv", preamble, documents, rows)
    assert b'1,"a\r",T' in data and b"\n2,open,T" in data and b'\n"3"x,"y",T' in data
    records = csv.DictReader(io.StringIO(data.decode(), newline=""))
    assert [record["text"] for record in records] == ["a\r", "open", "y"]


def test_csv_columns_with_the_same_name_keep_their_bytes() -> None:
    doc = document("a.csv", 0, "c", b'a,"b",c\n', {"n": "b", "text": "c"})
    preamble = Preamble(header=b"n,n,text\n", fields=("n", "n", "text"))
    data = written(csv_input(), "csv", preamble, [doc], [Row(0, b"", OK, "T")])
    assert data.split(b"\n")[1].startswith(b'a,"b",c,T,')
    with pytest.raises(ConfigError, match=r"more than one column 'n'.*write.format=input"):
        check(csv_input(), "jsonl", preamble, WriteConfig())


def test_without_an_input_header_none_is_written_and_csv_keeps_the_delimiter() -> None:
    doc = document("a.csv", 0, "b", b"a;b\n", {"1": "a", "2": "b"})
    bad = document("a.csv", 1, None, b"a\n", None, BAD)
    rows = [Row(0, b"", OK, "T;1"), Row(1, b"", BAD, "")]
    preamble = Preamble(fields=("1", "2"), delimiter=";")
    data = written(csv_input(), "csv", preamble, [doc, bad], rows).decode()
    assert data.startswith('a;b;"T;1";"{""id"":""a.csv#1"",""status"":""ok"",""flags"":[]}"\na;;;"{')
    assert written(csv_input(), "tsv", preamble, [doc], rows[:1]).startswith(b"a\tb\tT;1\t{")


def test_a_custom_tsv_delimiter_never_occurs_in_the_added_columns() -> None:
    doc = document("a|b.tsv", 0, "b", b"a|b\n", {"n": "a", "text": "b"})
    preamble = Preamble(header=b"n|text\n", fields=("n", "text"), delimiter="|")
    data = written(csv_input("tsv"), "tsv", preamble, [doc], [Row(0, b"", OK, "T|1")]).decode()
    cells = data.splitlines()[1].split("|")
    assert cells[:3] == ["a", "b", "T 1"] and json.loads(cells[3])["id"] == "a|b.tsv#1"


@pytest.mark.parametrize("delimiter", [",", " ", '"', "a", "\\", "::"])
def test_a_tsv_delimiter_that_json_needs_is_refused(delimiter: str) -> None:
    preamble = Preamble(header=b"n,text\n", fields=("n", "text"), delimiter=delimiter)
    with pytest.raises(ConfigError, match=r"Set source\.format=csv"):
        check(csv_input("tsv"), "tsv", preamble, WriteConfig())


@pytest.mark.parametrize(
    ("kind", "fields", "config", "message"),
    [
        ("csv", ("text", "hymt"), WriteConfig(), r"a.csv already has a field 'hymt'.*Set write.meta_field"),
        ("tsv", ("text", "translation"), WriteConfig(), r"already has a field.*Set write.translation_field"),
        ("tsv", ("text",), WriteConfig(meta_field="a\tb"), r"contains a delimiter.*Set write.meta_field"),
        ("text", (), WriteConfig(translation_field="text"), r"Set write.translation_field"),
    ],
)
def test_added_names_that_are_taken_or_not_allowed_are_refused(
    kind: str, fields: tuple[str, ...], config: WriteConfig, message: str
) -> None:
    out_format = "jsonl" if kind == "text" else kind
    with pytest.raises(ConfigError, match=message):
        open_writer(csv_input(kind), out_format, Preamble(fields=fields), config, io.BytesIO())


@pytest.mark.parametrize("extension", ["gz", "zst", "xz", "bz2", "GZ"])
def test_compressed_outputs_are_reproducible_and_leave_the_file_open(extension: str) -> None:
    import pyarrow as pa

    documents = [document("a.txt", row, "x", b"x\n") for row in range(20_000)]
    rows = [Row(row, b"", OK, hashlib.sha256(b"%d" % row).hexdigest()) for row in range(20_000)]
    plain = written(text_input(), "text", Preamble(), documents, rows)
    assert len(plain) > 1 << 20  # more than one buffer
    file = io.BytesIO()
    writer = open_writer(text_input(f"a.txt.{extension}"), "text", Preamble(), WriteConfig(), file)
    for doc, row in zip(documents, rows, strict=True):
        writer.write(doc, row)
    assert file.tell() > 0  # streamed
    writer.close()
    assert not file.closed
    data = file.getvalue()
    assert data == written(text_input(f"a.txt.{extension}"), "text", Preamble(), documents, rows)
    unpack = {"gz": gzip.decompress, "xz": lzma.decompress, "bz2": bz2.decompress}.get(extension.lower())
    assert plain == (unpack(data) if unpack else pa.CompressedInputStream(io.BytesIO(data), "zstd").read())
    if extension == "gz":
        assert data[3:8] == b"\0\0\0\0\0"  # no name, no time


@pytest.mark.parametrize("extension", ["txt", "txt.gz", "txt.zst", "txt.xz", "txt.bz2", "parquet"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_writer_dropped_after_a_failure_writes_nothing_more(extension: str, closed: bool) -> None:
    out_format = "parquet" if extension == "parquet" else "text"
    file = io.BytesIO()
    writer = open_writer(text_input(f"a.{extension}"), out_format, Preamble(), WriteConfig(row_group_rows=1), file)
    writer.write(document("a.txt", 0, "x", b"x\n"), Row(0, b"", OK, "X"))
    before = file.getvalue()
    if closed:
        file.close()
    del writer  # warnings are errors, so a write to the closed file would fail the test
    assert closed or file.getvalue() == before


class Dribble(io.RawIOBase):
    """A raw file that writes at most 7 bytes at a time."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data[:7])
        return min(len(data), 7)


@pytest.mark.parametrize("out_format", FORMATS)
@pytest.mark.fault(23)
def test_short_writes_lose_nothing(out_format: str, tmp_path: Path) -> None:
    input, preamble, documents = case("csv", tmp_path)
    file = Dribble()
    writer = open_writer(input, out_format, preamble, WriteConfig(), file)  # type: ignore[arg-type]
    for doc, row in zip(documents, results(), strict=True):
        writer.write(doc, row)
    writer.close()
    assert file.data == written(input, out_format, preamble, documents, results())


@pytest.mark.fault(83)
def test_an_error_line_has_the_id_the_reason_and_unless_disabled_the_row() -> None:
    doc = Document("a\u2028.txt#3", 2, "secret", b"", b"secret\n", status=BAD, message="byte 4 is not UTF-8")
    line = error_line(doc, Row(2, b"", BAD, "", ("f",)), raw=False)
    assert line.endswith(b"\n") and len(line.decode().splitlines()) == 1 and b"secret" not in line
    expected_line = {"id": doc.id, "row": 3, "status": "bad_encoding", "message": "byte 4 is not UTF-8", "flags": ["f"]}
    assert json.loads(line) == expected_line
    assert json.loads(error_line(doc, Row(2, b"", BAD, "", ("f",)))) == {**expected_line, "raw": "secret"}
    assert b"secret" not in error_line(doc, Row(2, b"", Status.TRUNCATED, "T"))  # the row has a translation
    assert json.loads(error_line(doc, Row(2, b"", BAD, "", (), "later")))["message"] == "later"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"a\xff\x00\x1b[2J\x7f\xc2\x9b\xe2\x80\xae\n", '"a\\\\xff\\u0000\\u001b[2J\\u007f\\u009b\\u202e"'),
        ("雨é\r\n".encode(), '"雨é"'),
        (b'"\\\t', '"\\"\\\\\\t"'),
    ],
)
def test_the_raw_row_in_an_error_line_is_escaped(raw: bytes, shown: str) -> None:
    doc = Document("a.txt#1", 0, None, b"", raw, status=BAD, message="m")
    line = error_line(doc, Row(0, b"", BAD, "")).decode()
    assert line.endswith(f', "raw": {shown}}}\n')


def test_the_error_line_of_a_table_row_has_its_text() -> None:
    doc = Document("a.parquet#1", 0, "雨\u200b\n", b"")
    record = error_line(doc, Row(0, b"", Status.EMPTY, "")).decode()
    assert record.endswith(', "raw": "雨\\u200b\\n"}\n')
    assert '"raw"' not in error_line(doc, Row(0, b"", Status.EMPTY, ""), raw=False).decode()


@pytest.mark.parametrize("unit", [b"x", "雨".encode(), b"\xff", b"\x00", b'"', "é".encode()])
@pytest.mark.parametrize("more", [-1, 0, 1, 9000])
def test_the_raw_row_in_an_error_line_is_cut_at_4_kib_and_marked_as_cut(unit: bytes, more: int) -> None:
    for size in (4096 + more, 4094 + more):
        raw = (unit * (size // len(unit) + 1))[:size]
        line = error_line(Document("a.txt#1", 0, None, b"", raw, status=BAD), Row(0, b"", BAD, ""))
        record = json.loads(line)
        written = line[line.index(b'"raw": ') + 7 :].partition(b', "raw_cut"')[0].removesuffix(b"}\n")
        assert len(written) <= 4096
        whole = raw.decode("utf-8", "backslashreplace")
        assert whole.startswith(record["raw"])
        assert record.get("raw_cut", False) == (record["raw"] != whole)
        if record.get("raw_cut"):
            assert len(written) > 4080


@pytest.mark.fault(56)
def test_a_lone_surrogate_in_a_translation_is_written_as_a_replacement_character(tmp_path: Path) -> None:
    input, preamble, documents = case("jsonl", tmp_path)
    for out_format in FORMATS:
        data = written(input, out_format, preamble, documents[:1], [Row(0, b"", OK, "a\ud800b")])
        assert read_back(data, out_format)[0]["translation"] == "a\ufffdb"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.dictionaries(TEXT.filter(lambda key: key not in ("translation", "hymt")), JSON, max_size=4), TEXT),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b" \n"]),
)
@pytest.mark.fault(62)
def test_user_fields_of_jsonl_come_back_equal(
    rows: list[tuple[dict[str, Any], str]], indent: int | None, escape: bool, end: bytes
) -> None:
    separators = (" ,", " : ") if indent else (",", ":")
    raws = [
        json.dumps(fields, ensure_ascii=escape, separators=separators).encode("utf-8", "replace") + end
        for fields, _ in rows
    ]
    fields = [json.loads(raw) for raw in raws]
    input, documents = jsonl(*raws)
    data = written(
        input,
        "jsonl",
        Preamble(),
        documents,
        [Row(row, b"", OK, translation) for row, (_, translation) in enumerate(rows)],
    )
    lines = data.split(b"\n")[:-1]
    assert len(lines) == len(rows)
    for line, raw, field, (_, translation) in zip(lines, raws, fields, rows, strict=True):
        record = json.loads(line)
        assert record.pop("translation") == translation and record.pop("hymt")["status"] == "ok"
        assert record == field and list(record) == list(field)
        assert line.startswith(raw.rstrip()[:-1])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";", "\t", "é"]),
)
def test_user_fields_of_csv_come_back_equal(
    rows: list[tuple[str, str, str]], quoting: int, newline: str, delimiter: str
) -> None:
    documents = []
    for row, cells in enumerate(rows):
        file = io.StringIO(newline="")
        if "\r" in cells[0] + cells[1]:  # the csv module writes these unquoted, but its reader rejects that
            quoting = csv.QUOTE_ALL
        csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=newline).writerow(cells[:2])  # type: ignore[arg-type]
        values = dict(zip(("a", "b"), cells[:2], strict=True))
        documents.append(document("a.csv", row, cells[1], file.getvalue().encode(), values))
    header = f"a{delimiter}b{newline}".encode()
    preamble = Preamble(header=header, fields=("a", "b"), delimiter=delimiter)
    data = written(
        csv_input(), "csv", preamble, documents, [Row(row, b"", OK, cells[2]) for row, cells in enumerate(rows)]
    )
    records = list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter, strict=True))
    assert [tuple(record[:3]) for record in records[1:]] == rows
    assert all(len(record) == 4 for record in records)
    for doc in documents:
        assert doc.raw.rstrip(b"\r\n") in data


class Full(io.RawIOBase):
    """A file on a full disk."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("out_rel", ["a.txt", "a.txt.gz", "a.txt.zst", "a.txt.xz", "a.txt.bz2", "a.parquet"])
def test_a_full_disk_raises_the_original_error(out_rel: str) -> None:
    out_format = "parquet" if out_rel.endswith("parquet") else "text"
    documents = [document("a.txt", row, "x", b"x\n") for row in range(10_000)]
    with pytest.raises(OSError) as caught:
        writer = open_writer(text_input(out_rel), out_format, Preamble(), WriteConfig(), Full())  # type: ignore[arg-type]
        for row, doc in enumerate(documents):
            writer.write(doc, Row(row, b"", OK, f"translation {row}"))
        writer.close()
    assert caught.value.errno == errno.ENOSPC
