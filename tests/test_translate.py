"""The whole job is complete, in order and resumable; with the stub model where the translations do not matter."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import signals
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode, IdentityError, InputChangedError, LeaseError, StoppedError
from hymt_batch.model import demo_models
from tests.fakes import model as fake_model
from tests.fakes.job import Job

pytestmark = pytest.mark.core

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "rain", "falls", "on", "Lyon"]


def lines(num: int, seed: int = 0) -> list[str]:
    """Return distinct lines of different lengths, the same for the same seed."""
    texts = (" ".join(WORDS[(seed + row * k) % len(WORDS)] for k in range(1, 3 + row % 9)) for row in range(num))
    return [f"{text} {row}" for row, text in enumerate(texts)]


def test_a_translated_folder_has_the_same_file_names_and_lines(tmp_path: Path, job: Job) -> None:
    source = tmp_path / "news"
    (source / "deep").mkdir(parents=True)
    for index, name in enumerate(["a.txt", "b.txt", "deep/c.txt", "语料 (1), a=b.txt"]):
        (source / name).write_bytes("".join(f"{line}\r\n" for line in lines(50, index)).encode())
    (source / "empty.txt").touch()
    result = job(f"source.path={source}", "name=n", "batch.part_rows=7")
    assert (result.files, result.rows, result.num_rows_decoded) == (5, 200, 200)
    for path in sorted(source.rglob("*.txt")):
        translated = tmp_path / "out" / "n" / "translated" / path.relative_to(source)
        assert translated.read_bytes() == path.read_bytes().upper()


def test_a_finished_job_run_again_does_nothing(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_text("\n".join(lines(30)))
    job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    num_decoded = job.decoded
    path = tmp_path / "out/n/translated/in.txt"
    published = (path.stat().st_ino, path.stat().st_mtime_ns)
    result = job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    assert job.decoded == num_decoded == 30
    assert result.num_rows_decoded == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == published


def test_a_failed_job_keeps_its_parts_and_resumes_to_the_same_bytes(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_text("\n".join(lines(100)))
    settings = (f"source.path={tmp_path / 'in.txt'}", "batch.part_rows=10", "batch.max_rows=5", "batch.shard_rows=40")
    job.interrupt(*settings, "name=n", at=13)
    num_decoded = job.decoded
    result = job(*settings, "name=n")
    assert num_decoded == 60  # twelve batches of five
    assert (result.num_rows_decoded, result.num_rows_kept) == (40, 60)
    job(*settings, "name=unbroken")
    for name in ("translated/in.txt", "manifest.json"):
        assert (tmp_path / "out/n" / name).read_bytes() == (tmp_path / "out/unbroken" / name).read_bytes()


def test_a_job_may_resume_with_smaller_batches(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_text("\n".join(lines(40)))
    settings = (f"source.path={tmp_path / 'in.txt'}", "name=n", "batch.part_rows=10")
    job.interrupt(*settings, "batch.max_rows=10", at=3)
    assert job(*settings, "batch.max_rows=2", "batch.max_tokens=100").num_rows_kept == 20


@pytest.mark.fault(69)
def test_out_of_memory_splits_a_batch_and_a_row_that_never_fits_is_an_error_row(tmp_path: Path, job: Job) -> None:
    texts = lines(20)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    decode = job._decode

    def decode_small_batches(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if len(requests) > 3 or any(bytes(row.prompt_ids[1:-1]).endswith(texts[7].encode()) for row in requests):
            raise MemoryError
        return decode(requests, check_stop)

    job._decode = decode_small_batches  # type: ignore[method-assign]
    result = job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    expected = [text.upper() for text in texts]
    expected[7] = ""
    assert (tmp_path / "out/n/translated/in.txt").read_text() == "\n".join(expected)
    assert dict(result.counts) == {"ok": 19, "generation_error": 1}
    (error,) = (tmp_path / "out/n/errors/in.txt.errors.jsonl").read_text().splitlines()
    assert json.loads(error)["id"] == "in.txt#8"
    assert "do not fit in the memory" in json.loads(error)["message"]


def test_equal_lines_are_decoded_once_and_blank_lines_never(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_bytes(b"same\n\n  \t\nsame\nother\n\x0b\nsame\n")
    job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    assert (tmp_path / "out/n/translated/in.txt").read_bytes() == b"SAME\n\n  \t\nSAME\nOTHER\n\x0b\nSAME\n"
    assert job.decoded == 2


@pytest.mark.fault(37)
def test_other_settings_in_the_same_folder_are_refused_with_the_difference(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    with pytest.raises(IdentityError, match=r"tgt_lang.*fr.*de"):
        job(f"source.path={tmp_path / 'in.txt'}", "name=n", "tgt_lang=de")
    result = job(f"source.path={tmp_path / 'in.txt'}", "name=n", "tgt_lang=de", "on_mismatch=fork")
    assert result.folder.name == "n-2"
    result = job(f"source.path={tmp_path / 'in.txt'}", "name=n", "tgt_lang=de", "overwrite=true")
    assert result.folder.name == "n"


@pytest.mark.parametrize(("digest", "name"), list(demo_models.NAMES.items())[:-1])
def test_a_folder_of_an_earlier_demo_model_is_refused_and_both_are_named(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, digest: str, name: str
) -> None:
    def run_with(weights: str) -> None:
        prepared = fake_model.Model(identity={"files": {"model.safetensors": weights}})
        monkeypatch.setattr(fake_model, "prepare", lambda *_: prepared)
        job(f"source.path={tmp_path / 'in.txt'}", "name=n")

    (tmp_path / "in.txt").write_text("one\n")
    run_with(digest)
    (*_, (new_digest, new_name)) = demo_models.NAMES.items()
    with pytest.raises(
        IdentityError, match=rf"It was begun with {name}, and this hymt-batch has {new_name}\."
    ) as refused:
        run_with(new_digest)
    assert refused.value.exit_code is ExitCode.IDENTITY


@pytest.mark.fault(63)
def test_a_changed_input_is_refused_naming_its_rows_and_redone_on_request(tmp_path: Path, job: Job) -> None:
    texts = lines(40)
    source = tmp_path / "in.txt"
    source.write_text("\n".join(texts))
    settings = (f"source.path={source}", "name=n", "batch.part_rows=10", "batch.max_rows=10")
    job.interrupt(*settings, at=4)
    longest = max(range(40), key=lambda row: len(texts[row]))
    texts[longest] = texts[longest].replace("0", "7").replace("1", "8").replace("2", "9")
    source.write_text("\n".join(texts))
    with pytest.raises(InputChangedError, match=rf"in\.txt row {longest + 1}\b"):
        job(*settings)
    result = job(*settings, "on_input_change=redo")
    assert result.num_rows_kept == 20
    assert (tmp_path / "out/n/translated/in.txt").read_text() == "\n".join(texts).upper()


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv", "in.tsv", "in.parquet", "saved"])
def test_each_format_is_kept_with_the_translation_added(tmp_path: Path, job: Job, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": index, "text": text} for index, text in enumerate(lines(30))]
    source = tmp_path / name
    if name == "in.jsonl.gz":
        source.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif name == "in.parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif name == "saved":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(str(source))
    else:
        delimiter = "," if name == "in.csv" else "\t"
        source.write_text(f"id{delimiter}text\n" + "".join(f"{row['id']}{delimiter}{row['text']}\n" for row in rows))
    job(f"source.path={source}", "name=n", "batch.part_rows=7")
    folder = tmp_path / "out/n/translated"
    if name == "in.jsonl.gz":
        output_rows = [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).splitlines()]
    elif name in ("in.parquet", "saved"):
        output_rows = pq.read_table(folder / name.replace("saved", "saved.parquet")).to_pylist()
    else:
        import csv

        with (folder / name).open(newline="") as file:
            output_rows = list(csv.DictReader(file, delimiter=delimiter))
    assert [str(row["id"]) for row in output_rows] == [str(row["id"]) for row in rows]
    assert [row["translation"] for row in output_rows] == [str(row["text"]).upper() for row in rows]


def test_the_first_rows_alone_can_be_translated(tmp_path: Path, job: Job) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("\n".join(lines(10)) + "\n")
    paths = ",".join(str(tmp_path / f"{name}.txt") for name in "abc")
    result = job(f"source.path=[{paths}]", "name=n", "source.limit=14")
    assert (result.rows, result.files) == (14, 2)
    assert len((tmp_path / "out/n/translated/b.txt").read_text().splitlines()) == 4


def run(folder: Path, *overrides: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.job", "tgt_lang=fr", "model=demo", *overrides],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        cwd=folder,
        **options,
    )


def test_stdin_goes_to_stdout_and_everything_else_to_stderr(tmp_path: Path) -> None:
    process = run(tmp_path, "source.path=-", input=b"one\n\ntwo")
    assert (process.returncode, process.stdout) == (0, b"ONE\n\nTWO")
    assert b"3 rows" in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_named_pipe_job_keeps_its_folder(tmp_path: Path) -> None:
    process = run(tmp_path, "source.path=-", "name=n", input=b"one\n")
    assert (process.returncode, process.stdout) == (0, b"ONE\n")
    assert (tmp_path / "outputs/n/translated/stdin.txt").read_bytes() == b"ONE\n"


def test_another_standard_input_is_refused_replaced_or_forked_as_a_changed_file_is(tmp_path: Path) -> None:
    stored = tmp_path / "outputs/n/.hymt/spool/stdin.txt"
    assert run(tmp_path, "source.path=-", "name=n", input=b"one\n").returncode == 0
    refused = run(tmp_path, "source.path=-", "name=n", input=b"two\n")
    assert (refused.returncode, stored.read_bytes()) == (ExitCode.INPUT_CHANGED, b"one\n")
    forked = run(tmp_path, "source.path=-", "name=n", "on_input_change=fork", input=b"two\n")
    assert (forked.stdout, stored.read_bytes()) == (b"TWO\n", b"one\n")
    for override, text in (("on_input_change=redo", "three"), ("overwrite=true", "four")):
        process = run(tmp_path, "source.path=-", "name=n", override, input=f"{text}\n".encode())
        assert (process.returncode, process.stdout) == (0, f"{text}\n".upper().encode()), process.stderr
        rerun = run(tmp_path, "source.path=-", "name=n", stdin=subprocess.DEVNULL)
        assert rerun.stdout == process.stdout
    assert sorted(os.listdir(tmp_path / "outputs")) == ["n", "n-2"]


def test_a_refused_job_leaves_the_stored_input_of_another_unchanged(tmp_path: Path) -> None:
    run(tmp_path, "source.path=-", "name=n", input=b"one\n")
    before = {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("*") if path.is_file()}
    process = run(tmp_path, "source.path=-", "name=n", "tgt_lang=de", input=b"two\n")
    assert process.returncode == ExitCode.IDENTITY
    assert {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path / "outputs") == ["n"]


def test_without_a_name_the_first_errors_are_printed_but_no_temporary_path(tmp_path: Path) -> None:
    process = run(tmp_path, "source.path=-", input=b"good\n\xff\xfe bad\n")
    assert (process.returncode, process.stdout) == (ExitCode.TOO_MANY_ERRORS, b"GOOD\n\n")
    assert b"stdin.txt#2" in process.stderr
    assert b"add name=NAME to keep the errors" in process.stderr
    assert b"/tmp" not in process.stderr
    assert b"errors\n" not in process.stderr.replace(b"keep the errors", b"")


def test_a_signal_removes_the_stored_standard_input_of_an_unnamed_job(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "tests.fakes.job", "tgt_lang=fr", "model=demo", "source.path=-"]
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + 30
    while not list(temporary.rglob("stdin.txt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(temporary.rglob("stdin.txt"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED
    assert list(temporary.iterdir()) == []


def test_a_missing_input_is_named_when_its_translation_is_removed(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\n")
    run(tmp_path, "source.path=a.txt", "name=n")
    process = run(tmp_path, "source.path=b.txt", "name=n", "on_input_change=redo", "strict=true")
    assert process.returncode == ExitCode.WARNINGS
    assert b"translated/a.txt" in process.stderr
    assert not (tmp_path / "outputs/n/translated/a.txt").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output_dir=f.txt", "name=n"], "f.txt is not a folder. Set output_dir= to a folder"),
        (["name=taken"], "taken is not a folder. Set name="),
    ],
)
def test_a_file_in_place_of_a_folder_is_named_without_advice_to_remove_it(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "outputs").mkdir()
    for name in ("f.txt", "outputs/taken", "in.txt"):
        (tmp_path / name).write_text("one\n")
    process = run(tmp_path, "source.path=in.txt", *overrides)
    assert process.returncode == ExitCode.PREFLIGHT
    assert message.encode() in process.stderr
    assert b"emove" not in process.stderr


def test_too_many_error_rows_and_warnings_have_their_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"good\n\xff\xfe bad\n")
    process = run(tmp_path, "source.path=in.txt", "name=n")
    assert process.returncode == ExitCode.TOO_MANY_ERRORS
    assert b"check.max_error_rate=0.01" in process.stderr
    assert run(tmp_path, "source.path=in.txt", "name=n", "check.max_error_rate=0.5").returncode == 0


def test_a_language_that_the_demo_model_does_not_know_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("rain\n")
    ran = run(tmp_path, "source.path=in.txt", "name=n", "tgt_lang=ja", "strict=true")
    assert ran.returncode == ExitCode.WARNINGS
    assert b"tgt_lang=ja gives meaningless output" in ran.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.fault(3, 5)
def test_a_stop_request_ends_with_75_after_the_running_part_and_the_job_resumes(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    (tmp_path / "in.txt").write_text("\n".join(lines(60)))
    command = [sys.executable, "-m", "tests.fakes.job", "tgt_lang=fr", "model=demo", "source.path=in.txt"]
    command += ["name=n", "batch.part_rows=4", "batch.max_rows=2", "launch.progress=off"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "STUB_PAUSE_S": "0.1"},
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("outputs/n/.hymt/f*/s*/p*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED
    assert b"Traceback" not in err
    parts = len(list(tmp_path.glob("outputs/n/.hymt/f*/s*/p*")))
    assert 0 < parts < 15
    resumed = run(tmp_path, "source.path=in.txt", "name=n", "batch.part_rows=4")
    assert resumed.returncode == 0
    assert f"{4 * parts} from earlier runs".encode() in resumed.stderr + resumed.stdout
    assert (tmp_path / "outputs/n/translated/in.txt").read_text() == "\n".join(lines(60)).upper()


@pytest.mark.fault(3)
@pytest.mark.parametrize(("stop_at", "kept"), [(1, 4), (2, 8), (3, None)])
def test_after_a_stop_request_no_further_part_is_decoded_and_after_the_last_part_it_changes_nothing(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, stop_at: int, kept: int | None
) -> None:
    (tmp_path / "in.txt").write_text("\n".join(lines(12)))
    settings = (f"source.path={tmp_path / 'in.txt'}", "name=n", "batch.part_rows=4", "batch.max_rows=4")
    stop = signals.install()
    monkeypatch.setattr(stop, "_where", "")

    def request(calls: int) -> None:
        if calls == stop_at:
            monkeypatch.setattr(stop, "signal_name", "SIGUSR1")

    job.fail = request
    if kept is None:
        assert job(*settings).rows == 12
    else:
        with pytest.raises(StoppedError, match="SIGUSR1: stopped after a finished part"):
            job(*settings)
        monkeypatch.setattr(stop, "signal_name", "")
        assert job(*settings).num_rows_kept == kept
    assert job.decoded == 12
    assert (tmp_path / "out/n/translated/in.txt").read_text() == "\n".join(lines(12)).upper()


def preparing(folder: Path, *overrides: str, count_s: float) -> subprocess.Popen[bytes]:
    """Start a job whose second row takes long to split into segments."""
    (folder / "in.txt").write_text("one\n" + "two " * 5000 + "\nthree\n")
    command = [sys.executable, "-m", "tests.fakes.job", "tgt_lang=fr", "model=demo", "source.path=in.txt"]
    command += ["name=n", "segment.max_tokens=16", "launch.progress=off", *overrides]
    paths = {"PYTHONPATH": str(Path(__file__).parent.parent), "STUB_COUNT_S": str(count_s)}
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, env={**os.environ, **paths})


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.fault(3, 5)
def test_a_stop_request_while_a_long_row_is_split_ends_at_once_with_75(tmp_path: Path, ahead: int) -> None:
    process = preparing(tmp_path, f"launch.prefetch_shards={ahead}", "launch.grace_s=600", count_s=0.02)
    lease = tmp_path / "outputs/n/.hymt/lease/job.json"
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/n/logs/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(2)
    assert lease.exists()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED
    assert b"stopped while rows were prepared" in err
    assert b"Traceback" not in err
    assert not lease.exists()


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.fault(13)
def test_a_row_that_hangs_the_tokenizer_ends_the_job_after_hang_s(tmp_path: Path, ahead: int) -> None:
    process = preparing(tmp_path, f"launch.prefetch_shards={ahead}", "launch.hang_s=2", count_s=100.0)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED
    assert b"a step of reading, splitting or encoding rows did not end within launch.hang_s=2 s" in err
    assert not (tmp_path / "outputs/n/.hymt/lease/job.json").exists()


@pytest.mark.fault(42)
def test_a_second_run_is_refused_and_names_the_owner_of_the_folder(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    second_job = Job(tmp_path)

    def run_second_job(calls: int) -> None:
        with pytest.raises(LeaseError, match=str(os.getpid())):
            second_job(f"source.path={tmp_path / 'in.txt'}", "name=n")

    job.fail = run_second_job
    job(f"source.path={tmp_path / 'in.txt'}", "name=n")
    assert job.calls == 1
    assert second_job.calls == 0
