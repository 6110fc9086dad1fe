"""`hymt-batch retry`: rows of a finished job are decoded again in a pass; only their rows of the outputs change."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, MissingError
from hymt_batch.fs import OS_FS
from hymt_batch.run.finished_rows import FinishedJob
from jobs import __main__ as front
from jobs import status, verify
from tests.fakes import engine
from tests.fakes import job as fake_job


def text_of(request: Request) -> str:
    return bytes(request.prompt_ids[1:-1]).partition(b"\n\n")[2].decode()


class Decoder:
    """Upper-cases; a text with "fail" has no translation, one with "cut" is truncated, unless it is `healed`."""

    def __init__(self) -> None:
        self.healed: set[str] = set()
        self.mark = ""  # at the end of each translation
        self.decoded: list[str] = []
        self.stop_at: int | None = None  # calls after which the job is interrupted

    def __call__(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if self.stop_at is not None:
            self.stop_at -= 1
            if self.stop_at < 0:
                raise fake_job.Interrupted
        completions = []
        for request, completion in zip(requests, engine.upper(requests, check_stop), strict=True):
            text = text_of(request)
            self.decoded.append(text)
            if any(word in text for word in self.healed) or not ("fail" in text or "cut" in text):
                completions.append(Completion(list(completion.ids) + list(self.mark.encode()), "stop"))
            elif "fail" in text:
                completions.append(Completion([], "stop"))
            else:
                completions.append(Completion(list(completion.ids), "length"))
        return completions


class Folder:
    """A job in a folder, and the commands that run on it in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.decoder = folder, Decoder()
        self.out = folder / "out" / "job"

    def run(self, job: str, *words: str) -> int:
        self.decoder.decoded.clear()
        with fake_job.installed(self.decoder):
            return front.main([job, f"output_dir={self.folder / 'out'}", "name=job", *words])

    def translate(self, source: Path, *words: str) -> int:
        most = ("tgt_lang=fr", "model=demo", "check.max_error_rate=1", "launch.progress=off", "launch.workers=1")
        return self.run("translate", f"source.path={source}", *most, *words)

    def retry(self, *words: str) -> int:
        return self.run("retry", "launch.progress=off", "launch.workers=1", *words)

    def lines(self, name: str = "in.txt") -> list[str]:
        return (self.out / "translated" / name).read_text().splitlines()

    def files(self) -> dict[str, bytes]:
        published = [path for name in ("translated", "errors", "review") for path in (self.out / name).rglob("*")]
        published.append(self.out / "manifest.json")
        return {str(path.relative_to(self.out)): path.read_bytes() for path in published if path.is_file()}

    @property
    def manifest(self) -> dict[str, Any]:
        return manifest.read(OS_FS, self.out)


