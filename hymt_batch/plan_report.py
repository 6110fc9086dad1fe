"""The report of `hymt-batch plan`: its records, and how they are printed. jobs/plan.py computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.device_map import table
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import DeviceInventory, gib
from hymt_batch.errors import Problem
from hymt_batch.prompt_end import PromptEnd
from hymt_batch.records import plural
from hymt_batch.run.reporter import describe_files, format_duration
from hymt_batch.sanitize import escape_line


@dataclass(slots=True)
class StrategyOption:
    """The result of one strategy on these devices."""

    strategy: str
    fits: bool
    devices: list[str] = field(default_factory=list)  # devices of one replica
    replicas: int = 0
    max_rows: int = 0  # rows decoded at once
    max_tokens: int = 0  # tokens in the KV cache
    remark: str = ""
    error: Problem | None = None  # why it does not fit


@dataclass(slots=True)
class ProbeResult:
    """A short measured run, extrapolated to the corpus. Intervals are 90 % intervals."""

    seconds: float
    rows: int
    batches: int
    part_rows: int  # rows of a part of the job, the maximum of a batch
    output_per_source_token: float
    source_tokens_per_s: float
    eta_s: tuple[float, float, float]  # low, middle, high; seconds for the corpus with one process
    device_hours: tuple[float, float, float]
    workers: int = 1  # replicas that would work on this corpus
    workers_eta_s: tuple[float, float, float] | None = None  # estimated, not measured; None for one, and on a CPU


@dataclass(slots=True)
class PlanReport:
    """The whole report; its fields are the keys of `format=json`."""

    model: str
    read_from: str  # "files" or "published shape"
    dtype: str
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int
    devices: list[dict[str, Any]]
    strategy: str
    prompt: PromptEnd | None = None
    placement: list[dict[str, Any]] = field(default_factory=list)
    per_device: list[dict[str, Any]] = field(default_factory=list)
    max_rows: int = 0  # of the first replica
    max_tokens: int = 0
    logits_bytes: int = 0
    replicas: list[list[str]] = field(default_factory=list)  # devices of each replica that launch.workers allows
    workers: str = ""  # `replicas` as text
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    findings: list[Problem] = field(default_factory=list)  # `warnings` as fields
    refused: str = ""  # why the requested strategy does not fit; "" if it fits
    error: Problem | None = None  # `refused` as fields
    choices: list[StrategyOption] = field(default_factory=list)
    recommended: str = ""
    corpus: dict[str, Any] | None = None
    probe: ProbeResult | None = None


def placement_remark(placement: Placement) -> str:
    """Return a short remark about a placement for the table of strategies."""
    weights = {use.device: use.weight_bytes for use in placement.usage}
    off_gpu = sum(
        size for name, size in weights.items() if name != placement.device.name and not name.startswith("cuda")
    )
    if off_gpu:
        return f"{gib(off_gpu)} are copied to the device in every step"
    if not placement.is_split:
        return f"whole model on {placement.device.name}"
    slower = ", slower than whole replicas" if any(warning.id == "C27" for warning in placement.warnings) else ""
    return f"split over {len(placement.usage)} devices{slower}"


def recommend(choices: Sequence[StrategyOption], devices: DeviceInventory) -> str:
    """Return the recommended strategy with the reason."""
    by_name = {option.strategy: option for option in choices}
    replicate, num_gpus = by_name["replicate"], len(devices.gpus)
    if not num_gpus:
        return "device_map=cpu: no GPU" if by_name["cpu"].fits else "nothing: the memory is too small for this model"
    if replicate.fits:
        speedup = ""
        if replicate.replicas > 1:  # no machine with several GPUs was at hand
            speedup = f": replicate gives {replicate.replicas}x the throughput of a split (estimated, not measured)"
        return f"device_map=replicate: fits one {gib(max(d.free_bytes for d in devices.gpus))} GPU{speedup}"
    if by_name["balanced"].fits:
        return f"device_map=balanced: fits {len(by_name['balanced'].devices)} GPUs together, but no single GPU"
    if by_name["offload"].fits:
        return "device_map=offload: does not fit the GPUs; slow, because layers are copied to a GPU in every step"
    return "device_map=cpu: does not fit the GPUs" if by_name["cpu"].fits else "nothing: the model is too large"


def device_memory(
    placement: Placement,
    inventory: DeviceInventory,
    cache_bytes: int,
    logits_bytes: int,
    *,
    logits_device: str,
    num_replicas: int,
) -> list[dict[str, Any]]:
    """Return the bytes that replicas on the same devices need on each of them.

    Args:
        placement: The placement of each of them.
        inventory: All devices.
        cache_bytes: Keys and values of one replica.
        logits_bytes: Logits of one replica.
        logits_device: The device that computes them, or a place without computation, such as disk.
        num_replicas: Number of replicas.
    """
    free = {device.name: device.free_bytes for device in inventory.devices}
    if logits_device not in free:
        logits_device = placement.device.name
    num_layers, entries = max(1, sum(use.num_layers for use in placement.usage)), []
    for use in placement.usage:
        sizes = {
            "weight_bytes": num_replicas * use.weight_bytes,
            "cache_bytes": num_replicas * (cache_bytes * use.num_layers // num_layers),
            "logits_bytes": num_replicas * (logits_bytes if use.device == logits_device else 0),
        }
        left = free[use.device] - sum(sizes.values()) if use.device in free else None
        entries.append({"device": use.device, **sizes, "left_bytes": left})
    return entries


def render(report: PlanReport) -> str:
    """Format the report as text."""
    lines = [
        f"{report.model}: {report.parameters:,} parameters, {gib(report.weight_bytes)} in {report.dtype}, "
        f"{report.cache_bytes_per_token / 1024:g} KiB of KV cache per token"
    ]
    if report.read_from != "files":
        lines.append("  (computed from the published shape; the model's files are not on this machine)")
    if report.prompt is not None:
        lines.append(f"prompt   last token {escape_line(str(report.prompt), 300)}")
    lines.append("devices  " + ", ".join(f"{d['name']} {gib(d['free_bytes'])} free" for d in report.devices))
    lines.append("")
    if report.refused:
        lines += [f"device_map={report.strategy} does not fit: {report.refused}", ""]
    else:
        lines += placement_lines(report)
    lines.append("strategies on these devices")
    rows = [("strategy", "fits", "replicas", "rows at once", "tokens at once", "remark")]
    for option in report.choices:
        counts = (
            (str(option.replicas), f"{option.max_rows:,}", f"{option.max_tokens:,}") if option.fits else ("-", "-", "-")
        )
        rows.append((option.strategy, "yes" if option.fits else "no", *counts, option.remark))
    lines += [align_left(rows), "", f"recommended  {report.recommended}"]
    if report.corpus is not None:
        lines += ["", *corpus_lines(report.corpus, report.probe)]
        if (parts := report.corpus["min_parts"]) < len(report.replicas):
            starts = (
                "1 part: then only 1 worker starts" if parts == 1 else f"{parts} parts: then only {parts} workers start"
            )
            lines.append(f"         the corpus may have only {starts}")
    return "\n".join(lines)


def placement_lines(report: PlanReport) -> list[str]:
    rows: list[tuple[str, ...]] = [("modules", "device", "GiB", "KV GiB", "share")]
    for group in report.placement:
        cache = f"{group['cache_bytes'] / 2**30:.3f}" if group["cache_bytes"] else "-"
        weights = f"{group['weight_bytes'] / 2**30:.3f}"
        rows.append((group["modules"], group["device"], weights, cache, f"{100 * group['share']:.1f} %"))
    lines = [f"device_map={report.strategy}", table.render(rows), ""]
    totals: list[tuple[str, ...]] = [("device", "", "weights", "KV", "logits", "left")]
    for use in report.per_device:
        left = "-" if use["left_bytes"] is None else gib(use["left_bytes"]) if use["left_bytes"] >= 0 else "none"
        sizes = (gib(use[key]) for key in ("weight_bytes", "cache_bytes", "logits_bytes"))
        totals.append((use["device"], "", *sizes, left))
    lines += [table.render(totals), ""]
    each = "" if len(report.replicas) == 1 else " in each worker"
    lines.append(f"  up to {report.max_rows:,} rows and {report.max_tokens:,} tokens at once{each}")
    lines.append(f"  {report.workers}")
    lines += [f"  {reason}" for reason in report.reasons]
    lines += [f"  warning: {warning}" for warning in report.warnings]
    return [*lines, ""]


def corpus_lines(corpus: dict[str, Any], probe: ProbeResult | None) -> list[str]:
    lines = [
        f"corpus   {plural(corpus['rows'], 'row')} in {describe_files(corpus['files'], corpus['formats'])}: "
        f"{corpus['decoded_rows']:,} to decode, {corpus['duplicate_rows']:,} duplicates, "
        f"{corpus['blank_rows']:,} blank, {corpus['refused_rows']:,} rejected"
    ]
    lines += [f"         languages of the first rows: {seen}" for seen in corpus.get("languages", ())]
    if corpus["tokens"] is None:
        return [
            *lines,
            f"         {corpus['characters']:,} characters; the tokens cannot be counted without the tokenizer",
        ]
    margin = "" if not corpus["tokens_error"] else f" ± {100 * 1.645 * corpus['tokens_error']:.1f} %"
    lines.append(f"         {corpus['tokens']:,} source tokens{margin}, {corpus['characters']:,} characters")
    basis = "as measured" if probe else "assuming as many as source tokens; set probe=true to measure"
    lines.append(f"         {corpus['expected_output_tokens']:,} output tokens expected ({basis})")
    if probe is None:
        return lines
    hours = probe.device_hours
    of_small_batches = ""
    if probe.rows < probe.batches * probe.part_rows // 2:
        of_small_batches = f" (parts have {probe.part_rows:,} rows and may be faster: a longer probe_s shows it)"
    lines += [
        f"probe    {probe.rows:,} rows in {probe.batches} batches, {probe.seconds:.0f} s: "
        f"{probe.source_tokens_per_s:,.0f} source tokens/s{of_small_batches}",
        f"         time for the corpus with one process: {duration_interval(probe.eta_s)}, "
        f"{hours[1]:.3g} device-hours ({hours[0]:.3g} to {hours[2]:.3g})",
    ]
    if probe.workers_eta_s is not None:
        lines.append(
            f"         with {probe.workers} workers: {duration_interval(probe.workers_eta_s)}; an estimate, "
            f"{probe.workers} times the measured speed of one"
        )
    elif probe.workers > 1:
        lines.append(
            f"         the speed of {probe.workers} workers, which share the cores of the CPU, is not measured"
        )
    return lines


def duration_interval(seconds: tuple[float, float, float]) -> str:
    low, middle, high = map(format_duration, seconds)
    return f"{middle} ({low} to {high})"


def align_left(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
