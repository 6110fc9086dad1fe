"""Flags and statuses say what became of a row, and never drop it."""

from __future__ import annotations

import pytest
from conftest import documents

from hymt_batch import check
from hymt_batch.check import CheckConfig
from hymt_batch.records import Part, Prompt, Refusal, Row, Segment, Status, Translation


def translated(text: str, source: str = "Hello there", reason: str = "stop", document: int = 0) -> Translation:
    segment = Segment(document, 0, source)
    return Translation(Prompt(segment, f"in.txt#{document + 1}", (1, 2), 2, "fr"), text, reason, num_new_tokens=3)


def joined(segments: object, texts: object, tgt_lang: str) -> str:
    return " ".join(texts)  # type: ignore[call-overload,no-any-return]


def row_of(translation: Translation, source: str = "Hello there", *, one_line: bool = True) -> Row:
    made = check.run([translation], lambda prompts, attempt: [], CheckConfig())
    (row,) = check.rows(Part(0, 1, (0,)), documents([source]), made, {}, joined, one_line=one_line)
    return row


@pytest.mark.parametrize(
    ("translation", "status", "text", "flag"),
    [
        (translated("Bonjour"), Status.OK, "Bonjour", None),
        (translated("  "), Status.EMPTY, "", "empty"),
        (translated("Hello there"), Status.COPIED, "Hello there", "copied"),
        (translated("Bonj", reason="length"), Status.TRUNCATED, "Bonj", "truncated"),
        (translated("non non non non"), Status.OK, "non non non non", "loop"),
        (translated("a\r\n b\u2028c"), Status.OK, "a b c", "line_break"),
        (translated("", reason="error"), Status.GENERATION_ERROR, "", None),
        (translated("", reason="non_finite"), Status.NON_FINITE, "", None),
    ],
)
def test_each_kind_of_translation_has_its_status_and_flag(
    translation: Translation, status: Status, text: str, flag: str | None
) -> None:
    row = row_of(translation)
    assert (row.status, row.text, row.flags) == (status, text, (flag,) if flag else ())


def test_a_number_that_stays_the_same_is_no_copy() -> None:
    assert row_of(translated("12:30", source="12:30"), "12:30").status is Status.OK


def test_line_breaks_stay_where_the_output_can_hold_them() -> None:
    assert row_of(translated("a\nb"), one_line=False).text == "a\nb"


@pytest.mark.parametrize("text", ["Hmm, hmm, hmm, hmm.", "abcabcabc", "!!!!!!!!!!", "la la la", "x" * 9])
def test_loops_are_seen(text: str) -> None:
    assert check.has_loop(text, 3)


@pytest.mark.parametrize(
    "text", ["", "ab", "He said that that was it.", "2020 2021 2022", "a   b", "...", "wait... what"]
)
def test_ordinary_text_is_no_loop(text: str) -> None:
    assert not check.has_loop(text, 3)


def test_a_loop_of_the_source_is_not_held_against_its_translation() -> None:
    assert row_of(translated("ha ha ha ha", source="he he he he"), "he he he he").flags == ()


def test_hard_flags_are_tried_again_with_a_new_seed_and_the_first_good_try_is_kept() -> None:
    asked: list[int] = []

    def again(prompts: object, attempt: int) -> list[Translation]:
        asked.append(attempt)
        text = "" if attempt == 1 else "Bonjour"
        return [Translation(translated("").prompt, text, "stop", attempt=attempt)]

    (kept,) = check.run([translated("")], again, CheckConfig(max_attempts=4))
    assert asked == [1, 2]
    assert (kept.text, kept.attempt, kept.flags) == ("Bonjour", 2, ("retried",))


def test_rows_that_never_met_the_model_have_their_reason() -> None:
    rows = check.rows(
        Part(0, 1, (0, 1, 2)),
        documents(["   ", None, "long"]),
        [],
        {2: Refusal(Status.TOO_LONG, "too many")},
        joined,
        one_line=True,
    )
    assert [(row.status, row.text, row.flags) for row in rows] == [
        (Status.OK, "", ("blank",)),
        (Status.BAD_ENCODING, "", ()),
        (Status.TOO_LONG, "", ()),
    ]
    assert rows[2].message == "too many"


def test_equal_texts_share_one_translation() -> None:
    part = Part(0, 1, (0, 1), copies={1: 0})
    rows = check.rows(part, documents(["Hi", "Hi"]), [translated("Salut", "Hi")], {}, joined, one_line=True)
    assert [row.text for row in rows] == ["Salut", "Salut"]
    assert [row.num_new_tokens for row in rows] == [3, 0]
