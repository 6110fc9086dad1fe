"""A segment that failed is tried again in the ways of the ladder, and the best translation is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import config, prompt
from hymt_batch.check import assemble, retry
from hymt_batch.check.halves import halves
from hymt_batch.check.settings import LADDER_STEPS, CheckConfig, OnFail, RetryConfig
from hymt_batch.code_prompt import CodePrompts
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError, IdentityError
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import FIRST, Attempt, Prompt, Row, Segment, Status, Translation
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import row_record
from tests.fakes.documents import documents
from tests.fakes.job import translate_with
from tests.fakes.model import Bytes

SOURCE = "The council votes on the budget. All parties take part in it."
GOOD = "Der Rat stimmt über das Budget ab. Alle Parteien nehmen teil."
LOOP = "nein, nein, nein, nein, nein, nein"
Answer = Callable[[str, Attempt], str]


def make_prompt(text: str = SOURCE, row: int = 1) -> tuple[Prompt, CodePrompts]:
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "de")
    before, after = template.instruction(None, None)
    ids = (256, *f"{before}{text}{after}".encode(), 257)
    usual = Prompt(Segment(0, 0, text), f"a#{row}", ids, len(text), "de", "en")
    return usual, CodePrompts(template, Bytes(), 1 << 20)


class Stub:
    """Decodes with a function, and keeps what was asked in each call."""

    def __init__(self, answer: Answer, reason: str = "stop") -> None:
        self.answer, self.reason = answer, reason
        self.calls: list[list[tuple[str, Attempt]]] = []

    def __call__(self, prompts: Sequence[Prompt], attempts: Sequence[Attempt]) -> list[Translation]:
        asked = [
            (bytes(each.ids[1:-1]).decode().rpartition("\n\n")[2], attempt)
            for each, attempt in zip(prompts, attempts or [FIRST] * len(prompts), strict=True)
        ]
        self.calls.append(asked)
        return [
            Translation(each, self.answer(*sent), self.reason, attempt=sent[1].number)
            for each, sent in zip(prompts, asked, strict=True)
        ]


def ladder(*steps: str, **settings: Any) -> CheckConfig:
    return CheckConfig(retry=RetryConfig(ladder=list(steps), max_attempts=1 + len(steps), **settings))


def translate(stub: Stub, config: CheckConfig, *, is_greedy: bool = False, text: str = SOURCE) -> Translation:
    usual, maker = make_prompt(text)
    (translation,) = retry.translate([usual], stub, config, maker=maker, is_greedy=is_greedy)
    assert translation.prompt is usual
    return translation


@pytest.mark.parametrize("bad", ["", LOOP])
@pytest.mark.parametrize("step", LADDER_STEPS)
def test_each_step_mends_what_failed_once(step: str, bad: str) -> None:
    halves_of = dict(zip(map(str.strip, halves(SOURCE) or ()), GOOD.split(". "), strict=True))
    stub = Stub(lambda text, attempt: bad if attempt == FIRST else halves_of.get(text, GOOD))
    translation = translate(stub, ladder(step))
    assert translation.text.replace(".", "") == GOOD.replace(".", "")
    assert (translation.flags, translation.tries, translation.attempt) == (("retried",), (step,), 1)
    ((first,), second) = stub.calls
    assert first == (SOURCE, FIRST)
    sampling = {"seed": "job", "card": "card", "penalty": "penalty", "split": "job"}[step]
    assert [attempt for _, attempt in second] == [Attempt(1, sampling)] * (2 if step == "split" else 1)


def test_the_steps_are_tried_in_their_order_and_again_until_the_attempts_are_used_up() -> None:
    stub = Stub(lambda text, attempt: "")
    config = CheckConfig(retry=RetryConfig(ladder=["card", "split"], max_attempts=6))
    translation = translate(stub, config)
    assert translation.tries == ("card", "split", "card", "split", "card")
    assert [call[0][1].number for call in stub.calls] == [0, 1, 2, 3, 4, 5]
    assert (translation.text, translation.flags, translation.attempt) == ("", ("empty",), 5)


def test_a_greedy_job_leaves_out_what_would_give_the_same_text() -> None:
    stub = Stub(lambda text, attempt: "")
    config = CheckConfig(retry=RetryConfig(ladder=list(LADDER_STEPS), max_attempts=9))
    assert translate(stub, config, is_greedy=True).tries == ("card", "penalty", "split", "card")


def test_the_best_of_all_tries_is_kept_and_the_first_of_equal_ones() -> None:
    answers = [LOOP, "", f"{LOOP}, nein", "Ein zu kurzes"]
    config = ladder("card", "card", "card", kinds=["empty", "loop", "length"])
    stub = Stub(lambda text, attempt: answers[attempt.number])
    translation = translate(stub, config)
    assert (translation.text, translation.flags) == ("Ein zu kurzes", ("retried",)), "less bad than a loop"
    stub = Stub(lambda text, attempt: answers[min(attempt.number, 2)])
    translation = translate(stub, config)
    assert (translation.text, translation.flags) == (LOOP, ()), "never the worse of two, nor another one as bad"
    assert translation.tries == ("card", "card", "card")


def test_each_kind_of_failure_may_have_its_own_ladder() -> None:
    config = CheckConfig(
        retry=RetryConfig(ladder={"loop": ["penalty"], "others": ["card"]}, max_attempts=2, kinds=["empty", "loop"])
    )
    for bad, step in (("", "card"), (LOOP, "penalty")):
        stub = Stub(lambda text, attempt, bad=bad: bad if attempt == FIRST else GOOD)  # type: ignore[misc]
        assert translate(stub, config).tries == (step,)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("copied", SOURCE),
        ("length", "Rat"),
        ("wrong_script", "议会将就预算案进行表决，各个党派都会参加。"),
        ("leak", f"Translation: {GOOD}"),
        ("markdown", f"**{GOOD}**"),
        ("numbers", f"{GOOD} 2019"),
        ("urls", f"{GOOD} https://example.org"),
    ],
)
def test_every_kind_can_be_tried_again_and_none_is_by_default(kind: str, bad: str) -> None:
    stub = Stub(lambda text, attempt: bad if attempt == FIRST else GOOD)
    assert translate(stub, ladder("card")).text == bad
    assert translate(stub, ladder("card", kinds=[kind])).text == GOOD


def test_all_that_is_tried_at_the_same_time_is_one_call() -> None:
    prompts, makers = zip(*(make_prompt(SOURCE, row) for row in range(1, 6)), strict=True)
    stub = Stub(lambda text, attempt: "" if attempt.number < 2 else GOOD)
    results = retry.translate(prompts, stub, ladder("card", "penalty", "card"), maker=makers[0], is_greedy=True)
    assert [len(call) for call in stub.calls] == [5, 5, 5]
    assert [each.prompt.row_id for each in results] == [f"a#{row}" for row in range(1, 6)]
    assert {each.tries for each in results} == {("card", "penalty")}


@pytest.mark.parametrize(
    "text", ["", "short", "one two three four", "没有空格的一段很长的中文文本在这里", SOURCE, "a\n\nb" * 9, "x" * 50]
)
def test_a_text_in_two_halves_is_the_text(text: str) -> None:
    pieces = halves(text)
    if pieces is None:
        assert len(text) < 12
    else:
        assert "".join(pieces) == text
        assert all(piece.strip() for piece in pieces)
        assert min(map(len, pieces)) >= len(text) // 4


def test_a_text_that_cannot_be_split_is_not() -> None:
    stub = Stub(lambda text, attempt: "")
    assert translate(stub, ladder("split"), text="Hello").tries == ()


@pytest.mark.parametrize(
    ("settings", "needle"),
    [
        ({"ladder": ["beam"]}, "seed,card,penalty,split"),
        ({"ladder": []}, "is not a list of its steps"),
        ({"ladder": {"loops": ["card"]}}, "loops, which is no kind of failure"),
        ({"kinds": ["ratio"]}, "ratio, which is none of its kinds"),
        ({"max_attempts": 0}, "below 1"),
        ({"loop_repeats": 1}, "below 2"),
        ({"min_logprob": 0.5}, "above 0"),
        ({"length_factor": 0.9}, "below 1"),
        ({"foreign_share": 0.4}, "foreign_share"),
        ({"source_words": 2}, "below 3"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], needle: str) -> None:
    with pytest.raises(ConfigError, match=needle):
        RetryConfig(**settings)


def test_rows_are_not_measured_for_fewer_repeats_than_second_tries_need() -> None:
    words = ["source.path=a.txt", "tgt_lang=de", "check.flag.loop_repeats=2"]
    with pytest.raises(ConfigError, match=r"check\.retry\.loop_repeats=2"):
        config.load("translate", words)
    config.load("translate", [*words, "check.retry.loop_repeats=2"])


@pytest.mark.parametrize(
    ("on_fail", "status", "text"),
    [
        (OnFail.keep, Status.OK, LOOP),
        (OnFail.source, Status.COPIED, SOURCE),
        (OnFail.empty, Status.OK, ""),
        (OnFail.error, Status.GENERATION_ERROR, ""),
    ],
)
def test_on_fail_says_what_is_written_of_a_row_that_failed(on_fail: OnFail, status: Status, text: str) -> None:
    (document,) = documents([SOURCE])
    row = Row(0, document.digest, Status.OK, LOOP, num_source_tokens=9, measures=(("loop", 6),))
    shaped = assemble.shape_row(document, row, True, CheckConfig(on_fail=on_fail))
    assert (shaped.status, shaped.text, shaped.flags[0]) == (status, text, "loop")
    assert ("source_kept" in shaped.flags) == (on_fail is OnFail.source)
    good = Row(0, document.digest, Status.OK, GOOD, num_source_tokens=9)
    assert assemble.shape_row(document, good, True, CheckConfig(on_fail=on_fail)) == good


class Job:
    """Runs jobs whose model errs at first: by the seed of a request, 0 in a greedy first try."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.decoded, self.stop_at = folder, 0, 0
        self.sources = [f"Row {n} {'never ' * (n % 3)}is about the budget of the town." for n in range(40)]
        (folder / "a.txt").write_text("".join(f"{source}\n" for source in self.sources))

    def __call__(self, name: str, *words: str) -> Any:
        overrides = [f"output_dir={self.folder / 'out'}", f"source.path={self.folder / 'a.txt'}", f"name={name}"]
        settings = config.load("translate", [*overrides, "tgt_lang=de", "model=demo", "batch.part_rows=8", *words])
        with Reporter("off") as reporter:
            return translate_with(settings, reporter, self._decode)

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions = []
        for request in requests:
            self.decoded += 1
            if self.decoded == self.stop_at:
                raise InterruptedError
            text = bytes(request.prompt_ids[1:-1]).decode().rpartition("\n\n")[2]
            answer = f"{text.upper()} {request.seed % 1000}" if request.seed % 3 else ""
            if "NEVER NEVER" in text.upper():
                answer = "nie, nie, nie, nie, nie"
            completions.append(Completion(list(answer.encode()), "stop"))
        return completions

    def text(self, name: str) -> bytes:
        return (self.folder / "out" / name / "translated/a.txt").read_bytes()


