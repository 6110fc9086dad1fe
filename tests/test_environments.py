"""Every job in unusual environments: closed or full streams, locales, resource limits, removed folders.

Each case runs its own process. No case may end in a traceback or with an undocumented exit code.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from hymt_batch import streams
from hymt_batch.errors import ExitCode, wrap_exception
from hymt_batch.run.reporter import Reporter

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-P", "-m", "hymt_batch.jobs"]
STUB = [sys.executable, "-m", "tests.fakes.job", "tgt_lang=fr", "model=demo", "launch.progress=off"]
LIGHT = {"help": ["--help"], "version": ["--version"], "completion": ["--completion", "bash"]}
JOBS = {
    "status": ["status", "name=语料", "format=json"],
    "verify": ["verify", "name=语料"],
    "compare": ["compare", "name=语料", "format=json"],
    "evaluate": ["evaluate", "name=语料", "references=语料.txt"],
    "reproduce": ["reproduce", "name=语料", "rows=2", "--cfg", "job"],
    "report": ["report", "name=语料"],
    "card": ["card", "name=语料"],
    "prepare": ["prepare", "source.path=语料.txt", "tgt_lang=fr", "--cfg", "job"],
    "missing": ["missing", "name=语料", "--cfg", "job"],
    "merge": ["merge", "name=语料", "--cfg", "job"],
    "retry": ["retry", "name=语料", "decode.temperature=0.5", "--cfg", "job"],
    "plan": ["plan", "model=demo", "source.path=语料.txt"],
    "doctor": ["doctor", "explain=B1"],
    "languages": ["languages"],
    "formats": ["formats"],
    "bench": ["bench", "--cfg", "job"],
    "translate": ["translate", "source.path=语料.txt", "tgt_lang=fr", "--cfg", "job"],
}
NEVER = ("Traceback", "Exception ignored", "Logging error", "this is a bug")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and a complete job."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "语料.txt").write_text("one\n\ntwo → 2\n", encoding="utf-8")
    assert run([*STUB, "source.path=语料.txt"], folder).returncode == 0
    return folder


def run(
    words: Sequence[str],
    folder: Path,
    redirect: str = "",
    *,
    before: str = "",
    prefix: Sequence[str] = (),
    stdin: bytes | None = b"",
    **variables: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a shell with redirections, after the commands `before` have changed the environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    script = f"{before}\nexec {shlex.join(words)} {redirect}"
    done = subprocess.run(
        [*prefix, "sh", "-c", script], cwd=folder, env=environment, input=stdin, capture_output=True, timeout=60
    )
    for word in NEVER:
        assert word not in (done.stdout + done.stderr).decode(errors="replace")
    return done


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


def test_the_matrix_has_every_job() -> None:
    from hymt_batch.schema import JOBS as KNOWN

    assert set(JOBS) == set(KNOWN)


@pytest.mark.parametrize(
    ("redirect", "code", "message"),
    [
        ("> /dev/full", 75, "standard output cannot be written any more: the disk is full"),
        (">&-", 6, "standard output cannot be written: it is closed"),
        ("1< /dev/null", 6, "standard output cannot be written: it is open for reading only"),
        ("<&- >&- 2>&-", 6, ""),
        (">&- 2> /dev/full", 6, ""),
    ],
)
@pytest.mark.parametrize("job", LIGHT)
def test_a_page_that_cannot_be_printed_is_one_error_line(
    job: str, redirect: str, code: int, message: str, tmp_path: Path
) -> None:
    done = run([*COMMAND, *LIGHT[job]], tmp_path, redirect)
    assert (done.returncode, done.stdout) == (code, b"")
    assert [message in line for line in lines(done)] == [True] * bool(message)


@pytest.mark.parametrize("job", JOBS)
def test_a_report_that_cannot_be_printed_is_one_error_line(job: str, finished: Path) -> None:
    full = run([*COMMAND, *JOBS[job]], finished, "> /dev/full")
    assert (full.returncode, len(lines(full))) == (ExitCode.STOPPED, 1), full.stderr
    closed = run([*COMMAND, *JOBS[job]], finished, "<&- >&- 2>&-")
    assert (closed.returncode, closed.stderr) == (ExitCode.PREFLIGHT, b"")


@pytest.mark.parametrize("job", [*LIGHT, *JOBS])
def test_neither_standard_input_nor_standard_error_is_needed(job: str, finished: Path) -> None:
    done = run([*COMMAND, *{**LIGHT, **JOBS}[job]], finished, "<&- 2> /dev/full")
    assert done.returncode == 0
    assert done.stdout.strip()


@pytest.mark.parametrize("redirect", ["2> /dev/full", "2>&-", "<&- >&- 2>&-"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(redirect: str, finished: Path) -> None:
    assert run([*COMMAND, "status", "name=none"], finished, redirect).returncode == (6 if ">&- 2" in redirect else 2)
    assert run([*COMMAND, "none"], finished, redirect).returncode == ExitCode.USAGE


ODD = {
    "HOME": "/dev/null/none",
    "TMPDIR": "/nonexistent",
    "HF_HOME": "/proc/none",
    "TERM": "dumb",
    "COLUMNS": "0",
    "LINES": "none",
    "NO_COLOR": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TZ": "none/../none",
    "LANG": "xx_YY.none",
    "LANGUAGE": "::",
    "MKL_NUM_THREADS": "none",
}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("job", JOBS)
def test_odd_variables_change_nothing(job: str, finished: Path) -> None:
    done = run([*COMMAND, *JOBS[job]], finished, **ODD)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        done.stdout == run([*COMMAND, *JOBS[job]], finished).stdout or job == "plan"
    )  # plan shows the free memory, which changes


@pytest.mark.parametrize("job", JOBS)
def test_under_a_locale_that_is_not_utf8_names_are_found_and_shown_escaped(job: str, finished: Path) -> None:
    done = run([*COMMAND, *JOBS[job]], finished, **ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    if job == "status":
        assert json.loads(done.stdout)["folder"] == "outputs/语料"


@pytest.mark.parametrize("locale", [ASCII, {"PYTHONIOENCODING": "ascii:strict"}], ids=["locale", "encoding"])
def test_a_job_under_a_locale_that_is_not_utf8_writes_the_same_files(
    locale: Mapping[str, str], finished: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "语料.txt", tmp_path)
    done = run([*STUB, "source.path=语料.txt"], tmp_path, **locale)
    assert done.returncode == 0, done.stderr
    assert b"\\u2192" in done.stdout and done.stdout.isascii()
    assert (tmp_path / "outputs/语料/translated/语料.txt").read_text(encoding="utf-8") == "ONE\n\nTWO → 2\n"
    again = run([*STUB, "source.path=语料.txt"], tmp_path)
    assert (again.returncode, "nothing was left to do" in again.stdout.decode()) == (0, True)
    piped = run([*STUB, "source.path=-"], tmp_path, stdin="→ ü\n".encode(), **locale)
    assert (piped.returncode, piped.stdout) == (0, "→ Ü\n".encode())


def test_completions_are_bytes_of_names_under_any_locale(finished: Path) -> None:
    line = "hymt-batch translate source.path=语"
    done = run([*COMMAND, "--complete", line, str(len(line)), "=:"], finished, **ASCII)
    assert done.stdout == "语料.txt \n".encode()


def broken_pipe() -> int:
    """Return the write end of a pipe whose reader is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("target", "message"),
    [(lambda: "/dev/full", "the disk is full"), (broken_pipe, "its reader closed the pipe")],
    ids=["full", "pipe"],
)
def test_translations_are_kept_if_standard_output_cannot_be_written(
    target: Callable[[], str | int], message: str, named: bool, tmp_path: Path
) -> None:
    words = [*STUB, "source.path=-", *(["name=n"] if named else [])]
    (tmp_path / "t").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "t")}
    with open(target(), "wb", buffering=0) as output:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, input=b"one\n", stdout=output, stderr=subprocess.PIPE, timeout=60
        )
    code, last = done.returncode, lines(done)[-1]
    assert "Traceback" not in done.stderr.decode()
    assert list((tmp_path / "t").iterdir()) == []
    assert code == ExitCode.STOPPED
    assert message in last and "its translations are kept in outputs/" in last
    kept = tmp_path / last.rpartition(" ")[2]
    assert kept.read_bytes() == b"ONE\n"
    assert run([*COMMAND, "verify", f"name={kept.parts[-3]}"], tmp_path).returncode == 0


