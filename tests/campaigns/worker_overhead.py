"""Measure what a row costs the job's own process when workers decode: its processor time, and how fast rows pass.

The GPUs are simulated: one worker process for each, with the demo model's tokenizer and an engine that gives every row
the same translation and takes no time. So the workers cost the machine little, and the job's own process reads, splits,
encodes, plans, sends, receives, checks and writes as it would beside real GPUs. Its processor time (all threads, user
and system) does not depend on the number of cores. Other load on the machine makes it longer, never shorter, so the
least of several rounds counts. What a job takes once, such as the search for inputs, is measured with few rows and
subtracted. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch import config
from hymt_batch.decode.request import Completion, Request
from hymt_batch.demo import grammar
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import Device, Strategy
from hymt_batch.model import prepare
from hymt_batch.run import worker
from hymt_batch.run.reporter import Reporter
from jobs import translate
from tests.fakes import job, model

LIMIT_US = 80.0
"""Processor time of a row at which one core still feeds 8 workers of 1,500 rows/s."""

WORKER = (sys.executable, "-m", "tests.campaigns.worker_overhead")
SETTINGS = ["src_lang=en", "tgt_lang=fr", "model=demo", "batch.part_rows=2048", "batch.part_tokens=131072"]
SETTINGS += ["check.stop_rate=1"]  # all rows get one answer
"""Parts as those of the 1.8B on a GPU."""

MAX_CHARS, TOKENS = 90, 35
GIB = 1 << 30


@cache
def tokenizer() -> Any:
    """Return the tokenizer of the demo model."""
    settings = config.load("translate", [*SETTINGS, "source.path=unused", "name=unused"])
    prepared = prepare.prepare_model(settings.model, settings.device_map, settings.launch.num_threads)
    return prepared.load_tokenizer(add_generation_prompt=settings.add_generation_prompt)


@cache
def answer() -> list[int]:
    """Return the tokens of every translation."""
    text = " ".join(bulletin.fr for bulletin in grammar.sample(5, 20))
    ids: list[int] = tokenizer().encode([text])[0]
    return ids[:TOKENS]


def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Give every row the same translation."""
    return [Completion(answer(), "stop")] * len(requests)


@contextmanager
def machine(num_gpus: int) -> Iterator[None]:
    """Context in which this machine has that many GPUs, each of which holds a replica of the stub model."""
    placement = Placement(
        strategy=Strategy.replicate,
        map={"": "cuda:0"},
        device=Device("cuda:0", "a card", GIB, bfloat16=True),
        usage=(DeviceUsage("cuda:0", 1000, 1, "a card"),),
        replicas=tuple((f"cuda:{index}",) for index in range(num_gpus)),
        reasons=(),
    )
    stub = model.Model(on_gpu=True, placements=(placement,), tokenizer=tokenizer(), max_context=4096)
    with job.installed(decode, WORKER), mock.patch.object(prepare, "prepare_model", lambda *_: stub):
        yield


def serve(arguments: Sequence[str]) -> int:
    """Be one of the workers."""
    with machine(1):
        return worker.main(arguments)


def write_corpus(path: Path, rows: int) -> None:
    """Write distinct rows of a news-like length; every fourth has a word that no other has."""
    texts = dict.fromkeys(bulletin.en for bulletin in grammar.sample(3, 4000))
    bulletins = [text for text in texts if len(text) <= MAX_CHARS]
    num = len(bulletins)
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            first, second = bulletins[row % num], bulletins[(row // num + 7 * row) % num]
            file.write(f"{first} {second}{'' if row % 4 else f' {row}'}\n")


def measure(source: Path, name: str, num_gpus: int) -> dict[str, float]:
    """Run one job; return its rows, and the seconds and processor seconds of this process from its call to its end."""
    words = [*SETTINGS, f"source.path={source}", f"name={name}", f"output_dir={source.parent}"]
    settings = config.load("translate", words)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with machine(num_gpus), Reporter("off") as reporter:
        summary = translate.translate(settings, reporter)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": summary.rows,
        "seconds": time.perf_counter() - began,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def run(rows: int, num_gpus: int, rounds: int, limit_us: float = LIMIT_US) -> dict[str, Any]:
    """Return the processor microseconds that a row costs the job's own process."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.txt", Path(folder) / "many.txt"
        write_corpus(few, 2048)
        write_corpus(many, rows)
        measure(few, "warm-up", num_gpus)  # imports are not counted
        costs, speeds = [], []
        for index in range(rounds):
            once, whole = measure(few, f"few{index}", num_gpus), measure(many, f"many{index}", num_gpus)
            costs.append(1e6 * (whole["cpu_s"] - once["cpu_s"]) / (whole["rows"] - once["rows"]))
            speeds.append((whole["rows"] - once["rows"]) / (whole["seconds"] - once["seconds"]))
        lines = many.read_text(encoding="utf-8").splitlines()[:1000]
        tokens = statistics.mean(map(len, tokenizer().encode(lines)))
    return {
        "rows": rows,
        "workers": num_gpus,
        "cores": os.cpu_count(),
        "source_tokens_of_a_row": round(tokens, 1),
        "new_tokens_of_a_row": len(answer()),
        "cpu_us_per_row": round(min(costs), 1),
        "cpu_us_per_row_all": [round(cost, 1) for cost in costs],
        "rows_per_s_here": round(statistics.median(speeds)),
        "limit_us": limit_us,
        "passed": min(costs) <= limit_us,
    }


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0].isdecimal():
        return serve(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=8, help="simulated GPUs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-us", type=float, default=LIMIT_US)
    options = parser.parse_args(arguments)
    figures = run(options.rows, options.workers, options.rounds, options.limit_us)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
