"""Check every checksum and every count of a job's output: `hymt-batch verify name=NAME`. Changes nothing."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from hymt_batch import manifest, shown, streams
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS, Fs
from hymt_batch.manifest import Job, StateDamage, StateMissing
from hymt_batch.records import Input
from hymt_batch.source.escape import escapes
from hymt_batch.write import final, lease
from hymt_batch.write import holder as holders
from hymt_batch.write.delimited import DELIMITER
from hymt_batch.write.kept import Kept
from hymt_batch.write.part import PartDamage
from hymt_batch.write.sink import compression_of

if TYPE_CHECKING:
    from hymt_batch.schema import VerifyJob


@dataclass(slots=True)
class Report:
    """What was checked, and what was found."""

    folder: str
    files: int = 0  # published and checked
    parts: int = 0  # checked
    rows: int = 0  # in published files
    damage: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    running: bool = False  # a living process holds the lease

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.DAMAGE if self.damage else ExitCode.MISSING if self.missing else ExitCode.COMPLETE


def verify(folder: Path, fs: Fs = OS) -> Report:
    """Read everything a job published or committed."""
    report = Report(str(folder))
    holder = lease.read(fs, folder)
    report.running = holder is not None and holders.alive(holder, holders.myself()) is not False
    try:
        job = manifest.read_job(fs, folder)
    except StateMissing:
        report.missing.append("the job: .hymt/job.json was never written")
        return report
    except StateDamage as damage:
        report.damage.append(f".hymt/job.json: {damage}")
        return report
    kept, records = Kept(fs, folder, job.key), []
    for input in job.inputs:
        record = final.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.key:
            records.append(record)
            _published(fs, folder, record, report, _marks(job, input, record["format"]))
        else:
            _unfinished(kept, input, report)
    _manifest(fs, folder, job, records, report)
    _unexpected(folder, job, report)
    return report


def _marks(job: Job, input: Input, kind: str) -> tuple[str, str]:
    """Delimiter and escape of an output; "" where they are the format's own."""
    source = job.identity.get("source") or {} if input.format == kind else {}
    return source.get("delimiter") or "", source.get("escape") or ""


def _published(fs: Fs, folder: Path, record: dict[str, Any], report: Report, marks: tuple[str, str]) -> None:
    report.files += 1
    output, errors = manifest.translated(folder, record["out_rel"]), manifest.errors_file(folder, record["rel"])
    for path, wanted, kind in ((output, record["output"], record["format"]), (errors, record["errors"], "jsonl")):
        name = str(path.relative_to(folder))
        if what := final.damage(fs, path, wanted):
            report.damage.append(f"{name}: {what}")
        elif wanted is not None:
            try:
                rows = sorted(count_rows(path, kind, *marks))
            except (OSError, ValueError, EOFError, csv.Error) as error:
                report.damage.append(f"{name}: cannot be read as {kind} ({error})")
                continue
            if wanted["rows"] not in rows:
                report.damage.append(f"{name}: has {rows[0]} rows, recorded are {wanted['rows']}")
    report.rows += record["rows"]
    if sum(record["counts"].values()) != record["rows"]:
        report.damage.append(f"{record['rel']}: its statuses do not add up to its {record['rows']} rows")


def count_rows(path: Path, kind: str, delimiter: str = "", escape: str = "") -> set[int]:
    """Rows of a file as its format counts them: one number, or for csv and tsv with and without a header."""
    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return {int(file.metadata.num_rows)}
    marks = escapes(delimiter or DELIMITER.get(kind, ""), kind == "csv", escape)
    with _opened(path) as stream:
        if marks is not None:
            rows, is_open = 0, 0
            for line in stream:
                is_open, _ = marks.scan(line, is_open)
                rows += not is_open
            rows += bool(is_open)
            return {rows, max(0, rows - 1)}
        if kind == "csv":
            csv.field_size_limit(1 << 30)
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
            rows = sum(1 for _ in csv.reader(text, delimiter=delimiter or DELIMITER["csv"]))
            return {rows, max(0, rows - 1)}
        lines, last = 0, b"\n"
        while piece := stream.read(1 << 20):
            lines += piece.count(b"\n")
            last = piece
        rows = lines + (not last.endswith(b"\n"))
        return {rows, max(0, rows - 1)} if kind == "tsv" else {rows}


