"""Force the engine to run out of memory on the device, and compare its tokens with those of a run that had enough."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from benchmarks.gpu_session.session import Report

SHARE = 0.4
"""Share of the memory that a run needs beside the weights, to which the next one is limited."""

SEED = 20261129


def force(report: Report) -> None:
    """Report for plain and captured steps: equal tokens when memory runs out, and after a capture that failed."""
    hymt, requests = load_demo(report)
    for kind, capture in (("slots", False), ("captured", True)):
        engine = open_engine(hymt, len(requests), capture=capture)
        expected = tokens(engine, requests)
        release(engine)
        with limited(hymt, engine, requests, report):
            actual = tokens(engine, requests)
        ran_out = engine.counters.out_of_memory
        again = tokens(engine, requests)
        is_equal = expected == actual == again and ran_out > 0
        report.add(
            **{
                f"{kind}_equal": is_equal,
                f"{kind}_times_out_of_memory": ran_out,
                f"{kind}_different_rows": sum(a != b for a, b in zip(expected, actual, strict=True)),
                f"{kind}_captured_at_the_end": engine.environment["capture"],
            }
        )
    engine = open_engine(hymt, len(requests), capture=True)
    with failing_capture(engine):
        tokens(engine, requests[:8])
    with limited(hymt, engine, requests, report):
        after_failure = tokens(engine, requests)
    report.add(
        after_failed_capture_equal=after_failure == expected and engine.counters.out_of_memory > 0,
        failed_capture_reason=engine.uncaptured_reason,
    )
    if after_failure != expected or not engine.uncaptured_reason:
        report.add(captured_equal=False)


def load_demo(report: Report) -> tuple[Any, list[Any]]:
    """Return the demo model in float32, and requests of the bulletins."""
    from hymt_batch import config
    from hymt_batch.decode.request import Request
    from hymt_batch.decode.sampling import GREEDY
    from hymt_batch.demo import grammar
    from hymt_batch.model import prepare

    job = config.load("translate", ["preset=demo", "model.dtype=float32", *report.device_words])
    prepared = prepare.prepare_model(job.model, job.device_map, None)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    texts = [bulletin.en for bulletin in grammar.sample(SEED, report.sizes.memory_rows)]
    head = "Translate the following segment into French, without additional explanation.\n\n"
    prompts = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode_with_head(head, texts)]
    limit = 8 if report.dry_run else 200
    return prepared.load(tokenizer), [Request(ids, min(limit, 2 * len(ids)), 0, GREEDY) for ids in prompts]


def open_engine(hymt: Any, max_rows: int, *, capture: bool) -> Any:
    """Open the slot engine with a slot for each row."""
    from hymt_batch.decode.engine import EngineContext, find
    from hymt_batch.decode.sampling import GREEDY
    from hymt_batch.decode.settings import DecodeConfig

    context = EngineContext(
        load=lambda: hymt, model=None, tokenizer=hymt.tokenizer, settings=DecodeConfig(capture=capture),
        sampling_params=GREEDY, max_rows=max_rows, max_tokens=1 << 30,
    )  # fmt: skip
    return find("slots").open_engine(context)


def tokens(engine: Any, requests: Sequence[Any]) -> list[Any]:
    """Return the tokens and the end of each row."""
    return [(row.ids, row.finish_reason) for row in engine.generate(requests, lambda: None)]


def release(engine: Any) -> None:
    """Free what the engine keeps between two calls."""
    if engine.graph_runner is not None:
        engine.graph_runner.release()


@contextmanager
def limited(hymt: Any, engine: Any, requests: Sequence[Any], report: Report) -> Iterator[None]:
    """Context in which the device has too little memory for all rows at once; on a CPU, the network says so."""
    import torch

    from hymt_batch.model.memory import empty_cache

    if not hymt.device.startswith("cuda"):
        with limited_rows(hymt, len(requests) // 3):
            yield
        return
    release(engine)
    empty_cache(hymt.device)
    before, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.reset_peak_memory_stats()
    tokens(engine, requests)
    needed = torch.cuda.max_memory_reserved() - before
    release(engine)
    empty_cache(hymt.device)
    engine.counters.out_of_memory = 0
    allowed = torch.cuda.memory_reserved() + SHARE * needed
    report.add(needed_mib=round(needed / 2**20), allowed_mib=round(SHARE * needed / 2**20))
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def limited_rows(hymt: Any, max_rows: int) -> Iterator[None]:
    """Context in which a pass over more rows runs out of memory."""
    import torch

    embedding = hymt.network.model.embed_tokens  # which each pass calls first, whoever runs the layers
    forward = embedding.forward

    @functools.wraps(forward)
    def limited_forward(ids: Any) -> Any:
        if ids.shape[0] > max_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(ids)

    with mock.patch.object(embedding, "forward", limited_forward):
        yield


@contextmanager
def failing_capture(engine: Any) -> Iterator[None]:
    """Context in which a step does what a capture does not allow: it waits for the device."""
    import torch

    runner = engine.graph_runner
    run_step, capture = runner.run_step, runner.backend.capture

    def waiting_step(*arguments: Any) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        run_step(*arguments)

    def failing(step: Any) -> Any:
        if not torch.cuda.is_available():
            raise RuntimeError("the dry run lets the capture fail")
        return capture(step)

    with mock.patch.object(runner, "run_step", waiting_step), mock.patch.object(runner.backend, "capture", failing):
        yield
