"""Check that the work of cutting one row of 1,000 to 1,000,000 characters is linear, over hostile alphabets.

The work is the number of characters that regular expressions scan and that the tokenizer gets. The last line is JSON:
the largest growth of the work per character from the shortest row to a longer one.
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
    """A pattern that counts the characters that it scans."""

    def __init__(self, pattern: re.Pattern[str], work: Work) -> None:
        self._pattern, self._work = pattern, work

    def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
        match = self._pattern.match(text, start, end)
        self._work.add_scanned(match.end() - start + 1 if match else 1, end - start)
        return match

    def search(self, text: str, start: int, end: int) -> re.Match[str] | None:
        match = self._pattern.search(text, start, end)
        self._work.add_scanned((match.start() if match else end) - start + 1, end - start)
        return match


class Work:
    """Counts the characters that were scanned by patterns and given to the tokenizer."""

    def __init__(self, counter: Any) -> None:
        self._counter = counter
        self.by_patterns = self.by_tokenizer = self.calls = self.largest = 0

    def add_scanned(self, chars: int, size: int) -> None:
        self.by_patterns += chars
        self.largest = max(self.largest, size)

    def count(self, text: str) -> int:
        self.by_tokenizer += len(text)
        self.calls += 1
        return int(self._counter.count(text))

    def token_starts(self, text: str) -> Iterator[Sequence[int]]:
        self.by_tokenizer += len(text)
        self.calls += 1
        yield from self._counter.token_starts(text)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what the cutter's patterns scan inside the `with` block."""
        patterns = {name: value for name, value in vars(cut).items() if isinstance(value, re.Pattern)}
        try:
            vars(cut).update({name: Counting(pattern, self) for name, pattern in patterns.items()})
            yield
        finally:
            vars(cut).update(patterns)


def measure(text: str, counter: Any, max_tokens: int) -> Work:
    """Cut one row and return the work."""
    work = Work(counter)
    with work.watching():
        segments, rejections = segment.split(
            [Document("x#1", 0, text, b"")],
            work.count,
            SegmentConfig(max_tokens=max_tokens),
            find_token_starts=work.token_starts,
        )
    assert not rejections
    assert not segments or segment.join(segments, [piece.text for piece in segments]) == text
    assert work.largest <= MAX_CHUNK_CHARS
    return work


def row(alphabet: str, size: int) -> str:
    """Return a run of the alphabet that ends with words, so that it is not blank."""
    return (alphabet * (size // len(alphabet) + 1))[: size - 8] + " the end"


def growth(
    alphabets: Sequence[str], sizes: Sequence[int], counter: Any, max_tokens: int, report: Callable[[str], None]
) -> float:
    """Return the largest growth of the work per character from the first size to a later one, over all alphabets."""
    worst = 0.0
    for alphabet in alphabets:
        per_char: list[tuple[float, float]] = []
        for size in sizes:
            began = time.process_time()
            work = measure(row(alphabet, size), counter, max_tokens)
            per_char.append((work.by_patterns / size, work.by_tokenizer / size))
            cpu_s = time.process_time() - began
            scanned, counted = per_char[-1]
            report(f"{alphabet!r:>12} {size:>9,} patterns={scanned:.2f} tokenizer={counted:.2f} {cpu_s:.2f} s")
        first = [max(cost, 1.0) for cost in per_char[0]]
        worst = max([worst, *(cost / base for costs in per_char[1:] for cost, base in zip(costs, first, strict=True))])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--bytes", action="store_true", help="use a tokenizer whose tokens are bytes instead of the demo tokenizer"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    counter = dict(cuts.counters())["bytes" if arguments.bytes else "demo"]
    worst = growth(ALPHABETS, arguments.sizes, counter, arguments.max_tokens, lambda line: print(line, file=sys.stderr))
    print(json.dumps({"alphabets": len(ALPHABETS), "sizes": arguments.sizes, "growth": round(worst, 3)}))
    return worst > 1.2


if __name__ == "__main__":
    sys.exit(main())
