"""Draw curves on logarithmic axes as an SVG: a few lines, one label each. Knows nothing of what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN_LEFT, MARGIN_RIGHT, MARGIN = 470, 300, 62, 24, 34
COLOURS = ("#1f5fa8", "#c0392b", "#1e8449", "#7d3c98")


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram."""

    title: str
    x_label: str
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]  # label and points, all above 0
    limit: tuple[str, float] | None = None  # label and height of a dashed line
    legend_left: bool = False  # at the bottom, on the left instead of the right


def draw(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return panels, in rows of `columns`, as an SVG document."""
    rows = -(-len(panels) // columns)
    size = f'width="{WIDTH * columns}" height="{HEIGHT * rows}"'
    body = [
        f'<g transform="translate({WIDTH * (index % columns)},{HEIGHT * (index // columns)})">{_panel(panel)}</g>'
        for index, panel in enumerate(panels)
    ]
    style = 'font-family="sans-serif" font-size="11"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
            '<rect width="100%" height="100%" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel) -> str:
    xs = [x for _, points in panel.lines for x, _ in points]
    ys = [y for _, points in panel.lines for _, y in points] + ([panel.limit[1]] if panel.limit else [])
    x_axis, y_axis = _decades(xs), _decades(ys)
    inner_width, inner_height = WIDTH - MARGIN_LEFT - MARGIN_RIGHT, HEIGHT - 2 * MARGIN - 12

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_axis[0]) / (x_axis[1] - x_axis[0])
        up = (math.log10(y) - y_axis[0]) / (y_axis[1] - y_axis[0])
        return round(MARGIN_LEFT + across * inner_width, 1), round(MARGIN + (1 - up) * inner_height, 1)

    parts = [f'<text x="{MARGIN_LEFT}" y="18" font-weight="bold">{escape(panel.title)}</text>']
    for power in range(x_axis[0], x_axis[1] + 1):
        x, y = place(10.0**power, 10.0 ** y_axis[0])
        parts.append(f'<line x1="{x}" y1="{MARGIN}" x2="{x}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{y + 15}" text-anchor="middle">{_number(power)}</text>')
    for power in range(y_axis[0], y_axis[1] + 1):
        x, y = place(10.0 ** x_axis[0], 10.0**power)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - MARGIN_RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 5}" y="{y + 4}" text-anchor="end">{_number(power)}</text>')
    parts.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(panel.x_label)}</text>')
    if panel.limit is not None:
        x, y = place(10.0 ** x_axis[0], panel.limit[1])
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{WIDTH - MARGIN_RIGHT}" y2="{y}" stroke="black" stroke-dasharray="5 3"/>'
        )
        parts.append(
            f'<text x="{WIDTH - MARGIN_RIGHT - 2}" y="{y - 4}" text-anchor="end">{escape(panel.limit[0])}</text>'
        )
    for index, (label, points) in enumerate(panel.lines):
        colour, placed = COLOURS[index % len(COLOURS)], [place(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        anchor, x = ("start", MARGIN_LEFT + 6) if panel.legend_left else ("end", WIDTH - MARGIN_RIGHT - 6)
        y = MARGIN + inner_height - 6 - 13 * (len(panel.lines) - 1 - index)
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(label)}</text>')
    return "".join(parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _number(power: int) -> str:
    return f"10^{power}" if abs(power) > 2 else f"{10.0**power:g}"
