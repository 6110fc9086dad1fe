"""A format, a check and an engine need their table alone, as docs/architecture.md says under "How to extend it".

Each is invented here and registered as its entry would be; no other part of the product knows it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.check import checks, measures, settings
from hymt_batch.check.pair import Pair
from hymt_batch.formats import registry
from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.format import Format
from hymt_batch.formats.spliced import Place, PlaceOptions
from hymt_batch.formats.subtitles.cues import Cue, find_texts
from hymt_batch.formats.subtitles.places import joined_places, places_of, splice_cues, subtitle_format
from jobs import verify
from tests.fakes.job import Job

_LINE = re.compile(rb"^(\d+)-(\d+) (.+)$", re.MULTILINE)


class InventedFile:
    """A subtitle format that the product does not have: `<start>-<end> <text>`, the times in milliseconds."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._cues = [
            Cue(partial(self._times, match), find_texts(data, [match.span(3)])) for match in _LINE.finditer(data)
        ]

    @staticmethod
    def _times(match: re.Match[bytes]) -> tuple[int, int]:
        return int(match[1]), int(match[2])

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        return joined_places(self._cues) if options.join_cues else places_of(self._cues)

    def encode(self, place: Place, text: str) -> bytes:
        return splice_cues(self._data, place, text, str.encode) if place.ranges else text.encode()


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> Format:
    """The format, registered as an entry of `registry.FORMATS` is."""
    format = subtitle_format("inv", "an invented format", InventedFile, re.compile(rb"\d+-\d+ "))
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, format))
    monkeypatch.setattr(registry, "FOUND_NAMES", (*registry.FOUND_NAMES, "inv"))
    monkeypatch.setitem(registry._BY_NAME, "inv", format)
    monkeypatch.setitem(registry._BY_EXTENSION, ".inv", format)
    return format


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize(("joins", "rows"), [("false", 3), ("true", 2)])
def test_a_format_is_read_written_joined_and_verified_by_its_record(tmp_path: Path, joins: str, rows: int) -> None:
    (tmp_path / "a.inv").write_text("0-900 One sentence that\n1000-1900 runs on.\nno cue\n5000-5900 <i>Another.</i>\n")
    words = [f"source.path={tmp_path / 'a.inv'}", f"source.join_cues={joins}", "name=a"]
    assert Job(tmp_path)(*words).rows == rows
    assert (tmp_path / "out/a/translated/a.inv").read_text() == (
        "0-900 ONE SENTENCE THAT\n1000-1900 RUNS ON.\nno cue\n5000-5900 <i>ANOTHER.</i>\n"
    )
    assert verify.verify(tmp_path / "out/a").exit_code == 0


def test_a_check_by_language_pair_sees_both_languages_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_spanish(pair: Pair) -> float:
        return float((pair.source_code, pair.target.code) == ("es", "fr"))

    monkeypatch.setattr(measures, "MEASURES", {**measures.MEASURES, "spanish": measure_spanish})
    derived = {**measures.DERIVED, "spanish": lambda measured, logprob, limits: "spanish" in measured}
    monkeypatch.setattr(measures, "DERIVED", derived)
    monkeypatch.setattr(checks, "DERIVED", derived)
    monkeypatch.setattr(settings, "DERIVED_KINDS", {**settings.DERIVED_KINDS, "spanish": "from Spanish"})
    rows = [{"text": "Taxi", "from": code} for code in ("de", "es", "de")]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    job = Job(tmp_path)
    job(f"source.path={tmp_path / 'a.jsonl'}", "source.src_lang_field=from", "name=a")
    lines = (tmp_path / "out/a/translated/a.jsonl").read_text().splitlines()
    assert [json.loads(line)["hymt"]["flags"] for line in lines] == [[], ["spanish"], []]
    assert job.decoded == 2


def deferred_in(value: object) -> Iterator[Deferred]:
    if isinstance(value, Deferred):
        yield value
    elif isinstance(value, partial):
        for inner in (value.func, *value.args, *value.keywords.values()):
            yield from deferred_in(inner)
    elif is_dataclass(value):
        for field in fields(value):
            yield from deferred_in(getattr(value, field.name))


@pytest.mark.parametrize("format", registry.FORMATS, ids=lambda format: str(format.name))
def test_what_a_format_names_without_importing_it_exists(format: Format) -> None:
    for deferred in deferred_in(format):
        found: Callable[..., Any] = deferred.find()
        assert callable(found), deferred
        assert found.__module__ == deferred.module


def test_formats_that_no_file_has_are_not_imported() -> None:
    program = (
        "import sys; from hymt_batch.formats import registry; import hymt_batch.source.inputs;"
        "print(*sorted(name[19:] for name in sys.modules if name.startswith('hymt_batch.formats.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages = ("delimited", "json_tree", "markdown", "parquet", "po")
    of_packages = {name for name in done.stdout.split() if name.partition(".")[0] in packages}
    expected = {*packages, *(f"{name}.format" for name in packages), "delimited.dialect", "parquet.saved_split"}
    assert of_packages == expected
    assert "jsonl.reader" not in done.stdout.split()
