"""A prepared job: tasks translate its shards, and a merge publishes what one process would have published."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import config, manifest
from hymt_batch.decode.request import Completion
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.fs import OS_FS, OsFs
from hymt_batch.run import preparation, stored_settings
from hymt_batch.shard import ShardConfig, format_units, parse_units
from hymt_batch.state_layout import FLAT
from hymt_batch.write import claim, lease_holder, shard_plan
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.claim import claim_path
from jobs import __main__ as front
from tests.fakes import engine, model
from tests.fakes import job as fake_job

ROWS = 24


class Cluster:
    """Runs the verbs of a prepared job in this process, with the fake model, and counts the rows that are decoded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.decoded = folder, folder / "out", 0
        self.on_decode: Callable[[], None] = lambda: None
        self.healed = True  # False: row 7 has no translation
        self.source = folder / "in"
        self.source.mkdir()

    def write(self, name: str, data: bytes) -> None:
        (self.source / name).write_bytes(data)

    def lines(self, name: str, num_rows: int = ROWS) -> None:
        self.write(name, b"".join(b"row %03d of %s\n" % (row, name.encode()) for row in range(num_rows)))

    def settings(self, name: str, *more: str) -> list[str]:
        return [
            f"source.path={self.source}",
            "tgt_lang=fr",
            f"name={name}",
            f"output_dir={self.out}",
            "model=demo",
            "batch.shard_rows=5",
            "batch.part_rows=2",
            "launch.progress=off",
            *more,
        ]

    def prepare(self, *more: str, name: str = "job") -> int:
        return self._run("prepare", *self.settings(name, *more))

    def task(self, index: str, *more: str, name: str = "job") -> int:
        return self._run("translate", *self.settings(name, f"shard.index={index}", *more))

    def translate(self, *more: str, name: str = "job") -> int:
        return self._run("translate", *self.settings(name, *more))

    def inspect(self, verb: str, *more: str, name: str = "job") -> int:
        return self._run(verb, f"name={name}", f"output_dir={self.out}", *more)

    def _run(self, *words: str) -> int:
        def decode(requests: Any, check_stop: Any) -> Any:
            self.decoded += len(requests)
            self.on_decode()
            texts = [bytes(request.prompt_ids[1:-1]) for request in requests]
            done = zip(texts, engine.upper(requests, check_stop), strict=True)
            return [
                Completion([], "stop") if b"row 007" in text and not self.healed else completion
                for text, completion in done
            ]

        with fake_job.installed(decode):
            return front.main(words)

    def plan(self) -> shard_plan.ShardPlan:
        return shard_plan.read(OS_FS, self.out / "job")

    def published(self, name: str = "job") -> dict[str, bytes]:
        root = self.out / name
        files = [root / "manifest.json", *(path for path in (root / "translated").rglob("*") if path.is_file())]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if path.exists()}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path)
    cluster.lines("a.txt")
    return cluster


def test_tasks_and_a_merge_publish_the_bytes_of_one_process(cluster: Cluster) -> None:
    for index in range(3):  # a run of small files is one unit
        cluster.lines(f"b{index}.txt", 3)
    cluster.write("c.txt.gz", gzip.compress((cluster.source / "a.txt").read_bytes()))
    cluster.write("d.csv", b"id,text\n" + b"".join(b"%d,cell %d\n" % (row, row) for row in range(12)))
    cues = "".join(f"{cue}\n00:00:{cue:02},000 --> 00:00:{cue:02},900\ncue {cue}\n\n" for cue in range(1, 13))
    cluster.write("e.srt", cues.encode())
    cluster.write("f.txt", b"")
    assert cluster.prepare() == 0
    assert cluster.translate(name="whole") == 0
    num_units = cluster.plan().num_units
    assert num_units > 6
    for index in reversed(range(num_units)):
        assert cluster.task(str(index)) == 0
    assert cluster.published() == {}  # tasks publish nothing
    assert cluster.inspect("missing") == 0
    assert cluster.inspect("merge") == 0
    assert cluster.published() == cluster.published("whole")
    assert cluster.inspect("verify") == 0
    decoded = cluster.decoded
    assert (cluster.translate(), cluster.inspect("merge"), cluster.task("0")) == (0, 0, 0)
    assert cluster.decoded == decoded


