"""Build the contents of `manifest.json` from the records of a job's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from hymt_batch import manifest
from hymt_batch.manifest import JobPass, JobRecord, JsonDict
from hymt_batch.pretty_json import Items
from hymt_batch.records import SkippedFile
from hymt_batch.write import update_counts
from hymt_batch.write.kept_records import having
from hymt_batch.write.totals import Totals


def build(job: JobRecord, records: Sequence[JsonDict], skipped: Sequence[SkippedFile] = ()) -> bytes:
    """Build `manifest.json`; equal jobs give equal bytes, because it has no timestamps.

    Args:
        job: The job; its identities, output settings, list of formats, last update and passes are used.
        records: One record per file, as written by `write/published_file.py`, in the order of the inputs.
        skipped: Files that were found beside the inputs and are not read.
    """
    value: JsonDict = {
        "protocol": manifest.PROTOCOL,
        "identity": job.identity,
        "identity_sha256": job.identity_sha256,
        "inputs": Items(lambda: ({"rel": r["rel"], "rows": r["rows"], **r["input"]} for r in records)),
        "outputs": Items(lambda: _outputs(records)),
        "errors": Items(lambda: _lists(records, "errors")),
        **Totals.of(records).to_manifest(),
    }
    optional = {
        "output_settings": job.output_settings,
        "formats": list(job.formats),
        "skipped": [asdict(file) for file in skipped],
        "failed": manifest.failed_files(having(records, "failed")),
        "review": list(_lists(records, "review")),
        "earlier_identities": list(job.earlier),
        "origins": manifest.sum_counts(r.get("origins", {}) for r in records) if job.earlier else {},
        "update": asdict(update_counts.count(job.changes, records)) if job.changes is not None else None,
        "passes": [_pass(job_pass, records) for job_pass in job.passes],
    }
    value |= {name: item for name, item in optional.items() if item}
    return manifest.seal(value)


def _pass(job_pass: JobPass, records: Sequence[JsonDict]) -> JsonDict:
    """Return what a manifest has of a pass; `replaced` are its rows that are in the outputs."""
    found = [item for record in records for item in record.get("passes", ()) if item["number"] == job_pass.number]
    return {
        "number": job_pass.number,
        "identity": job_pass.identity,
        "identity_sha256": manifest.digest(job_pass.identity),
        "environments": list(job_pass.environments),
        "statuses": list(job_pass.statuses),
        "flags": list(job_pass.flags),
        "rows": sum(job_pass.files.values()),
        "replaced": sum(item["replaced"] for item in found),
    }


def _outputs(records: Sequence[JsonDict]) -> Iterator[JsonDict]:
    for record in records:
        if record["output"]:
            yield {"path": f"translated/{record['out_rel']}", "format": record["format"], **record["output"]}


def _lists(records: Sequence[JsonDict], key: str) -> Iterator[JsonDict]:
    """Yield what a manifest has of the lists of rows beside the outputs, such as "errors"."""
    for record in having(records, key):
        yield {"path": f"{key}/{record['rel']}.{key}.jsonl", **record[key]}
