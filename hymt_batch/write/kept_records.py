"""The records of published files, as a job keeps them in memory until it writes the manifest: 100,000 of them may be.

What is equal in many records, such as the environments, is kept once; digests are kept as bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict

_OWN_FIELDS = frozenset({"rel", "out_rel", "rows", "input", "output", "tokens", "shards"})
"""Fields that differ between files; the others are mostly equal."""


class _Digested(NamedTuple):
    """Size and sha256 of a file, and its rows if it is an output."""

    num_bytes: int
    sha256: bytes
    rows: int | None

    @classmethod
    def of(cls, value: JsonDict) -> _Digested:
        return cls(value["bytes"], bytes.fromhex(value["sha256"]), value.get("rows"))

    def to_json(self) -> JsonDict:
        rows = {} if self.rows is None else {"rows": self.rows}
        return {**rows, "bytes": self.num_bytes, "sha256": self.sha256.hex()}


class KeptRecord:
    """The record of one published file, without its shards."""

    __slots__ = ("_input", "_others", "_out_rel", "_output", "_rel", "_rows", "_tokens")

    def __init__(self, record: JsonDict, others: JsonDict, rel: str, out_rel: str) -> None:
        self._others, self._rel, self._out_rel, self._rows = others, rel, out_rel, record["rows"]
        self._input = _Digested.of(record["input"])
        self._output = _Digested.of(record["output"]) if record["output"] else None
        self._tokens = tuple(record["tokens"].items())

    def has(self, field: str) -> bool:
        """Return whether the record has a field that is mostly equal or empty, such as "errors"."""
        return bool(self._others.get(field))

    def to_json(self) -> JsonDict:
        """Return the record; nobody may change what is in it."""
        return {
            **self._others,
            "rel": self._rel,
            "out_rel": self._out_rel,
            "rows": self._rows,
            "input": self._input.to_json(),
            "output": self._output.to_json() if self._output else None,
            "tokens": dict(self._tokens),
        }


class RecordPool:
    """Makes the kept records of a job, which share what is equal in them."""

    def __init__(self) -> None:
        self._others: dict[Any, JsonDict] = {}  # fields that are not those of one file
        self._environments: dict[bytes, JsonDict] = {}  # by their JSON
        self._seen: dict[int, JsonDict] = {}  # environments of records, by their identity

    def keep(self, record: JsonDict, rel: str, out_rel: str) -> KeptRecord:
        """Return a record in the form in which it is kept, under the names of its input."""
        others = {name: value for name, value in record.items() if name not in _OWN_FIELDS}
        others["environments"] = environments = [self._share(environment) for environment in record["environments"]]
        key = tuple(
            (name, _hashable(value if name != "environments" else [id(item) for item in environments]))
            for name, value in others.items()
        )
        if (shared := self._others.get(key)) is None:
            shared = self._others[key] = {sys.intern(name): value for name, value in others.items()}
        return KeptRecord(record, shared, rel, out_rel)

    def _share(self, environment: JsonDict) -> JsonDict:
        if self._seen.get(id(environment)) is not environment:
            environment = self._environments.setdefault(manifest.canonical_json(environment), environment)
            self._seen[id(environment)] = environment
        return environment


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


class FileRecords(Sequence[JsonDict]):
    """The records of many files, each made when it is asked for."""

    def __init__(self, records: Sequence[KeptRecord]) -> None:
        self._records = records

    @overload
    def __getitem__(self, index: int) -> JsonDict: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[JsonDict]: ...
    def __getitem__(self, index: int | slice) -> JsonDict | Sequence[JsonDict]:
        return FileRecords(self._records[index]) if isinstance(index, slice) else self._records[index].to_json()

    def __len__(self) -> int:
        return len(self._records)

    def having(self, field: str) -> Iterator[JsonDict]:
        """Yield the records that have a field, without making the others; see `KeptRecord.has`."""
        return (record.to_json() for record in self._records if record.has(field))


def having(records: Sequence[JsonDict], field: str) -> Iterator[JsonDict]:
    """Yield the records that have a field which few have, such as "errors"."""
    if isinstance(records, FileRecords):
        return records.having(field)
    return (record for record in records if record.get(field))
