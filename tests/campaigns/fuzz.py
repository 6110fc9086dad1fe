"""Hostile rows through every reader, and a share of them through the whole job with a stub model.

Each file is read as shards, again as finished shards, and once more in full, and held against the simple reading of
hostile.py: rows, order, status, text, bytes. Damaged compressed and parquet files are read in a process of their own,
so that a crash of a library is counted, not suffered. Ends with one JSON line.
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
from hymt_batch.progress import Reporter
from hymt_batch.records import ShardRecord
from hymt_batch.source import stream
from hymt_batch.source.stream import Input, SkippedShard, SourceConfig
from jobs import translate
from tests.campaigns import hostile, outputs, stub
from tests.campaigns.hostile import BAD, OK, TOO_LONG, Case

FORMATS = ("text", "text", "jsonl", "jsonl", "jsonl", "csv", "csv", "tsv", "parquet")
LIMITS = (1 << 20, 1 << 20, 1 << 14, 300)
FILES = 9
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
    """One chunk: its figures and what went wrong."""

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.damaged: list[dict[str, str]] = []

    def fail(self, where: str, why: str) -> None:
        self.failures.append(f"seed={self.seed} {where}: {why}"[:400])

    def round(self, number: int, num_rows: int) -> int:
        """Some files, read one by one, then perhaps translated together; how many rows they had."""
        folder = self.work / f"r{number}"
        (folder / "in").mkdir(parents=True)
        limit = self.rng.choice(LIMITS)
        joins = number % JOB_EVERY == 0
        reserved = ("translation", "hymt") if joins else ()
        cases: list[tuple[Path, Case]] = []
        done = 0
        for place in range(FILES):
            format = self.rng.choice(FORMATS)
            one = self.case(f"f{place}", format, num_rows // FILES + self.rng.randrange(50), limit, reserved)
            path = folder / "in" / one.name
            path.write_bytes(self.packed(path, one))
            if not self.check(path, one, limit, reserved):
                path.unlink()
                continue
            cases.append((path, one))
            self.formats[format] += len(one.rows)
            self.statuses.update(status for status, _ in one.rows)
            self.counts["files"] += 1
            done += len(one.rows)
            for _ in range(self.rng.choice((0, 0, 1, 3))):
                self.damage(path, one)
        if joins:
            self.job(folder, cases, limit)
        shutil.rmtree(folder)
        return done

    def case(self, name: str, format: str, num: int, limit: int, reserved: tuple[str, ...]) -> Case:
        if format != "parquet":
            packing = self.rng.choice(("", "", "", ".gz", ".bz2", ".xz", ".zst"))
            made = hostile.case(self.rng, name, format, num, limit, reserved)
            return Case(made.name + packing, made.data, made.rows, made.refused)
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

    def packed(self, path: Path, one: Case) -> bytes:
        pack = PACK.get(path.suffix, bytes)
        if path.suffix in (".gz", ".bz2", ".xz", ".zst") and self.rng.random() < 0.5 and one.data:
            at = self.rng.randrange(len(one.data))
            return bytes(pack(one.data[:at]) + pack(one.data[at:]))  # two members, cut anywhere
        return bytes(pack(one.data))

    def check(self, path: Path, one: Case, limit: int, reserved: tuple[str, ...]) -> bool:
        """Read a file three times; whether it can be part of a job."""
        where = f"{path.parent.parent.name}/{path.name} limit={limit}"
        config = SourceConfig(path=str(path), max_row_bytes=limit)
        try:
            (input,) = stream.find_inputs(config)
            stream.check_fields([input], config, reserved)
        except ConfigError as error:
            self.counts["refused_files"] += 1
            if not one.refused:
                self.fail(where, f"refused: {error}")
            return False
        if one.refused:
            self.fail(where, "not refused")
            return False
        try:
            self.read(where, input, config, one, reserved)
        except Exception as error:  # the finding of this campaign, whatever it is
            self.fail(where, f"{type(error).__name__}: {error}")
            return False
        return True

    def read(self, where: str, input: Input, config: SourceConfig, one: Case, reserved: tuple[str, ...]) -> None:
        bounds = {"shard_rows": self.rng.choice((1 << 15, 97, 400)), "shard_bytes": self.rng.choice((1 << 24, 9000))}
        records: dict[int, ShardRecord] = {}
        found: list[Any] = []
        for shard in stream.cut_shards([input], config, **bounds, get_record=lambda *_: None, reserved=reserved):
            assert not isinstance(shard, SkippedShard)
            found += shard.documents
            size = len(shard.documents)
            records[shard.index] = ShardRecord(
                shard.index, shard.first_row, size, shard.start, shard.end, shard.sha256, shard.last
            )
        seen = [(document.status.value, document.text) for document in found]
        if seen != one.rows:
            at = next((n for n, (a, b) in enumerate(zip(seen, one.rows, strict=False)) if a != b), -1)
            pair = (seen[at], one.rows[at]) if at >= 0 else ""
            self.fail(where, f"{len(seen)} rows for {len(one.rows)}; row {at + 1} differs: {pair!a:.200}")
            return
        if [document.id for document in found] != [f"{input.rel}#{row + 1}" for row in range(len(found))]:
            self.fail(where, "ids are not in order")
        again = list(
            stream.cut_shards([input], config, **bounds, get_record=lambda _, n: records.get(n), reserved=reserved)
        )
        if len(again) != len(records) or not all(isinstance(shard, SkippedShard) for shard in again):
            self.fail(where, "finished shards are not skipped")
        full = [document for document, _ in stream.read_full_documents(input, config, [input], reserved)]
        known = [(d.status, d.text if d.status.value == OK else None, d.digest) for d in full]
        if known != [(d.status, d.text, d.digest) for d in found]:
            self.fail(where, "the finishing pass reads other rows")
        if input.format != "parquet" and not any(status == TOO_LONG for status, _ in one.rows):
            head = stream.read_preamble(input, config)
            if head.bom + head.header + b"".join(document.raw for document in full) != one.data:
                self.fail(where, "the rows' bytes are not the file")

    def damage(self, path: Path, one: Case) -> None:
        """A damaged copy, for the other process to read."""
        data = path.read_bytes()
        if path.suffix not in (".gz", ".bz2", ".xz", ".zst", ".parquet") or len(data) < 20:
            return
        if path.suffix == ".zst" or self.rng.random() < 0.4:  # zst has no checksum here
            data = data[: self.rng.randrange(1, len(data))]
        else:
            data = bytearray(data)
            for _ in range(self.rng.choice((1, 1, 8))):
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        folder = self.work / "damaged"
        folder.mkdir(exist_ok=True)
        copy = folder / f"d{len(self.damaged)}-{path.name}"
        copy.write_bytes(data)
        exact = "" if path.suffix in (".parquet", ".zst") else str(zlib.crc32(one.data))
        self.damaged.append({"path": str(copy), "crc": exact})

    def read_damaged(self) -> None:
        if not self.damaged:
            return
        listing = self.work / "damaged.json"
        listing.write_text(json.dumps(self.damaged))
        command = [sys.executable, "-m", "tests.campaigns.fuzz", "--damaged", str(listing)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_S)
            lines = ran.stdout.splitlines()
        except subprocess.TimeoutExpired as error:
            self.fail("damaged files", f"hang: {str(error.stdout)[-200:]}")
            return
        if ran.returncode or not lines or not lines[-1].startswith("{"):
            self.fail("damaged files", f"exit {ran.returncode}: {lines[-1:]} {ran.stderr[-300:]}")
            return
        figures = json.loads(lines[-1])
        self.failures += [f"seed={self.seed} {one}" for one in figures["failures"]]
        self.counts.update({"damaged_files": figures["files"], "damaged_refused": figures["refused"]})
        shutil.rmtree(self.work / "damaged")

    def job(self, folder: Path, cases: list[tuple[Path, Case]], limit: int) -> None:
        """The whole job over a round's files: one output row each, with a status, in order."""
        if not cases:
            return
        whole = self.rng.random() < 0.5
        words = [f"source.path={folder / 'in'}", f"output_dir={folder}", "name=out", "tgt_lang=fr", "model=demo"]
        words += [f"source.max_row_bytes={limit}", "check.max_error_rate=1", "batch.part_rows=300", "launch.samples=0"]
        words += [] if whole else ["write.format=jsonl"]
        try:
            with Reporter("off") as telling:
                job = settings.load("translate", words)
                translate.translate(job, telling, stub.prepare, stub.decode_batch)
        except Exception as error:  # likewise
            self.fail(f"{folder.name} job", f"{type(error).__name__}: {error}")
            return
        self.counts["jobs"] += 1
        for path, one in cases:
            self.counts["job_rows"] += len(one.rows)
            why = outputs.compare(folder / "out", path, one, keeps=whole)
            if why:
                self.fail(f"{folder.name} job {path.name} keeps={whole} limit={limit}", why)


