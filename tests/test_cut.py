"""Cutting is linear in the length of the row, cuts where earlier versions did, and keeps the limit for any row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hymt_batch import blank, segment
from hymt_batch.cut import Cutter
from hymt_batch.errors import ConfigError, TextError
from hymt_batch.records import MAX_CHUNK_CHARS, Status
from hymt_batch.segment import OnTooLong, SegmentConfig
from tests.campaigns import cuts, growth
from tests.fakes.documents import documents, whole


def split(text: str, max_tokens: int = 64, plan: int = 2, **settings: int) -> list[str]:
    segments, rejections = segment.split(
        documents([text]),
        cuts.Bytes.count,
        SegmentConfig(max_tokens=max_tokens, **settings),
        plan,
        find_token_starts=cuts.Bytes.token_starts,
    )
    assert not rejections
    assert "".join(map(whole, segments)) == text
    return [piece.text for piece in segments]


@pytest.mark.core
def test_rows_are_cut_where_the_earlier_version_cut_them() -> None:
    """The campaign `python -m tests.campaigns.cuts` compares 100,000 rows."""
    comparison = cuts.compare(3, 250, cuts.counters())
    assert comparison["different"] == []
    assert comparison["rows"] > 200
    assert comparison["segments"] > 5 * comparison["rows"]


def test_rows_are_cut_the_same_without_token_starts() -> None:
    stream = cuts.documents()
    text = "".join(next(stream) for _ in range(40))
    segments, _ = segment.split(documents([text]), cuts.Bytes.count, SegmentConfig(max_tokens=100))
    assert [piece.text for piece in segments] == split(text, 100)


def test_the_work_of_cutting_is_linear_over_hostile_alphabets() -> None:
    """The campaign `python -m tests.campaigns.growth` cuts rows of up to 1,000,000 characters."""
    lines: list[str] = []
    assert growth.growth(growth.ALPHABETS, [1000, 10_000], cuts.Bytes, 64, lines.append) <= 1.2
    assert len(lines) == 2 * len(growth.ALPHABETS) >= 60


@pytest.mark.parametrize("alphabet", [".", "?!", "e\u0301", "\U0001f468\u200d", "1", "\u200b", "a.\u0f0d", "\n ", '."'])
def test_a_run_of_one_kind_of_character_is_scanned_a_few_times(alphabet: str) -> None:
    """With quadratic work each of these would take hours. No call gets more than MAX_CHUNK_CHARS characters."""
    work = growth.measure(growth.row(alphabet, 200_000), cuts.Bytes, 2048)
    assert work.by_patterns <= 8 * 200_000
    assert work.by_tokenizer <= 8 * 200_000
    assert work.largest <= MAX_CHUNK_CHARS


def test_every_segment_fits_even_with_wrong_token_starts() -> None:
    """For a tokenizer that splits a part of a text differently from the whole text."""

    def starts(text: str) -> Iterator[list[int]]:
        yield list(range(0, len(text), 3))

    segments, _ = segment.split(
        documents(["ab " * 300]), cuts.Bytes.count, SegmentConfig(max_tokens=64), find_token_starts=starts
    )
    assert max(len(piece.text) for piece in segments) <= 64
    assert "".join(map(whole, segments)) == "ab " * 300


@pytest.mark.parametrize(
    "text", ["e" + "\u0301" * 3000, "\U0001f468\u200d" * 900, "a" + "\ufe0f" * 500 + "b", "x\u200c" * 400]
)
def test_a_character_with_combining_marks_is_cut_only_if_it_exceeds_the_limit(text: str) -> None:
    assert max(len(piece.encode()) for piece in split(text)) <= 64
    short = "e\u0301\u0301" * 40
    assert all(piece.startswith("e") for piece in split(short))  # a short one is never cut
    if text.startswith("e"):
        assert len(split(text, plan=1)) == 1  # a job with plan 1 keeps its cuts


def test_no_segment_is_invisible() -> None:
    text = "\u200b" * 500 + "seen. " + "\u2060" * 500 + " seen too."
    assert all(not blank.is_blank(piece) for piece in split(text))
    assert any(blank.is_blank(piece) for piece in split(text, plan=1))
    segments, _ = segment.split(
        documents([text]), cuts.Bytes.count, SegmentConfig(max_tokens=64), find_token_starts=None
    )
    assert [piece.index for piece in segments] == list(range(len(segments)))
    assert segment.join(segments, [piece.text for piece in segments], spaced=False).replace(" ", "") == text.replace(
        " ", ""
    )


INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e\u200f", "\u061c", "\u3164", "\uffa0", "\u115f", "\ufe0f"]
INVISIBLE += [
    "\u2800",
    "\U000e0101",
    "\u180e",
    "\u034f",
    "\u202e\u202c",
    "\u2066 \u2069",
    "\x00",
    "\U000e0020",
    "\u200d",
]


@pytest.mark.parametrize("text", INVISIBLE)
def test_an_invisible_row_is_blank_except_in_plan_1(text: str) -> None:
    for row in (text, f" {text}\t", text * 3):
        assert blank.is_blank(row)
        assert not blank.is_blank(row, 1)
        assert not blank.is_blank(f"{row}a")
    assert segment.split(documents([text]), cuts.Bytes.count, SegmentConfig()) == ([], {})
    assert len(segment.split(documents([text]), cuts.Bytes.count, SegmentConfig(), 1)[0]) == 1


@pytest.mark.parametrize(
    "text", ["a", "\u0301", "\u0600", "\u06dd", "\ue000", "\u0378", "\U0001f600", "-", "\u093f", "\u1100"]
)
def test_a_row_with_a_visible_character_is_not_blank(text: str) -> None:
    assert not blank.is_blank(text)


def test_a_row_with_too_many_segments_is_too_long() -> None:
    text = "One sentence is here. " * 100
    assert len(split(text)) > 10
    config = SegmentConfig(max_tokens=64, max_segments=10)
    segments, rejections = segment.split(documents([text, "short"]), cuts.Bytes.count, config)
    assert [piece.document_index for piece in segments] == [1]
    assert rejections[0].status is Status.TOO_LONG
    assert "segment.max_segments=10" in rejections[0].message
    exact_limit = SegmentConfig(max_tokens=64, max_segments=len(split(text)))
    assert segment.split(documents([text]), cuts.Bytes.count, exact_limit)[1] == {}
    with pytest.raises(ConfigError, match=r"segment\.max_segments=0"):
        SegmentConfig(max_segments=0)


def test_a_tokenizer_failure_costs_only_the_row() -> None:
    def count(text: str) -> int:
        if "bad" in text:
            raise TextError("the tokenizer failed")
        return len(text)

    texts = ["bad " * 50, "good " * 50, "fine"]
    for mode in OnTooLong:
        segments, rejections = segment.split(documents(texts), count, SegmentConfig(max_tokens=64, on_too_long=mode))
        assert rejections[0].status is Status.GENERATION_ERROR
        assert "tokenizer failed" in rejections[0].message
        assert {piece.document_index for piece in segments} == ({1, 2} if mode is OnTooLong.split else {2})


class StopRequested(Exception):
    """Raised for a stop request."""


@pytest.mark.parametrize(
    "text", ["." * 100_000, "a. " * 30_000, "e" + "\u0301" * 100_000, "\n" * 100_000 + "a b " * 20_000]
)
def test_a_stop_request_takes_effect_within_a_row(text: str) -> None:
    num_calls = 0

    def check_stop() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 20:
            raise StopRequested

    with pytest.raises(StopRequested):
        segment.split(
            documents([text]),
            cuts.Bytes.count,
            SegmentConfig(),
            find_token_starts=cuts.Bytes.token_starts,
            check_stop=check_stop,
        )
    cutter = Cutter(text, cuts.Bytes.count, 64, cuts.Bytes.token_starts, lambda: None)
    assert not cutter.fits()
