"""Spliced formats, with Java .properties: whole jobs, in which a place is a row and all else stays as it is."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hymt_batch.errors import ConfigError, ExitCode, IdentityError, InputChangedError, PreflightError
from hymt_batch.formats import registry, spliced
from hymt_batch.formats.fields import FieldReader
from hymt_batch.formats.format import Kind, OutputSpec
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.formats.spliced import Place, PlaceOptions
from hymt_batch.records import Document, Input, Preamble, Row, ShardRecord, Status
from hymt_batch.run import error_advice
from hymt_batch.source import discovery
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.source.shards import SkippedShard, cut_shards, read_documents
from hymt_batch.write import place_row
from hymt_batch.write.settings import WriteConfig, WriteFormat
from jobs import __main__ as front
from jobs import verify
from tests.fakes.job import Job

ROOT = Path(__file__).parent.parent
READ = "source.format=properties"


def messages(num: int) -> bytes:
    """Return a file with every kind of line."""
    entries = [
        f"# comment {index}\r\nkey.{index} = text number {index}\r\n"
        f"second\\ key.{index}:more \\\r\n    text {index}\r\n"
        for index in range(num)
    ]
    return "".join(["! head\r\n\r\n", *entries, "empty=\r\nlast = the end"]).encode()


def upper(data: bytes) -> bytes:
    """Return what the stub's job writes for `messages`."""
    out = data.replace(b"more \\\r\n    text", b"MORE TEXT").replace(b"= text number", b"= TEXT NUMBER")
    return out.replace(b"the end", b"THE END")


def translated(job: Job, name: str, file: str = "in.properties") -> bytes:
    return (job.folder / "out" / name / "translated" / file).read_bytes()


def documents(path: Path, *, full: bool = False, max_rows: int | None = None, **settings: Any) -> list[Document]:
    config = SourceConfig(path=str(path), format=SourceFormat("properties"), **settings)
    (input,) = discovery.find_inputs(config)
    return [document for document, _ in read_documents(input, config, full=full, max_rows=max_rows)]


def test_a_job_replaces_the_values_and_nothing_else(tmp_path: Path, job: Job) -> None:
    data = messages(40)
    (tmp_path / "in.properties").write_bytes(data)
    result = job(
        f"source.path={tmp_path / 'in.properties'}", READ, "name=n", "batch.shard_rows=16", "batch.part_rows=5"
    )
    assert (result.rows, dict(result.counts), dict(result.flags)) == (82, {"ok": 82}, {"blank": 1})
    assert translated(job, "n") == upper(data)
    report = verify.verify(tmp_path / "out/n", inputs=True)
    assert (report.exit_code, report.rows, report.damage) == (ExitCode.COMPLETE, 82, [])


def test_a_folder_of_files_is_translated_also_empty_compressed_and_in_other_encodings(tmp_path: Path, job: Job) -> None:
    files = {
        "a.properties": (b"k=caf\xc3\xa9\n", "k=CAFÉ\n".encode()),
        "b.properties": (b"k=caf\xe9\n", b"k=CAF\\u00c9\n"),
        "c.properties": (b"\xef\xbb\xbfk=one\n", b"\xef\xbb\xbfk=ONE\n"),
        "deep/d.properties": (b"", b""),
        "deep/e.properties": (b"# only a comment", b"# only a comment"),
        "f.properties": (b"nul=a\0b\rmac.line=x", b"nul=A\\u0000B\rmac.line=X"),
        "g.properties.gz": (gzip.compress(b"k=one\n"), b"k=ONE\n"),
    }
    for name, (data, _) in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    result = job(f"source.path={tmp_path / 'in'}", READ, "name=n")
    assert (result.files, result.rows) == (7, 6)
    for name, (_, expected) in files.items():
        data = translated(job, "n", name)
        assert (gzip.decompress(data) if name.endswith(".gz") else data) == expected
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE


