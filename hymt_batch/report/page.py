"""The frame of a report, and the pieces that several sections have: tables, tiles, figures, texts of rows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hymt_batch.report.markup import Child, Markup, element, escape, join, shorten
from hymt_batch.report.style import STYLE

_STYLE_SHA256 = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_SHA256}'; base-uri 'none'; form-action 'none'"
"""No script, no network, no form: should a text ever act as markup, it still could do nothing."""

MAX_CELL_CHARS = 300


def page(title: str, lead: Child, status: Child, sections: Iterable[Markup | None], footer: Child) -> bytes:
    """Return a whole page as UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    header = element("header", element("h1", isolated("span", title), status), element("p.lead", lead))
    body = element("body", element("main", header, *sections, element("footer", footer)))
    text = f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
    return text.encode("utf-8", "backslashreplace")


def section(title: str, *children: Child) -> Markup:
    """Return a section below a heading of the second level."""
    return element("section", element("h2", title), *children)


def isolated(tag: str, text: str, *, max_chars: int = MAX_CELL_CHARS, lang: str | None = None) -> Markup:
    """Return a text of a user, which may be in any language and direction, as an element of its own."""
    return element(tag, shorten(text, max_chars), dir="auto", lang=lang or None)


def number(value: float, key: str | None = None, digits: int = 0) -> Markup:
    """Return a number; with a key, as a figure that has its exact value: `counts.ok`."""
    shown = f"{value:,.{digits}f}"
    if key is None:
        return escape(shown)
    exact = str(value) if isinstance(value, int) else repr(round(value, 6))
    return element("data", shown, value=exact, data_figure=key)


def share(part: float, whole: float) -> str:
    """Return a share in percent; a small one is never shown as 0 %, nor nearly all as 100 %."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.01:
        return "< 0.01 %"
    if percent > 99.99 and part != whole:
        return "> 99.99 %"
    return f"{percent:.{0 if part == whole else 2 if percent < 10 else 1}f} %"


def tile(name: str, value: Child, note: Child = None, kind: str = "") -> Markup:
    """Return a large figure with its name; kind is "", "warn" or "bad"."""
    small = element("small", note) if note is not None else None
    return element("div.tile", element("dt", name), element(f"dd.{kind}" if kind else "dd", value, small))


def tiles(items: Iterable[Markup | None]) -> Markup:
    return element("dl.tiles", *items)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], kinds: Sequence[str] = ()) -> Markup:
    """Return a table that scrolls within itself on a narrow screen.

    Args:
        caption: What it shows.
        columns: Names of the columns.
        rows: Their cells; the first one is the heading of its row.
        kinds: Class of each column: "", "number", "path", "about" or "bar".
    """
    kinds = [*kinds, *[""] * (len(columns) - len(kinds))]
    tags = [f"th.{kind}" if kind == "number" else "th" for kind in kinds]
    head = element("tr", *(element(tag, name, scope="col") for tag, name in zip(tags, columns, strict=True)))
    body = [
        element(
            "tr",
            *(
                element(f"{'td' if index else 'th'}{f'.{kind}' if kind else ''}", cell, scope=None if index else "row")
                for index, (cell, kind) in enumerate(zip(row, kinds, strict=True))
            ),
        )
        for row in rows
    ]
    content = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div.scroll", content, role="region", aria_label=caption, tabindex="0")


def facts(items: Iterable[tuple[str, Child]]) -> Markup | None:
    """Return a list of names and values; None for an empty one."""
    pairs = [join([element("dt", name), element("dd", value)]) for name, value in items]
    return element("dl.facts", *pairs) if pairs else None


def settings(caption: str, values: Mapping[str, object], max_num: int = 100) -> Markup | None:
    """Return settings as a list in columns, by their dotted keys; None if there are none."""
    leaves = flatten(values)[:max_num]
    if not leaves:
        return None
    pairs = [element("div", element("dt", key), isolated("dd", value)) for key, value in leaves]
    return join([element("h3", caption), element("dl.settings", *pairs)])


def flatten(value: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested settings by their dotted keys."""
    leaves: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            leaves += flatten(item, f"{name}.")
        else:
            leaves.append((name, plain(item)))
    return leaves


def plain(value: object) -> str:
    """Return a setting as a user would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return "{}" if value == {} else str(value)


def utc(seconds: float) -> str:
    """Return a time in UTC: 2026-11-29 19:18:40 UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "unknown"


def num_bytes(size: float) -> str:
    """Return a size: 1.5 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"
