"""The section of a report about the scores that `evaluate` stored, if there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hymt_batch import languages
from hymt_batch.evaluate.store import StoredScores
from hymt_batch.report.markup import Child, Markup, element
from hymt_batch.report.page import isolated, number, section, table

NAMES = {"chrf": "chrF2", "chrf++": "chrF2++", "bleu": "BLEU", "ter": "TER (less is better)"}
MAX_LANGUAGES = 12


def render(scores: StoredScores | None) -> Markup | None:
    """Return the section; None without scores."""
    if scores is None:
        return None
    value = scores.value
    baseline = (value.get("baseline") or {}).get("name")
    stale = None
    if scores.is_stale:
        stale = element("p.note", "These scores are of an earlier output: run hymt-batch evaluate again.")
    columns = ["Language", "Metric", "Score", *(["Baseline", "Difference", "p"] if baseline else []), "Signature"]
    kinds = ["", "", "number", *(["number"] * 3 if baseline else []), "path"]
    listed = list(value.get("languages", ()))[:MAX_LANGUAGES]
    rows = [row for language in listed for row in _rows(language, has_baseline=bool(baseline))]
    about: list[Child] = [
        number(int(value.get("scored", 0))),
        " of ",
        number(int(value.get("rows", 0))),
        " rows scored",
    ]
    if baseline:
        about += [", beside the job ", isolated("code", str(baseline))]
    return section(
        "Evaluation",
        stale,
        element("p", *about, "."),
        table("Scores against references", columns, rows, kinds) if rows else None,
    )


def _rows(language: Mapping[str, Any], *, has_baseline: bool) -> Iterator[list[Child]]:
    code = str(language.get("tgt_lang", ""))
    name = languages.LANGUAGES[code].english if code in languages.LANGUAGES else code
    for metric, result in language.get("metrics", {}).items():
        cells: list[Child] = [name, NAMES.get(metric, metric), number(float(result["score"]), f"{code}.{metric}", 2)]
        if has_baseline:
            paired = "baseline" in result
            cells += [
                number(float(result["baseline"]), digits=2) if paired else "",
                f"{float(result['difference']):+.2f}" if paired else "",
                f"{float(result['p_value']):.4f}" if paired else "",
            ]
        yield [*cells, isolated("span", str(result.get("signature", "")))]
