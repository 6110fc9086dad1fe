"""Subtitles (.srt, .vtt): the texts of the cues are found, also in broken files, and only they are replaced."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.formats import registry
from hymt_batch.formats.spliced import ParsedFile, Place, PlaceOptions, UnreadableFileError
from hymt_batch.formats.subtitles.join import cut_text
from hymt_batch.formats.subtitles.lines import fit_lines
from hymt_batch.formats.subtitles.srt import SubRipFile
from hymt_batch.formats.subtitles.vtt import WebVttFile
from jobs import __main__ as front
from jobs import status, verify
from tests.fakes import job as fake_job
from tests.fakes.engine import upper
from tests.fakes.job import Job

TIMES = "00:00:01,000 --> 00:00:02,500"


def splice(file: ParsedFile, data: bytes, change: Callable[[str], str], *, join_cues: bool = False) -> bytes:
    out, at = b"", 0
    for place in file.places(PlaceOptions(join_cues=join_cues)):
        assert at <= place.start <= place.end
        new = data[place.start : place.end] if place.text is None else file.encode(place, change(place.text))
        out, at = out + data[at : place.start] + new, place.end
    return out + data[at:]


def texts(data: str, parse: Callable[[bytes], ParsedFile] = SubRipFile, *, join_cues: bool = False) -> list[str | None]:
    return [place.text for place in places(data.encode(), parse, join_cues=join_cues)]


def places(data: bytes, parse: Callable[[bytes], ParsedFile] = SubRipFile, *, join_cues: bool = False) -> list[Place]:
    return list(parse(data).places(PlaceOptions(join_cues=join_cues)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"1\n{TIMES}\nHello.\n\n2\n{TIMES}\nTwo\nlines.\n", ["Hello.", "Two\nlines."]),
        (f"1\r\n{TIMES}\r\nHello.\r\n\r\n2\r\n{TIMES}\r\nTwo\r\nlines.", ["Hello.", "Two\nlines."]),
        (f"\ufeff1\n{TIMES}\nHello.\n", ["Hello."]),
        (f"1\n{TIMES}\nHello.\n2\n{TIMES}\nNo blank between.\n", ["Hello.", "No blank between."]),
        (f"1\n{TIMES}\n\nA blank before.\n\n2\n{TIMES}\nB\n", ["A blank before.", "B"]),
        (f"1\n{TIMES}\nA blank\n\ninside.\n\n2\n{TIMES}\nB\n", ["A blank", "inside.", "B"]),
        (f"{TIMES}\nNo numbers.\n\n{TIMES}\n1984\n\n{TIMES}\n12\n{TIMES}\nB", ["No numbers.", "1984", "12", "B"]),
        (f"1\n{TIMES}\n1984\n\n2\n{TIMES}\n42\n3\n{TIMES}\nB\n", ["1984", "42", "B"]),
        (f"1\n{TIMES}\n\n2\n{TIMES}\n\n\n3\n{TIMES}\nAfter empty cues.\n", ["After empty cues."]),
        (f"7\n{TIMES}  X1:63 X2:223 Y1:43 Y2:58\nPlaced.\n", ["Placed."]),
        ("1\n0:00:01.0 -> 0:00:02\nOdd times.\n", ["Odd times."]),
        (f"1\n{TIMES}\n{{\\an8}}<i>Markup around.</i>\n", ["Markup around."]),
        (f"1\n{TIMES}\n<i>Two</i> and <b>more</b>\n", ["<i>Two</i> and <b>more</b>"]),
        (f"1\n{TIMES}\n<i>Bad</b>\n", ["<i>Bad</b>"]),
        (f"1\r{TIMES}\rMac.\r\r2\r{TIMES}\rB\r", ["Mac.", "B"]),
        (f"1\r\r\n{TIMES}\r\r\nTwice.\r\r\n", ["Twice."]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_the_texts_of_cues_are_found_also_in_broken_files(data: str, expected: list[str]) -> None:
    assert texts(data) == expected
    assert splice(SubRipFile(data.encode()), data.encode(), lambda text: text) == data.encode()
    changed = splice(SubRipFile(data.encode()), data.encode(), lambda text: f"x {text}")
    assert texts(changed.decode()) == [f"x {text}" for text in expected]


VTT = """WEBVTT - a title
Kind: captions

