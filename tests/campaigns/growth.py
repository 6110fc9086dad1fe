"""Work of cutting and counting one row, of 1,000 to 1,000,000 characters, over hostile alphabets: it must be linear.

Counted are the characters that regular expressions scan and those that the tokenizer is given. Ends with one JSON line:
the largest growth of the work per character from the shortest row to any longer one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hymt_batch import cut, segment
from hymt_batch.records import MAX_CHUNK_CHARS, Document
from hymt_batch.segment import SegmentConfig
from tests.campaigns import cuts

ALPHABETS = (
    *(".", "?", "!", "?!", "…", "。", "।", "།", ".།", "-", ",", "1", "12,", "a", "Aa", "e\u0301", "\u0301"),
    *("\U0001f468\u200d", "\U0001f600", " ", "\n", "\t ", "\u200b", "\u200d", "\ufe0f", "你", "ไ", "😀\u0301"),
    *(
        "a. ",
        "a,",
        "a b ",
        "x\n",
        "x\n\n",
        '."',
        '.")',
        "a.b",
        "\x00",
        "\u2028",
        "(",
        "http://a.b/c?d=e&f ",
        "?)\u3000",
    ),
)


class Counting:
    """A pattern that counts what it scans."""

    def __init__(self, pattern: re.Pattern[str], seen: Seen) -> None:
        self._pattern, self._seen = pattern, seen

    def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
        found = self._pattern.match(text, start, end)
        self._seen.scanned(found.end() - start + 1 if found else 1, end - start)
        return found

    def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
        found = self._pattern.search(text, start, end)
        self._seen.scanned((found.start() if found else end) - start + 1, end - start)
        return found


class Seen:
    """What was scanned and counted."""

    def __init__(self, counter: Any) -> None:
        self._counter = counter
        self.by_patterns = self.by_tokenizer = self.calls = self.largest = 0

    def scanned(self, chars: int, given: int) -> None:
        self.by_patterns += chars
        self.largest = max(self.largest, given)

    def count(self, text: str) -> int:
        self.by_tokenizer += len(text)
        self.calls += 1
        return int(self._counter.count(text))

    def starts(self, text: str) -> Iterator[Sequence[int]]:
        self.by_tokenizer += len(text)
        self.calls += 1
        yield from self._counter.starts(text)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what the cutter's patterns scan within the block."""
        kept = {name: value for name, value in vars(cut).items() if isinstance(value, re.Pattern)}
        try:
            vars(cut).update({name: Counting(pattern, self) for name, pattern in kept.items()})
            yield
        finally:
            vars(cut).update(kept)


def work(text: str, counter: Any, max_tokens: int) -> Seen:
    """Cut one row."""
    seen = Seen(counter)
    with seen.watching():
        segments, refused = segment.split(
            [Document("x#1", 0, text, b"")],
            seen.count,
            SegmentConfig(max_tokens=max_tokens),
            find_token_starts=seen.starts,
        )
    assert not refused
    assert not segments or segment.join(segments, [one.text for one in segments]) == text
    assert seen.largest <= MAX_CHUNK_CHARS
    return seen


def row(alphabet: str, size: int) -> str:
    """A run that ends in words, so that it is not blank."""
    return (alphabet * (size // len(alphabet) + 1))[: size - 8] + " the end"


def growth(
    alphabets: Sequence[str], sizes: Sequence[int], counter: Any, max_tokens: int, tell: Callable[[str], None]
) -> float:
    """The largest growth of work per character, from the first size to a later one, over all alphabets."""
    worst = 0.0
    for alphabet in alphabets:
        per_char: list[tuple[float, float]] = []
        for size in sizes:
            began = time.process_time()
            seen = work(row(alphabet, size), counter, max_tokens)
            per_char.append((seen.by_patterns / size, seen.by_tokenizer / size))
            spent = time.process_time() - began
            scanned, counted = per_char[-1]
            tell(f"{alphabet!r:>12} {size:>9,} patterns={scanned:.2f} tokenizer={counted:.2f} {spent:.2f} s")
        first = [max(one, 1.0) for one in per_char[0]]
        worst = max([worst, *(one / base for some in per_char[1:] for one, base in zip(some, first, strict=True))])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--bytes", action="store_true", help="a tokenizer whose tokens are bytes, not the demo's")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    counter = dict(cuts.counters())["bytes" if arguments.bytes else "demo"]
    worst = growth(ALPHABETS, arguments.sizes, counter, arguments.max_tokens, lambda line: print(line, file=sys.stderr))
    print(json.dumps({"alphabets": len(ALPHABETS), "sizes": arguments.sizes, "growth": round(worst, 3)}))
    return worst > 1.2


if __name__ == "__main__":
    sys.exit(main())
