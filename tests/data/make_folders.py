"""Create the folders of earlier versions in tests/data: plan1 at commit a3f0e6e, plan2 at commit 7281de5.

Commit a3f0e6e writes no plan version, 7281de5 version 2 of identity and plan. Neither writes row records.

    git worktree add --detach ../old 7281de5; cp tests/data/make_folders.py ../old/tests/make.py
    cd ../old; PYTHONPATH=. python tests/make.py OUT

OUT/in holds the inputs, OUT/done-FORMAT a finished job and OUT/half-FORMAT a job that failed partway.
OUT/decoded.json holds, for each folder, the number of texts decoded for its committed parts and files.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

from campaigns import stub

from hymt_batch import config
from hymt_batch.write.output import Output
from jobs import translate

PROGRESS = importlib.import_module("hymt_batch.progress")
Reporter: Any = getattr(PROGRESS, "Reporter", None) or PROGRESS.Telling  # the name at a3f0e6e
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "rain", "falls", "on", "Lyon"]
TEXTS = [" ".join(WORDS[(row * k) % len(WORDS)] for k in range(1, 3 + row % 9)) + f" {row}" for row in range(20)]
ODD = [
    "",  # blank
    " \t ",
    "\u200b",  # invisible characters: this version sends them
    "\ufeff\u00ad",
    "\u200e \u2060",
    "twin",
    "twin",
    " twin ",  # same prompt as its twin: this version decodes it separately
    "a sentence. " * 9 + "The end.",  # split into segments
    "?" * 150,
    "x" * 150,
    "e\u0301" * 60,
    "\u00e9t\u00e9, \u4f60\u597d",
]
SETTINGS = {
    "text": ("source.path=in/a.txt",),
    "jsonl": ("source.path=in/a.jsonl", "source.src_lang_field=from", "source.tgt_lang_field=to"),
    "csv": ("source.path=in/a.csv",),
    "parquet": ("source.path=in/a.parquet",),
    "files": ("source.path=in/files",),
    "folded": ("source.path=in/a.csv", "write.format=text"),  # with line breaks that become spaces
}
CUT = (
    "batch.part_rows=6",
    "batch.shard_rows=24",
    "batch.part_tokens=600",
    "batch.max_rows=2",
    "segment.max_tokens=64",
    "source.max_row_bytes=400",
    "launch.prefetch_shards=0",
    "check.max_error_rate=1",
    "tgt_lang=fr",
    "model=demo",
)


def inputs(folder: Path) -> None:
    (folder / "files/deep").mkdir(parents=True)
    texts = [text for pair in zip(TEXTS, ODD + TEXTS[: len(TEXTS) - len(ODD)], strict=True) for text in pair]
    long = "y" * 500
    lines = [text.encode() for text in texts]
    (folder / "a.txt").write_bytes(b"\n".join([*lines[:17], b"bad \xff byte", long.encode(), *lines[17:]]) + b"\n")
    rows: list[bytes] = []
    for number, text in enumerate(texts):
        value: dict[str, Any] = {"id": number, "text": text, "from": "en" if number % 3 else None}
        value["to"] = {4: "de", 5: "zh", 9: "xx", 11: 7}.get(number)
        rows.append(json.dumps(value, ensure_ascii=number % 2 == 0).encode())
    odd = [
        b'{"id": 100, "score": NaN, "text": "not a number"}',
        b'{"id": 101, "big": 1e999, "text": "a big number"}',
        b'{"id": 104, "body": "no text"}',
        b'{"id": 105, "text": ["a", "list"]}',
        b'{"id": 106, "text": "bad \xff byte"}',
        b"not json",
        b'{"id": 107, "text": "' + long.encode() + b'", "last": true}',
        b'{"id": 108, "text": null}',
        b'{"id": 109, "text": "a\\ud800b"}',
    ]
    taken = [  # after the first 100 rows, in which a name collision rejects the file
        b'{"id": 102, "text": "taken", "hymt": 1}',
        b'{"id": 103, "text": "taken", "translation": "mine"}',
    ]
    rows = [*rows[:12], *odd[:4], *rows[12:30], *odd[4:], *[b""] * 60, *rows[30:], *taken]
    (folder / "a.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    cells = ['"' + text.replace('"', '""') + '"' for text in texts]
    records = [f"{number},{cell},k{number}".encode() for number, cell in enumerate(cells)]
    odd = [
        b'200,"Heavy rain \\"is expected\\" in Athens.",k',
        b"201,too few",
        b"202,too,many,fields",
        b'203,"two\nlines",k',
        b"204,bad \xff byte,k",
        b"205," + long.encode() + b",k",
        b'206,"ends with a backslash\\",k',
    ]
    (folder / "a.csv").write_bytes(b"\n".join([b"id,text,key", *records[:13], *odd, *records[13:]]) + b"\n")
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = [*texts[:15], None, long, *texts[15:]]
    table = pa.table({"id": pa.array(range(len(column)), pa.int64()), "text": column})
    pq.write_table(table, folder / "a.parquet", row_group_size=16)
    for name, first in (("one.txt", 0), ("two.txt", 5), ("deep/three.txt", 9)):
        (folder / "files" / name).write_bytes("".join(f"{text}\r\n" for text in texts[first : first + 20]).encode())


def run(name: str, *settings: str, stop_at: int | None = None) -> int:
    """Run the job and return the number of texts decoded up to its last commit."""
    decoded = committed = 0
    commit = Output.commit

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal committed
        commit(*arguments, **named)
        committed = decoded

    def decode(hymt: Any, prompts: Any, *rest: Any) -> Any:
        nonlocal decoded
        if stop_at is not None and decoded >= stop_at:
            raise RuntimeError("stopped here")
        decoded += len(prompts)
        return stub.decode_batch(hymt, prompts, *rest)

    job = config.load("translate", ["output_dir=.", f"name={name}", *CUT, *settings])
    with Reporter("off") as reporter, patch.object(Output, "commit", counted):
        try:
            translate.translate(job, reporter, stub.prepare, decode)
        except RuntimeError as error:
            assert stop_at is not None and str(error) == "stopped here", error
    return committed


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    os.chdir(out)
    inputs(Path("in"))
    decoded: dict[str, int] = {}
    for kind, settings in SETTINGS.items():
        decoded[f"done-{kind}"] = total = run(f"done-{kind}", *settings)
        decoded[f"half-{kind}"] = run(f"half-{kind}", *settings, stop_at=total * 2 // 3)
    for folder in Path().glob("*-*/logs"):
        shutil.rmtree(folder)
    for name in ("inputs.json", "stopped.json"):  # with paths and times of this machine
        for path in Path().glob(f"*-*/.hymt/{name}"):
            path.unlink()
    Path("decoded.json").write_text(json.dumps(decoded, indent=1) + "\n")


if __name__ == "__main__":
    main()
