"""source.encoding: a file in any encoding gives the rows of its UTF-8 copy, and no file is read in a wrong one."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry, text_encoding, transcoded_file
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.formats.text_encoding import HEAD_BYTES, MARKS
from hymt_batch.formats.transcoded_file import TranscodedFile
from hymt_batch.records import Document, Input, Status
from hymt_batch.source import discovery
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents
from tests.fakes import job as fake_job
from tests.fakes.texts import SAMPLES

FORMATS = ("text", "jsonl", "csv", "tsv", "properties")
UNITS = [name for name in SAMPLES if name in MARKS]
BY_LINE = ("utf-7", "hz", "iso-2022-jp", "iso-2022-kr")


def file_of(format: str, lines: tuple[str, ...], newline: str = "\n") -> str:
    """Return a file of a format whose rows have these texts."""
    match format:
        case "jsonl":
            rows = [json.dumps({"id": row, "text": line}, ensure_ascii=False) for row, line in enumerate(lines)]
        case "csv":
            rows = ["id,text", *(f'{row},"{line.replace(chr(34), chr(34) * 2)}"' for row, line in enumerate(lines))]
        case "tsv":
            rows = ["id\ttext", *(f"{row}\t{line}" for row, line in enumerate(lines))]
        case "properties":
            rows = [f"key.{row} = {line}" for row, line in enumerate(lines)]
        case _:
            rows = list(lines)
    return newline.join([*rows, ""])


def read(path: Path, **settings: Any) -> list[tuple[Document, int]]:
    config = SourceConfig(path=str(path), **settings)
    (input,) = discovery.find_inputs(config)
    return list(read_documents(input, config, full=True))


def format_settings(format: str) -> dict[str, Any]:
    from hymt_batch.source.settings import SourceFormat

    return {"format": SourceFormat[format]}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", SAMPLES)
def test_a_file_in_any_encoding_gives_the_rows_of_its_utf_8_copy(tmp_path: Path, encoding: str, format: str) -> None:
    text = file_of(format, SAMPLES[encoding] * 20, "\r\n")
    name = f"a.{'txt' if format == 'text' else format}"
    (tmp_path / "other").mkdir()
    (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "other" / name).write_bytes(text.encode(encoding))
    expected = read(tmp_path / name, **format_settings(format))
    assert [document.text for document, _ in expected] == list(SAMPLES[encoding] * 20)
    assert read(tmp_path / "other" / name, encoding=encoding, **format_settings(format)) == expected
    packed = tmp_path / "other" / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode(encoding)))
    rows = read(packed, encoding=encoding, **format_settings(format))
    assert [document.text for document, _ in rows] == [document.text for document, _ in expected]


@pytest.mark.parametrize("encoding", SAMPLES)
def test_reading_goes_on_at_every_cursor(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcoded_file, "BLOCK_BYTES", 7)  # every line lies in several blocks
    path = tmp_path / "a.txt"
    path.write_bytes(file_of("text", SAMPLES[encoding] * 3).encode(encoding))
    config = SourceConfig(path=str(path), encoding=encoding)
    (input,) = discovery.find_inputs(config)
    expected = list(read_documents(input, config))
    for row, (_, cursor) in enumerate(expected):
        with contextlib.closing(registry.of_input(input).open_input(input)) as file:
            file.read_preamble(config, ())
            rows = list(file.rows(config, ReadContext(first_row=row + 1), cursor))
        assert rows == expected[row + 1 :]


def undecodable(encoding: str) -> bytes:
    """Return bytes that the encoding does not have; also its unfinished sequences."""
    if encoding in MARKS or encoding in ("utf-16", "utf-32"):
        return "\ud800".encode(encoding if encoding in MARKS else f"{encoding}-le", "surrogatepass")
    for data in (b"\x81", b"\x80", b"\xff", b"\xfe", b"\xd2", b"\x1b$B\x21"):
        with contextlib.suppress(UnicodeDecodeError):
            (data + b"\n").decode(encoding)
            continue
        return data
    return b""


@pytest.mark.parametrize("encoding", [name for name in SAMPLES if undecodable(name)])
def test_an_undecodable_sequence_makes_its_row_an_error_and_the_next_row_is_read(tmp_path: Path, encoding: str) -> None:
    good = SAMPLES[encoding]
    parts = [file_of("text", good * 2).encode(encoding), undecodable(encoding), file_of("text", good).encode(encoding)]
    codec = "utf-16-le" if encoding == "utf-16" else encoding
    line_feed = "\n".encode(codec)
    parts[2] = file_of("text", good).encode(codec)
    path = tmp_path / "a.txt"
    path.write_bytes(parts[0] + parts[1] + line_feed + parts[2])
    rows = [document for document, _ in read(path, encoding=encoding)]
    number = 2 * len(good)
    assert [document.text for document in rows if document.status is Status.OK] == list(good * 3)
    bad = rows[number]
    assert (bad.status, len(rows)) == (Status.BAD_ENCODING, number + 1 + len(good))
    assert f"byte 0x{undecodable(encoding)[0]:02x} after 0 characters of the row cannot be decoded" in bad.message


@pytest.mark.parametrize("damage", ["lost", "added"])
@pytest.mark.parametrize("encoding", UNITS)
def test_reading_goes_on_at_the_next_line_after_a_byte_was_lost_or_added(
    tmp_path: Path, encoding: str, damage: str
) -> None:
    lines = SAMPLES[encoding]
    data = file_of("text", lines, "\r\n").encode(encoding)
    start = len(file_of("text", lines[:2], "\r\n").encode(encoding))
    end = len(file_of("text", lines[:3], "\r\n").encode(encoding)) - 2 * len("\n".encode(encoding))
    path = tmp_path / "a.txt"
    for at in range(start, end):
        path.write_bytes(data[:at] + (data[at + 1 :] if damage == "lost" else b"x" + data[at:]))
        rows = [document for document, _ in read(path, encoding=encoding)]
        assert [document.status for document in rows].count(Status.BAD_ENCODING) == 1, at
        assert [document.text for document in rows if document.status is Status.OK] == [*lines[:2], *lines[3:]], at


@pytest.mark.parametrize("encoding", UNITS)
def test_a_torn_last_unit_is_an_error_row(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(file_of("text", SAMPLES[encoding]).encode(encoding) + b"\n")
    rows = [document for document, _ in read(path, encoding=encoding)]
    assert [document.text for document in rows[:-1]] == list(SAMPLES[encoding])
    assert rows[-1].status is Status.BAD_ENCODING


def test_a_line_that_does_not_return_to_ascii_is_an_error_row_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("雨\nok abc\n晴れ\n".encode("iso2022_jp").replace(b"\x1b(B\nok", b"\nok"))
    rows = [document for document, _ in read(path, encoding="iso-2022-jp")]
    assert [document.status for document in rows] == [Status.BAD_ENCODING, Status.OK, Status.OK]
    assert [document.text for document in rows[1:]] == ["ok abc", "晴れ"]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("iso-2022-kr", "가\n".encode("iso2022_kr") + b"\x0e!\nok\n\x0e0!\x0f\n"),
        ("euc-jp", b"ok\n\x8f\n"),
        ("gb18030", b"ok\n\x8e0\n"),
    ],
)
def test_an_incomplete_character_before_a_line_feed_takes_no_row(tmp_path: Path, encoding: str, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    rows = [document for document, _ in read(path, encoding=encoding)]
    assert [document.status for document in rows].count(Status.BAD_ENCODING) == 1
    assert len(rows) == data.count(b"\n")
    assert all(document.raw.endswith(b"\n") for document in rows)


class _SmallReads(io.BufferedReader):
    """Gives at most `size` bytes at a time, as a compressed file may."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(io.BytesIO(data))  # type: ignore[arg-type]
        self.size = size

    def read1(self, size: int = -1) -> bytes:
        return super().read1(self.size)


