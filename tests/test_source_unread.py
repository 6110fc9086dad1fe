"""A file of a format that is not read is refused with a command that makes rows of that very file: each is run here."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.records import PLAN_VERSION
from hymt_batch.source import unread
from hymt_batch.source.input_names import AS_INPUTS
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.settings import SourceConfig

RAIN, SUN = "Heavy rain in Athens.", "Sunny in Seoul and Shanghai."
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def zipped(**files: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name.replace("__", "/").replace("_", "."), text)

    return make


def make_mo(path: Path) -> None:
    """Write a compiled catalogue: magic, version, number of strings, and two tables of lengths and offsets."""
    pairs = [("", "Content-Type: text/plain; charset=UTF-8\n"), (RAIN, "pluie"), (SUN, "soleil")]
    at, tables, data = 28 + 16 * len(pairs), [b"", b""], b""
    for column in (0, 1):
        for pair in pairs:
            text = pair[column].encode()
            tables[column] += struct.pack("<2I", len(text), at + len(data))
            data += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, at)
    path.write_bytes(head + tables[0] + tables[1] + data)


def make_arrow(path: Path) -> None:
    table = pa.table({"text": [RAIN, SUN]})
    with (
        pa.ipc.new_stream(path, table.schema)
        if path.name.startswith("s")
        else pa.ipc.new_file(path, table.schema) as writer
    ):
        writer.write_table(table)


FILES: dict[str, Any] = {
    "film.sbv": f"0:00:01.000,0:00:02.000\n{RAIN}\n\n0:00:03.000,0:00:04.000\nSunny in Seoul\nand Shanghai.\n",
    "film.ass": (
        f"[Events]\nFormat: Layer\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{RAIN}\nDialo"
        f"gue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{{\\i1}}Sunny in Seoul\\Nand Shanghai.\r\n"
    ),
    "my film (1).sub": f"{{1}}{{20}}{RAIN}\n{{30}}{{40}}Sunny in Seoul|and Shanghai.\n",
    "film.sub": f"{{1}}{{20}}{RAIN}\n{{30}}{{40}}Sunny in Seoul|and Shanghai.\n",
    "song.lrc": f"[00:01.00]{RAIN}\n[00:02.00][00:09.00]{SUN}\n",
    "app.mo": make_mo,
    "app.xlf": (
        f'<?xml version="1.0"?><xliff xmlns="urn:oasis:names:tc:xliff:document:1.2"><file><body><t'
        f'rans-unit id="1"><source>{RAIN}</source><target>x</target></trans-unit><trans-unit id="2'
        f'"><source>Sunny in <g id="1">Seoul</g> and Shanghai.</source></trans-unit></body></file>'
        f"</xliff>"
    ),
    "memory.tmx": (
        f'<tmx version="1.4"><header/><body><tu><tuv xml:lang="en"><seg>{RAIN}</seg></tuv><tuv xml'
        f':lang="fr"><seg>x</seg></tuv></tu><tu><tuv xml:lang="en"><seg>{SUN}</seg></tuv></tu></bo'
        f"dy></tmx>"
    ),
    "page.html": (
        f"<html><head><style>p {{}}</style></head><body><p>{RAIN}</p><script>var x;</script><p>Sun"
        f"ny in Seoul\n and Shanghai.</p>"
    ),
    "data.xml": f"<a><b>{RAIN}</b><c>\n {SUN} </c></a>",
    "strings.resx": f"<root><data><value>{RAIN}</value></data><data><value>{SUN}</value></data></root>",
    "readme.mdx": f"{RAIN}\n\nSunny in Seoul\nand Shanghai.\n",
    "readme.rst": f"{RAIN}\r\n\r\nSunny in Seoul\r\nand Shanghai.\r\n",
    "en.yml": f'en:\n  a: "{RAIN}"\n  b:\n    - {SUN}\n  n: 3\n',
    "en.yaml": f"a: {RAIN}\n---\nb: {SUN}\n",
    "Localizable.strings": (f'/* c */\n"a" = "{RAIN}";\n"b"="{SUN}" ;\n').encode("utf-16"),
    "app.ini": f"[s]\n# c=d\na = {RAIN}\nb={SUN}\n",
    ("book.ipynb"): json.dumps(
        {
            "cells": [
                {"cell_type": "markdown", "source": [RAIN]},
                {"cell_type": "code", "source": ["x"]},
                {"cell_type": "markdown", "source": [SUN]},
            ]
        }
    ),
    "a.docx": zipped(
        word__document_xml=(
            f'<w:document xmlns:w="{W}"><w:body><w:p><w:r><w:t>{RAIN}</w:t></w:r></w:p><w:p/><w:p><w:r'
            f"><w:t>Sunny in Seoul </w:t></w:r><w:r><w:t>and Shanghai.</w:t></w:r></w:p></w:body></w:d"
            f"ocument>"
        )
    ),
    "a.pptx": zipped(
        ppt__slides__slide1_xml=(
            f'<s xmlns:a="x"><a:p><a:r><a:t>{RAIN}</a:t></a:r></a:p><a:p><a:r><a:t>{SUN}</a:t></a:r></a:p></s>'
        )
    ),
    "a.xlsx": zipped(
        xl__sharedStrings_xml=(
            f'<sst xmlns="x"><si><t>{RAIN}</t></si><si><r><t>Sunny in Seoul </t></r><r><t>and Shanghai'
            f".</t></r></si></sst>"
        )
    ),
    "a.odt": zipped(
        content_xml=(
            f'<o xmlns:text="x"><text:h>{RAIN}</text:h><text:p>Sunny in <text:span>Seoul</text:span> a'
            f"nd Shanghai.</text:p></o>"
        )
    ),
    "a.epub": zipped(
        META_INF__container_xml="<c/>",
        OEBPS__a_xhtml=(
            f"<html><body><h1>{RAIN}</h1>\n<p class='x'>Sunny in <b>Seoul</b>\nand Shanghai.</p></body></html>"
        ),
    ),
    "a.arrow": make_arrow,
    "s.arrow": make_arrow,
}


def open_inputs(path: Path, **settings: Any) -> Inputs:
    config = SourceConfig(path=str(path), **settings)
    return Inputs(config, None, outputs=AS_INPUTS, added_fields=(), plan_version=PLAN_VERSION)


def extract(path: Path) -> list[str | None]:
    """Run the command that the error for a file advises; return the texts that its source.path and settings give."""
    with pytest.raises(ConfigError) as caught:
        open_inputs(path)
    advice, _, command = caught.value.fix.partition(" Command: ")
    assert "source.format=text" not in str(caught.value)
    before = path.read_bytes()
    subprocess.run(["bash", "-ec", f"set -o pipefail; {command}"], cwd=path.parent, check=True)
    assert path.read_bytes() == before
    new = next(other for other in path.parent.iterdir() if other != path)
    assert f"source.path={new}" in advice
    settings: dict[str, Any] = {"text_field": "2", "header": False} if "source.text_field=2" in advice else {}
    inputs = open_inputs(new, **settings)
    return [document.text for document in inputs.read(inputs.files[0])]


def make(path: Path, content: Any) -> Path:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_command_in_the_error_makes_rows_of_that_very_file(tmp_path: Path, name: str) -> None:
    assert extract(make(tmp_path / name, FILES[name])) == [RAIN, SUN]


@pytest.mark.parametrize("name", ["film.sbv", "app.xlf", "page.html", "a.docx"])
def test_the_command_for_a_compressed_file_decompresses_it(tmp_path: Path, name: str) -> None:
    plain = make(tmp_path / name, FILES[name])
    packed = tmp_path / "in" / f"{name}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert extract(packed) == [RAIN, SUN]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz"])
def test_the_command_for_an_archive_unpacks_it_into_a_new_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a.txt").write_text(f"{RAIN}\n{SUN}\n")
    base, kind = name.split(".", 1)
    formats = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tgz": "gztar", "tar.xz": "xztar"}
    made = shutil.make_archive(str(tmp_path / base), formats[kind], tmp_path / "t")
    (tmp_path / "in").mkdir()
    shutil.move(made, tmp_path / "in" / name)
    assert extract(tmp_path / "in" / name) == [RAIN, SUN]


def test_a_command_never_overwrites_a_file(tmp_path: Path) -> None:
    path = make(tmp_path / "film.sbv", FILES["film.sbv"])
    for taken in ("film.tsv", "film.rows.tsv"):
        (tmp_path / taken).write_text("precious")
    with pytest.raises(ConfigError) as caught:
        open_inputs(path)
    subprocess.run(["bash", "-ec", caught.value.fix.partition(" Command: ")[2]], check=True)
    assert (tmp_path / "film.tsv").read_text() == (tmp_path / "film.rows.tsv").read_text() == "precious"
    assert (tmp_path / "film-2.tsv").is_file()


def test_every_entry_of_the_list_has_advice_and_no_extension_that_is_read(tmp_path: Path) -> None:
    data = unread.load()
    assert {".ass", ".sub", ".mo", ".xlf", ".xliff", ".tmx", ".html", ".htm"} <= set(data)
    assert {".xml", ".mdx", ".rst", ".yml", ".yaml", ".strings", ".pptx", ".odt", ".epub", ".docx"} <= set(data)
    for extension, kind in data.items():
        assert registry.by_extension(extension) is None and extension == extension.lower()
        path = make(tmp_path / f"x{extension}", b"\xde\x12\x04\x95" if "mo" in extension else b"{}")
        advice = kind.advice(str(path), SourceConfig(path=str(path)))
        assert advice and "source.format=text" not in advice


@pytest.mark.parametrize(
    "name", ["corpus.en", "corpus.arb", "corpus.mo", "corpus.so", "corpus.br", "part-00001", "README"]
)
def test_a_text_whose_extension_says_nothing_is_read_as_text_where_it_is_named(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, f"{RAIN}\n{SUN}\n")
    assert [input.format for input in open_inputs(path).files] == ["text"]
    (tmp_path / "a.txt").write_text("x\n")
    assert [input.rel for input in open_inputs(tmp_path).files] == ["a.txt"]


@pytest.mark.parametrize("text", [FILES["app.xlf"], FILES["page.html"]])
def test_a_text_whose_extension_says_nothing_is_refused_if_its_start_shows_a_format(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="by its content, which is not read"):
        open_inputs(make(tmp_path / "x", text))
    assert open_inputs(make(tmp_path / "x.txt", text)).files


def test_a_pipe_a_broken_link_and_an_unreadable_file_that_no_reader_takes_are_skipped_unopened(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("rain\n", encoding="utf-8")
    os.mkfifo(tmp_path / "corpus.arb")  # of the extensions that are language codes, too
    os.mkfifo(tmp_path / "b.xlf")
    (tmp_path / "c.png").symlink_to("nowhere")
    (tmp_path / "d.mo").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "*.[tpsx]*[gtf]"):
        config = SourceConfig(path=str(path))
        inputs = Inputs(config, None, outputs=AS_INPUTS, added_fields=(), plan_version=PLAN_VERSION)
        skipped = {file.rel for file in inputs.skipped}
        assert [file.rel for file in inputs.files] == ["a.txt"]
        assert skipped >= {"b.xlf", "c.png"}
    with pytest.raises(ConfigError, match="is not a regular file"):
        Inputs(
            SourceConfig(path=str(tmp_path / "corpus.arb")),
            None,
            outputs=AS_INPUTS,
            added_fields=(),
            plan_version=PLAN_VERSION,
        )
