"""The command line that campaigns share: a seed, a size and a work folder. The last line of output is JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[int, int, Path], dict[str, Any]]
"""Takes the seed, the size and a work folder; returns the figures, among them "passed" and "failures"."""

SEED = 20261124


def main(
    about: str | None,
    run: Run,
    size: int,
    unit: str,
    others: Mapping[str, tuple[Run, str]] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one campaign and print its failures and figures.

    Args:
        about: The description that --help shows.
        run: The campaign.
        size: Default size.
        unit: What the size counts.
        others: Maps a flag to the campaign that runs instead, and to the help text of the flag.
        arguments: Command-line arguments; None for those of this process.

    Returns:
        The exit code: 0 if the campaign passed, else 1.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, default=size, help=f"{unit} (default: {size:,})")
    parser.add_argument("--work", type=Path, help="an existing folder in which to create the work folder")
    for flag, (campaign, description) in (others or {}).items():
        parser.add_argument(f"--{flag}", action="store_const", const=campaign, dest="run", help=description)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        figures = (options.run if others and options.run else run)(options.seed, options.size, Path(folder))
    for failure in figures.get("failures", ()):
        print(failure)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1
