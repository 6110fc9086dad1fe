"""Small files are decoded together: which files form a unit, and what happens to it after a stop or new inputs."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymt_batch import config, file_units, manifest, nofollow, signals
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import StoppedError
from hymt_batch.fs import OS_FS, OsFs
from hymt_batch.records import Input
from hymt_batch.run.reporter import Reporter
from hymt_batch.write.output import Output
from tests.campaigns import small_files
from tests.fakes import engine
from tests.fakes import job as fake_job
from tests.fakes import worker as fake_worker
from tests.fakes.job import translate_with

ROWS = ["batch.max_rows=100000", "batch.part_rows=100", "batch.part_tokens=1000"]


class Stopped(Exception):
    """Ends a run in the middle."""


class Job:
    """Runs jobs over one folder of files, with an engine whose texts depend on what is decoded in one batch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "source"
        self.source.mkdir()
        self.batches: list[int] = []  # rows of each batch

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.source / f"{name}.txt").write_text(text)

    def __call__(self, name: str, *overrides: str) -> Any:
        self.batches.clear()
        settings = [f"source.path={self.source}", f"output_dir={self.folder / 'out'}", f"name={name}", *ROWS]
        job = config.load("translate", ["tgt_lang=fr", "model=demo", *settings, *overrides])
        with Reporter("off") as reporter:
            return translate_with(job, reporter, self._decode)

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        self.batches.append(len(requests))
        batch = hashlib.sha256(repr([request.prompt_ids for request in requests]).encode()).hexdigest()[:6]
        texts = engine.upper(requests, check_stop)
        return [Completion([*completion.ids, *f" {batch}".encode()], "stop") for completion in texts]

    def published(self, name: str) -> dict[str, bytes]:
        root = self.folder / "out" / name / "translated"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def units(self, name: str) -> tuple[str, ...]:
        return manifest.read_job(OS_FS, self.folder / "out" / name).units

    def stop_at_commit(self, number: int, name: str, *overrides: str) -> None:
        """Run a job until it is about to commit the part with this number, from 1."""
        original, calls = Output.commit, [0]

        def commit(self: Output, *rest: Any) -> None:
            calls[0] += 1
            if calls[0] == number:
                raise Stopped
            original(self, *rest)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Output, "commit", commit)
            self(name, *overrides)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def lines(name: str, count: int = 3) -> str:
    return "".join(f"{name} row {row} {'word ' * (7 * row % 5)}\n" for row in range(count))


