"""A small job that upper-cases a text file with the real commit protocol; also a program that tests kill.

`python upper.py FOLDER SOURCE LOG PAUSE_S TTL_S` appends a line to LOG each time it is about to decode a part.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch import file_units, manifest
from hymt_batch.check.assemble import shape_row as shape
from hymt_batch.check.settings import CheckConfig
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.fs import OS_FS, OsFs
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Document, Input, Part, Preamble, Prompt, Row, Segment, Shard, Status, Translation
from hymt_batch.sent_key import keys_of
from hymt_batch.source import stream
from hymt_batch.source.settings import SourceConfig
from hymt_batch.state_layout import FLAT
from hymt_batch.write import identity_versions
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.summary import Summary

IDENTITY: dict[str, Any] = {
    "version": identity_versions.VERSION,
    "decode": {"method": "upper"},
    "batch": {"shard_rows": 8, "part_rows": 3},
}
ENVIRONMENT = {"device": "none"}
SETTINGS: dict[str, Any] = {"write.format": "input", "write.review": True, "check.flag.min_logprob": None}


def shape_row(document: Document, row: Row, one_line: bool) -> Row:
    return shape(document, row, one_line, CheckConfig())


class Fast(OsFs):
    """The real file system without fsync: the machine keeps running when a process dies."""

    def fsync(self, fd: int) -> None: ...

    def fsync_dir(self, path: Path) -> bool:
        return True


FAST = Fast()


def an_input(path: Path, rel: str | None = None, format: str = "text") -> Input:
    rel = rel or path.name
    file_id = hashlib.sha256(os.fsencode(rel)).hexdigest()[:16]
    return Input(
        rel=rel,
        out_rel=rel,
        path=str(path),
        format=format,
        file_id=file_id,
        size=path.stat().st_size if path.exists() else 0,
    )


FIELDS = SourceConfig(path="x", text_field=["title", "body"])
"""How a jsonl file is read: its rows have several text fields."""


def read_preamble(input: Input) -> Preamble:
    return Preamble(text_fields=FIELDS.text_fields) if input.format == "jsonl" else Preamble()


def read(input: Input) -> Iterator[Document]:
    if input.format != "text":
        config = FIELDS if input.format == "jsonl" else SourceConfig(path=input.path)
        yield from (document for document, _ in stream.read_full_documents(input, config, [input]))
        return
    data = Path(input.path).read_bytes()
    for row, raw in enumerate(data.splitlines(keepends=True)):
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        yield Document(f"{input.rel}#{row + 1}", row, raw.decode().rstrip("\n"), digest, raw)


def shards(input: Input, shard_rows: int = 8) -> Iterator[Shard]:
    chunks: list[list[Document]] = [[]]
    for document in read(input):
        if len(chunks[-1]) >= shard_rows and ends_row(chunks[-1][-1]):
            chunks.append([])
        chunks[-1].append(document)
    first_row = start = 0
    for index, chunk in enumerate(chunks):
        ends = [document for document in chunk if ends_row(document)]
        raw = b"".join(d.digest if input.format == "srt" else d.raw for d in ends)
        sha = hashlib.sha256(raw).hexdigest()
        yield Shard(input, index, first_row, chunk, start, start + len(raw), sha, index == len(chunks) - 1)
        first_row, start = first_row + len(chunk), start + len(raw)


LONG = "long "
"""How a row begins that is divided: each of its words is a segment, and each run has two."""


def plan(shard: Shard, part_rows: int = 3) -> list[Part]:
    """Plan parts whose rows interleave, as sorting by length does; divided rows come last."""
    long = [index for index, document in enumerate(shard.documents) if (document.text or "").startswith(LONG)]
    short = [index for index in range(len(shard.documents)) if index not in long]
    count = -(-len(short) // part_rows) if shard.documents else 1  # an empty file has one part
    num_parts = count + len(long)
    parts = [Part(shard, index, num_parts, tuple(short[index::count])) for index in range(count)]
    for part_index, row in enumerate(long, count):
        words = (shard.documents[row].text or "").split(" ")
        segments = [Segment(row, i, word, trail=" " * (i + 1 < len(words))) for i, word in enumerate(words)]
        prompts = tuple(Prompt(segment, shard.documents[row].id, (), 1, "fr") for segment in segments)
        runs = (2,) * (len(words) // 2) + (1,) * (len(words) % 2)
        parts.append(Part(shard, part_index, num_parts, (row,), prompts, run_lengths=runs))
    return parts


def prompts(shard: Shard) -> list[Prompt]:
    """Return a prompt for each text of a shard, by which its rows have keys."""
    texts = [(index, document) for index, document in enumerate(shard.documents) if document.text]
    return [
        Prompt(Segment(index, 0, document.text or ""), document.id, tuple((document.text or "").encode()), 1, "fr")
        for index, document in texts
    ]


def plan_around(shard: Shard, known: Collection[str], part_rows: int) -> list[Part]:
    """Plan parts as `batch.plan_parts` does where rows are known: those come last, in parts of their own."""
    decoded = [index for index, document in enumerate(shard.documents) if document.text not in known]
    others = [index for index in range(len(shard.documents)) if index not in decoded]
    groups = [rows[i : i + part_rows] for rows in (decoded, others) for i in range(0, len(rows), part_rows)] or [[]]
    return [Part(shard, index, len(groups), tuple(rows)) for index, rows in enumerate(groups)]


def with_keys(part: Part, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a part with the keys that `assemble_rows` gives them."""
    keys = keys_of(part.shard.documents, prompts(part.shard))
    return [replace(row, key=keys.get(row.row_index - part.shard.first_row, b"")) for row in rows]