@pytest.mark.parametrize("on_error", ["empty", "source"])
def test_a_place_without_a_translation_keeps_its_source_and_is_listed(tmp_path: Path, job: Job, on_error: str) -> None:
    data = b"a = one\nbad=\\u12 \\\n  two\nlong=%s\nb=two\n" % (b"x" * 100)
    (tmp_path / "in.properties").write_bytes(data)
    result = job(
        f"source.path={tmp_path / 'in.properties'}", READ, "name=n", f"write.on_error={on_error}",
        "source.max_row_bytes=50",
    )  # fmt: skip
    assert dict(result.counts) == {"ok": 2, "bad_row": 1, "too_long": 1}
    assert translated(job, "n") == data.replace(b"= one", b"= ONE").replace(b"b=two", b"b=TWO")
    lines = (tmp_path / "out/n/errors/in.properties.errors.jsonl").read_text().splitlines()
    errors = [json.loads(line) for line in lines]
    assert [(error["id"], error["row"], error["status"]) for error in errors] == [
        ("in.properties#2", 2, "bad_row"),
        ("in.properties#4", 3, "too_long"),
    ]
    assert errors[0]["message"].startswith("in.properties:2 has \\u without four hexadecimal digits.")
    assert errors[0]["raw"] == "\\u12 \\\n  two"


def test_a_translation_that_equals_its_source_keeps_the_bytes(tmp_path: Path, job: Job) -> None:
    data = b"a=\\u0041B \\\n   C\nb=\\  1\n"
    (tmp_path / "in.properties").write_bytes(data)
    assert job(f"source.path={tmp_path / 'in.properties'}", READ, "name=n").rows == 2
    assert translated(job, "n") == data


def test_places_beyond_the_limit_keep_their_source_and_are_not_selected(tmp_path: Path, job: Job) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "in" / f"{name}.properties").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.properties").write_bytes(b"k=one\nl=two\nm=\\u12\nn=four\n")
    settings = (f"source.path={tmp_path / 'in'}", READ, "name=n", "batch.shard_rows=3", "batch.part_rows=2")
    result = job(*settings, "source.limit=6")
    assert dict(result.counts) == {"ok": 5, "bad_row": 1, "not_selected": 2}
    assert translated(job, "n", "a.properties") == b"k=ONE\nl=TWO\nm=\\u12\nn=FOUR\n"
    assert translated(job, "n", "b.properties") == b"k=ONE\nl=TWO\nm=\\u12\nn=four\n"
    assert not (tmp_path / "out/n/translated/c.properties").exists()
    assert not (tmp_path / "out/n/errors/b.properties.errors.jsonl").exists()  # its bad place is not selected
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE
    assert job(*settings, "source.limit=6").num_rows_decoded == 0
    with pytest.raises(IdentityError):
        job(*settings, "source.limit=5")


