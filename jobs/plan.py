"""Show where each layer would go, the memory it needs and the time for a corpus: `hymt-batch plan model=...`.

Reads the config, the headers of the weight files and the corpus, but no weights, except an lm_head that should be tied
to the embeddings. Does not import torch. Only `probe=true` loads the model, to measure its speed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from hymt_batch import batch, plan_report, prompt, segment, streams
from hymt_batch.bench import probe
from hymt_batch.decode import batches
from hymt_batch.device_map import replicas, table
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import DeviceInventory, Strategy
from hymt_batch.doctor import vllm
from hymt_batch.errors import ConfigError, ExitCode, HymtError, PreflightError
from hymt_batch.model import detect_devices, prepare, prompt_end, shapes
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.prepare import PlacementPlan
from hymt_batch.model.settings import dtype_bytes
from hymt_batch.plan_report import PlanReport, ProbeResult, StrategyOption
from hymt_batch.prompt_end import describe_end
from hymt_batch.records import PLAN_VERSION
from hymt_batch.run.replica import Replica
from hymt_batch.run.reporter import Reporter
from hymt_batch.sanitize import escape_line, sanitize_text
from hymt_batch.source.corpus_stats import CorpusStats, compute_corpus_stats
from hymt_batch.source.input_names import AS_INPUTS
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.language_check import LanguageReport
from hymt_batch.source.shards import SkippedShard

if TYPE_CHECKING:
    from hymt_batch.schema import PlanJob

PROBE_SAMPLE_ROWS = 4096  # rows sampled for the measured run
SO_NO_SPEED = "so the speed cannot be measured"
STRATEGIES = (
    Strategy.replicate, Strategy.balanced, Strategy.balanced_low_0, Strategy.sequential, Strategy.offload, Strategy.cpu,
)  # fmt: skip


def plan(job: PlanJob) -> PlanReport:
    """Plan the placement and evaluate every strategy; does not read the corpus or measure the speed.

    Raises:
        HymtError: The model is missing or a setting is wrong, such as a launch.workers that does not fit the GPUs. A
            strategy that does not fit is shown in the report.
    """
    devices = (
        detect_devices.nvidia_smi_devices() if job.devices is None else detect_devices.simulated_devices(job.devices)
    )
    files, read_from = find_model(job)
    plan_placements = partial(vllm.plan_placement, job, files, devices)
    placement_plan: PlacementPlan | None = None
    error: PreflightError | None = None
    try:
        placement_plan = plan_placements(device_map=job.device_map)
        dtype, net = placement_plan.dtype, placement_plan.network
    except PreflightError as refusal:
        error = refusal
        dtype, net = prepare.resolve_dtype(job.model, job.device_map, devices, files), prepare.network_in_memory(files)
    element_bytes = dtype_bytes(dtype)
    report = PlanReport(
        model=job.model.path,
        read_from=read_from,
        dtype=dtype,
        parameters=files.network.num_parameters,
        weight_bytes=net.num_bytes(element_bytes),
        cache_bytes_per_token=net.cache_bytes_per_token(element_bytes),
        devices=[{"name": d.name, "label": d.label, "free_bytes": d.free_bytes} for d in devices.devices],
        strategy=(placement_plan.placements[0] if placement_plan else job.device_map).strategy.value,
        refused=str(error) if error else "",
        error=error.problem if error else None,
    )
    if placement_plan:
        describe_placement(report, job, placement_plan, devices)
    last_token = None
    if read_from == "files":
        last_token = prompt_end.last_token(files.folder, add_generation_prompt=job.add_generation_prompt)
    report.prompt = describe_end(job.prompt, job.model.add_generation_prompt, last_token)
    report.choices = [evaluate_strategy(job, strategy, plan_placements, devices) for strategy in STRATEGIES]
    report.recommended = plan_report.recommend(report.choices, devices)
    return report


def find_model(job: PlanJob) -> tuple[ModelFiles, str]:
    """Return the model's files and "files"; if they are missing, its published shape and "published shape"."""
    try:
        folder, commit = model_files.resolve(job.model.path, job.model.revision, job.model.download)
        return model_files.verify(folder, commit), "files"
    except PreflightError as error:
        published = shapes.published_model(job.model.path)
        if published is None or error.id != "B8":
            raise
        return published, "published shape"


def resolve_batch_budget(
    job: PlanJob, placement_plan: PlacementPlan, placement: Placement, devices: DeviceInventory
) -> batches.BatchBudget:
    """Return the limits of rows and tokens that a replica decodes at once, as translate would resolve them."""
    net = placement_plan.network
    return batches.resolve_batch_budget(
        job.batch.max_rows,
        job.batch.max_tokens,
        net.cache_bytes_per_token(dtype_bytes(placement_plan.dtype)),
        net.vocab_size,
        placement.predicted_cache_bytes(devices),
        placement.device.name != "cpu",
    )


