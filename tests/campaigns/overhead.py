"""Measure what a job costs around the model: reader, planner, tokenizer, checks, writer.

Four results: rows per second with a model that takes no time; the CPU time of each stage, run one after the other; the
share of a job's time that is not decoding, with the demo model; and the seconds from the start of a process to its
first decoded token. The third one excludes imports and loading of weights. Ends with one JSON line.

Stages are reported in CPU time over all threads, so that other load on the machine matters less. This excludes waiting
for the disk, and garbage collection counts for the stage in which it happens. Set TOKENIZERS_PARALLELISM=false for one
tokenizer thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch import batch, config, manifest, prompt, segment
from hymt_batch.check import assemble, retry
from hymt_batch.decode import generate
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.request import Completion
from hymt_batch.demo import grammar
from hymt_batch.model import prepare
from hymt_batch.run.identity import build_identity, build_output
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.shards import SkippedShard, cut_shards
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.published_file import InputAccess
from jobs import translate
from tests.fakes import engine as fake_engine
from tests.fakes.engine import make_context, registered

SETTINGS = ["src_lang=en", "tgt_lang=fr", "model=demo", "batch.max_rows=64"]
ANSWER = "De la pluie est attendue à Lyon dimanche soir, et les températures baisseront à 7 degrés."


def timed(source: Path, name: str, decode: fake_engine.Decode | None = None) -> dict[str, float]:
    """Run one job; return its rows and its seconds: total, from the first batch on, in the decoder, and CPU time.

    Without a decode function, `generate` decodes with the demo model.
    """
    spent = {"decode_s": 0.0, "began": 0.0}

    original: Callable[..., Any] = decode or generate.decode_batch

    def measured(*arguments: Any) -> Any:
        began = time.perf_counter()
        spent["began"] = spent["began"] or began
        rows = original(*arguments)
        spent["decode_s"] += time.perf_counter() - began
        return rows

    job = config.load("translate", [*SETTINGS, f"source.path={source}", f"name={name}", f"output_dir={source.parent}"])
    job.decode.engine = "generate"
    began, cpu = time.perf_counter(), time.process_time()
    engine = registered(measured) if decode else mock.patch.object(generate, "decode_batch", measured)
    with Reporter("off") as reporter, engine:
        summary = translate.translate(job, reporter)
    ended = time.perf_counter()
    return {
        "rows": summary.rows,
        "whole_s": ended - began,
        "cpu_s": time.process_time() - cpu,
        "job_s": ended - spent["began"],
        "decode_s": spent["decode_s"],
    }


def make_free() -> fake_engine.Decode:
    """Return a decode function that takes no time: it always returns the same text of typical length."""
    job = config.load("translate", [*SETTINGS, "source.path=unused", "name=unused"])
    model = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    return lambda requests, check_stop: [Completion(tokenizer.encode([ANSWER])[0], "stop")] * len(requests)


def stages(source: Path, name: str, free: fake_engine.Decode) -> dict[str, float]:
    """Return the CPU microseconds per row of each stage, called in the order of a job but in a single thread."""
    spent: Counter[str] = Counter()
    num_rows = 0

    @contextlib.contextmanager
    def clock(stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[stage] += time.process_time() - began  # type: ignore[assignment]  # a Counter of seconds

    job = config.load("translate", [*SETTINGS, f"source.path={source}", f"name={name}", f"output_dir={source.parent}"])
    inputs = discovery.find_inputs(job.source, None, "input")
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    model = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    limits = batch.resolve_part_limits(job.batch, model.num_parameters, model.on_gpu)
    tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    hymt = model.load(tokenizer)
    context = make_context(hymt, max_rows=64, max_tokens=16_384)
    limits_of_run: dict[str, Any] = {"max_context": hymt.max_context, "seed": job.seed, "card": job.model.sampling}
    engine = fake_engine.FakeEngine(context, free, "generate")
    decoder = Decoder(engine, context, **limits_of_run, check_stop=lambda: None)
    identity = build_identity(job, model.identity, template, limits)
    requested = RequestedJob(manifest.new_job(identity, inputs, {}, build_output(job)))
    access = InputAccess(
        lambda source_file: (document for document, _ in stream.read_full_documents(source_file, job.source, inputs)),
        partial(read_preamble, config=job.source),
        partial(assemble.shape_row, config=job.check),
    )
    with Output.open(source.parent / name, requested, access, job.write) as output:
        rows_of = {"shard_rows": limits.shard_rows, "shard_bytes": limits.shard_bytes}
        shards = cut_shards(inputs, job.source, **rows_of, get_record=output.shard_record)
        while True:
            with clock("read"):
                shard = next(shards, None)
            if shard is None:
                break
            assert not isinstance(shard, SkippedShard)
            num_rows += len(shard.documents)
            with clock("segment"):
                segments, refused = segment.split(shard.documents, tokenizer.count, job.segment)
            with clock("encode"):
                prompts, leaking = prompt.render(segments, shard.documents, tokenizer, template, hymt.max_context)
            with clock("plan"):
                planned = batch.plan_parts(shard, prompts, {**refused, **leaking}, limits)
            for part in planned:
                with clock("plan"):
                    output.has(part)
                with clock("around decode"):
                    translations = decoder.run(part.prompts)
                with clock("check"):
                    translations = retry.check_and_retry(translations, decoder.run, job.check)
                with clock("rows"):
                    rows = assemble.assemble_rows(part, translations, segment.join_translations)
                with clock("commit"):
                    output.commit(part, rows, {})
            with clock("publish"):
                output.finish_shard(shard)
        with clock("publish"):
            output.finalize()
    return {stage: 1e6 * seconds / num_rows for stage, seconds in spent.items()}


FIRST_TOKEN = """
import sys, time
from hymt_batch.run.progress import process_age_s
from hymt_batch.run.reporter import Reporter
steps = {"python": process_age_s()}
from hymt_batch import config
from jobs import translate
steps["our modules, Hydra"] = process_age_s()
job = config.load("translate", sys.argv[1:])
steps["configuration"] = process_age_s()
import torch, transformers
steps["torch, transformers"] = process_age_s()
from hymt_batch.decode import generate
decode_batch = generate.decode_batch
def decode(*arguments):
    steps.setdefault("model, tokenizer, folder, first shard", process_age_s())
    def one_token():
        steps.setdefault("first token", process_age_s())
    return decode_batch(*arguments[:-1], one_token)
