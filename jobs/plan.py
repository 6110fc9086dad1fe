"""Show where each layer would go, the memory it takes and the time a corpus would take: `hymt-batch plan model=...`.

Reads config, headers and text (of weights only an lm_head that should be tied), and imports no torch; `probe=true`
alone loads the model and measures.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, plan_report, prompt, sanitize, segment, streams
from hymt_batch.decode import probe
from hymt_batch.device_map import table
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import DeviceInventory, Strategy, gib
from hymt_batch.errors import ExitCode, HymtError, PreflightError
from hymt_batch.model import detect_devices, prepare, prompt_end, shapes
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.files import ModelFiles
from hymt_batch.plan_report import PlanReport, ProbeResult, StrategyOption
from hymt_batch.progress import Reporter, escape_line
from hymt_batch.replica import Replica
from hymt_batch.source import stream
from hymt_batch.source.corpus_stats import CorpusStats, compute_corpus_stats

if TYPE_CHECKING:
    from hymt_batch.schema import PlanJob

log = logging.getLogger("hymt_batch.jobs.plan")

PROBE_SAMPLE_ROWS = 4096  # rows drawn for the measured run
STRATEGIES = (
    Strategy.replicate,
    Strategy.balanced,
    Strategy.balanced_low_0,
    Strategy.sequential,
    Strategy.offload,
    Strategy.cpu,
)


def plan(job: PlanJob) -> PlanReport:
    """Everything but the measured run.

    Raises:
        HymtError: The model or the input is not there, or a setting is wrong. A strategy that does not fit is told in
            the report instead.
    """
    devices = (
        detect_devices.nvidia_smi_devices() if job.devices is None else detect_devices.simulated_devices(job.devices)
    )
    files, read_from = find_model(job)
    laid = partial(prepare.plan_placement, job.model, inventory=devices, files=files)
    refused, placement = "", None
    try:
        dtype, net, placements = laid(device_map=job.device_map)
        placement = placements[0]
    except PreflightError as error:
        refused = str(error)
        dtype, net = prepare.resolve_dtype(job.model, job.device_map, devices, files), prepare.network_in_memory(files)
    dtype_bytes = prepare.dtype_bytes(dtype)
    report = PlanReport(
        model=job.model.path,
        read_from=read_from,
        dtype=dtype,
        parameters=files.network.num_parameters,
        weight_bytes=net.num_bytes(dtype_bytes),
        cache_bytes_per_token=net.cache_bytes_per_token(dtype_bytes),
        devices=[{"name": d.name, "label": d.label, "free_bytes": d.free_bytes} for d in devices.devices],
        strategy=(placement.strategy if placement else job.device_map.strategy).value,
        refused=refused,
    )
    if placement:
        describe_placement(report, job, placement, net, dtype_bytes, devices)
    last = None
    if read_from == "files":
        last = prompt_end.last_token(files.folder, add_generation_prompt=job.add_generation_prompt)
    report.prompt = prompt.describe_end(job.prompt, job.model.add_generation_prompt, last)
    report.choices = [evaluate_strategy(job, one, laid, devices) for one in STRATEGIES]
    report.recommended = recommend(report.choices, devices)
    return report


def find_model(job: PlanJob) -> tuple[ModelFiles, str]:
    """The model's files, or its published shape where they are not on this machine."""
    try:
        folder, commit = model_files.resolve(job.model.path, job.model.revision, job.model.download)
        return model_files.verify(folder, commit), "files"
    except PreflightError as error:
        known = shapes.published_model(job.model.path)
        if known is None or error.id != "B8":
            raise
        return known, "published shape"


def resolve_batch_budget(
    job: PlanJob, placement: Placement, net: NetworkSpec, dtype_bytes: int, devices: DeviceInventory
) -> batch.BatchBudget:
    """Rows and tokens at once, as translate would resolve them."""
    return batch.resolve_batch_budget(
        job.batch,
        net.cache_bytes_per_token(dtype_bytes),
        net.vocab_size,
        placement.predicted_cache_bytes(devices),
        placement.device.name != "cpu",
    )


