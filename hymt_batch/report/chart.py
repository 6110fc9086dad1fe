"""Charts as inline SVG: few marks, colours from the style sheet, and a title and a description of each.

Independent of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hymt_batch.report.markup import Markup, element, shorten

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 30
MAX_MARKS = 120

Format = Callable[[float], str]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions, and has its ticks."""

    low: float
    high: float
    start: float  # position of `low`
    end: float
    format: Format
    log: bool = False

    def position(self, value: float) -> float:
        if self.log:
            share = (math.log(value) - math.log(self.low)) / ((math.log(self.high) - math.log(self.low)) or 1)
        else:
            share = (value - self.low) / ((self.high - self.low) or 1)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, num: int = 4) -> list[float]:
        """Return round values between the ends."""
        step = nice_step(self.high - self.low, num)
        first = math.ceil(self.low / step - 1e-9)
        return [tick * step for tick in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(span: float, num: int) -> float:
    """Return a round step (1, 2 or 5 times a power of ten) that divides a span into about `num` pieces."""
    raw = span / num if span > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def compact(value: float) -> str:
    """Return a number for an axis: 1,200 or 1.2 M."""
    for size, unit in ((1e9, " bn"), (1e6, " M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.3g}{unit}"
    return f"{value:,.0f}" if value == round(value) else f"{value:,.3g}"


UNITS = ((86400.0 * 3, 86400.0, "d"), (3600.0 * 2, 3600.0, "h"), (60.0 * 3, 60.0, "min"))
"""Units of a time: from how many seconds on they are used, their seconds, and their name."""


def duration(seconds: float) -> str:
    """Return a time: 40 s, 12 min, 3.5 h."""
    for least, size, name in UNITS:
        if seconds >= least:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"


def time_ticks(seconds: float, num: int) -> tuple[list[float], Format]:
    """Return round times from 0 to an end, and how to write them, all in one unit."""
    size, name = next(((size, name) for least, size, name in UNITS if seconds >= least), (1.0, "s"))
    step = nice_step(seconds / size, num)
    ticks = [index * step * size for index in range(math.floor(seconds / size / step + 1e-9) + 1)]
    return ticks, lambda value: f"{value / size:.3g} {name}"


def svg(title: str, about: str, marks: Sequence[Markup], *, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """Return a picture with its title and its description."""
    return element(
        "svg",
        element("title", title),
        element("desc", about),
        *marks,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{title}. {about}",
        xmlns="http://www.w3.org/2000/svg",
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str | None = None) -> Markup:
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=kind)


def _frame(x: Axis, y: Axis, x_ticks: Sequence[float] | None = None) -> list[Markup]:
    """Return the grid and the labels of two axes; without ticks, the first one is a time in seconds."""
    x_format = x.format
    if x_ticks is None:
        x_ticks, x_format = time_ticks(x.high, 4)
    marks = []
    for tick in y.ticks():
        height = y.position(tick)
        marks += [line(LEFT, height, WIDTH - RIGHT, height, "grid"), text(LEFT - 6, height + 4, y.format(tick), "end")]
    base = HEIGHT - BOTTOM
    marks.append(line(LEFT, base, WIDTH - RIGHT, base, "axis"))
    for tick in x_ticks:
        position = x.position(tick)
        anchor = "end" if position > WIDTH - RIGHT - 18 else "middle"
        marks += [line(position, base, position, base + 4, "axis"), text(position, base + 18, x_format(tick), anchor)]
    return marks


def _axes(max_x: float, max_y: float, x_format: Format, y_format: Format) -> tuple[Axis, Axis]:
    x = Axis(0, max_x or 1, LEFT, WIDTH - RIGHT, x_format)
    return x, Axis(0, (max_y or 1) * 1.05, HEIGHT - BOTTOM, TOP, y_format)


def curve(title: str, about: str, points: Points, breaks: Sequence[float] = ()) -> Markup:
    """Return a growing quantity over a time in seconds.

    Args:
        title, about: For those who cannot see it.
        points: Time and value, at most MAX_MARKS, ascending.
        breaks: Times at which the work was interrupted.
    """
    x, y = _axes(max(time for time, _ in points), max(value for _, value in points), duration, compact)
    steps = "".join(f"L{x.position(time):.1f} {y.position(value):.1f}" for time, value in points)
    base = HEIGHT - BOTTOM
    end = x.position(points[-1][0])
    marks = _frame(x, y)
    marks.append(element("path", d=f"M{LEFT} {base}{steps}L{end:.1f} {base}Z", class_="area"))
    marks.append(element("path", d=f"M{LEFT} {base}{steps}", class_="curve"))
    marks += [line(x.position(time), TOP, x.position(time), base, "mark") for time in breaks]
    return svg(title, about, marks)


def steps(
    title: str, about: str, intervals: Sequence[tuple[float, float, float]], breaks: Sequence[float] = ()
) -> Markup:
    """Return a rate over a time in seconds; `intervals` has start, end and rate of each, at most MAX_MARKS."""
    x, y = _axes(max(end for _, end, _ in intervals), max(rate for *_, rate in intervals), duration, compact)
    base = HEIGHT - BOTTOM
    tops = "".join(
        f"L{x.position(start):.1f} {y.position(rate):.1f}L{x.position(end):.1f} {y.position(rate):.1f}"
        for start, end, rate in intervals
    )
    marks = _frame(x, y)
    marks.append(element("path", d=f"M{LEFT} {base}{tops}L{x.position(intervals[-1][1]):.1f} {base}Z", class_="area"))
    marks.append(element("path", d=f"M{LEFT} {base}{tops}", class_="curve"))
    marks += [line(x.position(time), TOP, x.position(time), base, "mark") for time in breaks]
    return svg(title, about, marks)


def histogram(
    title: str, about: str, edges: Sequence[float], counts: Sequence[int], ticks: Sequence[float], middle: float
) -> Markup:
    """Return how often values fall between edges, on a logarithmic axis, with a line at the middle value."""
    x = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT, lambda value: f"{value:g}", log=True)
    y = Axis(0, (max(counts) or 1) * 1.05, HEIGHT - BOTTOM, TOP, compact)
    marks, base = _frame(x, y, ticks), HEIGHT - BOTTOM
    for low, high, num in zip(edges, edges[1:], counts, strict=False):
        if num:
            left, top = x.position(low), y.position(num)
            width = max(1.0, x.position(high) - left - 1)
            marks.append(element("rect", x=left, y=top, width=width, height=max(0.5, base - top), class_="bar"))
    position = x.position(middle)
    marks += [
        line(position, TOP, position, base, "mark"),
        text(position + 5, TOP + 10, f"{middle:.2f}", "start", "mark"),
    ]
    return svg(title, about, marks)


def share_bar(share: float) -> Markup:
    """Return a bar for a cell of a table, whose number says the same: hidden from screen readers."""
    width = max(0.6, 100 * min(1.0, share)) if share else 0.0
    bar = element("rect", x=0, y=0, width=width, height=10, rx=1.5, class_="bar")
    return element("svg", bar, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a sweep."""

    number: int
    name: str
    x: float
    y: float
    best: bool


def scatter(title: str, about: str, dots: Sequence[Dot], x_name: str, y_name: str) -> Markup:
    """Return points with two measures, more of both being better; those that no other beats are joined by a line.

    A measure of which less is better has negative values; they are shown without their sign.
    """
    width, height, left, top, bottom = 520, 330, 58, 34, 46
    x = _padded(left, width - 14, [dot.x for dot in dots])
    y = _padded(height - bottom, top, [dot.y for dot in dots])
    base = height - bottom
    marks = [text(left - 50, 14, f"{y_name} ↑", "start"), text(width - 14, height - 6, f"{x_name} →", "end")]
    for tick in y.ticks(5):
        at = y.position(tick)
        marks += [line(left, at, width - 14, at, "grid"), text(left - 8, at + 4, compact(abs(tick)), "end")]
    marks.append(line(left, base, width - 14, base, "axis"))
    for tick in x.ticks(5):
        at = x.position(tick)
        marks += [line(at, base, at, base + 4, "axis"), text(at, base + 18, compact(tick))]
    best = sorted((dot.x, dot.y) for dot in dots if dot.best)
    if len(best) > 1:
        path = "L".join(f"{x.position(a):.1f} {y.position(b):.1f}" for a, b in best)
        marks.append(element("path", d=f"M{path}", class_="mark", fill="none"))
    places = [(x.position(dot.x), y.position(dot.y)) for dot in dots]
    for dot, (at_x, at_y) in zip(dots, places, strict=True):
        marks.append(element("circle.dot.best" if dot.best else "circle.dot", cx=at_x, cy=at_y, r=5.5))
    for dot, (at_x, at_y, anchor) in zip(dots, _label_places(places, (left, width - 14)), strict=True):
        marks.append(text(at_x, at_y, str(dot.number), anchor, "label"))
    return svg(title, about, marks, width=width, height=height)


def _label_places(dots: Points, ends: tuple[float, float]) -> list[tuple[float, float, str]]:
    """Return where the number of each dot stands: at its right, left, top or bottom, where the fewest others are."""
    taken = list(dots)  # middles of dots and of labels
    places = []
    for at_x, at_y in dots:
        sides = [(10, 4, "start", 16), (-10, 4, "end", -16), (0, -10, "middle", 0), (0, 20, "middle", 0)]
        fitting = [side for side in sides if ends[0] < at_x + side[3] < ends[1]]

        def crowd(side: tuple[int, int, str, int], at_x: float = at_x, at_y: float = at_y) -> int:
            middle_x, middle_y = at_x + side[3], at_y + side[1] - 4
            return sum(abs(x - middle_x) < 15 and abs(y - middle_y) < 11 for x, y in taken)

        best = min(fitting, key=crowd)
        taken.append((at_x + best[3], at_y + best[1] - 4))
        places.append((at_x + best[0], at_y + best[1], best[2]))
    return places


def _padded(start: float, end: float, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    margin = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    least = max(0.0, low - margin) if low >= 0 else low - margin
    most = min(0.0, high + margin) if high <= 0 and low < 0 else high + margin
    return Axis(least, most, start, end, compact)


def strip(title: str, about: str, blocks: Sequence[tuple[str, int, int]]) -> Markup:
    """Return consecutive blocks as one strip; `blocks` has the name, the size and the number of the colour of each."""
    total, at, marks = sum(size for _, size, _ in blocks) or 1, 0.0, []
    for name, size, colour in blocks:
        width = 720 * size / total
        marks.append(
            element(
                "rect",
                element("title", name),
                x=at,
                y=0,
                width=max(1.0, width - 1.5),
                height=34,
                class_=f"d{colour % 6}",
            )
        )
        if width > 8 * min(len(name), 12):
            marks.append(text(at + width / 2, 22, shorten(name, max(3, int(width / 8))), "middle", "on"))
        at += width
    return svg(title, about, marks, width=720, height=34)


def bars_over_time(title: str, about: str, spans: Sequence[tuple[str, float, float]], end: float) -> Markup:
    """Return a line for each of some tasks, from its start to its end in seconds; at most MAX_MARKS of them."""
    row, left = 16, 130
    height = row * len(spans) + 28
    x = Axis(0, end or 1, left, 704, duration)
    marks: list[Markup] = []
    ticks, format = time_ticks(end or 1, 6)
    for tick in ticks:
        at = x.position(tick)
        marks += [line(at, 0, at, height - 24, "grid"), text(at, height - 8, format(tick))]
    for index, (name, begin, stop) in enumerate(spans):
        top = row * index + 3
        width = max(2.0, x.position(stop) - x.position(begin))
        marks.append(element("rect", x=x.position(begin), y=top, width=width, height=row - 6, class_="bar"))
        marks.append(text(left - 8, top + 10, shorten(name, 20), "end"))
    return svg(title, about, marks, width=720, height=height)
