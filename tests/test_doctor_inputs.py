"""The doctor looks at every input before anything loads: encodings, headers, first rows and languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.doctor import input_checks
from hymt_batch.doctor.finding import Finding, Level


def checked(*words: str) -> list[Finding]:
    findings: list[Finding] = []
    input_checks.check(config.load("doctor", ["model=demo", "name=job", *words]), findings)
    return findings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text("It rains.\nΒρέχει.\n", encoding="utf-8")
    return tmp_path / "in"


def test_inputs_that_are_read_as_they_are_have_their_formats_and_encodings_counted(folder: Path) -> None:
    (folder / "c.csv").write_text("text,to\nIt rains.,fr-FR\nIt snows.,German\n", encoding="utf-8")
    source, heads = checked("source.path=in")
    assert (source.level, heads.level) == (Level.OK, Level.OK)
    assert source.seen.startswith("3 files: 1 csv, 2 text; the output needs about ")
    assert heads.seen == "3 UTF-8; rows are as the settings say"
    (folder / "d.txt").write_bytes("Il pleut à Lyon.\n".encode("cp1252"))
    heads = checked("source.path=in/d.txt", "source.encoding=cp1252")[1]
    assert heads.seen == "1 cp1252 (source.encoding); rows are as the settings say"


def test_every_file_in_another_encoding_is_named_with_the_setting_that_reads_it(folder: Path) -> None:
    (folder / "b.txt").write_bytes("Es regnet.\n".encode("utf-16"))
    (folder / "c.txt").write_bytes("Es regnet.\n".encode("utf-16-le"))
    source, *wrong = checked("source.path=in")
    assert source.level is Level.OK
    assert [finding.level for finding in wrong] == [Level.FAIL, Level.FAIL]
    assert all("source.encoding=utf-16" in finding.fix for finding in wrong)
    assert "b.txt" in wrong[0].seen and "c.txt" in wrong[1].seen
    for index in range(9):
        (folder / f"z{index}.txt").write_bytes("Es regnet.\n".encode("utf-16"))
    _, *wrong = checked("source.path=in")
    assert len(wrong) == input_checks.MAX_FILES + 1
    assert wrong[-1].seen == "6 more files are wrong"


def test_a_header_without_the_text_field_and_rows_that_need_a_setting_are_failures(folder: Path) -> None:
    (folder / "c.csv").write_text("id,body\n1,It rains.\n", encoding="utf-8")
    _, wrong = checked("source.path=in/c.csv")
    assert (wrong.level, "source.text_field" in wrong.fix) == (Level.FAIL, True)
    rows = [f'{row},"a \\"b\\" {row}"\n' for row in range(150)]
    (folder / "c.csv").write_text("id,text\n" + "".join(rows), encoding="utf-8")
    _, wrong = checked("source.path=in/c.csv")
    assert (wrong.level, "source.escape=backslash" in wrong.fix) == (Level.FAIL, True)


def test_language_columns_are_looked_at(folder: Path) -> None:
    (folder / "c.csv").write_text("text,to\nIt rains.,fr-FR\nIt snows.,xx-none\n", encoding="utf-8")
    *_, seen, warning = checked("source.path=in/c.csv", "source.tgt_lang_field=to")
    assert (seen.check, seen.level, "fr-FR as fr" in seen.seen) == ("languages of rows", Level.OK, True)
    assert (warning.level, "xx-none" in warning.seen) == (Level.WARN, True)
    (folder / "c.csv").write_text("text,to\nIt rains.,xx\n", encoding="utf-8")
    assert checked("source.path=in/c.csv", "source.tgt_lang_field=to")[-1].level is Level.FAIL


def test_a_source_that_is_missing_or_only_translate_reads_is_told(folder: Path) -> None:
    (missing,) = checked("source.path=none.txt")
    assert missing.level is Level.FAIL
    (skipped,) = checked("source.path=-")
    assert skipped.level is Level.SKIP


def test_a_text_field_that_no_file_has_is_a_failure_although_rows_may_lack_some(folder: Path) -> None:
    (folder / "c.csv").write_text("id,title\n1,It rains.\n", encoding="utf-8")
    (folder / "d.jsonl").write_text('{"body": "It rains."}\n', encoding="utf-8")
    source = "source.path=[in/c.csv,in/d.jsonl]"
    assert checked(source, "source.text_field=[title,body]")[1].level is Level.OK
    wrong = checked(source, "source.text_field=[title,boddy,body]")[1]
    assert (wrong.level, "source.text_field=[title,body]" in wrong.fix) == (Level.FAIL, True)
