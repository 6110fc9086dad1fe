"""status and verify report every state of a folder correctly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch.errors import ExitCode, UsageError
from hymt_batch.formats import registry
from hymt_batch.records import Input, Row, ShardRecord, Status
from hymt_batch.write import part as parts
from jobs import status, verify
from tests.fakes.upper import ENVIRONMENT, an_input, open_output, plan, run, shards, upper


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "in.txt").write_text("".join(f"line {i}\n" for i in range(19)) + "empty\n")
    return [an_input(tmp_path / "in.txt")]


def begin(folder: Path, inputs: list[Input], num_shards: int = 2) -> None:
    with open_output(folder, inputs) as output:
        for shard in list(shards(inputs[0]))[:num_shards]:
            for part in plan(shard)[: 3 if shard.index == 0 else 1]:
                output.commit(part, upper(part), ENVIRONMENT)


def job_config(folder: Path, style: str = "text") -> Any:
    location = {"name": folder.name, "output_dir": str(folder.parent)}
    return SimpleNamespace(
        **location, format=SimpleNamespace(value=style), errors=0, fail=False, max_error_rate=None, inputs=False
    )


def test_a_missing_folder_is_a_job_that_was_not_started(tmp_path: Path) -> None:
    assert status.status(tmp_path / "job").state == "not started"
    for run_job in (status.run, verify.run):
        with pytest.raises(UsageError, match=r"there is no job 'job' in .* Set name="):
            run_job(job_config(tmp_path / "job"))


def test_a_mistyped_name_is_refused_with_a_suggestion(tmp_path: Path, inputs: list[Input]) -> None:
    run(tmp_path / "nightly", inputs)
    run(tmp_path / "demo", inputs)
    for run_job in (status.run, verify.run):
        with pytest.raises(UsageError, match=r"no job 'nigthly' in .*Similar names: nightly\. Set name="):
            run_job(job_config(tmp_path / "nigthly"))


def test_the_points_of_a_sweep_are_shown_one_by_one(
    tmp_path: Path, inputs: list[Input], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "sweep" / "seed=1", inputs)
    begin(tmp_path / "sweep" / "seed=2", inputs)
    assert status.run(job_config(tmp_path / "sweep")) is ExitCode.COMPLETE
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path / 'sweep'}: 1 of 2 points complete"
    assert "seed=1: complete, 1 of 1 file published, 20 rows" in first
    assert "seed=2: stopped" in second
    assert verify.run(job_config(tmp_path / "sweep")) is ExitCode.MISSING
    assert "complete and undamaged" in capsys.readouterr().out
    (tmp_path / "sweep" / "seed=1" / "translated" / "in.txt").unlink()
    assert verify.run(job_config(tmp_path / "sweep", "json")) is ExitCode.DAMAGE
    assert [bool(json.loads(line)["damage"]) for line in capsys.readouterr().out.splitlines()] == [True, False]


def test_a_complete_job_counts_the_shards_of_its_published_files(tmp_path: Path, inputs: list[Input]) -> None:
    num_shards = len(list(shards(inputs[0])))
    run(tmp_path / "job", inputs)
    job_status = status.status(tmp_path / "job")
    assert (job_status.state, job_status.files_published, job_status.rows) == ("complete", 1, 20)
    assert (job_status.shards, job_status.shards_complete) == (num_shards, num_shards)
    assert num_shards > 1


@pytest.mark.fault(48)
def test_a_stopped_job_shows_what_is_committed_and_what_is_missing(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs)
    job_status = status.status(tmp_path / "job")
    assert (job_status.state, job_status.files, job_status.files_published) == ("stopped", 1, 0)
    assert (
        job_status.shards,
        job_status.shards_complete,
        job_status.parts,
        job_status.rows,
        job_status.error_rows,
    ) == (2, 1, 4, 11, 0)
    report = verify.verify(tmp_path / "job")
    assert report.exit_code is ExitCode.MISSING
    assert report.missing == [
        "in.txt shard 1: 2 of 3 parts, first 1",
        "in.txt from shard 2 on",
        "in.txt: not published",
        "manifest.json",
    ]
    assert report.parts == 4


def test_a_complete_job_is_complete(tmp_path: Path, inputs: list[Input], capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "job", inputs)
    job_status = status.status(tmp_path / "job")
    assert (job_status.state, job_status.rows, job_status.error_rows, job_status.counts) == (
        "complete",
        20,
        1,
        {"empty": 1, "ok": 19},
    )
    assert verify.verify(tmp_path / "job").exit_code is ExitCode.COMPLETE
    assert status.run(job_config(tmp_path / "job", "json")) is ExitCode.COMPLETE
    assert json.loads(capsys.readouterr().out) == asdict(job_status) | {
        "problems": [],
        "obstacles": [],
        "exit_code": 10,  # 1 of 20 rows is more than 1 %
    }
    assert verify.run(job_config(tmp_path / "job")) is ExitCode.COMPLETE
    assert "complete and undamaged" in capsys.readouterr().out


def test_a_running_job_names_its_process(tmp_path: Path, inputs: list[Input]) -> None:
    with open_output(tmp_path / "job", inputs, lease_ttl_s=10.0):
        job_status = status.status(tmp_path / "job")
        assert (job_status.state, job_status.holder_alive) == ("running", True)
        assert job_status.holder is not None
        assert job_status.holder["pid"] == os.getpid()
        assert f"process {os.getpid()} on" in status.render(job_status)
    assert status.status(tmp_path / "job").state == "stopped"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("translated/in.txt", lambda d: d[:-1], "has 142 bytes, but its record has 143"),
        ("translated/in.txt", lambda d: d.replace(b"LINE 3", b"LINF 3"), "does not match its checksum"),
        ("translated/in.txt", None, "is missing"),
        ("errors/in.txt.errors.jsonl", lambda d: d + b"{}\n", "but its record has"),
        ("errors/in.txt.errors.jsonl", None, "is missing"),
        ("translated/more.txt", lambda d: b"x", "does not belong to this job"),
        ("manifest.json", lambda d: d.replace(b'"rows": 20', b'"rows": 21'), "do not match its checksum"),
        ("manifest.json", lambda d: b"", "it is empty"),
        (".hymt/job.json", lambda d: bytes(len(d)), "zero bytes"),
    ],
)
@pytest.mark.fault(39)
def test_every_damage_of_a_finished_job_is_found_and_named(
    tmp_path: Path, inputs: list[Input], file: str, change: Any, message: str
) -> None:
    run(tmp_path / "job", inputs)
    path = tmp_path / "job" / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    report = verify.verify(tmp_path / "job")
    assert report.exit_code is ExitCode.DAMAGE
    assert [d for d in report.damage if d.startswith(file) and message in d], report.damage
    advice = (
        "Move away the files that do not belong to this job" if "does not belong" in message else "Run the job again"
    )
    assert advice in verify.render(report)
    status.render(status.status(tmp_path / "job"))  # never a traceback


def test_json_has_each_problem_as_fields_and_as_a_line(
    tmp_path: Path, inputs: list[Input], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "job", inputs)
    (tmp_path / "job" / "translated" / "in.txt").write_bytes(b"")
    (tmp_path / "job" / "translated" / "other.txt").write_bytes(b"")
    (tmp_path / "job" / "manifest.json").unlink()
    rebuild = "Run the job again to rebuild what is damaged or missing."
    found = [
        ("damage", "translated/in.txt", rebuild),
        ("missing", "manifest.json", rebuild),
        ("foreign", "translated/other.txt", "Move away the files that do not belong to this job."),
    ]
    assert verify.run(job_config(tmp_path / "job", "json")) is ExitCode.DAMAGE
    report = json.loads(capsys.readouterr().out)
    assert [(item["kind"], item["subject"], item["fix"]) for item in report["findings"]] == found
    assert all(
        item["what"] and set(item) == {"kind", "subject", "what", "why", "fix", "id"} for item in report["findings"]
    )
    assert report["damage"] == [
        f"{item['subject']}: {item['what']}" for item in report["findings"] if item["kind"] != "missing"
    ]
    assert (report["missing"], report["foreign"], report["obstacles"]) == (["manifest.json"], report["damage"][1:], [])
    assert status.run(job_config(tmp_path / "job", "json")) is ExitCode.COMPLETE
    report = json.loads(capsys.readouterr().out)
    assert [(item["kind"], item["subject"], item["fix"]) for item in report["findings"]] == found[:1]
    assert report["problems"] == ["translated/in.txt: is missing or not the published version"]


def test_a_missing_manifest_is_missing_and_not_damage(tmp_path: Path, inputs: list[Input]) -> None:
    run(tmp_path / "job", inputs)
    (tmp_path / "job" / "manifest.json").unlink()
    report = verify.verify(tmp_path / "job")
    assert (report.exit_code, report.missing) == (ExitCode.MISSING, ["manifest.json"])
    assert status.status(tmp_path / "job").state == "stopped"


@pytest.mark.fault(35)
def test_a_damaged_part_of_an_unfinished_job_is_damage(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs)
    victim = next((tmp_path / "job" / ".hymt").rglob("p00002"))
    victim.write_bytes(b"")
    report = verify.verify(tmp_path / "job")
    assert report.exit_code is ExitCode.DAMAGE
    assert report.damage == ["in.txt shard 0 part 2: the file is empty or holds only zero bytes"]
    assert status.status(tmp_path / "job").state == "damaged"


@pytest.mark.parametrize(
    ("name", "data", "kind", "rows"),
    [
        ("a.txt", b"a\nb", "text", 2),
        ("a.txt", b"a\n\n", "text", 2),
        ("a.txt", b"", "text", 0),
        ("a.csv", b'h,i\n"x\ny",1\nz,2\n', "csv", 2),
        ("a.tsv", b"h\ti\nx\t1\n", "tsv", 1),
    ],
)
def test_rows_are_counted_as_the_format_counts_them(
    tmp_path: Path, name: str, data: bytes, kind: str, rows: int
) -> None:
    import bz2
    import gzip
    import lzma

    for suffix, pack in (("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)):
        (tmp_path / (name + suffix)).write_bytes(pack(data))
        assert rows in registry.get(kind).count_rows(tmp_path / (name + suffix), {})


def test_the_status_of_thousands_of_parts_takes_less_than_a_second(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs, 0)
    state_folder = tmp_path / "job" / ".hymt" / f"f{inputs[0].file_id}"
    for shard in range(150):
        record = ShardRecord(shard, shard * 20, 20, 0, 0, "0" * 64, False)
        folder = state_folder / parts.shard_name(shard)
        folder.mkdir(parents=True)
        for part in range(20):
            rows = [Row(shard * 20 + part, bytes(8), Status.OK, "x" * 2000)]
            origin = parts.PartOrigin(
                identity="0", environment={}, file_id="0", shard=record, part_index=part, num_parts=20, uuid="u"
            )
            data = parts.encode(rows, origin)
            (folder / parts.part_name(part)).write_bytes(data)
    began = time.process_time()
    job_status = status.status(tmp_path / "job")
    assert (job_status.parts, job_status.shards_complete) == (3000, 150)
    assert time.process_time() - began < 1.0


def test_the_speed_of_a_stopped_job_excludes_its_pause() -> None:
    second_ns = 10**9
    steady = [(index * 20 * second_ns, 40) for index in range(20)]
    stopped = steady + [(mtime_ns + 86_400 * second_ns, rows) for mtime_ns, rows in steady]
    assert status._rows_per_s(steady) == status._rows_per_s(stopped) == 2.0
    assert status._rows_per_s([]) is None
    assert status._rows_per_s([(0, 5)]) is None


def test_verify_of_a_running_job_advises_to_wait(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs)
    assert "Run the job again" in verify.render(verify.verify(tmp_path / "job"))
    with open_output(tmp_path / "job", inputs, lease_ttl_s=180.0, lease_beat_s=20.0):
        report = verify.verify(tmp_path / "job")
    assert report.running
    assert "is running" in verify.render(report)
    assert report.exit_code is ExitCode.MISSING


def test_status_and_verify_import_nothing_heavy() -> None:
    code = (
        "import sys; from jobs import status, verify; "
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'datasets', 'hydra') if m in sys.modules])"
    )
    root = Path(status.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


def test_verify_changes_nothing(tmp_path: Path, inputs: list[Input]) -> None:
    begin(tmp_path / "job", inputs)
    (tmp_path / "job" / ".hymt" / f"f{inputs[0].file_id}" / "s0000000" / "p00000").write_bytes(b"damaged")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "job").rglob("*")}
    verify.verify(tmp_path / "job")
    status.status(tmp_path / "job")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "job").rglob("*")} == before
