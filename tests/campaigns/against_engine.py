"""Measure the overhead of a job over the bare engine on the same rows, and the time of a new process to its first rows.

The bare engine is `SlotEngine.generate` on the parts that the job plans, one after the other: prompt ids to output ids.
The job is `translate` in this process with the same loaded model, from call to return (folder, lease, reader,
tokenizer, plan, decoding, checks, commits, published file), without loading and canaries. Both run in turns, so that
other load on the machine affects both, and both must give the same ids. For every job, the time outside the engine's
calls is reported too; it does not depend on the noise of another run. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch import batch, config, prompt, segment
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.request import Completion
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.demo import grammar
from hymt_batch.model import prepare, synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.records import Part
from hymt_batch.run import executor
from hymt_batch.run.replica import Replica
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery
from hymt_batch.source.shards import SkippedShard, cut_shards
from jobs import translate

ROOT = Path(__file__).parents[2]
COMMON = ["src_lang=en", "tgt_lang=fr", "model=demo", "model.dtype=float32"]
SHAPES = {
    "demo": ["batch.part_rows=256"],
    # with random weights every row ends at its limit; the job must not stop because of that
    "mid": ["batch.part_rows=64", "decode.max_new_tokens=32", "check.stop_rate=1", "check.max_error_rate=1"],
}
"""Shape of the network -> settings of its jobs."""


class LoadedOnce:
    """A prepared model that returns an already loaded one."""

    def __init__(self, prepared: Any, hymt: LoadedModel) -> None:
        self._prepared, self._hymt = prepared, hymt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepared, name)

    def load_tokenizer(self, **_: object) -> Any:
        return self._hymt.tokenizer

    def load(self, _: object) -> LoadedModel:
        return self._hymt


def load_once(shape: str, job: Any) -> LoadedOnce:
    """Load the demo model, or a synthetic network with the demo's tokenizer."""
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    hymt = prepared.load(prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt))
    if shape != "demo":
        synthetic_model = synthetic.make_model(synthetic.Shape[shape], "float32", 3)
        hymt = replace(synthetic_model, tokenizer=hymt.tokenizer, free_bytes=hymt.free_bytes)
    return LoadedOnce(prepared, hymt)


def parts(job: Any, model: LoadedOnce) -> list[Part]:
    """Return the parts that the job plans."""
    inputs = discovery.find_inputs(job.source)
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
    cut = {"shard_rows": limits.shard_rows, "shard_bytes": limits.shard_bytes}
    planned: list[Part] = []
    for shard in cut_shards(inputs, job.source, **cut, get_record=lambda *_: None):
        assert not isinstance(shard, SkippedShard)
        segments, too_long = segment.split(shard.documents, model.load_tokenizer().count, job.segment)
        prompts, leaking = prompt.render(segments, shard.documents, model.load_tokenizer(), template, model.max_context)
        planned += batch.plan_parts(shard, prompts, {**too_long, **leaking}, limits)
    return planned


def bare(decoder: Decoder, planned: list[Part]) -> tuple[dict[str, float], list[list[Completion]]]:
    """Run the engine alone."""
    calls = [decoder.make_requests(part.prompts) for part in planned]
    began, cpu = time.perf_counter(), time.process_time()
    completions = [decoder.engine.generate(requests, lambda: None) for requests in calls]
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}, completions


def whole(job: Any, model: LoadedOnce) -> tuple[dict[str, float], list[list[Completion]]]:
    """Run the job, and record what its engine returned for each part."""
    completions: list[list[Completion]] = []
    inside = inside_cpu = loading = loading_cpu = 0.0

    def generate(*arguments: Any) -> list[Completion]:
        nonlocal inside, inside_cpu
        began, cpu = time.perf_counter(), time.process_time()
        rows = real_generate(*arguments)
        inside, inside_cpu = inside + time.perf_counter() - began, inside_cpu + time.process_time() - cpu
        completions.append(rows)
        return rows

    def open_executor(*arguments: Any) -> Any:
        nonlocal loading, loading_cpu
        began, cpu = time.perf_counter(), time.process_time()
        with mock.patch.object(SlotEngine, "generate", real_generate):  # canaries are not rows of the job
            opened_executor = real_open_executor(*arguments)
        loading, loading_cpu = time.perf_counter() - began, time.process_time() - cpu
        return opened_executor

    real_open_executor, real_generate = executor.open_executor, SlotEngine.generate
    began, cpu = time.perf_counter(), time.process_time()
    with (
        mock.patch.object(prepare, "prepare_model", lambda *_: model),
        mock.patch.object(SlotEngine, "generate", generate),
        Reporter("off") as reporter,
    ):
        translate.translate(job, reporter, open_executor)
    wall, cpu_spent = time.perf_counter() - began - loading, time.process_time() - cpu - loading_cpu
    return {"wall_s": wall, "cpu_s": cpu_spent, "inside_s": inside, "inside_cpu_s": inside_cpu}, completions


@contextlib.contextmanager
def threads(num_threads: int) -> Iterator[None]:
    import torch

    original = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(original)


