"""Read hostile rows with every reader, and pass a share of them through the whole job with a stub model.

Each file is read as shards, again as finished shards, and once in full, and compared with the simple readers of
hostile.py: rows, order, status, text and bytes. Damaged compressed and parquet files are read in a subprocess, so that
a crash of a library is counted as a failure and does not end the campaign. The last line is JSON.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from hymt_batch import config as settings
from hymt_batch.errors import ConfigError, HymtError
from hymt_batch.records import Input, ShardRecord
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard, cut_shards
from tests.campaigns import documents, hostile, json_documents, outputs, several_fields, spliced_files
from tests.campaigns.hostile import BAD, OK, TOO_LONG, Case
from tests.fakes import job as fake_job

FORMATS = ("text", "text", "jsonl", "jsonl", "jsonl", "csv", "csv", "tsv", "parquet")
LIMITS = (1 << 20, 1 << 20, 1 << 14, 300)
FILES = 9
SPLICED_FILES = 60  # a round
DOCUMENTS = 40
ROUND_S = 300
JOB_EVERY = 4  # rounds
KINDS: dict[str, Any] = {
    "string": lambda cells: cells.view(pa.string()),
    "large_string": lambda cells: cells.view(pa.string()).cast(pa.large_string(), safe=False),
    "binary": lambda cells: cells,
    "large_binary": lambda cells: cells.cast(pa.large_binary()),
    "dictionary": lambda cells: cells.dictionary_encode(),
    "binary_view": lambda cells: cells.cast(pa.binary_view()),
}


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue().to_pybytes())


PACK = {"": bytes, ".gz": lambda data: gzip.compress(data, 1), ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}


class Campaign:
    """One run with a seed: its figures and its failures."""

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.damaged: list[dict[str, str]] = []

    def fail(self, where: str, reason: str) -> None:
        self.failures.append(f"seed={self.seed} {where}: {reason}"[:400])

    def round(self, index: int, num_rows: int) -> int:
        """Check some files one by one, in some rounds translate them together, and return their number of rows."""
        folder = self.work / f"r{index}"
        (folder / "in").mkdir(parents=True)
        limit = self.rng.choice(LIMITS)
        runs_job = index % JOB_EVERY == 0
        reserved = ("translation", "hymt") if runs_job else ()
        cases: list[tuple[Path, Case]] = []
        num_done = 0
        for file_index in range(FILES):
            format = self.rng.choice(FORMATS)
            case = self.case(f"f{file_index}", format, num_rows // FILES + self.rng.randrange(50), limit, reserved)
            path = folder / "in" / case.name
            path.write_bytes(self.pack(path, case))
            if not self.check(path, case, limit, reserved):
                path.unlink()
                continue
            cases.append((path, case))
            self.formats[format] += len(case.rows)
            self.statuses.update(status for status, _ in case.rows)
            self.counts["files"] += 1
            num_done += len(case.rows)
            for _ in range(self.rng.choice((0, 0, 1, 3))):
                self.damage(path, case)
        if runs_job:
            self.job(folder, cases, limit)
        self.documents(folder)
        self.spliced_files(folder)
        num_done += self.several_fields(folder, num_rows // FILES, runs_job=runs_job)
        shutil.rmtree(folder)
        return num_done

    def several_fields(self, folder: Path, num_rows: int, *, runs_job: bool) -> int:
        """Check a file of which rows have several texts; return its number of rows."""
        (work := folder / "fields").mkdir()
        try:
            case, path, difference = several_fields.check(work, self.rng, num_rows)
            if runs_job and not difference:
                self.counts["jobs"] += 1
                difference = several_fields.check_job(work, case, path)
        except Exception as error:  # any exception is a failure here too
            self.fail(f"{folder.name} several fields", f"{type(error).__name__}: {error}")
            return 0
        if difference:
            self.fail(f"{folder.name} several fields {case.fields}", difference)
        self.formats["several fields"] += len(case.rows)
        return len(case.rows)

    def spliced_files(self, folder: Path) -> None:
        """Check files of Markdown, and text files as documents."""
        for index in range(SPLICED_FILES):
            path = folder / ("a.md" if index % 2 else "a.txt")
            try:
                failure = spliced_files.find_failure(self.rng, path, document=not index % 2)
            except Exception as error:  # any exception is a failure that this campaign reports
                failure = f"{type(error).__name__}: {error}"
            if failure:
                self.fail(f"{folder.name} {path.name}", failure)
        self.counts["spliced_files"] += SPLICED_FILES

    def documents(self, folder: Path) -> None:
        """Read and write documents; each must keep what is not translated."""
        for index in range(DOCUMENTS):
            try:
                num_places, problem = documents.check(self.rng, folder, f"d{index}")
            except ConfigError:  # its first bytes are not those of text
                continue
            except Exception as error:  # any other exception is a failure that this campaign reports
                num_places, problem = 0, f"{type(error).__name__}: {error}"
            self.counts.update(documents=1, places=num_places)
            if problem:
                self.fail(f"{folder.name} document {index}", problem)

    def case(self, name: str, format: str, num: int, limit: int, reserved: tuple[str, ...]) -> Case:
        if format != "parquet":
            packing = self.rng.choice(("", "", "", ".gz", ".bz2", ".xz", ".zst"))
            case = hostile.case(self.rng, name, format, num, limit, reserved)
            return Case(case.name + packing, case.data, case.rows, case.refused)
        cells: list[bytes | None] = []
        for _ in range(num):
            cell = hostile.text(self.rng).encode()
            cells.append(None if self.rng.random() < 0.05 else hostile.mutated(self.rng, cell, self.rng.random() < 0.1))
        kind = self.rng.choice(list(KINDS))
        column = KINDS[kind](pa.array(cells, pa.binary()))
        extra = pa.array([[{"a": row, "b": "x" * (row % 9)}] for row in range(num)])
        table = pa.table({"id": pa.array(range(num)), "text": column, "more": extra})
        sink = pa.BufferOutputStream()
        size = self.rng.choice((1, 7, 100, num + 1))
        parquet.write_table(
            table, sink, row_group_size=size, write_page_checksum=True, data_page_size=self.rng.choice((64, 1 << 20))
        )
        rows = [(OK, "") if cell is None else (TOO_LONG, None) if len(cell) > limit else utf8(cell) for cell in cells]
        return Case(f"{name}.parquet", sink.getvalue().to_pybytes(), rows)

    def pack(self, path: Path, case: Case) -> bytes:
        compress = PACK.get(path.suffix, bytes)
        if path.suffix in (".gz", ".bz2", ".xz", ".zst") and self.rng.random() < 0.5 and case.data:
            at = self.rng.randrange(len(case.data))
            return bytes(compress(case.data[:at]) + compress(case.data[at:]))  # two members, divided at a random byte
        return bytes(compress(case.data))

    def check(self, path: Path, case: Case, limit: int, reserved: tuple[str, ...]) -> bool:
        """Read a file three times; return whether it can be part of a job."""
        where = f"{path.parent.parent.name}/{path.name} limit={limit}"
        config = SourceConfig(path=str(path), max_row_bytes=limit)
        try:
            (input,) = discovery.find_inputs(config)
            stream.check_fields([input], config, reserved)
        except ConfigError as error:
            self.counts["refused_files"] += 1
            if not case.refused:
                self.fail(where, f"refused: {error}")
            return False
        if case.refused:
            self.fail(where, "not refused")
            return False
        try:
            self.read(where, input, config, case, reserved)
        except Exception as error:  # any exception is a failure that this campaign reports
            self.fail(where, f"{type(error).__name__}: {error}")
            return False
        return True

    def read(self, where: str, input: Input, config: SourceConfig, case: Case, reserved: tuple[str, ...]) -> None:
        limits = {"shard_rows": self.rng.choice((1 << 15, 97, 400)), "shard_bytes": self.rng.choice((1 << 24, 9000))}
        records: dict[int, ShardRecord] = {}
        documents: list[Any] = []
        for shard in cut_shards([input], config, **limits, get_record=lambda *_: None, reserved=reserved):
            assert not isinstance(shard, SkippedShard)
            documents += shard.documents
            size = len(shard.documents)
            records[shard.index] = ShardRecord(
                shard.index, shard.first_row, size, shard.start, shard.end, shard.sha256, shard.last
            )
        rows = [(document.status.value, document.text) for document in documents]
        if rows != case.rows:
            differing = next((n for n, (a, b) in enumerate(zip(rows, case.rows, strict=False)) if a != b), -1)
            pair = (rows[differing], case.rows[differing]) if differing >= 0 else ""
            self.fail(where, f"{len(rows)} rows for {len(case.rows)}; row {differing + 1} differs: {pair!a:.200}")
            return
        if [document.id for document in documents] != [f"{input.rel}#{row + 1}" for row in range(len(documents))]:
            self.fail(where, "ids are not in order")
        again = list(cut_shards([input], config, **limits, get_record=lambda _, n: records.get(n), reserved=reserved))
        if len(again) != len(records) or not all(isinstance(shard, SkippedShard) for shard in again):
            self.fail(where, "finished shards are not skipped")
        full = [document for document, _ in stream.read_full_documents(input, config, [input], reserved)]
        outcomes = [(d.status, d.text if d.status.value == OK else None, d.digest) for d in full]
        if outcomes != [(d.status, d.text, d.digest) for d in documents]:
            self.fail(where, "the finishing pass reads different rows")
        if input.format != "parquet" and not any(status == TOO_LONG for status, _ in case.rows):
            head = read_preamble(input, config)
            if head.bom + head.header + b"".join(document.raw for document in full) != case.data:
                self.fail(where, "the bytes of the rows do not add up to the file")

    def damage(self, path: Path, case: Case) -> None:
        """Write a damaged copy for the subprocess to read."""
        data = path.read_bytes()
        if path.suffix not in (".gz", ".bz2", ".xz", ".zst", ".parquet") or len(data) < 20:
            return
        if path.suffix == ".zst" or self.rng.random() < 0.4:  # without a checksum in zst, only truncation is noticed
            data = data[: self.rng.randrange(1, len(data))]
        else:
            data = bytearray(data)
            for _ in range(self.rng.choice((1, 1, 8))):
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        folder = self.work / "damaged"
        folder.mkdir(exist_ok=True)
        copy = folder / f"d{len(self.damaged)}-{path.name}"
        copy.write_bytes(data)
        exact = "" if path.suffix in (".parquet", ".zst") else str(zlib.crc32(case.data))
        self.damaged.append({"path": str(copy), "crc": exact})

    def read_damaged(self) -> None:
        if not self.damaged:
            return
        listing = self.work / "damaged.json"
        listing.write_text(json.dumps(self.damaged))
        command = [sys.executable, "-m", "tests.campaigns.fuzz", "--damaged", str(listing)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_S)
            lines = result.stdout.splitlines()
        except subprocess.TimeoutExpired as error:
            self.fail("damaged files", f"hang: {str(error.stdout)[-200:]}")
            return
        if result.returncode or not lines or not lines[-1].startswith("{"):
            self.fail("damaged files", f"exit {result.returncode}: {lines[-1:]} {result.stderr[-300:]}")
            return
        figures = json.loads(lines[-1])
        self.failures += [f"seed={self.seed} {failure}" for failure in figures["failures"]]
        self.counts.update({"damaged_files": figures["files"], "damaged_refused": figures["refused"]})
        shutil.rmtree(self.work / "damaged")

    def job(self, folder: Path, cases: list[tuple[Path, Case]], limit: int) -> None:
        """Run the whole job over the files of a round; each row must have one output row with a status, in order."""
        if not cases:
            return
        keeps_format = self.rng.random() < 0.5
        overrides = [f"source.path={folder / 'in'}", f"output_dir={folder}", "name=out", "tgt_lang=fr", "model=demo"]
        overrides += [
            f"source.max_row_bytes={limit}",
            "check.max_error_rate=1",
            "batch.part_rows=300",
            "launch.samples=0",
        ]
        overrides += [] if keeps_format else ["write.format=jsonl"]
        try:
            with Reporter("off") as reporter:
                job = settings.load("translate", overrides)
                fake_job.translate_with(job, reporter)
        except Exception as error:  # any exception is a failure here too
            self.fail(f"{folder.name} job", f"{type(error).__name__}: {error}")
            return
        self.counts["jobs"] += 1
        for path, case in cases:
            self.counts["job_rows"] += len(case.rows)
            difference = outputs.compare(folder / "out", path, case, keeps=keeps_format)
            if difference:
                self.fail(f"{folder.name} job {path.name} keeps={keeps_format} limit={limit}", difference)


def utf8(cell: bytes) -> tuple[str, str | None]:
    try:
        return OK, cell.decode()
    except UnicodeDecodeError:
        return BAD, None


def damaged(listing: Path) -> int:
    """Read damaged files; each must give its rows or be refused. Prints each path, then the figures as JSON."""
    failures, refused, files = [], 0, json.loads(listing.read_text())
    for entry in files:
        print(entry["path"], flush=True)
        config = SourceConfig(path=entry["path"])
        try:
            (input,) = discovery.find_inputs(config)
            raw = [document.raw for document, _ in stream.read_full_documents(input, config, [input])]
            head = read_preamble(input, config)
        except HymtError:
            refused += 1
            continue
        except Exception as error:  # any other exception is a failure
            failures.append(f"{entry['path']}: {type(error).__name__}: {error}"[:300])
            continue
        if entry["crc"] and zlib.crc32(head.bom + head.header + b"".join(raw)) != int(entry["crc"]):
            failures.append(f"{entry['path']}: read without an error but with different bytes")
    print(json.dumps({"files": len(files), "refused": refused, "failures": failures}))
    return 0


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer, so that a hang ends as a failure."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError(f"not finished within {seconds} s")

    previous_handler = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous_handler)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Read `size` hostile rows."""
    campaign = Campaign(seed, work)
    index = rows = 0
    while rows < size:
        try:
            with time_limit(ROUND_S):
                rows += campaign.round(index, min(6000, max(FILES * 20, size - rows)))
        except TimeoutError as error:
            campaign.fail(f"r{index}", f"hang: {error}")
            break
        index += 1
        if len(campaign.failures) > 20:
            break
    campaign.read_damaged()
    num_documents = max(200, rows // 100)
    campaign.failures += json_documents.check(campaign.rng, num_documents)
    return {
        "passed": not campaign.failures,
        "failures": campaign.failures,
        "rows": rows,
        "json_documents": num_documents,
        **campaign.counts,
        "formats": dict(campaign.formats),
        "statuses": dict(campaign.statuses),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--size", type=int, default=1_000_000, help="rows")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--damaged", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.damaged:
        return damaged(options.damaged)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = run(options.seed, options.size, Path(work))
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
