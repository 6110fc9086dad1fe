"""Bugs of the protocol, seeded one after the other, against every harness: which harness sees which bug.

The figure: how many of the seeded bugs were seen (all must be), and none where there is none. Prints a Markdown table
and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--size", type=int, default=400, help="states for each pair, about")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(arguments.seed, arguments.size, arguments.work or Path(folder))
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
