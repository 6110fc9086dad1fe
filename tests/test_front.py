"""The command line of `hymt-batch`: flags, exit codes, sweeps and completion, run as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hymt_batch.jobs import __main__ as front

from hymt_batch import config, schema
from hymt_batch.cli import shell_completion
from hymt_batch.config import SweepPoint
from hymt_batch.errors import ExitCode, IdentityError, UsageError

SCRIPT = Path(sys.executable).parent / "hymt-batch"
RUN = "import sys; from hymt_batch.jobs.__main__ import main; sys.exit(main())"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-P", "-c", RUN]
BASE = ["source.path=in.txt", "tgt_lang=fr"]
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def hymt_batch(*words: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def invoke(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = front.main(words)
    caught = capsys.readouterr()
    return code, caught.out, caught.err


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_job_it_lists_jobs_and_exit_codes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, *words)
    assert (code, err) == (0, "")
    assert "  translate  Translate a corpus" in out
    assert "75  stopped; run the same command again to continue" in out


def test_help_is_quick_and_imports_neither_hydra_nor_torch(tmp_path: Path) -> None:
    heavy = ("hydra", "omegaconf", "torch", "transformers", "datasets", "pyarrow", "accelerate")
    check = (
        "import sys; from hymt_batch.jobs.__main__ import main; main(sys.argv[1:]);"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    for words in ([], ["--help"], ["--version"], ["--completion", "bash"]):
        done = subprocess.run(
            [sys.executable, "-c", check, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"
    line = "hymt-batch translate model="
    done = subprocess.run(
        [sys.executable, "-c", check, "--complete", line, str(len(line)), "=:"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_job_help_explains_every_setting_choice_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke(capsys, "translate", "--help")
    assert code == 0
    for key in config.override_parser("translate").settings:
        assert any(line.strip().startswith(f"{key}=") for line in out.splitlines()), key
    for group, choices in config.group_choices("translate").items():
        assert f"{group}=" in out
        for choice in choices:
            assert f"      {choice} " in out
    assert "  2   wrong usage or configuration" in out
    assert "decode.method=sampling" in invoke(capsys, "translate", "decode=recommended", "-h")[1]


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "job", "translate", *BASE],
        ["translate", *BASE, "--cfg", "job"],
        ["translate", BASE[0], "--cfg=job", BASE[1]],
        ["translate", "-c", "job", *BASE],
    ],
)
def test_flags_may_be_anywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke(capsys, *words)
    assert code == 0
    assert out.startswith("name: null\n")
    assert "  path: in.txt\n" in out


def test_one_stage_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = invoke(capsys, "translate", "--cfg", "job", "-p", "device_map")[1]
    assert printed.startswith("strategy: replicate\ndevice: null\n")
    assert "model:" not in printed
    assert invoke(capsys, "translate", "--cfg", "job", "-p", "devices")[0] == 2


def test_info_names_the_files_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    out = invoke(capsys, "translate", "--info", "model=demo")[1]
    assert all(Path(line).exists() for line in out.splitlines())
    assert any(line.endswith(os.path.join("model", "demo.yaml")) for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["translat"], "Did you mean translate?"),
        (["in.txt"], "is not a job"),
        (BASE, "The command line names no job. Write hymt-batch translate source.path=in.txt"),
        (["translate", "--cgf"], "--cgf is not a flag of hymt-batch. Flags: --cfg"),
        (["translate", "--cfg", "all"], "Write --cfg job"),
        (["translate", "--package", "decode"], "needs --cfg job"),
        (["translate", "--config-dir", "x"], "--config-dir is not a flag"),
        (["--completion", "zsh"], "Write --completion bash"),
        (["--complete"], "Write --completion bash"),
        (["--complete", "line", "x", "="], "Write --completion bash"),
        (["translate", *BASE, "model=demmo"], "Did you mean model=demo?"),
        (["translate"], "Add for example"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    words: list[str], needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = invoke(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("hymt-batch: ")
    assert err.count("\n") == 1
    assert needle in err


def test_a_file_name_instead_of_a_job_suggests_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("x")
    assert "hymt-batch translate source.path=in.txt tgt_lang=fr" in invoke(capsys, "in.txt")[2]
    assert "To translate this file, write source.path=in.txt" in invoke(capsys, "translate", "in.txt", "tgt_lang=fr")[2]


class Fake(ModuleType):
    """A job module that records its jobs, and returns or raises the results that a test sets."""

    def __init__(self, answers: Sequence[int | BaseException] = (0,)) -> None:
        super().__init__("fake")
        self.answers, self.seen = list(answers), list[object]()

    @contextmanager
    def open_sweep(self) -> Iterator[Callable[[object], int]]:
        yield self.run

    def run(self, job: object) -> int:
        self.seen.append(job)
        answer = self.answers[len(self.seen) - 1] if len(self.seen) <= len(self.answers) else 0
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    module = Fake()
    monkeypatch.setitem(sys.modules, "hymt_batch.jobs.translate", module)
    monkeypatch.setattr("hymt_batch.signals.install", lambda: None)
    return module


@pytest.mark.parametrize(
    ("answer", "code", "needle"),
    [
        (0, 0, ""),
        (10, 10, ""),
        (UsageError("wrong"), 2, "hymt-batch: wrong.\n"),
        (IdentityError("a\nb"), 3, "hymt-batch: a\nb\n"),
        (KeyboardInterrupt(), 75, "run the same command again"),
        (ZeroDivisionError("x"), 70, "this is a bug in hymt-batch (ZeroDivisionError)"),
        (MemoryError(), 75, "memory"),
    ],
)
def test_every_outcome_has_its_exit_code(
    answer: int | BaseException, code: int, needle: str, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = [answer]
    returned, _, err = invoke(capsys, "translate", *BASE)
    assert returned == code
    assert needle in err
    assert ("Traceback" in err) == (code == 70)


def test_a_failed_point_does_not_stop_the_others_and_the_worst_code_is_returned(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = [10, IdentityError("mixed"), 0]
    code, _, err = invoke(capsys, "translate", "-m", *BASE[:1], "tgt_lang=fr,de,it")
    assert (code, len(fake.seen)) == (3, 3)
    assert "  10  outputs/in/tgt_lang=fr\n   3  outputs/in/tgt_lang=de\n   0  outputs/in/tgt_lang=it\n" in err


def test_swept_names_are_the_folders_of_the_table(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = invoke(capsys, "translate", "-m", *BASE, "name=aa,bb")
    assert code == 0
    assert "   0  outputs/aa\n   0  outputs/bb\n" in err
    assert "point 2 of 2: bb\n" in err


@pytest.mark.parametrize("stop", [75, KeyboardInterrupt()])
def test_a_stop_ends_the_sweep(stop: int | BaseException, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers = [ZeroDivisionError("x"), stop]
    code, _, err = invoke(capsys, "translate", "-m", *BASE[:1], "tgt_lang=fr,de,it")
    assert (code, len(fake.seen)) == (75, 2)
    assert "   -  outputs/in/tgt_lang=it\n" in err


def test_after_a_stop_request_no_further_point_starts() -> None:
    job = config.load("translate", BASE)
    ran: list[object] = []
    code = front.run_sweep(
        [SweepPoint("a", job), SweepPoint("b", job)], lambda job: ran.append(job) or 0, lambda: bool(ran)
    )
    assert (code, len(ran)) == (ExitCode.STOPPED, 1)


def test_every_exit_code_has_a_severity() -> None:
    assert set(front.SEVERITY) == set(ExitCode)


@needs_bash
@pytest.mark.fault(8)
def test_a_reader_that_closes_the_pipe_is_not_an_error(tmp_path: Path) -> None:
    words = " ".join(map(_shell, [*COMMAND, "translate", "--help"]))
    program = ["bash", "-c", f"{words} | true; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_it_runs_from_a_folder_with_its_own_jobs_conf_and_hydra(tmp_path: Path) -> None:
    for name in ("jobs", "conf", "hydra", "omegaconf", "hymt_batch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(99)")
    (tmp_path / "conf" / "translate.yaml").write_text("broken: [")
    done = hymt_batch("translate", "--cfg", "job", "model=demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "path: demo:model" in done.stdout


@pytest.mark.fault(50)
def test_composing_writes_no_file(tmp_path: Path) -> None:
    assert hymt_batch("translate", "--cfg", "job", *BASE, cwd=tmp_path).returncode == 0
    assert hymt_batch("translate", "model=none", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [["jobs", "translate"], ["jobs.translate"], ["hymt_batch.jobs.translate"]])
def test_python_m_works_in_a_checkout(module: list[str]) -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *module, "--cfg", "job", "-p", "write"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("format: input\n")


def complete(line: str, breaks: str = " \t\n\"'@><=;|&(:") -> list[str]:
    """Return the completions of a line from real bash with the real script."""
    program = f"""
        hymt-batch() {{ "$@"; }}
        {shell_completion.SCRIPT}
        COMP_LINE={_shell(line)}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS={_shell(breaks)}
        _hymt_batch {_shell(str(_wrapper()))} && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [answer for answer in done.stdout.split("\n") if answer]


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _wrapper() -> Path:
    path = Path.cwd().parent / f"{Path.cwd().name}-hymt-batch"
    path.write_text(f'#!/bin/sh\nexec {" ".join(map(_shell, COMMAND))} "$@"\n')
    path.chmod(0o755)
    return path