def test_translations_stay_in_the_temporary_folder_if_the_output_folder_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    done = run(
        [*STUB, "source.path=-"], tmp_path, "> /dev/full", before="mkdir t; export TMPDIR=$PWD/t", stdin=b"one\n"
    )
    assert done.returncode == ExitCode.STOPPED
    kept = Path(lines(done)[-1].rpartition(" ")[2])
    assert kept.is_relative_to(tmp_path / "t")
    assert kept.read_bytes() == b"ONE\n"


def test_a_closed_standard_output_is_reported_before_standard_input_is_read(tmp_path: Path) -> None:
    done = run([*STUB, "source.path=-"], tmp_path, ">&-", stdin=b"one\n")
    assert (done.returncode, len(lines(done))) == (ExitCode.PREFLIGHT, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_standard_input_is_a_usage_error(tmp_path: Path) -> None:
    for redirect in ("<&-", "0> none"):
        done = run([*STUB, "source.path=-"], tmp_path, redirect)
        assert (done.returncode, len(lines(done))) == (ExitCode.USAGE, 1)


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", "> /dev/full 2> /dev/full"])
def test_a_job_whose_result_is_files_needs_no_standard_stream(redirect: str, finished: Path, tmp_path: Path) -> None:
    done = run([*STUB, f"source.path={finished / '语料.txt'}"], tmp_path, redirect)
    assert done.returncode == 0
    assert (tmp_path / "outputs/语料/translated/语料.txt").read_text(encoding="utf-8") == "ONE\n\nTWO → 2\n"
    (log,) = (tmp_path / "outputs/语料/logs").iterdir()
    assert "the result is not shown: standard output" in log.read_text(encoding="utf-8")
    assert run([*COMMAND, "verify", "name=语料"], tmp_path).returncode == 0


GONE = "mkdir gone; cd gone; rmdir ../gone"


@pytest.mark.parametrize("job", JOBS)
def test_a_working_directory_that_was_removed(job: str, finished: Path, tmp_path: Path) -> None:
    words = [
        word.replace("=", f"={finished}/", 1) if word.startswith(("source.path=", "references=")) else word
        for word in JOBS[job]
    ]
    output_dir = (
        [f"output_dir={finished}/outputs"]
        if job in ("status", "verify", "evaluate", "compare", "report", "card")
        else []
    )
    assert run([*COMMAND, *words, *output_dir], tmp_path, before=GONE).returncode == 0
    if output_dir:
        refused = run([*COMMAND, *words], tmp_path, before=GONE)
        assert (refused.returncode, len(lines(refused))) == (ExitCode.PREFLIGHT, 1)
        assert "working directory of this process was removed" in lines(refused)[0]


def test_a_job_in_a_working_directory_that_was_removed(finished: Path, tmp_path: Path) -> None:
    source = f"source.path={finished}/语料.txt"
    assert run([*STUB, source, f"output_dir={tmp_path}/out"], tmp_path, before=GONE).returncode == 0
    assert (tmp_path / "out/语料/manifest.json").exists()
    for words, code in (([source], 6), (["source.path=语料.txt", f"output_dir={tmp_path}/out"], 6)):
        refused = run([*STUB, *words], tmp_path, before=GONE)
        assert (refused.returncode, len(lines(refused))) == (code, 1), refused.stderr


@pytest.mark.parametrize(
    ("before", "codes"),
    [
        ("ulimit -n 16", {0}),
        ("ulimit -v 400000", {0, 75}),
        ("ulimit -f 0", {6}),
        ("umask 777", {0, 6}),
        ("TMPDIR=/nonexistent", {0}),
    ],
)
def test_a_job_under_limits(before: str, codes: set[int], tmp_path: Path) -> None:
    done = run([*STUB, "source.path=-"], tmp_path, before=f"{before}\nexport TMPDIR", stdin=b"one\n")
    assert done.returncode in codes, done.stderr
    assert done.stdout == (b"ONE\n" if done.returncode == 0 else b"")


def test_a_user_without_a_passwd_entry_and_without_a_home_can_run_jobs(finished: Path, tmp_path: Path) -> None:
    unshare = [
        "unshare",
        "--user",
        "--map-user=12345",
        "--map-group=12345",
        "env",
        "-u",
        "HOME",
        "-u",
        "XDG_CACHE_HOME",
    ]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    program = "from hymt_batch.model import hashes; print(hashes.cache_file())"
    assert run([sys.executable, "-c", program], tmp_path, prefix=unshare).stdout == b"/dev/null/sha256.json\n"
    absent = run([*COMMAND, *JOBS["plan"], "model.path=~/none"], finished, prefix=unshare)
    assert (absent.returncode, len(lines(absent))) == (ExitCode.PREFLIGHT, 1)
    assert run([*STUB, f"source.path={finished}/语料.txt"], tmp_path, prefix=unshare).returncode == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((n, 75) for n in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENFILE)),
        *((n, 75) for n in (errno.ENOMEM, errno.EAGAIN, errno.EPIPE, errno.ETIMEDOUT)),
        (errno.EFBIG, 6),
        *((n, 6) for n in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)),
        *((n, 6) for n in (errno.ENOENT, errno.EEXIST, errno.EROFS, errno.EMFILE, errno.EINVAL, errno.ENOTEMPTY)),
    ],
)
def test_an_operating_system_error_has_an_exit_code_and_names_the_file(number: int, code: int) -> None:
    error = wrap_exception(OSError(number, os.strerror(number), "folder/file"))
    assert error is not None
    assert error.exit_code == code
    assert os.strerror(number) in str(error)
    assert number == errno.ENOMEM or str(error).startswith("folder/file: ")


