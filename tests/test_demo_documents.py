"""The demo model translates documents exactly: the texts become the right ones, and nothing else changes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.demo import grammar
from hymt_batch.demo.grammar import Text
from hymt_batch.errors import ExitCode
from hymt_batch.run.reporter import Reporter
from jobs import verify
from jobs.translate import translate

pytestmark = pytest.mark.core

NUM_TEXTS = 24


def texts(seed: int, *marks: tuple[str, str]) -> list[Text]:
    """Return held-out bulletins with marks around some of them."""
    around = itertools.cycle([("", ""), *marks])
    return [
        Text(*(before + text.in_language(lang) + after for lang in ("en", *grammar.TARGETS)))
        for text, (before, after) in zip(grammar.sample(seed, NUM_TEXTS), around, strict=False)
    ]


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
    rows = texts(31, ("<i>", "</i>"), ("{\\an8}", ""), ('<font color="#ff0000">', "</font>"))
    source, right = (subtitles(rows, lang, mark=",", newline="\r\n") for lang in ("en", tgt_lang))
    assert translated(tmp_path, "film.srt", source, tgt_lang) == right


def test_webvtt_is_translated_exactly(tmp_path: Path) -> None:
    rows = texts(32, ("<i>", "</i>"))
    header = "WEBVTT\n\nNOTE Rain in Lyon.\n\nSTYLE\n::cue { color: red }\n\n"
    source, right = (header + subtitles(rows, lang, mark=".", newline="\n") for lang in ("en", "fr"))
    assert translated(tmp_path, "film.vtt", source, "fr") == right


def test_properties_are_translated_exactly(tmp_path: Path) -> None:
    rows = texts(33)
    source, right = (
        "# Rain in Lyon.\n" + "".join(f"key.{index} = {escaped(row, lang)}\n" for index, row in enumerate(rows))
        for lang in ("en", "de")
    )
    assert translated(tmp_path, "messages.properties", source, "de") == right


def escaped(row: Text, lang: str) -> str:
    """Return a text as a file that is ASCII has it."""
    return re.sub(r"[^\x00-\x7f]", lambda match: f"\\u{ord(match[0]):04x}", row.in_language(lang))


def test_a_catalogue_is_translated_exactly(tmp_path: Path) -> None:
    rows = texts(34)
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n'
    entries = "".join(f'\n#: a.c:{index}\nmsgid "{row.en}"\nmsgstr ""\n' for index, row in enumerate(rows))
    lines = translated(tmp_path, "a.po", header + entries, "zh").splitlines()
    expected = [line for row in rows for line in (f'msgid "{row.en}"', f'msgstr "{row.zh}"')]
    assert [line for line in lines if line.startswith("msg")][2:] == expected
    assert [line for line in lines if line.startswith("#")] == [f"#: a.c:{index}" for index in range(len(rows))]


def test_markdown_is_translated_exactly(tmp_path: Path) -> None:
    rows = texts(35)

    def page(lang: str) -> str:
        heading, paragraph, item, other, quote, cell, *rest = (row.in_language(lang) for row in rows)
        frame = f"# {heading}\n\n{paragraph}\n\n- {item}\n- {other}\n\n> {quote}\n\n```\nRain in Lyon.\n```\n\n"
        return frame + f"| {cell} | 12 |\n|---|---|\n\n" + "\n\n".join(rest) + "\n"

    assert translated(tmp_path, "page.md", page("en"), "fr") == page("fr")
