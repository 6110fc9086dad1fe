"""Jobs that use vLLM in other ways than with one worker: their files are those of a job with our own engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from hymt_batch.demo import grammar
from hymt_batch.errors import ExitCode
from tests.vllm.real_vllm import PATIENCE_S, PROGRAM, PYTHON, needs_vllm, vllm_processes

pytestmark = needs_vllm

VLLM = ["decode.engine=vllm", f"launch.vllm_python={PYTHON}"]


class Jobs:
    """Jobs over one file in one output folder."""

    def __init__(self, folder: Path) -> None:
        self.out, source = folder / "out", folder / "in.txt"
        source.write_text("".join(row.en + "\n" for row in grammar.sample(11, 60)), encoding="utf-8")
        words = [f"source.path={source}", "src_lang=en", "tgt_lang=fr", "model=demo", "device_map=cpu"]
        self._words = [*words, "launch.progress=off", "launch.report=false"]
        self._variables = {**os.environ, "VLLM_TEST": str(os.getpid())}
        self.translate("name=slots")

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*PROGRAM, *words, f"output_dir={self.out}"]
        return subprocess.run(
            command, env=self._variables, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False, capture_output=True
        )

    def translate(self, *words: str, job: str = "translate") -> None:
        done = self.run(job, *self._words, *words)
        assert done.returncode == ExitCode.COMPLETE, done.stderr.decode()
        assert vllm_processes() == []

    def translated(self, name: str) -> bytes:
        return (self.out / name / "translated" / "in.txt").read_bytes()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("jobs"))


def test_two_workers_have_a_vllm_each(jobs: Jobs) -> None:
    jobs.translate("name=two", *VLLM, "launch.workers=2", "batch.part_rows=6")
    assert jobs.translated("two") == jobs.translated("slots")
    manifest = json.loads((jobs.out / "two" / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["environments"]) == 1, "both workers are alike"


def test_the_shards_of_a_job_are_translated_with_vllm_and_merged(jobs: Jobs) -> None:
    words = ["name=shards", "batch.shard_rows=30", *VLLM]
    jobs.translate(*words, job="prepare")
    for index in range(2):
        jobs.translate(*words, f"shard.index={index}")
    merged = jobs.run("merge", "name=shards")
    assert merged.returncode == ExitCode.COMPLETE, merged.stderr.decode()
    assert jobs.translated("shards") == jobs.translated("slots")


def test_rows_of_a_job_are_tried_again_with_vllm(jobs: Jobs) -> None:
    jobs.translate("name=short", "decode.max_new_tokens=30")
    assert jobs.translated("short") != jobs.translated("slots")
    retried = jobs.run("retry", "name=short", "statuses=[truncated]", "decode.max_new_tokens=300", *VLLM)
    assert retried.returncode == ExitCode.COMPLETE, retried.stderr.decode()
    assert jobs.translated("short") == jobs.translated("slots")
    assert vllm_processes() == []