@needs_bash
@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("hymt-batch tr", ["translate "]),
        ("hymt-batch translate --mul", ["--multirun "]),
        ("hymt-batch translate --cfg ", ["job "]),
        ("hymt-batch translate source.pa", ["source.path=", "source.pattern="]),
        ("hymt-batch translate device_ma", ["device_map=", "device_map."]),
        ("hymt-batch translate model=hy_mt2_1", ["hy_mt2_1.8b ", "hy_mt2_1.8b_fp8 "]),
        ("hymt-batch translate model=hy_mt1.5_7b", ["hy_mt1.5_7b ", "hy_mt1.5_7b_fp8 "]),
        ("hymt-batch translate model.dtype=b", ["bfloat16 "]),
        ("hymt-batch translate strict=", ["true ", "false "]),
        ("hymt-batch translate tgt_lang=zh", ["zh ", "zh-Hant "]),
        ("hymt-batch translate -m tgt_lang=fr,zh", ["fr,zh ", "fr,zh-Hant "]),
        ("hymt-batch translate source.path=da", ["data/"]),
        ("hymt-batch translate source.path=data/", ["data/a.txt ", "data/b.txt "]),
        ("hymt-batch translate source.path=my", ["my\\ file\\ \\(1\\).txt "]),
        ("hymt-batch translate source.path='my", ["my file (1).txt"]),
        ("hymt-batch translate source.path=my\\ f", ["my\\ file\\ \\(1\\).txt "]),
        ("hymt-batch translate source.path=x:", ["y.txt "]),
        ("hymt-batch translate source.path=语", ["语料.txt "]),
        ("hymt-batch translate source.path=[data/a.txt,语", ["\\[data/a.txt,语料.txt "]),
        ("hymt-batch translate output_dir=", ["data/"]),
        ("hymt-batch translate nothing=", []),
        ("hymt-batch status for", ["format="]),
        ("hymt-batch status output_dir=runs name=n", ["nightly "]),
        ("hymt-batch verify name=", []),
    ],
)
def test_bash_completes(line: str, answers: list[str], tmp_path: Path) -> None:
    if "status" in line and "status" not in front.pages.find_jobs(Path(front.__file__).parent):
        pytest.skip("this checkout has no status job")
    (tmp_path / "data").mkdir()
    if "runs" in line:
        for job in ("nightly", "demo", ".spool-x"):
            (tmp_path / "runs" / job).mkdir(parents=True)
    for name in ("data/a.txt", "data/b.txt", "my file (1).txt", "x:y.txt", "语料.txt", ".hidden"):
        (tmp_path / name).write_text("")
    assert complete(line) == answers


@needs_bash
def test_without_word_breaks_bash_gets_whole_words() -> None:
    assert complete("hymt-batch translate preset=de", breaks=" ") == ["preset=demo "]


@needs_bash
def test_completion_answers_quickly() -> None:
    complete("hymt-batch translate model=")
    start = time.perf_counter()
    complete("hymt-batch translate model=")
    assert time.perf_counter() - start < 2.0  # 0.15 s on an idle machine; the bound leaves room for a busy one


def test_the_whole_command_line_reaches_the_job_unchanged(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "语料 (1), a=b.txt").write_text("x")
    assert front.main(["translate", "tgt_lang=fr", "source.path=语料 (1), a=b.txt", "name=n"]) == 0
    assert front.main(["translate", "tgt_lang=fr", "source.path=语料 (1), a=b.txt", "name=n", "-m"]) == 0
    for job in fake.seen:
        assert isinstance(job, schema.TranslateJob)
        assert json.dumps(job.source.path) == json.dumps("语料 (1), a=b.txt")
