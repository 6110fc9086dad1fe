"""A sweep of the demo model over dtype, decoding and slots: speed, scores, and the picture of its report.

Translates held-out bulletins, whose right translations are known, at 12 points with one thread, evaluates them and
writes the report of the sweep. With --svg, it takes the picture out of that report, for docs/evaluation.md; the colours
follow the light or dark mode of the reader. Prints the table of the points. The speeds are those of this machine at
this time. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hymt_batch.evaluate import comparison
from hymt_batch.fs import OS_FS
from hymt_batch.report import job_data, sweep_page
from hymt_batch.report.style import STYLE
from hymt_batch.report.sweep_page import Point
from hymt_batch.write import sweep_points

SWEPT = ("model.dtype=float32,bfloat16", "decode=greedy,recommended", "batch.max_rows=4,16,64")
HOT = ("model.sampling.temperature=2", "model.sampling.top_p=1", "model.sampling.top_k=0")
"""Sampling that makes mistakes: with the settings of the card, all points are nearly equal."""

FIXED = (*HOT, "launch.num_threads=1", "launch.progress=off")
KEYS = ("model.dtype", "decode.method", "environment.max_rows")


def run_sweep(folder: Path, num_rows: int, seed: int) -> Path:
    """Translate and score all points, and return the folder of the sweep."""
    sample = ["--seed", str(seed), "--num", str(num_rows), "--tgt-lang", "de", "--out", str(folder / "sample")]
    program = [sys.executable, "-m", "hymt_batch.jobs"]
    job = ["name=sweep", f"output_dir={folder}"]
    words = [f"source.path={folder / 'sample' / 'src.txt'}", "src_lang=en", "tgt_lang=de", "model=demo"]
    for command in (
        [sys.executable, "-m", "hymt_batch.demo", "sample", *sample],
        [*program, "translate", "-m", *job, *words, *SWEPT, *FIXED],
        [*program, "evaluate", *job, f"references={folder / 'sample' / 'ref.txt'}"],
        [*program, "report", *job],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder / "sweep"


def read_points(folder: Path) -> list[tuple[Point, dict[str, Any]]]:
    """Return the points of a sweep in the order of its report, with the settings that they differ in."""
    folders = sweep_points.find(OS_FS, folder)
    settings = {point.name: point.settings for point in comparison.compare({path.name: path for path in folders})}
    return [(Point(path.name, job_data.gather(OS_FS.within(path), path)), settings[path.name]) for path in folders]


def table(points: list[tuple[Point, dict[str, Any]]], best: set[str]) -> str:
    """Return the points as a table of Markdown."""
    lines = ["| | dtype | decoding | slots | rows a second | chrF2 | |", "|---|---|---|---|---|---|---|"]
    for index, (point, settings) in enumerate(points, 1):
        speed, score = point.rows_per_s or 0.0, point.score("chrf") or 0.0
        mark = "not beaten" if point.name in best else ""
        values = " | ".join(str(settings[key]) for key in KEYS)
        lines.append(f"| {index} | {values} | {speed:.1f} | {score:.2f} | {mark} |")
    return "\n".join(lines)


def machine_of(point: Point) -> dict[str, Any]:
    """Return where a point ran."""
    environment = point.data.figures.environments[0] if point.data is not None else {}
    return {"device": environment.get("device"), "cores": os.cpu_count(), "torch": environment.get("torch")}


def picture(page: str) -> str:
    """Return the picture of a sweep's report as a file of its own, with the colours of the report."""
    found = re.search(r"<svg[^>]*aria-label=\"Speed and quality.*?</svg>", page, re.DOTALL)
    if found is None:
        raise SystemExit("the report has no picture")
    colours = STYLE[: STYLE.index("* { box-sizing")]
    marks = "\n".join(line for line in STYLE.splitlines() if line.startswith("svg "))
    background = "svg { background: var(--card); }"
    head, _, body = found[0].partition(">")
    return f"{head}><style>{colours}{background}\n{marks}</style>{body}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=300, help="rows")
    parser.add_argument("--seed", type=int, default=11, help="of the bulletins")
    parser.add_argument("--svg", type=Path, help="file for the picture")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = run_sweep(Path(folder), arguments.size, arguments.seed)
        points = read_points(sweep)
        if arguments.svg is not None:
            arguments.svg.write_text(picture((sweep / "report.html").read_text(encoding="utf-8")), encoding="utf-8")
    best = sweep_page.not_beaten([point for point, _ in points], "chrf")
    print(table(points, best))
    passed = len(points) == 12 and all(point.is_complete and point.score("chrf") is not None for point, _ in points)
    about = {"campaign": "demo_sweep", "rows": arguments.size, "seed": arguments.seed, "points": len(points)}
    print(json.dumps({**about, **machine_of(points[0][0]), "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
