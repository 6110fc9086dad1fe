"""A plan shows where the layers go and what a corpus contains, without weights, GPUs or torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import config, plan_report
from hymt_batch.bench import probe
from hymt_batch.bench.probe import BatchTiming
from hymt_batch.demo import grammar
from hymt_batch.errors import ConfigError, ExitCode, PreflightError, TextError
from hymt_batch.model import detect_devices
from hymt_batch.records import Document, Input, Shard
from hymt_batch.source import corpus_stats
from jobs import plan

GIB = 1 << 30


def plan_with(*overrides: str) -> plan_report.PlanReport:
    return plan.plan(config.load("plan", list(overrides)))


def test_a_plan_shows_where_each_layer_goes(capsys: pytest.CaptureFixture[str]) -> None:
    job = config.load("plan", ["model=hy_mt1.5_1.8b", "device_map=auto", "devices=[24GiB,24GiB]"])
    assert plan.run(job) is ExitCode.COMPLETE
    out = capsys.readouterr().out
    assert "1,791,080,448 parameters, 3.34 GiB in bfloat16" in out
    assert "published shape" in out
    for line in ("model.embed_tokens, lm_head", "model.layers.0-17", "model.layers.18-31"):
        assert line in out
    recommended = (
        "recommended  device_map=replicate: fits one 24.00 GiB GPU: replicate gives 2x the throughput of a split"
    )
    assert f"{recommended} (estimated, not measured)" in out


def test_a_plan_can_be_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    job = config.load(
        "plan", ["model=hy_mt1.5_7b", "device_map=balanced", "devices=[2x12GiB,cpu:16GiB]", "format=json"]
    )
    assert plan.run(job) is ExitCode.COMPLETE
    report = json.loads(capsys.readouterr().out)
    assert report["strategy"] == "balanced"
    assert (report["refused"], report["error"], report["warnings"], report["findings"]) == ("", None, [], [])
    refused = next(entry["error"] for entry in report["choices"] if entry["strategy"] == "replicate")
    assert (refused["id"], refused["why"]) == ("C23", "device_map=replicate needs the whole model on one device")
    assert refused["what"].startswith("The weights take") and "device_map=balanced" in refused["fix"]
    assert sum(group["weight_bytes"] for group in report["placement"]) == report["weight_bytes"]
    assert abs(sum(group["share"] for group in report["placement"]) - 1) < 1e-9
    cache_bytes = sum(entry["cache_bytes"] for entry in report["per_device"])
    assert abs(cache_bytes - report["max_tokens"] * report["cache_bytes_per_token"]) < 64
    assert all(entry["left_bytes"] > 0 for entry in report["per_device"])
    assert {entry["strategy"]: entry["fits"] for entry in report["choices"]} == {
        "replicate": False,
        "balanced": True,
        "balanced_low_0": False,
        "sequential": True,
        "offload": True,
        "cpu": False,
    }


def test_a_strategy_that_does_not_fit_is_reported_with_those_that_do() -> None:
    job = config.load("plan", ["model=hy_mt1.5_7b", "devices=[12GiB,12GiB]"])
    report = plan.plan(job)
    assert "[C23" in report.refused
    assert "device_map=replicate does not fit" in plan_report.render(report)
    assert report.recommended.startswith("device_map=balanced")
    assert plan.run(job) is ExitCode.PREFLIGHT


@pytest.mark.parametrize(
    ("model", "devices", "recommended"),
    [
        ("hy_mt1.5_1.8b", "[8GiB]", "device_map=replicate: fits one 8.00 GiB GPU"),
        ("hy_mt1.5_7b", "[80GiB,80GiB,80GiB]", "replicate gives 3x"),
        ("hy_mt1.5_7b", "[8GiB,cpu:64GiB]", "device_map=offload"),
        ("hy_mt2_30b_a3b", "[4x24GiB]", "device_map=balanced: fits 4 GPUs together"),
        ("hy_mt2_30b_a3b", "[8GiB,cpu:16GiB]", "nothing: the model is too large"),
        ("hy_mt1.5_1.8b", "[cpu:16GiB]", "device_map=cpu: no GPU"),
        ("hy_mt1.5_1.8b", "[cpu:2GiB]", "nothing: the memory is too small"),
        ("hy_mt1.5_1.8b_fp8", "[8GiB]", "device_map=replicate"),
        ("hy_mt1.5_1.8b_gptq_int4", "[3GiB]", "device_map=replicate"),
    ],
)
def test_the_recommendation_follows_the_devices(model: str, devices: str, recommended: str) -> None:
    assert recommended in plan_with(f"model={model}", f"devices={devices}").recommended


def test_a_plan_follows_the_number_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    report = plan_with("model=hy_mt1.5_1.8b", "devices=[24GiB,12GiB,24GiB]")
    assert report.replicas == [["cuda:0"], ["cuda:1"], ["cuda:2"]]
    left = {entry["device"]: entry["left_bytes"] for entry in report.per_device}
    assert left["cuda:0"] == left["cuda:2"] > left["cuda:1"] > 0, "each replica has its own memory"
    assert "launch.workers=auto: up to 3 workers" in plan_report.render(report)
    assert report.choices[0].replicas == 3
    two = plan_with("model=hy_mt1.5_1.8b", "devices=[24GiB,12GiB,24GiB]", "launch.workers=2")
    assert [entry["device"] for entry in two.per_device] == ["cuda:0", "cuda:1"]
    assert "replicate gives 2x the throughput" in two.recommended
    assert [(warning.id, warning.fix) for warning in two.findings] == [("C29", "launch.workers=auto")]
    one = plan_with("model=hy_mt1.5_1.8b", "devices=[24GiB,12GiB,24GiB]", "launch.workers=1")
    assert one.findings[0].what.startswith("cuda:1, cuda:2 stay idle")
    assert "throughput" not in one.recommended
    with pytest.raises(ConfigError, match="only 3 replicas"):
        plan_with("model=hy_mt1.5_1.8b", "devices=[24GiB,12GiB,24GiB]", "launch.workers=4")
    split = plan_with("model=hy_mt1.5_7b", "devices=[12GiB,12GiB]", "device_map=auto")
    assert split.replicas == [["cuda:0", "cuda:1"]]


def test_workers_on_the_cpu_need_their_memory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "usable_cpus", lambda: 8)
    devices = ("model=hy_mt1.5_1.8b", "devices=[cpu:64GiB]")
    one, three = plan_with(*devices), plan_with(*devices, "launch.workers=3")
    for key in ("weight_bytes", "cache_bytes", "logits_bytes"):
        assert three.per_device[0][key] == 3 * one.per_device[0][key]
    assert three.replicas == [["cpu"]] * 3
    most = plan_with("model=hy_mt1.5_1.8b", "devices=[cpu:16GiB]", "launch.workers=3")
    assert len(most.replicas) == 2
    assert "a replica takes 6.67 GiB of the 16.00 GiB of free memory: at most 2 workers" in most.warnings[0]


def test_a_small_corpus_starts_fewer_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("".join(f"row {row}\n" for row in range(5)), encoding="utf-8")
    words = ["model=demo", f"source.path={tmp_path / 'in.txt'}", "tgt_lang=fr", "devices=[4x8GiB]"]
    assert plan.run(config.load("plan", [*words, "batch.part_rows=2"])) is ExitCode.COMPLETE
    assert "the corpus may have only 3 parts: then only 3 workers start" in capsys.readouterr().out
    assert plan.run(config.load("plan", [*words, "batch.part_rows=1"])) is ExitCode.COMPLETE
    assert "only" not in capsys.readouterr().out.partition("corpus  ")[2]


def test_the_time_with_several_workers_is_marked_as_an_estimate() -> None:
    corpus: dict[str, Any] = dict.fromkeys(("rows", "files", "decoded_rows", "duplicate_rows", "blank_rows"), 9)
    corpus |= {
        "formats": {"text": 9},
        "refused_rows": 0,
        "tokens": 900,
        "tokens_error": 0,
        "characters": 9,
        "expected_output_tokens": 900,
    }
    result = plan_report.ProbeResult(9.0, 9, 4, 2, 1.0, 100.0, (3000.0, 3600.0, 4000.0), (0.8, 1.0, 1.2))
    assert not [line for line in plan_report.corpus_lines(corpus, result) if "workers" in line]
    result.workers, result.workers_eta_s = 3, (1000.0, 1200.0, 1300.0)
    line = plan_report.corpus_lines(corpus, result)[-1].strip()
    assert (
        line
        == "with 3 workers: 20 min 0 s (16 min 40 s to 21 min 40 s); an estimate, 3 times the measured speed of one"
    )
    result.workers_eta_s = None
    assert plan_report.corpus_lines(corpus, result)[-1].strip().endswith("share the cores of the CPU, is not measured")


def test_batch_limits_follow_the_settings() -> None:
    report = plan_with("model=hy_mt1.5_1.8b", "devices=[24GiB]", "batch.max_rows=32", "batch.max_tokens=10000")
    assert (report.max_rows, report.max_tokens) == (32, 10_000)
    assert report.per_device[0]["cache_bytes"] == 10_000 * (64 << 10)


def test_simulated_devices_are_parsed_or_rejected() -> None:
    inventory = detect_devices.simulated_devices(["2x24GiB", "cpu:64GiB", "8GB"])
    assert [(device.name, device.free_bytes) for device in inventory.devices] == [
        ("cuda:0", 24 * GIB),
        ("cuda:1", 24 * GIB),
        ("cuda:2", 8_000_000_000),
        ("cpu", 64 * GIB),
    ]
    for invalid in ("gpu", "24 gigs", "tpu:8GiB", ""):
        with pytest.raises(ConfigError):
            detect_devices.simulated_devices([invalid])


def fake_smi(folder: Path, rows: str) -> str:
    program = folder / "nvidia-smi"
    version = 'echo "CUDA Version: 12.8"'
    program.write_text(f"#!/bin/sh\ncase \"$*\" in *--query-gpu*) printf '{rows}';; *) {version};; esac\n")
    program.chmod(0o755)
    return str(folder)


def test_the_devices_of_this_machine_come_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "0, GPU-a, NVIDIA L4, 23034, 22500, 8.9, 570.1\\n1, GPU-b, Tesla T4, 15360, 15000, 7.5, 570.1\\n"
    monkeypatch.setenv("PATH", fake_smi(tmp_path, rows), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = plan_with("model=hy_mt1.5_1.8b")
    assert [device["name"] for device in report.devices] == ["cuda:0", "cuda:1", "cpu"]
    assert report.dtype == "float32", "one GPU does not support bfloat16 natively"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    report = plan_with("model=hy_mt1.5_1.8b")
    assert [device["label"] for device in report.devices[:-1]] == ["NVIDIA L4"]
    assert report.dtype == "bfloat16"


def test_a_model_folder_is_read_and_a_missing_one_is_rejected(tmp_path: Path) -> None:
    report = plan_with("model=demo")
    assert report.read_from == "files"
    assert report.parameters == 1_137_280
    with pytest.raises(PreflightError, match="neither a folder nor a hub id"):
        plan_with("model.path=/no/such/folder")


def test_a_corpus_is_counted_by_rows_tokens_and_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [bulletin.en for bulletin in grammar.sample(9, 20)]
    (tmp_path / "in.txt").write_text("\n".join([*texts, texts[0], "", texts[1]]) + "\n", encoding="utf-8")
    job = config.load("plan", ["model=demo", f"source.path={tmp_path / 'in.txt'}", "tgt_lang=fr", "format=json"])
    assert plan.run(job) is ExitCode.COMPLETE
    corpus = json.loads(capsys.readouterr().out)["corpus"]
    assert (corpus["rows"], corpus["decoded_rows"], corpus["duplicate_rows"], corpus["blank_rows"]) == (23, 20, 2, 1)
    count = plan.tokenizing.token_counter(plan.find_model(job)[0].folder)
    assert corpus["tokens"] == sum(map(count, texts))
    assert corpus["characters"] == sum(map(len, texts))


def shard(texts: list[str]) -> Shard:
    rows = [Document(f"in#{row}", row, text, b"") for row, text in enumerate(texts)]
    return Shard(Input("in", "in", "in", "text"), 0, 0, rows, 0, 0, "", last=True)


def test_the_tokens_of_a_large_corpus_are_estimated_with_an_error() -> None:
    shards = [shard([f"{'word ' * (1 + (row * 7 + part) % 13)}{row}" for row in range(5000)]) for part in range(4)]
    exact = corpus_stats.compute_corpus_stats(shards, lambda text: len(text.split()), count_rows=10**9)
    estimated = corpus_stats.compute_corpus_stats(shards, lambda text: len(text.split()), count_rows=1000)
    assert exact.tokens_error == 0
    assert exact.counted_rows == exact.decoded_rows
    assert estimated.counted_rows < exact.counted_rows / 10
    assert exact.tokens and estimated.tokens
    assert 0 < estimated.tokens_error < 0.05
    assert abs(estimated.tokens / exact.tokens - 1) < 4 * estimated.tokens_error
    blank = corpus_stats.compute_corpus_stats([shard(["", " ", "\u200b", "\ufeff"])], len, count_rows=10)
    assert (blank.tokens, blank.decoded_rows, blank.blank_rows) == (0, 0, 4)
    duplicates = corpus_stats.compute_corpus_stats([shard(["one", " one\t", "two"])], len, count_rows=10)
    assert (duplicates.decoded_rows, duplicates.duplicate_rows) == (2, 1)
    assert corpus_stats.compute_corpus_stats(shards, None, count_rows=10).tokens is None


def test_a_text_that_the_tokenizer_cannot_encode_does_not_stop_the_statistics() -> None:
    def count(text: str) -> int:
        raise TextError("the tokenizer failed")

    stats = corpus_stats.compute_corpus_stats([shard(["one", "two"])], count, count_rows=10)
    assert (stats.tokens, stats.tokens_error, stats.decoded_rows) == (0, 1.0, 2)


def test_a_sample_is_drawn_evenly_and_by_its_seed() -> None:
    texts = [f"row {row}" for row in range(10_000)]
    sample = corpus_stats.compute_corpus_stats([shard(texts)], None, count_rows=1, num_sample=1000, seed=1).sample
    assert len({document.row_index for document in sample}) == 1000
    assert 4500 < sum(document.row_index for document in sample) / 1000 < 5500
    assert (
        sample == corpus_stats.compute_corpus_stats([shard(texts)], None, count_rows=1, num_sample=1000, seed=1).sample
    )
    assert (
        sample != corpus_stats.compute_corpus_stats([shard(texts)], None, count_rows=1, num_sample=1000, seed=2).sample
    )


def test_speeds_have_an_interval_around_the_measured_value() -> None:
    batches = [BatchTiming(10, 1000, 900, 1.0 + 0.1 * (index % 3)) for index in range(12)]
    low, middle, high = probe.throughput_interval(batches, 0)
    assert low < middle < high
    assert abs(middle - 12_000 / sum(timing.seconds for timing in batches)) < 1e-6


@pytest.mark.parametrize(("seconds", "row_s"), [(2.0, 0.01), (60.0, 1.0), (60.0, 3.0)])
def test_a_probe_takes_its_time_and_hardly_more(monkeypatch: pytest.MonkeyPatch, seconds: float, row_s: float) -> None:
    """A batch of 2,048 rows would take up to 6,000 s here, and four of them are measured."""
    now = [0.0]
    monkeypatch.setattr(probe.time, "monotonic", lambda: now[0])

    def decode(prompts: list[Any]) -> list[Any]:
        now[0] += row_s * len(prompts)
        return [SimpleNamespace(num_new_tokens=9) for _ in prompts]

    prompts: list[Any] = [SimpleNamespace(ids=range(5 + row % 40), num_source_tokens=9) for row in range(4096)]
    timings = list(probe.time_batches(SimpleNamespace(run=decode), prompts, 2048, seconds, 0))  # type: ignore[arg-type]
    assert len(timings) > probe.MIN_BATCHES
    assert seconds * 0.5 < now[0] < seconds * 1.3
    slow = list(probe.time_batches(SimpleNamespace(run=decode), prompts, 2048, row_s / 2, 0))  # type: ignore[arg-type]
    assert [timing.rows for timing in slow] == [1] * (probe.MIN_BATCHES + 1), "too little time for even one row"


def test_a_probe_of_small_batches_says_that_parts_may_be_faster() -> None:
    corpus: dict[str, Any] = dict.fromkeys(("rows", "files", "decoded_rows", "duplicate_rows", "blank_rows"), 9)
    corpus |= {
        "formats": {"text": 9},
        "refused_rows": 0,
        "tokens": 900,
        "tokens_error": 0,
        "characters": 9,
        "expected_output_tokens": 900,
    }
    times = (3000.0, 3600.0, 4000.0), (0.8, 1.0, 1.2)
    small = plan_report.ProbeResult(9.0, 9, 4, 2048, 1.0, 100.0, *times)
    assert any("parts have 2,048 rows and may be faster" in line for line in plan_report.corpus_lines(corpus, small))
    large = plan_report.ProbeResult(9.0, 8192, 4, 2048, 1.0, 100.0, *times)
    assert not any("may be faster" in line for line in plan_report.corpus_lines(corpus, large))


def test_a_probe_measures_and_estimates_the_time_for_the_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    job = config.load("plan", ["preset=demo", "probe=true", "probe_s=0.1", "format=json", "batch.max_rows=8"])
    assert plan.run(job) is ExitCode.COMPLETE
    report = json.loads(capsys.readouterr().out)
    result = report["probe"]
    assert result["batches"] >= 4
    low, middle, high = result["eta_s"]
    assert 0 < low <= middle <= high
    assert abs(result["device_hours"][1] * 3600 - middle) < 1e-6
    assert 1 < result["output_per_source_token"] < 2
    expected = report["corpus"]["tokens"] * result["output_per_source_token"]
    assert abs(report["corpus"]["expected_output_tokens"] - expected) <= 1


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["probe=true"], "source.path=FILE"),
        (["probe=true", "source.path=x.txt"], "tgt_lang=fr"),
        (["preset=demo", "probe=true", "devices=[24GiB]"], "Drop one of the two"),
        (["probe_s=0"], "probe_s=60"),
        (["sample_rows=0"], "sample_rows=50000"),
    ],
)
def test_invalid_settings_of_a_plan_are_rejected(overrides: list[str], fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        config.load("plan", overrides)


def test_a_plan_without_a_probe_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("It rains.\n", encoding="utf-8")
    program = (
        "import sys; from jobs import plan; from hymt_batch import config;"
        "plan.run(config.load('plan', ['model=demo', 'tgt_lang=fr', f'source.path={sys.argv[1]}']));"
        "sys.exit(','.join(name for name in ('torch', 'transformers', 'accelerate') if name in sys.modules))"
    )
    process: Any = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "in.txt")],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert process.stderr.strip() == "", process.stderr
    assert "corpus   1 row in 1 file: 1 to decode" in process.stdout


def test_a_plan_shows_how_prompts_end_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    def prompt_line_of(*overrides: str) -> str:
        (prompt_line,) = [
            text for text in plan_report.render(plan_with(*overrides)).splitlines() if text.startswith("prompt ")
        ]
        return prompt_line

    folder = plan.find_model(config.load("plan", ["model=demo"]))[0].folder
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assistant, end = "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁8｜>"
    with_it = f"last token {assistant} (id {ids[assistant]}): with the generation prompt, as in the model card"
    assert with_it in prompt_line_of("model=demo")
    without = prompt_line_of("model=demo", "prompt.add_generation_prompt=false")
    assert f"{end} (id {ids[end]}): without" in without
    assert "unlike the model card" in without
    without_files = prompt_line_of("model=hy_mt1.5_1.8b", "devices=[24GiB]")
    assert "not known without the model's files: without the generation prompt, as in the model card" in without_files
    assert plan.run(config.load("plan", ["model=demo", "format=json"])) is ExitCode.COMPLETE
    assert json.loads(capsys.readouterr().out)["prompt"] == {
        "token": assistant,
        "id": ids[assistant],
        "added": True,
        "by": "as in the model card",
    }


def test_an_unreadable_template_does_not_stop_the_plan(tmp_path: Path) -> None:
    folder = shutil.copytree(plan.find_model(config.load("plan", ["model=demo"]))[0].folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ 'x' * 2 ** 33 }}", encoding="utf-8")
    report = plan_with("model=demo", f"model.path={folder}")
    assert report.prompt is not None
    assert report.prompt.id is None
    assert report.parameters == 1_137_280


@pytest.mark.parametrize("model", ["hy_mt2_7b_fp8", "hunyuan_mt_7b_fp8", "hunyuan_mt_chimera_7b_fp8"])
def test_fp8_models_are_planned_with_their_size_in_memory(model: str) -> None:
    report, unquantised = (
        plan_with(f"model={model}", "devices=[24GiB]"),
        plan_with("model=hy_mt2_7b", "devices=[24GiB]"),
    )
    assert report.weight_bytes == unquantised.weight_bytes
    assert report.recommended.startswith("device_map=replicate")
    mixture = plan_with("model=hy_mt2_30b_a3b_fp8", "devices=[80GiB]")
    assert mixture.weight_bytes == plan_with("model=hy_mt2_30b_a3b", "devices=[80GiB]").weight_bytes


def test_the_texts_of_documents_are_counted_and_files_by_format() -> None:
    corpus: dict[str, Any] = dict.fromkeys(("rows", "files", "decoded_rows", "duplicate_rows", "blank_rows"), 9)
    corpus |= {"formats": {"text": 2, "srt": 7}, "refused_rows": 0, "tokens": None, "characters": 9}
    assert plan_report.corpus_lines(corpus, None)[0].startswith("corpus   9 rows in 9 files (7 srt, 2 text): 9 to dec")