def test_small_files_are_decoded_as_one_batch_and_published_one_by_one(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcdef"})
    assert job("together").rows == 18
    assert job.batches == [18]
    assert job.units("together") == ("a.txt",)
    assert all(text.count(b"\n") == 3 for text in job.published("together").values())
    assert len({line.split()[-1] for text in job.published("together").values() for line in text.splitlines()}) == 1


def test_a_unit_ends_at_the_bytes_of_a_part_and_only_small_files_of_lines_share_one(job: Job) -> None:
    job.write(a=lines("a"), b=lines("b"), d="x" * 3900 + "\n", e=lines("e"), f=lines("f"), h=lines("h"), i=lines("i"))
    (job.source / "c.txt").write_text("y\n" * 32768)  # 64 KiB
    (job.source / "e2.txt.gz").write_bytes(gzip.compress(b"packed\n", mtime=0))
    job("n")
    assert job.units("n") == ("a.txt", "c.txt", "d.txt", "e2.txt.gz", "f.txt")
    assert _names(job.folder / "out/n", job.source) == [
        ["a.txt", "b.txt"],
        ["c.txt"],
        ["d.txt", "e.txt"],
        ["e2.txt.gz"],
        ["f.txt", "h.txt", "i.txt"],
    ]


def test_a_job_without_small_neighbours_records_no_units(job: Job) -> None:
    job.write(a=lines("a"))
    job("n")
    value = json.loads((job.folder / "out/n/.hymt/job.json").read_text())
    assert "units" not in value


@pytest.mark.parametrize("commit", [1, 2, 3, 5, 8, 9])
def test_a_unit_that_was_stopped_is_decoded_whole_and_only_what_is_missing_is_committed(job: Job, commit: int) -> None:
    job.write(a=lines("a", 7), b="", c=lines("c"), d="\n\n", e=lines("e", 5))
    settings = ("batch.part_rows=2", "batch.shard_rows=4")
    num_rows = job("unbroken", *settings).num_rows_decoded
    assert job.batches == [15]
    job.stop_at_commit(commit, "stopped", *settings)
    summary = job("stopped", *settings)
    assert job.batches == [15]
    assert summary.num_rows_decoded < num_rows or commit == 1
    assert summary.num_rows_decoded > 0
    assert job.published("stopped") == job.published("unbroken")
    job("stopped", *settings)
    assert job.batches == []


def test_a_finished_unit_is_skipped_while_the_next_one_is_decoded(job: Job) -> None:
    job.write(**{name: lines(name) * 5 for name in "abcdefgh"})
    settings = ("batch.part_tokens=250",)  # 1,000 bytes
    job("unbroken", *settings)
    assert len(job.units("unbroken")) == 3 and len(job.batches) == 3
    job.stop_at_commit(5, "stopped", *settings)
    job("stopped", *settings)
    assert len(job.batches) == 2
    assert job.published("stopped") == job.published("unbroken")


def test_a_folder_without_units_goes_on_part_by_part(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    job.stop_at_commit(2, "old")
    folder = job.folder / "out/old"
    record = manifest.read_job(OS_FS, folder)
    manifest.replace_job(OS_FS, folder, manifest.JobRecord(**{**_fields(record), "units": ()}))
    job("old")
    assert job.batches == [3, 3, 3]  # a is committed
    assert job.units("old") == ()
    job.write(e=lines("e"))
    job("old", "on_input_change=redo")
    assert job.batches == [3] and job.units("old") == ()


def _fields(record: manifest.JobRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in manifest.JobRecord.__dataclass_fields__}


def test_a_folder_of_an_earlier_plan_that_lost_its_job_json_gets_no_units(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    job.stop_at_commit(2, "old")
    path = job.folder / "out/old/.hymt/job.json"
    path.unlink()
    job("old")  # rebuilt from the parts, of this plan
    assert job.batches == [12] and job.units("old") == ("a.txt",)
    record = manifest.read_job(OS_FS, job.folder / "out/old")
    identity = {**record.identity, "batch": {**record.identity["batch"], "plan": 4}}
    assert file_units.plan(record.inputs, identity) == ()


def test_under_redo_a_changed_file_is_a_unit_of_its_own_and_the_others_are_not_decoded(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    job("n")
    before = job.published("n")
    job.write(b=lines("changed"))
    summary = job("n", "on_input_change=redo")
    assert job.batches == [3] and summary.num_rows_decoded == 3
    assert job.units("n") == ("a.txt", "b.txt", "c.txt")
    after = job.published("n")
    assert {name for name in before if before[name] != after[name]} == {"b.txt"}
    job("n")
    assert job.batches == []


def test_new_files_form_units_of_their_own_and_removed_ones_leave_theirs(job: Job) -> None:
    job.write(**{name: lines(name) for name in "bcdgh"})
    job("n")
    job.write(**{name: lines(name) for name in "aefz"})
    (job.source / "b.txt").unlink()
    assert job("n", "on_input_change=redo").num_rows_decoded == 12
    assert job.batches == [3, 6, 3]  # a; e and f; z
    assert job.units("n") == ("a.txt", "c.txt", "e.txt", "g.txt", "z.txt")


@pytest.mark.parametrize("commit", range(1, 6))
def test_a_redo_that_is_stopped_gives_the_text_of_one_that_is_not(job: Job, commit: int) -> None:
    job.write(**{name: lines(name) for name in "abcde"})
    for name in ("unbroken", "stopped"):
        job.stop_at_commit(4, name)
    job.write(b=lines("changed"), c=lines("c", 4), e=lines("other"), f=lines("new"))
    job("unbroken", "on_input_change=redo")
    job.stop_at_commit(commit, "stopped", "on_input_change=redo")
    job("stopped", "on_input_change=redo")
    assert job.published("stopped") == job.published("unbroken")
    assert job.units("stopped") == job.units("unbroken") == ("a.txt", "b.txt", "c.txt", "d.txt", "f.txt")


def test_a_file_that_has_grown_is_decoded_by_itself(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abc"})
    job.stop_at_commit(1, "n")
    job.write(b="grown\n" * 20_000)
    job("n")
    assert job.batches == [3, 1, 3]


def test_source_limit_cuts_a_unit(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    assert job("n", "source.limit=7").rows == 7
    assert job.batches == [7] and len(job.published("n")) == 3
    job("n", "source.limit=7")
    assert job.batches == []


def test_equal_names_and_order_of_paths_do_not_change_what_a_finished_job_holds(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    paths = [str(job.source / f"{name}.txt") for name in "abcd"]
    job("n", f"source.path=[{','.join(paths)}]")
    job("n", f"source.path=[{','.join(reversed(paths))}]")
    assert job.batches == []


def test_memory_that_ran_out_marks_every_part_of_the_unit(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write(**{name: lines(name) for name in "abc"})
    plain = job._decode

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if len(requests) > 5:
            raise MemoryError
        return plain(requests, check_stop)

    monkeypatch.setattr(job, "_decode", decode)
    job("n")
    assert manifest.read(OS_FS, job.folder / "out/n")["degraded"] == {"oom_split": 3}


files = st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from(["text", "parquet", "properties"])), max_size=30)


def make_inputs(sizes: Sequence[tuple[int, str]]) -> list[Input]:
    return [Input(f"{i:03}", f"{i:03}", "", format, size=size) for i, (size, format) in enumerate(sizes)]


@given(files, st.integers(1, 40_000))
def test_every_file_is_in_exactly_one_unit_and_no_unit_exceeds_a_limit(
    sizes: list[tuple[int, str]], part_tokens: int
) -> None:
    inputs = make_inputs(sizes)
    planned = file_units.plan(inputs, {"batch": {"plan": 5, "part_tokens": part_tokens}})
    units = list(file_units.group(inputs, planned))
    assert [input for unit in units for input in unit] == inputs
    assert not planned or tuple(unit[0].rel for unit in units) == planned
    for unit, following in zip(units, [*units[1:], []], strict=False):
        total = sum(input.size or 0 for input in unit)
        assert len(unit) == 1 or (all(map(file_units.is_small, unit)) and total <= 4 * part_tokens)
        if following and file_units.is_small(unit[-1]) and file_units.is_small(following[0]):
            assert total + (following[0].size or 0) > 4 * part_tokens


def test_a_unit_has_at_most_a_thousand_files() -> None:
    inputs = [Input(str(i), str(i), "", "text", size=1) for i in range(2500)]
    planned = file_units.plan(inputs, {"batch": {"plan": 5, "part_tokens": 1 << 20}})
    assert [len(unit) for unit in file_units.group(inputs, planned)] == [1000, 1000, 500]


@given(st.integers(0, 1 << 30), st.floats(0, 1))
def test_units_after_a_change_keep_what_is_unchanged_and_give_the_same_again(seed: int, share: float) -> None:
    rng, identity = random.Random(seed), {"batch": {"plan": 5, "part_tokens": 10_000}}
    every = make_inputs([(rng.choice([10, 9000, 70_000]), "text") for _ in range(15)])
    before = [input for input in every if rng.random() < 0.7]
    now = [input for input in every if rng.random() < 0.7]
    if not (planned := file_units.plan(before, identity)):
        return
    changed = {input.rel for input in now if input in before and rng.random() < share}
    regrouped = file_units.regroup(now, before, planned, identity, changed)
    assert file_units.regroup(now, now, regrouped, identity, changed) == regrouped
    unit_before = {input.rel: i for i, unit in enumerate(file_units.group(before, planned)) for input in unit}
    for unit in file_units.group(now, regrouped):
        assert len({unit_before.get(input.rel) for input in unit}) == 1
        assert len(unit) == 1 or not changed & {input.rel for input in unit if input.rel in unit_before}


def test_a_row_that_kills_workers_is_found_in_a_unit_and_the_other_files_are_translated(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.write(a="a one\n", b="POISON\nb two\n", c="c one\n")
    (job.source / "d.txt.gz").write_bytes(gzip.compress(b"alone\n", mtime=0))
    settings = [f"source.path={job.source}", f"output_dir={tmp_path}", *ROWS, "launch.workers=2", "name=n"]
    run = ["tgt_lang=fr", "model=demo", "check.max_error_rate=1", "launch.progress=off", *settings]
    assert fake_job.run(run, worker_command=fake_worker.COMMAND) == 0
    published = {path.name: path.read_bytes() for path in (tmp_path / "n/translated").iterdir()}
    assert (published["a.txt"], published["c.txt"]) == (b"A ONE\n", b"C ONE\n")
    assert published["b.txt"].endswith(b"B TWO\n") and gzip.decompress(published["d.txt.gz"]) == b"ALONE\n"
    done = manifest.read(OS_FS, tmp_path / "n")
    assert done["degraded"] == {"bisected": 3} and done["counts"] == {"crash_quarantined": 1, "ok": 4}
    assert _names(tmp_path / "n", job.source) == [["a.txt", "b.txt", "c.txt"], ["d.txt.gz"]]


def _names(folder: Path, source: Path) -> list[list[str]]:
    record = manifest.read_job(OS_FS, folder)
    inputs = [
        Input(i.rel, "", "", i.format, i.compression, size=(source / i.rel).stat().st_size) for i in record.inputs
    ]
    return [[input.rel for input in unit] for unit in file_units.group(inputs, record.units)]


def test_a_unit_has_one_attempt_marker_until_its_first_part_is_committed(job: Job) -> None:
    job.write(**{name: lines(name) for name in "abcd"})
    markers = job.folder / "out/n/.hymt/attempts"
    seen: list[int] = []
    plain = job._decode

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        seen.append(len(list(markers.iterdir())))
        return plain(requests, check_stop)

    job._decode = decode  # type: ignore[method-assign]
    job.stop_at_commit(3, "n")
    assert seen == [1] and list(markers.iterdir()) == []
    job("n")
    assert seen == [1, 1] and not list(markers.iterdir())


def test_a_stop_request_while_a_unit_is_decoded_commits_all_of_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write(**{name: lines(name) * 5 for name in "abcdefgh"})
    plain, units, stop = job._decode, "batch.part_tokens=250", signals.StopRequest()
    monkeypatch.setattr(signals, "_stop", stop)

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        stop.signal_name, stop.deadline = "SIGTERM", math.inf
        return plain(requests, check_stop)

    monkeypatch.setattr(job, "_decode", decode)
    with pytest.raises(StoppedError):
        job("n", units)
    assert len(job.batches) == 1
    assert len(job.published("n")) == 3


def test_a_small_file_costs_at_most_five_syncs_and_few_opens_and_stats(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The syncs: its record, its output and file.json, and twice the folder of its state."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(OsFs, "fsync", staticmethod(counted("fsync")))
    monkeypatch.setattr(os, "fsync", counted("fsync"))
    monkeypatch.setattr(os, "open", counted("open"))
    monkeypatch.setattr(os, "stat", counted("stat"))
    monkeypatch.setattr(nofollow, "FRESH_S", 3600)  # as if all that is done for a file took less than it
    costs = []
    for files in (10, 30):
        job.write(**{f"f{index:02}": lines("row", 2) for index in range(files)})
        counts.clear()
        job(f"of{files}", "launch.report=false")  # which reads a bounded number of files
        costs.append(dict(counts))
    assert (costs[1]["fsync"] - costs[0]["fsync"]) / 20 <= 5
    assert (costs[1]["open"] - costs[0]["open"]) / 20 < 18
    assert (costs[1]["stat"] - costs[0]["stat"]) / 20 < 25


def test_rows_in_a_hundred_files_need_at_most_a_tenth_more_decode_steps_than_in_one_file(tmp_path: Path) -> None:
    """With the demo model and its engine, counted exactly."""
    figures = small_files.steps(100, 5, tmp_path)
    assert (figures["files"], figures["rows"]) == (100, 500)
    assert 0 < figures["many"] <= 1.1 * figures["one"]