def describe_placement(
    report: PlanReport, job: PlanJob, placement_plan: PlacementPlan, devices: DeviceInventory
) -> None:
    """Add to the report where the layers go, the replicas that launch.workers allows, and the memory of each device."""
    net, placement = placement_plan.network, placement_plan.placements[0]
    groups = table.layer_groups(placement.map, net, dtype_bytes(placement_plan.dtype))
    budget = resolve_batch_budget(job, placement_plan, placement, devices)
    kv_cache = budget.max_tokens * report.cache_bytes_per_token
    num_layers = max(1, net.num_layers)
    choice = replicas.choose(job.launch.workers, placement, usable_cpus())
    report.replicas = [list(group) for group in choice.devices]
    report.workers = choice.describe(job.launch.workers)
    report.max_rows, report.max_tokens = budget.max_rows, budget.max_tokens
    report.logits_bytes = batches.logits_bytes(budget.max_rows, net.vocab_size)
    report.reasons = list(placement.reasons)
    report.findings = [*placement_plan.warnings, *placement.warnings, *choice.warnings]
    report.warnings = [warning.text for warning in report.findings]
    report.placement = [
        {
            "modules": group.modules,
            "device": group.device,
            "weight_bytes": group.weight_bytes,
            "cache_bytes": kv_cache * group.num_layers // num_layers,
            "share": group.weight_bytes / max(1, report.weight_bytes),
        }
        for group in groups
    ]
    head = next((group.device for group in groups if "lm_head" in group.modules), "cpu")
    for group_devices in dict.fromkeys(choice.devices):  # the replicas on a CPU have the same devices
        copy = replicas.place_replica(placement, group_devices, devices)
        head_device = dict(zip(placement.devices, group_devices, strict=True)).get(head, copy.device.name)
        copy_budget = resolve_batch_budget(job, placement_plan, copy, devices)
        report.per_device += plan_report.device_memory(
            copy,
            devices,
            copy_budget.max_tokens * report.cache_bytes_per_token,
            batches.logits_bytes(copy_budget.max_rows, net.vocab_size),
            logits_device=head_device,
            num_replicas=choice.devices.count(group_devices),
        )


def evaluate_strategy(
    job: PlanJob, strategy: Strategy, plan_placements: Callable[..., PlacementPlan], devices: DeviceInventory
) -> StrategyOption:
    """Plan with one strategy; all other settings stay unchanged."""
    changes = {"device": None, "map": None, "order": None}
    if strategy is Strategy.cpu:
        changes["max_memory"] = None
    config = replace(job.device_map, strategy=strategy, **changes)
    try:
        placement_plan = plan_placements(device_map=config)
    except HymtError as error:
        return StrategyOption(strategy.value, False, remark=escape_line(error.what, 110), error=error.problem)
    placement = placement_plan.placements[0]
    budget = resolve_batch_budget(job, placement_plan, placement, devices)
    try:
        num_replicas = len(replicas.choose(job.launch.workers, placement, usable_cpus()).devices)
    except ConfigError:  # fewer replicas fit than launch.workers asks for
        num_replicas = len(placement.replicas)
    remark = plan_report.placement_remark(placement)
    return StrategyOption(
        strategy.value, True, list(placement.devices), num_replicas, budget.max_rows, budget.max_tokens, remark
    )


def scan_corpus(job: PlanJob, files: ModelFiles) -> tuple[CorpusStats, LanguageReport]:
    """Read the corpus once; return its statistics and the languages that its first rows name."""
    inputs = Inputs(
        job.source, None, outputs=AS_INPUTS, added_fields=(), plan_version=PLAN_VERSION, tgt_lang=job.tgt_lang
    )
    inputs.check_first_rows()
    language_report = inputs.check_languages((job.src_lang, job.tgt_lang))
    count_tokens = tokenizing.token_counter(files.folder) if (files.folder / "tokenizer.json").is_file() else None
    shards = inputs.cut_shards(job.batch.shard_rows, job.batch.shard_bytes, lambda input, shard: None)
    corpus_stats = compute_corpus_stats(
        (shard for shard in shards if not isinstance(shard, SkippedShard)),
        count_tokens,
        count_rows=job.sample_rows,
        num_sample=PROBE_SAMPLE_ROWS if job.probe else 0,
        seed=job.seed,
    )
    return corpus_stats, language_report