job.decode.engine, generate.decode_batch = "generate", decode
with Reporter("off") as reporter:
    translate.translate(job, reporter)
names = list(steps)
import json
print(json.dumps({name: steps[name] - (steps[names[n - 1]] if n else 0) for n, name in enumerate(names)}))
"""


def first_token(source: Path, name: str) -> dict[str, float]:
    """Return the seconds of each step of a new process up to its first decoded token."""
    settings = [*SETTINGS, f"source.path={source}", f"name={name}", f"output_dir={source.parent}"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.run(
        [sys.executable, "-c", FIRST_TOKEN, *settings], env=environment, capture_output=True, text=True, check=True
    )
    steps: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return steps


def middle(rounds: list[dict[str, float]], digits: int) -> dict[str, float]:
    """Return the median of each value."""
    return {key: round(statistics.median(figures[key] for figures in rounds), digits) for key in rounds[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows with the model that takes no time")
    parser.add_argument("--demo-rows", type=int, default=400, help="rows with the demo model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bare: list[dict[str, float]] = []
    by_stage: list[dict[str, float]] = []
    starts: list[dict[str, float]] = []
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        bulletins = [bulletin.en for bulletin in grammar.sample(3, arguments.demo_rows)]
        small, large = Path(folder) / "small.txt", Path(folder) / "large.txt"
        small.write_text("".join(f"{text}\n" for text in bulletins), encoding="utf-8")
        with large.open("w", encoding="utf-8") as file:
            file.writelines(f"{row} {bulletins[row % len(bulletins)]}\n" for row in range(arguments.rows))
        free = make_free()
        timed(small, "warm-up", free)  # imports are not counted
        for index in range(arguments.rounds):
            bare.append(timed(large, f"bare{index}", free))
            by_stage.append(stages(large, f"stages{index}", free))
            demo_run = timed(small, f"demo{index}")
            shares.append(1 - demo_run["decode_s"] / demo_run["job_s"])
            starts.append(first_token(small, f"start{index}"))
    speeds = [figures["rows"] / (figures["whole_s"] - figures["decode_s"]) for figures in bare]
    costs, start = middle(by_stage, 1), middle(starts, 2)
    print("".join(f"{stage:>40} {cost:6.1f} CPU us per row\n" for stage, cost in costs.items()), end="")
    print("".join(f"{step:>40} {seconds:6.2f} s\n" for step, seconds in start.items()), end="")
    print(
        json.dumps(
            {
                "rows": arguments.rows,
                "overhead_rows_per_s": round(statistics.median(speeds)),
                "overhead_rows_per_s_all": [round(speed) for speed in speeds],
                "cpu_us_per_row": [
                    round(1e6 * (figures["cpu_s"] - figures["decode_s"]) / figures["rows"], 1) for figures in bare
                ],
                "stage_cpu_us_per_row": costs,
                "stages_cpu_us_per_row": round(sum(costs.values()), 1),
                "demo_rows": arguments.demo_rows,
                "demo_overhead_share": round(statistics.median(shares), 4),
                "demo_overhead_share_all": [round(share, 4) for share in shares],
                "first_token_s": round(sum(start.values()), 2),
                "first_token_steps_s": start,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
