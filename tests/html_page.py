"""Read a report as a browser would: its elements, its texts, and the exact values of its figures."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

DOCUMENT = "a html head meta title style body main header footer section h1 h2 h3 p span code data small div"
LISTS = "dl dt dd figure figcaption table caption thead tbody tr th td"
PICTURES = "svg desc path rect line text circle"
TAGS = frozenset(f"{DOCUMENT} {LISTS} {PICTURES}".split())
"""Every element that a report may have: none of them runs, loads or sends anything."""

NAMES = "charset http-equiv content name lang dir class role aria-label aria-hidden tabindex scope value data-figure"
SHAPES = "href viewbox xmlns preserveaspectratio x y x1 y1 x2 y2 cx cy r rx d width height text-anchor fill"
ATTRIBUTES = frozenset(f"{NAMES} {SHAPES}".split())
EMPTY = frozenset({"meta", "path", "rect", "line", "circle"})


class Page(HTMLParser):
    """A parsed report."""

    def __init__(self, source: bytes | Path) -> None:
        super().__init__(convert_charrefs=True)
        data = source.read_bytes() if isinstance(source, Path) else source
        self.num_bytes, self.num_nodes = len(data), 0
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.figures: dict[str, float] = {}
        self.headings: list[int] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(data.decode("utf-8"))
        self.close()
        if self._open:
            self.problems.append(f"not closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_nodes += 1
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        names = [name for name, _ in attrs]
        self.problems += [f"element {tag}"] if tag not in TAGS else []
        self.problems += [f"attribute {name} of {tag}" for name in names if name not in ATTRIBUTES]
        self.problems += [f"{name} twice in {tag}" for name in names if names.count(name) > 1]
        given = dict(attrs)
        if not (given.get("href") or "./").startswith("./"):  # a file beside the report
            self.problems.append(f"a link to {given['href']}")
        if key := given.get("data-figure"):
            value = float(given["value"] or "nan")
            if self.figures.setdefault(key, value) != value:
                self.problems.append(f"two values of {key}")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.problems.append(f"<{tag}/>")
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.num_nodes += 1
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.problems.append("a comment")

    @property
    def text(self) -> str:
        return "\n".join(self.texts)
