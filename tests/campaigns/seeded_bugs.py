"""Seed bugs into the commit protocol, one at a time, and run every harness: which harness detects which bug?

Passes if every seeded bug is detected by some harness, and no harness reports a bug when none is seeded. Prints a
Markdown table and ends with one JSON line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.campaigns import command
from tests.faults import mutants


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Explore about `size` states for each pair of bug and harness."""
    work.mkdir(parents=True, exist_ok=True)
    lines, figures = mutants.table(work, seed, size)
    print("\n".join(lines))
    detected = [name for name in mutants.SEEN_BY if any(figures[name].values())]
    failures = [f"detected by no harness: {name}" for name in mutants.SEEN_BY if name not in detected]
    failures += [
        f"{harness} reports a bug for: {name}"
        for name in ("none", mutants.HARMLESS)
        for harness in harnesses_that_detect(figures[name])
    ]
    return {
        "passed": not failures,
        "failures": failures,
        "bugs": len(mutants.SEEN_BY),
        "seen": len(detected),
        "violations": {f"{name} | {harness}": count for name, row in figures.items() for harness, count in row.items()},
    }


def harnesses_that_detect(row: dict[str, int]) -> list[str]:
    return [name for name, count in row.items() if count]


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 400, "approximate number of states for each pair of bug and harness"))
