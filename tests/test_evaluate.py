"""`evaluate`: the figures of sacrebleu, references that belong to the rows, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.evaluate import bootstrap, metrics
from hymt_batch.evaluate.settings import MetricName
from jobs import __main__ as front
from tests.fakes.job import Job
from tests.fakes.job import run as translate

pytest.importorskip("sacrebleu")

SOURCES = [
    "the cat sat on the mat",
    "It rains in Paris today.",
    "a b c d e f",
    "Nothing is left of it",
    "one two three",
]
REFERENCES = [
    "THE CAT SAT ON A MAT",
    "IT RAINS IN LYON TODAY.",
    "A B C D E F",
    "NOTHING WAS LEFT",
    "ONE TWO THREE FOUR",
]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def finished(job: Job, tmp_path: Path) -> Path:
    """A folder with a job `n` that upper-cased SOURCES, and their references in ref.txt."""
    write(tmp_path / "in.txt", SOURCES)
    write(tmp_path / "ref.txt", REFERENCES)
    job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    return tmp_path


def run(folder: Path, *words: str, name: str = "n", references: str = "ref.txt") -> int:
    names = [f"name={name}", f"output_dir={folder / 'out'}", f"references={folder / references}"]
    return front.main(["evaluate", *names, *words])


def scores(folder: Path, name: str = "n") -> dict[str, Any]:
    return manifest.unseal((folder / "out" / name / "evaluation" / "scores.json").read_bytes())


def row_lines(folder: Path, name: str = "n") -> list[dict[str, Any]]:
    text = (folder / "out" / name / "evaluation" / "rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def sacrebleu_cli(*words: str) -> list[dict[str, Any]]:
    """Run sacrebleu's own command line, and return what it prints for each metric."""
    command = [sys.executable, "-m", "sacrebleu", *words, "--format", "json", "--width", "6"]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return printed if isinstance(printed, list) else [printed]


@pytest.mark.parametrize(
    ("tgt_lang", "tokenizer", "ter_words"),
    [
        ("fr", "13a", []),
        ("zh", "zh", ["--ter-normalized", "--ter-asian-support"]),
        ("ja", "char", ["--ter-normalized", "--ter-asian-support"]),
        ("ko", "char", []),
    ],
)
def test_the_figures_are_those_of_the_command_line_of_sacrebleu(
    tgt_lang: str,
    tokenizer: str,
    ter_words: list[str],
    job: Job,
    tmp_path: Path,
) -> None:
    sources = [*SOURCES, "今天 巴黎 下雨。", "猫坐在垫子上", "雨が降る abc"]
    source = write(tmp_path / "in.txt", sources)
    write(tmp_path / "ref.txt", [*REFERENCES, "今天里昂下雨。", "猫坐在垫子上面", "雨が降った ABC"])
    job(f"source.path={source}", "name=n", f"tgt_lang={tgt_lang}")
    assert run(tmp_path) == 0
    (language,) = scores(tmp_path)["languages"]
    assert (language["tgt_lang"], language["rows"]) == (tgt_lang, len(sources))
    base = [str(tmp_path / "ref.txt"), "-i", str(tmp_path / "out" / "n" / "translated" / "in.txt"), "--force"]
    words = ["--chrf-word-order", "2", "--tokenize", tokenizer, *ter_words]
    printed = [*sacrebleu_cli(*base, "-m", "chrf"), *sacrebleu_cli(*base, "-m", "chrf", "bleu", "ter", *words)]
    expected = {metric["name"]: metric for metric in printed}
    assert set(expected) == {"chrF2", "chrF2++", "BLEU", "TER"}
    for name, shown in {"chrf": "chrF2", "chrf++": "chrF2++", "bleu": "BLEU", "ter": "TER"}.items():
        assert language["metrics"][name]["score"] == pytest.approx(expected[shown]["score"], abs=1e-5)
        assert language["metrics"][name]["signature"] == expected[shown]["signature"]


def test_the_score_of_a_row_is_that_of_the_row_alone(finished: Path) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    assert run(finished) == 0
    lines = row_lines(finished)
    assert [line["id"] for line in lines] == [f"in.txt#{number}" for number in range(1, 6)]
    for line, source, reference in zip(lines, SOURCES, REFERENCES, strict=True):
        expected = CHRF().sentence_score(source.upper(), [reference]).score
        assert line["chrf"] == pytest.approx(expected, abs=1e-4)
        expected = BLEU(effective_order=True).sentence_score(source.upper(), [reference]).score
        assert line["bleu"] == pytest.approx(expected, abs=1e-4)