def _opened(path: Path) -> BinaryIO:
    compression = compression_of(path.name)
    if compression == "gz":
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    if compression == "bz2":
        import bz2

        return cast(BinaryIO, bz2.open(path, "rb"))
    if compression == "xz":
        import lzma

        return cast(BinaryIO, lzma.open(path, "rb"))
    if compression == "zst":
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")


def _unfinished(kept: Kept, input: Input, report: Report) -> None:
    """The parts of a file that is not published: each one whole, and which are missing."""
    ends = False
    shards = sorted(kept.shards(input.file_id))
    for shard in shards:
        here: dict[int, int] = {}  # part -> parts of the shard
        for part in kept.parts_of(input.file_id, shard):
            path = kept.path(input.file_id, shard, part)
            try:
                found = kept.judge(path, input.file_id, shard, part)
            except PartDamage as damage:
                report.damage.append(f"{input.rel} shard {shard} part {part}: {damage}")
                continue
            if found is not None:
                report.parts += 1
                here[part] = found[0].num_parts
                ends = ends or found[0].shard.last
        num_parts = max(here.values(), default=1)
        if gaps := [part for part in range(num_parts) if part not in here]:
            report.missing.append(f"{input.rel} shard {shard}: {len(gaps)} of {num_parts} parts, first {gaps[0]}")
    for shard in range(max(shards, default=-1) + 1):
        if shard not in shards:
            report.missing.append(f"{input.rel} shard {shard}")
    if not ends:
        report.missing.append(f"{input.rel} from shard {max(shards, default=-1) + 1} on")
    report.missing.append(f"{input.rel}: not published")


def _manifest(fs: Fs, folder: Path, job: Job, records: list[dict[str, Any]], report: Report) -> None:
    try:
        manifest.read(fs, folder)
        if len(records) < len(job.inputs):
            report.damage.append("manifest.json: is there, though not every file is published")
        elif fs.read(folder / "manifest.json") != manifest.build(job, records):
            report.damage.append("manifest.json: does not say what the published files say")
    except StateMissing:
        report.missing.append("manifest.json")
    except StateDamage as damage:
        report.damage.append(f"manifest.json: {damage}")


def _unexpected(folder: Path, job: Job, report: Report) -> None:
    """Files in translated/ and errors/ that this job did not make."""
    wanted = {manifest.translated(folder, i.out_rel) for i in job.inputs}
    wanted |= {manifest.errors_file(folder, i.rel) for i in job.inputs}
    for path in _files(folder / "translated", folder / "errors"):
        if path not in wanted and not (report.missing and path.name.startswith(final.TMP)):
            report.damage.append(f"{path.relative_to(folder)}: is not of this job")


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for place, _, found in os.walk(folder):
            yield from (Path(place) / name for name in sorted(found))


def render(report: Report) -> str:
    """The report as lines for people."""
    state = {ExitCode.COMPLETE: "complete and undamaged", ExitCode.DAMAGE: "damaged", ExitCode.MISSING: "not complete"}
    lines = [f"{report.folder}: {state[report.exit_code]}"]
    lines.append(f"  checked   {report.files} files with {report.rows} rows, {report.parts} parts")
    for name, found in (("damage", report.damage), ("missing", report.missing)):
        lines += [f"  {name:9} {one}" for one in found[:50]]
        if len(found) > 50:
            lines.append(f"  {name:9} and {len(found) - 50} more")
    if report.running and report.exit_code is ExitCode.MISSING:
        lines.append("  The job is running: verify it when it has ended.")
    elif report.exit_code is not ExitCode.COMPLETE:
        lines.append("  Run the job again: what is damaged or missing is made anew.")
    return "\n".join(lines)


def run(job: VerifyJob) -> ExitCode:
    """Print the report, of a sweep one a point; the worst verdict is the exit code.

    Raises:
        UsageError: There is no such folder.
    """
    codes = []
    for folder in manifest.find_jobs(OS, Path(job.output_dir) / job.name):
        report = verify(folder)
        text = json.dumps(asdict(report), sort_keys=True) if job.format.value == "json" else render(report)
        streams.show(shown.shown(text))
        codes.append(report.exit_code)
    return max(codes, key=(ExitCode.COMPLETE, ExitCode.MISSING, ExitCode.DAMAGE).index)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("verify")