def upper_segments(prompts: Sequence[Prompt]) -> list[Translation]:
    return [Translation(prompt, prompt.segment.text.upper(), "stop", 1) for prompt in prompts]


def upper(part: Part) -> list[Row]:
    rows = []
    for index in part.document_indices:
        document = part.shard.documents[index]
        text = (document.text or "").upper()
        status = Status.EMPTY if text.startswith("EMPTY") else document.status
        translation, message = text if status is Status.OK else "", document.message
        flags = ("empty",) if status is Status.EMPTY else ()
        row = Row(document.row_index, document.digest, status, translation, flags=flags, message=message)
        language = ("fr", 0.25) if len(translation) % 2 else None
        rows.append(replace(row, num_source_tokens=len(text), num_new_tokens=1, language=language))
    return rows


def upper_together(part: Part, unit: Sequence[Part]) -> list[Row]:
    """Upper-case a part of a unit, with texts that depend on everything that is decoded together."""
    batch = hashlib.sha256(b"".join(document.raw for each in unit for document in _decoded(each))).hexdigest()[:6]
    return [replace(row, text=f"{row.text} {batch}") if row.text else row for row in upper(part)]


def _decoded(part: Part) -> list[Document]:
    return [part.shard.documents[index] for index in part.document_indices]


def open_output(folder: Path, inputs: list[Input], **options: Any) -> Output:
    """Open the output of a small job; `options` replace the defaults."""
    defaults: dict[str, Any] = {
        "identity": IDENTITY,
        "environment": ENVIRONMENT,
        "settings": SETTINGS,
        "config": WriteConfig(),
        "read": read,
        "preamble": read_preamble,
        "lease_ttl_s": 0.0,
        "lease_beat_s": 20.0,
        "fs": FAST,
    }
    given = defaults | options
    access = InputAccess(given.pop("read"), given.pop("preamble"), given.pop("shape_row", shape_row))
    times = LeaseTimes(given.pop("lease_ttl_s"), given.pop("lease_beat_s"))
    identity = given.pop("identity")
    job = manifest.new_job(
        identity,
        inputs,
        given.pop("environment"),
        given.pop("settings"),
        units=file_units.plan(inputs, identity),
        layout=given.pop("layout", FLAT),
    )
    config, fs = given.pop("config"), given.pop("fs")
    given["auto_keys"] = frozenset(given.pop("auto_keys", ()))
    given["aliases"] = tuple(given.pop("aliases", ()))
    return Output.open(folder, RequestedJob(job, **given), access, config, times, fs)


def run(
    folder: Path,
    inputs: list[Input],
    *,
    fs: Fs = FAST,
    decoded: Callable[[str], None] = lambda name: None,
    acknowledged: Callable[[str], None] = lambda name: None,
    pause_s: float = 0.0,
    environment: dict[str, Any] = ENVIRONMENT,
    **options: Any,
) -> Summary:
    """Run the whole job in the same steps as jobs/translate.py, skipped shards included."""
    with open_output(folder, inputs, fs=fs, environment=environment, **options) as output:
        output.assemble_outdated()
        if not output.is_complete:
            for input in inputs:
                for shard in shards(input):
                    record = output.shard_record(input, shard.index)
                    if record is not None and record.sha256 == shard.sha256:
                        output.finish_skipped_shard(input, record)
                        continue
                    for part in plan(shard):
                        name = f"{input.rel}/{shard.index}/{part.index}"
                        if not output.has(part):
                            decoded(name)
                            time.sleep(pause_s)
                            output.commit(part, upper(part), environment)
                        acknowledged(name)
                    output.finish_shard(shard)
        return output.finalize()


def main() -> None:
    folder, source, log, pause_s, ttl_s = sys.argv[1:]

    def decoded(name: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")

    run(
        Path(folder),
        [an_input(Path(source))],
        decoded=decoded,
        pause_s=float(pause_s),
        lease_ttl_s=float(ttl_s),
        lease_beat_s=0.2,
        fs=OS_FS,
    )


if __name__ == "__main__":
    main()
