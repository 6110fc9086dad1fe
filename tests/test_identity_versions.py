"""Folders of earlier versions still work: finished ones stay unchanged, unfinished ones keep their plan and parts.

tests/data/plan1 was created by tests/data/make_folders.py at commit a3f0e6e, tests/data/plan2 at commit 7281de5.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import batch, manifest, schema
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, IdentityError
from hymt_batch.fs import OS_FS
from hymt_batch.manifest import JobRecord
from hymt_batch.records import PLAN_VERSION
from hymt_batch.run.reporter import Reporter
from hymt_batch.setting import SettingClass, classes_of
from hymt_batch.write import identity_versions, output_settings
from hymt_batch.write import part as parts
from hymt_batch.write.identity_versions import NOT_RECORDED, Changes, with_added_output
from hymt_batch.write.summary import Summary
from jobs import verify
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.fakes.upper import open_output

pytestmark = pytest.mark.core

PLAN1, PLAN2 = (Path(__file__).parent / "data" / name for name in ("plan1", "plan2"))
FORMATS = ("text", "jsonl", "csv", "parquet", "files")
DECODED: dict[str, int] = json.loads((PLAN1 / "decoded.json").read_text())
SETTINGS = {
    "text": ["source.path=in/a.txt"],
    "jsonl": ["source.path=in/a.jsonl", "source.src_lang_field=from", "source.tgt_lang_field=to"],
    "csv": ["source.path=in/a.csv"],
    "parquet": ["source.path=in/a.parquet"],
    "files": ["source.path=in/files"],
    "folded": ["source.path=in/a.csv", "write.format=text"],
}
CUT = [
    "batch.part_rows=6",
    "batch.shard_rows=24",
    "batch.part_tokens=600",
    "batch.max_rows=2",
    "segment.max_tokens=64",
    "source.max_row_bytes=400",
    "check.max_error_rate=1",
    "tgt_lang=fr",
    "model=demo",
]
Run = Callable[..., Summary]


class Folders:
    """A copy of the old folders; `run` continues one of them with this version."""

    def __init__(self, root: Path, data: Path = PLAN1) -> None:
        shutil.copytree(data, root, dirs_exist_ok=True)
        self.root, self.decoded = root, 0

    def run(self, name: str, *overrides: str) -> Summary:
        from hymt_batch import config

        kind = name.partition("-")[2]
        job = config.load("translate", ["output_dir=.", f"name={name}", *CUT, *SETTINGS[kind], *overrides])
        with Reporter("off") as reporter:
            return fake_job.translate_with(job, reporter, self._decode)

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        self.decoded += len(requests)
        return fake_engine.upper(requests, check_stop)

    def files(self, name: str) -> dict[str, tuple[bytes, int]]:
        root = self.root / name
        paths = [path for path in root.rglob("*") if path.is_file()]
        return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.chdir(tmp_path)
    return Folders(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_finished_folder_of_an_earlier_version_is_complete_and_unchanged(folders: Folders, kind: str) -> None:
    before = folders.files(f"done-{kind}")
    assert verify.verify(folders.root / f"done-{kind}").exit_code is ExitCode.COMPLETE
    done = folders.run(f"done-{kind}")
    assert (folders.decoded, done.num_rows_decoded) == (0, 0)
    assert folders.files(f"done-{kind}") == before


@pytest.mark.parametrize("kind", FORMATS)
def test_an_unfinished_folder_of_an_earlier_version_keeps_its_parts(folders: Folders, kind: str) -> None:
    name = f"half-{kind}"
    done = folders.run(name)
    assert folders.decoded == DECODED[f"done-{kind}"] - DECODED[name]
    assert not list((folders.root / name / ".hymt/quarantine").iterdir())
    assert verify.verify(folders.root / name).exit_code is ExitCode.COMPLETE
    assert done.rows == manifest.read(OS_FS, folders.root / f"done-{kind}")["rows"]
    before = manifest.read(OS_FS, folders.root / f"done-{kind}")["counts"]
    assert {status: done.counts[status] for status in ("ok", "too_long") if status in before} == {
        status: before[status] for status in ("ok", "too_long") if status in before
    }
    # this version distinguishes invalid rows, invalid UTF-8 and unknown languages; the earlier one did not
    assert done.counts.get("bad_row", 0) + done.counts.get("bad_encoding", 0) + done.counts.get(
        "bad_language", 0
    ) == before.get("bad_encoding", 0)


@pytest.mark.parametrize("kind", ("text", "files"))
def test_an_unfinished_folder_of_an_earlier_version_ends_with_the_texts_of_that_version(
    folders: Folders, kind: str
) -> None:
    folders.run(f"half-{kind}")
    translated, expected = folders.root / f"half-{kind}" / "translated", folders.root / f"done-{kind}" / "translated"
    for path in expected.rglob("*.txt"):
        assert (translated / path.relative_to(expected)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", [*FORMATS, "folded"])
def test_a_job_begun_without_row_records_ends_with_the_bytes_of_the_version_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = Folders(tmp_path, PLAN2)
    decoded = json.loads((PLAN2 / "decoded.json").read_text())
    done, half = tmp_path / f"done-{kind}", tmp_path / f"half-{kind}"
    before = folders.files(done.name)
    assert verify.verify(done).exit_code is ExitCode.COMPLETE
    folders.run(done.name)
    assert {name: folders.files(done.name)[name] for name in before} == before
    assert folders.decoded == 0
    folders.run(half.name)
    assert folders.decoded == decoded[done.name] - decoded[half.name]
    assert verify.verify(half).exit_code is ExitCode.COMPLETE
    assert list(half.glob(".hymt/f*/*.rows"))

    def published(folder: Path) -> dict[str, bytes]:
        paths = [*folder.glob("translated/**/*"), *folder.glob("errors/**/*")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}

    assert published(half) == published(done)
    assert manifest.read(OS_FS, half)["flags"] == manifest.read(OS_FS, done)["flags"]


@pytest.mark.parametrize("damage", ["gone", "empty", "half", "zeros"])
@pytest.mark.parametrize("name", ["half-text", "half-files", "done-jsonl"])
def test_a_lost_job_json_of_an_earlier_version_is_rebuilt(folders: Folders, name: str, damage: str) -> None:
    path = folders.root / name / ".hymt/job.json"
    original = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": original[: len(original) // 2], "zeros": bytes(len(original))}[damage])
    folders.run(name)
    kind = name.partition("-")[2]
    assert folders.decoded == DECODED[f"done-{kind}"] - DECODED[name]
    identity = manifest.read_job(OS_FS, folders.root / name).identity
    assert identity == json.loads(original)["identity"]
    assert "version" not in identity


def test_parts_keep_the_identity_digest_of_the_earlier_version(folders: Folders) -> None:
    identity_sha256 = manifest.read_job(OS_FS, folders.root / "half-text").identity_sha256
    path = folders.root / "half-text/.hymt/f18b7cb099a9ea3f5/s0000000/p00000"
    assert parts.decode(path.read_bytes())[0].identity == identity_sha256
    folders.run("half-text")
    assert manifest.read(OS_FS, folders.root / "half-text")["identity_sha256"] == identity_sha256


def test_a_folder_of_an_earlier_version_still_refuses_other_settings(folders: Folders) -> None:
    with pytest.raises(IdentityError, match=r"segment\.max_tokens: 64 -> 65"):
        folders.run("half-text", "segment.max_tokens=65")
    with pytest.raises(IdentityError, match=r"batch\.part_rows: 6 -> 7"):
        folders.run("done-text", "batch.part_rows=7")


def test_a_setting_that_was_not_recorded_is_taken_from_the_command(folders: Folders) -> None:
    folders.run("half-text", "check.flag.min_logprob=-1.5")
    assert folders.decoded == DECODED["done-text"] - DECODED["half-text"]


def test_min_logprob_may_change_only_where_rows_were_measured(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_engine.upper

    def measured(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [replace(completion, mean_logprob=-1.7) for completion in plain(requests, check_stop)]

    monkeypatch.setattr(fake_engine, "upper", measured)
    folders.run("new-text", "check.flag.min_logprob=-1.5")
    decoded = folders.decoded
    for value in ("-2.0", "null", "-1.5"):
        folders.run("new-text", f"check.flag.min_logprob={value}")
    assert folders.decoded == decoded
    monkeypatch.setattr(fake_engine, "upper", plain)
    folders.run("new-csv")
    with pytest.raises(IdentityError, match=r"decoded with check\.flag\.min_logprob=null"):
        folders.run("new-csv", "check.flag.min_logprob=-2.0")


@pytest.mark.parametrize("state", ["done", "half"])
def test_an_earlier_folder_keeps_its_output_settings(folders: Folders, state: str) -> None:
    with pytest.raises(IdentityError, match=r"write\.format: \"input\" -> \"text\"(.|\n)*an earlier version"):
        folders.run(f"{state}-jsonl", "write.format=text")
    folders.run(f"{state}-jsonl")


def test_a_new_folder_records_the_version_of_its_identity_and_of_its_plan(folders: Folders) -> None:
    folders.run("new-text")
    identity = manifest.read_job(OS_FS, folders.root / "new-text").identity
    assert (identity["version"], identity["batch"]["plan"]) == (identity_versions.VERSION, PLAN_VERSION)


def test_a_folder_of_plan_7_goes_on_with_rows_that_share_a_text_over_source_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"row {index}", "from": code} for index in range(8) for code in ("de", "es", "it")]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = [f"source.path={tmp_path / 'in.jsonl'}", "source.src_lang_field=from", "batch.part_rows=2"]
    resolve = batch.resolve_part_limits

    def of_plan_7(*arguments: Any) -> batch.PartLimits:
        return replace(resolve(*arguments), plan=7)

    job = fake_job.Job(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(batch, "resolve_part_limits", of_plan_7)
        job("name=whole", *words)
        assert job.decoded == 8
        job.calls = 0
        job.interrupt("name=half", *words, at=3)
    decoded = job.decoded
    job("name=half", *words)
    half, whole = tmp_path / "out/half", tmp_path / "out/whole"
    assert decoded + 4 == job.decoded == 16
    assert manifest.read_job(OS_FS, half).identity["batch"]["plan"] == 7
    assert (half / "translated/in.jsonl").read_bytes() == (whole / "translated/in.jsonl").read_bytes()
    job("name=whole", *words)
    assert job.decoded == 16
    job("name=new", *words)
    assert job.decoded == 16 + 24


def test_a_folder_of_a_newer_version_is_refused(folders: Folders) -> None:
    job = manifest.read_job(OS_FS, folders.root / "half-text")
    newer = manifest.JobRecord(
        {**job.identity, "version": identity_versions.VERSION + 1}, job.inputs, job.environment, job.created
    )
    manifest.replace_job(OS_FS, folders.root / "half-text", newer)
    with pytest.raises(IdentityError, match="newer hymt-batch"):
        folders.run("half-text")


def test_overwrite_creates_a_job_of_this_version(folders: Folders) -> None:
    folders.run("half-text", "overwrite=true")
    assert manifest.read_job(OS_FS, folders.root / "half-text").identity["batch"]["plan"] == PLAN_VERSION


def test_a_fork_for_another_setting_creates_a_job_that_resumes(folders: Folders) -> None:
    for _ in range(2):
        done = folders.run("half-text", "segment.max_tokens=65", "on_mismatch=fork")
        assert done.folder.name == "half-text-2"
    assert manifest.read_job(OS_FS, done.folder).identity["batch"]["plan"] == PLAN_VERSION


def test_auto_keeps_the_part_sizes_of_the_folder(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = ["batch.part_rows=auto", "batch.part_tokens=auto"]
    folders.run("half-text", *auto)  # created with 6 rows per part, which resuming keeps
    assert folders.decoded == DECODED["done-text"] - DECODED["half-text"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_folder_created_with_the_generation_prompt_keeps_it(folders: Folders, lost: bool) -> None:
    card = "model.add_generation_prompt=false"  # as the model card of another model requires
    if lost:
        (folders.root / "half-text/.hymt/job.json").unlink()
    folders.run("half-text", card)
    assert folders.decoded == DECODED["done-text"] - DECODED["half-text"]
    assert manifest.read_job(OS_FS, folders.root / "half-text").identity["prompt"]["add_generation_prompt"] is True
    folders.run("new-text", card)
    assert manifest.read_job(OS_FS, folders.root / "new-text").identity["prompt"]["add_generation_prompt"] is False
    with pytest.raises(IdentityError, match=r"prompt\.add_generation_prompt: true -> false"):
        folders.run("done-text", "prompt.add_generation_prompt=false")


def test_added_removed_and_renamed_keys_are_upgraded() -> None:
    changes = Changes(
        added={"a.new": (3, "as before"), "a.unknown": (3, NOT_RECORDED)},
        removed={"a.gone": (3, True)},
        renamed={"a.old_name": (3, "b.name")},
        moved={"c.format": 3},
    )
    requested = {
        "version": identity_versions.VERSION,
        "a": {"new": "as before", "unknown": 7, "same": 1},
        "b": {"name": 3},
    }
    stored = {"version": 2, "a": {"gone": True, "old_name": 3, "same": 1}, "c": {"format": "text"}}
    assert identity_versions.upgrade(stored, requested, changes) == requested
    assert identity_versions.differences(stored, requested, changes=changes) == []
    assert identity_versions.output_settings_in(stored, changes) == {"c.format": "text"}
    earlier = list(identity_versions.earlier_identities(requested, {"c.format": "text"}, changes))
    first = {key: value for key, value in stored.items() if key != "version"}
    version_6 = {**requested, "version": 6}  # with either plan, which this identity lacks
    version_5 = {**requested, "version": 5}
    version_4 = {**requested, "version": 4}  # with either plan, which this identity lacks
    version_3 = {**requested, "version": 3}
    of_version_3 = [version_3, version_3]
    newer = [version_6, version_6, version_6, version_5, version_4, version_4]
    assert earlier == [*newer, *of_version_3, {**stored, "b": {}}, {**first, "b": {}}]
    changed = {**requested, "a": {**requested["a"], "new": "otherwise"}}
    assert identity_versions.differences(stored, changed, changes=changes) == [("a.new", "as before", "otherwise")]
    expected = [{**changed, "version": version} for version in (6, 6, 6, 5, 4, 4, 3, 3)]
    assert list(identity_versions.earlier_identities(changed, {}, changes)) == expected


def test_an_output_setting_that_a_folder_did_not_record_has_the_value_of_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = Changes(added_output={"write.new": "as before"})
    monkeypatch.setattr(identity_versions, "with_added_output", partial(with_added_output, changes=changes))
    folder = JobRecord({}, (), {}, "", {"write.format": "text"})

    def differences(**settings: str) -> list[tuple[str, Any, Any]]:
        requested = {"write.format": "text", **{f"write.{name}": value for name, value in settings.items()}}
        return output_settings.differences(folder, replace(folder, output_settings=requested))

    assert differences(new="as before") == differences(unknown="any value") == []
    assert differences(new="otherwise") == [("write.new", "as before", "otherwise")]


def test_every_output_setting_is_known_of_earlier_folders() -> None:
    declared = {key for key, kind in classes_of(schema.TranslateJob).items() if kind is SettingClass.output}
    # those with which folders began to record output settings
    first = {*identity_versions.CHANGES.moved, "write.raw_errors"}
    renamed = identity_versions.CHANGES.renamed_output
    assert declared == {renamed.get(key, key) for key in first} | set(identity_versions.CHANGES.added_output)


def test_the_keys_of_the_checks_that_earlier_versions_had_are_those_of_today() -> None:
    sampling = {"temperature": 0.7, "top_p": 0.6, "top_k": 20, "repetition_penalty": 1.05}
    stored = {"version": 6, "check": {"max_attempts": 3, "loop_repeats": 4, "retry": sampling, "code_ladder": []}}
    retry = {"kinds": ["empty", "truncated", "loop"], "ladder": ["card"], "min_logprob": None}
    retry |= {"length_factor": 1.2, "max_attempts": 3, "loop_repeats": 4}
    check = {"retry": retry, "retry_sampling": sampling, "code_ladder": []}
    requested = {"version": identity_versions.VERSION, "check": check}
    assert identity_versions.upgrade(stored, requested) == requested
    earlier = identity_versions.earlier_identities(requested, {"check.flag.min_logprob": None})
    assert stored in earlier
    for key, value in (("max_attempts", 2), ("loop_repeats", 3), ("ladder", ["card", "split"]), ("kinds", ["loop"])):
        other = {**requested, "check": {**check, "retry": {**retry, key: value}}}
        ((name, _, changed),) = identity_versions.differences(stored, other)
        assert (name, changed) == (f"check.retry.{key}", value)
        if key in ("ladder", "kinds"):
            assert stored not in identity_versions.earlier_identities(other, {})


@pytest.mark.parametrize("version", [0, -1, "2", 2.0, True, None])
def test_an_invalid_version_counts_as_a_newer_one(version: object) -> None:
    assert identity_versions.version_of({"version": version}) > identity_versions.VERSION


def test_auto_keeps_the_values_of_the_folder_even_without_job_json(tmp_path: Path) -> None:
    """Created where auto gave other sizes than here: the parts name that identity, and `aliases` contains it."""
    here, there = ({"batch": {"part_rows": rows}, "seed": 0} for rows in (64, 2048))
    here, there = ({"version": identity_versions.VERSION, **identity} for identity in (here, there))
    options: dict[str, Any] = {"auto_keys": ["batch.part_rows"], "aliases": [here, there]}
    with open_output(tmp_path / "job", [], identity=there, **options) as output:
        output.finalize()
    (tmp_path / "job/.hymt/job.json").unlink()
    with open_output(tmp_path / "job", [], identity=here, **options) as output:
        assert output.identity["batch"] == {"part_rows": 2048}
        assert output.is_complete
