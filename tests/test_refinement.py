"""`retry` with a model that makes one translation of several: where candidates come from, and what becomes of a row."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hymt_batch import config, manifest, prompt
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError, ExitCode, TextError
from hymt_batch.fs import OS_FS
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import Document, Segment, Status
from hymt_batch.run.candidates import Candidates
from jobs import __main__ as front
from jobs import status, verify
from tests.fakes import job as fake_job
from tests.fakes.model import Bytes

CHIMERA = ("model=demo", "model.family=hunyuan_mt_chimera")
ASKED = re.compile(r"The (.*?) segment:\n```(.*?)```\n\nThe multiple `(.*?)` translations:\n(.*)", re.DOTALL)


class Decoder:
    """Marks each translation; of a prompt with candidates, the translation is the list of them."""

    def __init__(self) -> None:
        self.mark = ""
        self.asked: list[tuple[str, str, list[str]]] = []  # source, its language, candidates
        self.cut: set[str] = set()  # words of sources whose translation does not end
        self.stop_after: int | None = None

    def __call__(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                raise fake_job.Interrupted
        return [self._complete(bytes(request.prompt_ids[1:-1]).decode()) for request in requests]

    def _complete(self, text: str) -> Completion:
        if found := ASKED.search(text):
            candidates = re.findall(r"^\d+\. ```(.*?)```$", found[4], re.MULTILINE | re.DOTALL)
            self.asked.append((found[2], found[1], candidates))
            return Completion(list("+".join(candidates).encode()), "stop")
        source = text.partition("\n\n")[2]
        is_cut = any(word in source for word in self.cut)
        return Completion(list(f"{source.upper()}{self.mark}".encode()), "length" if is_cut else "stop")


class Jobs:
    """Jobs over one input, and the commands that run on them in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.decoder = folder, Decoder()
        self.source = folder / "in.txt"

    def write(self, *lines: str) -> None:
        self.source.write_text("".join(f"{line}\n" for line in lines))

    def run(self, command: str, *words: str) -> int:
        self.decoder.asked.clear()
        common = (f"output_dir={self.folder / 'out'}", "launch.progress=off", "launch.workers=1")
        with fake_job.installed(self.decoder):
            return front.main([command, *common, *words])

    def translate(self, name: str, *words: str, mark: str = "") -> int:
        self.decoder.mark = mark
        given = (f"source.path={self.source}", "src_lang=en", "tgt_lang=fr", "model=demo", "check.max_error_rate=1")
        return self.run("translate", f"name={name}", *given, "launch.report=false", *words)

    def refine(self, *words: str, name: str = "a") -> int:
        return self.run("retry", f"name={name}", *CHIMERA, *words)

    def lines(self, name: str = "a") -> list[str]:
        return (self.folder / "out" / name / "translated" / "in.txt").read_text().splitlines()

    def published(self, name: str = "a") -> dict[str, bytes]:
        out = self.folder / "out" / name
        found = [path for kind in ("translated", "errors", "review") for path in (out / kind).rglob("*")]
        return {str(path.relative_to(out)): path.read_bytes() for path in [*found, out / "manifest.json"]}


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    jobs = Jobs(tmp_path)
    jobs.write("one", "two", "three")
    return jobs


def test_a_row_is_refined_from_its_translation_those_of_its_passes_and_those_of_other_jobs(jobs: Jobs) -> None:
    assert jobs.translate("a") == jobs.translate("b", mark="!") == jobs.translate("c", mark="?") == 0
    jobs.decoder.cut, jobs.decoder.mark = {"two"}, ""
    assert jobs.translate("d", mark="#") == 0  # its "two" is truncated, which is no candidate
    jobs.decoder.mark = "~"
    assert jobs.run("retry", "name=a", "statuses=[ok]", "seed=1", "decode=recommended") == 0
    assert jobs.lines() == ["ONE~", "TWO", "THREE~"], "a truncated row does not replace one that is whole"
    assert jobs.refine("statuses=[ok]", "candidates=[b,c,d]") == 0
    assert jobs.decoder.asked == [
        ("three", "English", ["THREE", "THREE~", "THREE!", "THREE?", "THREE#"]),
        ("one", "English", ["ONE", "ONE~", "ONE!", "ONE?", "ONE#"]),
        ("two", "English", ["TWO", "TWO!", "TWO?"]),
    ]
    assert jobs.lines() == ["ONE+ONE~+ONE!+ONE?+ONE#", "TWO+TWO!+TWO?", "THREE+THREE~+THREE!+THREE?+THREE#"]
    assert verify.verify(jobs.folder / "out" / "a").exit_code is ExitCode.COMPLETE
    assert status.status(jobs.folder / "out" / "a").state == "complete"


