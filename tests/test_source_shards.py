"""Shards: the cut depends only on the content; unchanged finished shards are not parsed again, changed ones are."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch.errors import ConfigError, PreflightError, StoppedError
from hymt_batch.records import Input, Shard, ShardRecord
from hymt_batch.source import discovery, stream
from hymt_batch.source.prefetch import prefetch
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import SkippedShard, cut_shards


def record(shard: Shard) -> ShardRecord:
    return ShardRecord(
        shard.index, shard.first_row, len(shard.documents), shard.start, shard.end, shard.sha256, shard.last
    )


def cut(
    inputs: list[Input],
    config: SourceConfig,
    records: dict[tuple[str, int], ShardRecord] | None = None,
    rows: int = 7,
    size: int = 200,
) -> list[Shard | SkippedShard]:
    known = records or {}
    return list(
        cut_shards(
            inputs,
            config,
            shard_rows=rows,
            shard_bytes=size,
            get_record=lambda input, index: known.get((input.rel, index)),
        )
    )


def parsed(inputs: list[Input], config: SourceConfig, **bounds: int) -> list[Shard]:
    return [shard for shard in cut(inputs, config, **bounds) if isinstance(shard, Shard)]


def records_of(shards: list[Shard]) -> dict[tuple[str, int], ShardRecord]:
    return {(shard.input.rel, shard.index): record(shard) for shard in shards}


def body(name: str) -> bytes:
    rows = [b"x" * (index * 37 % 90) for index in range(100)]
    if name.endswith("jsonl"):
        rows = [b'{"text": "%s"}' % row for row in rows]
    if ".csv" in name:
        rows = [b"text,n", *(b'"%s\n",1' % row for row in rows)]
    return b"\xef\xbb\xbf" + b"\r\n".join(rows)


def inputs_of(tmp_path: Path, name: str) -> tuple[list[Input], SourceConfig]:
    path = tmp_path / name
    if name.endswith("parquet"):
        values = ["x" * (index * 37 % 90) for index in range(100)]
        parquet.write_table(pa.table({"text": values}), path, row_group_size=30)
    else:
        data = body(name.removesuffix(".gz"))
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    config = SourceConfig(path=str(path))
    return discovery.find_inputs(config), config


NAMES = ["a.txt", "a.txt.gz", "a.jsonl", "a.csv", "a.csv.gz", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_shards_contain_every_row_once_within_their_limits(tmp_path: Path, name: str) -> None:
    inputs, config = inputs_of(tmp_path, name)
    shards = parsed(inputs, config)
    rows = [document.row_index for shard in shards for document in shard.documents]
    assert rows == list(range(100))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(1 <= len(shard.documents) <= 7 for shard in shards)
    assert len({len(shard.documents) for shard in shards}) > 2  # both limits end shards
    assert [shard.start for shard in shards[1:]] == [shard.end for shard in shards[:-1]]
    assert [shard.last for shard in shards] == [False] * (len(shards) - 1) + [True]
    assert [shard.first_row for shard in shards] == [shard.documents[0].row_index for shard in shards]


def test_the_hash_of_a_shard_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    inputs, config = inputs_of(tmp_path, "a.txt")
    for shard in parsed(inputs, config):
        assert shard.sha256 == hashlib.sha256(body("a.txt")[shard.start : shard.end]).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_finished_shards_are_skipped_in_any_combination(tmp_path: Path, name: str) -> None:
    inputs, config = inputs_of(tmp_path, name)
    shards = parsed(inputs, config)
    for keep in (lambda n: True, lambda n: n % 2 == 0, lambda n: n % 2, lambda n: n < 3, lambda n: n > 3):
        known = {key: shard_record for key, shard_record in records_of(shards).items() if keep(key[1])}
        again = cut(inputs, config, known)
        assert len(again) == len(shards)
        for shard, second in zip(shards, again, strict=True):
            if keep(shard.index):
                assert second == SkippedShard(inputs[0], record(shard))
            else:
                assert second == shard


def test_skipped_shards_are_not_parsed(tmp_path: Path) -> None:
    inputs, config = inputs_of(tmp_path, "a.jsonl")
    indices: list[int] = []
    shards = parsed(inputs, config)
    known = records_of(shards)

    def get_record(_: Input, index: int) -> ShardRecord | None:
        indices.append(index)
        return known["a.jsonl", index]

    results = list(cut_shards(inputs, config, shard_rows=7, shard_bytes=200, get_record=get_record))
    assert all(isinstance(result, SkippedShard) for result in results)
    assert indices == list(range(len(shards)))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
@pytest.mark.fault(63)
def test_only_the_shard_with_a_changed_byte_is_parsed_again(tmp_path: Path, name: str) -> None:
    inputs, config = inputs_of(tmp_path, name)
    shards = parsed(inputs, config)
    data = bytearray(body(name.removesuffix(".gz")))
    at = data.index(b"x", shards[5].start)
    data[at] = ord("y")
    Path(inputs[0].path).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    again = cut(inputs, config, records_of(shards))
    assert [shard.index for shard in again if isinstance(shard, Shard)] == [5]
    changed = next(shard for shard in again if isinstance(shard, Shard))
    differing = [
        a.row_index for a, b in zip(shards[5].documents, changed.documents, strict=True) if a.digest != b.digest
    ]
    assert len(differing) == 1


@pytest.mark.fault(63)
def test_appended_and_removed_rows_are_detected(tmp_path: Path) -> None:
    inputs, config = inputs_of(tmp_path, "a.txt")
    shards = parsed(inputs, config)
    path, data = Path(inputs[0].path), body("a.txt")
    path.write_bytes(data + b"\nmore\n")
    again = cut(inputs, config, records_of(shards))
    assert next(shard.index for shard in again if isinstance(shard, Shard)) == len(shards) - 1
    last = again[-1]
    assert isinstance(last, Shard) and last.last
    path.write_bytes(data[: shards[-1].start])
    again = cut(inputs, config, records_of(shards))
    last = again[-1]
    assert isinstance(last, Shard) and last.last and last.index == len(shards) - 2
    path.write_bytes(data[: shards[3].start + 1])
    assert isinstance(cut(inputs, config, records_of(shards))[3], Shard)


def test_a_changed_csv_header_invalidates_every_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,note\n" + b"a,b\n" * 20)
    config = SourceConfig(path=str(path))
    inputs = discovery.find_inputs(config)
    known = records_of(parsed(inputs, config))
    path.write_bytes(b"note,text\n" + b"a,b\n" * 20)
    assert all(isinstance(shard, Shard) for shard in cut(inputs, config, known))


def test_changed_parquet_rows_are_detected(tmp_path: Path) -> None:
    inputs, config = inputs_of(tmp_path, "a.parquet")
    shards = parsed(inputs, config)
    values = ["x" * (index * 37 % 90) for index in range(100)]
    values[50] = "y" * len(values[50])
    parquet.write_table(pa.table({"text": values}), inputs[0].path, row_group_size=10)
    changed = [shard for shard in cut(inputs, config, records_of(shards)) if isinstance(shard, Shard)]
    assert len(changed) == 1
    assert 50 in [document.row_index for document in changed[0].documents]


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
@pytest.mark.fault(53)
def test_an_empty_file_gives_one_empty_shard(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    config = SourceConfig(path=str(path))
    inputs = discovery.find_inputs(config)
    (shard,) = parsed(inputs, config)
    assert (list(shard.documents), shard.last, shard.index) == ([], True, 0)
    assert cut(inputs, config, records_of([shard])) == [SkippedShard(inputs[0], record(shard))]


def test_the_limit_counts_rows_over_all_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_bytes(b"row\n" * 10)
    for limit, expected in ((4, [4]), (10, [7, 3]), (12, [7, 3, 2]), (99, [7, 3, 7, 3, 7, 3])):
        config = SourceConfig(path=str(tmp_path), limit=limit)
        inputs = discovery.find_inputs(config)
        shards = parsed(inputs, config)
        assert [len(shard.documents) for shard in shards] == expected
        assert shards[-1].last
        again = cut(inputs, config, records_of(shards))
        assert again == [SkippedShard(shard.input, record(shard)) for shard in shards]
        for input in inputs:
            num_rows = sum(len(shard.documents) for shard in shards if shard.input == input)
            assert len(list(stream.read_full_documents(input, config, inputs))) == num_rows


def test_units_add_up_to_the_total(tmp_path: Path) -> None:
    for name in ("a.txt", "a.parquet"):
        inputs, config = inputs_of(tmp_path, name)
        shards = parsed(inputs, config)
        total = stream.total_units(inputs, config)
        assert total == shards[-1].end
    assert stream.total_units(inputs_of(tmp_path, "a.txt.gz")[0], config) is None


@pytest.mark.fault(64)
def test_damage_stops_the_job_only_after_the_shards_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    rows = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() + b"\n" for number in range(200_000))
    path.write_bytes(gzip.compress(rows)[:-1000])
    config = SourceConfig(path=str(path))
    shards = cut_shards(
        discovery.find_inputs(config),
        config,
        shard_rows=10_000,
        shard_bytes=1 << 30,
        get_record=lambda input, index: None,
    )
    good_shards = []
    with pytest.raises(PreflightError, match="truncated"):
        for shard in prefetch(shards, 2):
            good_shards.append(shard)
    assert len(good_shards) == 19


def test_prefetch_keeps_the_order_and_raises_errors_of_the_items() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ConfigError("broken")

    for depth in (0, 1, 3):
        received = []
        with pytest.raises(ConfigError, match="broken"):
            for item in prefetch(items(), depth):
                received.append(item)
        assert received == list(range(5))


def test_prefetch_produces_no_more_than_its_depth_ahead() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            produced.append(index)
            yield index

    ahead = prefetch(items(), 2)
    next(ahead)
    time.sleep(0.2)
    assert len(produced) <= 4
    ahead.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_taken", [1, 5])
def test_closing_prefetch_stops_its_thread_and_closes_the_items(num_taken: int) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from iter(int, 1)
        finally:
            closed.set()

    source = items()  # referenced here, so that only prefetch can close it
    ahead: Any = prefetch(source, 2)
    for _ in range(num_taken):
        next(ahead)
    started = time.monotonic()
    ahead.close()
    assert closed.wait(2)
    assert time.monotonic() - started < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("stops", [True, False])
def test_a_wait_for_prefetch_can_be_stopped(stops: bool) -> None:
    released = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        released.wait(10)
        yield 2

    num_calls = 0

    def on_wait() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            released.set()
            if stops:
                raise StoppedError("asked")

    ahead = prefetch(items(), 1, on_wait)
    assert next(ahead) == 1
    if stops:
        with pytest.raises(StoppedError):
            next(ahead)
    else:
        assert next(ahead) == 2


@pytest.mark.parametrize("depth", [0, 2])
def test_prefetch_calls_pause_after_every_item_and_at_the_end(depth: int) -> None:
    events: list[str] = []

    def items() -> Iterator[int]:
        for index in range(3):
            events.append("make")
            yield index

    assert list(prefetch(items(), depth, pause=lambda: events.append("rest"))) == [0, 1, 2]
    assert events == ["make", "rest"] * 3 + ["rest"]


def test_prefetch_calls_pause_before_it_waits_for_the_consumer() -> None:
    """A watchdog of the reader must not count the time that the consumer needs for the last items."""
    busy = threading.Event()

    def items() -> Iterator[int]:
        for index in range(2):
            busy.set()
            yield index
            busy.set()

    ahead = prefetch(items(), 1, pause=busy.clear)
    assert next(ahead) == 0
    time.sleep(0.3)  # the producer waits for space in the queue, for the last item or the end marker
    assert not busy.is_set()
    assert list(ahead) == [1]
    assert not busy.is_set()
