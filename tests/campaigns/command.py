"""The command line that campaigns share: a seed, a size, a folder to work in; ends with one JSON line."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[int, int, Path], dict[str, Any]]
"""(seed, size, a folder to work in) -> figures, with "passed" and "failures"."""

SEED = 20261124


def main(
    about: str | None,
    run: Run,
    size: int,
    unit: str,
    others: Mapping[str, tuple[Run, str]] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one campaign.

    Args:
        about: What it is.
        run: The campaign.
        size: Default size.
        unit: What the size counts.
        others: Flag -> another campaign that it takes instead, and what that is.
        arguments: The command line; None takes the process's own.

    Returns:
        The exit code: 0 if the campaign passed.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, default=size, help=f"{unit} (default: {size:,})")
    parser.add_argument("--work", type=Path, help="an existing folder in which it may make its own")
    for flag, (other, what) in (others or {}).items():
        parser.add_argument(f"--{flag}", action="store_const", const=other, dest="run", help=what)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        figures = (options.run if others and options.run else run)(options.seed, options.size, Path(folder))
    for failure in figures.get("failures", ()):
        print(failure)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1