def test_the_bootstrap_is_that_of_sacrebleu_and_repeats_with_its_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.significance import PairedTest

    system = [f"{text} x{number}" for number, text in enumerate(REFERENCES * 8)]
    baseline = [text.replace("E", "A") if number % 3 else text for number, text in enumerate(REFERENCES * 8)]
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    named = [("baseline", baseline), ("system", system)]
    test = PairedTest(named, {"chrF2": CHRF()}, [REFERENCES * 8], test_type="bs", n_samples=200)
    expected = test()[1]["chrF2"][1]
    both = [metrics.compute(MetricName.chrf, "fr", texts, REFERENCES * 8) for texts in (system, baseline)]
    results = [
        bootstrap.paired(both[0].of_statistics, both[0].statistics, both[1].statistics, num_samples=200, seed=seed)
        for seed in (7, 7, 8)
    ]
    assert results[0] == results[1] != results[2]
    assert results[0].p_value == pytest.approx(expected.p_value)  # type: ignore[union-attr]
    assert (results[0].mean, results[0].ci) == pytest.approx((expected.mean, expected.ci), rel=1e-4)  # type: ignore[union-attr]


def test_a_baseline_is_compared_on_the_same_rows(finished: Path, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job(f"source.path={finished / 'in.txt'}", "name=base", "write.on_error=source", "segment.max_tokens=16",
        "segment.on_too_long=error")  # fmt: skip
    capsys.readouterr()
    assert run(finished, "baseline=base", "bootstrap=50") == 0
    assert "base " in capsys.readouterr().out
    (language,) = scores(finished)["languages"]
    chrf = language["metrics"]["chrf"]
    assert chrf["difference"] == pytest.approx(chrf["score"] - chrf["baseline"]) and chrf["difference"] > 0
    assert 0 < chrf["p_value"] <= 1
    first = (finished / "out" / "n" / "evaluation" / "scores.json").read_bytes()
    assert run(finished, "baseline=base", "bootstrap=50") == 0
    assert (finished / "out" / "n" / "evaluation" / "scores.json").read_bytes() == first
    assert scores(finished)["baseline"] | {"manifest_sha256": ""} == {
        "name": "base", "errors": 3, "bootstrap": 50, "seed": 12345, "manifest_sha256": ""
    }  # fmt: skip


def test_a_baseline_with_other_rows_is_refused(finished: Path, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(finished / "other" / "in.txt", [*SOURCES[:4], "another text"])
    job(f"source.path={other}", "name=base")
    capsys.readouterr()
    assert run(finished, "baseline=base") == 2
    assert "baseline=base has another source in row in.txt#5" in capsys.readouterr().err
    assert not (finished / "out" / "n" / "evaluation").exists()


def test_a_row_without_a_translation_counts_as_an_empty_one(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", ['{"text": "a cat"}', '{"nothing": 1}', '{"text": ""}', '{"text": "a dog"}'])
    write(tmp_path / "ref.jsonl", [json.dumps({"reference": text}) for text in ("A CAT", "A COW", "", "")])
    job(f"source.path={source}", "name=n", "check.max_error_rate=1", "write.on_error=source")
    capsys.readouterr()
    assert run(tmp_path, references="ref.jsonl") == 0
    found = scores(tmp_path)
    assert (found["rows"], found["scored"], found["errors"]) == (4, 2, 1)
    assert found["left_out"] == {"blank": 1, "no_reference": 1}
    assert [(line["id"], line["chrf"]) for line in row_lines(tmp_path)] == [("in.jsonl#1", 100.0), ("in.jsonl#2", 0.0)]
    assert "1 row without a translation, scored as empty" in capsys.readouterr().out


@pytest.mark.parametrize("number", [4, 6])
def test_another_number_of_references_is_refused_with_both_counts(
    number: int, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(finished / "ref.txt", (REFERENCES * 2)[:number])
    assert run(finished) == 2
    assert f"in.txt has 5 rows, and {finished / 'ref.txt'} has {number} references" in capsys.readouterr().err


def test_references_of_a_limited_job_may_be_longer(finished: Path, job: Job) -> None:
    job(f"source.path={finished / 'in.txt'}", "name=limited", "source.limit=3")
    assert run(finished, name="limited") == 0
    found = scores(finished, "limited")
    assert found["scored"] == 3 and "source.limit=3" in found["notes"][0]


def test_a_folder_of_references_has_the_names_of_the_inputs_or_outputs(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.txt", ["x y", "z"])
    write(tmp_path / "in" / "sub" / "b.txt", ["u"])
    job(f"source.path={tmp_path / 'in'}", "name=n", "write.name={stem}.{tgt}{ext}")
    write(tmp_path / "refs" / "a.txt", ["X Y", "Z"])
    assert run(tmp_path, references="refs") == 2
    assert "has no references for 1 input of 2, such as sub/b.txt" in capsys.readouterr().err
    write(tmp_path / "refs" / "sub" / "b.fr.txt", ["U"])
    assert run(tmp_path, references="refs") == 0
    assert [line["chrf"] for line in row_lines(tmp_path)] == [100.0] * 3
    write(tmp_path / "one.txt", ["X Y"])
    assert run(tmp_path, references="one.txt") == 2
    assert "is one file, and the job has 2 inputs" in capsys.readouterr().err


def test_references_are_aligned_by_their_ids_in_any_order(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"key": number, "text": text} for number, text in enumerate(SOURCES)]
    source = write(tmp_path / "in.jsonl", [json.dumps(row) for row in rows])
    job(f"source.path={source}", "name=n")
    own = [{"key": number, "gold": text.upper()} for number, text in enumerate(SOURCES)]
    write(tmp_path / "own.jsonl", [json.dumps(row) for row in reversed(own)])
    words = ("references_field=gold", "references_id=key")
    assert run(tmp_path, *words, references="own.jsonl") == 0
    assert scores(tmp_path)["languages"][0]["metrics"]["chrf"]["score"] == 100.0
    ids = [{"key": f"in.jsonl#{number}", "gold": text.upper()} for number, text in enumerate(SOURCES, 1)]
    write(tmp_path / "ids.jsonl", [json.dumps(row) for row in reversed(ids)])
    assert run(tmp_path, *words, references="ids.jsonl") == 0
    assert scores(tmp_path)["languages"][0]["metrics"]["chrf"]["score"] == 100.0
    for lines, message in (
        (own[1:], "has no reference for in.jsonl#1 ('0')"),
        ([*own, own[0]], "has two references for '0'"),
        ([*own, {"key": 99, "gold": "x"}], "has 1 reference for no row of in.jsonl, such as '99'"),
        ([*own[:4], {"gold": "x"}], "has no field 'key'"),
    ):
        write(tmp_path / "wrong.jsonl", [json.dumps(row) for row in lines])
        assert run(tmp_path, *words, references="wrong.jsonl") == 2
        assert message in capsys.readouterr().err
    write(tmp_path / "ref.txt", REFERENCES)
    assert run(tmp_path, *words) == 2
    assert "is text, which has no fields" in capsys.readouterr().err


def test_a_document_is_compared_by_the_names_of_its_texts(job: Job, tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", ['{"a": "one", "b": {"c": "two"}}'])
    job(f"source.path={source}", "name=n")
    write(tmp_path / "ref.json", ['{"b": {"c": "TWO"}, "a": "ONE"}'])
    assert run(tmp_path, references="ref.json") == 0
    assert [(line["id"], line["chrf"]) for line in row_lines(tmp_path)] == [
        ("in.json#a", 100.0),
        ("in.json#b.c", 100.0),
    ]


def test_each_target_language_has_its_own_scores(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": text, "to": to} for text, to in (("a b", "th"), ("c d", "fr"), ("e f", "th"))]
    source = write(tmp_path / "in.jsonl", [json.dumps(row) for row in rows])
    write(tmp_path / "ref.txt", ["A B", "C D", "X Y"])
    job(f"source.path={source}", "name=n", "source.tgt_lang_field=to")
    capsys.readouterr()
    assert run(tmp_path) == 0
    french, thai = scores(tmp_path)["languages"]
    assert (french["tgt_lang"], french["rows"], thai["tgt_lang"], thai["rows"]) == ("fr", 1, "th", 2)
    assert "tok:char" in thai["metrics"]["bleu"]["signature"]
    assert (thai["not_computed"], french["not_computed"]) == (["ter"], [])
    assert "th is written without spaces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metrics=[comet]"], "metrics=['comet'] is not a list of metrics"),
        (["bootstrap=0"], "bootstrap=0 must be at least 1"),
        (["scorer_timeout_s=0"], "must be above 0 seconds"),
        (["bleu_tokenize=flores200"], "flores200"),
        (["baseline=none"], "there is no job 'none'"),
        (["references_encoding=nonsense"], "references_encoding=nonsense is not a text encoding"),
        (["references_encoding=nonsense"], "Set references_encoding=utf-8"),
        (["references="], "references= is empty"),
        (["scorer=' '"], "scorer= is empty"),
    ],
)
def test_a_wrong_setting_is_one_error(
    words: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(finished, *words) == 2
    assert message in capsys.readouterr().err


def test_what_is_not_complete_is_refused(finished: Path, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.interrupt(f"source.path={finished / 'in.txt'}", "name=half", "batch.part_rows=1", at=job.calls + 3)
    assert run(finished, name="half") == 8
    assert "is not complete" in capsys.readouterr().err
    job(f"source.path={finished / 'in.txt'}", "name=gone", "write.keep_rows=false")
    assert run(finished, name="gone") == 6
    assert "write.keep_rows=false" in capsys.readouterr().err
    translated = finished / "out" / "n" / "translated" / "in.txt"
    translated.write_text(translated.read_text().replace("CAT", "DOG"))
    assert run(finished) == 8
    assert "translated/in.txt does not match its checksum" in capsys.readouterr().err


def test_an_input_that_changed_or_moved_is_told(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = finished / "in.txt"
    source.rename(finished / "moved.txt")
    assert run(finished) == 4
    assert "inputs=PATH" in capsys.readouterr().err
    moved = write(finished / "elsewhere" / "in.txt", SOURCES)
    assert run(finished, f"inputs={moved.parent}") == 0
    write(moved, [*SOURCES[:4], "changed"])
    assert run(finished, f"inputs={moved}") == 4
    assert "row 5" in capsys.readouterr().err


def test_without_sacrebleu_the_error_says_what_to_install(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert run(finished) == 6
    assert "pip install 'hymt-batch[eval]'" in capsys.readouterr().err


LENGTHS = "import json, sys\nfor line in sys.stdin:\n    print(len(json.loads(line)['translation']))\n"


def scorer(folder: Path, program: str) -> str:
    path = folder / "scorer.py"
    path.write_text(program, encoding="utf-8")
    return f"scorer={sys.executable} {path}"


def test_a_command_scores_the_rows_and_those_of_the_baseline(finished: Path, job: Job) -> None:
    job(f"source.path={finished / 'in.txt'}", "name=base")
    assert run(finished, scorer(finished, LENGTHS), "baseline=base", "bootstrap=10") == 0
    (language,) = scores(finished)["languages"]
    mean = sum(map(len, SOURCES)) / len(SOURCES)
    assert language["metrics"]["scorer"]["score"] == pytest.approx(mean)
    assert language["metrics"]["scorer"]["difference"] == 0
    assert [line["scorer"] for line in row_lines(finished)] == [float(len(text)) for text in SOURCES]


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("raise SystemExit(3)", (), "failed with exit code 3"),
        ("print(1)", (), "printed 1 line for 5 rows"),
        ("print('nan\\n' * 5, end='')", (), "printed 'nan' in line 1"),
        ("import time; time.sleep(60)", ("scorer_timeout_s=0.3",), "did not end within 0.3 s and was killed"),
    ],
)
def test_a_command_that_fails_costs_only_its_own_scores(
    program: str, words: tuple[str, ...], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(finished, scorer(finished, program), *words) == 6
    assert message in capsys.readouterr().err
    found = scores(finished)
    assert message in found["scorer"]["error"]["what"]
    assert set(found["languages"][0]["metrics"]) == {"chrf", "chrf++", "bleu", "ter"}
    assert len(row_lines(finished)) == 5


def test_nothing_but_the_evaluation_changes_in_the_folder(finished: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (finished / "out" / "n").rglob("*") if path.is_file()}

    before = files()
    assert run(finished) == 0
    after = files()
    added = {path.relative_to(finished / "out" / "n") for path in set(after) - set(before)}
    assert added == {Path("evaluation/scores.json"), Path("evaluation/rows.jsonl")}
    assert {path: after[path] for path in before} == before
    assert front.main(["verify", "name=n", f"output_dir={finished / 'out'}"]) == 0


def test_a_link_in_place_of_the_folder_is_not_followed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = finished / "elsewhere"
    elsewhere.mkdir()
    (finished / "out" / "n" / "evaluation").symlink_to(elsewhere)
    assert run(finished) in (6, 75)
    assert "evaluation" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_sweep_is_scored_point_by_point(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"source.path={finished / 'in.txt'}", f"output_dir={finished / 'out'}", "name=sweep", "model=demo"]
    assert translate(["-m", *words, "tgt_lang=fr", "seed=1,2"]) == 0
    capsys.readouterr()
    assert run(finished, "format=json", name="sweep") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["folder"]).name for line in lines] == ["seed=1", "seed=2"]
    (finished / "out" / "sweep" / "seed=1" / "manifest.json").unlink()
    assert run(finished, name="sweep") == 8
    assert "seed=2: 5 rows of 5 scored" in capsys.readouterr().out
