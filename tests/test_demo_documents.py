"""The demo model translates documents exactly: the texts become the right ones, and nothing else changes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.demo import example, grammar
from hymt_batch.demo.grammar import Text
from hymt_batch.errors import ExitCode
from hymt_batch.run.reporter import Reporter
from jobs import verify
from jobs.translate import translate

pytestmark = pytest.mark.core

NUM_TEXTS = 24


def texts(codes: str, seed: int) -> list[Text]:
    """Return held-out bulletins, every second one with codes, which match the pattern."""
    whole = re.compile(rf"(?:[^<>{{}}&*`%\[\]~/]|{codes})*")
    coded = (row.text for row in example.stream("codes", seed, held_out=True) if whole.fullmatch(row.text.en))
    plain = grammar.sample(seed, NUM_TEXTS // 2)
    return [text for pair in zip(plain, itertools.islice(coded, NUM_TEXTS // 2), strict=True) for text in pair]


def translated(folder: Path, name: str, content: str, tgt_lang: str, *settings: str) -> str:
    """Translate a file with the demo model, and return the output."""
    (folder / name).write_bytes(content.encode())
    given = [f"source.path={folder / name}", f"output_dir={folder / 'out'}", f"name={tgt_lang}", f"tgt_lang={tgt_lang}"]
    job = config.load("translate", [*given, "src_lang=en", "model=demo", "device_map=cpu", *settings])
    with Reporter("off") as reporter:
        summary = translate(job, reporter)
    assert set(summary.counts) == {"ok"} and not summary.flags
    assert verify.verify(folder / "out" / tgt_lang).exit_code is ExitCode.COMPLETE
    return (folder / "out" / tgt_lang / "translated" / name).read_bytes().decode()


def subtitles(rows: list[Text], lang: str, *, mark: str, newline: str) -> str:
    cues = [
        f"{index}{newline}00:00:{index:02}{mark}000 --> 00:00:{index:02}{mark}900{newline}"
        + row.in_language(lang).replace("\n", newline)
        for index, row in enumerate(rows, 1)
    ]
    return (newline * 2).join(cues) + newline


@pytest.mark.parametrize("tgt_lang", grammar.TARGETS)
def test_subrip_is_translated_exactly(tgt_lang: str, tmp_path: Path) -> None:
    rows = texts(r"</?[biu]>|<font color=\"#\d+\">|</font>|\{\\an\d\}", 31)
    source, right = (subtitles(rows, lang, mark=",", newline="\r\n") for lang in ("en", tgt_lang))
    assert translated(tmp_path, "film.srt", source, tgt_lang) == right


def test_webvtt_is_translated_exactly(tmp_path: Path) -> None:
    rows = texts(r"</?[biuc]>|<c\.\w+>|<v \w+>", 32)
    header = "WEBVTT\n\nNOTE Rain in Lyon.\n\nSTYLE\n::cue { color: red }\n\n"
    source, right = (header + subtitles(rows, lang, mark=".", newline="\n") for lang in ("en", "fr"))
    assert translated(tmp_path, "film.vtt", source, "fr") == right


def test_properties_are_translated_exactly(tmp_path: Path) -> None:
    rows = texts(r"</?\w+>|\{\w+\}|&nbsp;|https?://\S+", 33)
    source, right = (
        "# Rain in Lyon.\n"
        + "".join(f"key.{index} = {row.in_language(lang)}\n" for index, row in enumerate(rows) if "\n" not in row.en)
        for lang in ("en", "de")
    )
    assert translated(tmp_path, "messages.properties", source, "de", "write.encoding=utf-8") == right
