"""Complete commands that failed in the past, run as a user runs them: the demo model, real processes, one test each.

The tests of the stages check each failure in detail; these check what the user sees.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import demo

RAIN = "Heavy rain is expected in Athens on Saturday."
SUN = "Sunny in Seoul and Shanghai on Wednesday morning."
COMMAND = [sys.executable, "-P", "-m", "hymt_batch.jobs"]
TO_GERMAN = ["model=demo", "device_map=cpu", "src_lang=en", "tgt_lang=de", "launch.progress=off"]
TO_FRENCH = [*TO_GERMAN[:3], "tgt_lang=fr", "launch.progress=off", "check.max_error_rate=1"]


class Command:
    """Runs `hymt-batch` in the folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        fixed: dict[str, Any] = {"cwd": self.folder, "capture_output": True, "text": True, "timeout": 120}
        if "stdout" in options:
            fixed |= {"capture_output": False, "stderr": subprocess.PIPE}
        done = subprocess.run([*COMMAND, *words], check=False, **{**fixed, **options})
        assert "Traceback" not in f"{done.stdout}{done.stderr}", done.stderr
        assert done.returncode != 70
        return done

    def translate(self, *words: str, to: list[str] = TO_GERMAN, **options: Any) -> subprocess.CompletedProcess[str]:
        return self("translate", *to, *words, **options)

    def output(self, name: str) -> bytes:
        return (self.folder / "outputs" / name).read_bytes()


