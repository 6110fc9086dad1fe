"""The check that a change of names and wording changed no code: it accepts both, and detects everything else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.campaigns import sentences
from tests.campaigns.same_code import Comparison

OLD = """
def total(one, other):
    \"\"\"The sum.\"\"\"
    if one < 0:
        raise ValueError(f"{one} is no count of rows, beside {other}")
    return one + other
"""


def compared(old: str, new: str) -> Comparison:
    comparison = Comparison("file.py")
    comparison.nodes(ast.parse(old), ast.parse(new))
    return comparison


def test_names_docstrings_and_wording_may_change() -> None:
    new = OLD.replace("one", "first").replace("other", "second").replace("The sum.", "Add two counts.")
    comparison = compared(OLD, new.replace("is no count of rows, beside", "is not a count of rows; the other is"))
    assert comparison.errors == []
    assert comparison.names[("one", "first")] == 4
    assert len(comparison.texts) == 1


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("one + other", "one - other", "Add became Sub"),
        ("one < 0", "one < 1", "0 became 1"),
        ("return one + other", "return other + other", "became one name"),
        ("(one, other)", "(one, other, third)", "2 became 3"),
        (", beside {other}", "", "other values in a text"),
        ("        raise", "        print()\n        raise", "1 became 2"),
        ("return one + other", "return [one + other]", "BinOp became List"),
    ],
)
def test_any_other_change_is_detected(old: str, new: str, error: str) -> None:
    assert OLD.count(old) == 1
    assert any(error in line for line in compared(OLD, OLD.replace(old, new)).errors)


def test_sentences_are_drawn_from_comments_docstrings_and_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "ROOT", tmp_path)
    file = tmp_path / "file.py"
    comment = "# the first row is the widest,\n# so its width is the width of the batch\n"
    file.write_text(f"{OLD}\n{comment}x = 'noqa'  # noqa: E501\n", encoding="utf-8")
    assert [text for _, text in sentences.sentences(file)] == [
        "the first row is the widest, so its width is the width of the batch",
        "{} is no count of rows, beside {}",
    ]
