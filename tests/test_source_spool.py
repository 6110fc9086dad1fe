"""Standard input and hub datasets are stored once, completely, and later read from the stored files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch.errors import ConfigError, PreflightError, StoppedError
from hymt_batch.source import discovery, hub, spool, stream
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.source.shards import read_documents
from hymt_batch.source.spool import Spool

FIND = """
import sys
from pathlib import Path
from hymt_batch.source import discovery, stream
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents
from hymt_batch.source.spool import Spool
spool = Spool(Path(sys.argv[1]), replace="replace" in sys.argv)
(input,) = discovery.find_inputs(SourceConfig(path="-"), spool)
if "look" not in sys.argv:
    spool.link_into(Path(sys.argv[1]))
print([document.text for document, _ in read_documents(input, SourceConfig(path="-"))])
"""


def pipe(folder: Path, data: bytes | None, *flags: str) -> subprocess.CompletedProcess[bytes]:
    stdin = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    command = [sys.executable, "-c", FIND, str(folder), *flags]
    return subprocess.run(command, capture_output=True, check=False, **stdin)  # type: ignore[call-overload,no-any-return]


def stored(folder: Path) -> Path:
    return folder / ".hymt" / "spool"


def test_standard_input_is_stored_and_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    assert pipe(folder, b"one\ntwo").stdout == b"['one', 'two']\n"
    assert os.listdir(stored(folder)) == ["stdin.txt"]
    assert (stored(folder) / "stdin.txt").read_bytes() == b"one\ntwo"
    assert pipe(folder, None).stdout == b"['one', 'two']\n"  # no input: the job continues
    assert pipe(folder, b"").stdout == b"['one', 'two']\n"
    assert pipe(folder, b"one\ntwo").stdout == b"['one', 'two']\n"  # the same input again
    changed = pipe(folder, b"one\nthree")
    assert changed.returncode and b"InputChangedError" in changed.stderr
    assert os.listdir(stored(folder)) == ["stdin.txt"]
    assert (stored(folder) / "stdin.txt").read_bytes() == b"one\ntwo"
    assert pipe(folder, b"one\nthree", "replace").stdout == b"['one', 'three']\n"
    assert (stored(folder) / "stdin.txt").read_bytes() == b"one\nthree"
    assert pipe(folder, None, "replace").stdout == b"['one', 'three']\n"  # no input: nothing is replaced


def test_before_link_into_only_a_hidden_folder_beside_the_job_folder_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    stored(folder).mkdir(parents=True)
    (stored(folder) / "stdin.txt").write_bytes(b"another's\n")
    assert pipe(folder, b"one\n", "look").stdout == b"['one']\n"
    assert (stored(folder) / "stdin.txt").read_bytes() == b"another's\n"
    (beside,) = set(tmp_path.iterdir()) - {folder}
    assert beside.name.startswith(".spool-") and beside.stat().st_mode & 0o777 == 0o700


def test_a_closed_standard_input_uses_the_stored_one_and_is_refused_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="this process has none"):
        Spool(tmp_path).store_stdin(".txt")
    stored(tmp_path).mkdir(parents=True)
    (stored(tmp_path) / "stdin.txt").write_bytes(b"one\n")
    assert Spool(tmp_path).store_stdin(".txt") == (stored(tmp_path) / "stdin.txt", "stdin.txt")


def test_a_terminal_uses_the_stored_standard_input(tmp_path: Path) -> None:
    stored(tmp_path).mkdir(parents=True)
    (stored(tmp_path) / "stdin.txt").write_bytes(b"one\n")
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "rb") as source:
        assert Spool(tmp_path, replace=True).store_stdin(".txt", source)[0] == stored(tmp_path) / "stdin.txt"
    os.close(controller)


def test_the_error_for_an_unusable_output_folder_names_output_dir(tmp_path: Path) -> None:
    (tmp_path / "f.txt").touch()
    with pytest.raises(PreflightError, match=r"f\.txt is not a folder\. Set output_dir="):
        Spool(tmp_path / "f.txt" / "job").store_stdin(".txt", io.BytesIO(b"one\n"))


def test_a_redirected_file_is_compared_with_the_stored_one(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\n")
    for text, ok in ((b"one\n", True), (b"two\n", False)):
        (tmp_path / "in").write_bytes(text)
        with open(tmp_path / "in", "rb") as stdin:
            run = subprocess.run(
                [sys.executable, "-c", FIND, str(tmp_path / "job")], stdin=stdin, capture_output=True, check=False
            )
        assert (run.returncode == 0) is ok


def test_a_silent_pipe_does_not_block_a_resumed_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spool, "STDIN_WAIT_S", 0.1)
    stored(tmp_path).mkdir(parents=True)
    (stored(tmp_path) / "stdin.txt").write_bytes(b"one\n")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        assert Spool(tmp_path).store_stdin(".txt", source) == (stored(tmp_path) / "stdin.txt", "stdin.txt")
    os.close(writer)
    assert "had no data for wait_s=0.1" in caplog.text


@pytest.mark.fault(1)
def test_a_failed_read_leaves_no_stored_file(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(3)
            if not data:
                raise OSError("gone")
            return data

    with pytest.raises(StoppedError, match="standard input ended with an error: gone"):
        Spool(tmp_path / "job").store_stdin(".txt", Broken(b"one\ntwo\n"))
    assert not (tmp_path / "job").exists()


def test_standard_input_has_the_extension_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n')))
    config = SourceConfig(path="-", format=SourceFormat.jsonl)
    (input,) = discovery.find_inputs(config, Spool(tmp_path / "job"))
    assert (input.rel, input.format) == ("stdin.jsonl", "jsonl")


def test_standard_input_must_be_the_only_source() -> None:
    assert SourceConfig(path=["-"]).path == "-" and stream.is_stdin("-")
    with pytest.raises(ConfigError, match="with other inputs"):
        SourceConfig(path=["a", "-"])


def test_standard_input_is_refused_without_a_spool() -> None:
    with pytest.raises(ConfigError, match="must be stored"):
        discovery.find_inputs(SourceConfig(path="-"))


def make_local(tmp_path: Path) -> Path:
    folder = tmp_path / "org" / "corpus"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("id,text\n" + "".join(f"{n},row {n}\n" for n in range(2500)), encoding="utf-8")
    (folder / "test.csv").write_text("id,text\n1,a\n", encoding="utf-8")
    return folder


def test_a_hub_dataset_is_stored_as_one_parquet_file_per_split(tmp_path: Path) -> None:
    folder, out = make_local(tmp_path), tmp_path / "out"
    out.mkdir()
    hub.fetch_in_subprocess(str(folder), None, None, None, out)
    assert sorted(os.listdir(out)) == ["test.parquet", "train.parquet"]
    config = SourceConfig(path=str(out / "train.parquet"))
    (input,) = discovery.find_inputs(config)
    texts = [document.text for document, _ in read_documents(input, config)]
    assert texts == [f"row {n}" for n in range(2500)]


def test_a_stored_hub_dataset_is_used_without_the_hub(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    dataset_folder = stored(tmp_path / "job") / "hub" / "org--corpus" / "all"
    dataset_folder.mkdir(parents=True)
    for split in ("train", "test"):
        parquet.write_table(pa.table({"text": [split]}), dataset_folder / f"{split}.parquet")
    job_spool = Spool(tmp_path / "job")
    inputs = discovery.find_inputs(SourceConfig(path="org/corpus"), job_spool)
    assert [input.rel for input in inputs] == ["corpus/test.parquet", "corpus/train.parquet"]
    job_spool.link_into(tmp_path / "job-2")  # a fork gets its own copy
    copied = stored(tmp_path / "job-2") / "hub" / "org--corpus" / "all"
    assert sorted(os.listdir(copied)) == ["test.parquet", "train.parquet"]
    assert os.listdir(copied.parent) == ["all"]
    assert [input.dataset for input in inputs] == ["", ""]


def test_a_missing_hub_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PreflightError, match="No file or folder is named no-such/data-set") as caught:
        discovery.find_inputs(SourceConfig(path="no-such/data-set"), Spool(tmp_path / "job"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "job").exists()


def test_finding_files_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n")
    code = (
        "import sys; from hymt_batch.source import discovery, shards;"
        "from hymt_batch.source.settings import SourceConfig;"
        f"c = SourceConfig(path={str(tmp_path)!r}); i = discovery.find_inputs(c); list(shards.read_documents(i[0], c));"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow', 'accelerate'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
