"""Update a finished job: only new files and changed rows are decoded, and nothing depends on where a run stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import config, manifest
from hymt_batch.check import assemble
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError, IdentityError, InputChangedError
from hymt_batch.fs import OS_FS, OsFs
from hymt_batch.run.reporter import Reporter, render_summary
from hymt_batch.write import retired as retired_files
from hymt_batch.write.output import Output
from hymt_batch.write.part_store import PartStore
from hymt_batch.write.publisher import Publisher
from hymt_batch.write.summary import Summary
from jobs import __main__ as front
from jobs import verify
from tests.fakes import engine
from tests.fakes import job as fake_job

UPDATE = "on_input_change=update"


class Stopped(Exception):
    """Ends a run in the middle."""


class Nights:
    """Runs one job night after night, with an engine whose texts depend on what is decoded in one batch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "source"
        self.source.mkdir()
        self.decoded: list[str] = []  # texts that the last run sent
        self.failing: set[str] = set()  # texts for which the model returns nothing
        self.settings: tuple[str, ...] = ()

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.source / f"{name}.txt").write_text(text)

    def __call__(self, name: str = "n", *overrides: str) -> Summary:
        self.decoded.clear()
        folders = [f"source.path={self.source}", f"output_dir={self.folder / 'out'}", f"name={name}"]
        limits = ["batch.part_rows=3", "batch.shard_rows=10", "batch.max_rows=1000", "check.max_error_rate=1"]
        words = ["tgt_lang=fr", "model=demo", *folders, *limits, UPDATE, *self.settings, *overrides]
        with Reporter("off") as reporter:
            summary: Summary = fake_job.translate_with(config.load("translate", words), reporter, self._decode)
        return summary

    def _decode(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        batch = hashlib.sha256(repr([request.prompt_ids for request in requests]).encode()).hexdigest()[:6]
        completions = []
        for request, completion in zip(requests, engine.upper(requests, check_stop), strict=True):
            text = bytes(request.prompt_ids[1:-1]).partition(b"\n\n")[2].decode()
            self.decoded.append(text)
            ids = [] if text in self.failing else [*completion.ids, *f" {batch}".encode()]
            completions.append(Completion(ids, "stop"))
        return completions

    def job_folder(self, name: str = "n") -> Path:
        return self.folder / "out" / name

    def published(self, name: str = "n") -> dict[str, bytes]:
        root = self.job_folder(name) / "translated"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def manifest(self, name: str = "n") -> dict[str, Any]:
        return manifest.read(OS_FS, self.job_folder(name))

    def verified(self, name: str = "n") -> int:
        return int(verify.verify(self.job_folder(name)).exit_code)

    def state(self, name: str = "n") -> dict[str, tuple[int, bytes]]:
        """Return inode and bytes of every file of a job that is not a log."""
        root = self.job_folder(name)
        files = (path for path in sorted(root.rglob("*")) if path.is_file() and "logs" not in path.parts)
        return {str(path.relative_to(root)): (path.stat().st_ino, path.read_bytes()) for path in files}

    def stop(
        self, owner: type, method: str, number: int, *overrides: str, name: str = "n", after: bool = False
    ) -> bool:
        """Run the job until it is about to call this method for the time with this number; return whether it was."""
        original, calls = getattr(owner, method), [0]

        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == number and not after:
                raise Stopped
            result = original(*arguments, **options)
            if calls[0] == number:
                raise Stopped
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, method, call)
            try:
                self(name, *overrides)
            except Stopped:
                return True
        return False


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses the power; tests/faults does."""
    monkeypatch.setattr(OsFs, "fsync", lambda self, fd: None)
    monkeypatch.setattr(OsFs, "fsync_dir", lambda self, path: True)


@pytest.fixture
def night(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def rows(count: int, name: str = "row") -> list[str]:
    return [f"{name} {number} {'word ' * (7 * number % 5)}." for number in range(count)]


def text_of(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


CHANGES: dict[str, tuple[Callable[[list[str]], list[str]], list[str]]] = {
    "a changed row": (lambda old: [*old[:7], "other", *old[8:]], ["other"]),
    "an appended row": (lambda old: [*old, "new"], ["new"]),
    "an inserted row": (lambda old: ["new", *old], ["new"]),
    "a removed row": (lambda old: old[1:], []),
    "rows in another order": (lambda old: old[::-1], []),
    "a row twice": (lambda old: [*old, old[3]], []),
    "shorter than a shard": (lambda old: old[20:], []),
    "no row left": (lambda old: [], []),
    "all rows changed": (lambda old: [f"{line}!" for line in old], [f"{line}!" for line in rows(25)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_changed_rows_are_decoded_and_the_others_keep_their_text(night: Nights, change: str) -> None:
    old = rows(25)
    night.write(a=text_of(old), b=text_of(rows(4, "other")))
    night()
    before = dict(zip(old, night.published()["a.txt"].decode().splitlines(), strict=True))
    make, expected = CHANGES[change]
    new = make(old)
    night.write(a=text_of(new))
    summary = night()
    assert sorted(night.decoded) == sorted(expected)
    after = night.published()["a.txt"].decode().splitlines()
    assert len(after) == len(new)
    for line, translation in zip(new, after, strict=True):
        assert translation == before.get(line, translation)
        assert translation.startswith(line.upper())
    assert summary.num_rows_decoded == len(expected)
    assert summary.update is not None
    assert (summary.update.changed_files, summary.update.unchanged_files) == (1, 1)
    assert (summary.update.decoded_rows, summary.update.known_rows) == (len(expected), len(new) - len(expected))
    assert night.verified() == 0
    assert not list(night.job_folder().glob(".hymt/c[0-9a-f]*"))


def test_a_night_without_changes_decodes_and_writes_nothing(night: Nights) -> None:
    night.write(a=text_of(rows(5)))
    assert night().update is None
    before = night.state()
    summary = night()
    assert night.decoded == []
    assert night.state() == before
    assert "files: 0 new, 0 changed, 0 retired, 1 unchanged" in render_summary(summary, [])


def test_new_files_are_added_and_removed_ones_are_retired_with_counts_everywhere(night: Nights) -> None:
    night.write(a=text_of(rows(5)), b=text_of(rows(6, "b")), c=text_of(rows(3, "c")))
    night()
    night.write(a=text_of([*rows(5), "more"]), d=text_of(["new", "file"]))
    (night.source / "b.txt").unlink()
    summary = night()
    assert sorted(night.decoded) == ["file", "more", "new"]
    assert set(night.published()) == {"a.txt", "c.txt", "d.txt"}
    counts = {"new_files": 1, "changed_files": 1, "unchanged_files": 1, "retired_files": 1}
    counts |= {"known_rows": 5, "decoded_rows": 3}
    assert night.manifest()["update"] == counts
    line = "files: 1 new, 1 changed, 1 retired, 1 unchanged; of the new and changed: 3 decoded, 5 known from before"
    assert line in render_summary(summary, [])
    assert night.verified() == 0
    night()
    assert night.manifest()["update"] == counts  # of the last update that changed something


def test_of_a_thousand_files_only_the_changed_rows_of_three_are_decoded(night: Nights) -> None:
    files = {f"f{number:04}": text_of([f"row {number} {row}" for row in range(3)]) for number in range(1000)}
    night.write(**files)
    night("n", "batch.part_rows=100", "batch.part_tokens=4000")
    before = night.published()
    night.write(f0003="row 3 0\nrow 3 1\nrow 3 2\nappended\n", f0500="row 500 0\nchanged\nrow 500 2\n")
    night.write(f0999="row 999 2\nrow 999 0\n")
    summary = night("n", "batch.part_rows=100", "batch.part_tokens=4000")
    assert sorted(night.decoded) == ["appended", "changed"]
    assert summary.update is not None
    assert (summary.update.changed_files, summary.update.unchanged_files) == (3, 997)
    after = night.published()
    assert {name for name in after if after[name] != before[name]} == {"f0003.txt", "f0500.txt", "f0999.txt"}


def test_the_last_row_of_a_file_without_a_final_line_break_is_known(night: Nights) -> None:
    (night.source / "a.txt").write_text("one\ntwo")
    night()
    (night.source / "a.txt").write_text("one\ntwo\nthree")
    night()
    assert night.decoded == ["three"]


FORMATS: dict[str, tuple[Callable[[list[str]], bytes], tuple[str, ...]]] = {
    "in.jsonl": (lambda texts: _jsonl(texts, start=0), ()),
    "in.jsonl.gz": (lambda texts: gzip.compress(_jsonl(texts, start=0), mtime=0), ()),
    "in.csv": (lambda texts: "".join(["id,text\n", *(f"{i},{t}\n" for i, t in enumerate(texts))]).encode(), ()),
    "in.parquet": (lambda texts: _parquet(texts), ()),
    "in.srt": (lambda texts: "".join(_cue(i, t) for i, t in enumerate(texts, 1)).encode(), ()),
    "in.po": (lambda texts: _po(texts), ()),
    "two.jsonl": (lambda texts: _two_fields(texts), ("source.text_field=[title,body]",)),
}


def _jsonl(texts: list[str], start: int) -> bytes:
    return "".join(json.dumps({"id": start + i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def _two_fields(texts: list[str]) -> bytes:
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return "".join(json.dumps({"title": title, "body": body}) + "\n" for title, body in pairs).encode()


def _parquet(texts: list[str]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": i, "text": text} for i, text in enumerate(texts)]), data)
    return data.getvalue()


def _cue(number: int, text: str) -> str:
    return f"{number}\n00:00:{number:02},000 --> 00:00:{number:02},900\n{text}\n\n"


def _po(texts: list[str]) -> bytes:
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    return (head + "".join(f'msgid "{text}"\nmsgstr ""\n\n' for text in texts)).encode()


@pytest.mark.parametrize("name", FORMATS)
def test_rows_and_places_of_every_format_are_known_wherever_they_stand(night: Nights, name: str) -> None:
    make, settings = FORMATS[name]
    night.settings = settings
    texts = [f"Text number {number}" for number in range(14)]
    (night.source / name).write_bytes(make(texts))
    night()
    new = ["A first", "and a second", *texts[:6], *texts[8:]]  # with other ids, at other places
    (night.source / name).write_bytes(make(new))
    summary = night()
    assert sorted(night.decoded) == ["A first", "and a second"]
    assert summary.update is not None
    assert summary.update.known_rows == 12
    assert night.verified() == 0


def test_a_row_whose_source_language_changed_is_not_known(night: Nights) -> None:
    night.settings = ("source.src_lang_field=lang",)
    path = night.source / "a.jsonl"
    texts = rows(3)
    path.write_text("".join(json.dumps({"text": text, "lang": "en"}) + "\n" for text in texts))
    night()
    languages = ["en", "de", "en"]  # neither is Chinese: the prompts stay the same
    lines = (json.dumps({"text": text, "lang": lang}) for text, lang in zip(texts, languages, strict=True))
    path.write_text("".join(f"{line}\n" for line in lines))
    night()
    assert night.decoded == [texts[1]]
    assert night.verified() == 0


def test_a_long_row_that_is_decoded_in_runs_is_known(night: Nights) -> None:
    night.settings = ("segment.max_tokens=32", "batch.part_tokens=64", "batch.part_new_tokens=128")
    long = " ".join(f"word{number}." for number in range(60))
    night.write(a=f"one\n{long}\n")
    night()
    assert len(night.decoded) > 4
    before = night.published()["a.txt"].splitlines()[1]
    night.write(a=f"two\none\n{long}\n")
    night()
    assert night.decoded == ["two"]
    assert night.published()["a.txt"].splitlines()[2] == before


def test_a_row_that_failed_is_tried_again_when_its_file_changes(night: Nights) -> None:
    night.write(a="one\nfails\n", b="fails\n")
    night.failing = {"fails"}
    assert night().counts["empty"] == 2
    night.failing = set()
    night()
    assert night.decoded == []  # an unchanged file is not touched
    night.write(a="one\nfails\ntwo\n")
    night()
    assert sorted(night.decoded) == ["fails", "two"]
    assert night().counts == {"empty": 1, "ok": 3}


STOPS: list[tuple[type, str, bool]] = [
    (PartStore, "commit", False),
    (PartStore, "finish_shard", True),
    (Publisher, "_publish", False),
    (Publisher, "_publish", True),
    (Publisher, "finish", True),
    (Output, "assemble_outdated", False),
]


def prepare_change(night: Nights) -> None:
    night.write(a=text_of(rows(25)), b=text_of(rows(12, "b")))
    night()
    changed = rows(25)
    changed[3:5] = ["changed", "changed too", "inserted", "and inserted"]
    night.write(a=text_of([*changed, "appended"]), b=text_of(["first", *rows(12, "b")]), c="new\nfile\n")


@pytest.mark.parametrize(("owner", "method", "after"), STOPS, ids=str)
def test_an_update_that_is_stopped_anywhere_gives_the_files_of_one_that_is_not(
    tmp_path_factory: pytest.TempPathFactory, owner: type, method: str, after: bool
) -> None:
    unbroken = Nights(tmp_path_factory.mktemp("unbroken"))
    prepare_change(unbroken)
    old = unbroken.published()
    unbroken()
    new = unbroken.published()
    for number in (1, 2, 4, 7, 11, 16, 22):
        night = Nights(tmp_path_factory.mktemp("stopped"))
        prepare_change(night)
        if not night.stop(owner, method, number, after=after):
            assert number > 1
            break
        for name, data in night.published().items():
            assert data in (old.get(name), new[name])
        if not (night.job_folder() / "manifest.json").exists():
            assert night.verified() == 8
        night()
        assert night.published() == new
        assert night.manifest() == unbroken.manifest()
        assert night.verified() == 0


def test_an_input_that_changes_again_while_an_update_is_half_done_is_known_from_the_last_published_file(
    night: Nights,
) -> None:
    old = rows(25)
    night.write(a=text_of(old))
    night()
    night.write(a=text_of(["b1", "b2", "b3", *old]))
    assert night.stop(PartStore, "commit", 3)
    night.write(a=text_of([*old[:5], "c1", *old[5:]]))
    night()
    assert night.decoded == ["c1"]
    assert night.verified() == 0
    night.write(a=text_of(old))  # and back
    night()
    assert night.decoded == []


def test_a_file_that_changes_again_after_it_was_published_is_known_from_what_was_published_last(night: Nights) -> None:
    night.write(a=text_of(rows(5)), b=text_of(rows(5, "b")))
    night()
    night.write(a=text_of([*rows(5), "second"]), b=text_of([*rows(5, "b"), "second b"]))
    assert night.stop(Publisher, "_publish", 1, after=True)
    night.write(a=text_of([*rows(5), "second", "third"]))
    night()
    assert sorted(night.decoded) == ["second b", "third"]
    assert night.verified() == 0
    assert night.manifest()["update"]["changed_files"] == 2


@pytest.mark.parametrize("mode", ["refuse", "redo"])
def test_a_run_with_another_setting_goes_on_with_an_update_that_was_stopped(night: Nights, mode: str) -> None:
    old = rows(25)
    night.write(a=text_of(old))
    night()
    night.write(a=text_of(["new", *old]))
    assert night.stop(PartStore, "commit", 2)
    night("n", f"on_input_change={mode}")
    assert set(night.decoded) <= {"new"}
    assert night.verified() == 0


def test_an_update_may_come_with_other_output_settings(night: Nights) -> None:
    night.write(a=text_of(rows(5)), b=text_of(rows(3, "b")))
    night()
    night.write(a=text_of([*rows(5), "new"]))
    night("n", "write=jsonl")
    assert night.decoded == ["new"]
    assert set(night.published()) == {"a.jsonl", "b.jsonl"}
    assert night.verified() == 0


def test_update_is_refused_without_rows_before_anything_changes(night: Nights) -> None:
    night.write(a=text_of(rows(5)), b="b\n")
    night("n", "write.keep_rows=false", "on_input_change=refuse")
    night.write(a=text_of([*rows(5), "new"]), c="c\n")
    before = night.state()
    with pytest.raises(InputChangedError, match=r"a\.txt.*rows were not kept.*on_input_change=redo"):
        night()
    after = night.state()
    assert {name: data for name, data in after.items() if "stopped" not in name and name != "status.json"} == {
        name: data for name, data in before.items() if "stopped" not in name and name != "status.json"
    }
    with pytest.raises(ConfigError, match=r"write\.keep_rows=false"):
        night("n", "write.keep_rows=false")


def test_rows_of_a_version_that_did_not_record_what_it_sent_are_known_by_their_source(
    night: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.write(a=text_of(rows(5)))
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "sent_key", lambda *rest: b"")
        night()
    night.write(a=text_of(["new", *rows(5)]))
    night()
    assert night.decoded == ["new"]
    (night.source / "a.txt").write_text(text_of(["new", *rows(5)]).rstrip())  # the source of the last row differs
    night()
    assert night.decoded == []  # since what was sent is recorded now


def test_an_edited_output_of_a_changed_file_is_set_aside(night: Nights) -> None:
    night.write(a="one\n")
    night()
    (night.job_folder() / "translated/a.txt").write_text("my own\n")
    night.write(a="one\ntwo\n")
    night()
    (kept,) = (night.job_folder() / "set_aside").rglob("a.txt*")
    assert kept.read_text() == "my own\n"
    night.write(a="one\ntwo\nthree\n")
    night()
    assert len(list((night.job_folder() / "set_aside").rglob("a.txt*"))) == 1  # its own file is no user's


def retired(night: Nights) -> dict[str, bytes]:
    root = night.job_folder() / "retired"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_outputs_of_removed_inputs_are_kept_and_those_of_changed_ones_on_request(
    night: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retired_files, "today", lambda: date(2026, 11, 1))
    (night.source / "sub").mkdir()
    (night.source / "sub" / "b.txt").write_text("gone\n")
    night.write(a="one\n")
    night()
    first = night.published()
    (night.source / "sub" / "b.txt").unlink()
    night.write(a="one\ntwo\n")
    night()
    assert retired(night) == {"2026-11-01/sub/b.txt": first["sub/b.txt"]}
    second = night.published()
    night.write(a="one\ntwo\nthree\n")
    night("n", "write.retire=all")
    third = night.published()
    assert retired(night)["2026-11-01/a.txt"] == second["a.txt"]
    night.write(a="four\n")
    night("n", "write.retire=all")  # on the same day
    assert {third["a.txt"], second["a.txt"]} <= set(retired(night).values())
    monkeypatch.setattr(retired_files, "today", lambda: date(2026, 11, 9))
    night.write(a="five\n")
    night("n", "write.retire=all", "write.keep_retired_days=7")
    assert [name.split("/")[0] for name in retired(night)] == ["2026-11-09"]
    night.write(b="six\n")
    (night.source / "a.txt").unlink()
    night("n", "write.retire=none")
    assert len(retired(night)) == 1
    assert set(night.published()) == {"b.txt"}
    assert night.verified() == 0


def test_a_job_goes_on_with_another_model_and_keeps_what_is_translated(night: Nights) -> None:
    night.write(a=text_of(rows(5)), b="b\nfails\n")
    night.failing = {"fails"}
    night()
    before = night.published()
    night.failing = set()
    old = str(night.manifest()["identity_sha256"])
    night.write(a=text_of([*rows(5), "new"]))
    other = ("seed=7",)  # another identity, as a new revision of the model is
    with pytest.raises(IdentityError, match=r"(?s)seed: 0 -> 7.*on_mismatch=keep"):
        night("n", *other)
    with pytest.raises(ConfigError, match=r"on_mismatch=keep.*on_input_change"):
        night("n", *other, "on_mismatch=keep", "on_input_change=redo")
    assert night.published() == before
    summary = night("n", *other, "on_mismatch=keep")
    assert sorted(night.decoded) == ["fails", "new"]
    assert night.published()["a.txt"].startswith(before["a.txt"])
    assert summary.update is not None
    assert (summary.update.changed_files, summary.update.unchanged_files) == (1, 1)
    recorded = night.manifest()
    assert recorded["origins"] == {old[:16]: 6}
    assert [manifest.digest(identity) for identity in recorded["earlier_identities"]] == [old]
    assert recorded["identity"]["decode"]["seed"] == 7
    assert night.verified() == 0
    night("n", *other)
    assert night.decoded == []


def test_going_on_with_another_model_survives_a_stop(night: Nights) -> None:
    night.write(a=text_of(rows(25)), b=text_of(rows(3, "b")))
    night()
    before = night.published()
    night.write(a=text_of([*rows(25), "new"]))
    for owner, method, number in ((PartStore, "commit", 2), (Publisher, "_publish", 2), (Output, "finalize", 1)):
        assert night.stop(owner, method, number, "seed=7", "on_mismatch=keep")
    with pytest.raises(IdentityError):
        night()  # with the earlier model
    night("n", "seed=7")
    assert night.decoded == []
    assert night.published()["b.txt"] == before["b.txt"]
    assert night.published()["a.txt"].startswith(before["a.txt"])
    assert night.verified() == 0


def test_a_job_that_is_not_finished_takes_no_other_model(night: Nights) -> None:
    night.write(a=text_of(rows(25)))
    assert night.stop(PartStore, "commit", 2)
    for words in ([], ["on_mismatch=keep"]):
        with pytest.raises(IdentityError) as refusal:
            night("n", "seed=7", *words)
        assert ("it is not finished" in str(refusal.value)) == bool(words)
        assert "on_mismatch=keep" not in refusal.value.fix  # it would be refused


def test_a_row_that_a_pass_replaced_is_known_with_the_text_of_the_pass(night: Nights) -> None:
    night.write(a="one\nfails\ntwo\n")
    night.failing = {"fails"}
    night()
    night.failing = set()
    words = [f"output_dir={night.folder / 'out'}", "name=n", "launch.progress=off", "launch.workers=1"]
    with fake_job.installed(night._decode):
        assert front.main(["retry", *words]) == 0
    retried = night.published()["a.txt"].splitlines()
    assert retried[1].startswith(b"FAILS")
    night.failing = {"fails"}
    night.write(a="new\none\nfails\ntwo\n")  # the rows moved
    night()
    assert night.decoded == ["new"]
    assert night.published()["a.txt"].splitlines()[1:] == retried
    night.write(a="new\none\nfails\ntwo\nand another\n")  # and did not move
    night()
    assert night.decoded == ["and another"]
    assert night.published()["a.txt"].splitlines()[1:4] == retried
    assert night.verified() == 0


REREAD: dict[str, tuple[str, bytes, bytes, list[str], tuple[str, ...]]] = {
    "compressed": ("a.txt", b"one\ntwo\n", gzip.compress(b"new\none\ntwo\n", mtime=0), ["new"], ()),
    "a tree, not rows": ("a.json", b'{"text": "one"}\n{"text": "two"}\n', b'{"k": "two", "l": "new"}', ["new"], ()),
    "by a setting": ("a.txt", b'{"text": "one"}\n', b'{"text": "one"}\n', ["one"], ("source.format=jsonl",)),
}


@pytest.mark.parametrize("kind", REREAD)
def test_a_file_that_is_read_in_another_way_is_a_changed_one(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    name, before, after, expected, settings = REREAD[kind]
    for stop in (None, *STOPS):
        night = Nights(tmp_path_factory.mktemp("night"))
        (night.source / name).write_bytes(before)
        if not settings:  # with source.format=jsonl it is skipped
            night.write(b="b\n")
        night()
        old = night.published()
        (night.source / name).write_bytes(after)
        if stop is not None:
            owner, method, is_after = stop
            night.stop(owner, method, 1, *settings, after=is_after)
            assert night.published().get("b.txt") == old.get("b.txt")
            if not (night.job_folder() / "manifest.json").exists():
                assert night.verified() == 8
            night("n", *settings)
            assert set(night.decoded) <= set(expected)
        else:
            summary = night("n", *settings)
            assert night.decoded == expected
            assert summary.update is not None
            assert (summary.update.changed_files, summary.update.unchanged_files) == (1, len(old) - 1)
            new = night.published()
        assert night.published() == new
        assert night.verified() == 0
        assert not list(night.job_folder().glob(".hymt/c[0-9a-f]*"))