def test_rows_of_a_merged_job_are_decoded_again_and_its_verbs_find_it_complete(cluster: Cluster) -> None:
    for index in range(3):  # a run of small files is one unit
        cluster.lines(f"b{index}.txt", 3)
    cluster.healed = False
    settings = ("check.max_error_rate=1",)
    assert cluster.prepare(*settings) == 0
    assert cluster.inspect("retry") == ExitCode.MISSING, "it is not merged"
    for index in range(cluster.plan().num_units):
        assert cluster.task(str(index), *settings) == 0
    assert cluster.inspect("retry") == ExitCode.MISSING, "it is not merged"
    assert cluster.inspect("merge") == 0
    lines = cluster.published()["translated/a.txt"].split(b"\n")
    assert lines[7:9] == [b"", b"ROW 008 OF A.TXT"]
    cluster.healed, cluster.decoded = True, 0
    assert cluster.inspect("retry", "launch.progress=off", "decode=recommended", "seed=1") == 0
    assert cluster.decoded == 1
    healed = cluster.published()
    assert healed["translated/a.txt"].split(b"\n") == [*lines[:7], b"ROW 007 OF A.TXT", *lines[8:]]
    assert cluster.inspect("verify") == 0
    ends = [cluster.inspect("missing"), cluster.inspect("merge"), cluster.task("0", *settings)]
    ends += [cluster.prepare(*settings), cluster.translate(*settings), cluster.inspect("retry")]
    assert (set(ends), cluster.decoded, cluster.published()) == ({0}, 1, healed)


def test_rows_with_several_texts_and_other_encodings_are_read_up_to_their_shard(cluster: Cluster) -> None:
    rows = [json.dumps({"a": f"text {row}", "b": None if row % 3 else f"more {row}"}) for row in range(14)]
    (cluster.source / "a.txt").unlink()
    cluster.write("g.jsonl", "".join(f"{row}\n" for row in rows).encode("utf-16-le"))
    more = ["source.text_field=[a,b]", "source.encoding=utf-16-le"]
    assert cluster.prepare(*more) == 0
    num_units = cluster.plan().num_units
    assert num_units > 2
    assert cluster.task(f"{num_units - 1}", *more) == 0
    assert cluster.task(f"0-{num_units - 2}", *more) == 0
    assert cluster.inspect("merge") == 0
    assert cluster.translate(*more, name="whole") == 0
    assert cluster.published() == cluster.published("whole")


