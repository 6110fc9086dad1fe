"""The data card as Markdown, with the head that data hubs read. What comes from files and settings stands as code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hymt_batch import languages
from hymt_batch.manifest import JsonDict
from hymt_batch.records import plural
from hymt_batch.report.words import FLAGS, STATUSES, language_rate
from hymt_batch.sanitize import escape_line

MAX_FILES = 100
"""Files that the text lists; card.json and SHA256SUMS have all."""

MAX_CHARS = 500
METRICS = {"chrf": "chrF2", "chrf++": "chrF2++", "bleu": "BLEU", "ter": "TER (less is better)"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Size classes of the Hugging Face hub; there are larger ones, each ten times the one before."""


def render(card: JsonDict) -> str:
    """Return a card as Markdown."""
    parts = [
        _head(card),
        f"# {_plain(card['name'])}",
        card["about"] or "",
        _summary(card),
        _languages(card),
        _model(card),
        _quality(card),
        _evaluation(card["evaluation"]),
        _files("Files", card["outputs"], "path"),
        _files("Sources", card["inputs"], "rel"),
        _environments(card),
        _settings(card),
        _reproduce(),
        _licence(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(card: JsonDict) -> str:
    """Return the YAML that the Hugging Face hub reads; JSON is YAML."""
    codes = sorted({code for code in (card["src_lang"], card["tgt_lang"]) if code})
    values: dict[str, Any] = {
        "pretty_name": card["name"],
        "task_categories": ["translation"],
        "tags": ["machine-translation", "hymt-batch"],
        "size_categories": [_size(card["texts"])],
    }
    values |= {"language": codes} if codes else {}
    values |= {"license": card["licence"]} if card["licence"] else {}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _size(rows: int) -> str:
    for limit, name in SIZES:
        if rows < limit:
            return name
    for exponent, name in ((7, "1M<n<10M"), (8, "10M<n<100M"), (9, "100M<n<1B"), (10, "1B<n<10B")):
        if rows < 10**exponent:
            return name
    return "10B<n<100B"


def _summary(card: JsonDict) -> str:
    model = card["model"]
    name = code(model["name"]) if model["name"] else f"the model family {code(model.get('family'))}"
    lines = [
        f"Machine translations by {name}, made with hymt-batch. Nobody has checked them, unless this page says so.",
        table(
            ["", ""],
            [
                ["Rows", f"{card['rows']:,}" + _texts(card)],
                ["Without a translation", _share(card["errors_total"], card["texts"])],
                ["Files", f"{len(card['outputs']):,}"],
                ["Tokens", f"{card['tokens'].get('source', 0):,} of the sources, {card['tokens'].get('new', 0):,} new"],
                ["Identity of the job", code(card["identity_sha256"])],
                ["manifest.json (sha256)", code(card["manifest_sha256"])],
            ],
        ),
    ]
    return "\n\n".join(lines)


def _texts(card: JsonDict) -> str:
    return "" if card["texts"] == card["rows"] else f" with {card['texts']:,} texts"


def _languages(card: JsonDict) -> str:
    source = card["identity"].get("source") or {}
    per_row = [key for key in ("src_lang_field", "tgt_lang_field") if source.get(key)]
    line = f"{_language(card['src_lang'])} to {_language(card['tgt_lang'])}."
    if per_row:
        fields = " and ".join(code(source[key]) for key in per_row)
        line += f" A row may name other languages in {fields}."
    return f"## Languages\n\n{line}"


def _language(language: str | None) -> str:
    if language is None:
        return "Not stated"
    known = languages.LANGUAGES.get(language)
    return f"{known.english} ({code(language)})" if known else code(language)


def _model(card: JsonDict) -> str:
    model, identity = card["model"], card["identity"]
    rows: list[tuple[str, str | None]] = [
        ("Model", code(model["name"]) if model["name"] else "not recorded"),
        ("Revision", code(model["revision"]) if model["revision"] else None),
        ("Commit", code(model["commit"]) if model.get("commit") else None),
        ("Number format", code(model["dtype"]) if model.get("dtype") else None),
        ("Licence of the weights", code(model["licence"]) if model["licence"] else "not recorded"),
        ("Prompt", code((identity.get("prompt") or {}).get("text"))),
        ("Decoding", code(json.dumps(identity.get("decode"), sort_keys=True))),
        ("Seed", f"{code(card['seed'])}; each draw also depends on the row, the segment and the attempt"),
    ]
    digests = [[code(name), code(sha256)] for name, sha256 in sorted((model.get("files") or {}).items())]
    return "\n\n".join(
        [
            "## Model and decoding",
            table(["", ""], [[name, value] for name, value in rows if value is not None]),
            table(["File of the model", "sha256"], digests) if digests else "",
        ]
    ).rstrip()


def _quality(card: JsonDict) -> str:
    total = card["texts"]
    statuses = [[code(name), _share(n, total), STATUSES.get(name, "")] for name, n in card["counts"].items()]
    flags = [[code(name), _share(n, total), FLAGS.get(name, "")] for name, n in card["flags"].items()]
    lines = ["## Statuses and flags", table(["Status", "Rows", "Meaning"], statuses)]
    lines.append(table(["Flag", "Rows", "Meaning"], flags) if flags else "No row has a flag.")
    lines.append(language_rate(card.get("output_settings") or {}))
    if card.get("tries"):
        tries = ", ".join(f"{code(step)} {count:,}" for step, count in card["tries"].items())
        lines.append(f"Decoded again, by step: {tries}.")
    for job_pass in card.get("passes", ()):
        lines.append(
            f"Pass {job_pass['number']} of `retry` decoded {plural(job_pass['rows'], 'row')} again; "
            f"{job_pass['replaced']:,} of them are published as it has them. Its identity is in card.json."
        )
    return "\n\n".join(lines)


def _evaluation(scores: JsonDict | None) -> str:
    if scores is None:
        return ""
    rows = [
        [code(language["tgt_lang"]), METRICS.get(name, name), f"{metric['score']:.2f}", code(metric["signature"])]
        for language in scores["languages"]
        for name, metric in language["metrics"].items()
    ]
    about = f"{scores['scored']:,} of {plural(scores['rows'], 'row')} scored against references."
    return "\n\n".join(["## Evaluation", about, table(["Language", "Metric", "Score", "Signature"], rows)])


def _files(title: str, files: Sequence[JsonDict], key: str) -> str:
    rows = [[code(f[key]), f"{f['rows']:,}", f"{f['bytes']:,}", code(f["sha256"])] for f in files[:MAX_FILES]]
    lines = [f"## {title}", table(["Name", "Rows", "Bytes", "sha256"], rows)]
    if len(files) > MAX_FILES:
        lines.append(f"And {len(files) - MAX_FILES:,} more, in card.json.")
    return "\n\n".join(lines)


def _environments(card: JsonDict) -> str:
    environments = card.get("environments", [])
    lines = [f"## Hardware and versions\n\nThe rows were decoded in {plural(len(environments), 'environment')}."]
    for environment in environments:
        lines.append(table(["", ""], [[code(key), code(_value(value))] for key, value in sorted(environment.items())]))
    if card["commits"]:
        lines.append(f"Commit of hymt-batch: {', '.join(map(code, card['commits']))}.")
    if card.get("degraded"):
        marks = ", ".join(f"{code(mark)} {count:,}" for mark, count in card["degraded"].items())
        lines.append(f"What happened on the way: {marks}.")
    return "\n\n".join(lines)


def _settings(card: JsonDict) -> str:
    identity = {key: value for key, value in card["identity"].items() if key not in ("model", "version")}
    rows = [[code(key), code(_value(value))] for key, value in _flat(identity)]
    rows += [[code(key), code(_value(value))] for key, value in (card.get("output_settings") or {}).items()]
    return "\n\n".join(["## Settings", table(["Setting", "Value"], rows)])


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _reproduce() -> str:
    return "\n".join(
        [
            "## Check and reproduce",
            "",
            "```sh",
            "sha256sum -c card/SHA256SUMS                          # in the folder with translated/",
            "hymt-batch reproduce manifest=PATH/manifest.json      # decodes some rows again; needs the job's folder",
            "```",
            "",
            "In the same environment, the same model, sources and settings give the same bytes. `card.json` has all of "
            "this page in full; `timings.json` has when it was made and how fast.",
        ]
    )


def _licence(card: JsonDict) -> str:
    own = code(card["licence"]) if card["licence"] else "not stated"
    return (
        f"## Licence\n\nOf the translations: {own}. The licences of the sources and of the model's weights may limit "
        "how you may use them; see above for that of the weights."
    )


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / max(1, total):.2f} %)"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def code(value: Any) -> str:
    """Return a text as a code span, which cannot act as markup, also in a table."""
    text = escape_line(str(value), MAX_CHARS).replace("|", "\\|")
    if not text.strip():
        return "(empty)" if not text else "(blank)"
    longest = max((len(run) for run in _runs(text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{room}{text}{room}{fence}"


def _runs(text: str) -> list[str]:
    """Return the runs of backticks in a text."""
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]


def _plain(text: str) -> str:
    """Return a text for a heading: letters and digits as they are, all that may be markup escaped."""
    return "".join(c if c.isalnum() or c in " .-_" else f"\\{c}" if c.isascii() else c for c in escape_line(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; its cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
