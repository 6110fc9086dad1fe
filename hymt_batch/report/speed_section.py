"""The section of a report about time and lengths: rows and tokens over time, and how long translations are."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from hymt_batch import languages
from hymt_batch.records import plural
from hymt_batch.report import chart
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Child, Markup, element
from hymt_batch.report.page import number, section, table
from hymt_batch.write import timeline
from hymt_batch.write.timeline import Interval

MAX_RATIO = 8.0
NUM_BINS = 48
MAX_LANGUAGES = 12


def render(data: JobData) -> Markup | None:
    figures = [*_speed_charts(data.timeline), *_length_charts(data)]
    if not figures:
        return None
    note = None
    if data.measured.num_rows and data.measured.num_rows < data.figures.texts:
        note = element(
            "p.note",
            f"Lengths and examples are those of {data.measured.num_rows:,} rows, spread over the whole job.",
        )
    return section("Speed and lengths", element("div.charts", *figures), note, _lengths_table(data))


def _speed_charts(intervals: Sequence[Interval]) -> Iterator[Markup]:
    """Yield rows and tokens over the time in which the job ran; pauses between runs are lines."""
    if not intervals or sum(interval.seconds for interval in intervals) <= 0:
        return
    ends, at = [], 0.0
    for interval in intervals:
        at += interval.seconds
        ends.append(at)
    paused = timeline.pauses(intervals)
    breaks = [ends[index - 1] for index in paused]
    rows, done = [], 0
    for interval, end in zip(intervals, ends, strict=True):
        done += interval.rows
        if interval.rows:  # between two commits the line is straight
            rows.append((end, float(done)))
    again = ""
    if breaks:
        again = f" {'The dashed line marks' if len(breaks) == 1 else 'Dashed lines mark'} where the job was continued."
    about = f"{plural(done, 'row')} in {chart.duration(ends[-1])} of work.{again}"
    if rows:
        picture = chart.curve("Rows over time", about, _thin(rows), breaks[: chart.MAX_MARKS])
        yield _figure("Rows over time", about, picture)
    merged = _merge(intervals, chart.MAX_MARKS // 2)
    rates, begin = [], 0.0
    for interval in merged:
        rates.append((begin, begin + interval.seconds, interval.new_tokens / max(interval.seconds, 1e-9)))
        begin += interval.seconds
    if any(rate for *_, rate in rates):
        mean = sum(interval.new_tokens for interval in intervals) / ends[-1]
        about = f"{mean:,.1f} new tokens a second on average."
        yield _figure(
            "New tokens per second",
            about,
            chart.steps("New tokens per second", about, rates, breaks[: chart.MAX_MARKS]),
        )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // chart.MAX_MARKS)
    return [*points[: len(points) - 1 : step], points[-1]]


def _merge(intervals: Sequence[Interval], max_num: int) -> list[Interval]:
    """Return at most `max_num` intervals with the same sums."""
    step = -(-len(intervals) // max_num)
    merged = []
    for first in range(0, len(intervals), step):
        group = intervals[first : first + step]
        seconds, tokens = sum(i.seconds for i in group), sum(i.new_tokens for i in group)
        merged.append(Interval(group[-1].end, seconds, sum(i.rows for i in group), tokens))
    return merged


def _length_charts(data: JobData) -> Iterator[Markup]:
    ratios = [ratio for values in data.measured.ratios.values() for ratio in values]
    if len(ratios) < 2:
        return
    edges = [MAX_RATIO ** (2 * index / NUM_BINS - 1) for index in range(NUM_BINS + 1)]
    counts = [0] * NUM_BINS
    for ratio in ratios:
        counts[_bin_of(ratio, edges)] += 1
    low, middle, high = quantiles(ratios)
    about = f"Median {middle:.2f}; nine of ten rows between {low:.2f} and {high:.2f}."
    name = "Length of a translation / its source, in characters"
    used = [index for index, num in enumerate(counts) if num]
    first, last = min(used[0], NUM_BINS // 3), max(used[-1] + 1, 2 * NUM_BINS // 3)
    ticks = [tick for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8) if edges[first] * 0.99 <= tick <= edges[last] * 1.01]
    picture = chart.histogram(name, about, edges[first : last + 1], counts[first:last], ticks, middle)
    yield _figure("Length ratio", f"Characters of a translation for one of its source. {about}", picture)


def _bin_of(ratio: float, edges: Sequence[float]) -> int:
    return min(len(edges) - 2, max(0, bisect_right(edges, ratio) - 1))


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 5th, 50th and 95th percentile."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.05 * last)], statistics.median(ordered), ordered[round(0.95 * last)]


def _lengths_table(data: JobData) -> Markup | None:
    if len(data.measured.ratios) < 2:
        return None
    rows: list[list[Child]] = []
    for language, ratios in sorted(data.measured.ratios.items(), key=lambda item: -len(item[1]))[:MAX_LANGUAGES]:
        low, middle, high = quantiles(ratios)
        code = language or data.languages[1] or ""
        name = languages.LANGUAGES[code].english if code in languages.LANGUAGES else code
        rows.append([name, number(len(ratios)), f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}"])
    columns = ("Target language", "Rows", "5 %", "Median", "95 %")
    return table("Length ratio by target language", columns, rows, ("", *["number"] * 4))


def _figure(title: str, about: str, picture: Markup) -> Markup:
    return element("figure", element("figcaption", title, element("small", about)), picture)