def test_a_prompt_lists_six_candidates_at_most_and_each_text_once(jobs: Jobs) -> None:
    names = [f"n{number}" for number in range(8)]
    assert all(jobs.translate(name, mark="!" * (number // 2)) == 0 for number, name in enumerate(names))
    assert jobs.refine("statuses=[ok]", f"candidates=[{','.join(names[1:])}]", name="n0") == 0
    assert [candidates for source, _, candidates in jobs.decoder.asked if source == "one"] == [
        ["ONE", "ONE!", "ONE!!", "ONE!!!"]
    ]
    others = [f"m{number}" for number in range(8)]
    assert all(jobs.translate(name, mark=str(number)) == 0 for number, name in enumerate(others))
    assert jobs.refine("statuses=[ok]", f"candidates=[{','.join(others)}]", name="m7") == 0
    assert jobs.lines("m7")[0] == "ONE7+ONE0+ONE1+ONE2+ONE3+ONE4", "the job itself comes first, and counts once"


def test_only_rows_with_two_different_candidates_are_refined_and_the_others_are_told(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.translate("a") == jobs.translate("same") == 0
    jobs.write("one", "2", "three")
    assert jobs.translate("other", mark="!") == 0
    jobs.write("one", "two", "three")
    before = jobs.published()
    assert jobs.refine("statuses=[ok]") == jobs.refine("statuses=[ok]", "candidates=[same]") == 0
    assert jobs.published() == before and not jobs.decoder.asked
    error = capsys.readouterr().err
    assert "3 rows: fewer than 2 different candidate translations, so they are not refined" in error
    assert jobs.refine("statuses=[ok]", "candidates=[other]") == 0
    assert jobs.lines() == ["ONE+ONE!", "TWO", "THREE+THREE!"], "another source in the same place gives no candidate"
    assert "1 row: fewer than 2 different candidate translations, so it is not refined" in capsys.readouterr().err


def test_a_row_that_is_too_long_with_its_candidates_gets_fewer_of_them_and_then_stays(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fakes import model

    jobs.write("a" * 115, "b" * 170, "short")
    assert jobs.translate("a") == jobs.translate("b", mark="!") == jobs.translate("c", mark="?") == 0
    monkeypatch.setattr(model, "prepare", lambda *_: model.Model(max_context=860))
    assert jobs.refine("statuses=[ok]", "candidates=[b,c]") == 0
    told = capsys.readouterr()
    assert "1 row: model.max_context=860 has no room for all candidate translations" in told.err
    assert "1 row: too long for model.max_context=860 with 2 candidate translations; not refined" in told.err
    assert "3 rows decoded again, 2 replaced, 1 stayed as they were" in told.out
    assert jobs.lines() == [
        "A" * 115 + "+" + "A" * 115 + "!",
        "B" * 170,
        "SHORT+SHORT!+SHORT?",
    ]


def test_a_pass_that_is_stopped_anywhere_ends_with_the_same_bytes(jobs: Jobs) -> None:
    jobs.write(*(f"line {number} {'x' * (number % 7)}" for number in range(40)))
    for name, mark in (("a", ""), ("b", "!"), ("c", "?")):
        assert jobs.translate(name, "batch.part_rows=4", mark=mark) == 0
    out = jobs.folder / "out"
    shutil.copytree(out / "a", jobs.folder / "fresh")
    words = ("statuses=[ok]", "candidates=[b,c]")
    assert jobs.refine(*words) == 0
    whole = jobs.published()
    for stop_after in (0, 3, 9):
        shutil.rmtree(out / "a")
        shutil.copytree(jobs.folder / "fresh", out / "a")
        jobs.decoder.stop_after = stop_after
        assert jobs.refine(*words) == 70
        jobs.decoder.stop_after = None
        assert jobs.refine(*words) == 0
        assert len(jobs.decoder.asked) == 40 - 4 * stop_after
        assert jobs.published() == whole


def test_the_identity_of_a_pass_has_the_rows_of_its_candidates(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs.translate("a") == jobs.translate("b", mark="!") == jobs.translate("c", mark="?") == 0
    jobs.decoder.stop_after = 0
    assert jobs.refine("statuses=[ok]", "candidates=[b]") == 70
    jobs.decoder.stop_after = None
    assert jobs.refine("statuses=[ok]", "candidates=[c]") == 3
    assert "candidates" in capsys.readouterr().err
    assert jobs.translate("b", "overwrite=true", mark="*") == 0
    assert jobs.refine("statuses=[ok]", "candidates=[b]") == 3, "the rows of b are others now"
    assert jobs.refine("statuses=[ok]", "candidates=[b]", "overwrite=true") == 0
    assert jobs.lines() == ["ONE+ONE*", "TWO+TWO*", "THREE+THREE*"]


def test_rows_that_change_while_they_are_refined_end_the_pass(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.translate("a") == jobs.translate("b", mark="!") == 0
    before = jobs.lines()

    class Changing(Candidates):
        def check_unchanged(self) -> None:
            other = jobs.folder / "out" / "b"
            shutil.rmtree(other)
            shutil.copytree(jobs.folder / "later", other)
            super().check_unchanged()

    assert jobs.translate("later", mark="*") == 0
    shutil.move(jobs.folder / "out" / "later", jobs.folder / "later")
    monkeypatch.setattr("hymt_batch.run.candidates.Candidates", Changing)
    assert jobs.refine("statuses=[ok]", "candidates=[b]") == 3
    assert "changed while their translations were refined" in capsys.readouterr().err
    assert jobs.lines() == before


def test_a_pass_that_was_killed_while_it_was_published_is_not_run_again(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hymt_batch.write.output import Output

    original = Output.assemble_outdated

    def interrupt(output: Output) -> None:
        if output.job_record.passes:
            raise fake_job.Interrupted
        original(output)

    assert jobs.translate("a") == jobs.translate("b", mark="!") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Output, "assemble_outdated", interrupt)
        assert jobs.refine("statuses=[ok]", "candidates=[b]") == 70
    assert jobs.refine("statuses=[ok]", "candidates=[b]") == 0
    assert jobs.decoder.asked == []
    assert jobs.lines() == ["ONE+ONE!", "TWO+TWO!", "THREE+THREE!"]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["candidates=[nothere]"], "there is no job 'nothere'"),
        (["candidates=[german]"], "whose target language is de, not fr"),
        (["candidates=[elsewhere]"], "which has no input with the name of one of this job"),
        (["segment.on_too_long=split"], "does not go with candidate translations"),
        (["prompt.language=zh"], "the model's card has its prompt in English alone"),
        (["prompt.family=hy_mt2"], "does not go with model.family=hunyuan_mt_chimera"),
        (["model.family=hy_mt1_5", "candidates=[b]"], "is for a model that makes one translation of several"),
        (["candidates=[]"], "is not a list of jobs"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    jobs: Jobs, words: list[str], needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.translate("a") == 0
    if "german" in words[0]:
        assert jobs.translate("german", "tgt_lang=de") == 0
    elif "elsewhere" in words[0]:
        (jobs.folder / "other.txt").write_text("one\n")
        assert jobs.translate("elsewhere", f"source.path={jobs.folder / 'other.txt'}") == 0
    elif "candidates=[b]" in words:
        assert jobs.translate("b") == 0
    assert jobs.refine("statuses=[ok]", *words) != 0
    assert needle in capsys.readouterr().err
    assert jobs.lines() == ["ONE", "TWO", "THREE"]


def test_a_job_that_reads_another_field_of_the_rows_is_refused(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.source = jobs.folder / "in.jsonl"
    jobs.write('{"title":"one","text":"uno"}', '{"title":"two","text":"duo"}')
    assert jobs.translate("a") == jobs.translate("b", "source.text_field=title") == 0
    assert jobs.refine("statuses=[ok]", "candidates=[b]") == 2
    assert "reads its rows in another way: source.text_field is 'title', not 'text'" in capsys.readouterr().err


def test_each_point_of_a_sweep_is_refined_from_the_others(jobs: Jobs) -> None:
    jobs.decoder.mark = "x"
    assert jobs.run(
        "translate", "-m", "name=s", f"source.path={jobs.source}", "src_lang=en", "tgt_lang=fr", "model=demo",
        "seed=1,2,3", "launch.report=false",
    ) == 0  # fmt: skip
    assert jobs.translate("z", mark="z") == 0
    assert jobs.refine("statuses=[ok]", "candidates=[s]", name="z") == 0
    assert jobs.lines("z")[0] == "ONEz+ONEx", "equal texts of several points count once"
    assert jobs.refine("statuses=[ok]", "candidates=[s,z]", name="s") == 0
    assert [jobs.lines(f"s/seed={seed}")[0] for seed in (1, 2, 3)] == ["ONEx+ONEz"] * 3, "what was refined is left out"


def test_codes_are_kept_and_no_half_is_tried(jobs: Jobs) -> None:
    jobs.write("Go <b>home</b> now. It is late and the shop is shut.", "two", "three")
    words = ("check.code_rows=true", "check=ladder")
    assert jobs.translate("a", *words) == jobs.translate("b", *words, mark="!") == 0
    assert jobs.refine("statuses=[ok]", "candidates=[b]", "check=ladder", "check.code_rows=true") == 0
    sources = {source for source, _, _ in jobs.decoder.asked}
    assert sources == {"Go <b>home</b> now. It is late and the shop is shut.", "two", "three"}


def test_the_prompt_is_that_of_the_card_and_no_text_is_a_template() -> None:
    template = prompt.resolve_template(PromptConfig(), "hunyuan_mt_chimera", "en", "zh")
    documents = [Document("a#1", 0, "{text} {target} ``` {0}", bytes(8), candidates=("{target}", "%s {text}"))]
    (made,), rejected = prompt.render([Segment(0, 0, documents[0].text or "")], documents, Bytes(), template, 1 << 20)
    assert not rejected
    assert bytes(made.ids[1:-1]).decode() == (
        "Analyze the following multiple Chinese translations of the English segment surrounded in triple backticks and "
        "generate a single refined Chinese translation. Only output the refined translation, do not explain.\n\n"
        "The English segment:\n```{text} {target} ``` {0}```\n\nThe multiple `Chinese` translations:\n"
        "1. ```{target}```\n2. ```%s {text}```"
    )
    assert made.num_source_tokens == len("{text} {target} ``` {0}")


def test_a_source_language_that_nobody_names_is_called_source(caplog: pytest.LogCaptureFixture) -> None:
    template = prompt.resolve_template(PromptConfig(), "hunyuan_mt_chimera", None, "fr")
    assert "The source segment:" in template.instruction(None, None)[0]
    assert "The German segment:" in template.instruction("de", None)[0]
    assert "src_lang is not set" in caplog.text


def test_a_row_without_room_for_two_candidates_is_rejected_with_the_reason() -> None:
    template = prompt.make_template(PromptConfig(), "hunyuan_mt_chimera", "en", "fr")
    documents = [Document("a#1", 0, "a" * 50, bytes(8), candidates=("b" * 60, "c" * 60))]
    made, rejected = prompt.render([Segment(0, 0, "a" * 50)], documents, Bytes(), template, 500)
    assert not made
    assert rejected[0].status is Status.TOO_LONG
    assert "with 2 candidate translations leaves" in rejected[0].message


def test_a_candidate_that_the_tokenizer_fails_on_costs_its_row_alone() -> None:
    class Failing(Bytes):
        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            if any("bad" in text for text in texts):
                raise TextError("the tokenizer failed")
            return super().encode(texts)

        def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]:
            return self.encode([head + text for text in texts])

    template = prompt.make_template(PromptConfig(), "hunyuan_mt_chimera", "en", "fr")
    candidates = [("un", "deux"), ("un", "bad"), ("trois", "quatre")]
    documents = [Document(f"a#{n}", n, "one", bytes(8), candidates=each) for n, each in enumerate(candidates)]
    segments = [Segment(n, 0, "one") for n in range(3)]
    made, rejected = prompt.render(segments, documents, Failing(), template, 1000)
    assert [each.row_id for each in made] == ["a#0", "a#2"]
    assert rejected[1].status is Status.GENERATION_ERROR and "the tokenizer failed" in rejected[1].message


def test_a_model_that_refines_translates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retry refines the translations with it: docs/retry\.md"):
        config.load("translate", ["source.path=x", "tgt_lang=fr", *CHIMERA])


def test_the_demo_models_architecture_refines(tmp_path: Path) -> None:
    """The demo model was not trained for it: its answers mean nothing, but each row has one, and one pass resumes."""
    (tmp_path / "in.txt").write_text("Rain is expected in Oslo on Monday.\nThe ferry leaves at nine.\n")
    common = [f"output_dir={tmp_path / 'out'}", "launch.progress=off", "decode.max_new_tokens=96"]
    given = [f"source.path={tmp_path / 'in.txt'}", "src_lang=en", "model=demo", "launch.report=false"]
    assert front.main(["translate", "name=a", *common, *given, "tgt_lang=fr"]) == 0
    hot = ["decode=recommended", "model.sampling.temperature=3", "model.sampling.top_p=1", "model.sampling.top_k=0"]
    assert front.main(["translate", "name=b", *common, *given, *hot, "tgt_lang=fr"]) in (0, 10)
    assert front.main(["retry", "name=a", *common, *CHIMERA, "statuses=[ok]", "candidates=[b]"]) in (0, 10)
    assert verify.verify(tmp_path / "out" / "a").exit_code is ExitCode.COMPLETE
    assert len((tmp_path / "out/a/translated/in.txt").read_text().splitlines()) == 2
    (refined,) = manifest.read(OS_FS, tmp_path / "out" / "a")["passes"]
    assert refined["rows"] == 2 and len(refined["identity"]["candidates"]) == 2
    assert refined["identity"]["prompt"]["family"] == "hunyuan_mt_chimera"