PIECES = (
    *(
        b"\n",
        b"\n",
        b"a",
        b'"',
        b"!",
        b"0",
        b"\x1b",
        b"\x1b$)C",
        b"\x1b$B",
        b"\x1b$(D",
        b"\x1b(B",
        b"\x1b.A",
        b"\x0e",
        b"\x0f",
    ),
    *(b"~{", b"~}", b"~\n", b"+ZeU", b"-", b"\x81", b"\x8e", b"\x8f", b"\xa1", b"\xa4\xa2", b"\xfe", b"\0", b"\nN"),
)


HARD = {
    "utf-16-le": "abcdefgh અઆĀ abcdefgh".encode("utf-16-le"),  # 0A 00 where no unit starts, and 0A before it
    "iso2022_jp_2": b"a\x1b(\xfe+\x0e\xe1~}\x0e\x8e\x1b$B\n!\n",  # a longer escape sequence than a decoder keeps
}
"""Bytes that a decoder reads in another way if they come in pieces."""


@pytest.mark.parametrize("encoding", HARD)
def test_a_text_does_not_depend_on_where_a_file_is_cut_into_blocks(encoding: str) -> None:
    data = HARD[encoding]
    texts = {TranscodedFile(_SmallReads(data, size), encoding).read() for size in (*range(1, 30), 1 << 18)}
    assert len(texts) == 1


