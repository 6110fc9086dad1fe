"""What a plan tells: its figures as records, and as lines for people. Computes nothing; jobs/plan.py does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.device_map import table
from hymt_batch.device_map.settings import gib
from hymt_batch.progress import escape_line, format_duration
from hymt_batch.prompt import PromptEnd


@dataclass(slots=True)
class StrategyOption:
    """One strategy on these devices."""

    strategy: str
    fits: bool
    devices: list[str] = field(default_factory=list)  # of one replica
    replicas: int = 0
    max_rows: int = 0  # slots: rows decoded at once
    max_tokens: int = 0  # of keys and values
    remark: str = ""


@dataclass(slots=True)
class ProbeResult:
    """A short measured run, and what follows from it for the corpus. Intervals hold the middle 90 %."""

    seconds: float
    rows: int
    batches: int
    output_per_source_token: float
    source_tokens_per_s: float
    eta_s: tuple[float, float, float]  # low, middle, high, with one process
    device_hours: tuple[float, float, float]


@dataclass(slots=True)
class PlanReport:
    """All that a plan tells."""

    model: str
    read_from: str  # "files" or "published shape"
    dtype: str
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int
    devices: list[dict[str, Any]]
    strategy: str
    prompt: PromptEnd | None = None  # how every prompt ends
    placement: list[dict[str, Any]] = field(default_factory=list)
    per_device: list[dict[str, Any]] = field(default_factory=list)
    max_rows: int = 0
    max_tokens: int = 0
    logits_bytes: int = 0
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: str = ""  # why the strategy that was asked for does not fit
    choices: list[StrategyOption] = field(default_factory=list)
    recommended: str = ""
    corpus: dict[str, Any] | None = None
    probe: ProbeResult | None = None


def render(report: PlanReport) -> str:
    """The plan as lines for people."""
    lines = [
        f"{report.model}: {report.parameters:,} parameters, {gib(report.weight_bytes)} in {report.dtype}, "
        f"{report.cache_bytes_per_token / 1024:g} KiB of keys and values a token"
    ]
    if report.read_from != "files":
        lines.append("  (from the published shape: the model's files are not on this machine)")
    if report.prompt is not None:
        lines.append(f"prompt   last token {escape_line(str(report.prompt), 300)}")
    lines.append("devices  " + ", ".join(f"{d['name']} {gib(d['free_bytes'])} free" for d in report.devices))
    lines.append("")
    if report.refused:
        lines += [f"device_map={report.strategy} does not fit: {report.refused}", ""]
    else:
        lines += placement_lines(report)
    lines.append("what fits here")
    rows = [("strategy", "fits", "replicas", "rows at once", "tokens at once", "remark")]
    for one in report.choices:
        numbers = (str(one.replicas), f"{one.max_rows:,}", f"{one.max_tokens:,}") if one.fits else ("-", "-", "-")
        rows.append((one.strategy, "yes" if one.fits else "no", *numbers, one.remark))
    lines += [align_left(rows), "", f"recommended  {report.recommended}"]
    if report.corpus is not None:
        lines += ["", *corpus_lines(report.corpus, report.probe)]
    return "\n".join(lines)


def placement_lines(report: PlanReport) -> list[str]:
    rows: list[tuple[str, ...]] = [("modules", "device", "GiB", "KV GiB", "share")]
    for one in report.placement:
        cache = f"{one['cache_bytes'] / 2**30:.3f}" if one["cache_bytes"] else "-"
        weights = f"{one['weight_bytes'] / 2**30:.3f}"
        rows.append((one["modules"], one["device"], weights, cache, f"{100 * one['share']:.1f} %"))
    lines = [f"device_map={report.strategy}", table.render(rows), ""]
    totals: list[tuple[str, ...]] = [("device", "", "weights", "KV", "logits", "left")]
    for one in report.per_device:
        left = "-" if one["left_bytes"] is None else gib(one["left_bytes"]) if one["left_bytes"] >= 0 else "none"
        held = (gib(one[key]) for key in ("weight_bytes", "cache_bytes", "logits_bytes"))
        totals.append((one["device"], "", *held, left))
    lines += [table.render(totals), ""]
    lines.append(f"  up to {report.max_rows:,} rows and {report.max_tokens:,} tokens at once")
    lines += [f"  {reason}" for reason in report.reasons]
    lines += [f"  warning: {warning}" for warning in report.warnings]
    return [*lines, ""]


def corpus_lines(corpus: dict[str, Any], probe: ProbeResult | None) -> list[str]:
    lines = [
        f"corpus   {corpus['rows']:,} rows in {corpus['files']:,} file(s): {corpus['decoded_rows']:,} to decode, "
        f"{corpus['duplicate_rows']:,} duplicates, {corpus['blank_rows']:,} blank, {corpus['refused_rows']:,} refused"
    ]
    if corpus["tokens"] is None:
        return [*lines, f"         {corpus['characters']:,} characters; tokens are not counted without the tokenizer"]
    about = "" if not corpus["tokens_error"] else f" ± {100 * 1.645 * corpus['tokens_error']:.1f} %"
    lines.append(f"         {corpus['tokens']:,} source tokens{about}, {corpus['characters']:,} characters")
    how = "as measured" if probe else "if as many as the source has; probe=true measures it"
    lines.append(f"         {corpus['expected_output_tokens']:,} output tokens expected ({how})")
    if probe is None:
        return lines
    low, middle, high = probe.eta_s
    hours = probe.device_hours
    return [
        *lines,
        f"probe    {probe.rows:,} rows in {probe.batches} batches, {probe.seconds:.0f} s: "
        f"{probe.source_tokens_per_s:,.0f} source tokens/s",
        f"         time for the corpus with one process: {format_duration(middle)} ({format_duration(low)} to "
        f"{format_duration(high)}), "
        f"{hours[1]:.3g} device-hours ({hours[0]:.3g} to {hours[2]:.3g})",
    ]


def align_left(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