def test_parts_have_the_sizes_of_the_machines_that_translate(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []

    def prepare_model(config: Any, device_map: Any, num_threads: Any = None, find_devices: Any = None) -> Any:
        devices.append(find_devices and [device.name for device in find_devices().devices])
        return replace(original(config, device_map, num_threads), on_gpu=bool(find_devices))  # type: ignore[type-var]

    original = model.prepare
    monkeypatch.setattr(model, "prepare", prepare_model)
    assert cluster.prepare("batch.part_rows=auto", "devices=[80GiB]") == 0
    assert devices == [["cuda:0", "cpu"]]
    on_gpu = manifest.read_job(OS_FS, cluster.out / "job").identity["batch"]["part_tokens"]
    assert on_gpu > 2000 * 20  # more than a CPU does in 20 s
    assert (cluster.plan().devices["on_gpu"], cluster.plan().devices["simulated"]) == (True, ["80GiB"])


def test_the_demo_model_is_prepared_for_the_gpus_of_the_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    job = [f"source.path={tmp_path / 'in.txt'}", f"output_dir={tmp_path}", "name=n", "tgt_lang=fr", "model=demo"]
    job += ["device_map=replicate", "batch.shard_rows=1"]
    assert front.main(["prepare", *job, "devices=[80GiB]"]) == 0
    assert shard_plan.read(OS_FS, tmp_path / "n").devices["dtype"] == "bfloat16"
    capsys.readouterr()
    assert front.main(["translate", *job, "shard.index=0"]) == 3, "this machine has no such GPU"
    assert "in bfloat16; on this machine" in capsys.readouterr().err
    assert front.main(["prepare", *job, "devices=[cpu:64GiB]", "overwrite=true"]) == 0
    assert shard_plan.read(OS_FS, tmp_path / "n").devices["dtype"] == "float32"
    assert front.main(["translate", *job, "shard.index=0-1"]) == 0
    assert front.main(["merge", f"output_dir={tmp_path}", "name=n"]) == 0


@pytest.mark.parametrize(
    ("num_bytes", "num_units", "per_task", "loads_too_often", "min_per_task"),
    [
        (32768 * 40 * 100, 100, 1, True, 2),  # 32,768 rows of 40 bytes each: 640 s of work, 34 s to load
        (32768 * 40 * 100, 100, 2, False, 2),
        (32768 * 4000 * 100, 100, 1, False, 1),
        (100, 2, 1, True, 2),  # there is not more
        (0, 0, 1, True, 1),
    ],
)
def test_prepare_says_how_many_shards_make_up_for_loading(
    num_bytes: int, num_units: int, per_task: int, loads_too_often: bool, min_per_task: int
) -> None:
    shards = [SimpleNamespace(start=0, end=num_bytes)] if num_units else []
    plan: Any = SimpleNamespace(files=[SimpleNamespace(shards=shards)], num_rows=num_bytes // 40, num_units=num_units)
    of_7b: Any = SimpleNamespace(num_parameters=7_500_000_000, dtype_bytes=2, on_gpu=True)
    time = preparation.estimate_task(plan, of_7b, per_task)
    assert (time.loads_too_often, time.min_per_task) == (loads_too_often, min_per_task)


def test_source_limit_counts_rows_over_all_shards(cluster: Cluster) -> None:
    cluster.lines("b.txt")
    assert cluster.prepare("source.limit=31") == 0
    assert cluster.plan().num_rows == 31
    assert cluster.task(f"0-{cluster.plan().num_units - 1}", "source.limit=31") == 0
    assert cluster.inspect("merge") == 0
    assert cluster.translate("source.limit=31", name="whole") == 0
    assert cluster.published() == cluster.published("whole")


def test_missing_names_exactly_the_lost_shards_and_the_merge_refuses(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.lines("a.txt", 40)
    assert cluster.prepare() == 0
    assert cluster.task("0 2-3") == 0
    capsys.readouterr()
    assert cluster.inspect("missing") == 8
    assert capsys.readouterr().out == "1,4-7\n"
    assert cluster.inspect("missing", "per_task=4") == 8
    assert capsys.readouterr().out == "0-1\n"
    assert cluster.inspect("merge") == 8
    assert "5 of 8 shards" in (error := capsys.readouterr().err) and "missing: 1,4-7" in error
    assert cluster.published() == {}
    cluster.decoded = 0
    assert cluster.task("1,4-7") == 0
    assert cluster.decoded == 25
    assert (cluster.inspect("missing"), cluster.inspect("merge")) == (0, 0)


def test_a_shard_whose_parts_are_all_committed_needs_no_decoding(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.prepare() == 0
    with monkeypatch.context() as patch:  # killed before it made the records
        patch.setattr("hymt_batch.write.part_store.PartStore.finish_shard", lambda *_: None)
        cluster.task("0-4")
    assert not list(cluster.out.rglob("*.rows"))
    cluster.decoded = 0
    assert cluster.inspect("merge") == 0
    assert cluster.decoded == 0


def test_a_task_moves_to_its_shard_and_checks_its_bytes(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.prepare() == 0
    changed = (cluster.source / "a.txt").read_bytes().replace(b"row 006", b"ROW 006")
    cluster.write("a.txt", changed)
    assert cluster.task("3") == 0  # what comes before its shard is not read
    assert cluster.task("1") == 4
    assert "a.txt changed since the job was prepared: shard 1" in capsys.readouterr().err
    assert cluster.task("0") == 0


def test_prepare_reads_a_plain_file_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hymt_batch.run.preparation.hash_input", lambda input: pytest.fail("read a second time"))
    cluster.write("a.txt", b"\xef\xbb\xbfone\r\ntwo\n\xff\nlast without an end")
    cluster.write("b.csv", b'id,text\n1,"a\nb"\n2,c\n')
    assert cluster.prepare() == 0
    for file in cluster.plan().files:
        data = Path(file.input.path).read_bytes()
        assert (file.num_bytes, file.sha256) == (len(data), __import__("hashlib").sha256(data).hexdigest())


def test_prepare_tells_what_reading_a_compressed_file_costs(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.write("b.txt.gz", gzip.compress((cluster.source / "a.txt").read_bytes()))
    assert cluster.prepare() == 0
    out = capsys.readouterr().out
    assert "b.txt.gz can only be read from its start: each of its 5 shards" in out
    assert "decompress it, or split it into 5 files" in out
    assert "a.txt can only" not in out


def test_another_plan_in_the_folder_is_refused(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.prepare() == 0
    before = (cluster.out / "job/.hymt/plan.json").read_bytes()
    assert cluster.prepare() == 0
    assert "prepared already: 5 shards" in capsys.readouterr().out
    assert cluster.prepare("batch.shard_rows=6") == 3
    assert cluster.prepare("seed=5") == 3
    assert cluster.task("0", "seed=5") == 3
    cluster.lines("b.txt")
    assert cluster.prepare() == 4
    assert (cluster.out / "job/.hymt/plan.json").read_bytes() == before
    assert cluster.prepare("overwrite=true") == 0
    assert cluster.plan().num_units == 1  # two small files


def test_a_prepared_job_keeps_its_plan_where_redo_would_remove_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.prepare("on_input_change=redo") == 0  # nothing is there yet
    before = (cluster.out / "job/.hymt/plan.json").read_bytes()
    assert cluster.prepare("on_input_change=redo") == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert (cluster.out / "job/.hymt/plan.json").read_bytes() == before
    assert cluster.prepare("on_input_change=redo", "overwrite=true") == 0


def test_longer_parts_are_another_plan(cluster: Cluster) -> None:
    auto = "batch.part_rows=auto"
    assert cluster.prepare(auto, "part_s=40") == 0
    limits = manifest.read_job(OS_FS, cluster.out / "job").identity["batch"]
    assert cluster.translate(auto, name="whole") == 0
    usual = manifest.read_job(OS_FS, cluster.out / "whole").identity["batch"]
    assert limits["part_tokens"] == 2 * usual["part_tokens"]
    assert limits["part_new_tokens"] == usual["part_new_tokens"]
    assert cluster.prepare(auto, "part_s=20") == 3
    assert cluster.task("0", auto) == 0  # auto is what the plan resolved


def test_a_task_on_other_hardware_says_so_before_it_loads(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.prepare() == 0
    plan = cluster.plan()
    devices = {"device": "NVIDIA H200", "dtype": "bfloat16", "on_gpu": True, "simulated": None}
    shard_plan.write(OS_FS, cluster.out / "job", replace(plan, devices=devices))
    assert cluster.task("0") == 3
    assert "prepared for NVIDIA H200, where the model is in bfloat16; on this machine" in capsys.readouterr().err


def test_a_folder_that_was_not_prepared_has_no_shards(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.task("0") == 2
    assert cluster.translate() == 0
    for verb in ("missing", "merge"):
        assert cluster.inspect(verb) == 2
        assert "was not prepared" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["overwrite=true", "on_input_change=redo", "on_mismatch=fork"])
def test_what_one_process_does_for_the_whole_job_is_refused_for_a_task(cluster: Cluster, setting: str) -> None:
    assert cluster.prepare() == 0
    assert cluster.task("0", setting) == 2


def test_the_number_of_a_task_comes_from_the_environment_only_if_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.prepare() == 0
    assert cluster.task("auto") == 2
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    assert cluster.task("auto", "shard.per_task=2") == 0
    capsys.readouterr()
    assert cluster.inspect("missing") == 8
    assert capsys.readouterr().out == "0-1,4\n"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert cluster.task("auto", "shard.per_task=2") == 2
    assert "the plan has 5 shards" in capsys.readouterr().err


def claim_of(cluster: Cluster, unit: int, **fields: Any) -> Path:
    """Leave the claim of a task on another machine."""
    path = claim_path(cluster.out / "job", unit, FLAT)
    path.parent.mkdir(exist_ok=True)
    holder = replace(lease_holder.current_process(), owner="other", host="node7", **fields)
    path.write_bytes(manifest.canonical_json(asdict(holder)))
    return path


def test_a_task_leaves_a_shard_to_the_task_that_works_on_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.prepare() == 0
    path = claim_of(cluster, 1, pid=os.getpid())
    holder = replace(lease_holder.current_process(), owner="other")  # on this machine, and alive
    path.write_bytes(manifest.canonical_json(asdict(holder)))
    assert cluster.task("0-2") == 5
    assert "other tasks work on the shards 1 of" in capsys.readouterr().err
    assert cluster.inspect("missing") == 8
    assert capsys.readouterr().out == "1,3-4\n"
    assert path.exists()
    assert cluster.translate() == 5  # nor does one process for the whole job work beside a task
    assert "a task works on shard 1" in capsys.readouterr().err


def test_a_shard_is_claimed_before_the_weights_are_read(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.prepare() == 0
    path = claim_of(cluster, 1)
    holder = replace(lease_holder.current_process(), owner="other")  # on this machine, and alive
    path.write_bytes(manifest.canonical_json(asdict(holder)))
    monkeypatch.setattr("jobs.translate.decode_units", lambda *_: pytest.fail("it loads the model"))
    assert cluster.task("1") == 5


def test_the_claim_of_a_silent_task_is_taken_over(cluster: Cluster) -> None:
    assert cluster.prepare() == 0
    path = claim_of(cluster, 1)
    times = ["launch.lease_ttl_s=2", "launch.lease_beat_s=0.5"]
    assert cluster.task("1", *times) == 0
    assert not path.exists()
    claim_of(cluster, 2)
    claim_of(cluster, 1)  # of a complete shard: nobody waits for it
    assert cluster.translate(*times) == 0
    assert not path.parent.exists()


def test_a_merge_waits_for_the_task_of_a_missing_shard_and_drops_it_when_it_is_silent(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    times = ["launch.lease_ttl_s=2", "launch.lease_beat_s=0.5"]
    assert cluster.prepare(*times) == 0
    assert cluster.task("0-3") == 0
    claim_of(cluster, 2)  # a late task of a complete shard holds nobody up
    claim_of(cluster, 4)
    assert cluster.inspect("merge") == 8
    assert "missing: 4" in capsys.readouterr().err
    assert list(claim.claimed_units(OS_FS, cluster.out / "job")) == [2]
    assert cluster.task("4") == 0
    assert cluster.inspect("merge") == 0
    assert not claim.claimed_units(OS_FS, cluster.out / "job")


def test_status_shows_all_tasks(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.prepare() == 0
    assert cluster.task("0-1") == 0
    claim_of(cluster, 3, pid=77)
    dead = replace(lease_holder.current_process(), owner="dead", pid=lease_holder.MAX_PID)
    claim_path(cluster.out / "job", 4, FLAT).write_bytes(manifest.canonical_json(asdict(dead)))
    capsys.readouterr()
    assert cluster.inspect("status", "fail=true") == 0  # somebody works
    out = capsys.readouterr().out
    assert ": running\n" in out and "2 of 5 shards complete, 24 rows in all" in out
    assert "shard 3: process 77 on node7 since" in out and "works on it" in out
    assert f"shard 4: process {lease_holder.MAX_PID}" in out and "is dead" in out
    claim.clear(OS_FS, cluster.out / "job")
    assert cluster.inspect("status", "fail=true", "format=json") == 8
    value = json.loads(capsys.readouterr().out)
    assert (value["prepared"]["shards_complete"], value["prepared"]["tasks"]) == (2, [])
    assert (value["rows"], value["rows_total"]) == (10, 24)
    assert cluster.task("2-4") == 0
    assert cluster.inspect("merge") == 0
    assert cluster.inspect("status", "fail=true") == 0


def test_two_writers_of_a_shard_are_harmless(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.prepare() == 0
    monkeypatch.setattr(claim.Claims, "take", lambda self, unit: True)
    inner: list[int] = []

    def run_another() -> None:
        cluster.on_decode = lambda: None
        inner.append(cluster.task("1"))

    cluster.on_decode = run_another
    assert cluster.task("1-4") == 0
    assert inner == [0]
    assert cluster.task("0") == 0
    assert cluster.decoded > ROWS
    assert cluster.inspect("merge") == 0
    assert cluster.translate(name="whole") == 0
    assert cluster.published() == cluster.published("whole")


def test_the_running_part_of_another_task_is_no_failed_try(cluster: Cluster) -> None:
    assert cluster.prepare() == 0
    file_id = cluster.plan().files[0].input.file_id
    attempts = cluster.out / "job/.hymt/attempts"
    attempts.mkdir()
    for attempt in (1, 2, 3):
        (attempts / f"{file_id}-s0000003-p00000.{attempt}").touch()
    assert AttemptMarkers(OS_FS, cluster.out / "job", FLAT).needs_isolation
    assert not AttemptMarkers(OS_FS, cluster.out / "job", FLAT, {(file_id, 2)}).needs_isolation
    assert cluster.task("2") == 0
    assert len(list(attempts.iterdir())) == 3


def test_a_merge_needs_no_settings_but_those_of_the_plan(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["source.path=in", "write=jsonl", "write.meta_field=about", "check.flag.min_logprob=-3"]
    assert cluster.prepare(*more) == 0
    assert cluster.task("0-4", *more) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cluster.inspect("merge") == 0
    (rows,) = [data for path, data in cluster.published().items() if path.endswith(".jsonl")]
    assert json.loads(rows.splitlines()[0])["about"]["status"] == "ok"


def test_stored_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    words = ["source=csv", "source.text_field=[a,b]", "decode=recommended", "check=retry", "device_map=fallback"]
    job = config.load("translate", ["source.path=a.txt", "tgt_lang=fr", "model=demo", *words])
    stored = json.loads(json.dumps(stored_settings.to_json(job)))
    assert stored_settings.from_json(type(job), stored) == job
    assert stored_settings.from_json(type(job), stored | {"of_a_later_version": 1}) == job


@pytest.mark.parametrize(
    ("value", "units"),
    [(3, [3]), ("0-2 5", [0, 1, 2, 5]), ("1,4-6", [1, 4, 5, 6]), ("5 5,4", [4, 5]), ([1, "3-4"], [1, 3, 4])],
)
def test_a_list_of_shards_is_understood(value: Any, units: list[int]) -> None:
    assert parse_units(value) == units
    assert parse_units(format_units(units)) == units


@pytest.mark.parametrize("value", ["", "a", "-1", "3-1", "1-", True, "0-99999999999", 1.5])
def test_what_is_no_list_of_shards_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        ShardConfig(index=value)


def test_no_task_lists_what_grows_with_the_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.hymt` has a folder a file, and `.hymt/f<id>` a record a shard: others list them a few times a run at most."""
    cluster.write("many-shards.txt", b"".join(b"row %03d %s\n" % (row, b"x" * 700) for row in range(100)))
    for index in range(20):
        cluster.lines(f"small{index}.txt", 1)
    listed: list[str] = []
    list_folder = OsFs.listdir

    def listdir(self: OsFs, path: Path) -> list[str]:
        listed.append(os.path.relpath(path, cluster.out / "job"))
        return list_folder(self, path)

    def num_listings(run: Callable[[], int], folder: str) -> int:
        listed.clear()
        assert run() == 0
        return listed.count(folder)

    assert cluster.prepare() == 0
    monkeypatch.setattr(OsFs, "listdir", listdir)
    (file_id,) = {file.input.file_id for file in cluster.plan().files if file.input.rel == "many-shards.txt"}
    all_shards = f"0-{cluster.plan().num_units - 1}"
    for most in (0, 1):  # the second time, the task finds records that an earlier process may not have synced
        assert num_listings(lambda: cluster.task(all_shards), ".hymt") == 0
        assert listed.count(f".hymt/f{file_id}") <= most
    for folder in (".hymt", f".hymt/f{file_id}"):
        assert num_listings(lambda: cluster.inspect("missing"), folder) == 0
    merge = partial(cluster.inspect, "merge")
    assert num_listings(merge, ".hymt") <= 6
    assert listed.count(f".hymt/f{file_id}") <= 8


def test_tasks_of_an_update_decode_changed_rows_only(cluster: Cluster) -> None:
    assert cluster.translate() == 0
    data = (cluster.source / "a.txt").read_bytes().replace(b"row 003", b"a new row").replace(b"row 020 of a.txt\n", b"")
    cluster.write("a.txt", data)
    cluster.decoded = 0
    assert cluster.prepare("on_input_change=update") == 0
    assert cluster.task(f"0-{cluster.plan().num_units - 1}") == 0
    assert (cluster.decoded, cluster.inspect("merge"), cluster.inspect("verify")) == (1, 0, 0)
    assert cluster.published()["translated/a.txt"] == data.upper()
