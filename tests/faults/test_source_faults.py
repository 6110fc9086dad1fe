"""Failing disks under an input, names that no system accepts, and how often files are opened and held in memory."""

from __future__ import annotations

import builtins
import errno
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch import config as settings
from hymt_batch.errors import ConfigError, HymtError, PreflightError, StoppedError
from hymt_batch.formats import bytestream
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import PreambleCache, read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import cut_shards, read_documents
from hymt_batch.source.spool import Spool
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job

TRANSIENT = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV]
PERMANENT = [errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOENT]


class Failing(io.FileIO):
    """A file whose disk fails after `good` bytes; before that, reads return the real data."""

    good, error = 0, 0

    def readinto(self, buffer: Any) -> int:
        self._check()
        return super().readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        self._check()
        return super().read(size)

    def _check(self) -> None:
        if self.tell() >= Failing.good:
            raise OSError(Failing.error, os.strerror(Failing.error))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes files with "bad" in their names fail from a given byte on."""
    real_open = builtins.open

    def open_or_fail(path: Any, mode: str = "r", *positionals: Any, **keywords: Any) -> Any:
        if mode == "rb" and "bad" in str(path):
            return io.BufferedReader(Failing(path), 1 << 12)
        return real_open(path, mode, *positionals, **keywords)

    def fail(error: int, good: int = 0) -> None:
        Failing.good, Failing.error = good, error
        monkeypatch.setattr(bytestream, "open", open_or_fail, raising=False)
        monkeypatch.setattr(bytestream.io, "FileIO", Failing)
        monkeypatch.setattr(pa, "OSFile", lambda path: pa.PythonFile(Failing(path), mode="r"))

    return fail


def job(folder: Path, source: Path, *overrides: str) -> Any:
    config = settings.load(
        "translate",
        [f"source.path={source}", f"output_dir={folder}", "name=out", "tgt_lang=fr", "model=demo", *overrides],
    )
    with Reporter("off") as reporter:
        return fake_job.translate_with(config, reporter)


def body(num: int = 20_000) -> bytes:
    return b"".join(b"row %d of some length, and %d\n" % (n, n * 7919 % 10007) for n in range(num))


def zst(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


@pytest.mark.parametrize("error", [*TRANSIENT, *PERMANENT])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("good", [0, 60_000])
@pytest.mark.fault(19)
def test_a_disk_error_is_reported_by_its_cause_wherever_it_occurs(
    tmp_path: Path, failing: Any, error: int, packing: str, good: int
) -> None:
    path = tmp_path / f"bad.txt{packing}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zst}[packing](body()))
    config = SourceConfig(path=str(path))
    (input,) = discovery.find_inputs(config)
    failing(error, good)
    for read in (
        lambda: list(read_documents(input, config)),
        lambda: list(stream.read_full_documents(input, config, [input])),
        lambda: list(cut_shards([input], config, shard_rows=99, shard_bytes=1 << 20, get_record=lambda *_: None)),
        lambda: [read_preamble(input, config), list(read_documents(input, config))],
    ):
        with pytest.raises(StoppedError if error in TRANSIENT else PreflightError, match=r"bad\.txt") as caught:
            read()
        assert os.strerror(error) in str(caught.value) and "truncated" not in str(caught.value)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_disk_that_fails_under_a_table_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 9}), path)
    config = SourceConfig(path=str(path))
    (input,) = discovery.find_inputs(config)
    documents = list(read_documents(input, config))
    real_iter_batches = parquet.ParquetFile.iter_batches

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    expected = StoppedError if error == errno.EIO else PreflightError
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", fails)
    with pytest.raises(expected, match=r"in\.parquet"):
        list(read_documents(input, config))
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", real_iter_batches)
    monkeypatch.setattr(parquet, "ParquetFile", fails)
    with pytest.raises(expected, match=r"in\.parquet"):
        stream.total_units([input], config)
    assert len(documents) == 9


@pytest.mark.fault(19)
def test_a_disk_failure_in_either_pass_stops_the_job_and_the_job_can_resume(tmp_path: Path, failing: Any) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(body(9000))
    overrides = ("batch.shard_rows=1000", "launch.prefetch_shards=0")
    decoded = Counter[str]()

    def decode_then_fail(*arguments: Any) -> Any:
        decoded["batches"] += 1
        if decoded["batches"] == 3:
            failing(errno.EIO, 200_000)
        return fake_engine.upper(*arguments)

    config = settings.load(
        "translate",
        [f"source.path={path}", f"output_dir={tmp_path}", "name=out", "tgt_lang=fr", "model=demo", *overrides],
    )
    with Reporter("off") as reporter, pytest.raises(StoppedError, match=r"bad\.txt could not be read"):
        fake_job.translate_with(config, reporter, decode_then_fail)  # fails in the first pass
    Failing.good = 1 << 40
    reads = Counter[str]()
    check = Failing._check

    def fail_in_second_pass(self: Failing) -> None:
        if self.tell() == 0:
            reads["passes"] += 1
        if reads["passes"] > 2 and self.tell() > 100_000:
            raise OSError(errno.ESTALE, "Stale file handle")
        check(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Failing, "_check", fail_in_second_pass)
        with pytest.raises(StoppedError, match=r"bad\.txt could not be read"):
            job(tmp_path, path, *overrides)  # fails in the second pass, after everything is decoded
    summary = job(tmp_path, path, *overrides)
    assert summary.num_rows_decoded == 0 and summary.rows == 9000
    assert (tmp_path / "out/translated/bad.txt").read_bytes() == path.read_bytes().upper()


class Broken(io.RawIOBase):
    """A standard input that fails after its first block."""

    def __init__(self, error: int) -> None:
        self.error, self.num = error, 0

    def isatty(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        self.num += 1
        if self.num > 1:
            raise OSError(self.error, os.strerror(self.error))
        return b"a\n"


@pytest.mark.parametrize(("error", "expected"), [(errno.EIO, StoppedError), (errno.EISDIR, ConfigError)])
def test_a_failing_standard_input_is_an_error_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, expected: type[HymtError]
) -> None:
    monkeypatch.setattr("hymt_batch.source.spool._has_data", lambda *_: True)
    with pytest.raises(expected, match=r"[Ss]tandard input"):
        Spool(tmp_path / "out").store_stdin(".txt", Broken(error))  # type: ignore[arg-type]


# names and folders


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Path]:
    """A folder for nested folders that are too deep for Python's own removal."""
    (tmp_path / "in").mkdir()
    yield tmp_path / "in"
    subprocess.run(["rm", "-rf", str(tmp_path / "in")], check=True)


