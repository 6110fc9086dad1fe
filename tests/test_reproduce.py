"""`hymt-batch reproduce`: rows of a finished job are decoded again and compared; nothing in its folder changes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode
from hymt_batch.records import Document, Input, Row, Status
from hymt_batch.run import reproduction
from hymt_batch.run.finished_rows import FinishedJob
from jobs import __main__ as front
from tests.fakes import engine
from tests.fakes import job as fake_job
from tests.fakes import model as fake_model


class Job:
    """A job in a folder, and the commands that run on it in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.out = folder / "out" / "job"
        self.changed: dict[str, str] = {}  # text -> what follows its translation from now on
        self.decoded: list[str] = []
        self.err = ""

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions = []
        for request, completion in zip(requests, engine.upper(requests, check_stop), strict=True):
            text = bytes(request.prompt_ids[1:-1]).partition(b"\n\n")[2].decode()
            self.decoded.append(text)
            ids = [] if "fail" in text else list(completion.ids) + list(self.changed.get(text, "").encode())
            completions.append(Completion(ids, "stop"))
        return completions

    def run(self, *words: str) -> tuple[int, str]:
        self.decoded.clear()
        with fake_job.installed(self._decode):
            code = front.main([*words, f"output_dir={self.folder / 'out'}", "launch.progress=off", "launch.workers=1"])
        output, self.err = self._capsys.readouterr()
        assert code != ExitCode.BUG, self.err
        return code, output

    def translate(self, source: Path, *words: str) -> int:
        most = ("name=job", "tgt_lang=fr", "model=demo", "check.max_error_rate=1", "launch.report=false")
        return self.run("translate", f"source.path={source}", *most, *words)[0]

    def reproduce(self, *words: str) -> tuple[int, dict[str, Any]]:
        before = self.state()
        code, output = self.run("reproduce", "name=job", "format=json", *words)
        assert self.state() == before, "nothing in the folder changes"
        return code, json.loads(output) if output.startswith("{") else {}

    def state(self) -> dict[str, tuple[int, bytes]]:
        files = (path for path in self.out.rglob("*") if path.is_file())
        return {str(path.relative_to(self.out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Job:
    return Job(tmp_path, capsys)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def corpus(job: Job) -> Path:
    for name in ("a", "b"):
        write(job.folder / "in" / f"{name}.txt", *(f"{name} row {number}" for number in range(30)), "", "fail")
    return job.folder / "in"


@pytest.mark.parametrize("rows", ["all", "5"])
def test_the_same_model_and_settings_give_equal_rows(job: Job, rows: str) -> None:
    assert job.translate(corpus(job)) == 0
    code, result = job.reproduce(f"rows={rows}")
    assert (code, result["num_different"], result["changed_files"]) == (0, 0, [])
    assert result["compared"] == (62 if rows == "all" else 5)
    assert result["left_out"] == {"not decoded": 2}
    assert (result["environment"], result["causes"]) == ([], [])
    assert len(set(job.decoded)) == (61 if rows == "all" else 5)  # equal rows are decoded once


def test_rows_that_differ_are_named_with_both_texts(job: Job) -> None:
    assert job.translate(corpus(job)) == 0
    job.changed = {"a row 3": "\x1b[31m!", "b row 7": "?"}
    code, result = job.reproduce("rows=all")
    assert code == ExitCode.DIFFERENT == 9
    assert [(row["file"], row["id"], row["recorded"], row["new"]) for row in result["different"]] == [
        ("a.txt", "a.txt#4", "A ROW 3", "A ROW 3\\x1b[31m!"),
        ("b.txt", "b.txt#8", "B ROW 7", "B ROW 7?"),
    ]
    code, text = job.run("reproduce", f"manifest={job.out / 'manifest.json'}", "rows=all")
    assert code == 9
    assert "2 rows of 62 differ" in text
    assert "  different    b.txt#8\n    published  B ROW 7\n    decoded    B ROW 7?" in text


def test_the_draw_follows_the_seed_and_spans_all_files(job: Job) -> None:
    assert job.translate(corpus(job)) == 0
    job.changed = {f"{name} row {number}": "!" for name in "ab" for number in range(30)}

    def drawn(*words: str) -> list[str]:
        return [row["id"] for row in job.reproduce("rows=12", *words)[1]["different"]]

    first = drawn()
    assert len(first) >= 10 and {id[0] for id in first} == {"a", "b"}
    assert drawn() == first != drawn("seed=2")
    assert job.reproduce("rows=1000")[1]["compared"] == 62


def test_a_changed_byte_of_a_published_file_names_its_row(job: Job) -> None:
    assert job.translate(corpus(job)) == 0
    path = job.out / "translated" / "b.txt"
    path.write_bytes(path.read_bytes().replace(b"B ROW 7\n", b"B ROW 8\n").replace(b"ROW 21", b"row 21"))
    code, result = job.reproduce()
    assert code == ExitCode.DAMAGE
    assert [(file["path"], file["rows"]) for file in result["changed_files"]] == [
        ("translated/b.txt", ["b.txt#8", "b.txt#22"])
    ]
    assert job.decoded == []
    path.write_bytes(path.read_bytes().replace(b"B ROW 9\n", b"B ROW nine\n"))  # the rows behind it moved
    assert job.reproduce()[1]["changed_files"][0]["rows"] == ["b.txt#8"]
    path.unlink()
    assert job.reproduce()[1]["changed_files"] == [{"path": "translated/b.txt", "what": "is missing", "rows": []}]


@pytest.mark.parametrize("form", ["jsonl", "csv", "gz", "parquet", "properties"])
def test_a_changed_byte_in_other_formats(job: Job, form: str) -> None:
    words: list[str] = []
    if form == "gz":
        source = job.folder / "in.txt.gz"
        source.write_bytes(gzip.compress(b"one\ntwo\nthree\n"))
    elif form == "properties":
        source = write(job.folder / "in.properties", "a=one", "b=two", "c=three")
    else:
        source = write(job.folder / "in.txt", "one", "two", "three")
        words = [f"write={form}"]
    assert job.translate(source, *words) == 0
    (path,) = (job.out / "translated").iterdir()
    data = path.read_bytes()
    data = (
        gzip.compress(gzip.decompress(data).replace(b"TWO", b"TVO")) if form == "gz" else data.replace(b"TWO", b"TVO")
    )
    path.write_bytes(data)
    code, result = job.reproduce()
    named = {"parquet": [], "properties": ["in.properties#2"], "gz": ["in.txt.gz#2"]}.get(form, ["in.txt#2"])
    assert (code, result["changed_files"][0]["rows"]) == (ExitCode.DAMAGE, named)


def test_rows_of_retry_passes_are_left_out_and_counted(job: Job) -> None:
    source = write(job.folder / "in.txt", "one", "two", "three")
    assert job.translate(source) == 0
    job.changed = {"two": "?"}
    assert job.run("retry", "name=job", "statuses=[ok]", "check.retry.max_attempts=2")[0] == 0
    job.changed = {}
    for rows in ("all", "3"):
        code, result = job.reproduce(f"rows={rows}")
        assert (code, result["compared"], result["left_out"]) == (0, 0, {"of a retry pass": 3})


def test_another_model_is_refused_by_what_differs(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.translate(write(job.folder / "in.txt", "one")) == 0
    prepare = fake_model.prepare

    def other(*arguments: Any) -> Any:
        model = prepare(*arguments)
        model.identity["files"] = {"model.safetensors": "f" * 64}
        return model

    monkeypatch.setattr(fake_model, "prepare", other)
    assert job.reproduce() == (ExitCode.IDENTITY, {})
    assert "model.files" in job.err and "ffff" in job.err
    assert job.decoded == []


def test_an_input_that_changed_or_is_gone_ends_with_4(job: Job) -> None:
    source = write(job.folder / "in.txt", "one", "two")
    assert job.translate(source) == 0
    write(source, "one", "other")
    assert job.reproduce()[0] == ExitCode.INPUT_CHANGED
    assert "in.txt row 2" in job.err
    source.rename(job.folder / "elsewhere.txt")
    assert job.reproduce()[0] == ExitCode.INPUT_CHANGED
    write(job.folder / "moved" / "in.txt", "one", "two")
    assert job.reproduce(f"inputs={job.folder / 'moved' / 'in.txt'}")[0] == 0


def test_a_new_file_beside_the_inputs_ends_with_4(job: Job) -> None:
    assert job.translate(corpus(job)) == 0
    write(job.folder / "in" / "c.txt", "new")
    assert job.reproduce("rows=all")[0] == ExitCode.INPUT_CHANGED
    assert "c.txt is new" in job.err


def test_output_settings_and_several_texts_are_compared_as_published(job: Job) -> None:
    lines = [json.dumps({"title": f"t{n}", "body": f"one {n}\ntwo"}) for n in range(5)]
    source = write(job.folder / "in.jsonl", *lines)
    assert job.translate(source, "source.text_field=[title,body]", "check.on_fail=source") == 0
    for rows in ("all", "10"):
        code, result = job.reproduce(f"rows={rows}")
        assert (code, result["compared"], result["num_different"]) == (0, 10, 0)


def test_bad_settings_are_refused(job: Job) -> None:
    assert job.translate(write(job.folder / "in.txt", "one")) == 0
    for words in (
        ["name=job", "rows=0"],
        ["name=job", "rows=some"],
        [],
        ["manifest=x.json"],
        ["name=job", "manifest=x"],
    ):
        assert job.run("reproduce", *words)[0] == ExitCode.USAGE, words
    assert job.run("reproduce", "name=other")[0] == ExitCode.USAGE
    assert job.run("reproduce", "name=job", "launch=slurm", "launch.partition=p")[0] == ExitCode.USAGE


def test_a_job_without_its_rows_is_refused(job: Job) -> None:
    assert job.translate(write(job.folder / "in.txt", "one"), "write.keep_rows=false") == 0
    assert job.reproduce()[0] == ExitCode.PREFLIGHT


def test_the_demo_agrees_and_names_the_row_after_a_changed_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.txt", "Rain is expected.", "Snow is expected.")
    where = [f"output_dir={tmp_path / 'out'}", "name=job", "launch.progress=off", "launch.workers=1"]
    assert front.main(["translate", f"source.path={source}", "tgt_lang=de", "src_lang=en", "model=demo", *where]) == 0
    capsys.readouterr()
    for rows in ("all", "1"):
        assert front.main(["reproduce", f"rows={rows}", *where]) == 0
        assert "are equal" in capsys.readouterr().out
    path = tmp_path / "out" / "job" / "translated" / "in.txt"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert front.main(["reproduce", *where]) == ExitCode.DAMAGE
    assert "    differs    in.txt#2\n" in capsys.readouterr().out


def test_another_environment_is_told_and_may_explain_a_difference(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.translate(write(job.folder / "in.txt", "one", "two")) == 0
    prepare = fake_model.prepare

    def elsewhere(*arguments: Any) -> Any:
        model = prepare(*arguments)
        model.environment["device"] = "another stub"
        return model

    monkeypatch.setattr(fake_model, "prepare", elsewhere)
    difference = {"key": "device", "job": "stub", "here": "another stub"}
    assert job.reproduce()[1]["environment"] == [difference]
    job.changed = {"two": "!"}
    code, result = job.reproduce("rows=all")
    assert (code, result["environment"]) == (ExitCode.DIFFERENT, [difference])
    assert result["causes"] == ["rounding: the environments differ"]


def test_an_updated_job_is_reproduced(job: Job) -> None:
    source = write(job.folder / "in.txt", "one", "two")
    assert job.translate(source) == 0
    write(source, "zero", "one", "two", "three")
    assert job.translate(source, "on_input_change=update") == 0
    for rows in ("all", "4"):
        code, result = job.reproduce(f"rows={rows}")
        assert (code, result["compared"], result["num_different"]) == (0, 4, 0)


def causes(whole_units: bool, dtype: str, samples: bool = False, has_origins: bool = False) -> list[str]:
    return reproduction.possible_causes(
        whole_units=whole_units, dtype=dtype, samples=samples, environment=[], has_origins=has_origins
    )


def test_only_what_may_explain_a_difference_is_told() -> None:
    assert causes(False, "float32") == causes(True, "float32") == causes(True, "bfloat16") == []
    assert causes(True, "float32", samples=True, has_origins=True) == []
    (rounding,) = causes(False, "bfloat16")
    assert rounding.startswith("rounding: in bfloat16") and "rows=all" in rounding
    assert "update" in causes(True, "float16", has_origins=True)[0]
    assert "share one draw" in causes(False, "float32", samples=True)[0]


def test_a_row_that_ended_its_process_is_never_decoded_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.translate(write(job.folder / "in.txt", "one", "two", "three")) == 0
    read = FinishedJob.read

    def with_quarantined(self: FinishedJob, input: Input) -> Iterator[tuple[Document, Row]]:
        for document, row in read(self, input):
            yield document, replace(row, status=Status.CRASH_QUARANTINED, text="") if row.row_index == 1 else row

    monkeypatch.setattr(FinishedJob, "read", with_quarantined)
    assert job.reproduce("rows=all")[0] == ExitCode.USAGE
    assert "rows=2" in job.err and job.decoded == []
    code, result = job.reproduce("rows=2")
    assert (code, result["compared"], result["left_out"]) == (0, 2, {"crash_quarantined": 1})
    assert sorted(job.decoded) == ["one", "three"]