RETRY = ("check=ladder", "check.max_error_rate=1")


def test_a_stopped_job_tries_again_to_the_same_bytes_and_counts_the_tries(tmp_path: Path) -> None:
    job = Job(tmp_path)
    summary = job("whole", *RETRY)
    assert summary.tries["card"] > 20 and summary.tries["split"] > 0
    assert json.loads((tmp_path / "out/whole/manifest.json").read_bytes())["tries"] == dict(summary.tries)
    lines = job.text("whole").decode().splitlines()
    assert len(lines) == len(job.sources)
    assert all(
        not line or line.startswith((source.upper()[:6], "nie"))
        for line, source in zip(lines, job.sources, strict=True)
    )
    assert 10 < sum(line.startswith("ROW") for line in lines) < 27, "some were mended"
    job.decoded, job.stop_at = 0, 60
    with pytest.raises(InterruptedError):
        job("stopped", *RETRY)
    job.stop_at = 0
    job("stopped", *RETRY)
    assert job.text("stopped") == job.text("whole")


def test_thresholds_of_a_finished_job_change_its_flags_and_decode_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)
    first = job("a", *RETRY)
    assert first.flags["loop"] == 13
    before, job.decoded = job.text("a"), 0
    with pytest.raises(IdentityError, match=r"check\.retry\.loop_repeats"):
        job("a", *RETRY, "check.retry.loop_repeats=6")
    changes: list[tuple[str, ...]] = [
        ("check.flag.loop_repeats=6",),
        ("check.flag.kinds=[numbers]",),
        ("check.flag.length_factor=1.01", "check.on_fail=source"),
        (),
    ]
    for number, words in enumerate(changes):
        changed = job("a", *RETRY, *words)
        assert changed.num_rows_decoded == 0 == job.decoded
        fresh = job(f"fresh{number}", *RETRY, *words)
        assert (changed.flags, changed.counts, job.text("a")) == (fresh.flags, fresh.counts, job.text(f"fresh{number}"))
        assert ("loop" in changed.flags) == (number in (2, 3))
        assert (job.text("a") == before) == (number != 2)
        job.decoded = 0


