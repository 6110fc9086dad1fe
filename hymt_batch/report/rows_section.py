"""The sections of a report about rows and files: flags and statuses with examples, and what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hymt_batch.languages import LANGUAGES
from hymt_batch.records import ERROR_STATUSES, Status, plural
from hymt_batch.report import chart, words
from hymt_batch.report.figures import Figures
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Child, Markup, element, join
from hymt_batch.report.measure import BLANK, MAX_TEXT_CHARS, Example, Reservoir
from hymt_batch.report.page import isolated, num_bytes, number, section, share, table

MAX_LISTED = 20  # failed and skipped files
MAX_LANGUAGES = 8
MAX_SHOWN = 24  # examples of all flags, and of all statuses


def render_flags(data: JobData) -> Markup:
    sums = data.figures
    rate = element("p.note", words.language_rate(data.job.output_settings)) if data.job.output_settings else None
    if not sums.flags:
        return section("Flags", element("p", "No row has a flag."), rate)
    order = sorted(sums.flags, key=lambda flag: (flag == BLANK, -sums.flags[flag], flag))
    largest = max(sums.flags.values())
    rows = [
        [
            element("code", flag),
            number(sums.flags[flag], f"flags.{flag}"),
            share(sums.flags[flag], sums.texts),
            chart.share_bar(sums.flags[flag] / largest),
            words.FLAGS.get(flag, ""),
        ]
        for flag in order
    ]
    about = "A flag is a reason to look at a row. It never removes one, and a row may have several."
    kinds = ("", "number", "number", "bar", "about")
    shown = table("Rows by flag", ("Flag", "Rows", "Share", "", "Meaning"), rows, kinds)
    found = [(flag, data.measured.examples[flag]) for flag in order if flag in data.measured.examples]
    without = [flag for flag in order if flag != BLANK and flag not in data.measured.examples]
    return section(
        "Flags",
        element("p.note", about),
        rate,
        shown,
        _language_table(sums),
        *(_examples(flag, reservoir, sums.flags[flag], len(found), data) for flag, reservoir in found),
        element("p.note", f"No example is at hand of: {', '.join(without)}.") if without else None,
        _unread_note(data) if found else None,
    )


def _language_table(sums: Figures) -> Markup | None:
    """Return how many rows of each target language have a flag; None unless the rows name their language."""
    languages, flagged = sums.sums["rows_by_language"], sums.sums["flagged_by_language"]
    if not languages:
        return None
    rows = [
        [
            LANGUAGES[language].english if language in LANGUAGES else isolated("span", language),
            number(count, f"rows_by_language.{language}"),
            number(flagged.get(language, 0), f"flagged_by_language.{language}" if language in flagged else None),
            share(flagged.get(language, 0), count),
        ]
        for language, count in sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    ]
    shown = table(
        "Rows by target language",
        ("Language", "Rows", "With a flag", "Share"),
        rows[:MAX_LANGUAGES],
        ("", *["number"] * 3),
    )
    if len(rows) <= MAX_LANGUAGES:
        return shown
    return join([shown, element("p.note", f"and {len(rows) - MAX_LANGUAGES:,} more languages: see manifest.json")])


def _unread_note(data: JobData) -> Markup | None:
    if not data.measured.num_unread:
        return None
    what = f"{plural(data.measured.num_unread, 'input')} could not be read again, or changed since"
    return element("p.note", f"{what}: rows of theirs are shown without their sources.")


def _examples(key: str, reservoir: Reservoir, total: int, num_kinds: int, data: JobData) -> Markup:
    """Return examples of one flag or status, fewer if there are many kinds."""
    kept = reservoir.kept[: max(1, MAX_SHOWN // num_kinds)]
    title = [element("code", key), f" · {len(kept)} of {plural(total, 'row')}"]
    source, target = data.languages
    cards = [example_card(example, source, target) for example in kept]
    return join([element("h3", *title), *cards])


def example_card(example: Example, src_lang: str | None = None, tgt_lang: str | None = None) -> Markup:
    """Return a row with its source and its translation side by side."""
    marks = dict.fromkeys([*([example.status] if example.status != Status.OK else []), *example.flags])
    head = [isolated("span.mono", example.id), f" · {', '.join(marks)}" if marks else None]
    source: Child = element("p.none", "not at hand")
    if example.source is not None:
        source = isolated("p", example.source, max_chars=MAX_TEXT_CHARS, lang=src_lang)
    translation: Child = element("p.none", "none")
    if example.translation:
        translation = isolated("p", example.translation, max_chars=MAX_TEXT_CHARS, lang=tgt_lang)
    reason = None
    if example.message and not example.translation:
        reason = isolated("p.reason", example.message, max_chars=MAX_TEXT_CHARS)
    columns = [[element("span", "Source"), source], [element("span", "Translation"), translation, reason]]
    return element("div.example", element("div.id", *head), element("div.pair", *(element("div", c) for c in columns)))


def render_statuses(data: JobData) -> Markup | None:
    sums = data.figures
    others = {status: count for status, count in sums.counts.items() if status != Status.OK}
    if not others and not sums.failed:
        return None
    order = sorted(sums.counts, key=lambda status: (status not in ERROR_STATUSES, -sums.counts[status]))
    rows = [
        [
            element("code", status),
            number(sums.counts[status], f"counts.{status}"),
            share(sums.counts[status], sums.texts),
            "no" if status in ERROR_STATUSES else "yes",
            words.STATUSES.get(status, ""),
        ]
        for status in order
    ]
    columns = ("Status", "Rows", "Share", "Translated", "Meaning")
    errors = [status for status in order if status in data.errors and status not in data.measured.examples]
    return section(
        "Statuses and errors",
        table("Rows by status", columns, rows, ("", "number", "number", "", "about")),
        *(_examples(name, data.errors[name], sums.counts.get(name, 0), len(errors), data) for name in errors),
        _file_list("Files that are not of their format", sums.failed),
    )


def _file_list(title: str, files: Sequence[Mapping[str, str]]) -> Markup | None:
    if not files:
        return None
    rows = [[isolated("span", file["rel"]), isolated("span", file["why"])] for file in files[:MAX_LISTED]]
    if len(files) > MAX_LISTED:
        rows.append([element("span", f"and {len(files) - MAX_LISTED:,} more"), element("span")])
    return table(title, ("File", "Reason"), rows, ("path", "about"))


def render_files(data: JobData) -> Markup:
    sums = data.figures
    rows = [
        [
            isolated("span", file.out_rel),
            file.format,
            number(file.rows),
            "" if file.error_rows is None else number(file.error_rows),
            "" if file.flagged is None else number(file.flagged),
            num_bytes(file.num_bytes) if not file.failed else "no output",
        ]
        for file in sums.listed
    ]
    note = None
    if sums.files > len(sums.listed):
        note = element(
            "p.note",
            f"{len(sums.listed):,} of {sums.files:,} files: those with the most rows without a translation, then with "
            "the most flags, then the largest. manifest.json lists all.",
        )
    columns = ("File in translated/", "Format", "Rows", "Without a translation", "Flags", "Size")
    kinds = ("path", "", "number", "number", "number", "number")
    skipped = [{"rel": file.rel, "why": file.why} for file in data.skipped]
    return section(
        "Files",
        note,
        table("Published files", columns, rows, kinds) if rows else element("p", "No file is published yet."),
        _file_list("Files that were found and are not read", skipped),
    )
