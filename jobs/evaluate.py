"""Score a finished job against reference translations: `hymt-batch evaluate name=NAME references=PATH`.

Reads the job, takes no lease, and writes the scores to `evaluation/` in its folder. Loads no model.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import sanitize, streams
from hymt_batch.errors import ExitCode, HymtError, PreflightError
from hymt_batch.evaluate import evaluation, metrics, references, scorer, store
from hymt_batch.evaluate import rows as scored_rows
from hymt_batch.evaluate.evaluation import SCORER, Evaluation, LanguageResult, MetricResult, Options
from hymt_batch.evaluate.rows import Rows, ScoredRow
from hymt_batch.fs import OS_FS
from hymt_batch.records import plural
from hymt_batch.run.finished_rows import FinishedJob
from hymt_batch.write import job_folders

if TYPE_CHECKING:
    from hymt_batch.schema import EvaluateJob

SEVERITY = (
    ExitCode.COMPLETE,
    ExitCode.USAGE,
    ExitCode.INPUT_CHANGED,
    ExitCode.MISSING,
    ExitCode.PREFLIGHT,
    ExitCode.STOPPED,
)
"""Exit codes from best to worst; a sweep has the worst of its points."""

NAMES = {"chrf": "chrF2", "chrf++": "chrF2++", "bleu": "BLEU", "ter": "TER", SCORER: "scorer"}
"""The names under which results are shown; for TER, less is better."""


@dataclass(frozen=True, slots=True)
class Result:
    """An evaluation that is stored."""

    value: dict[str, Any]  # as in scores.json
    scorer_error: PreflightError | None  # why the command hook gave no scores


def evaluate(job: EvaluateJob, folder: Path) -> Result:
    """Score one job and store the scores.

    Raises:
        MissingError: The job or its baseline is not complete.
        ConfigError: The references do not belong to its rows, or the baseline translated other rows.
        PreflightError: sacrebleu is not installed, or the rows were not kept.
        HymtError: An input changed, or a file cannot be read or written.
    """
    version = metrics.version()
    finished = FinishedJob(folder, job.input_paths)
    files = references.find(
        job.references, finished.inputs, job.references_field, job.references_encoding, job.references_id
    )
    rows = scored_rows.collect(finished, files, job.references_id)
    baseline, about_baseline = _read_baseline(job, rows, files)
    options = Options(job.metric_names, job.bleu_tokenize, job.bootstrap, job.seed)
    result = evaluation.evaluate(rows, baseline, options)
    scorer_error = None
    if job.scorer is not None:
        score = partial(scorer.score, job.scorer, timeout_s=job.scorer_timeout_s)
        try:
            evaluation.add_scorer(result, rows, baseline, score, options)
        except PreflightError as error:
            scorer_error = error
    value: dict[str, Any] = {
        "hymt_batch": importlib.metadata.version("hymt-batch"),
        "sacrebleu": version,
        "identity_sha256": finished.job.identity_sha256,
        "manifest_sha256": finished.manifest_sha256,
        "references": [{"path": file.path, "sha256": file.sha256()} for file in files],
        "rows": rows.num_rows,
        "scored": len(rows.scored),
        "errors": rows.num_errors,
        "left_out": dict(sorted(rows.left_out.items())),
        "counts": dict(sorted(rows.statuses.items())),
        "flags": dict(sorted(rows.flags.items())),
        "languages": [_language_json(language) for language in result.languages],
        "notes": rows.notes,
    }
    if about_baseline is not None:
        value["baseline"] = about_baseline | {"bootstrap": job.bootstrap, "seed": job.seed}
    if job.scorer is not None:
        value["scorer"] = {"command": job.scorer, "error": asdict(scorer_error.problem) if scorer_error else None}
    store.save(OS_FS.within(folder), folder, value, _row_lines(rows, result))
    return Result(value, scorer_error)


def _read_baseline(
    job: EvaluateJob, rows: Rows, files: list[references.ReferenceFile]
) -> tuple[dict[str, ScoredRow] | None, dict[str, Any] | None]:
    """Return the rows of the baseline by id and what is recorded of it; None and None without one."""
    if job.baseline is None:
        return None, None
    folder = Path(job.output_dir) / job.baseline
    job_folders.find(OS_FS, folder)
    finished = FinishedJob(folder, job.input_paths)
    others = scored_rows.collect(finished, files, job.references_id)
    about = {"name": job.baseline, "manifest_sha256": finished.manifest_sha256, "errors": others.num_errors}
    return evaluation.of_same_rows(rows, others, job.baseline), about


def _language_json(language: LanguageResult) -> dict[str, Any]:
    return {
        "tgt_lang": language.tgt_lang,
        "rows": language.num_rows,
        "metrics": {metric.name: _metric_json(metric) for metric in language.metrics},
        "not_computed": language.not_computed,
    }


def _metric_json(metric: MetricResult) -> dict[str, Any]:
    value: dict[str, Any] = {"score": metric.score, "signature": metric.signature}
    if metric.paired is not None:
        value |= asdict(metric.paired) | {"difference": metric.paired.difference}
    return value


def _row_lines(rows: Rows, result: Evaluation) -> Iterator[dict[str, Any]]:
    for row in rows.scored:
        flags = {"flags": list(row.flags)} if row.flags else {}
        yield {
            "id": row.id,
            "tgt_lang": row.tgt_lang,
            "status": row.status.value,
            **flags,
            **{name: round(score, 4) for name, score in result.by_row[row.id].items()},
        }


def render(folder: Path, value: dict[str, Any]) -> str:
    """Return an evaluation as text."""
    lines = [f"{folder}: {plural(value['scored'], 'row')} of {value['rows']:,} scored"]
    if value["errors"]:
        lines.append(f"  errors    {plural(value['errors'], 'row')} without a translation, scored as empty")
    for reason, count in value["left_out"].items():
        lines.append(f"  left out  {reason} {count:,}")
    if value["flags"]:
        rates = (f"{name} {count:,} ({100 * count / value['rows']:.2f} %)" for name, count in value["flags"].items())
        lines.append(f"  flags     {', '.join(rates)}")
    for language in value["languages"]:
        lines += _language_lines(language, value.get("baseline"))
    lines += [f"  note      {note}" for note in value["notes"]]
    return "\n".join([*lines, f"  scores    {folder / store.FOLDER}"])


def _language_lines(language: dict[str, Any], baseline: dict[str, Any] | None) -> Iterator[str]:
    yield f"  {language['tgt_lang']}, {plural(language['rows'], 'row')}"
    for name, metric in language["metrics"].items():
        line = f"    {NAMES[name]:8} {metric['score']:7.2f}"
        if baseline is not None:
            line += (
                f"  {baseline['name']} {metric['baseline']:.2f}, difference {metric['difference']:+.2f}, "
                f"p = {metric['p_value']:.4f}"
            )
        yield f"{line}  {metric['signature']}".rstrip()
    for name in language["not_computed"]:
        yield f"    {NAMES[name]:8}       -  not computed: {language['tgt_lang']} is written without spaces"


def run(job: EvaluateJob) -> ExitCode:
    """Score a job, or each point of a sweep, and print the scores.

    Returns:
        COMPLETE; of a sweep, the worst exit code of its points.

    Raises:
        HymtError: See `evaluate`; or the command hook failed, after the other scores are stored.
    """
    parent = Path(job.output_dir) / job.name
    folders = job_folders.find(OS_FS, parent)
    is_sweep, codes = folders != [parent], [ExitCode.COMPLETE]
    for folder in folders:
        try:
            result = evaluate(job, folder)
            text = render(folder, result.value)
            shown = {"folder": str(folder), **result.value} if job.format.value == "json" else None
            streams.print_result(sanitize.sanitize_text(json.dumps(shown, sort_keys=True) if shown else text))
            if result.scorer_error is not None:
                raise result.scorer_error
        except HymtError as error:
            if not is_sweep:
                raise
            streams.print_result(sanitize.sanitize_text(f"{folder}: {error}"))
            codes.append(error.exit_code)
    return max(codes, key=lambda code: SEVERITY.index(code) if code in SEVERITY else len(SEVERITY))


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("evaluate")
