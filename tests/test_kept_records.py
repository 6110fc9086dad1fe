"""The records of published files are kept in little memory and come back as they were."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.write.kept_records import FileRecords, KeptRecord, RecordPool

ENVIRONMENT = {"device": "cpu", "versions": {"torch": "2"}}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def a_record(name: str, rows: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "identity": digest("job"),
        "rel": name,
        "out_rel": name,
        "format": "text",
        "rows": rows,
        "input": {"bytes": 100 + rows, "sha256": digest(name)},
        "output": {"rows": rows, "bytes": 120 + rows, "sha256": digest(name + "out")},
        "errors": None,
        "counts": {"ok": rows},
        "flags": {},
        "tokens": {"source": 7 * rows, "new": 9 * rows},
        "degraded": {},
        "environments": [dict(ENVIRONMENT)],
        **fields,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"output": None, "failed": "in.srt has no times"},
        {"errors": {"rows": 1, "bytes": 80, "sha256": digest("errors")}, "texts": 6, "tries": {"plain": 2}},
        {"environments": [ENVIRONMENT, {"device": "cuda"}], "degraded": {"oom_split": 1}, "settings_sha256": "x"},
    ],
)
def test_a_kept_record_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    pool, record = RecordPool(), a_record("a.txt", **fields)
    pool.keep(a_record("b.txt"), "b.txt", "b.txt")
    kept = FileRecords([pool.keep({**record, "shards": "packed"}, "a.txt", "a.txt")])
    assert manifest.canonical_json(kept[0]) == manifest.canonical_json(record)
    assert list(kept[:1]) == [record] and len(kept) == 1


def test_records_of_many_files_share_what_is_equal() -> None:
    pool, kept = RecordPool(), list[KeptRecord]()
    names = [f"{index:06}.txt" for index in range(2000)]
    for name in names[:100]:
        kept.append(pool.keep(a_record(name), name, name))
    tracemalloc.start()
    for name in names[100:]:
        kept.append(pool.keep(a_record(name), name, name))
    assert tracemalloc.get_traced_memory()[0] / 1900 < 800  # bytes a file
    tracemalloc.stop()
    assert [record["rel"] for record in FileRecords(kept)] == names
