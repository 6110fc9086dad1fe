"""`hymt-batch formats`: the list of the formats."""

from __future__ import annotations

import json

import pytest
from hymt_batch.jobs import __main__ as front

from hymt_batch.formats import registry
from hymt_batch.formats.format import Kind


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert front.main(["formats", *words]) == 0
    return capsys.readouterr().out


def test_every_format_is_listed_with_its_extensions_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    text = listed(capsys)
    for format in registry.FORMATS:
        assert format.about
        assert f"  {format.name} " in text
        assert f" {format.about}\n" in text
        for word in (*format.input_extensions, *(f"source.{key}" for key in format.source_settings)):
            assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_json_list_tells_rows_from_documents(capsys: pytest.CaptureFixture[str]) -> None:
    formats = {entry["name"]: entry for entry in json.loads(listed(capsys, "format=json"))}
    assert set(formats) == {format.name for format in registry.FORMATS}
    for format in registry.FORMATS:
        assert formats[format.name]["kind"] == ("document" if format.kind is Kind.SPLICED else "rows")
    assert formats["srt"]["settings"] == ["source.encoding", "source.join_cues"]
    assert formats["csv"]["written"]
    assert not formats["srt"]["written"]
