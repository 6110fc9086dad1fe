"""What a file is, is seen from its first bytes: nothing is read as what it is not, whatever its name says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.records import PLAN_VERSION
from hymt_batch.source.first_bytes import looks_binary
from hymt_batch.source.input_names import AS_INPUTS
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.source.unread import of_magic

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64)
RANDOM = bytes((index * 2654435761 >> 7) & 255 for index in range(4096))


def zst(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


PACK = {"gz": gzip.compress, "zst": zst, "xz": lzma.compress, "bz2": bz2.compress}


def table() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": ["rain"]}), buffer)
    return buffer.getvalue()


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "<x/>")
    return buffer.getvalue()


def open_inputs(path: Any, formats: tuple[str, ...] | None = None, **settings: Any) -> Inputs:
    config = SourceConfig(path=path, **settings)
    return Inputs(config, None, outputs=AS_INPUTS, added_fields=(), plan_version=PLAN_VERSION, formats=formats)


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (PNG, "an image"),
        (b"%PDF-1.7\n1 0 obj\n", "a PDF file"),
        (archive("a.txt"), "a zip archive"),
        (archive("word/document.xml"), "an Office document"),
        (archive("META-INF/container.xml"), "an electronic book"),
        (b"{\\rtf1\\ansi rain}", "an earlier Office"),
        (b"SQLite format 3\0" + bytes(80), "a table or database"),
        (RANDOM, "binary data"),
        (b"\x01\0\0\0\x02\0\0\0" * 40, "binary data"),
    ],
)
@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl", "x", "x.txt.gz"])
def test_binary_content_is_refused_where_it_is_named_and_skipped_where_it_is_found_whatever_its_name(
    tmp_path: Path, data: bytes, what: str, name: str
) -> None:
    path = write(tmp_path / "in" / name, gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ConfigError, match=what if not name.endswith(".gz") else "by its content"):
        open_inputs(path)
    with pytest.raises(ConfigError):
        open_inputs(path, format=SourceFormat.text)
    write(tmp_path / "in/good.txt", b"rain\n")
    inputs = open_inputs(str(tmp_path / "in"))
    assert [input.rel for input in inputs.files] == ["good.txt"]
    assert [file.rel for file in inputs.skipped] == [name]


@pytest.mark.parametrize(
    "data",
    [
        b"rain\0snow\nsun\n",
        "\x01".join(["hive", "row", "with", "separators"]).encode() * 20,
        "日本の雨\n".encode("shift-jis") * 50,
        "降雨\n".encode("gb18030") * 50,
        "東京の雨\n".encode("iso2022_jp") * 50,
        "pluie d'été\n".encode("latin-1") * 50,
        b"rain\n\xff\xfe bad bytes\n",
        "дождь\n".encode("koi8-r") * 50,
        b"\x1b[1mrain\x1b[0m\n" * 50,
        ("雨" * 5000).encode(),
        b"",
    ],
)
def test_text_in_any_encoding_is_not_binary(tmp_path: Path, data: bytes) -> None:
    assert not looks_binary(data) and of_magic(data, "x.txt") is None
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        for text in ("Heavy rain in Athens.\n" * 40, "雅典大雨，首尔晴。\n" * 40, "дождь\n" * 40):
            assert not looks_binary(text.encode(encoding)), encoding


@pytest.mark.parametrize("compression", PACK)
def test_compressed_content_under_another_name_is_read_as_what_it_is(
    tmp_path: Path, compression: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "in/a.txt", PACK[compression](b"rain\nsun\n"))
    write(tmp_path / "in/b.jsonl", PACK[compression](b'{"text": "rain"}\n'))
    other = next(name for name in PACK if name != compression)
    write(tmp_path / f"in/c.txt.{other}", PACK[compression](b"rain\n"))
    inputs = open_inputs(str(tmp_path / "in"))
    assert [(input.out_rel, input.format, input.compression) for input in inputs.files] == [
        ("a.txt", "text", compression),
        ("b.jsonl", "jsonl", compression),
        (f"c.txt.{other}", "text", compression),
    ]
    assert [document.text for document in inputs.read(inputs.files[0])] == ["rain", "sun"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "files=3" in record.getMessage()


def test_a_name_that_promises_a_compression_that_is_not_there_is_refused_with_the_command(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", b"rain\nsun\n")
    with pytest.raises(ConfigError, match=r"text, and not compressed as \.gz") as caught:
        open_inputs(path)
    run(caught.value, tmp_path)
    assert open_inputs(str(tmp_path / "a.txt")).files[0].compression == ""
    with pytest.raises(PreflightError, match="truncated or damaged"):
        open_inputs(write(tmp_path / "b.txt.gz", gzip.compress(b"rain\n" * 99)[:20]))
    path = write(tmp_path / "d.txt.gz", gzip.compress(gzip.compress(b"rain\n")))
    with pytest.raises(ConfigError, match="compressed twice") as caught:
        open_inputs(path)
    run(caught.value, tmp_path)
    assert open_inputs(str(tmp_path / "d.txt")).files[0].compression == "gz"


def run(error: ConfigError, folder: Path) -> None:
    """Run the command that an error advises."""
    subprocess.run(["bash", "-ec", error.fix.partition("Command: ")[2]], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("name", "data", "format", "fix"),
    [
        ("w.parquet", table(), "jsonl", "source.format=parquet"),
        ("w.parquet", table(), "text", "source.format=parquet"),
        ("x.txt", table(), "auto", "source.format=parquet"),
        ("x", table(), "auto", "source.format=parquet"),
        ("x.csv", b"id,text\n1,rain\n", "parquet", "source.format=csv"),
        ("x.csv", b"id,text\n1,rain\n", "jsonl", "source.format=csv"),
        ("x.parquet", b"id,text\n1,rain\n", "auto", "name of what it is"),
        ("x.txt", b"rain\n", "parquet", "source.format=text"),
        ("x.jsonl", b'{"text": "rain"}\n', "csv", "source.format=jsonl"),
        ("x.jsonl", b'{"text": "rain"}\n', "properties", "source.format=jsonl"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "rain"}\n', mtime=0), "tsv", "source.format=jsonl"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "rain"}\n', mtime=0), "parquet", "source.format=jsonl"),
    ],
)
def test_a_format_that_contradicts_the_file_is_refused_with_the_override(
    tmp_path: Path, name: str, data: bytes, format: str, fix: str
) -> None:
    path = write(tmp_path / "in" / name, data)
    with pytest.raises(ConfigError) as caught:
        open_inputs(path, format=SourceFormat(format))
    assert fix in caught.value.fix
    write(tmp_path / "in/good.txt", b"rain\n")
    if format == "auto":
        assert [input.rel for input in open_inputs(str(tmp_path / "in")).files] == ["good.txt"]
        assert open_inputs(path, format=SourceFormat.parquet if data == table() else SourceFormat.csv).files


def test_a_format_fits_the_rows_that_have_it_under_another_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b"id,text\n1,rain\n")  # no JSON: the setting knows better than the name
    assert open_inputs(path, format=SourceFormat.csv).files
    path = write(tmp_path / "y.jsonl", b'{"text": "rain"}\n')  # any text is lines
    assert open_inputs(path, format=SourceFormat.text).files


def test_a_damaged_table_is_reported_as_damaged(tmp_path: Path) -> None:
    for data in (table()[:30], RANDOM, b""):
        inputs = open_inputs(write(tmp_path / "x.parquet", data))
        with pytest.raises(PreflightError, match="cannot be read as a parquet file"):
            inputs.preamble(inputs.files[0])


ROWS = [{"text": "Heavy rain.", "id": 1}, {"text": "Sunny \u2013 雨.", "id": 2}]
JSON_FILES = {
    "one line": json.dumps(ROWS).encode(),
    "a row a line": b"[\n" + b",\n".join(json.dumps(row).encode() for row in ROWS) + b"\n]\n",
    "pretty": json.dumps(ROWS, indent=2).encode(),
    "empty lines": b"\n \r\n\n" + json.dumps(ROWS, indent=1).encode(),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(ROWS, ensure_ascii=False).encode(),
    "pretty objects": b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS) + b"\n",
    "objects on one line": b"".join(json.dumps(row).encode() for row in ROWS),
    "arrays of objects": b"\n".join(json.dumps([row]).encode() for row in ROWS),
    "one pretty object": json.dumps(ROWS[0], indent=2).encode(),
    "long": json.dumps([*ROWS, *({"text": "x" * 99, "id": index} for index in range(3000))]).encode(),
    "long and pretty": json.dumps([*ROWS, *({"text": "x" * 99} for index in range(3000))], indent=1).encode(),
    "strings": json.dumps([row["text"] for row in ROWS]).encode(),
}


@pytest.mark.parametrize("extension", [".jsonl", ".json"])
@pytest.mark.parametrize("kind", JSON_FILES)
def test_json_whose_first_objects_have_the_text_is_rows_in_any_shape(tmp_path: Path, kind: str, extension: str) -> None:
    path = write(tmp_path / f"my {kind}{extension}", JSON_FILES[kind])
    if kind == "strings" and extension == ".jsonl":
        with pytest.raises(ConfigError, match=r"Set source\.format=json,"):
            open_inputs(path)
        return
    inputs = open_inputs(path)
    is_tree = extension == ".json" and kind in ("strings", "one pretty object", "arrays of objects")
    is_lines = kind == "arrays of objects" and not is_tree
    assert inputs.files[0].format == ("json" if is_tree else "jsonl" if is_lines else "json_rows")
    if not is_tree and not is_lines:
        texts = [document.text for document in inputs.read(inputs.files[0])]
        assert texts[:2] == [row["text"] for row in ROWS][: len(texts)] and len(texts) in (1, 2, 3002)


@pytest.mark.parametrize("kind", ["one line", "pretty objects"])
def test_the_shape_of_compressed_and_transcoded_json_is_seen(tmp_path: Path, kind: str) -> None:
    for name, data in (("a.json.gz", gzip.compress(JSON_FILES[kind])), ("b.jsonl.bz2", bz2.compress(JSON_FILES[kind]))):
        assert open_inputs(write(tmp_path / name, data)).files[0].format == "json_rows"
    wide = write(tmp_path / "c.json", JSON_FILES[kind].decode().encode("utf-16"))
    assert open_inputs(wide, encoding="utf-16").files[0].format == "json_rows"


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        (b'\n{"id": 1}\n{"id": 2, "text": "b"}\n', "jsonl"),
        (b'{"text": "a"}\n', "json"),  # never a single object
        (b'{"text": "a"}', "json"),
        (b'{"text": "a", "b": [{"text": "c"}]}', "json"),
        (b'[{"a": "b"}]', "json"),
        (b'[1, {"text": "b"}]', "json"),
        (b'[{"text": "%s"}, {"text": "b"}]' % (b"x" * 100_000), "json_rows"),
        (b'{"text": "%s"}\n{"text": "b"}\n' % (b"x" * 100_000), "jsonl"),
        (b"[]", "json"),
        (b"", "json"),
        (b"no json", "json"),
    ],
)
def test_a_json_file_without_rows_is_a_tree(tmp_path: Path, data: bytes, format: str) -> None:
    assert open_inputs(write(tmp_path / "a.json", data)).files[0].format == format


@pytest.mark.parametrize(
    "data", [b'[{"a": "b", "c": "d"}]', b'{"a": "b", "c": "d"}\n{"a": "b"}\n', b'{"a": "b", "c": "d"}', b'["a", "c"]']
)
def test_a_text_field_of_the_user_that_no_first_object_has_is_refused_with_the_fields_that_there_are(
    tmp_path: Path, data: bytes
) -> None:
    path = write(tmp_path / "a.json", data)
    assert open_inputs(path).files
    with pytest.raises(ConfigError, match=r"'body'") as caught:
        open_inputs(path, text_field="body")
    assert "source.format=json" in caught.value.fix
    if b"d" in data:
        assert "'c'" in caught.value.why
    assert open_inputs(path, text_field="body", format=SourceFormat.json).files[0].format == "json"


def test_the_name_of_the_default_text_field_written_out_is_as_any_other_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'[{"a": "b", "c": "d"}]')
    assert open_inputs(path).files[0].format == "json"
    with pytest.raises(ConfigError, match=r"none of its first objects has the field 'text'"):
        open_inputs(path, text_field="text")
    with pytest.raises(ConfigError, match=r"none of its first objects has the field 'text'"):
        open_inputs(path, text_field=["text"])
    rows = write(tmp_path / "rows.json", b'[{"text": "b"}]')
    assert open_inputs(rows, text_field="text").files[0].format == "json_rows"


def test_which_json_files_are_trees_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("en.json", "fr.json"):
        write(tmp_path / name, b'{"a": "b"}')
    write(tmp_path / "rows.json", b'[{"text": "b"}]')
    with caplog.at_level(logging.INFO):
        open_inputs(str(tmp_path))
    (line,) = (record.getMessage() for record in caplog.records if "all strings" in record.getMessage())
    assert "files=2" in line and "en.json" in line and "rows.json" not in line
    caplog.clear()
    with caplog.at_level(logging.INFO):
        open_inputs(str(tmp_path), format=SourceFormat.json)
    assert not caplog.records  # the user says so


@pytest.mark.parametrize("set_format", ["jsonl", "json_rows"])
def test_json_of_another_shape_than_the_set_one_is_refused_with_the_setting_that_reads_it(
    tmp_path: Path, set_format: str
) -> None:
    shapes = {
        "jsonl": JSON_FILES["one line"],
        "json_rows": b'{"text": "a"}\n{"text": "b"}\n',
    }
    path = write(tmp_path / "a.json", shapes[set_format])
    with pytest.raises(ConfigError, match=rf"Set source\.format={({*shapes} - {set_format}).pop()},"):
        open_inputs(path, format=SourceFormat(set_format))
    path = write(tmp_path / "b.json", JSON_FILES["strings"])
    with pytest.raises(ConfigError, match=r"Set source\.format=json,"):
        open_inputs(path, format=SourceFormat(set_format))
    assert open_inputs(path, format=SourceFormat.text).files[0].format == "text"


def test_a_resource_bundle_is_a_tree_and_a_text_named_like_its_language_is_text(tmp_path: Path) -> None:
    bundle = write(tmp_path / "app_en.arb", b' {"@@locale": "en", "text": "a"}')
    corpus = write(tmp_path / "corpus.arb", "\u0645\n".encode())
    assert [input.format for input in open_inputs([bundle, corpus]).files] == ["json", "text"]
    assert [input.rel for input in open_inputs(str(tmp_path)).files] == ["app_en.arb"]
    assert [input.rel for input in open_inputs(str(tmp_path), format=SourceFormat.json).files] == [
        "app_en.arb",
        "corpus.arb",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b'{"text": "a"}\n{"text": "b"}\n',
        b'{"text": "a"}',
        b"not json\n" * 3,
        b'["a", "b"]\n{"text": "b"}\n',
        b'[{"text": "a"}]\n{"text": "b"}\n',
        b'{"text": "a"\n{"text": "b"}\n',
        b'{"text": "a"}{"text": "b"}\n{"text": "c"}\n',
        b'[broken\n{"text": "b"}\n',
        b'\n\n{"text": "a"}\r\n',
        b"[1]\n[2]\n",
        b"",
        b'{"text": "' + b"x" * 100_000 + b'"}\n{"text": "b"}\n',
        b'{"data": [{"a": "' + b"x" * 100_000 + b'"}], "text": "b"}\n{"text": "b"}\n',
    ],
)
def test_a_jsonl_file_with_bad_rows_is_still_read_row_by_row(tmp_path: Path, data: bytes) -> None:
    inputs = open_inputs(write(tmp_path / "a.jsonl", data))
    assert len(list(inputs.read(inputs.files[0]))) == len(data.splitlines())


def test_a_job_that_recorded_no_formats_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    for name, data in (("film.srt", b"1\n"), ("pic.txt", PNG), ("a.jsonl", b"[]\n"), ("z.txt", gzip.compress(b"a\n"))):
        path = write(tmp_path / name, data)
        inputs = open_inputs(path, formats=())
        assert [(input.rel, input.compression) for input in inputs.files] == [(name, "")]
        assert inputs.formats == ()
    assert [input.rel for input in open_inputs(str(tmp_path / "*.*"), formats=()).files] == sorted(
        ["film.srt", "pic.txt", "a.jsonl", "z.txt"]
    )


def test_an_upgrade_adds_no_input_to_a_job_and_says_what_would_be_read_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.txt", b"rain\n")
    write(tmp_path / "b.jsonl", b'{"text": "a"}\n')
    created_with = ("text", "csv")
    inputs = open_inputs(str(tmp_path), formats=created_with)
    assert [input.rel for input in inputs.files] == ["a.txt"] and inputs.formats == created_with
    assert [file.rel for file in inputs.skipped] == ["b.jsonl"]
    line = caplog.records[0].getMessage()
    assert "b.jsonl" in line and "on_input_change=redo adds them" in line
    assert [input.rel for input in open_inputs(str(tmp_path)).files] == ["a.txt", "b.jsonl"]


def test_a_trial_run_looks_only_into_the_files_that_it_needs_and_tells_what_it_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, data in (("a.txt", PNG), ("b.txt", b"rain\nsun\n"), ("c.txt", PNG)):
        write(tmp_path / name, data)
    inputs = open_inputs(str(tmp_path), limit=2)
    assert [input.rel for input in inputs.files] == ["b.txt"]
    assert [file.rel for file in inputs.skipped] == ["a.txt"]
    assert len(caplog.records) == 1


LONG_LINES = {
    "zh": ("今天天气很好上一。" * 30 + "\n") * 20,
    "zh without a line feed": "今天天气很好上一。" * 200,
    "ru": "привет мир " * 500,
    "hi": "नमस्ते दुनिया। " * 10,
    "th": "สวัสดีชาวโลก " * 30,
    "ar": "مرحبا بالعالم",
    "gu": "ગુજરાતી ભાષા " * 9,
    "ko": "안녕하세요 세계",
}
"""Texts in UTF-16 with few NUL bytes: long lines without spaces, or a single line."""


@pytest.mark.parametrize("text", LONG_LINES.values(), ids=LONG_LINES)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_file_of_long_lines_in_utf_16_without_a_mark_is_no_binary_data(
    tmp_path: Path, encoding: str, text: str
) -> None:
    path = write(tmp_path / "a.txt", text.encode(encoding))
    with pytest.raises(ConfigError, match=f"by its NUL bytes.*Set source.encoding={encoding}"):
        open_inputs(path)
    for name in (encoding, "utf-16"):
        inputs = open_inputs(path, encoding=name)
        assert [document.text for document in inputs.read(inputs.files[0])] == text.splitlines()


def test_bad_rows_and_a_nul_make_no_utf_16_of_a_text(tmp_path: Path) -> None:
    rows = b'{"text": "rain in Athens"}\n' * 40 + b'{"text": "caf\xe9"}\n{"text": "a\0b"}\n' + b'"' * 900 + b"\xff\n"
    inputs = open_inputs(write(tmp_path / "a.jsonl", rows))
    assert len(list(inputs.read(inputs.files[0]))) == 43
    japanese = ("アテネは雨です。\n" * 60 + "\0\n").encode("cp932")
    inputs = open_inputs(write(tmp_path / "a.txt", japanese), encoding="cp932")
    assert len(list(inputs.read(inputs.files[0]))) == 61


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_setting_is_believed_where_a_short_file_shows_nothing(tmp_path: Path, encoding: str) -> None:
    for text in ("a", "ш", "สวัสดีชาวโลก", "今天天气很好上。" * 500):  # few NUL bytes or none
        inputs = open_inputs(write(tmp_path / "a.txt", text.encode(encoding)), encoding=encoding)
        assert [document.text for document in inputs.read(inputs.files[0])] == [text]
    with pytest.raises(ConfigError, match="binary data"):
        open_inputs(write(tmp_path / "a.txt", RANDOM), encoding=encoding)


@pytest.mark.parametrize(
    "start", ["GIF89a is a format", "ARROW1 is a magic", "%PDF-1.7 is a header", "BZh", "PK", "Obj"]
)
def test_a_text_that_begins_with_the_letters_of_a_magic_is_read(tmp_path: Path, start: str) -> None:
    inputs = open_inputs(write(tmp_path / "a.txt", f"{start}\nrain\n".encode()))
    assert [document.text for document in inputs.read(inputs.files[0])] == [start, "rain"]


@pytest.mark.parametrize(
    ("name", "taken", "new", "data"),
    [
        ("a.txt.gz", "a.txt", "a-2.txt", b"rain\n"),
        ("a.txt", "a.parquet", "a-2.parquet", table()),
    ],
)
def test_the_advice_to_rename_a_file_replaces_no_other(
    tmp_path: Path, name: str, taken: str, new: str, data: bytes
) -> None:
    other = write(tmp_path / "b.txt", b"sun\n")
    for is_taken in (False, True):
        path = write(tmp_path / name, data)
        if is_taken:
            write(tmp_path / taken, b"kept")
        with pytest.raises(ConfigError) as refused:
            open_inputs([path, other])
        command = refused.value.fix.partition("Command: ")[2]
        subprocess.run(command, shell=True, check=True)
        renamed = tmp_path / (new if is_taken else taken)
        assert renamed.read_bytes() == data
        assert len(open_inputs([str(renamed), other]).files) == 2
        renamed.unlink()
    assert (tmp_path / taken).read_bytes() == b"kept"


def test_the_commands_for_files_of_a_folder_work_one_after_the_other_and_leave_the_others_as_they_are(
    tmp_path: Path,
) -> None:
    rows, text = [{"text": "é", "id": 1}, {"text": "b", "id": 2}], "été à Paris\n" * 9
    files = {
        "a.jsonl": json.dumps(rows).encode(),
        "c d.txt": text.encode("utf-16-le"),
        "deep/it's.txt": text.encode("cp1252"),
        "deep/plain.txt": text.encode(),
    }
    for name, data in files.items():
        write(tmp_path / name, data)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            open_inputs(str(tmp_path))
        command = caught.value.fix.partition("Command: ")[2]
        subprocess.run(command, shell=True, check=True, timeout=60)
    assert [input.rel for input in open_inputs(str(tmp_path)).files] == sorted(files)
    for name in ("c d.txt", "deep/it's.txt", "deep/plain.txt"):
        assert (tmp_path / name).read_bytes() == text.encode()
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob(".originals/*")}
    assert kept == {Path(name).name: data for name, data in files.items() if name.endswith(("d.txt", "s.txt"))}


def test_the_advice_for_one_of_several_files_is_a_command_before_a_setting_for_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "rain in the north\n".encode("utf-16-le"))
    write(tmp_path / "b.txt", b"rain\n")
    with pytest.raises(ConfigError) as caught:
        open_inputs(str(tmp_path))
    assert caught.value.fix.startswith("Convert it, or set source.encoding=utf-16-le if all files of the job are.")


def test_a_setting_that_would_hold_for_all_files_is_not_advised_for_one_of_several_tables(tmp_path: Path) -> None:
    write(tmp_path / "b.tsv", b"id,text\n1,rain\n")
    with pytest.raises(ConfigError, match=r"set source\.format=csv\."):
        open_inputs(str(tmp_path / "b.tsv"))
    write(tmp_path / "a.csv", b"id;text\n1;rain\n")
    with pytest.raises(ConfigError, match=r"move it elsewhere, and .* job of its own with source\.delimiter=';'"):
        open_inputs(str(tmp_path))
    with pytest.raises(ConfigError, match=r"Set source\.text_field to one of them\. If .*set source\.delimiter=';'\."):
        open_inputs(str(tmp_path / "a.csv"))
