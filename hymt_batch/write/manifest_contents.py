"""Build the contents of `manifest.json` from the records of a job's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from hymt_batch import manifest
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.pretty_json import Items
from hymt_batch.records import SkippedFile
from hymt_batch.write import update_counts
from hymt_batch.write.totals import Totals


def build(job: JobRecord, records: Sequence[JsonDict], skipped: Sequence[SkippedFile] = ()) -> bytes:
    """Build `manifest.json`; equal jobs give equal bytes, because it has no timestamps.

    Args:
        job: The job; only its identity, its output settings, its list of formats and its last update are used.
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
        "failed": manifest.failed_files(records),
        "review": list(_lists(records, "review")),
        "earlier_identities": list(job.earlier),
        "origins": manifest.sum_counts(r.get("origins", {}) for r in records) if job.earlier else {},
        "update": asdict(update_counts.count(job.changes, records)) if job.changes is not None else None,
    }
    value |= {name: item for name, item in optional.items() if item}
    return manifest.seal(value)


def _outputs(records: Sequence[JsonDict]) -> Iterator[JsonDict]:
    for record in records:
        if record["output"]:
            yield {"path": f"translated/{record['out_rel']}", "format": record["format"], **record["output"]}


def _lists(records: Sequence[JsonDict], key: str) -> Iterator[JsonDict]:
    """Yield what a manifest has of the lists of rows beside the outputs, such as "errors"."""
    for record in records:
        if record.get(key):
            yield {"path": f"{key}/{record['rel']}.{key}.jsonl", **record[key]}
