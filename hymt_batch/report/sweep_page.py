"""The report of a sweep: its points beside each other, and which of them no other one beats in speed and in quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from hymt_batch.records import plural
from hymt_batch.report import chart
from hymt_batch.report.chart import Dot
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Child, Markup, element
from hymt_batch.report.measure import BLANK
from hymt_batch.report.page import isolated, number, page, section, share, table, tile, tiles, utc

MAX_POINTS = 100
METRICS = {"chrf": "chrF2", "chrf++": "chrF2++", "bleu": "BLEU"}
"""Metrics that may rank points, the preferred one first; more of them is better."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep."""

    name: str  # of its folder
    data: JobData | None  # None if it was never begun

    @property
    def is_complete(self) -> bool:
        return self.data is not None and self.data.is_complete

    @property
    def rows_per_s(self) -> float | None:
        """Rows a second of the time in which it ran; None if that was not recorded."""
        if self.data is None:
            return None
        seconds = sum(interval.seconds for interval in self.data.timeline)
        return self.data.figures.texts / seconds if seconds > 0 else None

    @property
    def flags_per_100(self) -> float | None:
        """Flags per 100 rows, without those of blank rows."""
        if self.data is None or not self.data.figures.texts:
            return None
        num = sum(count for flag, count in self.data.figures.flags.items() if flag != BLANK)
        return 100 * num / self.data.figures.texts

    def score(self, metric: str) -> float | None:
        """Return the mean of a metric over the languages that were scored; None without a current score."""
        scores = self.data.scores if self.data is not None else None
        if scores is None or scores.is_stale:
            return None
        found = [
            float(language["metrics"][metric]["score"])
            for language in scores.value.get("languages", ())
            if metric in language.get("metrics", {})
        ]
        return sum(found) / len(found) if found else None


def render(name: str, points: Sequence[Point], made_by: str) -> bytes:
    """Return the report of a sweep as a page."""
    metric = next((m for m in METRICS if sum(point.score(m) is not None for point in points) > 1), None)
    complete = sum(point.is_complete for point in points)
    kind, state = ("good", "complete") if complete == len(points) else ("warn", "not complete")
    best = not_beaten(points, metric)
    sections = [_summary(points, complete), _picture(points, metric, best), _table(points, metric, best)]
    lead = f"A sweep of {plural(len(points), 'point')}, {complete:,} of them complete"
    now = datetime.now(UTC).timestamp()
    footer = f"Made by {made_by} on {utc(now)} from the files of the points. All times are in UTC."
    return page(name, lead, element(f"span.pill.{kind}", state), sections, footer)


def _summary(points: Sequence[Point], complete: int) -> Markup:
    speeds = [(point.rows_per_s, point.name) for point in points if point.rows_per_s is not None]
    fewest = [(point.flags_per_100, point.name) for point in points if point.flags_per_100 is not None]
    return element(
        "section",
        tiles(
            [
                tile("Points", number(len(points), "points"), f"{complete:,} complete"),
                _extreme("Fastest", max(speeds), "rows a second") if speeds else None,
                _extreme("Fewest flags", min(fewest), "per 100 rows") if fewest else None,
            ]
        ),
    )


def _extreme(title: str, found: tuple[float | None, str], unit: str) -> Markup:
    value, name = found
    return tile(title, number(value or 0.0, digits=2), [f"{unit}: ", isolated("span", name, max_chars=60)])


def _quality(point: Point, metric: str | None) -> float | None:
    """Return what ranks a point besides its speed; more is better."""
    if metric is not None:
        return point.score(metric)
    flags = point.flags_per_100
    return None if flags is None else -flags


def not_beaten(points: Sequence[Point], metric: str | None) -> set[str]:
    """Return the names of the complete points that no other one beats in one measure without losing in the other."""
    measured = [
        (point.name, point.rows_per_s, quality)
        for point in points
        if point.is_complete and point.rows_per_s is not None and (quality := _quality(point, metric)) is not None
    ]

    def beats(one: tuple[str, float, float], other: tuple[str, float, float]) -> bool:
        return one[1] >= other[1] and one[2] >= other[2] and one[1:] != other[1:]

    return {point[0] for point in measured if not any(beats(other, point) for other in measured)}


def _picture(points: Sequence[Point], metric: str | None, best: set[str]) -> Markup | None:
    dots = [
        Dot(index, point.name, point.rows_per_s, quality, point.name in best)
        for index, point in enumerate(points[:MAX_POINTS], 1)
        if point.is_complete and point.rows_per_s is not None and (quality := _quality(point, metric)) is not None
    ]
    if len(dots) < 2:
        return None
    name = METRICS[metric] if metric else "flags per 100 rows"
    about = (
        f"Further right is faster (without loading the model), further up is better ({name}). Filled points are those "
        "that no other point beats in one of the two without losing in the other; the numbers are those of the table."
    )
    picture = chart.scatter("Speed and quality", about, dots, "rows a second", name)
    caption = element("figcaption", "Speed and quality", element("small", about))
    return section("Speed and quality", element("figure.wide", caption, element("div.narrow", picture)))


def _table(points: Sequence[Point], metric: str | None, best: set[str]) -> Markup:
    columns = ["Point", "", "State", "Rows", "Without a translation", "Flags per 100", "Rows a second"]
    kinds = ["number", "path", "", "number", "number", "number", "number"]
    if metric is not None:
        columns, kinds = [*columns, METRICS[metric]], [*kinds, "number"]
    rows = []
    for index, point in enumerate(points[:MAX_POINTS], 1):
        row: list[Child] = [number(index), _link(point), _state(point, best)]
        if point.data is None:
            rows.append([*row, *[""] * (len(columns) - 3)])
            continue
        sums, flags, speed = point.data.figures, point.flags_per_100, point.rows_per_s
        row += [number(sums.rows, f"{point.name}.rows"), share(sums.error_rows, sums.texts)]
        row += [value if value is None else number(value, digits=2) for value in (flags, speed)]
        if metric is not None:
            score = point.score(metric)
            row.append(None if score is None else number(score, digits=2))
        rows.append(row)
    more = len(points) - MAX_POINTS
    note = element("p.note", f"and {more:,} more points") if more > 0 else None
    return section("Points", table("Points of the sweep", columns, rows, kinds), note)


def _link(point: Point) -> Markup:
    if point.data is None:
        return isolated("span", point.name)
    address = f"./{quote(point.name, safe='', errors='surrogateescape')}/report.html"
    return element("a", isolated("span", point.name), href=address)


def _state(point: Point, best: set[str]) -> str:
    if point.data is None:
        return "not started"
    if not point.is_complete:
        return "not complete"
    return "complete, not beaten" if point.name in best else "complete"
