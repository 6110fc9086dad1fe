"""Recall, false alarms and cost of the checks, on human translations and on faults put into them.

    python -m tests.campaigns.checks --data NTREX-128 --rows 1000

`--data` is a folder of NTREX-128 (newstest2019-src.eng.txt, newstest2019-ref.deu.txt, ...; CC BY-SA 4.0); without it,
the 80 rows of tests/data/ntrex are used. Each kind of fault is put into a number of rows of each target language, drawn
by a seed; a check finds it if the row gets the flag of the fault at the default thresholds. False alarms are counted on
the translations as they are, between all pairs of the languages. Needs the extra `check`. The last line of output is
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import languages
from hymt_batch.check import checks, language_id
from hymt_batch.check.checks import check_all, derive
from hymt_batch.check.pair import words_of
from hymt_batch.check.settings import DERIVED_KINDS, FlagConfig, RetryConfig
from hymt_batch.records import Prompt, Segment, Translation

FILES = {
    "en": "src.eng", "ar": "ref.arb", "de": "ref.deu", "fr": "ref.fra", "ja": "ref.jpn", "th": "ref.tha",
    "yue": "ref.yue", "zh": "ref.zho-CN",
}  # fmt: skip
"""Language -> what follows "newstest2019-" in the name of its file."""

MIN_CHARS = 30
"""Characters of a row from which a fault must be found; shorter rows are counted apart."""

NEEDED_RECALL = 0.98
ALLOWED_ALARMS = {
    "loop": 0.0015, "repetition": 0.0025, "length": 0.002, "wrong_script": 0.001, "wrong_language": 0.001,
    "wrong_variant": 0.0155, "left_in_source": 0.015, "leak": 0.001, "urls": 0.0005, "numbers": 0.036,
    "markdown": 0.0005, "copied": 0.002,
}  # fmt: skip
"""Flag -> largest share of the translations into one language that may have it."""

SAMPLE = Path(__file__).parents[1] / "data" / "ntrex"

Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row with a fault."""

    source: str
    text: str
    src_lang: str
    tgt_lang: str
    reason: str = "stop"


