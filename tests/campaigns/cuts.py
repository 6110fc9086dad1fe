"""Compare the cuts of the cutter of commit a3f0e6e with today's cuts, on natural and hostile rows.

Rows that the earlier cutter cannot cut within a second are skipped, because no job has committed parts of them. The
last line is JSON: the number of rows compared and skipped, and the first differences.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from hymt_batch import segment
from hymt_batch.demo import grammar
from hymt_batch.model import files, tokenizer
from hymt_batch.records import Document
from hymt_batch.segment import SegmentConfig
from tests.campaigns import earlier_segment

NATURAL = (
    "The committee met on 3 May 2024, at 14:30; Mr. J. Smith (chair) said: \u201cIt\u2019s done.\u201d Was it? Yes! ",
    "Le comité s\u2019est réuni le 3 mai : «\u00a0C\u2019est fait.\u00a0» Était-ce vrai ? Oui ! ",
    "委员会于二〇二四年五月三日开会，主席说：“完成了。”是真的吗？是的！接着，大家散会；",
    "委員会は五月三日に開かれた。「終わった」と議長は言った。本当か？ はい！",
    "คณะกรรมการประชุมเมื่อวันที่ 3 พฤษภาคม ประธานกล่าวว่าเสร็จแล้ว จริงหรือ ใช่ ",
    "समिति की बैठक 3 मई को हुई। अध्यक्ष ने कहा, “हो गया।” क्या यह सच है? हाँ! ",
    "اجتمعت اللجنة في 3 مايو، وقال الرئيس: «تم». هل هذا صحيح؟ نعم! ",
    "Комитет собрался 3 мая — председатель сказал: «Готово». Правда? Да! ",
    "위원회는 5월 3일에 열렸다. 의장은 “끝났다.”고 말했다. 정말? 그렇다! ",
    "བོད་ཡིག་གི་ཚིག་གྲུབ་དང་པོ།གཉིས་པ།། གསུམ་པ། ",
    "ភាសាខ្មែរ។ប្រយោគទីពីរ។ ",
    "See https://example.org/a,b;c?d=e&f=1.2.3 or mail x.y@z.org; cf. e.g. Fig. 1a, p. 12\u201313... ",
)
SEPARATORS = ("", " ", "\n", "\n\n", "\r\n", " \n \n", "\t", "\u3000")
PIECES = [
    *"ab.。!?！？…,，;:、—)\u201d\u2019」\"'»]}1230 \n\t",
    *("  ", "\n\n", " \n\n ", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\x00", "\ufeff", "\u200b"),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "漢字",
        "かな",
        "ｱ",
        "한국",
        "ไทย",
        "।",
        "॥",
        "།",
        "།།",
        "།)",
        ".།",
        "།.",
        "។",
        "؟",
        "᠃",
    ),
    *(
        "\U0001f468\u200d\U0001f469",
        "\U0001f600",
        "\u200d",
        "\u200c",
        "\ufe0f",
        "the",
        " rain",
        "Heavy rain",
        "...",
        "?!",
    ),
    *(". ", ", ", "! ", '." ', ".) ", "123,456.7", "http://a.b/c?d,e", "ing", "-", "--", "\U0001f1e9\U0001f1ea"),
]


def documents() -> Iterator[str]:
    """Yield natural texts without end."""
    for bulletin in grammar.stream(11, held_out=False):
        yield from (f"{bulletin.en} ", f"{bulletin.fr} ", f"{bulletin.de} ", bulletin.zh)


def row(rng: random.Random, natural: list[str], size: int) -> str:
    """Return a row of about `size` characters."""
    kind = rng.random()
    parts: list[str] = []
    chars = 0
    pieces = rng.choices(PIECES, k=rng.randint(1, 6)) if kind < 0.7 else PIECES
    while chars < size:
        if kind < 0.35:
            part = rng.choice(natural) + rng.choice(SEPARATORS) * (rng.random() < 0.3)
        elif kind < 0.45 and rng.random() < 0.1:
            part = rng.choice(pieces) * rng.randint(1, size)
        else:
            part = rng.choice(pieces)
        parts.append(part)
        chars += len(part)
    return "".join(parts)[: 2 * size]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    @staticmethod
    def count(text: str) -> int:
        return len(text.encode("utf-8"))

    @staticmethod
    def token_starts(text: str) -> Iterator[list[int]]:
        yield [position for position, character in enumerate(text) for _ in character.encode("utf-8")]


class Slow(BaseException):
    """Raised when the earlier cutter takes more than a second."""


def cut(split: Callable[..., Any], text: str, *arguments: Any, **keywords: Any) -> list[str]:
    document = Document("x#1", 0, text, b"")
    return [f"{piece.lead}\0{piece.text}\0{piece.trail}" for piece in split([document], *arguments, **keywords)[0]]


def compare(seed: int, rows: int, counters: list[tuple[str, Any]], seconds: float = 1.0) -> dict[str, Any]:
    """Compare the cuts of some rows; the result has the seed and the rows with different cuts."""
    rng = random.Random(seed)
    stream = documents()
    natural = [*NATURAL, *(next(stream) for _ in range(400))]
    result: dict[str, Any] = {"seed": seed, "rows": 0, "cut": 0, "segments": 0, "slow": 0, "different": []}

    def on_alarm(*_: object) -> None:
        raise Slow

    previous_handler = signal.signal(signal.SIGALRM, on_alarm)
    for index in range(rows):
        limit = 2048 if index % 50 == 0 else rng.choice((16, 17, 24, 32, 64, 100, 256))
        text = row(rng, natural, rng.randint(2000, 20_000) if limit == 2048 else rng.randint(1, 8 * limit))
        name, counter = counters[index % len(counters)]
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            earlier = cut(earlier_segment.split, text, counter.count, earlier_segment.SegmentConfig(max_tokens=limit))
        except Slow:
            result["slow"] += 1
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.perf_counter() - began > seconds:
            result["slow"] += 1
            continue
        today = cut(
            segment.split,
            text,
            counter.count,
            SegmentConfig(max_tokens=limit),
            1,
            find_token_starts=counter.token_starts,
        )
        result["rows"] += 1
        result["cut"] += len(earlier) > 1
        result["segments"] += len(earlier)
        if earlier != today:
            result["different"].append((index, name, limit, len(text), text[:60]))
    signal.signal(signal.SIGALRM, previous_handler)
    return result


def counters() -> list[tuple[str, Any]]:
    folder, _ = files.resolve("demo:model", "main", download=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [("demo", tokenizer.load(folder, config, add_generation_prompt=True)), ("bytes", Bytes)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = compare(arguments.seed, arguments.rows, counters())
    result["different"], different = result["different"][:20], len(result["different"])
    print(json.dumps({**result, "num_different": different}, ensure_ascii=True))
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
