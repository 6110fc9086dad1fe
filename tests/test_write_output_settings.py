"""Output settings that change on a finished job: its files are assembled again, to the bytes of a job that began so."""

from __future__ import annotations

import errno
import itertools
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import config, manifest
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, IdentityError, InputChangedError, StoppedError
from hymt_batch.records import Input, Row, ShardRecord, Status
from hymt_batch.run.reporter import Reporter, render_summary
from hymt_batch.write import part as parts
from hymt_batch.write import row_record
from hymt_batch.write.settings import OnError, WriteConfig, WriteFormat
from jobs import status, verify
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.fakes import upper as fake_upper
from tests.fakes.upper import ENVIRONMENT, FAST, SETTINGS, Fast, an_input, open_output, plan, run, shards, upper
from tests.faults.simfs import Crash

EXTENSIONS = {"text": ".txt", "jsonl": ".jsonl", "parquet": ".parquet", "csv": ".csv"}


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text("".join(f"{'empty' if i == 3 else 'line'} {i}\n" for i in range(20)))
    paths[1].write_text("one\n")
    return paths


def inputs_as(sources: list[Path], kind: str) -> list[Input]:
    return [replace(an_input(path), out_rel=path.stem + EXTENSIONS[kind]) for path in sources]


def options(kind: str, **settings: Any) -> dict[str, Any]:
    config = WriteConfig(format=WriteFormat(kind), **settings)
    recorded = {f"write.{name}": getattr(config, name) for name in ("translation_field", "raw_errors")}
    recorded |= {"write.format": kind, "write.on_error": config.on_error.value}
    return {"config": config, "settings": {**SETTINGS, **recorded}}


