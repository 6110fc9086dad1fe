"""The report of a large job: its size, its elements, what a browser says to it, and whether its figures are right.

The job is the real one with the stub model; one row in a thousand has no translation, others loop or are cut off, and
some rows would do harm as markup. Each figure must be that of the manifest. The page is opened in headless Chromium in
frames of 1,280 and 390 px, light and dark; without Chromium, that part is left out. Ends with one JSON line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hymt_batch.decode.request import Completion, Request
from tests import test_report, test_report_chromium
from tests.campaigns import command
from tests.fakes import engine
from tests.fakes import job as fake_job

MAX_BYTES, MAX_ELEMENTS = 3_000_000, 5_000
HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> \u202eevil\u202c"


def write_rows(path: Path, num_rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for index in range(num_rows):
            kind = {7: "EMPTY ", 11: "LOOP ", 13: "LONG ", 17: f"{HOSTILE} "}.get(index % 1000, "")
            file.write(f"{kind}row {index} of the text, which {'goes on and ' * (index % 13)}ends\n")


def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Upper-case each text, unless it says what shall go wrong."""
    completions = []
    for done in engine.upper(requests, check_stop):
        text = bytes(done.ids)
        if text.startswith(b"EMPTY"):
            done = Completion([], "stop")
        elif text.startswith(b"LOOP"):
            done = Completion(list(text[:20] + b" and again and again" * 8), "loop")
        elif text.startswith(b"LONG"):
            done = Completion(done.ids, "length")
        completions.append(done)
    return completions


def run(seed: int, size: int, folder: Path) -> dict[str, Any]:
    write_rows(folder / "rows.txt", size)
    words = [f"source.path={folder / 'rows.txt'}", f"output_dir={folder / 'out'}", "name=large", "tgt_lang=fr"]
    others = ["model=demo", "launch.progress=off", "launch.report=true", "check.max_error_rate=1"]
    started = time.process_time()
    code = fake_job.run([*words, *others], decode)
    job_s = time.process_time() - started
    output = folder / "out" / "large"
    failures = [] if code == 0 else [f"the job ended with {code}"]
    page = test_report.assert_same_figures(output)  # an AssertionError names the figure
    largest = {"bytes": page.num_bytes, "elements": page.num_nodes}
    if page.num_bytes >= MAX_BYTES or page.num_nodes >= MAX_ELEMENTS:
        failures.append(f"the page is too large: {largest}")
    browser: dict[str, Any] = {"chromium": test_report_chromium.CHROMIUM is not None}
    if browser["chromium"]:
        found = look(output / "report.html", folder)
        failures += found.pop("failures")
        browser |= found
    return {
        "campaign": "report_size",
        "rows": size,
        "figures": len(test_report.expected_figures(test_report.manifest_of(output))),
        **largest,
        **browser,
        "job_cpu_s": round(job_s, 1),
        "failures": failures,
        "passed": not failures,
    }


def look(path: Path, folder: Path) -> dict[str, Any]:
    """Open a report in light and in dark, and return what the browser found."""
    failures, shown_elements, messages = [], 0, 0
    for mode, options in (("light", []), ("dark", [test_report_chromium.DARK])):
        frames, console = test_report_chromium.look_at(path.read_bytes(), folder, *options)
        messages += len(console)
        failures += [f"{mode}: {line}" for line in console]
        for frame in frames:
            shown_elements = max(shown_elements, frame["elements"])
            if frame["scrolls"] > frame["width"]:
                failures.append(f"{mode}: wider than a screen of {frame['width']} px")
            if frame["elements"] >= MAX_ELEMENTS or frame["scripts"] or frame["handlers"] or frame["faint"]:
                failures.append(f"{mode}: {frame}")
    return {"elements_in_browser": shown_elements, "console_messages": messages, "failures": failures}


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 100_000, "rows"))