def utf8(cell: bytes) -> tuple[str, str | None]:
    try:
        return OK, cell.decode()
    except UnicodeDecodeError:
        return BAD, None


def damaged(listing: Path) -> int:
    """Read damaged files: rows or a refusal, nothing else. Prints what it is at, then figures."""
    failures, refused, files = [], 0, json.loads(listing.read_text())
    for one in files:
        print(one["path"], flush=True)
        config = SourceConfig(path=one["path"])
        try:
            (input,) = stream.find_inputs(config)
            raw = [document.raw for document, _ in stream.read_full_documents(input, config, [input])]
            head = stream.read_preamble(input, config)
        except HymtError:
            refused += 1
            continue
        except Exception as error:  # the finding
            failures.append(f"{one['path']}: {type(error).__name__}: {error}"[:300])
            continue
        if one["crc"] and zlib.crc32(head.bom + head.header + b"".join(raw)) != int(one["crc"]):
            failures.append(f"{one['path']}: read without an error as other bytes")
    print(json.dumps({"files": len(files), "refused": refused, "failures": failures}))
    return 0


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """A hang ends as an error."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Read `size` hostile rows."""
    campaign = Campaign(seed, work)
    number = rows = 0
    while rows < size:
        try:
            with at_most(ROUND_S):
                rows += campaign.round(number, min(6000, max(FILES * 20, size - rows)))
        except TimeoutError as error:
            campaign.fail(f"r{number}", f"hang: {error}")
            break
        number += 1
        if len(campaign.failures) > 20:
            break
    campaign.read_damaged()
    return {
        "passed": not campaign.failures,
        "failures": campaign.failures,
        "rows": rows,
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