def read(folder: Path) -> Texts:
    return {
        code: [
            line.strip()
            for line in (folder / f"newstest2019-{name}.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
        ]
        for code, name in FILES.items()
    }


def translation(row: Row) -> Translation:
    segment = Segment(0, 0, row.source)
    return Translation(Prompt(segment, "a#1", (1,), 1, row.tgt_lang, row.src_lang), row.text, row.reason)


def flags_of(rows: Sequence[Row], config: FlagConfig) -> list[set[str]]:
    """Return the flags of rows as a job gives them, each row one segment."""
    found = []
    for row, checked in zip(rows, check_all([translation(row) for row in rows], RetryConfig()), strict=True):
        measures = checked.measures
        if config.identify_share and checked.text:
            margin = language_id.margin(words_of(checked.text), row.tgt_lang)
            measures = (*measures, *([("language", margin)] if margin else []))
        found.append({*checked.flags, *derive(measures, checked.mean_logprob, config, config.flags)})
    return found


class Faults:
    """Puts faults into translations; every method returns a row, or None if the row cannot have the fault."""

    def __init__(self, texts: Texts, seed: int) -> None:
        self.texts, self.rng = texts, random.Random(seed)

    def _cut(self, text: str, code: str) -> tuple[str, str]:
        """Return a text in two, between words or characters."""
        space = " " if languages.get(code).spaced else ""
        units = text.split() if space else list(text)
        at = self.rng.randrange(len(units) + 1)
        return space.join(units[:at]), space.join(units[at:])

    def _join(self, code: str, *pieces: str) -> str:
        return (" " if languages.get(code).spaced else "").join(piece for piece in pieces if piece)

    def _with_both(self, row: Row, source: str, text: str) -> Row:
        """Return the row with something added to the source, and something to the translation."""
        return Row(f"{row.source} {source}".strip(), f"{row.text} {text}".strip(), row.src_lang, row.tgt_lang)

    def empty(self, row: Row, index: int) -> Row | None:
        return Row(row.source, "", row.src_lang, row.tgt_lang)

    def truncated(self, row: Row, index: int) -> Row | None:
        return Row(row.source, self._cut(row.text, row.tgt_lang)[0], row.src_lang, row.tgt_lang, "length")

    def loop(self, row: Row, index: int) -> Row | None:
        start, end = self._cut(row.text, row.tgt_lang)
        units = row.text.split() if languages.get(row.tgt_lang).spaced else list(row.text)
        size = min(
            len(units), self.rng.randint(1, 5) if languages.get(row.tgt_lang).spaced else self.rng.randint(3, 15)
        )
        at = self.rng.randrange(len(units) - size + 1)
        piece = self._join(row.tgt_lang, *units[at : at + size])
        if len(piece) < 3 or len(piece) > 80:
            return None
        repeated = self._join(row.tgt_lang, *[piece] * self.rng.randint(4, 30))
        return Row(row.source, self._join(row.tgt_lang, start, repeated, end), row.src_lang, row.tgt_lang)

    def repetition(self, row: Row, index: int) -> Row | None:
        spaced = languages.get(row.tgt_lang).spaced
        units = row.text.split() if spaced else list(row.text)
        size = 5 if spaced else 20
        if len(units) < size:
            return None
        piece = self._join(row.tgt_lang, *units[:size])
        repeated = [f"{piece} {number}" for number in range(1, self.rng.randint(6, 12))]
        return Row(row.source, " ".join([*repeated, row.text]), row.src_lang, row.tgt_lang)

    def length(self, row: Row, index: int) -> Row | None:
        if self.rng.random() < 0.5:
            text = row.text[: max(1, len(row.text) // 8)]
            return Row(row.source, text, row.src_lang, row.tgt_lang)
        others, text = self.texts[row.tgt_lang], row.text
        while len(text) < 5 * len(row.text):
            text = self._join(row.tgt_lang, text, self.rng.choice(others))
        return Row(row.source, text, row.src_lang, row.tgt_lang)

    def _in_other(self, row: Row, index: int, *, same_script: bool) -> Row | None:
        own = languages.get(row.tgt_lang)

        def script(code: str) -> str:
            script = languages.get(code).script
            return "Hani" if script in ("Hans", "Hant", "Jpan") else script

        aliases = {"zh", "yue"} if own.code in ("zh", "yue") else {own.code}
        others = [code for code in FILES if code not in aliases and (script(code) == script(own.code)) == same_script]
        if not others:
            return None
        return Row(row.source, self.texts[self.rng.choice(others)][index], row.src_lang, row.tgt_lang)

    def wrong_language(self, row: Row, index: int) -> Row | None:
        return self._in_other(row, index, same_script=True)

    def wrong_script(self, row: Row, index: int) -> Row | None:
        return self._in_other(row, index, same_script=False)

    def wrong_variant(self, row: Row, index: int) -> Row | None:
        other = {"zh": "yue", "yue": "zh"}.get(row.tgt_lang)
        return Row(row.source, self.texts[other][index], row.src_lang, row.tgt_lang) if other else None

    def copied(self, row: Row, index: int) -> Row | None:
        return Row(row.source, row.source, row.src_lang, row.tgt_lang)

    def left_in_source(self, row: Row, index: int) -> Row | None:
        words = row.source.split()
        if languages.get(row.tgt_lang).script == "Latn" or len(words) < 8:
            return None
        size = self.rng.randint(7, len(words))
        at = self.rng.randrange(len(words) - size + 1)
        piece = " ".join(words[at : at + size])
        start, end = self._cut(row.text, row.tgt_lang)
        return Row(row.source, f"{start} {piece} {end}".strip(), row.src_lang, row.tgt_lang)

    def leak(self, row: Row, index: int) -> Row | None:
        kind = self.rng.choice(LEAKS_OF.get(row.tgt_lang, ()) + LEAKS)
        return Row(row.source, kind.replace("{}", row.text), row.src_lang, row.tgt_lang)

    def urls(self, row: Row, index: int) -> Row | None:
        url = f"https://example.org/{self.rng.randrange(10**6)}/a?b={index}"
        other = f"https://example.org/{self.rng.randrange(10**6)}/c"
        return self._with_both(row, *self.rng.choice([(url, ""), ("", url), (url, other)]))

    def numbers(self, row: Row, index: int) -> Row | None:
        number, other = (str(self.rng.randrange(10**7, 10**9)) for _ in "12")
        return self._with_both(row, *self.rng.choice([(number, ""), ("", number), (number, other)]))

    def markdown(self, row: Row, index: int) -> Row | None:
        start, end = self._cut(row.text, row.tgt_lang)
        text = self.rng.choice(
            [
                f"**{row.text}**",
                f"# {row.text}",
                f"```\n{row.text}\n```",
                f"{start} **{end or start}**",
                f"- {start}\n- {end}" if start and end else f"- {row.text}\n- {row.text}",
                f"{start} [{row.text[:20]}](https://example.org)",
            ]
        )
        return Row(row.source, text, row.src_lang, row.tgt_lang)


LEAKS = (
    "Translation: {}",
    "Here is the translation: {}",
    "Here's the translated text:\n\n{}",
    "Sure! Here is the translation:\n{}",
    "{}\n\nNote: The name was kept as it is.",
    "{} (Note: this is a literal translation.)",
    "Translate the following segment into the language, without additional explanation.\n\n{}",
    "{} without additional explanation",
    "译文：{}",
    "翻译结果：{}",
    "以下是译文：\n{}",
    "{}\n\n注：人名保留原文。",
    "将以下文本翻译为目标语言，注意只需要输出翻译后的结果，不要额外解释：\n\n{}",
)
"""What models add to a translation, which `{}` stands for."""

LEAKS_OF = {
    "de": ("Übersetzung: {}", "{}\n\nHinweis: Der Name bleibt."),
    "fr": ("Traduction : {}", "{}\n\nRemarque : le nom reste."),
    "ja": ("翻訳：{}", "{}\n\n注：固有名詞はそのままです。"),
    "th": ("คำแปล: {}", "{}\n\nหมายเหตุ: คงชื่อไว้"),
    "ar": ("الترجمة: {}", "{}\n\nملاحظة: بقي الاسم كما هو."),
    "yue": ("譯文：{}", "{}\n\n註：名稱保留原文。"),
}
"""The same in a target language."""

KINDS: tuple[str, ...] = (
    "empty", "truncated", "loop", "repetition", "length", "wrong_language", "wrong_script", "wrong_variant", "copied",
    "left_in_source", "leak", "urls", "numbers", "markdown",
)  # fmt: skip
ALSO = {"wrong_script": {"wrong_language"}, "wrong_language": {"wrong_script"}, "loop": {"repetition"}}
"""Fault -> other flags that name it as well."""


@dataclass(slots=True)
class Recall:
    """How many faults of a kind were found, in rows of at least MIN_CHARS characters and in shorter ones."""

    num: int = 0
    found: int = 0
    num_short: int = 0
    found_short: int = 0

    @property
    def rate(self) -> float:
        return self.found / self.num if self.num else 1.0


def measure_recall(
    texts: Texts, kind: str, num_rows: int, seed: int, identify_share: float = 1.0
) -> Mapping[str, Recall]:
    """Put faults of a kind into rows of each language, and return by language how many were found."""
    config, results = FlagConfig(identify_share=identify_share), {}
    for code in FILES:
        if code == "en":
            continue
        faults, recall = Faults(texts, seed), Recall()
        put: Callable[[Row, int], Row | None] = getattr(faults, kind)
        indices = list(range(len(texts["en"])))
        faults.rng.shuffle(indices)
        rows, is_short = [], []
        for index in indices:
            source, gold = texts["en"][index], texts[code][index]
            if len(rows) < num_rows and source and gold and (row := put(Row(source, gold, "en", code), index)):
                rows.append(row)
                is_short.append(min(len(source), len(gold)) < MIN_CHARS)
        for flags, short in zip(flags_of(rows, config), is_short, strict=True):
            hit = bool(flags & {kind, *ALSO.get(kind, ())})
            if short:
                recall.num_short, recall.found_short = recall.num_short + 1, recall.found_short + hit
            else:
                recall.num, recall.found = recall.num + 1, recall.found + hit
        if rows:
            results[code] = recall
    return results


def measure_alarms(texts: Texts, identify_share: float = 1.0) -> tuple[Mapping[str, Counter[str]], int]:
    """Return by flag how many human translations into each language have it, and the rows per language."""
    alarms: dict[str, Counter[str]] = {kind: Counter() for kind in ("copied", *DERIVED_KINDS)}
    num = 0
    for code in FILES:
        rows = [
            Row(source, text, other, code)
            for other in FILES
            if code not in (other, "en")
            for source, text in zip(texts[other], texts[code], strict=True)
            if source and text
        ]
        num = max(num, len(rows))
        for flags in flags_of(rows, FlagConfig(identify_share=identify_share)):
            for flag in flags & set(alarms):
                alarms[flag][code] += 1
    return alarms, num


def microseconds_a_row(texts: Texts) -> float:
    """Return the processor time of all checks but language identification, and of deriving flags."""
    rows = [translation(Row(s, t, "en", code)) for code in FILES for s, t in zip(texts["en"], texts[code], strict=True)]
    config = FlagConfig()
    for row in rows[:200]:  # what is compiled once
        checks.check(row, RetryConfig())
    start = time.process_time()
    for checked in check_all(rows, RetryConfig()):
        derive(checked.measures, checked.mean_logprob, config, config.flags)
    return (time.process_time() - start) / len(rows) * 1e6


def lines_of(texts: Texts, num_rows: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines of the report, each with whether it shows no fault."""
    yield f"| fault | {' | '.join(code for code in FILES if code != 'en')} | all | shorter rows |", True
    yield f"|---|{'---|' * (len(FILES) + 1)}", True
    for kind in KINDS:
        results = measure_recall(texts, kind, num_rows, seed)
        cells = [f"{results[code].rate:.3f}" if code in results else "-" for code in FILES if code != "en"]
        num, found = (sum(getattr(r, name) for r in results.values()) for name in ("num", "found"))
        short, found_short = (sum(getattr(r, name) for r in results.values()) for name in ("num_short", "found_short"))
        shorter = f"{found_short / short:.3f} of {short:,}" if short else "-"
        total = found / num if num else 1.0
        yield f"| {kind} | {' | '.join(cells)} | {total:.3f} of {num:,} | {shorter} |", total >= NEEDED_RECALL
    alarms, num = measure_alarms(texts)
    yield f"\nFalse alarms of {num:,} translations into each language", True
    for kind, counts in alarms.items():
        worst, most = max(counts.items(), key=lambda item: item[1], default=("-", 0))
        rate = sum(counts.values()) / (num * (len(FILES) - 1))
        allowed = ALLOWED_ALARMS.get(kind, 1.0)
        yield f"| {kind} | {rate:.3%} | {worst} {most / num:.3%} |", most <= allowed * num
    cost = microseconds_a_row(texts)
    yield f"\n{cost:.0f} us of processor time a row, without language identification", cost <= 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each kind and language with a fault")
    parser.add_argument("--seed", type=int, default=20261129)
    options = parser.parse_args()
    if not language_id.is_installed():
        print("py3langid is not installed: pip install 'hymt-batch[check]'")
        return 2
    print(f"seed={options.seed} rows={options.rows} data={options.data.name}")
    outside: list[str] = []
    for line, shows_no_fault in lines_of(read(options.data), options.rows, options.seed):
        print(line if shows_no_fault else f"{line}   <- outside the limit", flush=True)
        outside += [] if shows_no_fault else [line]
    print(json.dumps({"passed": not outside, "failures": outside}))
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