def test_the_error_rate_is_that_of_the_selected_places(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.properties").write_bytes(b"k=one\nbad=\\u12\n" + b"more=text\n" * 98)
    result = job(f"source.path={tmp_path / 'in.properties'}", READ, "name=n", "source.limit=2")
    assert dict(result.counts) == {"ok": 1, "bad_row": 1, "not_selected": 98}
    assert error_advice.error_rate(result) == 0.5
    assert front.main(["status", "name=n", f"output_dir={tmp_path / 'out'}", "fail=true"]) == 10
    job(f"source.path={tmp_path / 'in.properties'}", READ, "name=n", "source.limit=2", "check.max_error_rate=0.5")
    assert front.main(["status", "name=n", f"output_dir={tmp_path / 'out'}", "fail=true"]) == 0


def test_a_limited_file_has_all_its_places_in_every_pass(tmp_path: Path) -> None:
    (tmp_path / "in.properties").write_bytes(messages(3))
    first, second = (documents(tmp_path / "in.properties", max_rows=2, full=full) for full in (False, True))
    assert [document.status for document in first] == [Status.OK] * 2 + [Status.NOT_SELECTED] * 6
    assert [(document.id, document.digest, document.status) for document in first] == [
        (document.id, document.digest, document.status) for document in second
    ]


def test_a_failed_job_resumes_to_the_same_bytes_and_repeats_no_part(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.properties").write_bytes(messages(50))
    settings = (
        f"source.path={tmp_path / 'in.properties'}", READ, "batch.part_rows=10", "batch.max_rows=5",
        "batch.shard_rows=40",
    )  # fmt: skip
    job.interrupt(*settings, "name=n", at=13)
    assert job.decoded == 60
    result = job(*settings, "name=n")
    assert (result.num_rows_decoded, result.num_rows_kept) == (42, 60)
    assert translated(job, "n") == upper(messages(50))
    job(*settings, "name=unbroken")
    assert (tmp_path / "out/n/manifest.json").read_bytes() == (tmp_path / "out/unbroken/manifest.json").read_bytes()


def test_a_comment_may_change_while_a_job_is_stopped(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "in.properties"
    path.write_bytes(messages(20))
    settings = (f"source.path={path}", READ, "name=n", "batch.part_rows=5", "batch.shard_rows=10")
    job.interrupt(*settings, at=3)
    num_decoded, changed = job.decoded, messages(20).replace(b"# comment", b"#new comment")
    path.write_bytes(changed)
    result = job(*settings)
    assert result.num_rows_kept == num_decoded > 0
    assert translated(job, "n") == upper(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"number 0\r", b"number zero\r"),
        lambda data: b"first=new\r\n" + data,
        lambda data: data.replace(b"! head\r\n", b""),
    ],
)
def test_a_changed_or_moved_value_of_a_committed_part_is_refused(
    tmp_path: Path, job: Job, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "in.properties"
    path.write_bytes(messages(20))
    settings = (f"source.path={path}", READ, "name=n", "batch.part_rows=5", "batch.shard_rows=10")
    job.interrupt(*settings, at=3)
    path.write_bytes(change(messages(20)))
    with pytest.raises(InputChangedError):
        job(*settings)
    job(*settings, "on_input_change=redo")
    assert translated(job, "n") == upper(change(messages(20))).replace(b"zero", b"ZERO").replace(b"=new", b"=NEW")


def test_a_changed_input_of_a_published_file_is_refused(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "in.properties"
    path.write_bytes(messages(4))
    job(f"source.path={path}", READ, "name=n", "batch.shard_rows=4")
    path.write_bytes(messages(4).replace(b"number 0\r", b"number zero\r"))
    with pytest.raises(InputChangedError, match=r"in\.properties rows? 1"):
        job(f"source.path={path}", READ, "name=n", "batch.shard_rows=4")


@pytest.mark.fault(1)
def test_a_job_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    data, rng, kills = messages(60), random.Random(7), 0
    (tmp_path / "in.properties").write_bytes(data)
    command = [
        *(sys.executable, "-m", "tests.fakes.job", f"source.path={tmp_path / 'in.properties'}", READ, "name=n"),
        *("tgt_lang=fr", "model=demo", f"output_dir={tmp_path / 'out'}", "batch.shard_rows=20", "batch.part_rows=4"),
        *("launch.progress=off", "launch.lease_ttl_s=5", "launch.lease_beat_s=1"),
    ]
    parts = tmp_path / "out/n/.hymt"
    environment = {**os.environ, "STUB_PAUSE_S": "0.1"}
    for _ in range(40):
        earlier = set(parts.rglob("s*/p*"))  # the parts of a complete shard are removed, so their number may fall
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and not set(parts.rglob("s*/p*")) - earlier and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.2) if kills < 4 else 60)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
    assert kills == 4
    assert (tmp_path / "out/n/translated/in.properties").read_bytes() == upper(data)
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE


def test_a_shard_that_is_complete_is_skipped_only_while_its_places_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "in.properties"
    data = messages(30) + b"\r\n# the end"
    path.write_bytes(data)
    config = SourceConfig(path=str(path), format=SourceFormat("properties"))
    inputs = discovery.find_inputs(config)

    def cut(get_record: Any) -> list[Any]:
        return list(cut_shards(inputs, config, shard_rows=20, shard_bytes=1 << 30, get_record=get_record))

    shards = cut(lambda *_: None)
    assert [len(shard.documents) for shard in shards] == [20, 20, 20, 2]
    assert [shard.end for shard in shards[:-1]] == [shard.start for shard in shards[1:]]
    assert (shards[0].start, shards[-1].end, shards[-1].last) == (0, len(data), True)
    records = {
        shard.index: ShardRecord(
            shard.index, shard.first_row, len(shard.documents), shard.start, shard.end, shard.sha256, shard.last
        )
        for shard in shards
    }
    again = cut(lambda input, index: records.get(index))
    assert [type(item) for item in again] == [SkippedShard] * 4
    path.write_bytes(data.replace(b"number 15\r", b"number XV\r"))
    changed = cut(lambda input, index: records.get(index))
    assert [isinstance(item, SkippedShard) for item in changed] == [True, False, True, True]


def test_the_demo_model_translates_standard_input(tmp_path: Path) -> None:
    data = b"# Weather\r\nrain = Light rain is expected in Lyon on Sunday.\r\nempty =\r\n"
    command = [
        *(sys.executable, "-P", "-m", "hymt_batch.jobs", "translate", "model=demo", "device_map=cpu", "tgt_lang=fr"),
        *("source=properties", "source.path=-", "launch.progress=off"),
    ]
    done = subprocess.run(command, cwd=tmp_path, input=data, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = b"rain = Une pluie faible est attendue \\u00e0 Lyon dimanche."
    assert done.stdout == data.replace(b"rain = Light rain is expected in Lyon on Sunday.", expected)


def test_worker_processes_translate_a_file(tmp_path: Path) -> None:
    data = b"".join(b"k%d = Light rain is expected in Lyon on Sunday.\n" % index for index in range(4))
    (tmp_path / "in.properties").write_bytes(data)
    command = [
        *(sys.executable, "-P", "-m", "hymt_batch.jobs", "translate", "model=demo", "device_map=cpu", "tgt_lang=fr"),
        *("source=properties", "source.path=in.properties", "launch.progress=off", "launch.workers=2", "name=n"),
        "batch.shard_rows=2",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = b"Une pluie faible est attendue \\u00e0 Lyon dimanche."
    assert (tmp_path / "outputs/n/translated/in.properties").read_bytes() == data.replace(
        b"Light rain is expected in Lyon on Sunday.", expected
    )


@pytest.mark.parametrize("name", registry.WRITE_NAMES)
def test_a_document_can_be_written_as_rows_of_texts_and_translations(tmp_path: Path, job: Job, name: str) -> None:
    (tmp_path / "in.properties").write_bytes(b"# menu\nk=one\nl=two\nempty=\n")
    words = (f"source.path={tmp_path / 'in.properties'}", "name=n")
    job(*words)
    summary = job(*words, f"write={name}")
    assert (summary.num_files_assembled_again, job.decoded) == (1, 2)
    (path,) = (tmp_path / "out" / "n" / "translated").iterdir()
    assert path.name == f"in{registry.get(name).extension}"
    if name == "parquet":
        rows = pq.read_table(path).to_pylist()
    elif name == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    elif name == "json_rows":
        rows = json.loads(path.read_text())
    elif name == "text":
        assert path.read_text() == "ONE\nTWO\n\n"
        return
    else:
        rows = list(csv.DictReader(io.StringIO(path.read_text()), delimiter="," if name == "csv" else "\t"))
    assert [(row["text"], row["translation"]) for row in rows] == [("one", "ONE"), ("two", "TWO"), ("", "")]
    assert "in.properties#2" in str(rows[0]["hymt"])


def test_no_other_input_can_become_a_spliced_file(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_bytes(b"one\n")
    assert not {format.name for format in registry.FORMATS if format.kind is Kind.SPLICED} & set(registry.WRITE_NAMES)
    with pytest.raises(Exception, match=r"write.format=properties is not a choice"):
        job(f"source.path={tmp_path / 'in.txt'}", "name=n", "write.format=properties")


@pytest.mark.parametrize("name", ["properties", "po", "srt", "vtt", "markdown"])
def test_a_lone_surrogate_in_a_translation_becomes_the_replacement_character(tmp_path: Path, name: str) -> None:
    cue = "00:00:01.000 --> 00:00:02.000\n"
    data = {"properties": "# é\nk=one\n", "po": 'msgid "one"\nmsgstr ""\n', "srt": f"{cue}one\n"}
    data |= {"vtt": f"WEBVTT\n\n{cue}one\n", "markdown": "one\n"}
    path = tmp_path / "in"
    path.write_text(data[name])
    config = SourceConfig(path=str(path), format=SourceFormat(name))
    (input,), out = discovery.find_inputs(config).with_target("fr"), io.BytesIO()
    writer = registry.get(name).open_writer(
        OutputSpec(input, Preamble(), WriteConfig(), (), FieldReader, True, False), out
    )
    for document, _ in read_documents(input, config, full=True):
        writer.write(document, Row(document.row_index, document.digest, Status.OK, "a \ud83d b"))
    writer.close()
    assert "a \ufffd b" in out.getvalue().decode()


def test_properties_are_found_by_their_extension(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.properties").write_bytes(b"k=one\n")
    (tmp_path / "in/b.txt").write_text("one\n")
    assert job(f"source.path={tmp_path / 'in'}", "name=n").files == 2
    assert translated(job, "n", "a.properties") == b"k=ONE\n"


def test_settings_of_fields_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.properties").write_bytes(b"k=one\n")
    documents(tmp_path / "in.properties", text_field="body", header=False)
    assert [record.getMessage() for record in caplog.records] == [
        "source.text_field=body is ignored: rows of properties files have no fields",
        "source.header=false is ignored: it applies only to csv and tsv",
    ]


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_refused(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "in.properties").write_bytes(mark + "k=one\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match="UTF-16"):
        documents(tmp_path / "in.properties")


def test_a_file_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.properties").write_bytes(b"k=one\n")
    monkeypatch.setattr(spliced, "MAX_FILE_BYTES", 5)
    with pytest.raises(PreflightError, match=r"in\.properties has more than 0 MiB"):
        documents(tmp_path / "in.properties")


class Catalogue:
    """A small format of another kind: each line is `text>>translation`; several texts of a line are separated by `|`.

    A text is at another place than its translation, a translation may be missing, and one line may hold several.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        at = 0
        for number, line in enumerate(self._data.splitlines(keepends=True), 1):
            source, _, target = line.rstrip(b"\n").partition(b">>")
            start = at + len(source) + 2
            if target:
                yield Place(start, start + len(target), str(number), source.decode())
            else:
                for index, text in enumerate(source.decode().split("|")):
                    yield Place(start, start, f"{number}[{index}]", text)
            at += len(line)

    def encode(self, place: Place, text: str) -> bytes:
        return f"<{text}>".encode()


def catalogue(tmp_path: Path, data: bytes) -> list[Document]:
    (tmp_path / "in.cat").write_bytes(data)
    input = Input("in.cat", "in.cat", str(tmp_path / "in.cat"), "cat")
    with contextlib.closing(spliced.SplicedInput(input, Catalogue)) as file:
        config = SourceConfig(path="x")
        return [document for document, _ in file.rows(config, ReadContext(full=True), 0)]


def test_texts_may_be_inserted_far_from_their_source_several_at_one_offset(tmp_path: Path) -> None:
    data = b"one>>\ntwo|three>>\nfour>>old\nfive>>"
    documents = catalogue(tmp_path, data)
    assert [(document.id, document.text, document.raw) for document in documents] == [
        ("in.cat#1[0]", "one", b""),
        ("in.cat#2[0]", "two", b""),
        ("in.cat#2[1]", "three", b""),
        ("in.cat#3", "four", b"old"),
        ("in.cat#4[0]", "five", b""),
    ]
    input, out = Input("in.cat", "in.cat", str(tmp_path / "in.cat"), "cat"), io.BytesIO()
    spec = OutputSpec(input, Preamble(), WriteConfig(), (), FieldReader, keeps_bytes=True, has_column_names=True)
    writer = spliced.SplicedWriter(spec, out)
    for document, text in zip(documents, ["one", "2", "3", "four", ""], strict=True):
        status = Status.OK if text else Status.EMPTY
        writer.write(document, Row(document.row_index, document.digest, status, text))
    writer.close()
    assert out.getvalue() == b"one>><one>\ntwo|three>><2><3>\nfour>><four>\nfive>>"


def test_the_digest_of_a_place_covers_its_text_wherever_it_comes_from(tmp_path: Path) -> None:
    before = catalogue(tmp_path, b"one>>\ntwo>>old\n")
    after = catalogue(tmp_path, b"ONE>>\ntwo>>new\n")
    assert [document.digest for document in before] != [document.digest for document in after]
    assert before[0].digest != after[0].digest
    assert before[1].digest != after[1].digest
    (tmp_path / "in.properties").write_bytes(b"a=\xc3\xa9\n")
    (utf8,) = documents(tmp_path / "in.properties")
    (tmp_path / "in.properties").write_bytes(b"a=\xc3\xa9\n# \xe9")
    (latin1,) = documents(tmp_path / "in.properties")
    assert (utf8.text, latin1.text) == ("é", "Ã©")
    assert utf8.digest != latin1.digest


def test_a_format_is_named_in_the_registry_alone() -> None:
    """The choices of both settings, and the comments of the files in conf/, are those of the registry."""
    assert [member.value for member in SourceFormat] == ["auto", *registry.SOURCE_NAMES]
    assert [member.value for member in WriteFormat] == ["input", *registry.WRITE_NAMES]
    for stage, first, names in (("source", "auto", registry.SOURCE_NAMES), ("write", "input", registry.WRITE_NAMES)):
        files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "conf" / stage).glob("*.yaml")}
        assert set(files) == {first, *names}
        for text in files.values():
            (line,) = [line for line in text.splitlines() if line.startswith("format: ")]
            comment = line.partition("#")[2]
            assert all(name in comment for name in (first, *names))


def test_a_place_that_keeps_its_source_has_no_flag_of_a_translation_that_was_not_written() -> None:
    row = Row(0, b"", Status.OK, "a", ("loop", "codes_moved"))
    kept = place_row.with_source_kept(row)
    assert (kept.status, kept.text, kept.flags) == (Status.GENERATION_ERROR, "", ("loop", "source_kept"))