def test_thresholds_that_change_in_the_middle_never_mix(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.stop_at = 60
    with pytest.raises(InterruptedError):
        job("a", *RETRY)
    job.stop_at = 0
    changed = job("a", *RETRY, "check.flag.loop_repeats=6")
    fresh = job("b", *RETRY, "check.flag.loop_repeats=6")
    assert changed.flags == fresh.flags and "loop" not in changed.flags


class Languages:
    """A job whose model answers in German or Dutch, and how often a language was identified."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from hymt_batch.check import language_id

        self.job, self.calls = Job(folder), 0
        monkeypatch.setattr(self.job, "_decode", self._decode)
        original = language_id.identify

        def identify(text: str, code: str) -> Any:
            self.calls += 1
            found = original(text, code)
            return found and (found[0], min(found[1], 0.8))  # so that a margin can leave it out

        monkeypatch.setattr(language_id, "identify", identify)

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions = []
        for request in requests:
            self.job.decoded += 1
            source = bytes(request.prompt_ids[1:-1]).decode().rpartition("\n\n")[2]
            number = int(source.split()[1])
            german = f"In Zeile {number} geht es um den Haushalt der Stadt, der lange beraten wurde."
            dutch = f"Rij {number} gaat over de begroting van de stad, waarover lang is gesproken."
            completions.append(Completion(list((dutch if number % 4 == 1 else german).encode()), "stop"))
        return completions

    def records(self, name: str) -> list[Path]:
        return sorted((self.job.folder / "out" / name / ".hymt").rglob("*.rows"))


def test_the_language_of_a_row_is_kept_with_its_margin_and_not_identified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("py3langid")
    languages = Languages(tmp_path, monkeypatch)
    first = languages.job("a", "check.flag.identify_share=1", "launch.report=true")
    assert (first.flags["wrong_language"], languages.calls) == (10, 40)
    (path,) = languages.records("a")
    rows = row_record.decode(path.read_bytes())[1].rows
    assert [row.language[0] for row in rows if row.language] == [("nl" if n % 4 == 1 else "de") for n in range(40)]
    assert all((row.language[1] > 0.5) == (row.language[0] == "nl") for row in rows if row.language)
    languages.job.decoded = languages.calls = 0
    for number, words in enumerate(
        (["check.flag.language_margin=0.9"], ["check.flag.kinds=[loop]"], ["write=jsonl"], [])
    ):
        changed = languages.job("a", "check.flag.identify_share=1", *words)
        assert changed.flags.get("wrong_language", 0) == (0 if number < 2 else 10)
    sampled = languages.job("a", "check.flag.identify_share=0.5")
    assert 0 < sampled.flags["wrong_language"] < 10
    assert (languages.job.decoded, languages.calls) == (0, 0)


def test_a_row_that_was_not_identified_is_when_the_share_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("py3langid")
    languages = Languages(tmp_path, monkeypatch)
    assert not languages.job("a").flags.get("wrong_language")
    assert languages.calls == 0
    few = languages.job("b", "check.flag.identify_share=0.4")
    num_known = languages.calls
    assert 0 < num_known < 40
    assert languages.job("a", "check.flag.identify_share=0.4").flags == few.flags  # as rows of an earlier version are
    languages.calls = 0
    whole = languages.job("b", "check.flag.identify_share=1")
    assert (whole.flags["wrong_language"], languages.calls) == (10, 40 - num_known)


def test_settings_of_earlier_versions_are_understood_with_a_note() -> None:
    words = ["source.path=a.txt", "tgt_lang=de", "check.max_attempts=3", "check.loop_repeats=4", "check.min_logprob=-2"]
    point = config.load_point("translate", words)
    check = point.job.check
    assert (check.retry.max_attempts, check.retry.loop_repeats, check.flag.loop_repeats) == (3, 4, 4)
    assert (check.flag.min_logprob, check.retry.min_logprob) == (-2.0, None)
    assert "check.loop_repeats is now check.retry.loop_repeats and check.flag.loop_repeats" in point.notes
    swept = config.load_sweep("translate", [*words[:2], "check.max_attempts=1,2"])
    assert [(point.label, point.job.check.retry.max_attempts) for point in swept] == [
        ("check.max_attempts=1", 1),
        ("check.max_attempts=2", 2),
    ]


def test_a_language_is_identified_only_with_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hymt_batch.check import language_id
    from hymt_batch.errors import PreflightError

    monkeypatch.setattr(language_id, "is_installed", lambda: False)
    for word in ("check.flag.identify_share=0.5", "check.retry.kinds=[wrong_language]"):
        with pytest.raises(PreflightError, match=r"hymt-batch\[check\]"):
            Job(tmp_path)("a", word, "check.retry.max_attempts=2")
