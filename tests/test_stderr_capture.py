"""What libraries write to descriptor 2 goes to the log file; what Python prints to stderr still goes to stderr."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hymt_batch.errors import ExitCode
from hymt_batch.run import stderr_capture

ROOT = Path(__file__).parent.parent

BLOCK = """
import logging, os, sys, time
from hymt_batch.run import stderr_capture
from hymt_batch.run.reporter import Reporter
from pathlib import Path
"""

PANIC = b"\nthread '<unnamed>' panicked at tokenizers-lib/src/x.rs:12:5:\nbyte index 1\nnote: run with RUST_BACKTRACE\n"


def script(text: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, "-c", BLOCK + text]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOGS": str(folder)}
    return subprocess.run(command, text=True, timeout=60, env=environment, check=False, **options)  # type: ignore[call-overload,no-any-return]


def logged(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.log"))


def without_times(stderr: str) -> str:
    """Remove the time before each of our lines."""
    return re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (?=hymt-batch: )", "", stderr)


def test_library_lines_go_to_the_log_file_and_ours_to_the_terminal(tmp_path: Path) -> None:
    result = script(
        """
with Reporter("log") as reporter, stderr_capture.capture():
    os.write(2, b"before there is a file\\n")
    reporter.log_to(Path(os.environ["LOGS"]))
    os.write(2, b"OMP: Warning #96\\r\\n\\nno end of line, and \\x1b[31m red")
    print("python's own", file=sys.stderr)
    logging.getLogger("hymt_batch.x").info("ours")
    os.system("echo a child >&2")
os.write(2, b"after\\n")
""",
        tmp_path,
    )
    assert without_times(result.stderr) == "python's own\nhymt-batch: ours\nafter\n"
    lines = [line.partition(" INFO stderr ")[2] for line in logged(tmp_path).splitlines() if " INFO stderr " in line]
    assert lines[:2] == ["before there is a file", "OMP: Warning #96"]
    assert lines[2].startswith("no end of line, and \\u001b[31m red")
    assert "a child" in "".join(lines[2:])


def test_lines_without_a_log_file_are_printed_at_the_end(tmp_path: Path) -> None:
    result = script(
        """
with Reporter("off"), stderr_capture.capture():
    os.write(2, b"CUDA says no\\n")
    print("refused", file=sys.stderr)
""",
        tmp_path,
    )
    assert result.stderr == "refused\nhymt-batch: stderr: CUDA says no\n"


def test_no_message_says_panicked(tmp_path: Path) -> None:
    result = script(
        f"""
with Reporter("log") as reporter, stderr_capture.capture():
    reporter.log_to(Path(os.environ["LOGS"]))
    os.write(2, {PANIC!r})
    os.write(2, {PANIC!r})
""",
        tmp_path,
    )
    message = "hymt-batch: the tokenizers library failed on a text (tokenizers-lib/src/x.rs:12:5)\n"
    assert without_times(result.stderr) == message
    assert "panicked" not in logged(tmp_path)
    assert "byte index 1" in logged(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "thread 'main' panicked at 'a secret text', src/a.rs:1",
            "the tokenizers library failed on a text (src/a.rs:1)",
        ),
        ("thread 'main' panicked at /x/safetensors-0.4/src/a.rs:1:2:", "the safetensors library failed on a text (/x/"),
        ("thread 'main' panicked at ", "the tokenizers library failed on a text"),
    ],
)
def test_a_panic_is_reported_without_source_text(line: str, message: str) -> None:
    assert stderr_capture.panic_message(line).startswith(message)
    assert "secret" not in stderr_capture.panic_message(line)


def test_a_flood_neither_blocks_nor_fills_the_log(tmp_path: Path) -> None:
    result = script(
        """
with Reporter("off") as reporter, stderr_capture.capture():
    reporter.log_to(Path(os.environ["LOGS"]))
    for _ in range(200):
        os.write(2, b"x" * 70 + b"\\n" + b"y" * 60000)
    os.write(2, b"line\\n" * 20000)
""",
        tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    text = logged(tmp_path)
    assert "more than 10,000 lines: the rest is dropped" in text
    assert max(map(len, text.splitlines())) < 1200
    assert text.count("\n") < 10_100


def test_nothing_is_lost_if_the_process_ends_without_unwinding(tmp_path: Path) -> None:
    for lines in ("reporter.log_to(Path(os.environ['LOGS']))", "pass"):
        result = script(
            f"""
from hymt_batch import signals
stop = signals.install()
stop.flush_output = stderr_capture.flush
with Reporter("off") as reporter, stderr_capture.capture():
    {lines}
    os.write(2, b"the last line\\n")
    stop.exit_now("stopped")
""",
            tmp_path,
        )
        assert result.returncode == ExitCode.STOPPED
        assert "hymt-batch: stopped" in result.stderr
        assert ("the last line" in result.stderr) is (lines == "pass")
    assert "the last line" in logged(tmp_path)


def test_a_crash_and_an_uncaught_error_reach_the_terminal(tmp_path: Path) -> None:
    crashed = script("with stderr_capture.capture():\n    os.abort()\n", tmp_path)
    assert crashed.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in crashed.stderr
    raised = script("with stderr_capture.capture():\n    raise KeyError('not caught')\n", tmp_path)
    assert raised.returncode == 1
    assert raised.stderr.endswith("KeyError: 'not caught'\n")


def test_no_file_gets_the_number_of_a_closed_descriptor_2(tmp_path: Path) -> None:
    result = script(
        """
with stderr_capture.capture():
    os.write(2, b"dropped\\n")
    file = open(Path(os.environ["LOGS"]) / "file", "w")
    assert file.fileno() > 2
os.write(2, b"still dropped\\n")
""",
        tmp_path,
        stderr=None,
        preexec_fn=lambda: os.close(2),
    )
    assert result.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_a_terminal_stays_a_terminal_in_nested_and_repeated_blocks(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    text = """
for _ in range(2):
    with stderr_capture.capture(), stderr_capture.capture():
        print(sys.stderr.isatty(), sys.__stderr__.isatty(), os.isatty(2), flush=True)
print(os.isatty(2), sys.stderr.fileno(), len(os.listdir("/proc/self/fd")), flush=True)
"""
    result = script(text, tmp_path, stderr=slave)
    os.close(slave)
    os.close(master)
    first, second, after = result.stdout.splitlines()
    assert first == second == "True True False"
    assert after.split()[:2] == ["True", "2"]
    assert int(after.split()[2]) <= 5  # 0, 1, 2, the original target of 2, and the directory that is listed


def test_a_child_that_keeps_the_pipe_open_does_not_delay_the_exit(tmp_path: Path) -> None:
    began = time.monotonic()
    result = script("with stderr_capture.capture():\n    os.system('sleep 8 >/dev/null &')\n", tmp_path)
    assert result.returncode == 0
    assert time.monotonic() - began < 6


def test_a_run_without_spare_descriptors_continues_without_the_pipe(tmp_path: Path) -> None:
    for spare in range(6):
        result = script(
            f"""
import resource
held = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (held + {spare}, held + {spare}))
for _ in range(3):
    with stderr_capture.capture():
        print("python's own", file=sys.stderr)
        os.write(2, b"raw, or printed at the end\\n")
print(len(os.listdir("/proc/self/fd")) - 1 - held) if {spare} > 1 else None
""",
            tmp_path,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("python's own") == result.stderr.count("raw, or printed at the end") == 3
        assert result.stdout.strip() in ("", "0" if spare < 5 else "1"), (
            "only the original target of descriptor 2 stays open"
        )