@pytest.mark.parametrize("encoding", dict.fromkeys(map(text_encoding.normalize, text_encoding.USUAL_NAMES[1:])))
def test_random_bytes_keep_their_line_feeds_and_give_the_same_text_in_pieces_of_any_size(encoding: str) -> None:
    for seed in range(150):
        rng = random.Random(seed)
        pieces = (rng.choice(PIECES) if rng.random() < 0.8 else rng.randbytes(1) for _ in range(rng.randrange(1, 40)))
        data = b"".join(pieces)
        texts = {TranscodedFile(_SmallReads(data, size), encoding).read() for size in (1, 2, 3, 7, 1 << 18)}
        assert len(texts) == 1, data
        if not encoding.startswith(("utf-16", "utf-32", "hz")):  # in HZ, ~ before a line feed removes both
            assert texts.pop().count(b"\n") == data.count(b"\n"), data


def test_a_row_over_the_limit_is_transcoded_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("雨" * 400_000 + "\n晴れ\n").encode("shift-jis"))
    rows = [document for document, _ in read(path, encoding="shift-jis", max_row_bytes=1000)]
    assert [document.status for document in rows] == [Status.TOO_LONG, Status.OK]
    assert rows[0].long_row.size == 1_200_000
    assert rows[1].text == "晴れ"


@pytest.mark.parametrize("encoding", UNITS)
def test_the_byte_order_mark_is_not_a_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(MARKS[encoding] + "text\néa\n".encode(encoding))
    for name in (encoding, encoding[:6]):
        config = SourceConfig(path=str(path), encoding=name)
        (input,) = discovery.find_inputs(config)
        preamble = PreambleCache(config)(input)
        assert (preamble.fields, preamble.encoding, preamble.mark) == (("text",), encoding, MARKS[encoding])
        assert [document.text for document, _ in read_documents(input, config)] == ["éa"]


# names


@pytest.mark.parametrize(
    ("given", "normal"),
    [("UTF8", "utf-8"), ("utf-8-sig", "utf-8"), ("Latin-1", "iso8859-1"), ("sjis", "shift_jis"), ("ms932", "cp932")],
)
def test_names_are_normalised(given: str, normal: str) -> None:
    assert SourceConfig(path="a", encoding=given).encoding == normal


@pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "hex", "idna", "unicode_escape", "undefined", ""])
def test_what_is_no_text_encoding_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a text encoding.*Set source\.encoding="):
        SourceConfig(path="a", encoding=name)


# refusals


def refusal(path: Path, data: bytes, **settings: Any) -> str:
    path.write_bytes(data)
    config = SourceConfig(path=str(path), **settings)
    (input,) = discovery.find_inputs(config)
    try:
        PreambleCache(config)(input)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("encoding", UNITS)