def describe_placement(
    report: PlanReport, job: PlanJob, placement: Placement, net: NetworkSpec, dtype_bytes: int, devices: DeviceInventory
) -> None:
    """Fill in where the layers go and what lies beside them."""
    size = resolve_batch_budget(job, placement, net, dtype_bytes, devices)
    cache = size.max_tokens * report.cache_bytes_per_token
    layers = max(1, net.num_layers)
    report.max_rows, report.max_tokens = size.max_rows, size.max_tokens
    report.logits_bytes = batch.logits_bytes(size.max_rows, net.vocab_size)
    report.reasons, report.warnings = list(placement.reasons), list(placement.warnings)
    report.placement = [
        {
            "modules": run.modules,
            "device": run.device,
            "weight_bytes": run.weight_bytes,
            "cache_bytes": cache * run.num_layers // layers,
            "share": run.weight_bytes / max(1, report.weight_bytes),
        }
        for run in table.layer_groups(placement.map, net, dtype_bytes)
    ]
    free = {device.name: device.free_bytes for device in devices.devices}
    head = next(
        (run.device for run in table.layer_groups(placement.map, net, dtype_bytes) if "lm_head" in run.modules), "cpu"
    )
    for use in placement.usage:
        logits = report.logits_bytes if use.device == (head if head in free else placement.device.name) else 0
        held = use.weight_bytes + cache * use.num_layers // layers + logits
        left = free[use.device] - held if use.device in free else None
        report.per_device.append(
            {
                "device": use.device,
                "weight_bytes": use.weight_bytes,
                "cache_bytes": cache * use.num_layers // layers,
                "logits_bytes": logits,
                "left_bytes": left,
            }
        )


def evaluate_strategy(
    job: PlanJob, strategy: Strategy, plan_placements: Callable[..., Any], devices: DeviceInventory
) -> StrategyOption:
    """One strategy with the other settings as they are."""
    others = {"device": None, "map": None, "order": None}
    if strategy is Strategy.cpu:
        others["max_memory"] = None
    config = replace(job.device_map, strategy=strategy, **others)
    try:
        dtype, net, placements = plan_placements(device_map=config)
    except HymtError as error:
        return StrategyOption(
            strategy.value, False, remark=escape_line(error.message.partition(". ")[0].partition(";")[0], 110)
        )
    placement = placements[0]
    size = resolve_batch_budget(job, placement, net, prepare.dtype_bytes(dtype), devices)
    remark = placement_remark(placement)
    return StrategyOption(
        strategy.value,
        True,
        list(placement.devices),
        len(placement.replicas),
        size.max_rows,
        size.max_tokens,
        remark,
    )


def placement_remark(placement: Placement) -> str:
    """What is to be said of a strategy in a few words."""
    weights = {use.device: use.weight_bytes for use in placement.usage}
    away = sum(held for name, held in weights.items() if name != placement.device.name and not name.startswith("cuda"))
    if away:
        return f"{gib(away)} cross the bus at every step"
    if not placement.is_split:
        return f"all of it on {placement.device.name}"
    slower = ", slower than whole replicas" if any("replicate gives" in one for one in placement.warnings) else ""
    return f"split over {len(placement.usage)} devices{slower}"


def recommend(choices: Sequence[StrategyOption], devices: DeviceInventory) -> str:
    """The strategy to take, with the reason."""
    by_name = {one.strategy: one for one in choices}
    whole, cards = by_name["replicate"], len(devices.gpus)
    if not cards:
        return "device_map=cpu: no GPU" if by_name["cpu"].fits else "nothing: the memory is too small for this model"
    if whole.fits:
        times = f": replicate gives {whole.replicas}x the throughput of a split" if whole.replicas > 1 else ""
        return f"device_map=replicate: fits one {gib(max(d.free_bytes for d in devices.gpus))} card{times}"
    if by_name["balanced"].fits:
        return f"device_map=balanced: fits {len(by_name['balanced'].devices)} cards together, and no single one"
    if by_name["offload"].fits:
        return "device_map=offload: does not fit the cards; slow, as layers cross the bus at every step"
    return "device_map=cpu: does not fit the cards" if by_name["cpu"].fits else "nothing: the model is too large"


