"""Splitting loses no character and keeps the limit; joining follows the spacing of the target language."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import blank, segment
from hymt_batch.errors import ConfigError
from hymt_batch.records import LINE_BREAKS, Segment, Status, has_line_break
from hymt_batch.segment import OnTooLong, SegmentConfig
from tests.fakes.documents import documents, whole
from tests.fakes.model import Bytes

texts = st.text(st.sampled_from("ab .。!?\n\t,，ñ́é漢字🙂\u200d\u3000"), min_size=1, max_size=200)


@given(texts, st.integers(16, 64))
def test_join_of_split_is_the_document_and_no_segment_is_over_the_limit(text: str, limit: int) -> None:
    segments, rejections = segment.split(documents([text]), Bytes().count, SegmentConfig(max_tokens=limit))
    assert not rejections
    if blank.is_blank(text):
        assert segments == []
        return
    assert "".join(map(whole, segments)) == text
    assert segment.join(segments, [piece.text for piece in segments]) == text
    assert all(piece.text for piece in segments)
    assert all(len(piece.text.encode()) <= limit or len(piece.text) <= 6 for piece in segments)


def test_a_document_that_fits_is_one_segment_with_its_white_space_kept_separately() -> None:
    segments, _ = segment.split(documents(["  One. Two.\t"]), Bytes().count, SegmentConfig())
    assert segments == [Segment(0, 0, "One. Two.", "  ", "\t")]


def test_codes_are_cut_only_if_one_does_not_fit_by_itself_except_in_earlier_plans() -> None:
    tag, formula = '<a href="one two three">', "#formula with words#"
    text = f"words {tag}here and {formula} there{{x and y}} 漢字漢字漢字漢字漢字{tag}漢字漢字" * 5
    document = replace(documents([text])[0], keeps_codes=True, codes=((formula, ""),))

    def pieces(plan_version: int, limit: int) -> list[str]:
        config = SegmentConfig(max_tokens=limit)
        segments, _ = segment.split([document], Bytes().count, config, plan_version)
        assert "".join(map(whole, segments)) == text
        assert all(len(piece.text.encode()) <= limit for piece in segments)
        return [piece.text for piece in segments]

    for limit in (24, 30, 41):
        whole_codes = sum(piece.count(tag) + piece.count(formula) for piece in pieces(7, limit))
        assert whole_codes == text.count(tag) + text.count(formula)
    assert sum(piece.count(tag) + piece.count(formula) for piece in pieces(6, 30)) < 15
    assert not any(tag in piece for piece in pieces(7, 23))  # no segment is over the limit


def test_cuts_fall_on_paragraphs_then_sentences() -> None:
    text = "First one. Second one.\n\nThird one is here. Fourth."
    segments, _ = segment.split(documents([text]), Bytes().count, SegmentConfig(max_tokens=30))
    assert [piece.text for piece in segments] == ["First one. Second one.", "Third one is here. Fourth."]
    segments, _ = segment.split(documents([text]), Bytes().count, SegmentConfig(max_tokens=18))
    assert [piece.text for piece in segments] == ["First one.", "Second one.", "Third one is here.", "Fourth."]


def test_a_long_document_is_an_error_row_with_on_too_long_error() -> None:
    config = SegmentConfig(max_tokens=16, on_too_long=OnTooLong.error)
    segments, rejections = segment.split(documents(["short", "much longer than sixteen"]), Bytes().count, config)
    assert [piece.document_index for piece in segments] == [0]
    assert rejections[1].status is Status.TOO_LONG
    assert "24 tokens" in rejections[1].message


def test_blank_rows_and_error_rows_give_no_segment() -> None:
    assert segment.split(documents(["", " \t", None, "\u3000"]), Bytes().count, SegmentConfig()) == ([], {})


def test_joins_follow_the_spacing_of_the_target_language() -> None:
    spaced = [Segment(0, 0, "一。"), Segment(0, 1, "二。")]
    assert segment.join(spaced, ["One.", "Two."], spaced=True) == "One. Two."
    unspaced = [Segment(0, 0, "One.", "", " "), Segment(0, 1, "Two.")]
    assert segment.join(unspaced, ["一。", "二。"], spaced=False) == "一。二。"
    lines = [Segment(0, 0, "One.", "", "\n"), Segment(0, 1, "Two.")]
    assert segment.join(lines, ["一。", "二。"], spaced=False) == "一。\n二。"


def test_a_limit_too_small_for_a_sentence_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"segment\.max_tokens=3"):
        SegmentConfig(max_tokens=3)


def test_line_breaks_are_those_of_splitlines() -> None:
    known = re.compile(f"[{LINE_BREAKS}]")
    for code in range(0x10000):
        character = chr(code)
        for text in (character, f"a{character}b", f"a{character}"):
            assert has_line_break(text) == bool(known.search(text)), hex(code)
    assert not has_line_break("")
