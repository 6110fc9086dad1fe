"""Cutting is linear in the row, cuts where it always did, and keeps to the limit whatever the row is made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import documents, whole

from hymt_batch import segment
from hymt_batch.cut import Cutter
from hymt_batch.errors import ConfigError, TextError
from hymt_batch.records import MAX_CHUNK_CHARS, Status
from hymt_batch.segment import OnTooLong, SegmentConfig
from tests.campaigns import cuts, growth


def split(text: str, max_tokens: int = 64, plan: int = 2, **named: int) -> list[str]:
    segments, refused = segment.split(
        documents([text]),
        cuts.Bytes.count,
        SegmentConfig(max_tokens=max_tokens, **named),
        plan,
        find_token_starts=cuts.Bytes.starts,
    )
    assert not refused
    assert "".join(map(whole, segments)) == text
    return [one.text for one in segments]


@pytest.mark.core
def test_rows_are_cut_where_the_earlier_version_cut_them() -> None:
    """100,000 rows: python -m tests.campaigns.cuts."""
    found = cuts.compare(3, 250, cuts.counters())
    assert found["different"] == []
    assert found["rows"] > 200
    assert found["segments"] > 5 * found["rows"]


def test_without_the_places_of_tokens_rows_are_cut_the_same() -> None:
    stream = cuts.documents()
    text = "".join(next(stream) for _ in range(40))
    segments, _ = segment.split(documents([text]), cuts.Bytes.count, SegmentConfig(max_tokens=100))
    assert [one.text for one in segments] == split(text, 100)


def test_the_work_of_cutting_is_linear_over_hostile_alphabets() -> None:
    """To 1,000,000 characters: python -m tests.campaigns.growth."""
    told: list[str] = []
    assert growth.growth(growth.ALPHABETS, [1000, 10_000], cuts.Bytes, 64, told.append) <= 1.2
    assert len(told) == 2 * len(growth.ALPHABETS) >= 60


@pytest.mark.parametrize("alphabet", [".", "?!", "e\u0301", "\U0001f468\u200d", "1", "\u200b", "a.\u0f0d", "\n ", '."'])
def test_a_run_of_one_kind_is_scanned_a_few_times(alphabet: str) -> None:
    """Quadratic, each of these takes hours; no call sees more than its share."""
    seen = growth.work(growth.row(alphabet, 200_000), cuts.Bytes, 2048)
    assert seen.by_patterns <= 8 * 200_000
    assert seen.by_tokenizer <= 8 * 200_000
    assert seen.largest <= MAX_CHUNK_CHARS


def test_where_the_places_of_tokens_mislead_every_segment_still_fits() -> None:
    """A tokenizer whose tokens of a part are others than those of the whole."""

    def starts(text: str) -> Iterator[list[int]]:
        yield list(range(0, len(text), 3))

    segments, _ = segment.split(
        documents(["ab " * 300]), cuts.Bytes.count, SegmentConfig(max_tokens=64), find_token_starts=starts
    )
    assert max(len(one.text) for one in segments) <= 64
    assert "".join(map(whole, segments)) == "ab " * 300


@pytest.mark.parametrize(
    "text", ["e" + "\u0301" * 3000, "\U0001f468\u200d" * 900, "a" + "\ufe0f" * 500 + "b", "x\u200c" * 400]
)
def test_one_character_with_its_marks_is_cut_where_the_limit_asks_for_it(text: str) -> None:
    assert max(len(one.encode()) for one in split(text)) <= 64
    short = "e\u0301\u0301" * 40
    assert all(one.startswith("e") for one in split(short))  # a short one never is
    if text.startswith("e"):
        assert len(split(text, plan=1)) == 1  # a job of an earlier version keeps its cuts


def test_nothing_that_is_sent_is_invisible() -> None:
    text = "\u200b" * 500 + "seen. " + "\u2060" * 500 + " seen too."
    assert all(not segment.is_blank(one) for one in split(text))
    assert any(segment.is_blank(one) for one in split(text, plan=1))
    segments, _ = segment.split(
        documents([text]), cuts.Bytes.count, SegmentConfig(max_tokens=64), find_token_starts=None
    )
    assert [one.index for one in segments] == list(range(len(segments)))
    assert segment.join(segments, [one.text for one in segments], spaced=False).replace(" ", "") == text.replace(
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
def test_a_row_with_nothing_to_see_is_blank_but_not_to_an_earlier_plan(text: str) -> None:
    for row in (text, f" {text}\t", text * 3):
        assert segment.is_blank(row)
        assert not segment.is_blank(row, 1)
        assert not segment.is_blank(f"{row}a")
    assert segment.split(documents([text]), cuts.Bytes.count, SegmentConfig()) == ([], {})
    assert len(segment.split(documents([text]), cuts.Bytes.count, SegmentConfig(), 1)[0]) == 1


@pytest.mark.parametrize(
    "text", ["a", "\u0301", "\u0600", "\u06dd", "\ue000", "\u0378", "\U0001f600", "-", "\u093f", "\u1100"]
)
def test_what_can_be_seen_is_no_blank_row(text: str) -> None:
    assert not segment.is_blank(text)


def test_a_row_of_too_many_segments_is_too_long() -> None:
    text = "One sentence is here. " * 100
    assert len(split(text)) > 10
    config = SegmentConfig(max_tokens=64, max_segments=10)
    segments, refused = segment.split(documents([text, "short"]), cuts.Bytes.count, config)
    assert [one.document_index for one in segments] == [1]
    assert refused[0].status is Status.TOO_LONG
    assert "segment.max_segments=10" in refused[0].message
    exactly = SegmentConfig(max_tokens=64, max_segments=len(split(text)))
    assert segment.split(documents([text]), cuts.Bytes.count, exactly)[1] == {}
    with pytest.raises(ConfigError, match=r"segment\.max_segments=0"):
        SegmentConfig(max_segments=0)


def test_a_text_that_the_tokenizer_fails_on_costs_its_row_alone() -> None:
    def count(text: str) -> int:
        if "bad" in text:
            raise TextError("the tokenizer failed")
        return len(text)

    texts = ["bad " * 50, "good " * 50, "fine"]
    for mode in OnTooLong:
        segments, refused = segment.split(documents(texts), count, SegmentConfig(max_tokens=64, on_too_long=mode))
        assert refused[0].status is Status.GENERATION_ERROR
        assert "tokenizer failed" in refused[0].message
        assert {one.document_index for one in segments} == ({1, 2} if mode is OnTooLong.split else {2})


class Asked(Exception):
    """A stop request."""


@pytest.mark.parametrize(
    "text", ["." * 100_000, "a. " * 30_000, "e" + "\u0301" * 100_000, "\n" * 100_000 + "a b " * 20_000]
)
def test_a_stop_request_is_heard_within_a_row(text: str) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise Asked

    with pytest.raises(Asked):
        segment.split(
            documents([text]), cuts.Bytes.count, SegmentConfig(), find_token_starts=cuts.Bytes.starts, check_stop=step
        )
    cutter = Cutter(text, cuts.Bytes.count, 64, cuts.Bytes.starts, lambda: None)
    assert not cutter.fits()
