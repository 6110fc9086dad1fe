"""Hostile inputs: decompression bombs, endless lines, unusual tables, names that lead elsewhere; in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from hymt_batch import config as settings
from hymt_batch.errors import ConfigError, HymtError, PreflightError
from hymt_batch.run.reporter import Reporter
from hymt_batch.source import discovery, input_names
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents
from tests.fakes import job as fake_job

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20

# VmHWM, not ru_maxrss: a new process starts with the ru_maxrss of the process that started it
READ = """
import sys
from collections import Counter
from pathlib import Path
from hymt_batch.source import discovery, stream
def peak_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
config = stream.SourceConfig(path=sys.argv[1])
(input,) = discovery.find_inputs(config)
start = peak_kib()
if sys.argv[2] == "bare":
    import pyarrow.parquet
    start = peak_kib()
statuses = Counter(document.status.value for document, _ in stream.read_full_documents(input, config, [input]))
grown = peak_kib() - start
print(*(f"{status}={count}" for status, count in sorted(statuses.items())), grown // 1024)
"""


def read_in_subprocess(path: Path) -> tuple[str, int]:
    """Read a file in a subprocess; return the statuses of its rows and the growth of the process in MiB."""
    kind = "bare" if path.suffix == ".parquet" else "plain"
    result = subprocess.run(
        [sys.executable, "-c", READ, str(path), kind], capture_output=True, text=True, timeout=120, cwd=ROOT, check=True
    )
    statuses, _, grown = result.stdout.strip().rpartition(" ")
    return statuses, int(grown)


def job(folder: Path, source: Path, *overrides: str) -> Any:
    config = settings.load(
        "translate",
        [f"source.path={source}", f"output_dir={folder}", "name=out", "tgt_lang=fr", "model=demo", *overrides],
    )
    with Reporter("off") as reporter:
        return fake_job.translate_with(config, reporter)


def rows(path: Path, **options: Any) -> list[tuple[str, str | None]]:
    config = SourceConfig(path=str(path), **options)
    (input,) = discovery.find_inputs(config)
    return [(document.status.value, document.text) for document, _ in read_documents(input, config)]


# size


@pytest.mark.fault(64, 84)
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_decompression_bomb_is_one_too_long_row_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    zeros = 256 if kind == "gz" else 96  # MiB; bz2 is slow
    path = tmp_path / f"bomb.txt.{kind}"
    path.write_bytes(pack(b"first\n") + pack(bytes(16 * MIB)) * (zeros // 16) + pack(b"\nlast\n"))
    assert path.stat().st_size < zeros * MIB // 500
    statuses, grown = read_in_subprocess(path)
    assert statuses == "ok=2 too_long=1"
    assert grown < 48


@pytest.mark.fault(57, 84)
def test_an_endless_line_is_one_too_long_row_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "endless.txt"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.truncate(256 * MIB)  # a sparse file
    statuses, grown = read_in_subprocess(path)
    assert statuses == "ok=1 too_long=1"
    assert grown < 32


@pytest.mark.fault(64, 65, 84)
def test_a_long_repeated_dictionary_value_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "repeated.parquet"
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["x" * 1_000_000]))
    parquet.write_table(pa.table({"text": repeated}), path, dictionary_pagesize_limit=16 * MIB)
    assert path.stat().st_size < MIB
    statuses, grown = read_in_subprocess(path)
    assert statuses == "ok=600"
    assert grown < 150


@pytest.mark.fault(65)
def test_a_huge_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "huge.parquet"
    texts = pa.array([os.urandom(8).hex() * 64 for _ in range(100_000)])  # 100 MB
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=100_000, use_dictionary=False)
    assert parquet.ParquetFile(path).metadata.num_row_groups == 1
    del texts
    statuses, grown = read_in_subprocess(path)
    assert statuses == "ok=100000"
    assert grown < 60


# JSON


@pytest.mark.fault(61, 84)
@pytest.mark.parametrize("depth", [300, 900, 970, 100_000])
def test_a_too_deeply_nested_row_is_an_error_row_at_any_depth_of_the_caller(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.jsonl"
    nested = '{"a":' * depth + "1" + "}" * depth
    path.write_text(f'{{"text": "a"}}\n{{"text": "b", "x": {nested}}}\n{{"text": "c", "x": "{"[" * 999}"}}\n')
    expected = [("ok", "a"), ("bad_row", None), ("ok", "c")]

    def rows_below(frames: int) -> list[tuple[str, str | None]]:
        return rows(path) if not frames else rows_below(frames - 1)

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(rows(path)))
    thread.start()
    thread.join()
    assert results[0] == rows(path) == rows_below(150) == expected


@pytest.mark.fault(61)
def test_a_row_at_the_nesting_limit_keeps_its_fields_in_the_output(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"text": "a", "x": ' + "[" * 255 + "]" * 255 + "}\n")
    job(tmp_path, path)
    (line,) = (tmp_path / "out" / "translated" / "deep.jsonl").read_text().splitlines()
    assert line.startswith('{"text": "a", "x": ' + "[" * 255)
    assert json.loads(line)["translation"] == "A"


# tables


@pytest.mark.fault(65)
def test_columns_of_unusual_types_pass_through_a_job(tmp_path: Path) -> None:
    class Point(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.list_(pa.float64(), 2), "tests.point")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

    table = pa.table(
        {
            "text": pa.array(["rain", None, "wind"], pa.large_string()).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(38, 2)),
            "when": pa.array([0, 1, None], pa.timestamp("ns", "UTC")),
            "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())),
            "nested": pa.array([{"a": [{"b": [b"x"]}]}, None, {"a": None}]),
            "point": pa.ExtensionArray.from_storage(Point(), pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float64(), 2))),
            "half": pa.array([1.0, 2.0, 3.0], pa.float16()),
            "none": pa.nulls(3),
        }
    )
    path = tmp_path / "odd.parquet"
    parquet.write_table(table, path)
    job(tmp_path, path)
    output = parquet.read_table(tmp_path / "out" / "translated" / "odd.parquet")
    assert output.column("translation").to_pylist() == ["RAIN", "", "WIND"]
    assert output.drop_columns(["translation", "hymt"]).equals(parquet.read_table(path))


@pytest.mark.fault(65)
@pytest.mark.parametrize("end", [0, 3, 4, 12, 200, -1, -4, -5, -9, -40])
def test_a_truncated_table_is_refused_by_name(tmp_path: Path, end: int) -> None:
    path = tmp_path / "cut.parquet"
    parquet.write_table(pa.table({"text": ["rain", "wind"] * 50}), path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(PreflightError, match=r"cut\.parquet cannot be read as a parquet file"):
        rows(path)


@pytest.mark.fault(65)
def test_a_footer_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "footer.parquet"
    path.write_bytes(b"PAR1" + b"\x15\x04" * 40 + (0x7FFFFFF0).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(PreflightError, match=r"footer\.parquet"):
        rows(path)


# names


def entries_below(folder: Path, excluded: Path) -> dict[str, Any]:
    """Return the mode, size and modification time of every entry below a folder, except those in `excluded`."""
    entries: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if excluded not in (path, *path.parents):
            stat = path.lstat()
            entries[str(path)] = (stat.st_mode, stat.st_size if path.is_file() else 0, stat.st_mtime_ns)
    return entries


@pytest.mark.fault(80, 58)
def test_no_file_name_makes_the_job_write_outside_the_output_folder(tmp_path: Path) -> None:
    around = tmp_path / "around"
    source = around / "in"
    names = [
        "a b.txt",
        "-rf.txt",
        "--help.txt",
        "$(touch x).txt",
        "`id`.txt",
        "%s.txt",
        "~.txt",
        "C:.txt",
    ]
    names += [
        "a\\..\\..\\up.txt",
        "a;rm.txt",
        "\u202etxt.exe.txt",
        "\x1b[2J.txt",
        "CON.txt",
        "x" * 230 + ".txt",
        "\ue000.txt",
    ]
    for index, name in enumerate(names):
        folder = source / f"d{index}" / "e.."
        folder.mkdir(parents=True)
        (folder / name).write_text(f"rain {index}\n")
    (around / "secret.txt").write_text("not for this job\n")
    out = around / "out"
    before = entries_below(around, out)
    summary = job(out, source)
    assert entries_below(around, out) == before
    assert summary.rows == len(names)
    written = {path.relative_to(out / "out" / "translated") for path in out.rglob("*.txt")}
    assert written == {path.relative_to(source) for path in source.rglob("*.txt")}


@pytest.mark.fault(80)
@pytest.mark.parametrize("pattern", ["in/*/../../secret.txt", "in/../*.txt", "./in/*/../../*.txt"])
def test_a_pattern_with_parent_folders_writes_nothing_outside_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("rain\n")
    monkeypatch.chdir(tmp_path)
    try:
        summary = job(tmp_path / "out", Path(pattern))
    except ConfigError as error:
        assert "out of the output folder" in str(error)  # a refusal is as good as a job that stays inside
        return
    assert summary.rows == 1
    assert [path.name for path in (tmp_path / "out" / "out" / "translated").rglob("*.txt")] == ["secret.txt"]


@pytest.mark.fault(80)
@pytest.mark.parametrize(
    "rel",
    [
        "../a.txt",
        "/etc/a.txt",
        "a/../../b.txt",
        "a//b.txt",
        "./a.txt",
        ".HYMT/a.txt",
        "a\0.txt",
        "a\n.txt",
        "a\udcff.txt",
    ],
)
def test_a_name_that_leaves_the_output_folder_or_breaks_ids_is_refused(rel: str) -> None:
    with pytest.raises(ConfigError, match="Rename the file"):
        input_names.check_name(rel, rel)


@pytest.mark.fault(80)
@pytest.mark.parametrize(
    ("first", "second"),
    [("e\u0301.txt", "\xe9.txt"), ("A.txt", "a.txt"), ("STRASSE.txt", "stra\xdfe.txt"), ("\u212b.txt", "\xc5.txt")],
)
def test_names_that_are_equal_on_some_file_systems_are_refused(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / name).write_text("rain\n")
    with pytest.raises(ConfigError, match="differs only by case or accents"):
        discovery.find_inputs(SourceConfig(path=str(tmp_path)))


@pytest.mark.fault(80, 41)
@pytest.mark.parametrize(
    "make", [lambda path: os.mkfifo(path), lambda path: os.symlink("/dev/zero", path)], ids=["fifo", "device"]
)
def test_a_fifo_or_device_is_refused_before_it_is_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text("rain\n")
    make(tmp_path / "in" / "bad.txt")
    for path in (tmp_path / "in", tmp_path / "in" / "bad.txt"):
        with pytest.raises(ConfigError, match=r"not a regular file|outside the folder"):
            discovery.find_inputs(SourceConfig(path=str(path)))
    with pytest.raises(ConfigError, match="not a regular file"):
        discovery.find_inputs(SourceConfig(path=str(tmp_path / "in"), follow_symlinks=True))


@pytest.mark.fault(81, 80)
@pytest.mark.parametrize("name", ["translated", "errors", "logs", ".hymt", "manifest.json", "translated/a.txt"])
def test_a_link_in_the_output_folder_is_never_followed(tmp_path: Path, name: str) -> None:
    source, victim, out = tmp_path / "a.txt", tmp_path / "victim", tmp_path / "o" / "out"
    source.write_bytes(b"rain\n\xff\n")
    (victim / "sub").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(victim / "file" if "." in name[1:] else victim)
    before = entries_below(victim, out)
    try:
        job(tmp_path / "o", source, "check.max_error_rate=1")
    except HymtError as error:
        assert error.exit_code in (3, 6, 75)
    assert entries_below(victim, out) == before
    assert (victim / "file").read_text() == "precious"


# settings


@pytest.mark.fault(79)
@pytest.mark.parametrize(
    "argument",
    [
        "model._target_=os.system",
        "+model._target_=os.system",
        "_target_=os.system",
        "++source._args_=[x]",
        "hydra.searchpath=[file:///tmp]",
        "hydra/launcher=joblib",
        "hydra.run.dir=/tmp/x",
        "+hydra.job.env_set.X=1",
        "source.path=${oc.env:HOME}",
        "source.path=${oc.decode:1}",
        "source.path=${hydra:runtime.cwd}",
        "name=${oc.create:{}}",
        "tgt_lang=${python:1+1}",
        "source.text_field=${oc.env:PATH}",
        "source.path=a${b${oc.env:HOME}}",
        "model=../../../../etc/passwd",
        "preset=/tmp/evil",
        "--config-dir=/tmp",
        "--config-path=/tmp",
    ],
)
def test_no_command_line_argument_runs_code_or_reads_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    from jobs.__main__ import main

    monkeypatch.setenv("HOME", "/home/of-a-secret")
    before = entries_below(tmp_path, tmp_path / "none")
    assert main(["translate", f"output_dir={tmp_path}", "source.path=demo:bulletins", "tgt_lang=fr", argument]) == 2
    output = capsys.readouterr()
    assert "of-a-secret" not in output.out + output.err
    assert len(output.err.splitlines()) == 1
    assert entries_below(tmp_path, tmp_path / "none") == before
