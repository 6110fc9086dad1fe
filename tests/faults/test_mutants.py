"""Every seeded bug of the protocol is seen by the harness that is meant to see it; without one, none sees anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import mutants


@pytest.mark.parametrize("name", mutants.SEEN_BY)
def test_the_harness_sees_the_bug_that(tmp_path: Path, name: str) -> None:
    for seed in range(1, 10):
        if mutants.tried(name, mutants.SEEN_BY[name], tmp_path, seed, 150).kinds:
            return
    pytest.fail(f"{mutants.SEEN_BY[name]} does not see that {name}")


@pytest.mark.parametrize("harness", mutants.HARNESSES)
def test_no_harness_sees_a_bug_where_there_is_none(tmp_path: Path, harness: str) -> None:
    tally = mutants.tried(None, harness, tmp_path, 1, 100)
    assert not tally.broken
    assert tally.counts.total() > 4


def test_the_lease_protects_nothing(tmp_path: Path) -> None:
    """A lease that is never checked costs double work and no row."""
    assert not mutants.tried(mutants.HARMLESS, "take-over", tmp_path, 1, 300).broken


def test_every_seeded_bug_has_its_harness() -> None:
    assert {*mutants.SEEN_BY, mutants.HARMLESS} == set(mutants.MUTANTS)
    assert len(mutants.SEEN_BY) >= 12
