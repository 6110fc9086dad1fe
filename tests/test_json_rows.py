"""JSON rows in an array or over several lines: read as a stream from any row on, and written back in their shape."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.formats.jsonl.elements import Elements
from hymt_batch.records import PLAN_VERSION, ShardRecord
from hymt_batch.source.input_names import AS_INPUTS
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard
from jobs import __main__ as front
from tests.fakes.job import Job

PRETTY = """\ufeff[
    {
        "id": 1,
        "text": "rain",
        "tags": [{"a": "]}"}, "\\""]
    },
    {
        "text": "sun"
    }
]
"""


def inputs_of(path: Path, **settings: Any) -> Inputs:
    config = SourceConfig(path=str(path), **settings)
    return Inputs(config, None, outputs=AS_INPUTS, added_fields=("translation", "hymt"), plan_version=PLAN_VERSION)


def run(tmp_path: Path, name: str, data: str, *overrides: str) -> str:
    path = tmp_path / name
    path.write_bytes(data.encode())
    Job(tmp_path)(f"source.path={path}", "name=n", *overrides)
    return (tmp_path / "out/n/translated" / name).read_bytes().decode()


def added(text: str, row: int, name: str = "a.json") -> str:
    return f'"translation": "{text}", "hymt": {{"id": "{name}#{row}", "status": "ok", "flags": []}}'


def test_a_pretty_printed_array_stays_one_with_its_indentation(tmp_path: Path) -> None:
    out = run(tmp_path, "a.json", PRETTY)
    rows = json.loads(out.removeprefix("\ufeff"))
    assert [row["translation"] for row in rows] == ["RAIN", "SUN"]
    kept = [line.rstrip(",") for line in out.split("\n") if '"translation"' not in line and '"hymt"' not in line]
    assert kept == [line.rstrip(",") for line in PRETTY.split("\n")]
    assert '\n        "translation": "RAIN",\n        "hymt": {' in out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"}]', f'[{{"text": "a", {added("A", 1)}}}, {{"text": "b", {added("B", 2)}}}]'),
        (
            '[\r\n{"text": "a"},\r\n{"text": "b"}\r\n]\r\n',
            f'[\r\n{{"text": "a", {added("A", 1)}}},\r\n{{"text": "b", {added("B", 2)}}}\r\n]\r\n',
        ),
        ('{"text": "a"}{"text": "b"}', f'{{"text": "a", {added("A", 1)}}}{{"text": "b", {added("B", 2)}}}'),
    ],
)
def test_the_shape_of_rows_stays(tmp_path: Path, data: str, expected: str) -> None:
    assert run(tmp_path, "a.json", data) == expected
    assert front.main(["verify", f"output_dir={tmp_path / 'out'}", "name=n"]) == 0


def test_objects_over_several_lines_keep_their_lines(tmp_path: Path) -> None:
    data = "".join(json.dumps({"text": text, "n": 1}, indent=2) + "\n" for text in "ab")
    out = run(tmp_path, "a.jsonl", data)
    assert out.count("\n") == data.count("\n") + 4
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(out):
        value, at = decoder.raw_decode(out, at)
        values.append(value["translation"])
        at += 1
    assert values == ["A", "B"]


def test_a_limit_leaves_a_complete_array(tmp_path: Path) -> None:
    for name, data in (("a.json", PRETTY), ("b.json", '[{"text": "x"}, {"text": "y"}]')):
        out = run(tmp_path, name, data, "source.limit=1", "overwrite=true")
        assert len(json.loads(out.removeprefix("\ufeff"))) == 1


@pytest.mark.parametrize("end", ["", ",", ",\n", " \n", "]"])
def test_an_array_that_is_cut_off_between_two_rows_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    path, data = tmp_path / "a.json", '[{"text": "x"},\n{"text": "y"}'
    out = run(tmp_path, "a.json", data + end)
    assert [row["translation"] for row in json.loads(out)] == ["X", "Y"]
    assert capsys.readouterr().err.count(f"{path} ends without the ] of its array") == (end != "]")
    Job(tmp_path)(f"source.path={path}", "name=limit", "source.limit=1")
    assert "of its array" not in capsys.readouterr().err


def test_broken_elements_are_bad_rows_and_the_others_are_translated(tmp_path: Path) -> None:
    data = '[{"text": "a"}, 5, {"text" "b"}, "c, d", {"text": "e"} {"text": "f"}, null, {"text": "g'
    (tmp_path / "a.json").write_text(data)
    inputs = inputs_of(tmp_path / "a.json")
    documents = list(inputs.read(inputs.files[0]))
    assert [document.text for document in documents if document.status.value == "ok"] == ["a", "e", "f"]
    assert len(documents) == 8
    out = run(tmp_path, "a.json", data, "check.max_error_rate=1")
    rows = json.loads(out.replace("}} {", "}}, {"))
    assert [row["translation"] for row in rows] == ["A", "", "", "", "E", "F", "", ""]


@pytest.mark.parametrize("limit", [1 << 20, 300])
def test_shards_of_an_array_begin_at_any_row_and_cover_its_bytes(tmp_path: Path, limit: int) -> None:
    rng = random.Random(5)
    rows = [
        {"id": index, "text": "x" * rng.choice((3, 40, 900)), "more": [{"a\\": ']}[{"\\'}, ["é" * rng.randrange(9)]]}
        for index in range(500)
    ]
    for indent in (None, 3):
        path = tmp_path / f"a{indent}.json"
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=rng.random() < 0.5))
        inputs = inputs_of(path, max_row_bytes=limit)
        shards = list(inputs.cut_shards(70, 20_000, lambda *_: None))
        assert not any(isinstance(shard, SkippedShard) for shard in shards)
        assert [shard.first_row for shard in shards[:2]] == [0, len(shards[0].documents)]
        documents = [document for shard in shards for document in shard.documents]
        assert [document.id for document in documents] == [f"{path.name}#{row + 1}" for row in range(500)]
        is_short = [len(json.dumps(row, indent=indent, ensure_ascii=False).encode()) <= limit for row in rows]
        if limit > 1000:
            assert [document.text for document in documents] == [row["text"] for row in rows] and all(is_short)
        assert [a.end for a in shards[:-1]] == [b.start for b in shards[1:]]
        assert shards[-1].end == path.stat().st_size and shards[-1].last
        records = {
            shard.index: ShardRecord(
                shard.index, shard.first_row, len(shard.documents), shard.start, shard.end, shard.sha256, shard.last
            )
            for shard in shards
        }
        again = list(inputs.cut_shards(70, 20_000, partial(_odd, records)))
        assert [isinstance(shard, SkippedShard) for shard in again] == [bool(n % 2) for n in range(len(shards))]
        full = list(inputs.read(inputs.files[0]))
        assert [document.digest for document in full] == [document.digest for document in documents]


def _odd(records: dict[int, ShardRecord], input: Any, index: int) -> ShardRecord | None:
    return records[index] if index % 2 else None


def test_elements_are_the_same_whatever_the_blocks_are() -> None:
    rng = random.Random(3)
    for _ in range(300):
        values = [rng.choice(({"a": '\\"]', "b": [1, {"c": "}"}]}, "x,\\", [1, [2]], 5, {}, [])) for _ in range(5)]
        data = json.dumps(values, indent=rng.choice((None, 1))).encode()
        for size in (1, 2, 3, 1 << 16):
            blocks = [data[at : at + size] for at in range(0, len(data), size)][::-1]
            elements = Elements(lambda _, blocks=blocks: blocks.pop() if blocks else b"")
            read, out = [], elements.read_header()
            while elements.begin():
                element = b"".join(iter(elements.read_piece, b""))
                read.append(json.loads(element))
                out += element + elements.read_gap()
            assert read == values and out == data and elements.position == len(data)


def test_rows_of_any_format_become_an_array_and_an_array_becomes_lines(tmp_path: Path) -> None:
    for name, data, other, format in (
        ("a.csv", "id,text\n1,rain\n2,sun\n", "a.json", "json_rows"),
        ("b.json", PRETTY, "b.jsonl", "jsonl"),
        ("c.jsonl", "", "c.json", "json_rows"),
    ):
        (tmp_path / name).write_bytes(data.encode())
        Job(tmp_path)(f"source.path={tmp_path / name}", f"name={name}", f"write.format={format}")
        out = (tmp_path / "out" / name / "translated" / other).read_text()
        rows = json.loads(out) if format == "json_rows" else [json.loads(line) for line in out.splitlines()]
        assert [row["translation"] for row in rows] == ([] if not data else ["RAIN", "SUN"])


def test_a_row_over_the_limit_is_copied_in_pieces(tmp_path: Path) -> None:
    data = json.dumps([{"text": "a"}, {"text": "x" * 5000, "b": [1]}, {"text": "c"}], indent=1)
    out = run(tmp_path, "a.json", data, "source.max_row_bytes=2000", "check.max_error_rate=1", "write.on_error=source")
    rows = json.loads(out)
    assert [row["translation"] for row in rows] == ["A", "x" * 5000, "C"] and rows[1]["b"] == [1]
    assert rows[1]["hymt"]["status"] == "too_long"


def test_an_array_without_rows_is_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "a.jsonl", " [ ]\n") == " [ ]\n"


def test_rows_with_several_texts_keep_their_array(tmp_path: Path) -> None:
    data = json.dumps([{"title": "a", "messages": [{"content": "b"}, {"content": "c"}]}, {"title": "d"}], indent=2)
    out = run(tmp_path, "a.json", data, "source.text_field=[title,messages.*.content]")
    assert [row["translation"] for row in json.loads(out)] == [
        {"title": "A", "messages.0.content": "B", "messages.1.content": "C"},
        {"title": "D"},
    ]
    assert front.main(["verify", f"output_dir={tmp_path / 'out'}", "name=n"]) == 0
