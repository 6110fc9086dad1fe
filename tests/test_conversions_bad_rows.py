"""Rows that cannot be used, in outputs of another format: they keep their fields, their id and their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_conversions import EXTENSION, read, run

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
    found = convert(tmp_path, "x.jsonl", "\n".join(rows).encode(), target, f"write.on_error={on_error}")
    assert [str(row["id"]) for row in found] == ["1", "2", "3", "4"]
    assert [row["text"] for row in found] == ["short", LONG, "short too", LONG]
    assert [row["last"] or "" for row in found] == ["a", "b", "c", ""]
    assert [row["hymt"]["status"] for row in found] == ["ok", "too_long", "too_long", "too_long"]
    sources = ["", LONG, "short too", LONG] if on_error == "source" else [""] * 4
    assert [row["translation"] for row in found][1:] == sources[1:]


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_long_record_keeps_its_fields(tmp_path: Path, kind: str, target: str, on_error: str) -> None:
    if kind == target:
        pytest.skip("no conversion")
    mark = "," if kind == "csv" else "\t"
    records = [["id", "text", "last"], ["1", "short", "a"], ["2", LONG, "b"], ["3", LONG], ["4", "short too", "d"]]
    data = "\n".join(mark.join(record) for record in records).encode()
    found = convert(tmp_path, f"x.{kind}", data, target, f"write.on_error={on_error}")
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    assert [row["text"] for row in found] == ["short", LONG, LONG, "short too"]
    assert [row["last"] or "" for row in found] == ["a", "b", "", "d"]
    assert [row["hymt"]["status"] for row in found] == ["ok", "too_long", "too_long", "ok"]
    assert found[1]["translation"] == (LONG if on_error == "source" else "")


@pytest.mark.parametrize("target", TARGETS)
def test_a_long_line_keeps_its_text(tmp_path: Path, target: str) -> None:
    found = convert(tmp_path, "x.txt", f"short\n{LONG}\nlast".encode(), target, "write.on_error=source")
    assert [row["text"] for row in found] == ["short", LONG, "last"]
    assert found[1]["translation"] == LONG


@pytest.mark.parametrize("on_error", ["empty", "source"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_long_record_with_escapes_keeps_its_fields(tmp_path: Path, kind: str, on_error: str) -> None:
    """In its own format and in another one; whole, with too few cells, and with an escape at its very end."""
    mark = "," if kind == "csv" else "\t"
    quoted = '"{} \\"said\\", {}"' if kind == "csv" else "{} said\\\t {}"
    text = quoted.format("she", LONG)
    plain = f'she "said", {LONG}' if kind == "csv" else f"she said\t {LONG}"
    records = [["id", "text", "last"], ["1", text, "b"], ["2", text], ["3", text, "c\\"]]
    data = "\n".join(mark.join(record) for record in records).encode()
    more = ("source.escape=backslash", f"write.on_error={on_error}")
    found = convert(tmp_path, f"x.{kind}", data, "jsonl", *more)
    assert [row["id"] for row in found] == ["1", "2", "3"]
    assert [row["text"] for row in found] == [plain] * 3
    assert {row["hymt"]["status"] for row in found} == {"too_long"}
    (tmp_path / "same").mkdir()
    own = tmp_path / "same" / f"x.{kind}"
    own.write_bytes(data)
    job = [f"source.path={own}", f"source.max_row_bytes={LIMIT}", "check.max_error_rate=1", *more]
    run(tmp_path / "same", *job)
    written = tmp_path / "same/n/translated" / own.name
    again = tmp_path / "again"
    again.mkdir()
    run(again, f"source.path={written}", "source.escape=backslash", "write=jsonl", "write.translation_field=t2",
        "write.meta_field=m2")  # fmt: skip
    (path,) = (again / "n/translated").iterdir()
    rows = read(path, "jsonl")
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["text"] for row in rows] == [plain] * 3
    assert [row["last"] for row in rows] == ["b", "", "c\\"]
    flat = plain.replace("\t", " ")
    assert rows[0]["translation"].replace("\t", " ") == (flat if on_error == "source" else "")


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_that_nobody_reads_are_kept_in_every_format(tmp_path: Path, target: str) -> None:
    if target == "jsonl":
        pytest.skip("no conversion")
    digits = "7" * 5000
    rows = f'{{"id": 1, "text": "one", "n": NaN}}\n{{"id": 2, "text": "two", "n": {digits}}}\n'
    (tmp_path / "x.jsonl").write_text(rows)
    run(tmp_path / "out", f"source.path={tmp_path / 'x.jsonl'}", f"write={target}")
    (path,) = (tmp_path / "out/n/translated").iterdir()
    found = read(path, target)
    assert [row["n"] for row in found] == ["NaN", digits]
    assert [row["translation"] for row in found] == ["ONE", "TWO"]


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
    found = convert(tmp_path, name, data, target)
    assert [str(row["id"]) for row in found] == ["1", "2", "3"]
    assert [row["hymt"]["status"] for row in found] == status
