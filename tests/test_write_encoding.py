"""write.encoding=input: an output in the encoding of its input, and no character lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import languages, manifest
from hymt_batch.errors import ConfigError
from hymt_batch.formats import letters, text_encoding
from hymt_batch.fs import OS_FS
from hymt_batch.write import output_settings
from hymt_batch.write.settings import WriteConfig
from jobs.verify import verify
from tests.fakes import job as fake_job
from tests.fakes.texts import SAMPLES
from tests.test_source_encoding import FORMATS, file_of


def run(folder: Path, source: Path, name: str, *overrides: str) -> Path:
    fake_job.Job(folder)(f"source.path={source}", f"name={name}", "tgt_lang=en", "src_lang=zh", *overrides)
    return folder / "out" / name


@pytest.mark.parametrize("encoding", SAMPLES)
def test_an_output_in_the_inputs_encoding_is_that_of_its_utf_8_copy(tmp_path: Path, encoding: str) -> None:
    mark = text_encoding.MARKS.get(encoding, b"")
    lines = tuple(line for line in SAMPLES[encoding] if can_hold(encoding, line.upper()))
    (tmp_path / "utf8").mkdir()
    (tmp_path / "own").mkdir()
    for format in FORMATS[:4]:
        name = f"in.{'txt' if format == 'text' else format}"
        (tmp_path / "utf8" / name).write_bytes(file_of(format, lines, "\r\n").encode())
        (tmp_path / "own" / name).write_bytes(mark + file_of(format, lines, "\r\n").encode(encoding))
    expected = run(tmp_path, tmp_path / "utf8", "utf8")
    got = run(tmp_path, tmp_path / "own", "own", f"source.encoding={encoding}", "write.encoding=input")
    for file in sorted((expected / "translated").iterdir()):
        data = (got / "translated" / file.name).read_bytes()
        assert data.startswith(mark)
        assert data.removeprefix(mark).decode(encoding) == file.read_bytes().decode(), file.name
    report = verify(got)
    assert (report.exit_code, report.files, report.rows) == (0, 4, 4 * len(lines))


def can_hold(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("encoding", ["utf-16-le", "shift-jis", "iso-2022-jp", "gb18030", "cp1252"])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_output_keeps_the_encoding_and_its_rows_are_counted(
    tmp_path: Path, encoding: str, suffix: str
) -> None:
    import gzip

    import pyarrow as pa

    pack = gzip.compress if suffix == "gz" else lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True))
    lines = tuple(line for line in SAMPLES[encoding] if can_hold(encoding, line.upper()))
    (tmp_path / f"in.csv.{suffix}").write_bytes(pack(file_of("csv", lines).encode(encoding)))
    got = run(tmp_path, tmp_path / f"in.csv.{suffix}", "n", f"source.encoding={encoding}", "write.encoding=input")
    report = verify(got)
    assert (report.exit_code, report.rows) == (0, len(lines))


def results(folder: Path, name: str) -> tuple[bytes, list[Any], dict[str, Any]]:
    """Return a translated file, its errors, and the manifest."""
    errors = folder / "errors" / f"{name}.errors.jsonl"
    lines = errors.read_text(encoding="utf-8").splitlines() if errors.exists() else []
    return (folder / "translated" / name).read_bytes(), list(map(json.loads, lines)), manifest.read(OS_FS, folder)


# "ÿ" is in ISO-8859-1 and its capital letter is not
def test_a_character_that_jsonl_cannot_encode_is_escaped_and_flagged(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(file_of("jsonl", ("ÿes", "été")).encode("latin-1"))
    got = run(tmp_path, source, "n", "source.encoding=latin-1", "write.encoding=input")
    data, errors, about = results(got, "in.jsonl")
    rows = [json.loads(line) for line in data.decode("latin-1").splitlines()]
    assert b'"translation": "\\u0178ES"' in data
    assert [(row["translation"], row["hymt"]["flags"]) for row in rows] == [("ŸES", ["unencodable"]), ("ÉTÉ", [])]
    assert (errors, about["flags"], about["counts"]) == ([], {"unencodable": 1}, {"ok": 2})


@pytest.mark.parametrize("format", ["text", "csv", "tsv"])
def test_a_character_that_a_format_cannot_escape_makes_its_row_an_error(tmp_path: Path, format: str) -> None:
    source = tmp_path / f"in.{'txt' if format == 'text' else format}"
    source.write_bytes(file_of(format, ("ÿes", "été")).encode("latin-1"))
    got = run(tmp_path, source, "n", "source.encoding=latin-1", "write.encoding=input", "check.max_error_rate=1")
    data, errors, about = results(got, source.name)
    assert (about["counts"], about["flags"]) == ({"bad_encoding": 1, "ok": 1}, {"unencodable": 1})
    assert [error["status"] for error in errors] == ["bad_encoding"]
    assert "its translation has 'Ÿ' (U+0178), which is not in iso8859-1" in str(errors[0]["message"])
    assert "ÉTÉ" in data.decode("latin-1") and "ES" not in data.decode("latin-1")
    assert verify(got).exit_code == 0
    again = run(tmp_path, source, "n", "source.encoding=latin-1", "check.max_error_rate=1")  # an output setting
    assert "ŸES" in results(again, source.name)[0].decode()
    assert results(again, source.name)[1:] == ([], results(again, source.name)[2])


def test_properties_escape_what_the_encoding_lacks(tmp_path: Path) -> None:
    source = tmp_path / "in.properties"
    source.write_bytes("# été\na = ÿes\nb = été\n".encode("latin-1"))
    settings = ("source=properties", "source.encoding=latin-1", "write.encoding=input")
    got = run(tmp_path, source, "n", *settings)
    assert results(got, "in.properties")[0] == "# été\na = \\u0178ES\nb = ÉTÉ\n".encode("latin-1")
    assert results(got, "in.properties")[2]["flags"] == {"unencodable": 1}
    assert verify(got).exit_code == 0


def test_an_undecodable_row_comes_back_as_it_was_and_is_readable_in_utf_8(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    data = "雨が降る\n".encode("shift-jis") * 5 + b"a\x81\xffb\n" + "晴れ\n".encode("shift-jis")
    source.write_bytes(data)
    settings = ("source.encoding=shift-jis", "write.on_error=source", "check.max_error_rate=1")
    got = run(tmp_path, source, "n", *settings, "write.encoding=input")
    assert results(got, "in.txt")[0] == data.replace(b"a", b"a")
    again = run(tmp_path, source, "n", *settings)
    assert "a\ufffd\ufffdb" in results(again, "in.txt")[0].decode()


def test_a_name_beyond_the_encoding_is_escaped_in_the_metadata(tmp_path: Path) -> None:
    source = tmp_path / "中文.csv"
    source.write_bytes(file_of("csv", ("été",)).encode("cp1252"))
    got = run(tmp_path, source, "n", "source.encoding=cp1252", "write.encoding=input")
    data = results(got, "中文.csv")[0].decode("cp1252")
    assert '""id"":""\\u4e2d\\u6587.csv#1""' in data


@pytest.mark.parametrize(("code", "encoding"), [("zh", "cp1252"), ("ru", "shift-jis-2004x"), ("zh-Hant", "gb2312")])
def test_a_target_language_whose_script_is_not_in_the_encoding_is_refused(
    tmp_path: Path, code: str, encoding: str
) -> None:
    encoding = "cp1250" if encoding.endswith("x") else encoding
    source = tmp_path / "in.csv"
    source.write_bytes(b"to,text\nen,rain\nen,sun\n")
    job = fake_job.Job(tmp_path)
    settings = (f"source.path={source}", "name=n", f"source.encoding={encoding}", "write.encoding=input", "src_lang=fr")
    with pytest.raises(ConfigError, match=rf"cannot hold .*\({code}\).*Set write\.encoding=utf-8"):
        job(*settings, f"tgt_lang={code}")
    source.write_bytes(f"to,text\nen,rain\n{code},sun\n".encode())
    with pytest.raises(ConfigError, match=rf"cannot hold .*\({code}\)"):
        job(*settings, "tgt_lang=en", "source.tgt_lang_field=to")
    assert job.decoded == 0
    source.write_bytes(b"to,text\nen,rain\nen,sun\n")
    job(*settings, f"tgt_lang={code}", "source.tgt_lang_field=to")  # no row has the job's language


def test_a_format_that_can_escape_takes_every_language(tmp_path: Path) -> None:
    source = tmp_path / "in.json"
    source.write_bytes('{"a": "rain 雨", "b": ["sun"]}'.encode("shift-jis"))
    settings = (f"source.path={source}", "name=n", "source.encoding=shift-jis", "write.encoding=input", "tgt_lang=fr")
    fake_job.Job(tmp_path)(*settings)
    written = (tmp_path / "out/n/translated/in.json").read_bytes().decode("shift-jis")
    assert json.loads(written) == {"a": "RAIN 雨", "b": ["SUN"]}


def test_every_language_has_letters() -> None:
    assert set(letters.LETTERS) == set(languages.LANGUAGES)
    usual = {"fr": "latin-1", "de": "cp1252", "pl": "iso8859-2", "cs": "cp1250", "tr": "cp1254", "ru": "koi8-r"}
    usual |= {"uk": "cp1251", "ar": "cp1256", "fa": "utf-16", "he": "cp1255", "th": "tis-620", "ja": "shift-jis"}
    usual |= {"zh": "gb2312", "zh-Hant": "big5", "ko": "euc-kr", "yue": "big5hkscs", "es": "latin-1", "it": "latin-1"}
    assert {code for code, encoding in usual.items() if letters.missing_letter(code, encoding)} == set()


def test_an_added_name_beyond_the_encoding_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"text\nrain\n")
    settings = ("source.encoding=cp1252", "write.encoding=input", "write.translation_field=перевод")
    with pytest.raises(ConfigError, match=r"write\.translation_field=перевод has the character 'п'"):
        run(tmp_path, source, "n", *settings)


def test_the_setting_is_utf_8_or_input_and_no_table_has_it() -> None:
    from hymt_batch.write.settings import WriteFormat

    assert WriteConfig(encoding="UTF8").encoding == "utf-8"
    with pytest.raises(ConfigError, match="is neither utf-8 nor input"):
        WriteConfig(encoding="cp1252")
    with pytest.raises(ConfigError, match=r"has no effect with write\.format=parquet"):
        WriteConfig(encoding="input", format=WriteFormat["parquet"])


def test_verify_counts_the_rows_by_the_manifest_alone(tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "in.txt"
    source.write_bytes("ਅ\n\u0a0a\u000a\u010a\n".encode("utf-16-le"))  # bytes 0x0A that end no line
    got = run(tmp_path, source, "n", "source.encoding=utf-16-le", "write.encoding=input")
    assert verify(got).exit_code == 0
    shutil.rmtree(got / ".hymt")
    report = verify(got)
    assert (report.exit_code, report.rows) == (0, 3)


def test_conversions_keep_the_encoding_too(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes('{"text": "été", "note": "\\u0142"}\n'.encode("cp1252"))
    got = run(tmp_path, source, "n", "source.encoding=cp1252", "write.encoding=input", "write=csv")
    assert results(got, "in.csv")[0].decode("cp1252").splitlines()[1].startswith("été,\\u0142,ÉTÉ,")
    assert verify(got).exit_code == 0


def test_a_folder_that_did_not_record_the_setting_has_utf_8(tmp_path: Path) -> None:
    recorded, requested = (
        manifest.new_job({}, (), {}, settings)
        for settings in ({"write.format": "input"}, {"write.format": "input", "write.encoding": "input"})
    )
    assert output_settings.differences(recorded, requested) == [("write.encoding", "utf-8", "input")]
    unchanged = manifest.new_job({}, (), {}, {"write.format": "input", "write.encoding": "utf-8"})
    assert output_settings.differences(recorded, unchanged) == []
