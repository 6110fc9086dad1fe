"""The benchmark does the same work in every engine, compares the tokens, and reports exact counters."""

from __future__ import annotations

import json

import pytest

from hymt_batch import config
from hymt_batch.bench import benchmark, roofline
from hymt_batch.decode import graph
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters
from hymt_batch.errors import ConfigError, ExitCode, PreflightError, UsageError
from hymt_batch.model import synthetic
from hymt_batch.model.synthetic import Shape
from hymt_batch.model.weight_packing import PackedWeights
from jobs import bench


def test_a_workload_is_the_same_for_a_seed_and_has_lengths_like_news() -> None:
    work = benchmark.make_workload(2000, 1400, 1)
    assert work == benchmark.make_workload(2000, 1400, 1) != benchmark.make_workload(2000, 1400, 2)
    lengths = sorted(len(request.prompt_ids) - benchmark.INSTRUCTION_TOKENS for request in work)
    assert 26 <= lengths[1000] <= 30
    assert (lengths[0], lengths[-1]) >= (benchmark.MIN_LENGTH, 90)
    assert all(4 <= request.max_new_tokens <= 150 for request in work)
    assert len({tuple(request.prompt_ids[: benchmark.INSTRUCTION_TOKENS]) for request in work}) == 1


def test_the_quick_benchmark_meets_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    job = config.load("bench", ["preset=bench_quick", "rounds=1"])
    assert bench.run(job) is ExitCode.COMPLETE
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert figures["outputs_equal"] is True
    assert figures["equal_rows"] == dict.fromkeys(
        ("slots", "sorted_generate", "generate_in_order", "pipeline"), "64/64"
    )
    assert figures["useful_row_steps_ratio"] >= 0.95
    assert 1 <= figures["prefill_pad_ratio"] <= 1.12
    # forced lengths: the first token of a row comes from the prefill, each other token from one step
    assert figures["counters"]["row_steps"] == figures["new_tokens"] - 64
    assert figures["ratio_to_sorted_generate"] > 0.4, (
        "a loose limit, because other processes may slow one of the engines"
    )
    assert 0 < figures["fraction_of_floor"] < 1.5
    assert any(line.strip().startswith("slots") for line in lines)


@pytest.mark.parametrize("shape", [Shape["demo"], Shape["mid"]])
def test_the_synthetic_shapes_have_the_documented_size(shape: Shape) -> None:
    hymt = synthetic.make_model(shape, "float32", 0)
    millions = sum(weight.numel() for weight in hymt.network.parameters()) / 1e6
    assert round(millions, 1) == {"demo": 1.1, "mid": 66.5}[shape.value]


def test_the_lower_bound_follows_the_counted_work() -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    products = PackedWeights(hymt.network)
    full = Counters(row_steps=1600, steps_of_rows={16: 100})
    alone = Counters(row_steps=1600, steps_of_rows={1: 1600})
    hundredfold = Counters(row_steps=160_000, steps_of_rows={16: 10_000})
    bound = benchmark.measure_gemm_bound(hymt, full, 16, products)
    assert 0 < bound.best <= bound.plain
    assert benchmark.measure_gemm_bound(hymt, hundredfold, 16, products).best > 10 * bound.best
    one_by_one = benchmark.measure_gemm_bound(hymt, alone, 16, products)
    assert one_by_one.best > 2 * one_by_one.full, "one row alone costs more than a sixteenth of sixteen rows"


def test_costs_are_interpolated_linearly() -> None:
    costs = {1: 1.0, 4: 4.0, 64: 10.0}
    assert [benchmark.interpolate(costs, rows) for rows in (1, 2, 4, 34, 64)] == [1.0, 2.0, 4.0, 7.0, 10.0]


def test_settings_of_another_job_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds=0"):
        config.load("bench", ["rounds=0"])
    with pytest.raises(UsageError, match=r"1\.8b_slice"):
        config.load("bench", ["shape=7b"])
    with pytest.raises(UsageError, match="not a choice"):
        config.load("bench", ["preset=demo"])
    with pytest.raises(UsageError, match="not a choice"):
        config.load("translate", ["preset=bench_quick"])


def test_captured_steps_run_if_requested() -> None:
    overrides = ["preset=bench_quick", "rounds=2", "compare_rows=16", "engines=[slots_captured]", "read_every=2"]
    figures = bench.bench(config.load("bench", overrides))
    assert set(figures["seconds"]) == {"slots", "slots_captured"}
    assert figures["outputs_equal"] is True
    counters = figures["captured_counters"]
    assert (counters["captures"], counters["replays"]) == (0, counters["steps"]), (
        "all steps were captured in the first round"
    )
    assert counters["host_reads"] < figures["counters"]["host_reads"]
    assert 0 < figures["fraction_of_roofline"]["slots"] < 1
    assert figures["copy_gb_per_s"] > 0
    assert "slots_captured" in bench.render(figures)


def test_captured_steps_that_fail_are_not_reported_as_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: graph.EmulatedGraphs, step: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph.EmulatedGraphs, "capture", refuse)
    overrides = ["shape=demo", "segments=24", "rounds=1", "compare_rows=4", "engines=[slots_captured]"]
    figures = bench.bench(config.load("bench", overrides))
    assert set(figures["seconds"]) == {"slots"}
    assert "not permitted" in figures["left_out"]["slots_captured"]
    (finding,) = figures["findings"]
    assert finding == {
        "check": "slots_captured",
        "what": figures["left_out"]["slots_captured"],
        "why": "",
        "fix": "",
        "id": "",
    }
    assert "slots_captured was left out" in bench.render(figures)


def test_a_missing_gpu_is_reported() -> None:
    with pytest.raises(PreflightError, match=r"device=cuda:99: torch finds \d+ GPUs here"):
        bench.bench(config.load("bench", ["shape=demo", "device=cuda:99"]))
    with pytest.raises(ConfigError, match="num_threads=0 must be at least 1"):
        config.load("bench", ["num_threads=0"])


def test_the_roofline_covers_reading_the_weights() -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    work = [Request([1, 2, 3], 5, 0, GREEDY)] * 4
    result = roofline.measure_roofline(hymt, work, Counters(steps_of_rows={4: 10}))
    assert result.bytes_per_s > 1e8
    assert result.flops_per_s > 1e8
    weight_bytes = 4 * (sum(weight.numel() for weight in hymt.network.parameters()))
    assert result.seconds >= 10 * 0.9 * weight_bytes / result.bytes_per_s