@pytest.mark.parametrize("lines", [("Rain in Athens.", "Sun."), *dict.fromkeys(SAMPLES.values())], ids=lambda _: "")
def test_utf_16_and_utf_32_are_refused_with_the_setting_that_reads_them(
    tmp_path: Path, encoding: str, marked: bool, format: str, lines: tuple[str, ...]
) -> None:
    data = MARKS[encoding] * marked + file_of(format, lines * 3).encode(encoding)
    suffix = "txt" if format == "text" else format
    for name, content in ((f"a.{suffix}", data), (f"a.{suffix}.gz", gzip.compress(data))):
        message = refusal(tmp_path / name, content, **format_settings(format))
        assert f"Set source.encoding={encoding}, " in message
        assert f"a.utf8.{suffix}" in message


@pytest.mark.parametrize("encoding", BY_LINE)
def test_7_bit_encodings_are_refused_by_their_escape_sequences(tmp_path: Path, encoding: str) -> None:
    data = file_of("text", SAMPLES[encoding]).encode(encoding)
    message = refusal(tmp_path / "a.txt", data)
    assert f"Set source.encoding={text_encoding.normalize(encoding)}," in message
    assert refusal(tmp_path / "a.txt", data, encoding=encoding) == ""


def test_iso_2022_cn_is_refused_with_a_command_because_python_cannot_read_it(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.csv", b"text\n\x1b$)A\x0eVPND\x0f\n")
    assert "a.csv is ISO-2022-CN" in message
    assert "iconv -f ISO-2022-CN -t UTF-8" in message and "a.utf8.csv" in message


GUESSED = {
    "cp1252": "cp1252",
    "cp1250": "cp1250",
    "iso-8859-2": "iso8859-2",
    "cp1251": "cp1251",
    "koi8-r": "koi8-r",
    "cp1256": "cp1256",
    "shift-jis": "cp932",
    "euc-jp": "euc_jp",
    "gbk": "gb18030",
    "big5": "big5",
    "cp949": "cp949",
    "tis-620": "cp874",
}
TEXTS = {
    "cp1252": "De fortes pluies sont attendues à Athènes. Ensoleillé à Séoul, été comme hiver.",
    "cp1250": "W sobotę w Atenach spodziewany jest ulewny deszcz. W środę rano będzie słonecznie.",
    "cp1251": "В субботу в Афинах ожидается сильный дождь. В среду утром солнечно.",
    "cp1256": "من المتوقع هطول أمطار غزيرة في أثينا يوم السبت. مشمس في سيول صباح الأربعاء.",
    "shift-jis": "土曜日はアテネで大雨の予報です。水曜日の午前中、ソウルと上海は晴れるでしょう。",
    "gbk": "预计周六雅典将有大雨。周三上午首尔和上海天气晴朗。",
    "big5": "預計週六雅典將有大雨。週三上午首爾和上海天氣晴朗。",
    "cp949": "토요일 아테네에 폭우가 예상됩니다. 수요일 오전 서울과 상하이는 맑겠습니다.",
    "tis-620": "คาดว่าจะมีฝนตกหนักในกรุงเอเธนส์ในวันเสาร์ แดดจัดในโซลเช้าวันพุธ",
}
TEXTS |= {"iso-8859-2": TEXTS["cp1250"], "koi8-r": TEXTS["cp1251"], "euc-jp": TEXTS["shift-jis"]}


@pytest.mark.parametrize("encoding", GUESSED)
def test_a_head_that_is_mostly_not_utf_8_is_refused_with_the_probable_encoding(tmp_path: Path, encoding: str) -> None:
    data = file_of("text", (TEXTS[encoding],) * 5).encode(encoding)
    message = refusal(tmp_path / "a.txt", data)
    assert "a.txt is mostly not UTF-8" in message
    assert f"Set source.encoding={GUESSED[encoding]} " in message or f"encoding={GUESSED[encoding]}," in message
    assert data.decode(GUESSED[encoding]) == data.decode(encoding)
    assert refusal(tmp_path / "a.txt", data, encoding=GUESSED[encoding]) == ""


def test_a_damaged_file_with_the_mark_of_utf_8_is_read(tmp_path: Path) -> None:
    damaged = b"caf\xe9\n" * 9
    assert "mostly not UTF-8" in refusal(tmp_path / "a.txt", damaged)
    assert refusal(tmp_path / "a.txt", b"\xef\xbb\xbf" + damaged) == ""


