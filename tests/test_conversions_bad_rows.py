"""Unusable rows in outputs of another format: they keep their fields, their id and their position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_conversions import EXTENSION, read, run

TARGETS = [kind for kind in EXTENSION if kind != "text"]
LIMIT = 400
LONG = "word " * 200


def convert(tmp_path: Path, name: str, data: bytes, target: str, *more: str) -> list[dict[str, Any]]:
    (tmp_path / name).write_bytes(data)
    run(
        tmp_path / "out",
        f"source.path={tmp_path / name}",
        f"write={target}",
        f"source.max_row_bytes={LIMIT}",
        "check.max_error_rate=1",
        *more,
    )
    (path,) = (tmp_path / "out/n/translated").iterdir()
    return read(path, target)


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("target", [kind for kind in TARGETS if kind != "jsonl"])
def test_a_long_object_keeps_its_fields(tmp_path: Path, target: str, on_error: str) -> None:
    rows = [
        json.dumps({"id": 1, "text": "short", "last": "a"}),
        json.dumps({"id": 2, "text": LONG, "last": "b"}),
        json.dumps({"id": 3, "text": "short too", "last": "c"}) + " " * 500,
        f'{{"id": 4, "text": "{LONG}", "last": "d',  # cut off
    ]
    output_rows = convert(tmp_path, "x.jsonl", "\n".join(rows).encode(), target, f"write.on_error={on_error}")
    assert [str(row["id"]) for row in output_rows] == ["1", "2", "3", "4"]
    assert [row["text"] for row in output_rows] == ["short", LONG, "short too", LONG]
    assert [row["last"] or "" for row in output_rows] == ["a", "b", "c", ""]
    assert [row["hymt"]["status"] for row in output_rows] == ["ok", "too_long", "too_long", "too_long"]
    sources = ["", LONG, "short too", rows[3]] if on_error == "source" else [""] * 4
    assert [row["translation"] for row in output_rows][1:] == sources[1:]


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_long_record_keeps_its_fields(tmp_path: Path, kind: str, target: str, on_error: str) -> None:
    if kind == target:
        pytest.skip("no conversion")
    delimiter = "," if kind == "csv" else "\t"
    records = [["id", "text", "last"], ["1", "short", "a"], ["2", LONG, "b"], ["3", LONG], ["4", "short too", "d"]]
    data = "\n".join(delimiter.join(record) for record in records).encode()
    rows = convert(tmp_path, f"x.{kind}", data, target, f"write.on_error={on_error}")
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["text"] for row in rows] == ["short", LONG, LONG, "short too"]
    assert [row["last"] or "" for row in rows] == ["a", "b", "", "d"]
    assert [row["hymt"]["status"] for row in rows] == ["ok", "too_long", "too_long", "ok"]
    assert rows[1]["translation"] == (LONG if on_error == "source" else "")


@pytest.mark.parametrize("target", TARGETS)
def test_a_long_line_keeps_its_text(tmp_path: Path, target: str) -> None:
    rows = convert(tmp_path, "x.txt", f"short\n{LONG}\nlast".encode(), target, "write.on_error=source")
    assert [row["text"] for row in rows] == ["short", LONG, "last"]
    assert rows[1]["translation"] == LONG


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_long_record_with_escapes_keeps_its_fields(tmp_path: Path, kind: str, on_error: str) -> None:
    """In the same format and another one; complete, with too few cells, and with an escape at the end."""
    delimiter = "," if kind == "csv" else "\t"
    quoted = '"{} \\"said\\", {}"' if kind == "csv" else "{} said\\\t {}"
    text = quoted.format("she", LONG)
    plain = f'she "said", {LONG}' if kind == "csv" else f"she said\t {LONG}"
    records = [["id", "text", "last"], ["1", text, "b"], ["2", text], ["3", text, "c\\"]]
    data = "\n".join(delimiter.join(record) for record in records).encode()
    more = ("source.escape=backslash", f"write.on_error={on_error}")
    converted_rows = convert(tmp_path, f"x.{kind}", data, "jsonl", *more)
    assert [row["id"] for row in converted_rows] == ["1", "2", "3"]
    assert [row["text"] for row in converted_rows] == [plain] * 3
    assert {row["hymt"]["status"] for row in converted_rows} == {"too_long"}
    (tmp_path / "same").mkdir()
    source = tmp_path / "same" / f"x.{kind}"
    source.write_bytes(data)
    overrides = [f"source.path={source}", f"source.max_row_bytes={LIMIT}", "check.max_error_rate=1", *more]
    run(tmp_path / "same", *overrides)
    written = tmp_path / "same/n/translated" / source.name
    rerun_folder = tmp_path / "again"
    rerun_folder.mkdir()
    run(rerun_folder, f"source.path={written}", "source.escape=backslash", "write=jsonl", "write.translation_field=t2",
        "write.meta_field=m2")  # fmt: skip
    (path,) = (rerun_folder / "n/translated").iterdir()
    rows = read(path, "jsonl")
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["text"] for row in rows] == [plain] * 3
    assert [row["last"] for row in rows] == ["b", "", "c\\"]
    flat = plain.replace("\t", " ")
    assert rows[0]["translation"].replace("\t", " ") == (flat if on_error == "source" else "")


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_that_most_readers_reject_are_kept_in_every_format(tmp_path: Path, target: str) -> None:
    if target == "jsonl":
        pytest.skip("no conversion")
    digits = "7" * 5000
    rows = f'{{"id": 1, "text": "one", "n": NaN}}\n{{"id": 2, "text": "two", "n": {digits}}}\n'
    (tmp_path / "x.jsonl").write_text(rows)
    run(tmp_path / "out", f"source.path={tmp_path / 'x.jsonl'}", f"write={target}")
    (path,) = (tmp_path / "out/n/translated").iterdir()
    output_rows = read(path, target)
    assert [row["n"] for row in output_rows] == ["NaN", digits]
    assert [row["translation"] for row in output_rows] == ["ONE", "TWO"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("x.csv", b"id,text\n1,one\n2,t\xffo\n3,three,more\n", ["ok", "bad_encoding", "bad_row"]),
        ("x.tsv", b"id\ttext\n1\tone\n2\tt\xffo\n3\tthree\tmore\n", ["ok", "bad_encoding", "bad_row"]),
        (
            "x.jsonl",
            b'{"id": 1, "text": "one"}\n{"id": 2, "text": "t\xffo"}\n{"id": 3, "text": 5}\n',
            ["ok", "bad_encoding", "bad_row"],
        ),
    ],
)
def test_broken_rows_keep_their_id(tmp_path: Path, name: str, data: bytes, status: list[str], target: str) -> None:
    rows = convert(tmp_path, name, data, target)
    assert [str(row["id"]) for row in rows] == ["1", "2", "3"]
    assert [row["hymt"]["status"] for row in rows] == status


DEEP = "[" * 600 + "]" * 600


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("filler", [0, LIMIT * 4])
@pytest.mark.parametrize("target", EXTENSION)
def test_a_deeply_nested_field_harms_neither_other_fields_nor_the_job(
    tmp_path: Path, target: str, filler: int, on_error: str
) -> None:
    """Rows under and over the byte limit."""
    rows = [
        '{"id": 1, "text": "one"}',
        f'{{"id": 2, "text": "two", "d": {DEEP}, "last": "{"k" * filler}"}}',
        '{"id": 3, "text": "three"}',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(rows) + "\n")
    overrides = [f"source.path={tmp_path / 'x.jsonl'}", f"write={target}", f"source.max_row_bytes={2000}"]
    result = run(tmp_path / "out", *overrides, "check.max_error_rate=1", f"write.on_error={on_error}")
    assert result.counts["ok"] == 2
    (path,) = (tmp_path / "out/n/translated").iterdir()
    if target == "jsonl":
        assert path.read_text().split("\n")[1].startswith(rows[1][:-1])
        return
    output_rows = read(path, target)
    assert output_rows[1]["translation"] == ("two" if on_error == "source" else "")
    if target != "text":
        assert [str(row["id"]) for row in output_rows] == ["1", "2", "3"]
        assert (output_rows[1]["text"], output_rows[1]["d"]) == ("two", DEEP)


@pytest.mark.parametrize("target", [kind for kind in TARGETS if kind != "jsonl"])
def test_a_long_row_with_unknown_text_has_the_original_row_as_its_text(tmp_path: Path, target: str) -> None:
    cut_off = f'{{"id": 2, "text": "{LONG}'
    doubled = f'{{"id": 3, "text": "{LONG}", "text": "other"}}'
    long_number = f'{{"id": 4, "n": {"9" * 5000}, "text": "four"}}'
    data = "\n".join(['{"id": 1, "text": "one"}', cut_off, doubled, long_number]).encode()
    rows = convert(tmp_path, "x.jsonl", data, target, "write.on_error=source")
    assert [row["translation"] for row in rows] == ["ONE", cut_off, doubled, "four"]
    assert rows[3]["n"] == "9" * 5000


@pytest.mark.parametrize("target", [kind for kind in TARGETS if kind != "jsonl"])
def test_a_late_field_that_has_the_name_of_an_added_column_gets_a_prefixed_column(tmp_path: Path, target: str) -> None:
    rows = [json.dumps({"id": row_id, "text": ""}) for row_id in range(100)]
    rows.append(json.dumps({"id": 100, "hymt": {"mine": 1}, "translation": "mine", "text": "x"}))
    output_rows = convert(tmp_path, "x.jsonl", "\n".join(rows).encode(), target)
    assert output_rows[100]["hymt"]["status"] == "bad_row"
    assert output_rows[100]["translation"] == ""
    assert json.loads(output_rows[100]["source.hymt"]) == {"mine": 1}
    assert output_rows[100]["source.translation"] == "mine"
    assert not output_rows[0]["source.hymt"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_byte_order_mark_inside_a_file_costs_no_field(tmp_path: Path, target: str) -> None:
    data = b'{"id": 1, "text": "one"}\n\xef\xbb\xbf{"id": 2, "text": "two"}\n'
    rows = convert(tmp_path, "x.jsonl", data, target, "write.on_error=source")
    assert [str(row["id"]) for row in rows] == ["1", "2"]
    assert [row["hymt"]["status"] for row in rows] == ["ok", "bad_row"]
    assert rows[1]["translation"] == "two"
    line = (tmp_path / "out/n/errors/x.jsonl.errors.jsonl").read_text()
    assert "byte order mark" in line


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_a_file_of_only_a_byte_order_mark_has_no_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf")
    result = run(tmp_path / "out", f"source.path={tmp_path / name}")  # also verifies the output
    assert result.rows == 0


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("first", ["blank", "long", "cut"])
def test_without_a_header_the_first_record_with_cells_sets_the_number_of_columns(
    tmp_path: Path, kind: str, first: str
) -> None:
    delimiter = "," if kind == "csv" else "\t"
    start = {"blank": "", "long": f"{'k' * LIMIT * 2}{delimiter}zero", "cut": "\n\n"}[first]
    data = f"{start}\n1{delimiter}one\n2{delimiter}two\n".encode()
    more = ("source.header=false", "source.text_field=2")
    rows = convert(tmp_path, f"x.{kind}", data, "jsonl", *more)
    assert [row["translation"] for row in rows][-2:] == ["ONE", "TWO"]
    assert {row["hymt"]["status"] for row in rows[-2:]} == {"ok"}
