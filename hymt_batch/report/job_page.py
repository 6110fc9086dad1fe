"""The report of one job as a page: its head, its largest figures, and its sections in their order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from hymt_batch import languages
from hymt_batch.records import plural
from hymt_batch.report import chart, evaluation_section, rows_section, run_sections, speed_section
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Child, Markup, element
from hymt_batch.report.measure import BLANK
from hymt_batch.report.page import number, page, share, tile, tiles, utc


def render(data: JobData, made_by: str) -> bytes:
    """Return the report of a job as a page.

    Args:
        data: What is known of the job.
        made_by: Name and version of the program.
    """
    sections = [
        _summary(data),
        speed_section.render(data),
        evaluation_section.render(data.scores),
        rows_section.render_flags(data),
        rows_section.render_statuses(data),
        rows_section.render_files(data),
        run_sections.render_placement(data),
        run_sections.render_runs(data),
        run_sections.render_settings(data),
    ]
    lead = [describe_languages(data), _describe_model(data), f" · {plural(data.num_inputs, 'file')}"]
    now = datetime.now(UTC).timestamp()
    footer = f"Made by {made_by} on {utc(now)} from the files of the job. All times are in UTC."
    return page(data.name, lead, _state(data), sections, footer)


def describe_languages(data: JobData) -> str:
    source, target = data.languages
    names = [languages.LANGUAGES[code].english if code in languages.LANGUAGES else code for code in (source, target)]
    return f"{names[0] or 'Any language'} → {names[1] or 'any language'}"


def _describe_model(data: JobData) -> str:
    model: Mapping[str, object] = data.job.identity.get("model") or {}
    known = [f"model family {model['family']}"] if model.get("family") else []
    known += [str(model["dtype"])] if model.get("dtype") else []
    return "".join(f" · {text}" for text in known)


def _state(data: JobData) -> Markup:
    if not data.is_complete:
        return element("span.pill.warn", "not complete")
    is_over = data.max_error_rate is not None and data.figures.error_share > data.max_error_rate
    if is_over:
        return element("span.pill.bad", "complete, with too many errors")
    return element("span.pill.good", "complete")


def _summary(data: JobData) -> Markup:
    sums = data.figures
    seconds = sum(interval.seconds for interval in data.timeline)
    flagged = sum(count for flag, count in sums.flags.items() if flag != BLANK)
    notes = []
    if not data.is_complete:
        notes.append(
            element(
                "p.note",
                f"The job is not complete: {sums.files:,} of {plural(data.num_inputs, 'file')} are published, and "
                "the figures are those of these.",
            )
        )
    rate = f"{sums.texts / seconds:,.1f} rows a second" if seconds else None
    return element(
        "section",
        tiles(
            [
                tile("Rows", number(sums.rows, "rows"), _texts_note(data)),
                tile(
                    "Without a translation",
                    number(sums.error_rows, "error_rows"),
                    share(sums.error_rows, sums.texts),
                    "bad" if sums.error_rows else "",
                ),
                tile("Flags", number(flagged, "flagged"), "reasons to look at a row", "warn" if flagged else ""),
                tile("New tokens", number(sums.sums["tokens"].get("new", 0), "tokens.new"), _tokens_note(data)),
                tile("Time", chart.duration(seconds), rate) if seconds else None,
                tile("Files", number(sums.files, "files"), _files_note(data)),
            ]
        ),
        *notes,
    )


def _texts_note(data: JobData) -> Child:
    if data.figures.texts == data.figures.rows:
        return None
    return ["with ", number(data.figures.texts, "texts"), " texts"]


def _tokens_note(data: JobData) -> Child:
    return ["from ", number(data.figures.sums["tokens"].get("source", 0), "tokens.source"), " source tokens"]


def _files_note(data: JobData) -> str | None:
    notes = []
    if data.figures.failed:
        notes.append(f"{len(data.figures.failed):,} failed")
    if data.skipped:
        notes.append(f"{len(data.skipped):,} skipped")
    return ", ".join(notes) or None