@pytest.mark.parametrize(
    "lines",
    [
        [b"ok", b"caf\xe9", b"ok"],
        [b"caf\xe9", b"ok", b"caf\xe9", b"ok"],
        [b"plain"] * 300 + [b"caf\xe9"] * 20,
        ["été".encode()] * 20 + [b"caf\xe9"] * 15,
        [b"\0", b"a\0b", b"nul at the end\0"],
        [b"a+b", b"C++ and x+abc-y", b"1+1=2"],
        [b"~{not hz}", b"~{also not~}"],
        [b"\x1b[31mred\x1b[0m", b"plain"],
        ["日本".encode()] * 4000,
        [b"a" * (HEAD_BYTES - 1) + "é".encode()],
    ],
)
def test_utf_8_with_a_few_bad_rows_is_read(tmp_path: Path, lines: list[bytes]) -> None:
    assert refusal(tmp_path / "a.txt", b"\n".join([*lines, b""])) == ""


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        ("été\n".encode("utf-8-sig"), "cp1252", "utf-8"),
        ("日本の雨\n".encode() * 9, "shift-jis", "utf-8"),
        ("Schöne Grüße\n".encode(), "cp1252", "utf-8"),
        ("Мир\n".encode(), "koi8-r", "utf-8"),
        (b"plain\n", "utf-16", "utf-8"),
        ("été comme hiver\n".encode("cp1252") * 9, "utf-16-le", "cp1252"),
        ("rain\n".encode("utf-16-le"), "cp1252", "utf-16-le"),
        ("rain\n".encode("utf-16-le"), "utf-16-be", "utf-16-le"),
        ("rain\n".encode("utf-32"), "utf-16", "utf-32-le"),
    ],
)
def test_a_file_that_contradicts_source_encoding_is_refused(
    tmp_path: Path, data: bytes, encoding: str, expected: str
) -> None:
    message = refusal(tmp_path / "a.txt", data, encoding=encoding)
    name = text_encoding.normalize(encoding)
    assert f"but it is read with source.encoding={name}, as all files of the job" in message
    assert f"Set source.encoding={expected}" in message


def test_tables_are_told_that_the_setting_does_not_apply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["été"]}), tmp_path / "a.parquet")
    assert [document.text for document, _ in read(tmp_path / "a.parquet", encoding="cp1252")] == ["été"]
    assert "source.encoding=cp1252 is ignored: it applies only to text" in caplog.text


# jobs


def test_a_job_in_another_encoding_writes_what_its_utf_8_copy_gives(tmp_path: Path) -> None:
    lines = [*SAMPLES["shift-jis"], "x" * 50] * 5
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for format in ("text", "jsonl", "csv", "tsv"):
        name = f"in.{'txt' if format == 'text' else format}"
        (tmp_path / "a" / name).write_text(file_of(format, tuple(lines)), encoding="utf-8")
        (tmp_path / "b" / name).write_text(file_of(format, tuple(lines)), encoding="shift-jis")
    run = fake_job.Job(tmp_path)
    run(f"source.path={tmp_path / 'a'}", "name=a")
    run(f"source.path={tmp_path / 'b'}", "name=b", "source.encoding=shift-jis", "batch.part_rows=3")
    for file in sorted((tmp_path / "out" / "a" / "translated").iterdir()):
        assert (tmp_path / "out" / "b" / "translated" / file.name).read_bytes() == file.read_bytes()


def test_a_stopped_job_in_another_encoding_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"雨が降る{row}\n" for row in range(40)), encoding="euc-jp")
    settings = (f"source.path={source}", "source.encoding=euc-jp", "batch.part_rows=5", "batch.shard_rows=10")
    whole = fake_job.Job(tmp_path)
    whole(*settings, "name=whole")
    stopped = fake_job.Job(tmp_path)
    stopped.interrupt(*settings, "name=half", at=4)
    stopped(*settings, "name=half")
    outputs = [tmp_path / "out" / name / "translated" / "in.txt" for name in ("whole", "half")]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert stopped.decoded < whole.decoded + 16