def compared(shape: str, num_threads: int, source: Path, rounds: int) -> dict[str, Any]:
    """Measure one shape with `num_threads` threads."""
    folder = source.parent

    def job_of(name: str) -> Any:
        overrides = [*COMMON, *SHAPES[shape], f"source.path={source}", f"output_dir={folder}", f"name={name}"]
        return config.load("translate", [*overrides, f"launch.num_threads={num_threads}"])

    engine_runs: list[dict[str, float]] = []
    jobs: list[dict[str, float]] = []
    equal = True
    with threads(num_threads):
        job = job_of(f"{shape}{num_threads}")
        model = load_once(shape, job)
        planned = [part for part in parts(job, model) if part.prompts]
        replica = Replica(job, model, model.load_tokenizer(), check_stop=lambda: None, on_batch=lambda *_: None)
        warm_up_part = [replace(planned[0], prompts=planned[0].prompts[:8])]
        bare(replica.decoder, warm_up_part)  # warm-up
        for round_index in range(rounds):
            order = (True, False) if round_index % 2 else (False, True)
            completions: dict[bool, list[list[Completion]]] = {}
            for of_job in order:
                figures, completions[of_job] = (
                    whole(job_of(f"{shape}{num_threads}-{round_index}"), model)
                    if of_job
                    else bare(replica.decoder, planned)
                )
                (jobs if of_job else engine_runs).append(figures)
            equal = equal and completions[True] == completions[False]
    rows = sum(len(part.prompts) for part in planned)
    lost = [1 - bare_run["wall_s"] / job["wall_s"] for bare_run, job in zip(engine_runs, jobs, strict=True)]
    outside = [1 - job_run["inside_s"] / job_run["wall_s"] for job_run in jobs]
    cpu = [job_run["cpu_s"] / engine_run["cpu_s"] - 1 for job_run, engine_run in zip(jobs, engine_runs, strict=True)]
    outside_cpu = [1 - job_run["inside_cpu_s"] / job_run["cpu_s"] for job_run in jobs]
    return {
        "shape": shape,
        "threads": num_threads,
        "prompts": rows,
        "parts": len(planned),
        "engine_rows_per_s": round(rows / statistics.median(bare_run["wall_s"] for bare_run in engine_runs), 1),
        "job_rows_per_s": round(rows / statistics.median(job_run["wall_s"] for job_run in jobs), 1),
        "lost": round(statistics.median(lost), 4),
        "lost_all": [round(value, 4) for value in lost],
        "outside_of_engine": round(statistics.median(outside), 4),
        "outside_of_engine_all": [round(value, 4) for value in outside],
        "outside_of_engine_cpu": round(statistics.median(outside_cpu), 4),
        "outside_of_engine_cpu_all": [round(value, 4) for value in outside_cpu],
        "more_cpu": round(statistics.median(cpu), 4),
        "more_cpu_all": [round(value, 4) for value in cpu],
        "equal": equal,
    }


def first_rows_s(source: Path, name: str) -> float:
    """Return the seconds from the start of a new process to its first decoded rows, read from its log."""
    settings = [*COMMON, f"source.path={source}", f"name={name}", f"output_dir={source.parent}", "launch.progress=off"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.translate", *settings]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    (path,) = (source.parent / name / "logs").iterdir()
    (seconds,) = re.findall(r"first_rows_s=(\S+)", path.read_text(encoding="utf-8"))
    return float(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows with the demo model")
    parser.add_argument(
        "--mid-rows", type=int, default=96, help="rows with a synthetic network of 66 million parameters"
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        texts = [bulletin.en for bulletin in grammar.sample(3, max(arguments.rows, arguments.mid_rows))]
        sources = {"demo": Path(folder) / "demo.txt", "mid": Path(folder) / "mid.txt"}
        for shape, rows in (("demo", arguments.rows), ("mid", arguments.mid_rows)):
            sources[shape].write_text("".join(f"{text}\n" for text in texts[:rows]), encoding="utf-8")
            for num in arguments.threads if rows else ():
                result = compared(shape, num, sources[shape], arguments.rounds)
                results.append(result)
                share = {key: f"{100 * result[key]:.1f} %" for key in result if isinstance(result[key], float)}
                print(
                    f"{shape} threads={num}: engine {result['engine_rows_per_s']} rows/s, "
                    f"job {result['job_rows_per_s']} rows/s, lost {share['lost']}; "
                    f"outside the engine {share['outside_of_engine']} of the time and "
                    f"{share['outside_of_engine_cpu']} of the CPU time; {share['more_cpu']} more CPU time; "
                    f"same ids: {result['equal']}",
                    flush=True,
                )
        first = [first_rows_s(sources["demo"], f"start{num}") for num in range(min(3, arguments.rounds))]
    print(f"first decoded rows after {statistics.median(first):.2f} s")
    print(json.dumps({"against_engine": results, "first_rows_s": statistics.median(first), "first_rows_s_all": first}))
    return 0 if all(result["equal"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
