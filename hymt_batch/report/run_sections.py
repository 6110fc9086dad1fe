"""The sections of a report about how the job ran: placement of the model, runs, faults, tasks, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from hymt_batch.records import plural
from hymt_batch.report import chart, words
from hymt_batch.report.job_data import JobData
from hymt_batch.report.markup import Child, Markup, element, join
from hymt_batch.report.page import facts, isolated, number, plain, section, settings, table, utc

MAX_TASKS = 20  # that work now, and are listed
MAX_ENVIRONMENTS = 6
MAX_PASSES = 20
MAX_BLOCKS = 30  # runs of modules on one device


def render_placement(data: JobData) -> Markup | None:
    """Return where the model was and with which versions; of further environments only what differs."""
    environments = data.figures.environments
    if not environments:
        return None
    first = environments[0]
    children: list[Child] = [
        _device_map(first.get("device_map")),
        settings("Settings and versions", {key: value for key, value in first.items() if key != "device_map"}, 60),
    ]
    if len(environments) > 1:
        num = len(environments)
        about = f"The job was decoded in {num} environments. In bfloat16, single words may differ between them."
        children.insert(0, element("p.note", about))
    for index, environment in enumerate(environments[1:MAX_ENVIRONMENTS], 2):
        others = {key: value for key, value in environment.items() if first.get(key) != value}
        children.append(settings(f"What differs in environment {index}", others, 15))
    return section("Placement and environment", *children)


def _device_map(value: object) -> Markup | None:
    """Return where the layers of a model are, in the order of the network."""
    if not isinstance(value, Mapping):
        return None
    modules = [(str(name), str(device)) for name, device in value.items() if name != "strategy"]
    strategy = plain(value.get("strategy", "unknown"))
    if not modules:
        return None
    blocks = [(device, [name for name, _ in group]) for device, group in groupby(modules, key=lambda item: item[1])]
    devices = list(dict.fromkeys(device for device, _ in blocks))
    about = "; ".join(f"{device}: {_describe_modules(names)}" for device, names in blocks[:MAX_BLOCKS])
    strip = [(device, len(names), devices.index(device)) for device, names in blocks[:MAX_BLOCKS]]
    caption = element("figcaption", "Placement of the layers", element("small", f"device_map={strategy}"))
    picture = element("figure.wide", caption, chart.strip("Placement of the layers", about, strip))
    rows = [
        [isolated("span", device), isolated("span", _describe_modules(names))] for device, names in blocks[:MAX_BLOCKS]
    ]
    return join([picture, table("Modules by device", ("Device", "Modules"), rows, ("", "path"))])


def _describe_modules(names: Sequence[str]) -> str:
    """Return the names of modules, with runs of layers joined: model.layers.0 to 15."""
    if names == [""]:
        return "the whole model"
    pieces: list[tuple[str, int | None, int | None]] = []
    for name in names:
        stem, _, last = name.rpartition(".")
        layer = int(last) if last.isdigit() else None
        if layer is not None and pieces and pieces[-1][0] == stem and pieces[-1][2] == layer - 1:
            pieces[-1] = stem, pieces[-1][1], layer
        else:
            pieces.append((stem, layer, layer) if layer is not None else (name, None, None))
    return ", ".join(
        stem if first is None else f"{stem}.{first}" if first == last else f"{stem}.{first} to {last}"
        for stem, first, last in pieces[:40]
    )


def render_runs(data: JobData) -> Markup | None:
    past = data.history
    children: list[Child] = []
    sums = data.figures
    repeated = [
        [element("code", step), number(count, f"tries.{step}"), words.TRIES.get(step, "")]
        for step, count in sums.sums["tries"].items()
    ]
    if repeated:
        children.append(table("Tries by step", ("Step", "Decoded", "Meaning"), repeated, ("", "number", "about")))
    marks = [
        [element("code", mark), number(count, f"degraded.{mark}"), words.MARKS.get(mark, "")]
        for mark, count in sums.sums["degraded"].items()
    ]
    if marks:
        children.append(table("Faults", ("Mark", "Parts", "Meaning"), marks, ("", "number", "about")))
    passes = [
        [
            number(one.number),
            ", ".join([*one.statuses, *one.flags]),
            number(sum(one.files.values())),
            number(sums.replaced.get(one.number, 0), f"replaced.{one.number}"),
        ]
        for one in data.job.passes[-MAX_PASSES:]
    ]
    if passes:
        columns = ("Pass", "Rows with", "Decoded again", "Replaced")
        children.append(table("Passes of hymt-batch retry", columns, passes, ("number", "path", "number", "number")))
    lines: list[tuple[str, Child]] = []
    if attempts := data.measured.attempts:
        lines.append(("Rows decoded again", f"{sum(attempts.values()):,} of {data.measured.num_rows:,} rows looked at"))
    if past is not None and past.num_quarantined:
        lines.append(("Quarantined", f"{plural(past.num_quarantined, 'damaged state file')}, decoded or made again"))
    if past is not None and past.num_set_aside:
        lines.append(("Set aside", f"{plural(past.num_set_aside, 'file')} of translated/ that somebody changed"))
    children.append(facts(lines))
    if past is not None and past.runs:
        rows = [
            [
                utc(run.start),
                chart.duration(run.end - run.start),
                "" if run.num_warnings is None else number(run.num_warnings),
                isolated("span", run.last),
            ]
            for run in past.runs
        ]
        title = "Runs" if past.num_runs <= len(rows) else f"The newest {len(rows)} of {past.num_runs:,} runs"
        columns = ("Began", "Took", "Warnings and errors", "Last line of its log")
        children.append(table(title, columns, rows, ("", "number", "number", "path")))
    children += _tasks(data)
    if not any(children):
        return None
    return section("Runs, retries and faults", *children)


def _tasks(data: JobData) -> Iterator[Markup]:
    if data.tasks is not None:
        done, all_shards = data.tasks.shards_complete, data.tasks.shards
        yield element("p", f"Prepared for many tasks: {done:,} of {plural(all_shards, 'shard')} are complete.")
        rows = [
            [number(task["shard"]), isolated("span", str(task["host"])), str(task["pid"]), str(task["since"])]
            for task in data.tasks.tasks[:MAX_TASKS]
        ]
        if rows:
            yield table("Tasks at work", ("Shard", "Host", "Process", "Since"), rows, ("number", "path", "number", ""))
    past = data.history
    if past is None or not past.tasks:
        return
    start, end = past.tasks[0].start, max(task.end for task in past.tasks)
    spans = [
        (task.log.rpartition("/")[2].removesuffix(".log"), task.start - start, task.end - start) for task in past.tasks
    ]
    some = "" if past.num_tasks <= len(spans) else f", of which {len(spans)} are drawn"
    when = f"from {utc(start)} to {utc(end)}, each from its first to its last log line"
    about = f"{plural(past.num_tasks, 'task')}{some}, {when}."
    picture = chart.bars_over_time("Tasks", about, spans, end - start)
    yield element("figure.wide", element("figcaption", "Tasks", element("small", about)), picture)


def render_settings(data: JobData) -> Markup:
    job, past = data.job, data.history
    lines: list[tuple[str, Child]] = []
    if job.created:
        lines.append(("Created", job.created.replace("T", " ").replace("+00:00", " UTC")))
    lines.append(("Identity", element("code", job.identity_sha256)))
    if past is not None and past.command:
        lines.append(("Newest command", isolated("code", past.command, max_chars=1000)))
    return section(
        "Identity and settings",
        element(
            "p.note",
            "The identity is everything that decides the translations. The output settings shape files and flags only, "
            "and may change later.",
        ),
        facts(lines),
        settings("Identity", job.identity),
        settings("Output settings", job.output_settings, 60),
    )
