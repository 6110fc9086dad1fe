"""Rows with several text fields: each text is translated by itself, and its row is written once, with an object."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch.errors import ConfigError, ExitCode, IdentityError, InputChangedError
from hymt_batch.formats.row_reader import RowError
from hymt_batch.formats.text_fields import TextFields, parse_path
from hymt_batch.records import ShardRecord
from hymt_batch.source import discovery
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard, cut_shards
from jobs import status, verify
from tests.fakes.job import Job

BOTH = "source.text_field=[title,body]"
ALL_ERRORS = "check.max_error_rate=1"
CHAT = "source.text_field=messages.*.content"


def write(folder: Path, rows: list[Any], name: str = "in.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return f"source.path={folder / name}"


def output(folder: Path, name: str, file: str = "in.jsonl") -> bytes:
    return (folder / "out" / name / "translated" / file).read_bytes()


def translations(folder: Path, name: str, file: str = "in.jsonl") -> list[Any]:
    return [json.loads(line)["translation"] for line in output(folder, name, file).splitlines()]


def errors(folder: Path, name: str, file: str = "in.jsonl") -> list[dict[str, Any]]:
    path = folder / "out" / name / "errors" / f"{file}.errors.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("fields", "row", "texts"),
    [
        (["title", "body"], {"body": "b", "title": "a"}, {"title": "a", "body": "b"}),
        (["doc.body", "title"], {"doc": {"body": "b"}, "doc.body": "exact"}, {"doc.body": "exact"}),
        (["messages.*.content"], {"messages": [{"content": "a"}, {"x": 1}, {"content": "c"}]},
         {"messages.0.content": "a", "messages.2.content": "c"}),
        (["names.*"], {"names": {"a.b": "1", "*": "2", "c\\d": "3"}},
         {"names.a\\.b": "1", "names.\\*": "2", "names.c\\\\d": "3"}),
        (["m.1.t", "m.*.t"], {"m": [{"t": "a"}, {"t": "b"}]}, {"m.1.t": "b", "m.0.t": "a"}),
        ([r"v1\.2.x", r"\*.y"], {"v1.2": {"x": "a"}, "*": {"y": "b"}}, {r"v1\.2.x": "a", r"\*.y": "b"}),
        (["a.*.*"], {"a": [["x", "y"], {"k": "z"}, "no"]}, {"a.0.0": "x", "a.0.1": "y", "a.1.k": "z"}),
        (["m.01.t", "m.-1.t", "t"], {"m": [{"t": "a"}, {"t": "b"}], "t": None}, {}),
        (["messages.*.content"], {"messages": []}, {}),
        (["messages.*.content"], {"messages": [{"role": "x"}]}, None),
        (["messages.*.content", "t"], {"messages": "text"}, None),
    ],
)  # fmt: skip
def test_a_path_finds_every_value_that_it_matches(fields: list[str], row: Any, texts: dict[str, str] | None) -> None:
    found = TextFields(fields).find(row)
    assert (found if found is None else dict(found)) == texts
    assert bool(TextFields(fields).present_in(row)) is (texts is not None)
    for name in texts or {}:
        assert dict(TextFields([name, "other"]).find(row) or [])[name] == (texts or {})[name], "a name is a path, too"


def test_two_texts_of_one_name_are_refused() -> None:
    with pytest.raises(RowError, match=r"two texts of the name 'a\.b'"):
        TextFields(["a.b", "a.*"]).find({"a.b": "x", "a": {"b": "y"}})
    assert parse_path("a..b.") == ("a", "", "b", "")


ROWS: list[Any] = [
    {"id": 1.50, "title": "one", "body": "first text"},
    {"title": "two", "body": None, "id": 2},
    {"title": "three"},
    {"id": 4},
    "not json",
    "",
    {"title": 5, "body": "six"},
    {"title": None, "body": None},
    {"title": "", "body": "seven"},
]


def test_each_text_of_a_row_is_translated_and_the_row_is_written_once(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, ROWS)
    result = job(source, BOTH, ALL_ERRORS, "name=n")
    lines = output(tmp_path, "n").splitlines(keepends=True)
    assert len(lines) == len(ROWS)
    state = {"status": "ok", "flags": []}
    added = json.dumps({
        "translation": {"title": "ONE", "body": "FIRST TEXT"},
        "hymt": {"id": "in.jsonl#1", "status": "ok", "flags": [], "fields": {"title": state, "body": state}},
    })  # fmt: skip
    assert lines[0].decode() == f'{{"id": 1.5, "title": "one", "body": "first text", {added[1:]}\n'
    assert lines[5] == b"\n"
    rows = [json.loads(line) for line in lines if line.strip()]
    assert [row["translation"] for row in rows] == [
        {"title": "ONE", "body": "FIRST TEXT"},
        {"title": "TWO"},
        {"title": "THREE"},
        {},
        {},
        {"title": "", "body": "SIX"},
        {},
        {"title": "", "body": "SEVEN"},
    ]
    assert [row["hymt"]["status"] for row in rows] == ["ok", "ok", "ok", "bad_row", "bad_row", "bad_row", "ok", "ok"]
    assert rows[5]["hymt"]["fields"] == {"title": {"status": "bad_row", "flags": []}, "body": state}
    assert [row["hymt"]["flags"] for row in rows[6:]] == [["blank"], []], "the row is blank if all its texts are"
    assert rows[7]["hymt"]["fields"]["title"]["flags"] == ["blank"]
    listed = errors(tmp_path, "n")
    assert [(line["id"], line["row"]) for line in listed] == [
        ("in.jsonl#4", 4), ("in.jsonl#5", 5), ("in.jsonl#7[title]", 7)
    ]  # fmt: skip
    assert listed[0]["message"].startswith("in.jsonl:4 has no field 'title' or 'body'. Its fields are ['id'].")
    assert listed[2]["message"] == "in.jsonl:7 field 'title' is a int, not a string. Write it as a string."
    assert (listed[1]["raw"], listed[2]["raw"]) == ("not json", "5")
    assert (result.rows, result.texts, dict(result.counts)) == (9, 12, {"bad_row": 3, "ok": 9})
    report = verify.verify(tmp_path / "out/n", inputs=True)
    assert (report.exit_code, report.rows, report.damage) == (ExitCode.COMPLETE, 9, [])
    assert job.decoded == 6, "equal texts are decoded once, null, blank and wrong ones never"


def test_on_error_source_keeps_the_source_of_a_text_that_failed(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [*ROWS, {"title": "x", "body": {"a": ["b"]}}])
    job(source, BOTH, ALL_ERRORS, "name=n", "write.on_error=source")
    written = [json.loads(line) for line in output(tmp_path, "n").splitlines() if line]
    assert written[5]["translation"] == {"title": "5", "body": "SIX"}
    assert written[8]["translation"] == {"title": "X", "body": '{"a":["b"]}'}
    assert written[8]["hymt"]["status"] == "bad_row", "the worst of its texts, not the first or the last"
    assert written[5]["hymt"]["status"] == "bad_row"
    assert written[4]["translation"] == {}


def test_chats_are_translated_message_by_message(tmp_path: Path, job: Job) -> None:
    system = {"role": "system", "content": "be brief"}
    chats = [
        {"messages": [system, {"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": None}]}
        for n in range(40)
    ]
    source = write(tmp_path, [*chats, {"messages": []}, {"messages": [{"role": "user", "content": ["part"]}, system]}])
    result = job(source, CHAT, "name=n", "batch.shard_rows=1000", "check.max_error_rate=0.1")
    assert translations(tmp_path, "n") == [
        *({"messages.0.content": "BE BRIEF", "messages.1.content": f"QUESTION {n}"} for n in range(40)),
        {},
        {"messages.0.content": "", "messages.1.content": "BE BRIEF"},
    ]
    assert [line["id"] for line in errors(tmp_path, "n")] == ["in.jsonl#42[messages.0.content]"]
    assert (result.rows, result.texts, job.decoded) == (42, 83, 41), "the system prompt is decoded once"


def shards_of(folder: Path, records: dict[int, ShardRecord], **settings: Any) -> list[Any]:
    config = SourceConfig(path=str(folder / "in.jsonl"), text_field=["title", "body"], **settings)
    (input,) = discovery.find_inputs(config)
    return list(cut_shards([input], config, shard_rows=3, shard_bytes=1 << 20, get_record=lambda _, n: records.get(n)))


def test_shards_are_cut_between_rows_only_and_skipped_ones_keep_the_numbers_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path, [{"title": f"t{n}", "body": f"b{n}"} for n in range(10)])
    shards = shards_of(tmp_path, {})
    assert [len(shard.documents) for shard in shards] == [4, 4, 4, 4, 4]
    assert all(shard.documents[-1].field.is_last for shard in shards)
    records = {s.index: ShardRecord(s.index, s.first_row, 4, s.start, s.end, s.sha256, s.last) for s in shards}
    again = shards_of(tmp_path, {n: records[n] for n in (0, 1, 3)})
    assert [isinstance(shard, SkippedShard) for shard in again] == [True, True, False, True, False]
    assert [document.id for document in again[2].documents][:2] == ["in.jsonl#5[title]", "in.jsonl#5[body]"]
    limited = shards_of(tmp_path, records, limit=5)
    assert [isinstance(shard, SkippedShard) for shard in limited] == [True, True, False]
    assert [document.id for document in limited[2].documents] == ["in.jsonl#5[title]", "in.jsonl#5[body]"]
    torn = {0: ShardRecord(0, 0, 3, 0, shards[0].end, shards[0].sha256, False)}
    assert not isinstance(shards_of(tmp_path, torn)[0], SkippedShard), "a record that ends within a row"


def test_the_limit_counts_rows(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": f"t{n}", "body": f"b{n}"} for n in range(10)])
    result = job(source, BOTH, "name=n", "source.limit=4")
    assert (result.rows, result.texts, len(translations(tmp_path, "n"))) == (4, 8, 4)
    assert verify.verify(tmp_path / "out/n").exit_code == ExitCode.COMPLETE
    write(tmp_path, [{"title": f"t{n}", "body": f"b{n}"} for n in range(3)], "b.jsonl")
    result = job(f"source.path=[{tmp_path / 'b.jsonl'},{tmp_path / 'in.jsonl'}]", BOTH, "name=m", "source.limit=4")
    assert [len(translations(tmp_path, "m", name)) for name in ("b.jsonl", "in.jsonl")] == [3, 1]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.parquet"])
def test_a_stopped_job_resumes_to_the_same_bytes_and_decodes_only_the_rest(tmp_path: Path, name: str, job: Job) -> None:
    rows = [{"id": n, "title": f"title {n}", "body": f"body number {n}"} for n in range(30)]
    if name == "in.jsonl":
        source = write(tmp_path, rows)
    elif name == "in.csv":
        source = write(tmp_path, ["id,title,body", *(f"{r['id']},{r['title']},{r['body']}" for r in rows)], name)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name, row_group_size=7)
        source = f"source.path={tmp_path / name}"
    settings = [source, BOTH, "batch.part_rows=5", "batch.max_rows=5", "batch.shard_rows=13"]
    job(*settings, "name=whole")
    whole, job.decoded, job.calls = job.decoded, 0, 0
    assert whole == 60
    job.interrupt(*settings, "name=stopped", at=7)
    assert verify.verify(tmp_path / "out/stopped").exit_code == ExitCode.MISSING
    job(*settings, "name=stopped")
    assert output(tmp_path, "stopped", name) == output(tmp_path, "whole", name)
    assert job.decoded == whole, "nothing is decoded twice"
    assert verify.verify(tmp_path / "out/stopped", inputs=True).exit_code == ExitCode.COMPLETE


def test_a_list_of_one_field_is_that_field_and_other_fields_are_another_job(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": "a", "body": "b"}] * 3)
    job(source, "source.text_field=body", "name=n")
    before, job.decoded = output(tmp_path, "n"), 0
    job(source, "source.text_field=[body]", "name=n")
    assert (output(tmp_path, "n"), job.decoded) == (before, 0)
    assert json.loads(before.splitlines()[0])["translation"] == "B"
    with pytest.raises(IdentityError, match=r"source\.text_field"):
        job(source, BOTH, "name=n")
    job(source, BOTH, "name=m")
    with pytest.raises(IdentityError, match=r"source\.text_field"):
        job(source, "source.text_field=[body,title]", "name=m")


def test_csv_has_the_object_as_json_and_tsv_too(tmp_path: Path, job: Job) -> None:
    lines = ["id,title,body", '1,"a ""x"", y",b', "2,,c", "3,d", ""]
    source = write(tmp_path, lines, "in.csv")
    job(source, BOTH, ALL_ERRORS, "name=n")
    written = output(tmp_path, "n", "in.csv").decode()
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [json.loads(row["translation"]) for row in rows] == [
        {"title": 'A "X", Y', "body": "B"}, {"title": "", "body": "C"}, {}
    ]  # fmt: skip
    assert written.splitlines()[1].startswith('1,"a ""x"", y",b,'), "the user's cells are kept"
    assert written.endswith("\n\n"), "a blank line stays"
    assert errors(tmp_path, "n", "in.csv")[0]["id"] == "in.csv#3"
    source = write(tmp_path, ["title\tbody", "a\tb"], "in.tsv")
    job(source, BOTH, "name=tsv")
    line = output(tmp_path, "tsv", "in.tsv").decode().splitlines()[1].split("\t")
    assert line[:2] == ["a", "b"] and json.loads(line[2]) == {"title": "A", "body": "B"}
    assert json.loads(line[3])["fields"]["body"] == {"status": "ok", "flags": []}
    for name, file in (("n", "csv"), ("tsv", "tsv")):
        assert verify.verify(tmp_path / "out" / name).exit_code == ExitCode.COMPLETE, file


def test_a_line_break_in_one_of_several_texts_is_kept_in_tsv_as_an_escape(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": "a\nb", "body": "c"}])
    job(source, BOTH, "name=n", "write.format=tsv")
    line = output(tmp_path, "n", "in.tsv").decode().splitlines()[1].split("\t")
    assert json.loads(line[2]) == {"title": "A\nB", "body": "C"}


def test_parquet_has_a_struct_of_the_fields(tmp_path: Path, job: Job) -> None:
    rows = [{"id": 1, "title": "a", "body": "b"}, {"id": 2, "title": None, "body": "c"}, {"id": 3}]
    schema = pa.schema([("id", pa.int64()), ("title", pa.string()), ("body", pa.string())])
    features = {name: {"dtype": "string", "_type": "Value"} for name in ("title", "body")}
    features |= {"id": {"dtype": "int64", "_type": "Value"}}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "in.parquet")
    result = job(f"source.path={tmp_path / 'in.parquet'}", BOTH, "name=n")
    path = tmp_path / "out/n/translated/in.parquet"
    table = parquet.read_table(path)
    assert table.schema.field("translation").type == pa.struct([("title", pa.string()), ("body", pa.string())])
    assert table["translation"].to_pylist() == [
        {"title": "A", "body": "B"}, {"title": None, "body": "C"}, {"title": None, "body": None}
    ]  # fmt: skip
    meta = table["hymt"].to_pylist()
    assert meta[0]["fields"] == {name: {"status": "ok", "flags": []} for name in ("title", "body")}
    assert (meta[1]["fields"]["title"], meta[2]["flags"], result.rows, result.texts) == (None, ["blank"], 3, 4)
    stored = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert stored["translation"] == {name: {"dtype": "string", "_type": "Value"} for name in ("title", "body")}
    assert verify.verify(tmp_path / "out/n").exit_code == ExitCode.COMPLETE


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_chats_can_be_converted(tmp_path: Path, format: str, job: Job) -> None:
    source = write(tmp_path, [{"messages": [{"content": "a"}, {"content": "b"}]}, {"messages": [{"content": "c"}]}])
    job(source, CHAT, "name=n", f"write.format={format}")
    if format == "parquet":
        rows = parquet.read_table(tmp_path / "out/n/translated/in.parquet").to_pylist()
        assert rows[0]["translation"] == [
            {"field": "messages.0.content", "text": "A"}, {"field": "messages.1.content", "text": "B"}
        ]  # fmt: skip
        assert rows[1]["hymt"]["fields"] == [{"field": "messages.0.content", "status": "ok", "flags": []}]
    else:
        text = output(tmp_path, "n", "in.csv").decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        assert json.loads(rows[0]["translation"]) == {"messages.0.content": "A", "messages.1.content": "B"}
    assert verify.verify(tmp_path / "out/n").exit_code == ExitCode.COMPLETE


def test_what_cannot_hold_several_texts_and_names_that_nothing_has_are_refused(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": "a", "body": "b"}])
    with pytest.raises(ConfigError, match="a row of text output has one text"):
        job(source, BOTH, "name=n", "write.format=text")
    with pytest.raises(ConfigError, match=r"no input has the field 'boddy'.*\[title,body\]"):
        job(source, "source.text_field=[title,boddy,body]", "name=n")
    with pytest.raises(ConfigError, match=r"has none of the fields \['x', 'y'\]"):
        job(source, "source.text_field=[x,y]", "name=n")
    with pytest.raises(ConfigError, match="names 'x' twice"):
        job(source, "source.text_field=[x,x]", "name=n")
    with pytest.raises(ConfigError, match=r"write\.translation_field and source\.text_field are both body"):
        job(source, BOTH, "name=n", "write.translation_field=body")
    write(tmp_path, ["id,more", "1,x"], "b.csv")
    with pytest.raises(ConfigError, match="has no column 'title'"):
        job(f"source.path={tmp_path / 'b.csv'}", BOTH, "name=n")
    assert not (tmp_path / "out/n").exists()


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_columns_are_converted_to_json_lines(tmp_path: Path, name: str, job: Job) -> None:
    rows = [{"id": "1", "title": "a", "body": "b\nc"}, {"id": "2", "title": "d", "body": ""}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    write(tmp_path, ["id,title,body", '1,a,"b\nc"', "2,d,"], "in.csv")
    job(f"source.path={tmp_path / name}", BOTH, "name=n", "write.format=jsonl")
    written = [json.loads(line) for line in output(tmp_path, "n").splitlines()]
    added = ({"title": "A", "body": "B\nC"}, {"title": "D", "body": ""})
    assert [{**row, "hymt": 0} for row in written] == [
        {**row, "translation": translation, "hymt": 0} for row, translation in zip(rows, added, strict=True)
    ]
    assert verify.verify(tmp_path / "out/n").exit_code == ExitCode.COMPLETE


def test_a_chat_in_parquet_is_refused_with_what_reads_it(tmp_path: Path, job: Job) -> None:
    parquet.write_table(pa.Table.from_pylist([{"messages": [{"content": "a"}]}]), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match="elements of lists") as caught:
        job(f"source.path={tmp_path / 'in.parquet'}", CHAT, "name=n")
    command = shlex.split(caught.value.fix.partition("Command: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    job(f"source.path={tmp_path / 'in.parquet.jsonl'}", CHAT, "name=n")
    assert translations(tmp_path, "n", "in.parquet.jsonl") == [{"messages.0.content": "A"}]


def test_a_field_that_only_another_file_has_is_no_error(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", [{"title": "a"}], "a.jsonl")
    write(tmp_path / "in", ["body,id", "b,1"], "b.csv")
    job(f"source.path={tmp_path / 'in'}", BOTH, "name=n")
    assert translations(tmp_path, "n", "a.jsonl") == [{"title": "A"}]
    assert b'"{""body"":""B""}"' in output(tmp_path, "n", "b.csv")


def test_the_language_of_a_row_is_that_of_all_its_texts(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": "a", "body": "b", "to": to} for to in ("de", "xx", "", 7)])
    job(source, BOTH, ALL_ERRORS, "name=n", "source.tgt_lang_field=to")
    assert translations(tmp_path, "n") == [{"title": "A", "body": "B"}, {"title": "", "body": ""}] * 2
    assert [line["id"] for line in errors(tmp_path, "n")] == [
        f"in.jsonl#{row}[{name}]" for row in (2, 4) for name in ("title", "body")
    ]


def test_a_changed_row_is_named_by_its_line(tmp_path: Path, job: Job) -> None:
    rows = [{"title": f"t{n}", "body": f"b{n}"} for n in range(6)]
    source = write(tmp_path, rows)
    job(source, BOTH, "name=n")
    write(tmp_path, [*rows[:4], {"title": "t4", "body": "new"}, rows[5]])
    with pytest.raises(InputChangedError, match=r"in\.jsonl row 5\."):
        job(source, BOTH, "name=n")
    job.decoded = 0
    job(source, BOTH, "name=n", "on_input_change=redo", "batch.part_rows=auto")
    assert translations(tmp_path, "n")[4] == {"title": "T4", "body": "NEW"}
    write(tmp_path, [*rows[:4], {"title": "t4", "body": "new"}, rows[5], {"title": "more"}])
    with pytest.raises(InputChangedError, match=r"in\.jsonl has more rows after row 6"):
        job(source, BOTH, "name=n")
    write(tmp_path, rows[:3])
    with pytest.raises(InputChangedError, match=r"in\.jsonl row 4\."):
        job(source, BOTH, "name=n")


def test_a_row_that_changed_while_the_job_was_stopped_is_named_by_its_line(tmp_path: Path, job: Job) -> None:
    rows = [{"title": f"t{n}", "body": f"b{n}"} for n in range(6)]
    settings = [write(tmp_path, rows), BOTH, "name=n", "batch.part_rows=2", "batch.max_rows=2"]
    job.interrupt(*settings, at=6)
    write(tmp_path, [*rows[:2], {"title": "t2", "body": "new"}, *rows[3:]])
    with pytest.raises(InputChangedError, match=r"in\.jsonl row 3\."):
        job(*settings)


def test_status_names_a_text_that_failed_before_its_file_is_published(tmp_path: Path, job: Job) -> None:
    rows: list[Any] = [{"title": f"t{n}", "body": f"b{n}"} for n in range(20)]
    source = write(tmp_path, [*rows[:2], {"title": "x", "body": 5}, *rows[2:]])
    settings = [source, BOTH, ALL_ERRORS, "name=n", "batch.part_rows=2", "batch.max_rows=2", "batch.shard_rows=10"]
    job.interrupt(*settings, at=9)
    report = status.status(tmp_path / "out/n", num_errors=5)
    assert (report.state, report.files_published) != ("complete", 1)
    assert [error["id"] for error in report.errors] == ["in.jsonl#3[body]"]


def test_new_output_settings_assemble_the_rows_again(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, ROWS)
    job(source, BOTH, ALL_ERRORS, "name=n")
    job.decoded = 0
    job(source, BOTH, ALL_ERRORS, "name=n", "write.format=csv", "write.translation_field=fr")
    rows = list(csv.DictReader(io.StringIO(output(tmp_path, "n", "in.csv").decode())))
    assert (json.loads(rows[0]["fr"]), job.decoded) == ({"title": "ONE", "body": "FIRST TEXT"}, 0)


def test_a_row_over_the_byte_limit_keeps_its_fields_and_has_no_text(tmp_path: Path, job: Job) -> None:
    source = write(tmp_path, [{"title": "a", "body": "b"}, {"title": "x" * 400, "body": "y"}, {"title": "c"}])
    job(source, BOTH, ALL_ERRORS, "name=n", "source.max_row_bytes=200", "write.on_error=source")
    rows = [json.loads(line) for line in output(tmp_path, "n").splitlines()]
    assert rows[1]["title"] == "x" * 400 and rows[1]["translation"] == {}
    assert (rows[1]["hymt"]["status"], rows[2]["translation"]) == ("too_long", {"title": "C"})


def test_a_name_that_a_row_has_twice_is_an_error_where_a_path_needs_it(tmp_path: Path, job: Job) -> None:
    rows = ['{"l": {"a": "x", "a": "y"}}', '{"l": {"a": "x"}, "n": {"a": 1, "a": 2}}', '{"l": {"b": "x"}, "l": {}}']
    job(write(tmp_path, rows), "source.text_field=l.*", ALL_ERRORS, "name=n")
    assert translations(tmp_path, "n") == [{}, {"l.a": "X"}, {}]
    assert "has the field 'a' twice" in errors(tmp_path, "n")[0]["message"]


def test_a_row_that_has_an_added_field_is_an_error_and_keeps_its_bytes(tmp_path: Path, job: Job) -> None:
    rows = [{"title": "a"}] * 101 + [{"title": "a", "body": "b", "hymt": 1}]
    source = write(tmp_path, [{"title": "a", "body": "b"}, *rows])
    job(source, BOTH, ALL_ERRORS, "name=n")
    assert output(tmp_path, "n").splitlines()[-1].decode() == json.dumps(rows[-1])
    assert [line["id"] for line in errors(tmp_path, "n")] == ["in.jsonl#103[title]", "in.jsonl#103[body]"]