def scan_corpus(job: PlanJob, files: ModelFiles) -> tuple[CorpusStats, list[Any]]:
    """Read the corpus once."""
    heads = stream.PreambleCache(job.source)
    inputs = stream.apply_limit(stream.find_inputs(job.source), job.source, heads)
    stream.check_fields(inputs, job.source, (), heads)
    stream.check_escapes(inputs, job.source, heads)
    count = tokenizing.token_counter(files.folder) if (files.folder / "tokenizer.json").is_file() else None
    shards = stream.cut_shards(
        inputs,
        job.source,
        shard_rows=job.batch.shard_rows,
        shard_bytes=job.batch.shard_bytes,
        get_record=lambda input, shard: None,
        reserved=(),
    )
    wanted = PROBE_SAMPLE_ROWS if job.probe else 0
    found = compute_corpus_stats(
        (shard for shard in shards if not isinstance(shard, stream.SkippedShard)),
        count,
        count_rows=job.sample_rows,
        num_sample=wanted,
        seed=job.seed,
    )
    return found, inputs


def run_probe(job: PlanJob, corpus_stats: CorpusStats) -> ProbeResult:
    """Translate a sample for a while, and reckon the corpus from it.

    Parts are drawn at random from the sample in the order of lengths, as a shard's are; the first is not counted.

    Raises:
        PreflightError: Nothing to translate, or the model cannot be loaded.
    """
    if not corpus_stats.sample or not corpus_stats.tokens or job.tgt_lang is None:
        raise PreflightError("The corpus has no row to translate, so there is nothing to measure. Check source.path.")
    words = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    decode = Replica(job, prepared, tokenizer, check_stop=lambda: None, on_batch=lambda rows, tokens: None).decode
    segments, _ = segment.split(
        corpus_stats.sample, tokenizer.count, job.segment, find_token_starts=tokenizer.token_starts
    )
    prompts, _ = prompt.render(segments, corpus_stats.sample, tokenizer, words, prepared.max_context)
    if not prompts:
        raise PreflightError("No row of the sample can be sent to the model, so there is nothing to measure.")
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n].ids), n))
    limits = batch.resolve_part_limits(job.batch, prepared.num_parameters, prepared.on_gpu)
    rows = max(1, min(limits.part_rows, len(order) // (2 * probe.MIN_BATCHES) or 1))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]  # like the parts of a shard
    random.Random(job.seed).shuffle(batches)
    began = time.monotonic()
    times = list(probe.time_batches(decode, prompts, batches, job.probe_s))
    counted = times[1:] if len(times) > probe.MIN_BATCHES else times
    speeds = probe.throughput_interval(counted, job.seed)
    error = 1.645 * corpus_stats.tokens_error
    low, middle, high = (corpus_stats.tokens / speed for speed in (speeds[2], speeds[1], speeds[0]))
    eta = (low * (1 - error), middle, high * (1 + error))
    num_devices = len([use for use in prepared.placement.usage if use.device.startswith("cuda")]) or 1
    source, new = sum(one.source_tokens for one in counted), sum(one.new_tokens for one in counted)
    return ProbeResult(
        seconds=time.monotonic() - began,
        rows=sum(one.rows for one in times),
        batches=len(times),
        output_per_source_token=new / max(1, source),
        source_tokens_per_s=speeds[1],
        eta_s=eta,
        device_hours=(eta[0] * num_devices / 3600, eta[1] * num_devices / 3600, eta[2] * num_devices / 3600),
    )


def run(job: PlanJob) -> ExitCode:
    """Print the plan.

    Returns:
        COMPLETE, or PREFLIGHT where the strategy that was asked for does not fit.
    """
    with Reporter("log" if job.probe else "off"):
        report = plan(job)
        if job.source.path is not None:
            files, _ = find_model(job)
            found, _ = scan_corpus(job, files)
            report.corpus = {key: value for key, value in asdict(found).items() if key != "sample"}
            report.corpus["expected_output_tokens"] = found.tokens
            if job.probe:
                report.probe = run_probe(job, found)
                expected = (found.tokens or 0) * report.probe.output_per_source_token
                report.corpus["expected_output_tokens"] = round(expected)
    text = json.dumps(asdict(report), sort_keys=True) if job.format.value == "json" else plan_report.render(report)
    streams.print_result(sanitize.sanitize_text(text))
    return ExitCode.PREFLIGHT if report.refused else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("plan")
