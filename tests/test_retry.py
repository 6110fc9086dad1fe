"""`hymt-batch retry`: rows of a finished job are decoded again in a pass; only their rows of the outputs change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
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