def test_the_errors_file_shows_the_undecodable_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes("雨\n".encode("shift-jis") * 9 + "a雨\x5c".encode("shift-jis") + b"\xa0\x81\n")
    fake_job.Job(tmp_path)(f"source.path={source}", "source.encoding=shift-jis", "name=n")
    lines = (tmp_path / "out/n/errors/in.txt.errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["raw"] == "a雨\\\\xa0\\x81"
    assert json.loads(lines[-1])["status"] == "bad_encoding"


def test_a_job_of_an_earlier_version_goes_on_with_a_file_that_is_refused_now(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    refused_now = b"ok\nyes\n" + b"caf\xe9\n" * 4
    source.write_bytes(refused_now)
    run, settings = fake_job.Job(tmp_path), (f"source.path={source}", "batch.shard_rows=2", "batch.part_rows=2")
    with pytest.raises(ConfigError, match="mostly not UTF-8"):
        run(*settings, "name=new")
    source.write_bytes(refused_now.replace(b"\xe9", b"e"))
    run.interrupt(*settings, "name=old", "batch.max_rows=1", at=3)
    source.write_bytes(refused_now)
    run(*settings, "name=old", "batch.max_rows=1")
    assert (tmp_path / "out/old/translated/in.txt").read_bytes() == b"OK\nYES\n" + b"\n" * 4


def test_redo_checks_the_encoding_of_new_and_changed_files_and_goes_on_with_those_that_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "old.txt").write_bytes(b"ok\nyes\n" + b"cafe\n" * 4)
    run = fake_job.Job(tmp_path)
    words = (f"source.path={folder}", "name=n", "check.max_error_rate=1", "on_input_change=redo")
    words += ("batch.shard_rows=2", "batch.part_rows=2", "batch.max_rows=1")
    run.interrupt(*words, at=3)
    (folder / "old.txt").write_bytes(b"ok\nyes\n" + b"caf\xe9\n" * 4)  # as an earlier version took it
    run(*words)
    assert run(*words).counts == {"bad_encoding": 4, "ok": 2}
    (folder / "new.txt").write_bytes("rain\nsun\n".encode("utf-16-le"))  # valid UTF-8, with a NUL after each letter
    with pytest.raises(ConfigError, match=r"new\.txt is UTF-16LE, by its NUL bytes"):
        run(*words)
    (folder / "new.txt").write_bytes(b"rain\nsun\n")
    assert run(*words).counts == {"bad_encoding": 4, "ok": 4}
    (folder / "new.txt").write_bytes("rain\nsun\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match=r"new\.txt is UTF-16LE, by its NUL bytes"):
        run(*words)


def test_transcoding_reports_a_failing_disk() -> None:
    class Failing:
        def peek(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        TranscodedFile(Failing(), "cp1252")  # type: ignore[arg-type]


def test_an_input_of_another_encoding_is_not_seekable_by_its_bytes(tmp_path: Path) -> None:
    from hymt_batch.write.input_changes import changed_shards

    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n")
    input = Input("a.txt", "a.txt", str(path), "text", encoding="utf-16-le")
    assert changed_shards(input, ()).ranges == []
    assert changed_shards(replace(input, encoding=""), ()).ranges == []


@pytest.mark.parametrize("mode", ["refuse", "redo"])
def test_a_file_that_was_replaced_before_it_was_begun_is_checked_when_the_job_goes_on(
    tmp_path: Path, mode: str
) -> None:
    source, run = tmp_path / "in", fake_job.Job(tmp_path)
    source.mkdir()
    for name in ("a.txt", "b.txt"):
        (source / name).write_text("".join(f"{name} line {index}\n" for index in range(40)))
    settings = (f"source.path={source}", "name=n", "batch.part_rows=4", "batch.part_tokens=40", "batch.shard_rows=8")
    run.interrupt(*settings, "launch.prefetch_shards=0", at=2)
    assert len(list((tmp_path / "out/n/.hymt").glob("f*"))) == 1
    (source / "b.txt").write_text("b line\n" * 40, encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-16"):
        run(*settings, f"on_input_change={mode}")