@pytest.fixture
def job(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def check_folder(job: Folder) -> None:
    """Check that the folder is complete and intact, also in the eyes of translate."""
    assert verify.verify(job.out).exit_code is ExitCode.COMPLETE
    assert status.status(job.out).state == "complete"


def test_rows_without_a_translation_are_decoded_again_and_only_they_change(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "three", "cut four", "fail five")
    assert job.translate(source) == 0
    assert job.lines() == ["ONE", "", "THREE", "CUT FOUR", ""]
    identity = job.manifest["identity"]
    job.decoder.healed, job.decoder.mark = {"two"}, "!"
    assert job.retry() == 0
    assert sorted(job.decoder.decoded) == ["fail five", "fail two"]
    assert job.lines() == ["ONE", "FAIL TWO!", "THREE", "CUT FOUR", ""]
    assert job.manifest["identity"] == identity
    assert [(p["number"], p["rows"], p["replaced"]) for p in job.manifest["passes"]] == [(1, 2, 2)]
    assert job.manifest["counts"] == {"empty": 1, "ok": 3, "truncated": 1}
    check_folder(job)
    before = job.files()
    assert job.translate(source) == 0
    assert job.decoder.decoded == []
    assert job.files() == before


def test_rows_are_selected_by_status_or_by_flag(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "cut three", "one two\x0bthree")
    assert job.translate(source) == 0
    assert job.manifest["flags"] == {"empty": 1, "line_break": 1, "truncated": 1}
    assert job.retry("flags=[loop]") == 0  # nothing has it
    assert job.decoder.decoded == []
    assert not (job.out / ".hymt" / "passes").exists()
    job.decoder.healed, job.decoder.mark = {"fail", "cut"}, "!"
    assert job.retry("statuses=truncated", "flags=[line_break]") == 0  # the latter is derived when a file is written
    assert sorted(job.decoder.decoded) == ["cut three", "one two\x0bthree"]
    assert job.lines() == ["ONE", "", "CUT THREE!", "ONE TWO THREE!"]
    check_folder(job)


def test_a_row_that_fails_again_replaces_nothing(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "cut two", "three")
    assert job.translate(source) == 0
    before = job.files()
    job.decoder.healed = set()

    class Failing(Decoder):
        def __call__(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
            return [Completion([], "stop") for _ in requests]

    job.decoder = Failing()
    assert job.retry("statuses=[truncated,ok]") == 0
    assert job.lines() == ["ONE", "CUT TWO", "THREE"]
    assert [(p["rows"], p["replaced"]) for p in job.manifest["passes"]] == [(3, 0)]
    assert {name: data for name, data in job.files().items() if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    check_folder(job)


def test_what_reads_a_finished_job_gets_the_rows_of_its_passes(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    finished = FinishedJob(job.out)
    assert [row.text for _, row in finished.read(finished.inputs[0])] == ["ONE", "FAIL TWO"]
    (rows,) = (job.out / ".hymt" / "passes").rglob("*.rows")
    rows.write_bytes(b"damaged")
    with pytest.raises(MissingError, match="rows of pass 1 are missing or damaged"):
        list(FinishedJob(job.out).read(finished.inputs[0]))
    assert rows.exists()  # a reader changes nothing


def test_two_passes_and_the_later_one_counts(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "cut three")
    assert job.translate(source) == 0
    job.decoder.healed, job.decoder.mark = {"two"}, "1"
    assert job.retry() == 0
    job.decoder.healed, job.decoder.mark = {"two", "three"}, "2"
    assert job.retry("statuses=[ok,truncated]", "seed=7", "decode=recommended") == 0
    assert job.lines() == ["ONE2", "FAIL TWO2", "CUT THREE2"]
    assert [(p["number"], p["rows"], p["replaced"]) for p in job.manifest["passes"]] == [(1, 1, 0), (2, 3, 3)]
    first, second = job.manifest["passes"]
    assert first["identity"] == job.manifest["identity"]
    differences = [key for key, _, _ in manifest.diff(job.manifest["identity"], second["identity"])]
    assert "decode.seed" in differences
    assert all(key.startswith("decode.") for key in differences)
    check_folder(job)


ROWS = ["one", "fail two", "three", "fail four"]


def a_file(folder: Path, kind: str) -> Path:
    path = folder / f"in.{kind}"
    if kind == "txt":
        return write(path, *ROWS)
    if kind == "jsonl":
        return write(path, *(json.dumps({"id": n, "text": text}) for n, text in enumerate(ROWS)))
    if kind == "csv":
        return write(path, "id,text", *(f"{n},{text}" for n, text in enumerate(ROWS)))
    if kind == "srt":
        return write(path, *(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n" for n, text in enumerate(ROWS, 1)))
    if kind == "po":
        return write(
            path,
            'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n',
            *(f'msgid "{text}"\nmsgstr ""\n' for text in ROWS),
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [*range(len(ROWS))], "text": ROWS}), path)
    return path


def comparable(job: Folder) -> dict[str, bytes]:
    return {name: data for name, data in job.files().items() if name != "manifest.json"}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "srt", "po", "parquet"])
def test_a_pass_gives_what_a_job_without_the_failure_gives_in_every_kind_of_format(kind: str, tmp_path: Path) -> None:
    job, perfect = Folder(tmp_path / "a"), Folder(tmp_path / "b")
    perfect.decoder.healed = {"fail"}
    assert perfect.translate(a_file(perfect.folder.parent, kind)) == 0
    assert job.translate(a_file(tmp_path, kind)) == 0
    assert comparable(job) != comparable(perfect)
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    assert sorted(job.decoder.decoded) == ["fail four", "fail two"]
    assert comparable(job) == comparable(perfect)
    for name in ("counts", "flags", "tokens", "outputs"):
        assert job.manifest[name] == perfect.manifest[name]
    check_folder(job)


def test_rows_with_several_texts(job: Folder) -> None:
    rows = [{"title": "fail one", "body": "two"}, {"title": "three", "body": "fail four"}]
    source = write(job.folder / "in.jsonl", *map(json.dumps, rows))
    assert job.translate(source, "source.text_field=[title,body]") == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    assert sorted(job.decoder.decoded) == ["fail four", "fail one"]
    translations = [json.loads(line)["translation"] for line in job.lines("in.jsonl")]
    assert translations == [{"title": "FAIL ONE", "body": "TWO"}, {"title": "THREE", "body": "FAIL FOUR"}]
    check_folder(job)


def test_rows_of_many_small_files_form_one_pass_and_only_files_with_such_rows_are_written(job: Folder) -> None:
    for number in range(7):
        write(job.folder / "corpus" / f"{number}.txt", "one", "fail two" if number % 2 else "two")
    assert job.translate(job.folder / "corpus") == 0
    written = {path.name: path.stat().st_ino for path in (job.out / "translated").iterdir()}
    job.decoder.healed = {"fail"}
    assert job.retry("batch.part_rows=2") == 0
    assert job.decoder.decoded == ["fail two"] * len(job.decoder.decoded)  # equal rows of a shard are decoded once
    for number in range(7):
        assert job.lines(f"{number}.txt") == ["ONE", "FAIL TWO" if number % 2 else "TWO"]
        is_same_file = written[f"{number}.txt"] == (job.out / "translated" / f"{number}.txt").stat().st_ino
        assert is_same_file == (number % 2 == 0)
    check_folder(job)


def test_a_pass_of_several_shards_and_parts(job: Folder) -> None:
    texts = [f"{'fail ' if number % 3 else ''}row {number}" for number in range(50)]
    source = write(job.folder / "in.txt", *texts)
    assert job.translate(source, "batch.shard_rows=8") == 0
    job.decoder.healed = {"fail"}
    assert job.retry("batch.shard_rows=5", "batch.part_rows=2") == 0
    assert len(job.decoder.decoded) == sum("fail" in text for text in texts)
    assert job.lines() == [text.upper() for text in texts]
    check_folder(job)


def test_a_pass_that_is_interrupted_goes_on_with_the_same_command(job: Folder) -> None:
    texts = [f"fail {number:02}" for number in range(12)]
    source = write(job.folder / "in.txt", "one", *texts)
    assert job.translate(source) == 0
    before = job.files()
    job.decoder.healed, job.decoder.stop_at = {"fail"}, 4
    command = ("batch.part_rows=2", "batch.shard_rows=6")
    assert job.retry(*command) == 70  # the exception of this test
    num_decoded = len(job.decoder.decoded)
    assert 0 < num_decoded < len(texts)
    assert job.files() == before
    job.decoder.stop_at = None
    assert job.translate(source) == 0  # complete, and leaves the pass alone
    assert (job.files(), job.decoder.decoded) == (before, [])
    assert job.retry("statuses=[ok]") == 3  # another pass
    assert job.retry("seed=5", *command) == 3
    assert job.files() == before
    assert job.retry(*command) == 0
    assert len(job.decoder.decoded) == len(texts) - num_decoded
    assert job.lines() == ["ONE", *(text.upper() for text in texts)]
    check_folder(job)


def test_overwrite_drops_a_pass_that_is_not_finished(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "cut three", "fail four")
    assert job.translate(source) == 0
    job.decoder.stop_at = 1
    assert job.retry("batch.part_rows=1") == 70
    job.decoder.stop_at, job.decoder.healed = None, {"cut"}
    assert job.retry("statuses=[truncated]", "overwrite=true") == 0
    assert job.decoder.decoded == ["cut three"]
    assert [(p["number"], p["rows"]) for p in job.manifest["passes"]] == [(1, 1)]
    check_folder(job)


def test_other_output_settings_keep_the_rows_of_a_pass(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    assert job.translate(source, "write=jsonl") == 0
    assert job.decoder.decoded == []
    assert [json.loads(line)["translation"] for line in job.lines("in.jsonl")] == ["ONE", "FAIL TWO"]
    assert [p["replaced"] for p in job.manifest["passes"]] == [1]
    check_folder(job)
    job.decoder.mark = "!"
    assert job.retry("statuses=[ok]") == 0  # the settings of the job are those that it has now
    assert [json.loads(line)["translation"] for line in job.lines("in.jsonl")] == ["ONE!", "FAIL TWO!"]
    check_folder(job)


def test_a_changed_file_loses_the_rows_of_a_pass_that_changed(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "fail three")
    assert job.translate(source) == 0
    job.decoder.healed, job.decoder.mark = {"fail"}, "!"
    assert job.retry() == 0
    assert job.lines() == ["ONE", "FAIL TWO!", "FAIL THREE!"]
    write(source, "one", "fail two", "three")
    assert job.retry("statuses=[ok]") == 4
    job.decoder.healed, job.decoder.mark = set(), ""
    assert job.translate(source, "on_input_change=redo") == 0
    assert job.lines() == ["ONE", "FAIL TWO!", "THREE"]
    check_folder(job)
    assert job.translate(source, "overwrite=true") == 0
    assert job.lines() == ["ONE", "", "THREE"]
    assert "passes" not in job.manifest
    check_folder(job)


def test_what_cannot_be_retried_is_refused_and_changes_nothing(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.retry() == 2
    assert "there is no job" in capsys.readouterr().err
    job.decoder.stop_at = 0
    assert job.translate(source) == 70
    job.decoder.stop_at = None
    assert job.retry() == 8
    assert "is not complete" in capsys.readouterr().err
    assert job.translate(source, "write.keep_rows=false") == 0
    before = job.files()
    assert job.retry() == 6
    assert "write.keep_rows=false" in capsys.readouterr().err
    for word, reason in {
        "statuses=[bad_row]": "on_input_change=redo",
        "statuses=[bad]": "is not one of statuses",
        "flags=[]": "selects nothing",
        "flags=blank": "not sent to the model",
        "launch=slurm": "does not go with retry",
        "source.path=x": "not a setting of retry",
        "decode.temperature=0.5": "has no effect with decode.method=greedy",
        "segment.max_tokens=5000": "leaves too little room",
        "check.codes=true": "check.codes cannot be changed for some rows",
        "check.flag.min_logprob=-1": "check.flag.min_logprob cannot be changed for some rows",
    }.items():
        assert job.retry(word) in (2, 6), word
        assert reason in capsys.readouterr().err, word
    assert job.files() == before


def test_a_folder_that_an_earlier_version_finished_is_refused_and_stays_as_it_is(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    (job.out / ".hymt" / "settings.json").unlink()
    before = job.files()
    assert job.retry() == 2
    assert job.translate(source) == 0
    assert job.retry() == 2
    assert job.files() == before


def test_standard_input_of_the_job_is_not_read_again(job: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("source.path=-", "source.format=text", "tgt_lang=fr", "model=demo", "launch.progress=off")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\nfail two\n")))
    assert job.run("translate", *words, "launch.workers=1") == 10
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"something else\n")))
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    assert job.lines("stdin.txt") == ["ONE", "FAIL TWO"]


def test_too_many_error_rows_point_to_retry(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source, "check.max_error_rate=0.1") == 10
    assert f"hymt-batch retry name=job output_dir={job.folder / 'out'}, with another model=" in capsys.readouterr().err
    assert job.retry() == 10  # it failed again, and the limit is that of the job
    assert job.retry("check.max_error_rate=1") == 0


def test_moved_inputs_are_named(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    moved = job.folder / "elsewhere" / "in.txt"
    moved.parent.mkdir()
    source.rename(moved)
    job.decoder.healed = {"fail"}
    capsys.readouterr()
    assert job.retry() == 2
    assert "Set inputs=PATH" in capsys.readouterr().err
    assert job.retry(f"inputs={job.folder / 'none'}") == 2
    assert f"{job.folder / 'none'} does not exist" in (told := capsys.readouterr().err) and "Set inputs=PATH" in told
    assert job.retry(f"inputs={moved}") == 0
    assert job.lines() == ["ONE", "FAIL TWO"]


def test_an_input_that_changed_is_told_with_the_command_that_helps(
    job: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    write(source, "one", "fail 2")
    before = job.files()
    assert job.retry() == 4
    assert "run hymt-batch translate with the settings of the job and on_input_change=redo" in capsys.readouterr().err
    assert job.files() == before


def test_compare_counts_the_rows_of_a_pass(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "three", "fail four")
    assert job.translate(source) == 0
    shutil.copytree(job.out, job.out.parent / "before")
    job.decoder.healed = {"two"}
    assert job.retry() == 0

    def compared() -> dict[str, Any]:
        capsys.readouterr()
        words = (f"output_dir={job.out.parent}", "names=[before,job]", "format=json")
        assert front.main(["compare", *words]) == 0
        _, point = json.loads(capsys.readouterr().out)
        return {name: point[name] for name in ("compared", "changed", "errors")}

    assert compared() == {"compared": 4, "changed": 1, "errors": 1}
    (record,) = (job.out / ".hymt" / "passes" / "p0001").rglob("*.rows")
    record.write_bytes(b"damage")
    assert compared() == {"compared": None, "changed": None, "errors": 1}
    assert record.read_bytes() == b"damage", "a comparison changes nothing"


def test_job_json_is_lost_after_a_pass(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    before = job.files()
    (job.out / ".hymt" / "job.json").unlink()
    assert job.retry() == 6
    assert job.translate(source) == 0
    assert (job.files(), job.decoder.decoded) == (before, [])
    check_folder(job)


def test_lost_rows_of_a_pass_are_reported_and_the_earlier_rows_stay(job: Folder) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source) == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    (rows,) = (job.out / ".hymt" / "passes").rglob("*.rows")
    rows.write_bytes(rows.read_bytes()[:-1])
    assert any("pass 1" in note for note in verify.verify(job.out).notes)
    assert job.translate(source, "write=jsonl") == 0
    assert [json.loads(line)["translation"] for line in job.lines("in.jsonl")] == ["ONE", ""]


def test_status_tells_of_passes(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two", "fail three")
    assert job.translate(source) == 0
    job.decoder.healed = {"two"}
    assert job.retry() == 0
    job.decoder.stop_at = 0
    assert job.retry("seed=1") == 70
    found = status.status(job.out)
    assert [(p["number"], p["rows"], p["replaced"], p["is_finished"]) for p in found.passes] == [
        (1, 2, 2, True),
        (2, 1, 0, False),
    ]
    text = status.render(found)
    assert "pass 1    2 rows decoded again, 2 replaced" in text
    assert "pass 2    1 row decoded again, not finished" in text
    assert found.state == "complete"


def test_every_finished_point_of_a_sweep(job: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(job.folder / "in.txt", "one", "fail two")
    assert job.translate(source, "-m", "tgt_lang=fr,de") == 0
    job.decoder.healed = {"fail"}
    assert job.retry() == 0
    for point in ("tgt_lang=fr", "tgt_lang=de"):
        assert (job.out / point / "translated" / "in.txt").read_text() == "ONE\nFAIL TWO\n"
    capsys.readouterr()
    assert job.retry("format=json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["number"], line["selected"], line["exit_code"]) for line in lines] == [(None, 0, 0)] * 2
