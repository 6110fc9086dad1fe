"""Every seeded bug of the protocol is detected by its harness; without a seeded bug, no harness reports one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import mutants


@pytest.mark.parametrize("name", mutants.SEEN_BY)
def test_a_seeded_bug_is_detected_by_its_harness(tmp_path: Path, name: str) -> None:
    for seed in range(1, 10):
        if mutants.run_harness(name, mutants.SEEN_BY[name], tmp_path, seed, 150).kinds:
            return
    pytest.fail(f"harness {mutants.SEEN_BY[name]} does not detect this bug: {name}")


@pytest.mark.parametrize("harness", mutants.HARNESSES)
def test_no_harness_reports_a_bug_when_none_is_seeded(tmp_path: Path, harness: str) -> None:
    tally = mutants.run_harness(None, harness, tmp_path, 1, 100)
    assert not tally.broken
    assert tally.counts.total() > 4


def test_no_output_depends_on_the_lease(tmp_path: Path) -> None:
    """A lease that is never checked costs repeated work, but no row."""
    assert not mutants.run_harness(mutants.HARMLESS, "take-over", tmp_path, 1, 300).broken


def test_every_seeded_bug_has_its_harness() -> None:
    assert {*mutants.SEEN_BY, mutants.HARMLESS} == set(mutants.MUTANTS)
    assert len(mutants.SEEN_BY) >= 12
