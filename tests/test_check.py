"""Flags and statuses describe the result of a row and never drop it."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import segment
from hymt_batch.check import assemble, checks, loops, retry
from hymt_batch.check.settings import CheckConfig, FlagConfig, RetryConfig
from hymt_batch.demo import grammar
from hymt_batch.records import LINE_BREAKS, Attempt, Part, Prompt, Rejection, Row, Segment, Status, Translation
from tests.fakes.documents import documents, shard_of


def translated(text: str, source: str = "Hello there", reason: str = "stop", document: int = 0) -> Translation:
    segment = Segment(document, 0, source)
    return Translation(Prompt(segment, f"in.txt#{document + 1}", (1, 2), 2, "fr"), text, reason, num_new_tokens=3)


def joined(segments: object, texts: object, tgt_lang: str) -> str:
    return " ".join(texts)  # type: ignore[call-overload,no-any-return]


def row_of(translation: Translation, source: str = "Hello there", *, one_line: bool = True) -> Row:
    flagged = retry.check_and_retry([translation], lambda prompts, attempts: [], CheckConfig())
    part = Part(shard_of(documents([source])), 0, 1, (0,))
    (row,) = assemble.assemble_rows(part, flagged, joined)
    return assemble.shape_row(part.shard.documents[0], row, one_line, CheckConfig())


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
        (translated("", reason="crash"), Status.CRASH_QUARANTINED, "", None),
        (translated("", reason="non_finite"), Status.NON_FINITE, "", None),
    ],
)
def test_each_kind_of_translation_has_its_status_and_flag(
    translation: Translation, status: Status, text: str, flag: str | None
) -> None:
    row = row_of(translation)
    assert (row.status, row.text, row.flags) == (status, text, (flag,) if flag else ())


def test_a_row_that_was_stopped_in_a_loop_is_flagged() -> None:
    row = row_of(translated("non, non", reason="loop"))
    assert (row.status, row.flags) == (Status.TRUNCATED, ("truncated", "loop"))


def test_a_segment_with_a_low_log_probability_is_flagged_if_min_logprob_is_set() -> None:
    unsure, sure = (replace(translated("Bonjour"), mean_logprob=mean) for mean in (-2.0, -1.0))
    config = CheckConfig(flag=FlagConfig(min_logprob=-1.5))
    part = Part(shard_of(documents(["Hello there"])), 0, 1, (0,))

    def flags(translations: list[Translation], config: CheckConfig) -> tuple[str, ...]:
        (row,) = assemble.assemble_rows(part, checks.check_all(translations, config.retry), joined)
        assert "low_logprob" not in row.flags
        return assemble.shape_row(part.shard.documents[0], row, True, config).flags

    assert flags([unsure], config) == flags([sure, unsure], config) == ("low_logprob",)
    assert flags([sure], config) == flags([unsure], CheckConfig()) == ()
    cut = replace(unsure, text="Hello there", finish_reason="length")
    assert flags([cut], config) == ("truncated", "low_logprob", "copied")


def test_an_unchanged_number_is_not_a_copy() -> None:
    assert row_of(translated("12:30", source="12:30"), "12:30").status is Status.OK


def test_line_breaks_stay_where_the_output_can_hold_them() -> None:
    assert row_of(translated("a\nb"), one_line=False).text == "a\nb"


@pytest.mark.parametrize(
    ("source", "translation", "differ"),
    [
        ("one\ntwo\nthree", "un\ndeux\ntrois", False),
        ("one\ntwo\nthree", "un deux\ntrois", True),  # a line break was dropped
        ("one\ntwo", "un\n\ndeux", True),  # a line break was added
        ("one two", "un\ndeux", True),
        ("one\ntwo", "un deux", True),
        ("one\r\ntwo", "un\ndeux", False),  # another kind of line break
        ("one\r\n\r\ntwo", "un\ndeux", True),
        ("one\u2028two", "un\ndeux", False),
        ("one two", "un deux", False),
    ],
)
def test_line_breaks_that_were_dropped_or_added_are_flagged(source: str, translation: str, differ: bool) -> None:
    row = row_of(translated(translation, source), source, one_line=False)
    assert (row.status, row.text, row.flags) == (Status.OK, translation, ("line_breaks",) if differ else ())
    assert "line_breaks" not in row_of(translated(translation, source), source).flags, "one line: see line_break"


def test_line_breaks_around_a_text_and_between_segments_are_not_a_difference() -> None:
    source = f"\n {'first ' * 12}here.\n\n{'second ' * 12}there. \r\n"
    for max_tokens in (16, 20, 100):
        rows = documents([source])
        config = segment.SegmentConfig(max_tokens=max_tokens, on_too_long=segment.OnTooLong.split)
        segments, rejected = segment.split(rows, lambda text: len(text.split()), config)
        translations = [
            Translation(Prompt(piece, "in#1", (1,), 1, "fr"), piece.text.upper(), "stop") for piece in segments
        ]
        assert len(segments) == (2 if max_tokens < 100 else 1)
        part = Part(shard_of(rows), 0, 1, (0,), rejections=rejected)
        (row,) = assemble.assemble_rows(part, translations, segment.join_translations)
        assert assemble.shape_row(rows[0], row, False, CheckConfig()) == row
        assert (row.text, row.flags) == (source.upper(), ())


def test_a_row_without_a_translation_has_no_line_breaks_to_compare() -> None:
    for reason in ("error", "crash", "stop"):
        assert "line_breaks" not in row_of(translated("", "one\ntwo", reason), "one\ntwo", one_line=False).flags


@pytest.mark.parametrize("text", ["Hmm, hmm, hmm, hmm.", "abcabcabc", "!!!!!!!!!!", "la la la", "x" * 9])
@pytest.mark.fault(71)
def test_loops_are_detected(text: str) -> None:
    assert loops.has_loop(text, 3)


@pytest.mark.parametrize(
    "text", ["", "ab", "He said that that was it.", "2020 2021 2022", "a   b", "...", "wait... what"]
)
def test_ordinary_text_is_not_a_loop(text: str) -> None:
    assert not loops.has_loop(text, 3)


def looping(rng: random.Random, human_texts: list[str]) -> str:
    """Return a piece repeated a few times between natural texts, sometimes without its last white space or letter."""
    letters = rng.choice(["ab ", "abc", "xy \t\n", "été 日本\U0001f600", "  a", "\ud800b"])
    piece = "".join(
        rng.choice(letters) for _ in range(rng.choice([1, 2, 3, 4, 5, 7, 11, 12, 29, 30, 50, 99, 100, 101]))
    )
    loop = (piece * rng.choice([2, 3, 4, 6])).rstrip()
    start, end = (rng.choice(["", rng.choice(human_texts)[: rng.randrange(60)]]) for _ in "12")
    return start + loop[: rng.choice([None, -1])] + end


@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_the_fast_scan_misses_no_loop(repeats: int) -> None:
    rng, num_loops = random.Random(11), 0
    human = [bulletin.fr for bulletin in grammar.sample(11, 300)]
    for _ in range(20):
        texts = [looping(rng, human) if rng.random() < 0.5 else rng.choice(human) for _ in range(200)]
        looping_texts = {index for index, text in enumerate(texts) if loops.has_loop(text, repeats)}
        assert looping_texts <= loops.loop_suspects(texts, repeats)
        num_loops += len(looping_texts)
    assert num_loops > 300


def test_the_fast_scan_clears_human_texts_and_copies_of_one_text() -> None:
    human = [bulletin.fr for bulletin in grammar.sample(12, 1000)]
    assert len(loops.loop_suspects(human, 3)) < 50
    assert not loops.loop_suspects([human[0]] * 1000, 3)


def test_a_long_part_is_scanned_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_MAX_BULK_CHARS", 5000)
    texts = [f"{index} {bulletin.de}" for index, bulletin in enumerate(grammar.sample(13, 400))]
    texts[3] = texts[399] = "nein, nein, nein, nein, "
    flagged = retry.check_and_retry([translated(text) for text in texts], lambda prompts, attempts: [], CheckConfig())
    assert [index for index, translation in enumerate(flagged) if "loop" in dict(translation.measures)] == [3, 399]


def test_a_loop_that_the_source_also_has_is_not_flagged() -> None:
    assert row_of(translated("ha ha ha ha", source="he he he he"), "he he he he").flags == ()


@pytest.mark.fault(71)
def test_hard_flags_are_retried_with_a_new_seed_and_the_first_good_attempt_is_kept() -> None:
    attempts: list[int] = []

    def decode_again(prompts: object, asked: Sequence[Attempt]) -> list[Translation]:
        (attempt,) = asked
        assert attempt.sampling == "card"
        attempts.append(attempt.number)
        text = "" if attempt.number == 1 else "Bonjour"
        return [Translation(translated("").prompt, text, "stop", attempt=attempt.number)]

    config = CheckConfig(retry=RetryConfig(max_attempts=4))
    (kept,) = retry.check_and_retry([translated("")], decode_again, config)
    assert attempts == [1, 2]
    assert (kept.text, kept.attempt, kept.flags) == ("Bonjour", 2, ("retried",))


def test_rows_that_were_not_sent_to_the_model_have_their_reason() -> None:
    rejections = {2: Rejection(Status.TOO_LONG, "too many")}
    part = Part(shard_of(documents(["   ", None, "long"])), 0, 1, (0, 1, 2), rejections=rejections)
    rows = assemble.assemble_rows(part, [], joined)
    assert [(row.status, row.text, row.flags) for row in rows] == [
        (Status.OK, "", ("blank",)),
        (Status.BAD_ENCODING, "", ()),
        (Status.TOO_LONG, "", ()),
    ]
    assert rows[2].message == "too many"


def test_equal_texts_share_one_translation() -> None:
    part = Part(shard_of(documents(["Hi", "Hi"])), 0, 1, (0, 1), copies={1: 0})
    rows = assemble.assemble_rows(part, [translated("Salut", "Hi")], joined)
    assert [row.text for row in rows] == ["Salut", "Salut"]
    assert [row.num_new_tokens for row in rows] == [3, 0]


def test_a_row_of_several_segments_combines_their_flags_and_adds_their_counts() -> None:
    segments = [
        replace(translated("un"), flags=("control_token",), attempt=2),
        replace(translated("deux"), flags=("loop", "control_token")),
        replace(translated("trois"), flags=("retried",), attempt=1),
    ]
    part = Part(shard_of(documents(["one two three"])), 0, 1, (0,))
    (row,) = assemble.assemble_rows(part, segments, joined)
    assert (row.text, row.flags) == ("un deux trois", ("control_token", "loop", "retried"))
    assert (row.attempts, row.num_source_tokens, row.num_new_tokens) == (3, 6, 9)


BREAKS = re.compile(rf"\s*[{LINE_BREAKS}]+\s*")


@given(st.text(st.sampled_from("ab \t\n\r\v\x1c\x85\u2028\u3000\u200b"), max_size=12))
def test_line_breaks_with_the_white_space_around_them_become_one_space(text: str) -> None:
    assert assemble.join_lines(text) == BREAKS.sub(" ", text)


def test_lines_of_white_space_are_joined_in_linear_time() -> None:
    """A regular expression took quadratic time."""
    start = time.process_time()
    assert assemble.join_lines(" " * 1_000_000 + "a\n" + " " * 1_000_000 + "b") == " " * 1_000_000 + "a b"
    assert time.process_time() - start < 1
