"""source.document=true: a text file is one document; its paragraphs are translated as a whole and stay paragraphs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from hymt_batch.formats.document import FORMAT, DocumentFile
from hymt_batch.formats.spliced import Place, PlaceOptions, ReadFile, ReadPlace
from hymt_batch.records import Document, Status
from jobs import verify
from tests.fakes.job import Job


def places(data: bytes) -> list[Place]:
    return list(DocumentFile(data).places(PlaceOptions()))


def texts(data: str) -> list[str | None]:
    return [place.text for place in places(data.encode())]


def translate(data: bytes, answer: Callable[[str], str]) -> tuple[bytes, int]:
    """Return what is written with these answers, and how many of them were."""
    file, out, at, num_written = DocumentFile(data), b"", 0, 0
    assert FORMAT.can_hold is not None
    for place in file.places(PlaceOptions()):
        assert at <= place.start < place.end
        new = data[place.start : place.end]
        if place.text is not None:
            text = answer(place.text)
            if FORMAT.can_hold(Document("a", 0, place.text, b"", values=ReadPlace(place, ReadFile(data, file))), text):
                new, num_written = file.encode(place, text), num_written + 1
        out, at = out + data[at : place.start] + new, place.end
    return out + data[at:], num_written


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", []),
        ("\n \n\t\n", []),
        ("One\nparagraph.\n\nTwo\n", ["One paragraph.", "Two"]),
        ("One\r\nparagraph.\r\n \t\r\nTwo", ["One paragraph.", "Two"]),
        ("One\rparagraph.\r\rTwo\r", ["One paragraph.", "Two"]),
        ("\ufeffOne\n", ["One"]),
        ("well-\nknown, word--\nand 1999-\n2000\n", ["well-known, word--and 1999- 2000"]),
        ("雨が降\nる。\n", ["雨が降る。"]),
        ("비가 오고\n있다\n", ["비가 오고 있다"]),
        ("Title\n=====\ntext\n* * *\nmore\n", ["Title", "text", "more"]),
        ("    First\nand on.\n    Second\nand on.\n    'Third.'\n    'Fourth.'\n", None),
        ("Ann, B. (2001) A\n   title\n   here.\n", ["Ann, B. (2001) A title here."]),
        ("  all lines\n  are indented\n", ["all lines are indented"]),
        ("- an item\n  goes on\n- two\n1. three\n   on\n(a) four\n", ["an item goes on", "two", "three on", "four"]),
        ("> one\n> quote\n>> deeper\n> back\n", ["one quote", "deeper", "back"]),
        ("Name     Age\nBob\t12\nend\n", ["Name", "Age", "Bob", "12", "end"]),
    ],
)
def test_paragraphs_are_found_with_their_lines_joined(data: str, expected: list[str] | None) -> None:
    expected = expected or ["First and on.", "Second and on.", "'Third.'", "'Fourth.'"] if data.strip() else []
    assert texts(data) == expected
    assert translate(data.encode(), lambda text: text) == (data.encode(), len(expected))


BOOK = """    CHAPTER I

It was a dark and stormy night; the rain fell in
torrents, except at occasional intervals.
    A second paragraph is indented and goes on over
more than one line.
    "Yes."

> A quoted mail that is wrapped
> over two lines.

* one item that goes
  on
2. three