def test_an_error_without_an_errno_stays_a_bug() -> None:
    assert wrap_exception(OSError("no number")) is None
    assert wrap_exception(ValueError("x")) is None


def test_a_full_log_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("hymt_batch.some_stage")
    with Reporter("off") as reporter:
        reporter.log_to(tmp_path)
        (path,) = tmp_path.iterdir()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            for _ in range(3):
                log.info("a line")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.info("the last line")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"the log {path} is incomplete" in err


def test_non_blocking_streams_are_written_completely(tmp_path: Path) -> None:
    program = (
        "import sys; from hymt_batch import streams; streams.prepare();"
        "streams.print_result('x' * 300_000); print('y' * 300_000, file=sys.stderr)"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=writer, stderr=writer, cwd=ROOT)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert len(file.read()) == 600_002
    assert process.wait(30) == 0


def test_non_blocking_standard_input_is_read_to_its_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*STUB, "source.path=-", "name=n"], cwd=tmp_path, env=environment, stdin=reader, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(reader)
    os.write(writer, b"one\n")
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.glob("outputs/.spool-*/stdin.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # the job waits for more input
    os.write(writer, b"two\n")
    os.close(writer)
    assert process.communicate(timeout=60)[0] == b"ONE\nTWO\n"


def test_printing_to_a_closed_pipe_is_not_an_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    muted: list[bool] = []
    monkeypatch.setattr("builtins.print", broken)
    monkeypatch.setattr(streams, "discard_stdout", lambda: muted.append(True))
    streams.print_result("a")
    assert muted == [True]


def test_a_warning_of_a_library_is_shown_and_never_raised(tmp_path: Path) -> None:
    program = (
        "import warnings; from hymt_batch import streams; streams.disable_warning_errors(); warnings.warn('mind this')"
    )
    done = run([sys.executable, "-c", program], tmp_path, PYTHONWARNINGS="error")
    assert done.returncode == 0
    assert b"mind this" in done.stderr


@pytest.mark.parametrize("module", [["jobs", "status"], ["jobs.status"], ["hymt_batch.jobs.status"]])
def test_python_m_in_a_checkout_has_the_same_exit_codes(module: list[str], finished: Path) -> None:
    words = [sys.executable, "-m", *module, "name=语料", f"output_dir={finished}/outputs"]
    for redirect, code in (("> /dev/full", 75), ("<&- >&- 2>&-", 6)):
        assert run(words, ROOT, redirect).returncode == code
    assert "语料" in json.loads(run([*words, "format=json"], ROOT, **ASCII).stdout)["folder"]


def test_docstrings_are_kept_under_pythonoptimize(tmp_path: Path) -> None:
    program = "import sys; from hymt_batch import streams; streams.restart_if_needed(); print(sys.flags.optimize)"
    for level, expected in (("2", b"0\n"), ("1", b"1\n")):
        assert run([sys.executable, "-c", program], tmp_path, PYTHONOPTIMIZE=level).stdout == expected
