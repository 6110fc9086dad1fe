"""What a job loses against the bare engine on the same rows, and how long a new process takes to its first rows.

The bare engine: `decode_rows` over the parts that the job plans, one after the other, ids in and ids out. The job:
`translate` in this process with the same loaded model, from its call to its end (folder, lease, reader, tokenizer,
plan, decoding, checks, commits, published file) without the loading and its canaries. Both in turns, so that other work
on the machine meets both, and both must give the same ids. In every job the time outside of the engine's own calls is
told too; it holds no noise of another run. Ends with one JSON line.
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

from hymt_batch import batch, config, executor, prompt, segment
from hymt_batch.decode import engine, slots
from hymt_batch.decode.generate import Completion
from hymt_batch.demo import grammar
from hymt_batch.model import prepare, synthetic
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.progress import Reporter
from hymt_batch.records import Part
from hymt_batch.replica import Replica
from hymt_batch.source import stream
from jobs import translate

ROOT = Path(__file__).parents[2]
COMMON = ["src_lang=en", "tgt_lang=fr", "model=demo", "model.dtype=float32"]
SHAPES = {
    "demo": ["batch.part_rows=256"],
    # random weights end no row: all end at a limit, which is no reason to stop
    "mid": ["batch.part_rows=64", "decode.max_new_tokens=32", "check.stop_rate=1", "check.max_error_rate=1"],
}
"""Shape of the network -> settings of its jobs."""


class Held:
    """A prepared model that is loaded once."""

    def __init__(self, prepared: Any, hymt: LoadedModel) -> None:
        self._prepared, self._hymt = prepared, hymt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepared, name)

    def load_tokenizer(self, **_: object) -> Any:
        return self._hymt.tokenizer

    def load(self, _: object) -> LoadedModel:
        return self._hymt


def held(shape: str, job: Any) -> Held:
    """The demo model, or a made-up network that is given the demo's tokenizer."""
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    hymt = prepared.load(prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt))
    if shape != "demo":
        other = synthetic.make_model(synthetic.Shape[shape], "float32", 3)
        hymt = replace(other, tokenizer=hymt.tokenizer, free_bytes=hymt.free_bytes)
    return Held(prepared, hymt)


def parts(job: Any, model: Held) -> list[Part]:
    """The parts that the job plans."""
    inputs = stream.find_inputs(job.source, None, "input")
    words = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
    cut = {"shard_rows": limits.shard_rows, "shard_bytes": limits.shard_bytes}
    found: list[Part] = []
    for shard in stream.cut_shards(inputs, job.source, **cut, get_record=lambda *_: None):
        assert not isinstance(shard, stream.SkippedShard)
        segments, _ = segment.split(shard.documents, model.load_tokenizer().count, job.segment)
        prompts, _ = prompt.render(segments, shard.documents, model.load_tokenizer(), words, model.max_context)
        found += batch.plan_parts(shard.documents, prompts, limits)
    return found


def bare(decode: engine.Decoder, planned: list[Part]) -> tuple[dict[str, float], list[list[Completion]]]:
    """The engine alone."""
    asked = [
        (
            [one.ids for one in part.prompts],
            [decode._max_new_tokens(one) for one in part.prompts],
            [0] * len(part.prompts),
        )
        for part in planned
    ]
    began, cpu = time.perf_counter(), time.process_time()
    made = [
        slots.decode_prompts(
            decode.hymt,
            ids,
            limits,
            seeds,
            decode.sampling_params,
            lambda: None,
            max_rows=decode.max_rows,
            max_tokens=decode.max_tokens,
            stages=decode.stages,
            read_every=decode.settings.read_every,
        )[0]
        for ids, limits, seeds in asked
    ]
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}, made