Name     Age
-----------------
"""


def test_a_translation_is_wrapped_as_its_paragraph_was_and_all_else_stays() -> None:
    for newline in ("\n", "\r\n"):
        out, num_written = translate(BOOK.replace("\n", newline).encode(), lambda text: f"mot {text.upper()}")
        assert num_written == 9
        assert out.decode().replace(newline, "\n") == (
            "    mot CHAPTER I\n\n"
            "mot IT WAS A DARK AND STORMY NIGHT; THE RAIN\nFELL IN TORRENTS, EXCEPT AT OCCASIONAL\nINTERVALS.\n"
            "    mot A SECOND PARAGRAPH IS INDENTED AND GOES ON\nOVER MORE THAN ONE LINE.\n"
            '    mot "YES."\n\n'
            "> mot A QUOTED MAIL THAT IS\n> WRAPPED OVER TWO LINES.\n\n"
            "* mot ONE ITEM THAT\n  GOES ON\n2. mot THREE\n\n"
            "mot NAME     mot AGE\n-----------------\n"
        )
    assert [place.name for place in places(BOOK.encode())] == ["1", "3", "5", "7", "9", "12", "14", "16", "16[2]"]


def test_lines_of_scripts_without_spaces_are_wrapped_between_characters_and_by_their_width() -> None:
    data = b"A line of twenty col\numns and more\n"
    out, _ = translate(data, lambda text: "今日はとても良い天気です、明日は雨（強い雨）が降る。")
    assert out.decode() == "今日はとても良い天気\nです、明日は雨（強い\n雨）が降る。\n"


WORDS = [
    "word",
    "more",
    "été",
    "雨が降る。",
    "（雨）",
    "-",
    "*",
    "1.",
    "(a)",
    ">",
    ">>",
    "—",
    "...",
    "===",
    "x" * 30,
    "a,",
    "J.",
]
HOSTILE = [*WORDS, "\n", "\n\n", "\t", "   ", "\u2028", "\0", "\x0c", "\ufeff", "- ", "# "]


def seeded_text(rng: random.Random) -> str:
    def line() -> str:
        start = rng.choice(["", "", "", "    ", "  ", "\t", "- ", "1. ", "> ", "> > ", "  * "])
        return start + rng.choice([" ", " ", "  ", "    "]).join(rng.choice(WORDS) for _ in range(rng.randint(0, 6)))

    return "\n".join(line() for _ in range(rng.randint(1, 14))) + rng.choice(["", "\n"])


def test_an_answer_that_begins_like_a_list_item_begins_none() -> None:
    assert translate(b"Yes.\n", lambda _: "\u2014 Oui\xa0!")[0] == "\u2014\xa0Oui\xa0!\n".encode()
    assert translate(b"- a\n", lambda _: "- b")[0] == b"- - b\n"


def num_blank(data: bytes) -> int:
    return sum(not line.strip(b" \t>\r") for line in data.split(b"\n"))


def test_no_answer_of_a_model_changes_the_paragraphs() -> None:
    rng, num_places, num_written = random.Random(17), 0, 0
    for _ in range(1000):
        data = seeded_text(rng).encode()
        out, written = translate(data, lambda _: " ".join(rng.choice(HOSTILE) for _ in range(rng.randint(0, 12))))
        num_places, num_written = num_places + len(places(data)), num_written + written
        assert len(places(out)) == len(places(data)), (data, out)
        assert num_blank(out) == num_blank(data)
        assert translate(data, lambda text: text)[0] == data
    assert num_written > num_places / 2


def test_bytes_that_are_no_text_make_an_error_row_and_the_rest_is_translated() -> None:
    data = b"one\n\ntw\xffo\nlines\n\nthree\n"
    assert [place.text for place in places(data)] == ["one", None, "three"]
    error = places(data)[1].error
    assert error is not None and error.status is Status.BAD_ENCODING
    assert translate(data, str.upper)[0] == b"ONE\n\ntw\xffo\nlines\n\nTHREE\n"


def test_reading_and_writing_takes_linear_time() -> None:
    start = time.process_time()
    for data in (b">" * 100_000 + b" a\n", b"a\n" * 20_000, b"- a\n" * 5_000, b"a   " * 20_000, b" " * 100_000 + b"a"):
        translate(data, lambda text: f"x {text}")
    assert time.process_time() - start < 20


def test_a_job_translates_text_files_as_documents(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/book.txt").write_text("heavy rain\nin Athens\n\nsun\n")
    (tmp_path / "in/rows.csv").write_text("text\nwind\n")
    result = job(f"source.path={tmp_path / 'in'}", "name=n", "source.document=true")
    assert (result.rows, dict(result.counts)) == (3, {"ok": 3})
    assert (tmp_path / "out/n/translated/book.txt").read_text() == "HEAVY RAIN\nIN ATHENS\n\nSUN\n"
    assert (tmp_path / "out/n/translated/rows.csv").exists()
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE
    one = f"source.path={tmp_path / 'in/book.txt'}"
    assert job(one, "name=pairs", "source.document=true", "write=jsonl").rows == 2
    assert job(one, "name=m", "source.format=text").rows == 4