def min_parts(job: PlanJob, files: ModelFiles, corpus_stats: CorpusStats, on_gpu: bool) -> int:
    """Return the minimum number of parts of a new job with this corpus; never more workers start than parts wait."""
    limits = batch.resolve_part_limits(job.batch, files.num_parameters, on_gpu)
    by_rows = -(-corpus_stats.decoded_rows // limits.part_rows)
    return max(1, corpus_stats.files, by_rows, -(-(corpus_stats.tokens or 0) // limits.part_tokens))


def run_probe(job: PlanJob, corpus_stats: CorpusStats) -> ProbeResult:
    """Translate a sample for `job.probe_s` seconds and extrapolate to the whole corpus.

    Batches of the sample, sorted by length like the parts of a shard, run in random order; the first is not counted.
    They have fewer rows than a part if `job.probe_s` is short; the job then is at least as fast as measured.

    Raises:
        PreflightError: There is no row to translate, or the model cannot be loaded.
    """
    if not corpus_stats.sample or not corpus_stats.tokens or job.tgt_lang is None:
        raise PreflightError("The corpus has no row to translate", why=SO_NO_SPEED, fix="Check source.path.")
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    prepared = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    with closing(Replica(job, prepared, tokenizer, check_stop=lambda: None, on_batch=lambda *_: None)) as replica:
        segments, _ = segment.split(
            corpus_stats.sample, tokenizer.count, job.segment, find_token_starts=tokenizer.token_starts
        )
        prompts, _ = prompt.render(segments, corpus_stats.sample, tokenizer, template, prepared.max_context)
        if not prompts:
            raise PreflightError("No row of the sample can be translated", why=SO_NO_SPEED, fix="Check source.path.")
        limits = batch.resolve_part_limits(job.batch, prepared.num_parameters, prepared.on_gpu)
        started_at = time.monotonic()
        timings = list(probe.time_batches(replica.decoder, prompts, limits.part_rows, job.probe_s, job.seed))
    counted = timings[1:] if len(timings) > probe.MIN_BATCHES else timings
    speeds = probe.throughput_interval(counted, job.seed)
    token_error = 1.645 * corpus_stats.tokens_error
    low, middle, high = (corpus_stats.tokens / speed for speed in (speeds[2], speeds[1], speeds[0]))
    eta = (low * (1 - token_error), middle, high * (1 + token_error))
    num_devices = len([use for use in prepared.placement.usage if use.device.startswith("cuda")]) or 1
    source, new = sum(timing.source_tokens for timing in counted), sum(timing.new_tokens for timing in counted)
    return ProbeResult(
        seconds=time.monotonic() - started_at,
        rows=sum(timing.rows for timing in timings),
        part_rows=limits.part_rows,
        batches=len(timings),
        output_per_source_token=new / max(1, source),
        source_tokens_per_s=speeds[1],
        eta_s=eta,
        device_hours=(eta[0] * num_devices / 3600, eta[1] * num_devices / 3600, eta[2] * num_devices / 3600),
    )


def run(job: PlanJob) -> ExitCode:
    """Print the plan.

    Returns:
        COMPLETE, or PREFLIGHT if the requested strategy does not fit.
    """
    with Reporter("log" if job.probe else "off"):
        report = plan(job)
        if job.source.path is not None:
            files, _ = find_model(job)
            stats, languages = scan_corpus(job, files)
            report.corpus = {key: value for key, value in asdict(stats).items() if key != "sample"}
            report.corpus["languages"] = [*languages.seen, *languages.notes]
            report.findings += languages.warnings
            report.warnings += [warning.text for warning in languages.warnings]
            report.corpus["expected_output_tokens"] = stats.tokens
            on_gpu = any(device.startswith("cuda") for group in report.replicas for device in group)
            report.corpus["min_parts"] = min_parts(job, files, stats, on_gpu)
            if job.probe:
                report.probe = run_probe(job, stats)
                report.probe.workers = min(len(report.replicas), report.corpus["min_parts"])
                if on_gpu and report.probe.workers > 1:
                    low, middle, high = (seconds / report.probe.workers for seconds in report.probe.eta_s)
                    report.probe.workers_eta_s = low, middle, high
                expected_tokens = (stats.tokens or 0) * report.probe.output_per_source_token
                report.corpus["expected_output_tokens"] = round(expected_tokens)
    text = json.dumps(asdict(report), sort_keys=True) if job.format.value == "json" else plan_report.render(report)
    streams.print_result(sanitize_text(text))
    return ExitCode.PREFLIGHT if report.refused else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("plan")
