"""Bugs of the protocol, seeded one after the other, against every harness: which harness sees which bug.

The figure: how many of the seeded bugs were seen (all must be), and none where there is none. Prints a Markdown table
and ends with one JSON line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.campaigns import command
from tests.faults import mutants


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """About `size` states for each pair of bug and harness."""
    work.mkdir(parents=True, exist_ok=True)
    lines, figures = mutants.table(work, seed, size)
    print("\n".join(lines))
    seen = [name for name in mutants.SEEN_BY if any(figures[name].values())]
    failures = [f"seen by no harness: {name}" for name in mutants.SEEN_BY if name not in seen]
    failures += [f"{one} sees a bug in: {name}" for name in ("none", mutants.HARMLESS) for one in sees(figures[name])]
    return {
        "passed": not failures,
        "failures": failures,
        "bugs": len(mutants.SEEN_BY),
        "seen": len(seen),
        "violations": {f"{name} | {one}": count for name, row in figures.items() for one, count in row.items()},
    }


def sees(row: dict[str, int]) -> list[str]:
    return [name for name, count in row.items() if count]


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 400, "states for each pair, about"))
