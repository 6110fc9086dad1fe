"""The plan is a pure function of the lengths; every row stands in exactly one part."""

from __future__ import annotations

import pytest
from conftest import Bytes, documents
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import batch, prompt, segment
from hymt_batch.batch import BatchConfig, Boundaries, Budget
from hymt_batch.errors import ConfigError
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import Part
from hymt_batch.segment import SegmentConfig

rows = st.lists(st.one_of(st.none(), st.text("ab \n", max_size=40)), max_size=40)


def planned(texts: list[str | None], limits: Boundaries) -> list[Part]:
    made = documents(texts)
    segments, _ = segment.split(made, Bytes().count, SegmentConfig(max_tokens=16))
    words = prompt.wording(PromptConfig(), "hy_mt1_5", None, "fr")
    prompts, _ = prompt.render(segments, made, Bytes(), words, 8192)
    return batch.plan(made, prompts, limits)


@given(rows, st.integers(1, 10), st.integers(1, 100))
def test_every_row_is_in_exactly_one_part_and_equal_texts_are_decoded_once(
    texts: list[str | None], part_rows: int, part_tokens: int
) -> None:
    parts = planned(texts, Boundaries(1000, 1 << 20, part_rows, part_tokens))
    assert sorted(row for part in parts for row in part.documents) == list(range(len(texts)))
    assert [part.index for part in parts] == list(range(len(parts)))
    assert {part.num_parts for part in parts} == {len(parts)}
    decoded = [one.segment.document for part in parts for one in part.prompts]
    wanted = {text for text in texts if text is not None and not segment.is_blank(text)}
    assert {texts[row] for row in decoded} == wanted
    assert len(set(decoded)) == len(wanted)
    for part in parts:
        assert {texts[twin] == texts[first] for twin, first in part.copies.items()} <= {True}
        assert set(part.copies) | set(part.copies.values()) <= set(part.documents)
        assert len({one.segment.document for one in part.prompts}) <= part_rows


def test_the_longest_rows_come_first_and_rows_without_prompts_last() -> None:
    parts = planned(["a", "aaaa", "", "aaa", None, "aa"], Boundaries(1000, 1 << 20, 2, 1000))
    assert [part.documents for part in parts] == [(1, 3), (0, 5), (2, 4)]
    assert parts[2].prompts == ()


def test_rows_of_one_length_keep_their_order() -> None:
    parts = planned(["bb", "aaa", "dd", "c", "ccc", "aa", "bb"], Boundaries(1000, 1 << 20, 100, 1000))
    assert [one.segment.document for part in parts for one in part.prompts] == [1, 4, 0, 2, 5, 3]


def test_a_part_ends_at_its_tokens() -> None:
    parts = planned(["aaaa", "bbbb", "cccc"], Boundaries(1000, 1 << 20, 100, 8))
    assert [len(part.documents) for part in parts] == [2, 1]


def test_an_empty_shard_has_one_empty_part() -> None:
    assert [part.documents for part in planned([], Boundaries(1000, 1 << 20, 2, 8))] == [()]


def test_a_batch_never_exceeds_its_budget_unless_a_row_does_alone() -> None:
    widths = [5, 100, 30, 30, 7, 6]
    groups = list(batch.group(widths, Budget(max_tokens=60, max_rows=3)))
    assert groups == [[1], [2, 3], [4, 5, 0]]


def test_auto_part_sizes_are_larger_on_a_gpu_and_a_set_size_stands() -> None:
    small = batch.boundaries(BatchConfig(), 1_800_000_000, on_gpu=False)
    large = batch.boundaries(BatchConfig(), 1_800_000_000, on_gpu=True)
    assert small.part_tokens < large.part_tokens
    assert batch.boundaries(BatchConfig(part_rows=7), 10, on_gpu=True).part_rows == 7


@pytest.mark.parametrize("value", [0, -1, "many", True, 1.5])
def test_a_size_that_is_no_positive_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"batch\.part_rows="):
        BatchConfig(part_rows=value)