def files(folder: Path) -> dict[str, bytes]:
    """Return the published files and the manifest."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".hymt" not in path.parts
    }


def test_a_finished_job_is_written_in_other_formats_without_decoding(tmp_path: Path, sources: list[Path]) -> None:
    kinds = ["text", "jsonl", "parquet", "csv", "text"]
    for number, kind in enumerate(kinds):
        run(tmp_path / f"fresh-{number}", inputs_as(sources, kind), **options(kind))
        decoded: list[str] = []
        summary = run(tmp_path / "job", inputs_as(sources, kind), decoded=decoded.append, **options(kind))
        assert bool(decoded) == (number == 0)
        assert summary.num_files_assembled_again == (2 if number else 0)
        assert ("2 files were written again" in render_summary(summary, [])) == bool(number)
        assert files(tmp_path / "job") == files(tmp_path / f"fresh-{number}")
        assert verify.verify(tmp_path / "job").exit_code is ExitCode.COMPLETE
        assert status.status(tmp_path / "job").state == "complete"
        job = manifest.read_job(FAST, tmp_path / "job")
        assert (job.replaced_settings, job.replaced_paths) == ((), {})


def test_other_output_settings_of_the_same_format(tmp_path: Path, sources: list[Path]) -> None:
    inputs = inputs_as(sources, "jsonl")
    run(tmp_path / "job", inputs, **options("jsonl"))
    changes: list[dict[str, Any]] = [
        {"on_error": OnError.source},
        {"translation_field": "fr"},
        {"raw_errors": False},
        {},
    ]
    for number, settings in enumerate(changes):
        run(tmp_path / f"fresh-{number}", inputs, **options("jsonl", **settings))
        decoded: list[str] = []
        run(tmp_path / "job", inputs, decoded=decoded.append, **options("jsonl", **settings))
        assert not decoded
        assert files(tmp_path / "job") == files(tmp_path / f"fresh-{number}")


class Killed(Fast):
    """Raises before the n-th change of the file system."""

    def __init__(self, after: int) -> None:
        self.left = after
        for name in ("open_exclusive", "link", "rename", "unlink", "mkdir", "rmdir"):
            setattr(self, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Crash
            return getattr(FAST, name)(*arguments)

        return call


def test_a_run_killed_while_it_assembles_again_is_continued(tmp_path: Path, sources: list[Path]) -> None:
    rng = random.Random(3)
    for kind in ("jsonl", "text"):
        run(tmp_path / f"fresh-{kind}", inputs_as(sources, kind), **options(kind))
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    current = "text"
    for after in itertools.count(1):
        wanted = rng.choice(["jsonl", "text"])
        try:
            run(tmp_path / "job", inputs_as(sources, wanted), fs=Killed(after), **options(wanted))
        except Crash:
            report = verify.verify(tmp_path / "job")
            assert report.damage == [], f"killed after {after} changes"
            present = {
                path.stem for path in (tmp_path / "job/translated").iterdir() if path.suffix in (".txt", ".jsonl")
            }
            assert present == {"a", "b"}, "every file has its old name or its new one"
            continue
        current = wanted
        break
    assert after > 12
    decoded: list[str] = []
    for wanted in ("text", "jsonl"):
        run(tmp_path / "job", inputs_as(sources, wanted), decoded=decoded.append, **options(wanted))
        assert files(tmp_path / "job") == files(tmp_path / f"fresh-{wanted}"), current
    assert not decoded


def test_a_job_that_did_not_keep_its_rows_is_refused(tmp_path: Path, sources: list[Path]) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text", keep_rows=False))
    before = files(tmp_path / "job")
    with pytest.raises(IdentityError, match=r"write\.keep_rows=false"):
        run(tmp_path / "job", inputs_as(sources, "jsonl"), **options("jsonl"))
    assert files(tmp_path / "job") == before
    run(tmp_path / "job", inputs_as(sources, "jsonl"), on_mismatch="fork", **options("jsonl"))
    assert (tmp_path / "job-2/translated/a.jsonl").exists()


def test_a_user_who_edited_the_old_file_keeps_it(tmp_path: Path, sources: list[Path]) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    (tmp_path / "job/translated/a.txt").write_text("corrected by hand\n")
    run(tmp_path / "job", inputs_as(sources, "jsonl"), **options("jsonl"))
    assert not (tmp_path / "job/translated/a.txt").exists()
    assert [path.read_text() for path in (tmp_path / "job/set_aside").iterdir()] == ["corrected by hand\n"]


def test_a_changed_input_is_refused_before_anything_is_replaced(tmp_path: Path, sources: list[Path]) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    sources[0].write_text(sources[0].read_text().replace("line 7", "lime 7"))
    before, job_json = files(tmp_path / "job"), (tmp_path / "job/.hymt/job.json").read_bytes()
    with pytest.raises(InputChangedError, match=r"a\.txt row 8"):
        run(tmp_path / "job", inputs_as(sources, "jsonl"), **options("jsonl"))
    assert (files(tmp_path / "job"), (tmp_path / "job/.hymt/job.json").read_bytes()) == (before, job_json)
    run(tmp_path / "job", inputs_as(sources, "jsonl"), on_input_change="redo", **options("jsonl"))
    texts = [json.loads(line)["translation"] for line in (tmp_path / "job/translated/a.jsonl").read_text().splitlines()]
    assert texts[7] == "LIME 7"
    assert not (tmp_path / "job/translated/a.txt").exists()


def test_an_unfinished_job_takes_new_settings_for_its_published_and_its_open_files(
    tmp_path: Path, sources: list[Path]
) -> None:
    with open_output(tmp_path / "job", inputs_as(sources, "text"), **options("text")) as output:
        for input in inputs_as(sources, "text"):
            for shard in list(shards(input))[: 1 if input.rel == "a.txt" else None]:
                for part in plan(shard):
                    output.commit(part, upper(part), ENVIRONMENT)
                output.finish_shard(shard)
    run(tmp_path / "fresh", inputs_as(sources, "jsonl"), **options("jsonl"))
    decoded: list[str] = []
    run(tmp_path / "job", inputs_as(sources, "jsonl"), decoded=decoded.append, **options("jsonl"))
    assert {name[:7] for name in decoded} == {"a.txt/1", "a.txt/2"}
    assert files(tmp_path / "job") == files(tmp_path / "fresh")


def with_minimum(minimum: float | None) -> dict[str, Any]:
    chosen = options("text")
    chosen["settings"] = {**chosen["settings"], "check.flag.min_logprob": minimum}
    return chosen


def test_only_rows_with_log_probabilities_can_be_flagged_by_them(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    (tmp_path / "job/.hymt/job.json").unlink()  # what rows have is known from the rows alone
    with pytest.raises(IdentityError, match=r"no log-probabilities"):
        run(tmp_path / "job", inputs_as(sources, "text"), **with_minimum(-1.0))
    monkeypatch.setattr(fake_upper, "upper", lambda part: [replace(row, mean_logprob=-2.0) for row in upper(part)])
    for minimum in (-1.0, None, -1.5):
        run(tmp_path / "measured", inputs_as(sources, "text"), **with_minimum(minimum))
    run(tmp_path / "null", inputs_as(sources, "text"), **with_minimum(None))
    run(tmp_path / "null", inputs_as(sources, "text"), **with_minimum(-1.0))


@pytest.mark.parametrize("change", ["format", "on_error"])
def test_a_job_that_lost_its_job_json_takes_new_settings(tmp_path: Path, sources: list[Path], change: str) -> None:
    kind = "jsonl" if change == "format" else "text"
    settings = {} if change == "format" else {"on_error": OnError.source}
    run(tmp_path / "fresh", inputs_as(sources, kind), **options(kind, **settings))
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    (tmp_path / "job/.hymt/job.json").unlink()
    decoded: list[str] = []
    run(tmp_path / "job", inputs_as(sources, kind), decoded=decoded.append, **options(kind, **settings))
    assert not decoded
    assert files(tmp_path / "job") == files(tmp_path / "fresh")
    assert verify.verify(tmp_path / "job").exit_code is ExitCode.COMPLETE


def test_a_job_that_decoded_nothing_takes_new_settings(tmp_path: Path, sources: list[Path]) -> None:
    with open_output(tmp_path / "job", inputs_as(sources, "text"), **options("text")):
        pass
    run(tmp_path / "job", inputs_as(sources, "jsonl"), **options("jsonl"))
    assert verify.verify(tmp_path / "job").exit_code is ExitCode.COMPLETE


@pytest.mark.parametrize("finish", [False, True])
def test_a_damaged_record_is_decoded_again_while_files_are_assembled_again(
    tmp_path: Path, sources: list[Path], finish: bool
) -> None:
    """Its rows may be parts when the next run begins; and the way back to the old settings stays open."""
    for kind in ("text", "jsonl"):
        run(tmp_path / f"fresh-{kind}", inputs_as(sources, kind), **options(kind))
    inputs = inputs_as(sources, "text")
    run(tmp_path / "job", inputs, **options("text"))
    record = next((tmp_path / "job/.hymt" / f"f{inputs[0].file_id}").glob("s0000000.rows"))
    record.write_bytes(record.read_bytes()[:-1])
    with open_output(tmp_path / "job", inputs_as(sources, "jsonl"), **options("jsonl")) as output:
        output.assemble_outdated()
        assert not output.is_complete
        shard = next(iter(shards(inputs_as(sources, "jsonl")[0])))
        for part in plan(shard):
            assert not output.has(part)
            output.commit(part, upper(part), ENVIRONMENT)
    wanted = "jsonl" if finish else "text"
    decoded: list[str] = []
    run(tmp_path / "job", inputs_as(sources, wanted), decoded=decoded.append, **options(wanted))
    assert not decoded
    assert files(tmp_path / "job") == files(tmp_path / f"fresh-{wanted}")
    assert verify.verify(tmp_path / "job").exit_code is ExitCode.COMPLETE


def test_a_record_that_cannot_be_read_stops_the_job_and_is_kept(tmp_path: Path, sources: list[Path]) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))

    class Broken(Fast):
        def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
            if path.suffix == ".rows":
                raise OSError(errno.EIO, "Input/output error", str(path))
            return super().read(path, start, size)

    with pytest.raises(StoppedError):
        run(tmp_path / "job", inputs_as(sources, "jsonl"), fs=Broken(), **options("jsonl"))
    decoded: list[str] = []
    run(tmp_path / "job", inputs_as(sources, "jsonl"), decoded=decoded.append, **options("jsonl"))
    assert not decoded


def test_records_beyond_the_end_of_a_shorter_input_are_removed(tmp_path: Path, sources: list[Path]) -> None:
    run(tmp_path / "job", inputs_as(sources, "text"), **options("text"))
    sources[0].write_text("one\ntwo\n")
    run(tmp_path / "job", inputs_as(sources, "text"), on_input_change="redo", **options("text"))
    state = tmp_path / "job/.hymt" / f"f{an_input(sources[0]).file_id}"
    assert [path.name for path in state.glob("*.rows")] == ["s0000000.rows"]


def test_the_header_of_a_record_stays_small(tmp_path: Path) -> None:
    """A full shard of a large model on a CPU has 16,384 parts."""
    shard = ShardRecord(0, 0, 20_000, 0, 1, "0" * 64, True)
    shard_parts = []
    for index in range(20_000):
        origin = parts.PartOrigin(
            identity="id", environment=ENVIRONMENT, file_id="f", shard=shard, part_index=index, num_parts=20_000,
            uuid="u",
        )  # fmt: skip
        shard_parts.append(parts.decode_payload(parts.encode([Row(index, bytes(8), Status.OK, "x")], origin)))
    data = row_record.encode("id", "f", shard, shard_parts)
    assert data.index(b"\n") < 4096
    header, contents = row_record.decode(data)
    assert (header.num_parts, len(contents.parts), len(contents.rows)) == (20_000, 20_000, 20_000)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.txt"])
def test_the_whole_job_writes_a_finished_job_in_another_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rows of every kind, with the stub model: no text is decoded again, and no model is loaded."""
    shutil.copytree(Path(__file__).parent / "data" / "plan2" / "in", tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    decoded = [0]

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        decoded[0] += len(requests)
        return fake_engine.upper(requests, check_stop)

    def translate_as(folder: str, kind: str) -> dict[str, bytes]:
        words = [f"name={folder}", f"source.path=in/{name}", f"write={kind}", "write.on_error=source", "tgt_lang=fr"]
        words += [
            "output_dir=.",
            "model=demo",
            "launch.report=false",
            "source.max_row_bytes=400",
            "segment.max_tokens=64",
        ]
        job = config.load("translate", [*words, "check.max_error_rate=1", "batch.part_rows=6", "batch.shard_rows=24"])
        with Reporter("off") as reporter:
            fake_job.translate_with(job, reporter, decode)
        assert verify.verify(tmp_path / folder).exit_code is ExitCode.COMPLETE
        return {path: data for path, data in files(tmp_path / folder).items() if not path.startswith("logs/")}

    for kind in ("jsonl", "parquet", "text", "csv", "input"):
        expected = translate_as(f"fresh-{kind}", kind)
        num_decoded = decoded[0]
        if not (tmp_path / "job").exists():
            translate_as("job", kind)
            continue
        assert translate_as("job", kind) == expected
        assert decoded[0] == num_decoded
