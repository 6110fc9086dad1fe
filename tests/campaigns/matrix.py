"""Write the matrix of faults in RELIABILITY.md from the marks `@pytest.mark.fault(N)` of the tests.

Runs the marked tests, and writes the matrix if each fault has a test that passed, or a documented reason. With --check,
no test runs: the matrix must be the one that the current marks give. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns.fault_list import DOCUMENTED, FAULTS, GROUPS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "RELIABILITY.md"
BEGIN, END = "<!-- matrix: written by `make matrix` -->", "<!-- end of the matrix -->"
MOST_NAMED = 3


class Collector:
    """A pytest plugin that collects the marks of the tests, and their outcomes."""

    def __init__(self) -> None:
        self.tests: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # fault -> test -> outcomes
        self.marks: dict[str, list[int]] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = sorted({number for mark in item.iter_markers("fault") for number in mark.args})
            self.marks[item.nodeid] = numbers
            for number in numbers:
                self.tests[number][self.name(item.nodeid)] |= set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for number in self.marks.get(report.nodeid, ()):
                self.tests[number][self.name(report.nodeid)].add(report.outcome)
            if report.outcome == "failed":
                self.failed.append(report.nodeid)

    @staticmethod
    def name(nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        return f"{Path(path).name}::{test.partition('[')[0]}"


def collected(*, run: bool) -> Collector:
    collector = Collector()
    arguments = ["-q", "--no-header", "-m", "fault", "-p", "no:cacheprovider", str(ROOT / "tests")]
    code = pytest.main(arguments if run else [*arguments, "--collect-only", "-qq"], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {code}")
    return collector


def matrix(collector: Collector) -> list[str]:
    """Return the lines of the summary and of the Markdown table, which has one row for each fault."""
    lines = ["| # | fault | must hold | status | tests |", "|---|---|---|---|---|"]
    for number, (fault, expected) in FAULTS.items():
        if number in GROUPS:
            lines.append(f"| | **{GROUPS[number]}** | | | |")
        names = sorted(collector.tests.get(number, {}))
        cell = "<br>".join(f"`{name}`" for name in names[:MOST_NAMED]) or DOCUMENTED.get(number, "")
        cell += f"<br>and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        status = "tested" if names else "documented" if number in DOCUMENTED else "open"
        lines.append(f"| {number} | {fault} | {expected} | {status} | {cell} |")
    counts = {kind: sum(f"| {kind} |" in line for line in lines) for kind in ("tested", "documented", "open")}
    summary = f"{counts['tested']} of {len(FAULTS)} faults are provoked by tests, {counts['documented']} are documented"
    return [f"{summary}, {counts['open']} are open.", "", *lines]


def unproved(collector: Collector) -> list[str]:
    """Return the faults without proof: a test failed, all tests were skipped, or there is neither test nor reason."""
    problems = []
    for number in FAULTS:
        outcomes = set[str]().union(*collector.tests.get(number, {}).values())
        if "failed" in outcomes:
            problems.append(f"fault {number}: a test fails")
        elif collector.tests.get(number) and "passed" not in outcomes and number not in DOCUMENTED:
            problems.append(f"fault {number}: all its tests are skipped on this machine")
        elif not collector.tests.get(number) and number not in DOCUMENTED:
            problems.append(f"fault {number}: no test and no reason")
    return problems


def put(text: str, lines: list[str]) -> str:
    """Return the page with these lines between its two markers."""
    before, begin, remainder = text.partition(BEGIN)
    _, end, after = remainder.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE.name} lacks the two markers of the matrix")
    return "\n".join([before + begin, "", *lines, "", end + after])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="run no test; exit 1 if RELIABILITY.md is out of date")
    arguments = parser.parse_args()
    collector = collected(run=not arguments.check)
    lines = matrix(collector)
    page = PAGE.read_text(encoding="utf-8")
    figures: dict[str, Any] = {"summary": lines[0], "problems": [] if arguments.check else unproved(collector)}
    unknown = sorted(set(collector.tests) - set(FAULTS))
    figures["problems"] += [f"fault {number} is not in fault_list.py" for number in unknown]
    if arguments.check:
        figures["up_to_date"] = put(page, lines) == page
    elif not figures["problems"]:
        PAGE.write_text(put(page, lines), encoding="utf-8")
    for problem in [*figures["problems"], *collector.failed]:
        print(problem)
    print("\n" + json.dumps(figures))
    return 0 if not figures["problems"] and figures.get("up_to_date", True) else 1


if __name__ == "__main__":
    sys.exit(main())