def deep(root: Path, name: str, depth: int) -> None:
    """Create nested folders, possibly deeper than the longest allowed path."""
    parent = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=parent)
        child = os.open(name, os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = child
    os.close(os.open("a.txt", os.O_WRONLY | os.O_CREAT, dir_fd=parent))
    os.close(parent)


@pytest.mark.parametrize(("name", "depth"), [("x" * 200, 30), ("y", 3000)])
@pytest.mark.fault(80)
def test_the_error_for_a_path_over_the_system_limit_is_one_line(inside: Path, name: str, depth: int) -> None:
    deep(inside, name, depth)
    with pytest.raises(ConfigError, match=r"cannot be used: File name too long\. ") as caught:
        discovery.find_inputs(SourceConfig(path=str(inside)))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_folders_nested_up_to_the_longest_path_are_read(inside: Path) -> None:
    depth = (4000 - len(str(inside))) // 2
    assert depth > sys.getrecursionlimit()
    deep(inside, "y", depth)
    (input,) = discovery.find_inputs(SourceConfig(path=str(inside)))
    assert input.rel.count("/") == depth


@pytest.mark.parametrize("kind", ["loop.txt", "loop", "gone.txt", "pipe.txt", "socket.txt"])
def test_an_entry_that_is_not_a_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text("rain\n")
    path = tmp_path / "in" / kind
    if kind.startswith("loop"):
        path.symlink_to(path)
    elif kind == "gone.txt":
        path.symlink_to(tmp_path / "in" / "nowhere")
    elif kind == "pipe.txt":
        os.mkfifo(path)
    else:
        working_folder = os.getcwd()
        os.chdir(tmp_path / "in")  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.bind(kind)
        os.chdir(working_folder)
    for source in (tmp_path / "in", path, f"{tmp_path}/in/{kind[:3]}*"):
        with pytest.raises(ConfigError, match=kind) as caught:
            discovery.find_inputs(SourceConfig(path=str(source)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_vanishes_or_fails_while_listed_is_reported_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, call: str
) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.txt").write_text("rain\n")
    real_call = getattr(os, call)

    def fail(path: Any, **keywords: Any) -> Any:
        if str(path).endswith(("sub", "a.txt")) and (call == "scandir" or str(path).endswith("a.txt")):
            raise OSError(error, os.strerror(error), str(path))
        return real_call(path, **keywords)

    monkeypatch.setattr(discovery.os, call, fail)
    expected = StoppedError if error in TRANSIENT else ConfigError
    with pytest.raises(expected, match=r"in/sub"):
        discovery.find_inputs(SourceConfig(path=str(tmp_path / "in")))


# how often files are opened, and how much memory they take

OPENED: Counter[str] = Counter()
_WATCHING: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHING and str(arguments[0]).startswith(_WATCHING[0]):
        OPENED[str(arguments[0])] += 1


sys.addaudithook(_audit)


@pytest.mark.parametrize("limit", [None, 35])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_each_file_is_opened_a_few_times_however_many_there_are(tmp_path: Path, kind: str, limit: int | None) -> None:
    head = "id,text\n" if kind == "csv" else ""
    line = {"txt": "rain\n", "jsonl": '{"text": "rain"}\n', "csv": "1,rain\n"}[kind]
    (tmp_path / "in").mkdir()
    for index in range(20):
        (tmp_path / "in" / f"{index:02}.{kind}").write_text(head + line * 2)
    config = SourceConfig(path=str(tmp_path / "in"), limit=limit)
    OPENED.clear()
    _WATCHING[:] = [str(tmp_path / "in") + "/"]
    try:
        inputs = discovery.find_inputs(config)
        preambles = PreambleCache(config, ("translation", "hymt"))
        limited = stream.apply_limit(inputs, config, preambles)
        for input in limited:
            preambles(input)
        shards = list(
            cut_shards(limited, config, shard_rows=9, shard_bytes=999, get_record=lambda *_: None, preambles=preambles)
        )
        rows = [
            sum(1 for _ in stream.read_full_documents(input, config, limited, preambles=preambles)) for input in limited
        ]
    finally:
        _WATCHING.clear()
    assert sum(rows) == sum(len(shard.documents) for shard in shards) == (limit or 40)  # type: ignore[union-attr]
    assert len(limited) == (18 if limit else 20)
    heads = 20 if kind == "jsonl" else 0  # the first objects of each JSON file say whether its rows are lines
    assert max(OPENED.values()) <= 3 + bool(heads) and sum(OPENED.values()) <= 3 * len(limited) + heads


def test_a_limited_job_over_many_files_opens_each_a_few_times(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(12):
        (tmp_path / "in" / f"{index:02}.jsonl").write_text('{"text": "rain"}\n' * 3)
    OPENED.clear()
    _WATCHING[:] = [str(tmp_path / "in") + "/"]
    try:
        summary = job(tmp_path, tmp_path / "in", "source.limit=20", "launch.report=false")
    finally:
        _WATCHING.clear()
    assert summary.rows == 20
    last = json.loads((tmp_path / "out/manifest.json").read_text())["inputs"][-1]
    assert (last["rel"], last["rows"]) == ("06.jsonl", 2)
    # three times, once for the checksum, and once for its first objects, as the other files
    assert max(OPENED.values()) <= 5 and sum(times > 1 for times in OPENED.values()) == 7


def test_each_file_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    num = 4000
    for index in range(num):
        (tmp_path / "in" / f"{index:05}.csv").write_bytes(b"id,text\n1,rain\n")
    config = SourceConfig(path=str(tmp_path / "in"))
    tracemalloc.start()
    inputs = discovery.find_inputs(config)
    preambles = PreambleCache(config)
    for input in inputs:
        preambles(input)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(inputs) == num and len(preambles._interned) == 1
    print("bytes per file:", held // num, "at most", peak // num)
    assert held / num < 1500 and peak / num < 2048
