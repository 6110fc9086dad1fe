"""Text is made safe to print."""

from __future__ import annotations

import pytest

from hymt_batch.sanitize import escape_line


@pytest.mark.fault(55, 83)
def test_text_is_shown_without_control_characters() -> None:
    assert escape_line("a\x1b[31mb\nc\u202e") == r"a\x1b[31mb\nc\u202e"
    assert escape_line("x" * 200, 10) == "x" * 9 + "…"
