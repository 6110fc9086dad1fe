"""The report of a job: when it is written, that its figures are those of the manifest, and that no text can harm it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hymt_batch import manifest
from hymt_batch.decode.request import Completion
from hymt_batch.evaluate import store
from hymt_batch.fs import OS_FS
from hymt_batch.manifest import JobRecord
from hymt_batch.records import Part, SkippedFile
from hymt_batch.report import chart, figures, job_data, job_page, job_report, page, sweep_page, words
from hymt_batch.report.history import History, Run
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Markup, element, escape
from hymt_batch.report.measure import Example, Measured, Reservoir
from hymt_batch.report.sweep_page import Point
from hymt_batch.write import run_progress, sweep_points
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.task_status import TaskStatus
from hymt_batch.write.timeline import Interval
from hymt_batch.write.totals import SUMS
from jobs import __main__ as front
from tests.fakes import engine, upper
from tests.fakes.job import Job, installed, run
from tests.html_page import Page

ROOT = Path(__file__).parent.parent


def write_source(folder: Path, *lines: str) -> str:
    (folder / "in.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"source.path={folder / 'in.txt'}"


def misbehave(requests: Any, check_stop: Any) -> list[Completion]:
    """Upper-case each text, unless it says what shall go wrong."""
    completions = []
    for done in engine.upper(requests, check_stop):
        text = bytes(done.ids).decode()
        if "EMPTY" in text:
            done = Completion([], "stop")
        elif "LONG" in text:
            done = Completion(done.ids, "length")
        elif "LOOP" in text:
            done = Completion(list(b"and again " * 8), "loop")
        completions.append(done)
    return completions


def translate(folder: Path, *overrides: str, decode: Any = misbehave) -> int:
    words = [f"output_dir={folder / 'out'}", "tgt_lang=fr", "model=demo", "name=n", "launch.progress=off"]
    return run([*words, *overrides], decode)


def manifest_of(folder: Path) -> dict[str, Any]:
    return manifest.read(OS_FS, folder)


def expected_figures(value: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a manifest under the keys that a report gives them."""
    expected = {"rows": value["rows"], "files": len(value["inputs"])}
    for group in SUMS:
        expected |= {f"{group}.{name}": count for name, count in value.get(group, {}).items()}
    return expected


def assert_same_figures(folder: Path) -> Page:
    """Check a report of a folder against its manifest."""
    parsed, value = Page(folder / "report.html"), manifest_of(folder)
    assert parsed.problems == []
    expected = expected_figures(value)
    if set(value["counts"]) == {"ok"}:
        del expected["counts.ok"]  # nothing to list
    assert {key: parsed.figures.get(key) for key in expected} == expected
    flagged = sum(count for flag, count in value["flags"].items() if flag != "blank")
    assert parsed.figures["flagged"] == flagged
    return parsed


def test_a_job_writes_its_report_before_its_manifest_and_the_figures_agree(tmp_path: Path) -> None:
    lines = [f"row {index}" for index in range(40)] + ["", "empty <b>one</b>", "long & row", "a loop", "empty two"]
    assert translate(tmp_path, write_source(tmp_path, *lines), "check.max_error_rate=1", "launch.report=true") == 0
    folder = tmp_path / "out" / "n"
    parsed = assert_same_figures(folder)
    assert parsed.figures["error_rows"] == 2
    assert os.stat(folder / "report.html").st_mtime_ns <= os.stat(folder / "manifest.json").st_mtime_ns
    assert "report.html" not in (folder / "manifest.json").read_text(encoding="utf-8")
    for shown in ("in.txt#42", "empty <b>one</b>", "the model returned no text", "long & row", "LONG & ROW", "English"):
        assert (shown in parsed.text) == (shown != "English"), shown
    assert "Rows over time" in parsed.texts and "Length ratio" in parsed.texts
    assert front.main(["verify", "name=n", f"output_dir={tmp_path / 'out'}"]) == 0
    assert front.main(["status", "name=n", f"output_dir={tmp_path / 'out'}", "fail=true"]) == 0


