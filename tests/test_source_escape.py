"""csv and tsv with escaped quotes: read with source.escape, reported without it, and written by the same rules."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch.errors import ConfigError, IdentityError
from hymt_batch.formats.delimited.csv_escape import ESCAPE_HINT, get_escape_parser, needs_escape
from hymt_batch.records import Document, Status
from hymt_batch.source import discovery
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents
from tests.test_conversions import run

ESCAPED = r"""id,text
1,"Heavy rain \"is expected\" in Athens."
2,plain
"""


def rows(path: Path, data: str, *, plan: int = 2, **options: Any) -> list[Document]:
    path.write_bytes(data.encode())
    config = SourceConfig(path=str(path), **options)
    (input,) = discovery.find_inputs(config)
    return [document for document, _ in read_documents(input, config, full=True, plan_version=plan)]


def test_escaped_quotes_are_read_with_the_setting_and_reported_without_it(tmp_path: Path) -> None:
    documents = rows(tmp_path / "in.csv", ESCAPED, escape="backslash")
    assert [document.text for document in documents] == ['Heavy rain "is expected" in Athens.', "plain"]
    assert [document.raw.decode() for document in documents] == ESCAPED.splitlines(keepends=True)[1:]
    first, second = rows(tmp_path / "in.csv", ESCAPED)
    assert first.status is not Status.OK and second.text == "plain"
    assert ESCAPE_HINT in first.message and "set source.escape=backslash" in first.message
    # a resumed job with plan 1 translates the row, as it did before
    assert [document.status for document in rows(tmp_path / "in.csv", ESCAPED, plan=1)] == [Status.OK] * 2


@pytest.mark.parametrize(
    ("record", "needs"),
    [
        (r'1,"Heavy rain \"is expected\" in Athens."', True),
        (r'"he said \"hi\"",2', True),
        (r'"he said \"hi\""', True),
        (r'"\"hi\" he said",2', True),
        (r'"ends \"",2', True),
        (r'1,"x\",y",z', True),  # valid only with backslash escapes
        (r'"one \"b\" c" junk,x', True),  # valid with neither, and cut in the middle of the text
        (r'"a\\\"b"', True),
        (r'"C:\dir\",next', False),  # valid with doubled quotes
        (r'1,"C:\dir\"', False),
        (r'"C:\dir\",5" pipe', False),
        (r'5" pipe,"C:\dir\",x', False),
        (r'"path ""C:\"" here",x', False),
        (r'"a\\","b"', False),
        (r"1,he said \"hi\" ok", False),  # no quoted field
        (r'"a",he said \"hi\"', False),
        (r'"a" junk,"b\n"', False),
    ],
)
def test_a_record_needs_the_setting_if_it_is_invalid_with_doubled_quotes(record: str, needs: bool) -> None:
    assert needs_escape(record.encode(), ",") is needs


def test_a_quoted_field_that_ends_with_a_backslash_is_read_unchanged(tmp_path: Path) -> None:
    documents = rows(tmp_path / "in.csv", 'id,text\n"C:\\dir\\",next\n1,"D:\\"\n')
    assert [(document.values["id"], document.text) for document in documents] == [("C:\\dir\\", "next"), ("1", "D:\\")]


def test_an_escaped_quote_that_would_swallow_lines_costs_only_the_first_line(tmp_path: Path) -> None:
    data = 'id,text\n1,"ends \\""\n2,plain\n3,"begins \\"so\\" and goes on"\n4,"line one\nsays \\"hi\\""\n5,last\n'
    documents = rows(tmp_path / "in.csv", data)
    assert [document.status is Status.OK for document in documents] == [False, True, False, False, False, True]
    assert [document.needs_escape for document in documents] == [True, False, True, True, False, False]
    texts = [document.text for document in rows(tmp_path / "in.csv", data, escape="\\")]
    assert texts == ['ends "', "plain", 'begins "so" and goes on', 'line one\nsays "hi"', "last"]
    # also valid with doubled quotes, as one record of three lines with two fields; the first line alone is valid too
    documents = rows(tmp_path / "in.csv", 'id,text\n"a \\"",b\n2,c\n3,", hello"\n')
    assert [document.needs_escape for document in documents] == [True, False, False]


def test_a_head_full_of_escaped_quotes_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    lines = [f'{row},"a \\"b\\" {row}"\n' for row in range(150)]
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(lines))
    message = r"100 of the first 100 rows have quotes after backslashes.*set source\.escape=backslash"
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "out", f"source.path={tmp_path}/in.csv")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "out", f"source.path={tmp_path}/in.csv", "source.escape=backslash").counts == {"ok": 150}
    few = [*(f"{row},plain\n" for row in range(60)), *lines[:40]]
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(few))
    done = run(tmp_path / "few", f"source.path={tmp_path}/in.csv", "check.max_error_rate=1")
    assert (done.counts["ok"], done.rows) == (60, 100)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_input_bytes_are_kept_and_added_columns_are_escaped(newline: str, tmp_path: Path) -> None:
    data = 'id,text\n1,"say ""one"" and \\"two\\""\n2,C:\\dir\\,end\n3,tail\\\nnext\n4,"\\\\"\n5,last\\'
    (tmp_path / "in.csv").write_bytes(data.replace("\n", newline).encode())
    done = run(tmp_path / "out", f"source.path={tmp_path}/in.csv", "source.escape=\\\\")
    assert (done.rows, done.counts) == (5, {"ok": 5})
    path = tmp_path / "out/n/translated/in.csv"
    text = path.read_bytes().decode()
    for line in data.replace("\n", newline).split(newline):
        assert line in text
    assert text.count('"{\\"id\\":\\"in.csv#') == 5 and ',"SAY \\"ONE\\" AND \\"TWO\\"","{' in text
    texts = ['say "one" and "two"', "C:\\dir,end", f"tail{newline}next", "\\", "last\\"]
    # not read with the csv module, which drops the backslash of \d
    written = [document.values for document in rows(tmp_path / "again.csv", text, escape="\\")]
    assert [row["text"] for row in written] == texts
    assert [row["translation"] for row in written] == [source.upper() for source in texts]
    assert [json.loads(row["hymt"])["id"] for row in written] == [f"in.csv#{row}" for row in range(1, 6)]


def test_tsv_has_escapes_but_no_quotes(tmp_path: Path) -> None:
    data = 'id\ttext\n1\ta\\\tb\n2\tsay \\"hi\\\n"\n3\tC:\\dir\\\\\n4\tend\\'
    (tmp_path / "in.tsv").write_text(data)
    done = run(tmp_path / "out", f"source.path={tmp_path}/in.tsv", "source.escape=backslash")
    assert (done.rows, done.counts) == (4, {"ok": 4})
    text = (tmp_path / "out/n/translated/in.tsv").read_text()
    written = [document.values for document in rows(tmp_path / "again.tsv", text, escape="\\")]
    assert [row["text"] for row in written] == ["a\tb", 'say \\"hi\n"', "C:\\dir\\", "end\\"]
    assert [row["translation"] for row in written] == ["A B", 'SAY \\"HI "', "C:\\DIR\\", "END\\"]
    # without the setting, a backslash is an ordinary character in tsv
    assert [document.text for document in rows(tmp_path / "b.tsv", 'id\ttext\n1\t"a \\"b\\""\n')] == ['"a \\"b\\""']


@given(
    st.lists(st.lists(st.text('"\\,a \né', max_size=6), min_size=2, max_size=3), min_size=1, max_size=4),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    st.booleans(),
)
def test_what_the_csv_module_writes_with_an_escape_is_read_back(
    records: list[list[str]], quoting: Any, doubled: bool
) -> None:
    escape_parser = get_escape_parser(",", True, "\\")
    assert escape_parser is not None
    for cells in records:
        file = io.StringIO(newline="")
        writer = csv.writer(file, escapechar="\\", doublequote=doubled, quoting=quoting, lineterminator="\n")
        writer.writerow(cells)
        data, state, is_well_quoted = file.getvalue(), 0, True
        if next(csv.reader(io.StringIO(data, newline=""), escapechar="\\", doublequote=doubled)) != cells:
            continue  # the csv module cannot read its own output back
        for line in data.encode().splitlines(keepends=True):
            state, closed = escape_parser.scan_line(line, state)
            is_well_quoted &= closed
        assert (state, is_well_quoted, escape_parser.split_cells(data[:-1])) == (0, True, cells)


@pytest.mark.parametrize("word", ["backslash", "\\", "\\\\"])
def test_the_escape_can_be_given_as_a_word_or_a_character(word: str) -> None:
    assert SourceConfig(path="a", escape=word).escape == "\\"


@pytest.mark.parametrize("word", ['"', "", "ab", "a", ",", "\n", "\t", " ", "é"])
def test_an_invalid_escape_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"must be one ASCII punctuation mark.* Set source\.escape=backslash"):
        SourceConfig(path="a", escape=word)
    with pytest.raises(ConfigError, match=r"are both '\^'.* Set source\.escape=backslash"):
        SourceConfig(path="a", escape="^", delimiter="^")


def test_the_escape_belongs_to_the_identity_and_is_logged_as_ignored_for_other_formats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    discovery.find_inputs(SourceConfig(path=str(tmp_path / "in.txt"), escape="\\"))
    assert caplog.messages == ["source.escape=\\ is ignored: it applies only to csv and tsv"]
    (tmp_path / "in.csv").write_text(ESCAPED)
    run(tmp_path / "out", f"source.path={tmp_path}/in.csv", "source.escape=backslash")
    with pytest.raises(IdentityError, match=r"escape"):
        run(tmp_path / "out", f"source.path={tmp_path}/in.csv", "check.max_error_rate=1")


def test_verify_counts_records_with_the_delimiter_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id;text\n1;"two\nlines, three"\n2;last\n')
    assert run(tmp_path / "out", f"source.path={tmp_path}/in.csv", "source.delimiter=;").rows == 2
