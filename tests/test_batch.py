"""The plan is a pure function of the lengths, and every row is in exactly one part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import batch, blank, prompt, segment
from hymt_batch.batch import BatchConfig, PartLimits
from hymt_batch.check import assemble
from hymt_batch.errors import ConfigError
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import PLAN_VERSION, Part, Prompt, Rejection, Segment, Status, Translation
from hymt_batch.segment import SegmentConfig
from tests.fakes.documents import documents, shard_of
from tests.fakes.model import Bytes

rows = st.lists(st.one_of(st.none(), st.text("ab \n", max_size=40)), max_size=40)


def planned(texts: list[str | None], limits: PartLimits) -> list[Part]:
    source_rows = documents(texts)
    segments, too_long = segment.split(source_rows, Bytes().count, SegmentConfig(max_tokens=16), limits.plan)
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    prompts, leaking = prompt.render(segments, source_rows, Bytes(), template, 8192, limits.plan)
    return batch.plan_parts(shard_of(source_rows), prompts, {**too_long, **leaking}, limits)


def sent_texts(text: str) -> tuple[str, ...]:
    segments, _ = segment.split(documents([text]), Bytes().count, SegmentConfig(max_tokens=16))
    return tuple(piece.text for piece in segments)


@given(rows, st.integers(1, 10), st.integers(1, 100), st.sampled_from([1, PLAN_VERSION]))
def test_every_row_is_in_exactly_one_part_and_equal_rows_are_decoded_once(
    texts: list[str | None], part_rows: int, part_tokens: int, plan: int
) -> None:
    parts = planned(texts, PartLimits(1000, 1 << 20, part_rows, part_tokens, plan))
    assert sorted(row for part in parts for row in part.document_indices) == list(range(len(texts)))
    assert [part.index for part in parts] == list(range(len(parts)))
    assert {part.num_parts for part in parts} == {len(parts)}
    decoded = [part_prompt.segment.document_index for part in parts for part_prompt in part.prompts]
    key: Callable[[str], object] = (lambda text: text) if plan == 1 else sent_texts
    expected = {key(text) for text in texts if text is not None and not blank.is_blank(text)}
    assert {key(text) for row in decoded if (text := texts[row])} == expected
    assert len(set(decoded)) == len(expected)
    for part in parts:
        assert all(key(texts[copy] or "") == key(texts[first] or "") for copy, first in part.copies.items())
        assert set(part.copy_segments) == {copy for copy, first in part.copies.items() if texts[copy] != texts[first]}
        assert set(part.copies) | set(part.copies.values()) <= set(part.document_indices)
        assert len({part_prompt.segment.document_index for part_prompt in part.prompts}) <= part_rows


def test_rows_with_equal_prompts_are_equal_and_each_keeps_its_own_white_space() -> None:
    texts = ["Hi.", " Hi.\t", "Hi.", "Hi!", "one two three four five", "one two three  four five "]
    source_rows = documents(texts)
    source_rows[2] = replace(source_rows[2], tgt_lang="fr", src_lang="en")  # the same languages as the job
    source_rows += [replace(documents(["Hi."], tgt_lang="de")[0], row_index=6)]
    segments, _ = segment.split(source_rows, Bytes().count, SegmentConfig(max_tokens=16))
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    prompts, _ = prompt.render(segments, source_rows, Bytes(), template, 8192)
    (part,) = batch.plan_parts(shard_of(source_rows), prompts, {}, PartLimits(1000, 1 << 20, 100, 10_000))
    assert part.copies == {1: 0, 2: 0, 5: 4}
    translations = [
        Translation(part_prompt, part_prompt.segment.text.upper(), "stop", num_new_tokens=3)
        for part_prompt in part.prompts
    ]
    rows = assemble.assemble_rows(part, translations, segment.join_translations)
    assert [row.text for row in rows] == [text.upper() for text in texts] + ["HI."]
    assert [row.num_new_tokens for row in rows] == [3, 0, 0, 3, 6, 0, 3]
    (part,) = batch.plan_parts(shard_of(source_rows), prompts, {}, PartLimits(1000, 1 << 20, 100, 10_000, plan=1))
    assert part.copies == {}


@pytest.mark.parametrize(("plan", "copies"), [(7, {1: 0, 2: 0, 3: 0}), (PLAN_VERSION, {3: 1})])
def test_rows_of_different_source_languages_are_decoded_each_for_itself_even_if_their_prompts_are_equal(
    plan: int, copies: dict[int, int]
) -> None:
    source_rows = documents(["Taxi", "Taxi", "Taxi", "Taxi"])
    source_rows[1:] = [
        replace(row, src_lang=code) for row, code in zip(source_rows[1:], ("de", "es", "de"), strict=True)
    ]
    segments, _ = segment.split(source_rows, Bytes().count, SegmentConfig(max_tokens=16), plan)
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    prompts, _ = prompt.render(segments, source_rows, Bytes(), template, 8192, plan)
    assert len({made.ids for made in prompts}) == 1
    (part,) = batch.plan_parts(shard_of(source_rows), prompts, {}, PartLimits(1000, 1 << 20, 100, 10_000, plan))
    assert part.copies == copies


def test_longest_row_gives_the_row_with_the_most_segments() -> None:
    (part,) = planned(["a", "one two three four five", "aaaa"], PartLimits(1000, 1 << 20, 100, 1000))
    assert batch.longest_row(part) == ("in.txt#2", 2, 4)
    assert batch.longest_row(planned([], PartLimits(1000, 1 << 20, 2, 8))[0]) == ("", 0, 0)


def test_the_longest_rows_come_first_and_rows_without_prompts_last() -> None:
    parts = planned(["a", "aaaa", "", "aaa", None, "aa"], PartLimits(1000, 1 << 20, 2, 1000))
    assert [part.document_indices for part in parts] == [(1, 3), (0, 5), (2, 4)]
    assert parts[2].prompts == ()


def test_a_part_owns_its_shard_and_the_rejections_of_its_rows_alone() -> None:
    shard, limits = shard_of(documents(["a", "b", "c"])), PartLimits(1000, 1 << 20, 1, 1000)
    rejections = {row: Rejection(Status.TOO_LONG, f"row {row}") for row in (0, 2)}
    parts = batch.plan_parts(shard, [], rejections, limits)
    assert [part.rejections for part in parts] == [{0: rejections[0]}, {}, {2: rejections[2]}]
    assert all(part.shard is shard for part in parts)


def test_rows_of_equal_length_keep_their_order() -> None:
    parts = planned(["bb", "aaa", "dd", "c", "ccc", "aa", "bb"], PartLimits(1000, 1 << 20, 100, 1000))
    assert [part_prompt.segment.document_index for part in parts for part_prompt in part.prompts] == [1, 4, 0, 2, 5, 3]


def test_a_part_ends_at_its_token_limit() -> None:
    parts = planned(["aaaa", "bbbb", "cccc"], PartLimits(1000, 1 << 20, 100, 8))
    assert [len(part.document_indices) for part in parts] == [2, 1]


def test_an_empty_shard_has_one_empty_part() -> None:
    assert [part.document_indices for part in planned([], PartLimits(1000, 1 << 20, 2, 8))] == [()]


def test_auto_part_sizes_are_larger_on_a_gpu_and_an_explicit_size_is_kept() -> None:
    small = batch.resolve_part_limits(BatchConfig(), 1_800_000_000, on_gpu=False)
    large = batch.resolve_part_limits(BatchConfig(), 1_800_000_000, on_gpu=True)
    assert small.part_tokens < large.part_tokens
    assert batch.resolve_part_limits(BatchConfig(part_rows=7), 10, on_gpu=True).part_rows == 7


def test_a_run_of_a_long_row_is_one_segment_at_its_limit_on_a_cpu_and_a_whole_part_on_a_gpu() -> None:
    on_cpu, on_gpu = (batch.resolve_part_limits(BatchConfig(), 900_000, on_gpu=on_gpu) for on_gpu in (False, True))
    assert (on_cpu.part_new_tokens, on_gpu.part_new_tokens) == (4096, on_gpu.part_tokens)
    segments = [Segment(0, index, "x") for index in range(4)]
    prompts = [Prompt(segment, "in.txt#1", (1,), 20_000, "fr") for segment in segments]
    (part,) = batch.plan_parts(shard_of(documents(["x"])), prompts, {}, on_cpu, lambda prompt: 4096)
    assert part.run_lengths == (1, 1, 1, 1)


@pytest.mark.parametrize("value", [0, -1, "many", True, 1.5])
def test_a_size_that_is_not_a_positive_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"batch\.part_rows="):
        BatchConfig(part_rows=value)
