"""The data card of a finished job: what it says, that equal jobs have equal cards, and that it tells no secret."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import code_state, manifest
from hymt_batch.card import store, text
from hymt_batch.check import language_id
from hymt_batch.fs import OS_FS
from hymt_batch.report import words
from hymt_batch.run import kept_settings
from jobs import __main__ as front
from tests.fakes.job import run as run_job
from tests.html_page import Page
from tests.test_report import translate, write_source

LINES = ("one", "two EMPTY", "three LOOP three")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    assert translate(tmp_path, write_source(tmp_path, *LINES), "check.max_error_rate=1") == 0
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return front.main(["card", "name=n", f"output_dir={folder / 'out'}", *words])


def card_of(folder: Path, name: str = "n") -> dict[str, Any]:
    return dict(json.loads((folder / "out" / name / "card" / "card.json").read_bytes()))


def text_of(folder: Path) -> str:
    return (folder / "out" / "n" / "card" / "README.md").read_text(encoding="utf-8")


def test_the_figures_are_those_of_the_manifest(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(finished, "licence=cc-by-4.0", "about=Of a *test*.") == 0
    assert capsys.readouterr().out.strip() == str(finished / "out" / "n" / "card" / "README.md")
    card, value = card_of(finished), manifest.read(OS_FS, finished / "out" / "n")
    for key in ("identity", "identity_sha256", "inputs", "outputs", "errors", "counts", "flags", "tokens", "rows"):
        assert card[key] == value[key], key
    assert card["environments"] == value["environments"] and card["output_settings"] == value["output_settings"]
    assert (card["licence"], card["seed"], card["model"]["name"]) == ("cc-by-4.0", 0, "demo:model")
    shown = text_of(finished)
    assert 'license: "cc-by-4.0"' in shown and "Of a *test*." in shown
    assert value["outputs"][0]["sha256"] in shown and value["inputs"][0]["sha256"] in shown
    assert "| `loop` | 1 (33.33 %) |" in shown


def test_equal_jobs_have_equal_cards_and_times_stand_apart(finished: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    assert translate(other, write_source(other, *LINES), "check.max_error_rate=1") == 0
    for folder in (finished, other):
        assert run(folder) == 0
    files = {path.name: path.read_bytes() for path in (finished / "out" / "n" / "card").iterdir()}
    assert set(files) == {"README.md", "card.json", "SHA256SUMS", "timings.json"}
    for name in set(files) - {"timings.json"}:
        assert (other / "out" / "n" / "card" / name).read_bytes() == files[name], name
        assert str(finished).encode() not in files[name], "a path of this machine"
    assert json.loads(files["timings.json"])["created"]


def test_nothing_but_the_card_changes_and_the_job_stays_complete(finished: Path) -> None:
    folder = finished / "out" / "n"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(finished) == 0 and run(finished) == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(folder).parts[0] for path in set(after) - set(before)} == {"card"}
    assert {path: after[path] for path in before} == before
    assert front.main(["verify", "name=n", f"output_dir={finished / 'out'}"]) == 0


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_checks_the_files(finished: Path) -> None:
    assert run(finished) == 0
    folder = finished / "out" / "n"
    command = ["sha256sum", "--strict", "--quiet", "-c", "card/SHA256SUMS"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    (folder / "translated" / "a\\b\nc").write_bytes(b"x")
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (folder / "card" / "SHA256SUMS").write_bytes(
        store.checksums([{"path": "translated/a\\b\nc", "sha256": sha256, "bytes": 1}])
    )
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0


def test_a_job_that_is_not_as_it_was_published_has_no_card(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = finished / "out" / "n" / "translated" / "in.txt"
    whole = output.read_bytes()
    for damaged in (whole[:-2] + b"?\n", None):
        output.write_bytes(damaged) if damaged else output.unlink()
        assert run(finished) == 8
        assert "translated/in.txt is not as the job published it" in capsys.readouterr().err
    (finished / "out" / "n" / "manifest.json").unlink()
    assert run(finished) == 8
    assert "not complete" in capsys.readouterr().err
    assert not (finished / "out" / "n" / "card").exists()


def test_a_card_of_the_manifest_alone(finished: Path) -> None:
    shutil.rmtree(finished / "out" / "n" / ".hymt")
    assert run(finished) == 0
    card = card_of(finished)
    assert card["model"]["name"] is None and card["seed"] == 0
    timings = json.loads((finished / "out" / "n" / "card" / "timings.json").read_bytes())
    assert (timings["created"], timings["rows_per_s"]) == (None, None)


def test_a_card_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-this-user")
    (tmp_path / "a-secret-of-this-user.txt").write_text("one\n")
    source = f"source.path={tmp_path / 'a-secret-of-this-user.txt'}"
    assert translate(tmp_path, source) == 0
    assert run(tmp_path, "about=see https://me:password1@example.org") == 0
    for path in (tmp_path / "out" / "n" / "card").iterdir():
        assert b"a-secret-of-this-user" not in path.read_bytes(), path.name
        assert b"password1" not in path.read_bytes(), path.name


def test_each_complete_point_of_a_sweep_has_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path, *LINES)
    words = ["-m", source, f"output_dir={tmp_path / 'out'}", "tgt_lang=fr", "model=demo", "name=n", "seed=1,2"]
    assert run_job([*words, "launch.progress=off"]) == 0
    (tmp_path / "out" / "n" / "seed=2" / "manifest.json").unlink()
    capsys.readouterr()
    assert run(tmp_path, "format=json") == 8
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["card"].endswith("seed=1/card/README.md") and "not complete" in second["error"]
    assert json.loads((tmp_path / "out/n/seed=1/card/card.json").read_bytes())["seed"] == 1


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("a|b", "`a\\|b`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("", "(empty)"),
        ("<b>\n", "`<b>\\n`"),
        ("  ", "(blank)"),
    ],
)
def test_a_text_cannot_act_as_markup(value: str, span: str) -> None:
    assert text.code(value) == span


@pytest.mark.skipif(not language_id.is_installed(), reason="py3langid is not installed")
def test_card_and_report_tell_the_rate_of_identified_rows(tmp_path: Path) -> None:
    words = ["check.flag.identify_share=0.25", "launch.report=true"]
    assert translate(tmp_path, write_source(tmp_path, *LINES), "check.max_error_rate=1", *words) == 0
    assert run(tmp_path) == 0
    report = Page(tmp_path / "out" / "n" / "report.html").text
    for shown in (text_of(tmp_path), report):
        assert "the language of 25 % of the rows was identified" in shown


def test_the_rate_of_identified_rows_is_told() -> None:
    assert "script and letters alone" in words.language_rate({})
    assert "of 10 % of the rows" in words.language_rate({"check.flag.identify_share": 0.1})
    assert "of each row" in words.language_rate({"check.flag.identify_share": 1.0})


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e", *words], cwd=folder, check=True, capture_output=True
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_checkout_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_state.of_checkout(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert code_state.of_checkout(tmp_path) is None, "no commit yet"
    for name in code_state.PATHS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    commit = code_state.of_checkout(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "other.txt").write_text("not code\n")
    assert code_state.of_checkout(tmp_path) == commit
    (tmp_path / "jobs" / "new.py").write_text("2\n")
    assert code_state.of_checkout(tmp_path) == f"{commit}+changes"


def test_the_folder_keeps_the_commits_that_ran_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".hymt").mkdir()
    monkeypatch.setattr(kept_settings.stored_settings, "of_job", lambda job: {"launch": {}, "seed": 1})
    job: Any = None
    for commit in ("first", None, "second", "first"):
        monkeypatch.setattr(code_state, "commit", lambda commit=commit: commit)
        kept_settings.save(OS_FS, tmp_path, job)
    assert kept_settings.read_commits(OS_FS, tmp_path) == ["first", "second"]


def test_the_commit_is_in_the_card_and_not_in_the_environment(finished: Path) -> None:
    assert run(finished) == 0
    card = card_of(finished)
    assert not any("code" in environment for environment in card["environments"])
    assert card["commits"] == ([] if (commit := code_state.commit()) is None else [commit])
