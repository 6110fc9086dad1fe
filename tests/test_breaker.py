"""The circuit breaker stops a job whose model cannot be right and keeps the committed parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hymt_batch.check.settings import CheckConfig
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError, ExitCode, PreflightError
from hymt_batch.records import Row, Status
from hymt_batch.run.breaker import CircuitBreaker
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.test_workers import corpus, run, texts


def observe(breaker: CircuitBreaker, rel: str, rows: Sequence[Row]) -> None:
    breaker.observe({row.row_index: f"{rel}#{row.row_index + 1}" for row in rows}, rows)


def rows(status: Status, num: int, flags: tuple[str, ...] = (), source_tokens: int = 5) -> list[Row]:
    return [Row(n, b"", status, "text", flags, num_source_tokens=source_tokens) for n in range(num)]


@pytest.mark.parametrize(
    "bad",
    [
        rows(Status.GENERATION_ERROR, 60),
        rows(Status.EMPTY, 60),
        rows(Status.TRUNCATED, 60, ("truncated",)),
        rows(Status.OK, 60, ("loop",)),
        rows(Status.CRASH_QUARANTINED, 60),
    ],
)
def test_more_bad_rows_than_the_stop_rate_stop_the_job(bad: Sequence[Row]) -> None:
    breaker = CircuitBreaker(CheckConfig(stop_rate=0.5, stop_rows=100))
    observe(breaker, "in.txt", rows(Status.OK, 39))
    observe(breaker, "in.txt", bad[:59])  # 59 of 98: too few rows to judge
    with pytest.raises(PreflightError, match=r"60\.0 % of the first 100 rows"):
        observe(breaker, "in.txt", [*bad[59:], *rows(Status.OK, 1)])


@pytest.mark.fault(68)
def test_more_than_a_thousandth_of_non_finite_rows_stops_the_job() -> None:
    breaker = CircuitBreaker(CheckConfig())
    observe(breaker, "in.txt", rows(Status.OK, 999))
    observe(breaker, "in.txt", rows(Status.NON_FINITE, 1))
    with pytest.raises(PreflightError, match="NaN or infinity"):
        observe(breaker, "in.txt", rows(Status.NON_FINITE, 1))


def test_the_message_names_ten_bad_rows_with_their_problems() -> None:
    breaker = CircuitBreaker(CheckConfig(stop_rows=20))
    observe(
        breaker,
        "a.txt",
        [*rows(Status.OK, 9), Row(9, b"", Status.TRUNCATED, "text", ("truncated",), num_source_tokens=9)],
    )
    bad = [Row(n, b"", Status.OK, "text", ("retried", "loop"), num_source_tokens=1) for n in range(4)]
    with pytest.raises(PreflightError) as stopped:
        observe(breaker, "b.txt", [*bad, *(Row(4 + n, b"", Status.EMPTY, "") for n in range(10))])
    message = str(stopped.value)
    assert "The first of them: a.txt#10 truncated, b.txt#1 loop, b.txt#2 loop, " in message
    assert "b.txt#5 empty, b.txt#6 empty, b.txt#7 empty, b.txt#8 empty, b.txt#9 empty. Committed" in message


def test_only_the_non_finite_rows_are_named() -> None:
    breaker = CircuitBreaker(CheckConfig(stop_rows=10))
    with pytest.raises(PreflightError, match=r"NaN or infinity .* They are: in\.txt#1 non_finite\. Committed"):
        observe(breaker, "in.txt", [*rows(Status.NON_FINITE, 1), *rows(Status.EMPTY, 3), *rows(Status.OK, 20)])


def test_rows_that_never_reached_the_model_do_not_count() -> None:
    breaker = CircuitBreaker(CheckConfig(stop_rows=10))
    observe(breaker, "in.txt", rows(Status.BAD_ENCODING, 500, source_tokens=0))
    observe(breaker, "in.txt", rows(Status.TOO_LONG, 500, source_tokens=0))
    observe(breaker, "in.txt", rows(Status.OK, 20))


def test_a_stop_rate_of_1_never_stops_the_job() -> None:
    observe(CircuitBreaker(CheckConfig(stop_rate=1, stop_rows=1)), "in.txt", rows(Status.NON_FINITE, 100))
    with pytest.raises(ConfigError, match="stop_rate"):
        CheckConfig(stop_rate=0)


def test_a_model_without_output_stops_the_job_and_committed_parts_are_kept(tmp_path: Path) -> None:
    corpus(tmp_path)

    def silent(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [Completion([], "stop") for _ in requests]

    with pytest.raises(PreflightError, match=r"check\.stop_rate=1"):
        run(tmp_path, "check.stop_rows=12", decode=silent)
    kept = list((tmp_path / "job" / ".hymt").glob("f*/s*/p*"))
    assert len(kept) == 2
    assert not (tmp_path / "job" / "manifest.json").exists()
    assert run(tmp_path, "check.stop_rate=1", decode=fake_engine.upper) == ExitCode.COMPLETE
    assert texts(tmp_path).count("") == 12


def test_one_and_the_same_translation_of_many_sources_stops_the_job() -> None:
    breaker = CircuitBreaker(CheckConfig(stop_rate=0.5, stop_rows=100))
    of_all = [Row(n, b"", Status.OK, "onse }" if n % 10 else f"text {n}", num_source_tokens=5) for n in range(120)]

    def observe_with(sources: Sequence[str], first: int, last: int) -> None:
        some = of_all[first:last]
        ids = {row.row_index: f"in.txt#{row.row_index + 1}" for row in some}
        breaker.observe(ids, some, {row.row_index: sources[row.row_index] for row in some})

    observe_with(["the same"] * 120, 0, 120)  # one source, many times: nothing is known
    breaker = CircuitBreaker(CheckConfig(stop_rate=0.5, stop_rows=100))
    different = [f"source {n}" for n in range(120)]
    observe_with(different, 0, 90)
    with pytest.raises(PreflightError, match=r'one and the same translation, "onse }"') as caught:
        observe_with(different, 90, 120)
    assert "in.txt#2, in.txt#3" in str(caught.value)
    CircuitBreaker(CheckConfig(stop_rate=1)).observe({}, of_all, dict(enumerate(different)))


def test_a_job_whose_model_says_one_thing_to_everything_stops(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line number {n}\n" for n in range(60)))

    def one_thing(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [Completion(list(b"onse }"), "stop") for _ in requests]

    words = [f"source.path={tmp_path / 'in.txt'}", f"output_dir={tmp_path / 'out'}", "name=n", "tgt_lang=fr"]
    words += ["model=demo", "batch.part_rows=20", "check.stop_rows=30"]
    assert fake_job.run(words, one_thing) == ExitCode.PREFLIGHT
    assert fake_job.run([*words, "check.stop_rate=1"], one_thing) == ExitCode.COMPLETE