NOTE
not this --
at all

STYLE
::cue { color: red }

REGION
id:fred

intro
00:01.000 --> 00:02.000 align:left
Tom &amp; <c.yellow>Jerry</c> &lt;3

00:03.000 --> 00:04.000
<v Ann>Hi.</v>
<v Bob>Two lines
"""


def test_only_the_text_of_webvtt_cues_is_translated_and_escaped_again() -> None:
    data = VTT.encode()
    assert texts(VTT, WebVttFile) == ["Tom & <c.yellow>Jerry</c> &lt;3", "<v Ann>Hi.</v>\n<v Bob>Two lines"]
    file = WebVttFile(data)
    assert splice(file, data, lambda text: text) == data
    (place, _) = file.places(PlaceOptions())
    assert file.encode(place, "A & B <c.yellow>x</c> &lt;3 <b> --> &copy;") == (
        b"A &amp; B <c.yellow>x</c> &lt;3 &lt;b&gt; --&gt; &amp;copy;"
    )


def test_a_translation_cannot_end_its_cue_or_begin_another() -> None:
    data = f"1\r\n{TIMES}\r\nHello.\r\n\r\n2\r\n{TIMES}\r\nB\r\n".encode()
    changed = splice(SubRipFile(data), data, lambda text: f"{text}\n\n3\n{TIMES}\nfalse\u2028cue\n\n")
    assert len(places(changed)) == 2
    assert changed.count(b"\r\n") == changed.count(b"\n")
    vtt = VTT.encode()
    changed = splice(WebVttFile(vtt), vtt, lambda text: f"{text}\n\n00:03.000 --> 00:04.000\nfalse")
    assert len(places(changed, WebVttFile)) == 2


def test_a_sentence_over_several_cues_is_one_place_and_is_cut_back_to_them() -> None:
    cues = ["I never thought that", "we would meet again", "in a town like this.", "- Really?", "Yes."]
    data = "".join(
        f"{n}\n00:00:{2 * n:02},000 --> 00:00:{2 * n + 1:02},900\n<i>{cue}</i>\n\n" for n, cue in enumerate(cues)
    ).encode()
    assert texts(data.decode(), join_cues=True) == [" ".join(cues[:3]), "- Really?", "Yes."]
    assert [place.name for place in places(data, join_cues=True)] == ["1", "4", "5"]
    changed = splice(SubRipFile(data), data, lambda text: text.upper(), join_cues=True)
    assert changed.decode() == data.decode().replace("I never", "I NEVER").translate({}) or texts(changed.decode()) == [
        cue.upper() for cue in cues
    ]
    assert splice(SubRipFile(data), data, lambda text: text, join_cues=True) == data


def test_a_translation_is_cut_in_order_and_without_an_empty_cue() -> None:
    rng = random.Random(7)
    words = ["rain", "in", "Athens,", "été", "雨が降る。", "明天", "ฝนตก", "한국어", "x"]
    for _ in range(500):
        text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 12)))
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 6))]
        pieces = cut_text(text, lengths)
        assert len(pieces) == len(lengths) and all(piece.strip() for piece in pieces)
        if len("".join(text.split())) >= len(lengths):
            assert "".join("".join(pieces).split()) == "".join(text.split())
    assert cut_text("one two three, four five six", [10, 10]) == ["one two three,", "four five six"]
    assert cut_text("雨", [3, 3]) == ["雨", "雨"]


@pytest.mark.parametrize(
    ("parse", "data"), [(SubRipFile, b"no times\n"), (SubRipFile, b"\n1\ntext\n"), (WebVttFile, b"WEBVTTX\n")]
)
def test_a_file_without_cues_is_not_of_the_format(parse: Callable[[bytes], ParsedFile], data: bytes) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        parse(data)
    assert caught.value.line == (2 if data.startswith(b"\n") else 1)


def test_reading_and_writing_takes_linear_time() -> None:
    data = ("<i>" * 50_000 + "x" + "</i>" * 50_000).encode()
    places(f"1\n{TIMES}\n".encode() + data)
    places(b"WEBVTT\n\n00:01.000 --> 00:02.000\n" + data, WebVttFile)
    places((f"1\n{TIMES}\n\n" * 20_000).encode(), join_cues=True)


def test_a_job_translates_subtitles_and_keeps_everything_else(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    srt = f"1\r\n{TIMES}\r\n<i>heavy rain</i>\r\n\r\n2\r\n{TIMES}\r\nin <b>Athens</b>\r\n"
    (tmp_path / "in/a.srt").write_bytes(srt.encode())
    (tmp_path / "in/b.vtt").write_text(VTT)
    result = job(f"source.path={tmp_path / 'in'}", "name=n", "source.join_cues=true")
    assert (result.rows, dict(result.counts)) == (4, {"ok": 4})
    assert dict(result.flags) == {"codes_moved": 3}  # the stub changes the tags, too
    expected = srt.replace("heavy rain", "HEAVY RAIN").replace("in <b>Athens", "IN <b>ATHENS")
    assert (tmp_path / "out/n/translated/a.srt").read_bytes() == expected.encode()
    assert "TOM &amp; <c.yellow>JERRY</c> &lt;3\n" in (tmp_path / "out/n/translated/b.vtt").read_text()
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE


def test_a_file_that_is_not_of_its_format_fails_and_the_others_are_translated(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.srt").write_text("these are notes\nwithout times\n")
    (tmp_path / "in/good.srt").write_text(f"1\n{TIMES}\nrain\n")
    settings = (f"source.path={tmp_path / 'in'}", "name=n")
    result = job(*settings)
    folder = tmp_path / "out/n"
    assert [file.rel for file in result.failed] == ["bad.srt"]
    assert "bad.srt:1 no line has the times of a subtitle" in result.failed[0].why
    assert not (folder / "translated/bad.srt").exists() and (folder / "translated/good.srt").exists()
    (error,) = (folder / "errors/bad.srt.errors.jsonl").read_text().splitlines()
    assert json.loads(error)["status"] == "failed_file"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [file["rel"] for file in manifest["failed"]] == ["bad.srt"]
    assert [file["path"] for file in manifest["outputs"]] == ["translated/good.srt"]
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE
    report = status.status(folder)
    assert report.state == "complete" and "failed    bad.srt:1" in status.render(report)
    assert report.exit_code is ExitCode.TOO_MANY_ERRORS
    command = ["status", "name=n", f"output_dir={tmp_path / 'out'}", "fail=true"]
    assert front.main(command) == 10
    job(*settings, "check.max_failed_files=1")
    assert front.main(command) == 0
    assert job(*settings).num_rows_decoded == 0


def test_a_failed_file_removes_its_stale_output_and_comes_back_when_it_is_corrected(tmp_path: Path, job: Job) -> None:
    path, output = tmp_path / "a.srt", tmp_path / "out/n/translated/a.srt"
    settings = (f"source.path={path}", "name=n", "on_input_change=redo")
    path.write_text(f"1\n{TIMES}\nrain\n")
    job(*settings)
    assert output.exists()
    path.write_text("broken")
    assert len(job(*settings).failed) == 1
    assert not output.exists() and not (tmp_path / "out/n/set_aside").exists()
    path.write_text(f"1\n{TIMES}\nsun\n")
    assert not job(*settings).failed
    assert output.read_text() == f"1\n{TIMES}\nSUN\n"
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE


def test_a_text_that_is_subtitles_by_its_content_is_refused_with_the_setting(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "x"
    path.write_text(f"1\n{TIMES}\nrain\n")
    with pytest.raises(ConfigError, match=r"source\.format=srt"):
        job(f"source.path={path}", "name=n")
    assert job(f"source.path={path}", "name=n", "source.format=srt").rows == 1


def test_the_formats_are_found_by_their_extensions() -> None:
    assert registry.by_extension(".SRT") == registry.get("srt")
    assert registry.by_extension(".vtt") == registry.get("vtt")


@pytest.mark.parametrize(
    ("source", "translation", "expected", "is_right"),
    [
        ("one two\nthree", "un deux trois quatre cinq six", "un deux trois\nquatre cinq six", True),
        ("a\nb\nc", "un deux trois", "un\ndeux\ntrois", True),
        ("one\ntwo", "Oui", "Oui", True),  # there is nothing to break
        ("one\ntwo", "Oui, je suis là ce soir", "Oui, je suis\nlà ce soir", True),
        ("one\ntwo", "这是一个很长的句子，没有空格", "这是一个很长的句子，\n没有空格", True),
        ("one\ntwo", "dit\xa0: «\xa0oui\xa0»", "dit\xa0:\n«\xa0oui\xa0»", True),
        ("one\ntwo", 'x <font color="#ff0000">y z</font> w', 'x <font color="#ff0000">y\nz</font> w', True),
        ("one\ntwo", "un\ndeux", "un\ndeux", True),
        ("one\ntwo", "un\ndeux\ntrois", "un\ndeux\ntrois", False),
        ("one", "un\ndeux", "un\ndeux", False),
        ("- Hi.\n- Hello.", "- Salut. - Bonjour, toi.", "- Salut.\n- Bonjour, toi.", True),
        ("-Hi.\n-Hello.", "-你好。-是。", "-你好。\n-是。", True),
        ("- Hi you\nthere.\n- Yes.", "– Salut à toi là-bas. – Oui.", "– Salut à\ntoi là-bas.\n– Oui.", True),
        ("<i>- Hi.</i>\n<i>- No.</i>", "<i>- Salut.</i> <i>- Non.</i>", "<i>- Salut.</i>\n<i>- Non.</i>", True),
        ("Hi\n- No", "Salut - Non", "Salut\n- Non", True),
        ("- Hi.\n- Hello.", "Salut. Bonjour.", "Salut. Bonjour.", False),  # who says what?
        ("<v Bob>Hi.\n<v Ann>Hello.", "<v Bob>Salut. <v Ann>Oui.", "<v Bob>Salut.\n<v Ann>Oui.", True),
    ],
)
def test_a_translation_gets_the_lines_of_its_source_and_turns_of_a_dialogue_keep_their_own(
    source: str, translation: str, expected: str, is_right: bool
) -> None:
    assert fit_lines(source, translation) == (expected, is_right)


def test_cues_of_two_lines_come_back_on_two_lines_without_a_flag_unless_the_setting_says_otherwise(
    tmp_path: Path,
) -> None:
    data = f"1\n{TIMES}\nLight rain\nfalls on us.\n\n2\n{TIMES}\n- Hi.\n- Hello.\n\n3\n{TIMES}\nOne.\n"
    (tmp_path / "in.srt").write_text(data)

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        """Answer with one line, and without the dash of a second speaker."""
        answers = [completion.ids for completion in upper(requests, check_stop)]
        return [Completion(list(bytes(ids).replace(b"\n- ", b" ").replace(b"\n", b" ")), "stop") for ids in answers]

    words = [f"source.path={tmp_path / 'in.srt'}", "tgt_lang=fr", "model=demo", "name=n", f"output_dir={tmp_path}"]
    assert fake_job.run(words, decode) == 0
    output, review = tmp_path / "n/translated/in.srt", tmp_path / "n/review/in.srt.review.jsonl"
    assert output.read_text() == data.upper().replace("HI.\n- HELLO.", "HI. HELLO.")
    (line,) = map(json.loads, review.read_text().splitlines())
    assert (line["id"], line["flags"]) == ("in.srt#2", ["line_breaks"])
    assert fake_job.run([*words, "write.wrap_cues=false"], decode) == 0
    assert "LIGHT RAIN FALLS ON US.\n" in output.read_text()
    assert len(review.read_text().splitlines()) == 2
