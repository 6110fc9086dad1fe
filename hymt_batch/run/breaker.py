"""The circuit breaker: a job stops early if most of its translations are unusable; committed parts are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from hymt_batch.check.checks import FAILURE_STATUSES
from hymt_batch.check.settings import CheckConfig
from hymt_batch.errors import PreflightError
from hymt_batch.records import HARD_FLAGS, Row, Status
from hymt_batch.sanitize import escape_line

MAX_NON_FINITE_RATE = 0.001
"""Share of rows with NaN or infinity that a working model never exceeds. Source: RELIABILITY.md, fault 68."""

_BAD_STATUSES = frozenset({*FAILURE_STATUSES.values(), Status.EMPTY})


NO_SOURCES: Mapping[int, str] = MappingProxyType({})
MAX_TEXT_CHARS = 60
MAX_EXAMPLES = 10
"""Maximum number of rows that the error message names."""

WATCHED_PAIRS = 8192
"""Different pairs of source and translation that are counted, the first ones of a run: a wrong template shows there."""


class SameTexts:
    """Counts how many different sources have one and the same translation: a wrong template says one thing to all."""

    def __init__(self) -> None:
        self._pairs: set[int] = set()
        self._nums: Counter[str] = Counter()  # translation -> different sources
        self._most_frequent = "", 0  # kept up to date: every part of a small file asks for it
        self.examples: dict[str, list[str]] = {}  # translation -> ids of its first rows

    def add(self, id: str, source: str, text: str) -> None:
        """Count a translated row."""
        pair = hash((source, text))
        if pair in self._pairs or len(self._pairs) >= WATCHED_PAIRS:
            return
        self._pairs.add(pair)
        self._nums[text] = num = self._nums[text] + 1
        if num > self._most_frequent[1]:
            self._most_frequent = text, num
        if len(ids := self.examples.setdefault(text, [])) < MAX_EXAMPLES:
            ids.append(id)

    @property
    def num_pairs(self) -> int:
        """Number of different pairs of source and translation."""
        return len(self._pairs)

    def most_frequent(self) -> tuple[str, int]:
        """Return the translation of most sources, and how many they are; of several, the first that had as many."""
        return self._most_frequent


class CircuitBreaker:
    """Stops a job if too many of its translations are unusable; committed parts are kept.

    Counts the rows of this run as they are committed. Rows that never reached the model do not count: they took no
    decoding time and do not show whether the model works; check.max_error_rate covers them at the end of the job.
    """

    def __init__(self, config: CheckConfig) -> None:
        self._config = config
        self._num_rows = self._num_bad = self._num_non_finite = 0
        self._same_texts = SameTexts()
        self._bad_examples: list[tuple[str, Row]] = []  # the first bad rows, with their ids
        self._non_finite_examples: list[tuple[str, Row]] = []

    def observe(self, ids: Mapping[int, str], rows: Sequence[Row], sources: Mapping[int, str] = NO_SOURCES) -> None:
        """Count the rows of a committed part.

        Args:
            ids: Index of a row within its file -> its id.
            rows: All rows of the part.
            sources: Index of a row within its file -> its source.

        Raises:
            PreflightError: Of at least check.stop_rows rows, a share above check.stop_rate has no text or a hard flag,
                or a share above MAX_NON_FINITE_RATE came out as NaN or infinity; or of as many different sources, a
                share above check.stop_rate has one and the same translation.
        """
        decoded = [row for row in rows if row.num_source_tokens or row.status in _BAD_STATUSES]
        bad = [row for row in decoded if row.status in _BAD_STATUSES or not HARD_FLAGS.isdisjoint(row.flags)]
        non_finite = [row for row in decoded if row.status is Status.NON_FINITE]
        self._num_rows += len(decoded)
        self._num_bad += len(bad)
        self._num_non_finite += len(non_finite)
        self._bad_examples += [(ids[row.row_index], row) for row in bad[: MAX_EXAMPLES - len(self._bad_examples)]]
        self._non_finite_examples += [
            (ids[row.row_index], row) for row in non_finite[: MAX_EXAMPLES - len(self._non_finite_examples)]
        ]
        if self._config.stop_rate == 1:
            return
        for row in decoded:
            if row.text and (source := sources.get(row.row_index)):
                self._same_texts.add(ids[row.row_index], source, row.text)
        self._check_same_texts()
        if self._num_rows < self._config.stop_rows:
            return
        problem, num_problems, limit, examples = (
            "have no translation, or one that is truncated or loops",
            self._num_bad,
            self._config.stop_rate,
            self._bad_examples,
        )
        if self._num_non_finite / self._num_rows > MAX_NON_FINITE_RATE:
            problem, num_problems, limit, examples = (
                "came out as NaN or infinity",
                self._num_non_finite,
                MAX_NON_FINITE_RATE,
                self._non_finite_examples,
            )
        if num_problems / self._num_rows > limit:
            raise PreflightError(
                f"{100 * num_problems / self._num_rows:.1f} % of the first {self._num_rows:,} rows that were "
                f"decoded and committed {problem} (limit {100 * limit:g} %): the model, its dtype or the languages "
                f"are wrong. {'The first of them' if num_problems > len(examples) else 'They are'}: "
                f"{', '.join(map(_describe, examples))}",
                fix="Committed parts are kept. Run `hymt-batch doctor load=true` to check the model; to continue "
                "anyway, set check.stop_rate=1.",
            )

    def _check_same_texts(self) -> None:
        texts, limit = self._same_texts, self._config.stop_rate
        if texts.num_pairs < self._config.stop_rows:
            return
        text, num = texts.most_frequent()
        if num / texts.num_pairs > limit:
            raise PreflightError(
                f"{100 * num / texts.num_pairs:.1f} % of the first {texts.num_pairs:,} different sources have one and "
                f'the same translation, "{escape_line(text[:MAX_TEXT_CHARS])}" (limit {100 * limit:g} %)',
                why=f"so the prompt template or the model is wrong. The first of them: "
                f"{', '.join(texts.examples[text])}",
                fix="Committed parts are kept. Run `hymt-batch doctor load=true` to check the model, and see prompt.* "
                "and model.family; to continue anyway, set check.stop_rate=1.",
            )


def _describe(example: tuple[str, Row]) -> str:
    """Return a row's id and its problem: its status, or its hard flag if it has a translation."""
    id, row = example
    return (
        f"{id} {row.status if row.status in _BAD_STATUSES else next(flag for flag in row.flags if flag in HARD_FLAGS)}"
    )
