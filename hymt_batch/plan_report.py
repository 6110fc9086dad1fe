"""The report of `hymt-batch plan`: its records, and how they are printed. jobs/plan.py computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.device_map import table
from hymt_batch.device_map.settings import gib
from hymt_batch.errors import Problem
from hymt_batch.prompt_end import PromptEnd
from hymt_batch.run.reporter import format_duration
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
    output_per_source_token: float
    source_tokens_per_s: float
    eta_s: tuple[float, float, float]  # low, middle, high; seconds for the corpus with one process
    device_hours: tuple[float, float, float]


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
    max_rows: int = 0
    max_tokens: int = 0
    logits_bytes: int = 0
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    findings: list[Problem] = field(default_factory=list)  # `warnings` as fields
    refused: str = ""  # why the requested strategy does not fit; "" if it fits
    error: Problem | None = None  # `refused` as fields
    choices: list[StrategyOption] = field(default_factory=list)
    recommended: str = ""
    corpus: dict[str, Any] | None = None
    probe: ProbeResult | None = None


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
    lines.append(f"  up to {report.max_rows:,} rows and {report.max_tokens:,} tokens at once")
    lines += [f"  {reason}" for reason in report.reasons]
    lines += [f"  warning: {warning}" for warning in report.warnings]
    return [*lines, ""]


def corpus_lines(corpus: dict[str, Any], probe: ProbeResult | None) -> list[str]:
    lines = [
        f"corpus   {corpus['rows']:,} rows in {corpus['files']:,} file(s): {corpus['decoded_rows']:,} to decode, "
        f"{corpus['duplicate_rows']:,} duplicates, {corpus['blank_rows']:,} blank, {corpus['refused_rows']:,} rejected"
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
    low, middle, high = probe.eta_s
    hours = probe.device_hours
    return [
        *lines,
        f"probe    {probe.rows:,} rows in {probe.batches} batches, {probe.seconds:.0f} s: "
        f"{probe.source_tokens_per_s:,.0f} source tokens/s",
        f"         time for the corpus with one process: {format_duration(middle)} ({format_duration(low)} to "
        f"{format_duration(high)}), {hours[1]:.3g} device-hours ({hours[0]:.3g} to {hours[2]:.3g})",
    ]


def align_left(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