def test_a_finished_job_is_not_touched_and_no_report_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    source, report = write_source(tmp_path, "one"), tmp_path / "out" / "n" / "report.html"
    assert translate(tmp_path, source, "launch.report=false") == 0
    assert not report.exists()
    assert translate(tmp_path, source, "launch.report=true") == 0  # nothing was left to do
    assert not report.exists()
    assert translate(tmp_path, source, "launch.report=true", "write=jsonl") == 0  # assembled again
    assert "in.jsonl" in Page(report).text


@pytest.mark.parametrize("case", ["an error in it", "its name is taken"])
def test_an_error_in_the_report_costs_a_warning_and_nothing_else(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = write_source(tmp_path, "one"), tmp_path / "out" / "n"
    if case == "an error in it":
        monkeypatch.setattr(job_page, "render", lambda *_: 1 // 0)
    else:
        (folder / "report.html").mkdir(parents=True)
    assert translate(tmp_path, source, "launch.report=true") == 0
    assert "report.html was not written" in capsys.readouterr().err
    assert (folder / "translated" / "in.txt").read_text(encoding="utf-8") == "ONE\n"
    assert manifest_of(folder)["rows"] == 1


def report_on(folder: Path) -> Page:
    assert front.main(["report", f"name={folder.name}", f"output_dir={folder.parent}"]) == 0
    return Page(folder / "report.html")


def test_the_report_of_a_folder_is_made_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["one", "", "empty", "long", "x" * 2000]
    assert translate(tmp_path, write_source(tmp_path, *lines), "check.max_error_rate=1", "launch.report=false") == 0
    folder = tmp_path / "out" / "n"
    report_on(folder)
    assert_same_figures(folder)
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "report.html")
    assert front.main(["report", "name=n", f"output_dir={tmp_path / 'out'}", "format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"reports": [str(folder / "report.html")]}
    (tmp_path / "in.txt").unlink()  # its sources are gone
    assert "not at hand" in report_on(folder).text
    assert_same_figures(folder)
    for name in os.listdir(folder / ".hymt"):  # its rows, too
        if name.startswith("f"):
            next((folder / ".hymt" / name).glob("*.rows")).unlink()
    report_on(folder)
    assert_same_figures(folder)
    shutil.rmtree(folder / ".hymt")  # nothing but the manifest and the files
    assert "LONG" in report_on(folder).text  # as review/ lists it
    assert_same_figures(folder)


def test_a_changed_source_is_never_shown_beside_a_translation(tmp_path: Path) -> None:
    assert translate(tmp_path, write_source(tmp_path, "long one", "two"), "launch.report=false") == 0
    write_source(tmp_path, "long ONE", "two")
    parsed = report_on(tmp_path / "out" / "n")
    assert "LONG ONE" in parsed.text and "long ONE" not in parsed.text
    assert "1 input could not be read again" in parsed.text


def test_a_job_that_is_not_complete_has_a_report_of_what_is_published(job: Job, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, count in (("a", 50), ("b", 2000)):
        text = "".join(f"a row of some length, number {index}\n" for index in range(count))
        (tmp_path / "in" / f"{name}.txt").write_text(text, encoding="utf-8")
    job.interrupt(f"source.path={tmp_path / 'in'}", "name=n", "batch.part_rows=100", at=3)
    parsed = report_on(tmp_path / "out" / "n")
    assert parsed.problems == [] and "not complete" in parsed.text
    assert (parsed.figures["rows"], parsed.figures["files"]) == (50, 1)


def test_errors_of_the_report_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["report", "name=none", f"output_dir={tmp_path}"]) == 2
    assert translate(tmp_path, write_source(tmp_path, "one"), "launch.report=false") == 0
    (tmp_path / "out" / "n" / ".hymt" / "job.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert front.main(["report", "name=n", f"output_dir={tmp_path / 'out'}"]) == 6
    assert "has nothing to report on" in capsys.readouterr().err
    (tmp_path / "out" / "n" / "report.html").mkdir()


def test_scores_are_shown_with_their_signatures_and_stale_ones_are_called_so(tmp_path: Path) -> None:
    assert translate(tmp_path, write_source(tmp_path, "one"), "launch.report=false") == 0
    folder = tmp_path / "out" / "n"
    paired = {"baseline": 50.5, "difference": -1.25, "p_value": 0.04, "score": 49.25, "signature": "nrefs:1|<b>"}
    languages = [{"tgt_lang": "fr", "rows": 1, "metrics": {"chrf": paired, "ter": {"score": 1.0, "signature": "s"}}}]
    sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    value = {"manifest_sha256": sha256, "rows": 1, "scored": 1, "languages": languages, "baseline": {"name": "other"}}
    store.save(OS_FS.within(folder), folder, value, [])
    parsed = report_on(folder)
    assert parsed.figures["fr.chrf"] == 49.25 and parsed.figures["fr.ter"] == 1
    for shown in ("nrefs:1|<b>", "-1.25", "0.0400", "50.50", "other", "chrF2"):
        assert shown in parsed.texts
    assert "earlier output" not in parsed.text
    store.save(OS_FS.within(folder), folder, value | {"manifest_sha256": "0"}, [])
    assert "earlier output" in report_on(folder).text


def test_a_sweep_has_a_report_with_its_points_and_those_that_no_other_beats(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    source = write_source(tmp_path, *(f"row {index} {'long' if index % 7 == 0 else ''}" for index in range(70)))
    names = ["first", "second", "语料"]
    for name in names:
        assert run([f"output_dir={folder}", "tgt_lang=fr", "model=demo", f"name={name}", source]) == 0
    sweep_points.save(folder, [*names, "never begun"])
    for index, name in enumerate(names):
        seconds = float(index + 1)
        progress = RunProgress(0.01, share=1.0, timeline=(Interval(1e9, seconds, 70, 700),))
        run_progress.write(OS_FS, folder / name, progress)
        sha256 = hashlib.sha256((folder / name / "manifest.json").read_bytes()).hexdigest()
        score = {"score": [50.0, 40.0, 60.0][index], "signature": "s"}  # the second one is slower and worse
        value = {"manifest_sha256": sha256, "languages": [{"tgt_lang": "fr", "metrics": {"chrf": score}}]}
        store.save(OS_FS.within(folder / name), folder / name, value, [])
    assert front.main(["report", "name=s", f"output_dir={tmp_path / 'out'}"]) == 0
    parsed = Page(folder / "report.html")
    assert parsed.problems == []
    assert parsed.figures["points"] == 4 and parsed.figures[f"{names[0]}.rows"] == 70
    assert parsed.texts.count("complete, not beaten") == 2 and parsed.texts.count("not started") == 1
    assert "chrF2 ↑" in parsed.texts and "Speed and quality" in parsed.texts
    links = [value for name, value in parsed.attributes if name == "href"]
    assert links == [f"./{name}/report.html" for name in map(quote, names)]
    assert all((folder / name / "report.html").is_file() for name in names)


def test_points_of_a_sweep_are_ranked_by_their_flags_without_scores() -> None:
    def point(name: str, seconds: float, flags: int) -> Point:
        data = data_with([f"word{index}" for index in range(500)])
        sums = replace(data.figures, texts=100, sums={**data.figures.sums, "flags": {"loop": flags, "blank": 50}})
        return Point(name, replace(data, figures=sums, timeline=[Interval(1e9, seconds, 100, 1)]))

    points = [point("fast", 1, 9), point("good", 5, 1), point("<i>beaten", 6, 2), Point("</b>none", None)]
    parsed = Page(sweep_page.render("<script>", points, "x"))
    assert parsed.problems == []
    assert parsed.texts.count("complete, not beaten") == 2
    assert "flags per 100 rows ↑" in parsed.texts and "<i>beaten" in parsed.texts
    many = [replace(points[0], name=f"p{index}") for index in range(3000)]
    large = Page(sweep_page.render("s", many, "x"))
    assert large.num_nodes < 5000 and large.num_bytes < 3_000_000


def test_the_numbers_of_dots_that_are_close_do_not_cover_each_other() -> None:
    dots = [(100.0, 100.0), (112.0, 100.0), (124.0, 100.0), (500.0, 100.0)]
    places = chart._label_places(dots, (58, 506))
    assert len({(x, y) for x, y, _ in places}) == 4
    assert places[3][2] == "end", "beyond the right end"
    middles = [(x + {"start": 6, "end": -6, "middle": 0}[anchor], y - 4) for x, y, anchor in places]
    for index, (x, y) in enumerate(middles):
        others = [*dots, *middles[:index], *middles[index + 1 :]]
        assert all(abs(x - a) >= 11 or abs(y - b) >= 10 for a, b in others), places


def test_rows_of_a_pass_are_shown_in_place_of_those_that_they_replaced(tmp_path: Path) -> None:
    lines = [*(f"row {index}" for index in range(9)), "long that heals", "empty that heals", "long that stays"]
    assert translate(tmp_path, write_source(tmp_path, *lines), "check.max_error_rate=1") == 0

    def heal(requests: Any, check_stop: Any) -> list[Completion]:
        texts = [bytes(done.ids).decode() for done in engine.upper(requests, check_stop)]
        done = zip(texts, misbehave(requests, check_stop), strict=True)
        return [Completion(list(text.encode()), "stop") if "HEALS" in text else kept for text, kept in done]

    with installed(heal):
        assert (
            front.main(
                ["retry", "name=n", f"output_dir={tmp_path / 'out'}", "flags=[truncated,empty]", "launch.report=true"]
            )
            == 0
        )
    folder = tmp_path / "out" / "n"
    (listed,) = manifest_of(folder)["passes"]
    for parsed in (Page(folder / "report.html"), report_on(folder)):
        assert parsed.figures["replaced.1"] == listed["replaced"] >= 2
        assert parsed.figures["flags.truncated"] == 1
        assert "LONG THAT STAYS" in parsed.texts and "LONG THAT HEALS" not in parsed.texts
    assert_same_figures(folder)


def test_several_languages_and_fields_have_their_ids_and_lengths(tmp_path: Path) -> None:
    rows = [{"id": i, "a": f"row {i}", "b": f"a short one {i}", "to": "de" if i % 3 else "fr"} for i in range(30)]
    rows[1]["a"] = "a long row"
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    source = [f"source.path={tmp_path / 'in.jsonl'}", "source.text_field=[a,b]", "source.tgt_lang_field=to"]
    assert translate(tmp_path, *source, "launch.report=true") == 0
    parsed = assert_same_figures(tmp_path / "out" / "n")
    assert parsed.figures["texts"] == 60
    assert (parsed.figures["rows_by_language.de"], parsed.figures["rows_by_language.fr"]) == (40, 20)
    assert parsed.figures["flagged_by_language.de"] == 1 and "flagged_by_language.fr" not in parsed.figures
    assert "Length ratio by target language" in parsed.text and "German" in parsed.texts
    assert any(text.startswith("in.jsonl#") and text.endswith("[a]") for text in parsed.texts)


def hostile_texts() -> list[str]:
    """Return 500 texts that would do harm as markup, as an attribute, or by their direction."""
    pieces = [
        "<script>alert(1)</script>",
        "</title><script>alert(1)</script>",
        "</style><img src=x onerror=alert(1)>",
        "<svg onload=alert(1)>",
        '"><iframe src="https://example.org">',
        "' onmouseover='alert(1)",
        "<a href='javascript:alert(1)'>x</a>",
        "<!-- ",
        "--><b>",
        "<![CDATA[",
        "]]>",
        "<meta http-equiv=refresh content='0;url=https://example.org'>",
        "&lt;script&gt;",
        "&#60;b&#62;",
        "<plaintext>",
        "<base href='//example.org/'>",
        "<form action=//example.org><button>",
        "{{constructor.constructor('alert(1)')()}}",
        "\u202eevil\u202c",
        "\u2066a\u2069\u200e\u200f",
        "a\x00b\x1b[31mc\x07\x08",
        "\ud800 \udfff",
        "a\u2028b\u2029c\x85d\x0be",
        "\ufeff\u200b\u00ad\U000e0041",
        "`</textarea>`<noscript>",
    ]
    wrappers = ["{}", "x {} y", "{}" * 3, "\n{}\r\n", "\t{}", "<{}>", '"{}"', "'{}'", "&{};", "{}\\"]
    texts = [wrapper.replace("{}", piece) for piece in pieces for wrapper in wrappers]
    return [*texts, *(f"{text}{'/' * index}>" for index, text in enumerate(texts, 1))]


def data_with(texts: list[str]) -> JobData:
    """Return the data of a job that has texts of users wherever a report shows any."""
    take = iter(texts)

    def text() -> str:
        return next(take)

    def example() -> Example:
        return Example(text(), text(), (text(),), text(), text(), text() if len(examples) % 2 else "")

    examples: dict[str, Reservoir] = {}
    errors: dict[str, Reservoir] = {}
    for found in (examples, errors):
        for _ in range(8):
            reservoir = Reservoir()
            reservoir.kept = [example(), example(), example()]
            found[text()] = reservoir
    environment = {text(): text(), "device_map": {text(): text(), text(): text(), "strategy": text()}}
    files = [figures.FileFigures(text(), text(), text(), 1, 1, 1, 1, text()) for _ in range(8)]
    sums = figures.Figures(
        files=8,
        rows=9,
        texts=9,
        sums={
            "counts": {"ok": 1, **dict.fromkeys(errors, 1)},
            "flags": dict.fromkeys(examples, 2),
            "tokens": {"source": 1, "new": 2},
            "rows_by_language": {(language := text()): 2},
            "flagged_by_language": {language: 1},
            "tries": {text(): 1},
            "degraded": {text(): 1},
        },
        environments=[environment],
        listed=files,
        failed=[{"rel": text(), "why": text()}],
    )
    runs = [Run(0.0, 1.0, 0, text(), text()) for _ in range(2)]
    identity = {"prompt": {"src_lang": text(), "tgt_lang": text(), text(): text()}, "model": {"family": text()}}
    task = {"shard": 1, "host": text(), "pid": text(), "since": text()}
    return JobData(
        name=text(),
        job=JobRecord(identity, (), {}, text(), {text(): text()}),
        is_complete=True,
        num_inputs=8,
        figures=sums,
        timeline=(Interval(10.0, 5.0, 3, 4), Interval(100.0, 5.0, 3, 4)),
        measured=Measured(num_rows=3, examples=examples),
        errors=errors,
        skipped=[SkippedFile(text(), text())],
        history=History(2, runs, 2, runs, text(), 1, 1),
        tasks=TaskStatus(3, 1, 9, [task]),
    )


def test_no_text_of_a_user_can_act_as_markup() -> None:
    texts = hostile_texts()
    assert len(texts) == 500
    harmless = Page(job_page.render(data_with([f"word{index}" for index in range(500)]), "x"))
    places = 0
    for start in range(0, 500, 50):  # each text in many of the places
        hostile = Page(job_page.render(data_with([*texts[start:], *texts[:start]]), "x"))
        assert hostile.problems == []
        assert hostile.tags == harmless.tags
        assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
        places += sum("alert(1)" in text for text in hostile.texts)
    assert places > 500  # they are shown


def test_a_hostile_file_is_translated_and_shown_as_text(tmp_path: Path) -> None:
    lines = [text.replace("\n", " ").replace("\r", " ") for text in hostile_texts() if "\ud800" not in text]
    name = "<img src=x onerror=alert(1)>\u202e&'\".txt"
    (tmp_path / name).write_text("".join(f"long {line}\n" for line in lines), encoding="utf-8")
    source = f"source.path={tmp_path / name}"
    assert translate(tmp_path, source, "check.max_error_rate=1", "launch.report=true") == 0
    parsed = assert_same_figures(tmp_path / "out" / "n")
    assert "<img src=x onerror=alert(1)>\\u202e&'\".txt" in parsed.texts
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n" for c in parsed.text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("\x1b[31m", "\\u001b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\ud800", "\\ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a joiner that Persian needs
        ("\U000e0041", "\\U000e0041"),
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),
        ("<&>\"'", "&lt;&amp;&gt;&quot;&#x27;"),
        ("https://user:secret-word@example.org", "https://***@example.org"),
    ],
)
def test_a_text_is_shown_safely(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_only_what_the_builder_made_is_markup() -> None:
    made = element("p", "<b>", element("b", "x"), ["<i>", None, [Markup("<br>")]], title='"x', hidden=True, lang=None)
    assert made == '<p title="&quot;x" hidden>&lt;b&gt;<b>x</b>&lt;i&gt;<br></p>'
    assert element("p", element("b", "x") + "<i>") == "<p>&lt;b&gt;x&lt;/b&gt;&lt;i&gt;</p>"
    assert element("td.number.wide", 'a"b') == '<td class="number wide">a&quot;b</td>'


def test_the_page_allows_no_script_and_no_network() -> None:
    html = page.page("t", "l", "s", [], "f").decode()
    assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in html
    assert not any(word in html for word in ("<script", "http://", "https://", "url(", "@import", "src=", "href="))


def test_a_page_of_the_largest_job_is_small(tmp_path: Path) -> None:
    longest = "长" * 5000
    data = data_with([f"{longest}{index}" for index in range(500)])
    listed = [figures.FileFigures(longest, longest, "text", 10**9, 5, 5, 10**12) for _ in range(figures.MAX_FILES)]
    flags = {name: Reservoir() for name in [*words.FLAGS, *(f"flag{i}" for i in range(12))]}
    for reservoir in flags.values():
        reservoir.kept = [Example(longest, "ok", tuple(flags), longest, longest, longest)] * 3
    statuses = {name: Reservoir() for name in words.STATUSES}
    for reservoir in statuses.values():
        reservoir.kept = [Example(longest, "ok", (), longest, longest, longest)] * 3
    device_map = {f"model.layers.{layer}": f"cuda:{layer % 8}" for layer in range(80)}
    environment = {f"key{index}": longest for index in range(80)} | {"device_map": device_map}
    sums = replace(
        data.figures,
        sums={
            **{name: {} for name in SUMS},
            "counts": dict.fromkeys(words.STATUSES, 10**9),
            "flags": dict.fromkeys(flags, 10**9),
            "tries": dict.fromkeys(words.TRIES, 10**9),
            "rows_by_language": dict.fromkeys(map(str, range(200)), 10**9),
            "flagged_by_language": dict.fromkeys(map(str, range(200)), 10**9),
        },
        environments=[environment] * 9,
        listed=listed,
        failed=[{"rel": longest, "why": longest}] * 1000,
    )
    tasks = [Run(start, start + 5, 1, "x", longest) for start in range(60)]
    past = History(10**6, [Run(0, 9, 1, longest, "l")] * 12, 10**5, tasks, longest, 5, 5)
    intervals = [Interval(1e9 + 100.0 * i, 50.0, 10**6, 10**7) for i in range(200)]
    measured = replace_measured(data.measured, flags)
    data = replace(
        data,
        job=replace(data.job, identity={f"key{i}": {f"name{j}": longest for j in range(20)} for i in range(20)}),
        figures=sums,
        timeline=intervals,
        measured=measured,
        errors=statuses,
        skipped=[SkippedFile(longest, longest)] * 1000,
        history=past,
        tasks=TaskStatus(10**5, 10, 10**9, [{"shard": 1, "host": longest, "pid": 1, "since": "x"}] * 1000),
    )
    parsed = Page(job_page.render(data, "x"))
    assert parsed.problems == []
    assert parsed.num_nodes < 5000
    assert parsed.num_bytes < 3_000_000


def replace_measured(measured: Measured, examples: dict[str, Reservoir]) -> Measured:
    from array import array

    ratios = {f"l{i}": array("f", [0.5 + i / 20] * 100) for i in range(38)}
    return Measured(num_rows=measured.num_rows, ratios=ratios, examples=examples)


def test_headings_are_in_order_and_pictures_and_tables_have_names() -> None:
    parsed = Page(job_page.render(data_with([f"word{index}" for index in range(500)]), "x"))
    assert parsed.headings[0] == 1 and parsed.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(parsed.headings, parsed.headings[1:], strict=False))
    names = parsed.tags
    shown = names.count("svg") - sum(name == "aria-hidden" for name, _ in parsed.attributes)
    assert names.count("title") >= shown and names.count("desc") == shown > 0
    assert names.count("caption") == names.count("table") > 0
    assert sum(name == "scope" for name, _ in parsed.attributes) == names.count("th")


def test_every_flag_and_status_of_the_readme_is_explained() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    outputs = text[text.index("Every row has one status") : text.index("## Stop and continue")]
    cells = {cell for line in outputs.splitlines() if line.startswith("| `") for cell in _codes(line.split("|")[1])}
    assert cells == set(words.FLAGS) | set(words.STATUSES)


def _codes(cell: str) -> list[str]:
    return [word.strip("` ") for word in cell.split(",")]


def large_job(folder: Path, num_rows: int) -> Path:
    """Write the folder of a job with many rows, without decoding: some are flagged, some have no translation."""
    source = folder / "rows.txt"
    with source.open("w", encoding="utf-8") as file:
        for index in range(num_rows):
            kind = "EMPTY " if index % 1000 == 7 else ""
            file.write(f"{kind}the {index} <b>row</b> & its text {'goes on ' * (index % 23)}\n")
    inputs = [upper.an_input(source)]
    identity = {**upper.IDENTITY, "batch": {"shard_rows": 32768, "part_rows": 32768}}
    with upper.open_output(folder / "large", inputs, identity=identity) as output:
        for shard in upper.shards(inputs[0], 32768):
            part = Part(shard, 0, 1, tuple(range(len(shard.documents))))
            rows = [
                replace(row, flags=("loop",)) if row.text and row.row_index % 500 == 3 else row
                for row in upper.upper(part)
            ]
            output.commit(part, rows, upper.ENVIRONMENT)
            output.finish_shard(shard)
        output.finalize()
    return folder / "large"


def test_the_report_of_a_large_job_is_small_quick_and_takes_little_memory(tmp_path: Path) -> None:
    folder = large_job(tmp_path, 100_000)
    program = (
        "import resource, sys, time; from pathlib import Path; from hymt_batch.fs import OS_FS; "
        "from hymt_batch.report import job_report; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "started = time.process_time(); folder = Path(sys.argv[1]); job_report.write(OS_FS.within(folder), folder); "
        "print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    seconds, kib = map(float, done.stdout.split())
    parsed = assert_same_figures(folder)
    assert parsed.num_bytes < 3_000_000 and parsed.num_nodes < 5000
    assert "rows.txt#8" in parsed.text or parsed.figures["counts.empty"] == 100
    assert "Length ratio" in parsed.text
    assert seconds < 15  # 2 s on a machine with nothing else to do
    assert kib < 200 << 10


def test_a_job_larger_than_what_is_looked_at_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hymt_batch.report import measure

    monkeypatch.setattr(measure, "MAX_ROWS", 20_000)
    folder = large_job(tmp_path, 70_000)
    data = job_data.gather(OS_FS, folder)
    assert data.measured.num_rows == 32768  # at least one shard
    text = Page(job_page.render(data, "x")).text
    assert "those of 32,768 rows" in text
    assert data.figures.rows == 70_000


def test_a_report_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-this-user")
    assert translate(tmp_path, write_source(tmp_path, "long a-secret-of-this-user"), "launch.report=true") == 0
    assert b"a-secret-of-this-user" not in (tmp_path / "out" / "n" / "report.html").read_bytes()
    assert job_report.made_by().startswith("hymt-batch")