@pytest.fixture
def hymt(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_a_long_row_of_dots_is_refused_quickly_and_other_rows_are_translated(hymt: Command) -> None:
    dots = "." * 300_000
    (hymt.folder / "dots.txt").write_text(f"{RAIN}\n{dots}\n{RAIN}\n")
    began = time.monotonic()
    done = hymt.translate("source.path=dots.txt", "segment.max_segments=100")
    assert done.returncode in (0, 10), done.stderr  # 10 (TOO_MANY_ERRORS): one of three rows is an error row
    assert time.monotonic() - began < 60
    lines = hymt.output("dots/translated/dots.txt").decode().split("\n")
    assert lines[0] == lines[2] != ""
    assert "too_long" in hymt.output("dots/errors/dots.txt.errors.jsonl").decode()


def test_a_long_row_of_punctuation_does_not_prevent_a_stop(hymt: Command) -> None:
    (hymt.folder / "dots.txt").write_text(f"{RAIN}\n{'?!' * 400_000}\n{RAIN}\n")
    words = [*COMMAND, "translate", *TO_GERMAN, "source.path=dots.txt", "launch.grace_s=2", "batch.part_rows=1"]
    running = subprocess.Popen(words, cwd=hymt.folder, stderr=subprocess.PIPE, text=True)
    try:
        lease = hymt.folder / "outputs/dots/.hymt/lease/job.json"
        deadline = time.monotonic() + 60
        while not lease.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(3)
        running.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert running.wait(timeout=30) == 75
        assert time.monotonic() - began < 15
    finally:
        running.kill()
        running.communicate()


def test_a_stop_within_a_long_row_keeps_the_other_rows_and_what_is_done_of_it(hymt: Command) -> None:
    (hymt.folder / "h.txt").write_text(f"High 12.\n{'w' * 4000}\nLow 3 tonight.\n")
    cut = ["segment.max_tokens=64", "batch.part_tokens=128", "decode.max_new_tokens=64", "source.path=h.txt"]
    words = [*COMMAND, "translate", *TO_FRENCH, *cut, "launch.progress=log", "launch.log_every_s=0.1"]
    running = subprocess.Popen(words, cwd=hymt.folder, stderr=subprocess.PIPE, text=True)
    state = hymt.folder / "outputs/h/.hymt"
    try:
        deadline = time.monotonic() + 110
        while len(list(state.glob("f*/s*/p*-r*"))) < 24 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        _, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 75, stderr
    assert "h.txt#2 (63 segments): " in stderr
    done = hymt("status", "name=h").stdout
    assert "rows      2 of 3" in done
    assert "long row  h.txt#2: " in done and " of 63 segments done" in done
    kept = len(list(state.glob("f*/s*/p*-r*")))
    again = hymt.translate(*cut, "launch.progress=log", "launch.log_every_s=0.1", to=TO_FRENCH)
    assert again.returncode == 0, again.stderr
    assert kept >= 3
    lines = hymt.output("h/translated/h.txt").decode().split("\n")
    assert len(lines) == 4 and all(lines[:3])


def test_a_row_with_nan_is_kept_and_translated(hymt: Command) -> None:
    rows = [f'{{"id": {i}, "score": {"NaN" if i == 5 else 0.5}, "text": "{RAIN}"}}' for i in range(10)]
    (hymt.folder / "x.jsonl").write_text("\n".join(rows) + "\n")
    assert hymt.translate("source.path=x.jsonl", "strict=true").returncode == 0
    row = hymt.output("x/translated/x.jsonl").decode().split("\n")[5]
    assert row.startswith('{"id": 5, "score": NaN, "text": ')
    assert json.loads(row)["translation"]
    assert json.loads(row)["hymt"]["status"] == "ok"


def test_a_row_that_is_too_long_keeps_its_fields_and_its_source(hymt: Command) -> None:
    long = "x " * 600_000
    (hymt.folder / "x.jsonl").write_text(f'{{"id": 1, "text": "short"}}\n{{"id": 2, "text": "{long}"}}\n')
    (hymt.folder / "x.txt").write_text(f"short\n{long}\n")
    done = hymt.translate("source.path=[x.jsonl,x.txt]", "name=x", "write.on_error=source", "check.max_error_rate=1")
    assert done.returncode == 0
    row = json.loads(hymt.output("x/translated/x.jsonl").decode().split("\n")[1])
    assert (row["id"], row["text"], row["hymt"]["status"]) == (2, long, "too_long")
    assert hymt.output("x/translated/x.txt").decode().split("\n")[1] == long


def test_invisible_rows_are_copied(hymt: Command) -> None:
    text = f"{RAIN}\n\u200b\n\ufeff\n\u00ad\n\u2060\n\u200e\n{RAIN}\n"
    (hymt.folder / "x.txt").write_text(text, encoding="utf-8")
    assert hymt.translate("source.path=x.txt").returncode == 0
    lines = hymt.output("x/translated/x.txt").decode().split("\n")
    assert lines[1:6] == text.split("\n")[1:6]
    assert lines[0] == lines[6] != RAIN


def test_conversions_keep_the_columns(hymt: Command) -> None:
    import pyarrow.parquet as pq

    (hymt.folder / "c.csv").write_text(f"id,text\n7,{RAIN}\n")
    (hymt.folder / "j.jsonl").write_text(f'{{"id": 7, "text": "{RAIN}"}}\n')
    assert hymt.translate("source.path=c.csv", "write=parquet", "strict=true", "name=p").returncode == 0
    assert hymt.translate("source.path=j.jsonl", "write=csv", "strict=true", "name=c").returncode == 0
    table = pq.read_table(hymt.folder / "outputs/p/translated/c.parquet")
    assert table.column_names[:2] == ["id", "text"]
    assert table.to_pylist()[0]["id"] in (7, "7")
    header, row = csv.reader(hymt.output("c/translated/j.csv").decode().splitlines())
    assert header[:2] == ["id", "text"]
    assert row[:2] == ["7", RAIN]


def test_backslash_before_a_quote_is_a_bad_row_or_an_escape(hymt: Command) -> None:
    escaped = '"Heavy rain \\"is expected\\" in Athens."'
    (hymt.folder / "x.csv").write_text(f"id,text\n1,{escaped}\n2,{SUN}\n")
    result = hymt.translate("source.path=x.csv", "write=jsonl", "name=told")
    assert result.returncode == 10
    first, second = [json.loads(line) for line in hymt.output("told/translated/x.jsonl").splitlines()]
    assert (first["id"], first["hymt"]["status"], first["translation"]) == ("1", "bad_row", "")
    assert second["translation"]
    assert "source.escape=backslash" in hymt.output("told/errors/x.csv.errors.jsonl").decode()
    assert hymt.translate("source.path=x.csv", "write=jsonl", "source.escape=backslash").returncode == 0
    rows = [json.loads(line) for line in hymt.output("x/translated/x.jsonl").splitlines()]
    assert [row["text"] for row in rows] == ['Heavy rain "is expected" in Athens.', SUN]
    (hymt.folder / "full.csv").write_text("id,text\n" + f"1,{escaped}\n" * 5)
    refused = hymt.translate("source.path=full.csv")
    assert refused.returncode == 2
    assert "source.escape=backslash" in refused.stderr
    assert not (hymt.folder / "outputs/full").exists()


def test_dates_out_of_range_become_text(hymt: Command) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    far = {
        "minimum": (pa.array([-62135596800 * 10**6], pa.timestamp("us", "America/New_York")), "0001-01-01T00:00:00"),
        "maximum": (pa.array([253402300799 * 10**6], pa.timestamp("us", "Asia/Tokyo")), "T"),
        "year10000": (pa.array([253402300800 * 10**6], pa.timestamp("us")), "10000-01-01T00:00:00"),
        "infinity": (pa.array([2**31 - 1], pa.date32()), "-"),
        "zone": (pa.array([0], pa.timestamp("us", "Z")), "1970-01-01T00:00:00"),
    }
    pq.write_table(
        pa.table({"text": [RAIN], **{name: column for name, (column, _) in far.items()}}), hymt.folder / "x.parquet"
    )
    for target in ("jsonl", "csv"):
        assert hymt.translate("source.path=x.parquet", f"write={target}", f"name={target}").returncode == 0
    row = json.loads(hymt.output("jsonl/translated/x.jsonl"))
    for name, (_, start) in far.items():
        assert isinstance(row[name], str)
        assert start in row[name]


def test_nothing_is_removed_behind_a_link(hymt: Command) -> None:
    (hymt.folder / "in/sub").mkdir(parents=True)
    (hymt.folder / "in/sub/a.txt").write_bytes(b"High 12.\n\xff\n")
    mine = hymt.folder / "mine"
    mine.mkdir()
    words = ("source.path=in", "name=x")
    assert hymt.translate(*words, to=TO_FRENCH).returncode == 0
    shutil.rmtree(hymt.folder / "outputs/x/translated/sub")
    for name in ("a.txt", ".tmp-final-notes"):
        (mine / name).write_text("precious\n")
    (hymt.folder / "outputs/x/translated/sub").symlink_to(mine)
    for more in ((), ("overwrite=true",)):
        done = hymt.translate(*words, *more, to=TO_FRENCH)
        assert done.returncode == 6
        assert "translated/sub" in done.stderr
    assert sorted(path.name for path in mine.iterdir()) == [".tmp-final-notes", "a.txt"]
    assert {path.read_text() for path in mine.iterdir()} == {"precious\n"}


def test_a_damaged_job_json_is_rebuilt(hymt: Command) -> None:
    (hymt.folder / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (hymt.folder / "in" / name).write_text("High 1.\nHigh 2.\n")
    words = ("source.path=in", "name=x")
    assert hymt.translate(*words, to=TO_FRENCH).returncode == 0
    (hymt.folder / "outputs/x/.hymt/job.json").write_bytes(b"")
    assert hymt("verify", "name=x").returncode == 7
    assert "nothing was left to do" in hymt.translate(*words, to=TO_FRENCH).stdout
    assert hymt("verify", "name=x").returncode == 0


def test_a_finished_folder_without_its_state_is_complete(hymt: Command) -> None:
    (hymt.folder / "a.txt").write_text("High 1.\nHigh 2.\n")
    words = ("source.path=a.txt", "name=x")
    assert hymt.translate(*words, to=TO_FRENCH).returncode == 0
    shutil.rmtree(hymt.folder / "outputs/x/.hymt")
    before = {path: path.stat().st_mtime_ns for path in (hymt.folder / "outputs/x").rglob("*") if path.is_file()}
    assert hymt("verify", "name=x").returncode == 0
    assert hymt.translate(*words, to=TO_FRENCH).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (hymt.folder / "outputs/x/translated/a.txt").write_text("edited\nby a user\n")
    assert hymt("verify", "name=x").returncode == 7


def test_workers_end_with_their_parent(hymt: Command) -> None:
    (hymt.folder / "x.txt").write_text("".join(f"High {i}.\n" for i in range(99)))
    words = [*COMMAND, "translate", *TO_FRENCH, "source.path=x.txt", "name=x"]
    words += ["launch.workers=2", "launch.num_threads=1", "batch.part_rows=5"]
    parent = subprocess.Popen(words, cwd=hymt.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(workers := children(parent.pid)) < 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert workers
    finally:
        parent.kill()
        parent.wait()
    time.sleep(1)
    assert not [pid for pid in workers if alive(pid)]


def children(parent: int) -> list[int]:
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(after_name[1]) == parent and b"hymt_batch" in command:
            pids.append(int(stat.parent.name))
    return pids


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_path_that_is_too_long_is_reported(hymt: Command) -> None:
    (hymt.folder / "in").mkdir()
    here = os.open(hymt.folder / "in", os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=here)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.txt", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        done = hymt.translate("source.path=in", "name=x")
        assert done.returncode in (2, 6)
        assert "xxx" in done.stderr
    finally:
        subprocess.run(["rm", "-r", str(hymt.folder / "in")], check=True)  # shutil.rmtree cannot delete such long paths


def test_a_panic_of_the_tokenizer_refuses_the_model_or_costs_the_row(hymt: Command) -> None:
    shutil.copytree(Path(demo.__file__).parent / "model", hymt.folder / "m")
    (hymt.folder / "m/SHA256SUMS").unlink(missing_ok=True)
    path = hymt.folder / "m/tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    path.write_text(json.dumps(value), encoding="utf-8")
    (hymt.folder / "t.txt").write_text(f"High 12.\n{'a' * 40}b\n")
    done = hymt("translate", "source.path=t.txt", "model.path=m", "model.family=hy_mt1_5", *TO_FRENCH[1:], "name=x")
    assert done.returncode in (0, 6, 10), done.stderr
    assert "panicked" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONUTF8": "0", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()),
)
def test_a_terminal_without_unicode_is_not_a_bug(hymt: Command, environment: dict[str, str]) -> None:
    (hymt.folder / "x.txt").write_text(f"{RAIN}\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    for _ in range(2):
        done = hymt.translate("source.path=x.txt", env={**clean, **environment}, errors="replace")
        assert done.returncode == 0, done.stderr
    assert hymt.output("x/translated/x.txt")


def test_translations_are_kept_if_stdout_cannot_be_written(hymt: Command) -> None:
    with open("/dev/full", "w") as full:
        done = hymt.translate("source.path=-", input=f"{RAIN}\n", stdout=full)
    assert done.returncode == 75
    kept = [path for path in hymt.folder.rglob("translated/*") if path.is_file()]
    assert len(kept) == 1
    assert kept[0].read_text()
    assert kept[0].parents[1].name in done.stderr


def test_a_closed_stdout_is_reported_before_anything_is_translated(hymt: Command) -> None:
    words = ["bash", "-c", '"$@" >&-', "bash", *COMMAND, "translate", *TO_GERMAN, "source.path=-"]
    done = subprocess.run(words, cwd=hymt.folder, input=f"{RAIN}\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "standard output" in done.stderr


def test_a_deleted_working_directory_is_not_a_bug(hymt: Command) -> None:
    (hymt.folder / "x.txt").write_text(f"{RAIN}\n")
    program = 'mkdir gone; cd gone; rmdir "$PWD"; exec "$@"'
    paths = [f"source.path={hymt.folder / 'x.txt'}", f"output_dir={hymt.folder / 'out'}"]
    words = ["bash", "-c", program, "bash", *COMMAND, "translate", *TO_GERMAN, *paths]
    done = subprocess.run(words, cwd=hymt.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 2, 6)
    assert "Traceback" not in done.stderr