def whole(job: Any, model: Held) -> tuple[dict[str, float], list[list[Completion]]]:
    """The job, and what its engine gave part by part."""
    made: list[list[Completion]] = []
    inside = inside_cpu = loading = loading_cpu = 0.0

    def decode_rows(*arguments: Any, **others: Any) -> tuple[list[Completion], bool]:
        nonlocal inside, inside_cpu
        began, cpu = time.perf_counter(), time.process_time()
        rows, degraded = slots.decode_prompts(*arguments, **others)
        inside, inside_cpu = inside + time.perf_counter() - began, inside_cpu + time.process_time() - cpu
        made.append(rows)
        return rows, degraded

    def hire(*arguments: Any) -> Any:
        nonlocal loading, loading_cpu
        began, cpu = time.perf_counter(), time.process_time()
        with mock.patch.object(engine, "decode_prompts", slots.decode_prompts):  # the canaries are not the job's rows
            hands = crew_hire(*arguments)
        loading, loading_cpu = time.perf_counter() - began, time.process_time() - cpu
        return hands

    crew_hire = executor.open_executor
    began, cpu = time.perf_counter(), time.process_time()
    with (
        mock.patch.object(executor, "open_executor", hire),
        mock.patch.object(engine, "decode_prompts", decode_rows),
        Reporter("off") as telling,
    ):
        translate.translate(job, telling, lambda *_: model)
    wall, spent = time.perf_counter() - began - loading, time.process_time() - cpu - loading_cpu
    return {"wall_s": wall, "cpu_s": spent, "inside_s": inside, "inside_cpu_s": inside_cpu}, made


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compared(shape: str, num_threads: int, source: Path, rounds: int) -> dict[str, Any]:
    """Figures of one shape with so many threads."""
    place = source.parent

    def job_of(name: str) -> Any:
        given = [*COMMON, *SHAPES[shape], f"source.path={source}", f"output_dir={place}", f"name={name}"]
        return config.load("translate", [*given, f"launch.num_threads={num_threads}"])

    alone: list[dict[str, float]] = []
    jobs: list[dict[str, float]] = []
    equal = True
    with threads(num_threads):
        job = job_of(f"{shape}{num_threads}")
        model = held(shape, job)
        planned = [part for part in parts(job, model) if part.prompts]
        replica = Replica(job, model, model.load_tokenizer(), check_stop=lambda: None, on_batch=lambda *_: None)
        some = [replace(planned[0], prompts=planned[0].prompts[:8])]
        bare(replica.decode, some)  # first calls set things up
        for number in range(rounds):
            order = (True, False) if number % 2 else (False, True)
            made: dict[bool, list[list[Completion]]] = {}
            for of_job in order:
                figures, made[of_job] = (
                    whole(job_of(f"{shape}{num_threads}-{number}"), model) if of_job else bare(replica.decode, planned)
                )
                (jobs if of_job else alone).append(figures)
            equal = equal and made[True] == made[False]
    rows = sum(len(part.prompts) for part in planned)
    lost = [1 - one["wall_s"] / job["wall_s"] for one, job in zip(alone, jobs, strict=True)]
    outside = [1 - one["inside_s"] / one["wall_s"] for one in jobs]
    cpu = [one["cpu_s"] / other["cpu_s"] - 1 for one, other in zip(jobs, alone, strict=True)]
    outside_cpu = [1 - one["inside_cpu_s"] / one["cpu_s"] for one in jobs]
    return {
        "shape": shape,
        "threads": num_threads,
        "prompts": rows,
        "parts": len(planned),
        "engine_rows_per_s": round(rows / statistics.median(one["wall_s"] for one in alone), 1),
        "job_rows_per_s": round(rows / statistics.median(one["wall_s"] for one in jobs), 1),
        "lost": round(statistics.median(lost), 4),
        "lost_all": [round(one, 4) for one in lost],
        "outside_of_engine": round(statistics.median(outside), 4),
        "outside_of_engine_all": [round(one, 4) for one in outside],
        "outside_of_engine_cpu": round(statistics.median(outside_cpu), 4),
        "outside_of_engine_cpu_all": [round(one, 4) for one in outside_cpu],
        "more_cpu": round(statistics.median(cpu), 4),
        "more_cpu_all": [round(one, 4) for one in cpu],
        "equal": equal,
    }


def first_rows_s(source: Path, name: str) -> float:
    """Seconds from the start of a new process to its first decoded rows, as its log tells."""
    settings = [*COMMON, f"source.path={source}", f"name={name}", f"output_dir={source.parent}", "launch.progress=off"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.translate", *settings]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    (path,) = (source.parent / name / "logs").iterdir()
    (told,) = re.findall(r"first_rows_s=(\S+)", path.read_text(encoding="utf-8"))
    return float(told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows with the demo model")
    parser.add_argument("--mid-rows", type=int, default=96, help="rows with a made-up network of 66 million parameters")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        texts = [bulletin.en for bulletin in grammar.sample(3, max(arguments.rows, arguments.mid_rows))]
        sources = {"demo": Path(folder) / "demo.txt", "mid": Path(folder) / "mid.txt"}
        for shape, rows in (("demo", arguments.rows), ("mid", arguments.mid_rows)):
            sources[shape].write_text("".join(f"{text}\n" for text in texts[:rows]), encoding="utf-8")
            for number in arguments.threads if rows else ():
                one = compared(shape, number, sources[shape], arguments.rounds)
                found.append(one)
                share = {key: f"{100 * one[key]:.1f} %" for key in one if isinstance(one[key], float)}
                print(
                    f"{shape} threads={number}: engine {one['engine_rows_per_s']} rows/s, job {one['job_rows_per_s']}, "
                    f"lost {share['lost']}; outside of the engine {share['outside_of_engine']}, of the processor time "
                    f"{share['outside_of_engine_cpu']}; more processor time {share['more_cpu']}; "
                    f"same ids: {one['equal']}",
                    flush=True,
                )
        first = [first_rows_s(sources["demo"], f"start{number}") for number in range(min(3, arguments.rounds))]
    print(f"first decoded rows after {statistics.median(first):.2f} s")
    print(json.dumps({"against_engine": found, "first_rows_s": statistics.median(first), "first_rows_s_all": first}))
    return 0 if all(one["equal"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
