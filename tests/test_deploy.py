"""The container: its entry point runs with a stub for hymt-batch, and its files are checked; no image is built."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from hymt_batch import config, signals
from hymt_batch.cli import help_text
from hymt_batch.cli.command_line import parse_arguments
from hymt_batch.errors import ExitCode

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "jobs" / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
ENTRYPOINT = DEPLOY / "entrypoint.sh"
COMPOSE = DEPLOY / "compose.yaml"
PAGE = ROOT / "docs" / "container.md"
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")

STUB = """
import json, os, signal, sys, time
number = lambda key: int(os.environ.get(key, "0"))
doctor = "doctor" in sys.argv[1:]
record = {"words": sys.argv[1:], "pid": os.getpid(), "stdin": None}
if doctor:
    record["stdin"] = sys.stdin.read()
with open(os.environ["RECORDS"], "a") as file:
    file.write(json.dumps(record) + "\\n")
if "DOCTOR_WAITS" in os.environ and doctor:
    time.sleep(60)
if doctor:
    print("a finding")
    sys.exit(number("DOCTOR_EXITS"))
if "JOB_WAITS" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    print("ready", flush=True)
    time.sleep(60)
sys.stdout.buffer.write(sys.stdin.buffer.read())
sys.stdout.flush()
sys.exit(number("JOB_EXITS"))
"""


@dataclass(frozen=True, slots=True)
class Container:
    """The entry point with a stub for hymt-batch that records its calls."""

    folder: Path

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        stub = self.folder / "hymt-batch stub"
        program = self.folder / "stub.py"
        program.write_text(STUB, encoding="utf-8")
        stub.write_text(f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} -ISB {program} "$@"\n')
        stub.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HYMT_")}
        return subprocess.Popen(
            [str(ENTRYPOINT), *words],
            env={**environment, "HYMT_BATCH": str(stub), "RECORDS": str(self.folder / "records"), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, stdin: bytes = b"", **variables: str) -> tuple[int, bytes, bytes, int]:
        """Return the exit code, stdout, stderr and the id of the started process."""
        with self.start(*words, **variables) as process:
            out, err = process.communicate(stdin, timeout=30)
        return process.returncode, out, err, process.pid

    def records(self) -> list[dict[str, Any]]:
        path = self.folder / "records"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def calls(self) -> list[list[str]]:
        return [record["words"] for record in self.records()]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # a zombie: it has ended, but its parent has not waited for it
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


# Tests that run the entry point.

WORDS = [
    "source.path=/data/a b (1), c=d.txt",
    "src_lang=en",
    "tgt_lang=fr",
    """prompt.x="it's" $HOME * \\ 语料""",
    "y=",
]


def test_the_doctor_gets_the_same_settings_and_then_the_started_process_becomes_the_job(container: Container) -> None:
    code, _, _, pid = container.run("translate", *WORDS)
    assert code == 0
    assert container.calls() == [["doctor", *WORDS, "strict=false"], ["translate", *WORDS]]
    doctor, job = container.records()
    assert job["pid"] == pid != doctor["pid"]


@pytest.mark.parametrize("code", [1, 2, 6, 70])
def test_if_the_doctor_fails_the_container_has_its_exit_code_and_no_job_starts(code: int, container: Container) -> None:
    returned, out, err, _ = container.run("translate", *WORDS, DOCTOR_EXITS=str(code))
    assert (returned, out) == (code, b"")
    assert container.calls() == [["doctor", *WORDS, "strict=false"]]
    assert f"exit code {code} and the job was not started" in err.decode()
    assert b"HYMT_DOCTOR=off" in err


@pytest.mark.parametrize("code", [0, 3, 10, 75])
def test_the_exit_code_of_the_job_is_that_of_the_container(code: int, container: Container) -> None:
    assert container.run("translate", *WORDS, JOB_EXITS=str(code))[0] == code


def test_without_the_executable_the_container_ends_as_a_shell_does(container: Container) -> None:
    assert container.run("translate", HYMT_BATCH="/nowhere/hymt-batch")[0] == 127


def test_stdin_reaches_the_job_intact_and_stdout_holds_only_what_the_job_writes(container: Container) -> None:
    rows = bytes(range(256)) * 4000 + b"last line without an end"
    code, out, err, _ = container.run("translate", "source.path=-", "tgt_lang=fr", stdin=rows)
    assert code == 0
    assert out == rows
    assert b"a finding" in err
    assert container.records()[0]["stdin"] == ""


def test_the_doctor_can_be_skipped(container: Container) -> None:
    assert container.run("translate", *WORDS, HYMT_DOCTOR="off", DOCTOR_EXITS="6")[0] == 0
    assert container.calls() == [["translate", *WORDS]]


def test_an_empty_variable_does_not_skip_the_doctor(container: Container) -> None:
    assert container.run("translate", *WORDS, HYMT_DOCTOR="", DOCTOR_EXITS="6")[0] == 6


@pytest.mark.parametrize("value", ["no", "OFF", "0"])
def test_a_variable_that_is_neither_on_nor_off_is_a_usage_error(value: str, container: Container) -> None:
    code, _, err, _ = container.run("translate", *WORDS, HYMT_DOCTOR=value)
    assert code == ExitCode.USAGE
    assert f"HYMT_DOCTOR={value} is neither on nor off" in err.decode()
    assert container.calls() == []


LINES = [
    "",
    "-h",
    "--version",
    "--completion bash",
    "status name=a",
    "verify name=a",
    "doctor tgt_lang=fr",
    "tgt_lang=fr",
    "name=translate status",
    "translate --help",
    "--help translate",
    "translate tgt_lang=fr --cfg job",
    "--cfg job translate tgt_lang=fr",
    "--cfg=job translate tgt_lang=fr",
    "-c job translate tgt_lang=fr",
    "translate --info tgt_lang=fr",
    "translate -m tgt_lang=fr,de",
    "translate tgt_lang=fr,de --multirun",
    "translate",
    "translate preset=demo",
    "tgt_lang=fr translate name=a",
    "--resolve translate tgt_lang=fr",
    "--run translate tgt_lang=fr",
    "--package=decode translate tgt_lang=fr",
    "--package translate status name=a",
    "-p decode translate tgt_lang=fr",
    "translate status",
]


@pytest.mark.parametrize("line", LINES)
def test_the_doctor_runs_before_a_command_line_that_translates_and_before_no_other(
    line: str, container: Container
) -> None:
    words = line.split()
    assert container.run(*words)[0] == 0
    front = parse_arguments(words, [*help_text.find_jobs(ROOT / "jobs"), "doctor"])
    prints = front.help or front.version or front.info or front.cfg or front.completion is not None
    translates = front.job == "translate" and not prints
    assert container.calls()[-1] == words
    if not translates or front.multirun:
        assert len(container.calls()) == 1
        return
    before = words.index("translate")
    assert container.calls()[:-1] == [[*words[:before], "doctor", *words[before + 1 :], "strict=false"]]


@pytest.mark.fault(7)
def test_sigterm_to_the_container_reaches_the_job(container: Container) -> None:
    with container.start("translate", *WORDS, JOB_WAITS="1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED
    assert len(container.calls()) == 2


@pytest.mark.parametrize("signum", signals.SIGNALS)
@pytest.mark.fault(6)
def test_a_signal_while_the_doctor_works_ends_both_at_once_and_no_job_starts(
    signum: signal.Signals, container: Container
) -> None:
    with container.start("translate", *WORDS, DOCTOR_WAITS="1") as process:
        while not container.records():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED
    assert f"{signum.name}: stopped before the job began" in err.decode()
    assert container.calls() == [["doctor", *WORDS, "strict=false"]]
    wait_until_gone(container.records()[0]["pid"])


# Tests that read the files.


def tool(name: str, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a checker of the dev extra that is installed next to this Python."""
    program = Path(sys.executable).parent / name
    assert program.exists(), f"{program} is missing: install the extra dev (pip install --editable '.[dev]')"
    return subprocess.run([program, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    result = tool("hadolint", "--no-color", DOCKERFILE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert tool("hadolint", "-", stdin="FROM ubuntu:latest\nRUN cd /tmp\n").returncode != 0


def test_shellcheck_finds_nothing_in_the_entrypoint() -> None:
    result = tool("shellcheck", ENTRYPOINT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert tool("shellcheck", "-", stdin="#!/bin/bash\ncd $1\n").returncode != 0


def test_the_compose_file_follows_the_specification(tmp_path: Path) -> None:
    result = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert result.returncode == 0, result.stdout + result.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("shm_size:", "shm:"), encoding="utf-8")
    assert tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong).returncode != 0


def instructions() -> Iterator[tuple[str, str]]:
    """Yield each instruction of the Dockerfile with its arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, arguments = line.strip().partition(" ")
            yield word.upper(), arguments.strip()


def test_every_base_is_pinned_by_a_tag_with_a_version() -> None:
    stages: set[str] = set()
    for word, arguments in instructions():
        if word == "FROM":
            image, _, stage = arguments.partition(" AS ")
            assert image in stages or re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z0-9.-]+", image), image
            stages.add(stage)
    assert stages == {"python", "wheel", "runtime"}


def test_the_base_was_chosen_for_the_torch_of_the_constraints() -> None:
    pin = re.search(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None
    assert f"# torch {pin[1]} brings the CUDA libraries it was built with: the 13.0.3 " in DOCKERFILE.read_text()
    assert ("FROM", "nvidia/cuda:13.0.3-base-ubuntu24.04 AS python") in list(instructions())


def test_everything_is_fetched_through_package_managers() -> None:
    for word, arguments in instructions():
        assert word != "ADD"
        assert not re.search(r"https?://|\b(curl|wget)\b", arguments), arguments


def test_the_image_ends_as_a_user_without_rights_with_tini_before_the_entrypoint() -> None:
    last = dict(instructions())  # the last instruction of each kind
    user, group = last["USER"].split(":")
    assert int(user) == int(group) == 10001
    assert last["STOPSIGNAL"] == "SIGTERM"
    tini, dashes, script = json.loads(last["ENTRYPOINT"])
    assert (tini, dashes) == ("/usr/bin/tini", "--")
    copied = [arguments for word, arguments in instructions() if word == "COPY"][-1]
    assert copied == f"--chmod=0755 {ENTRYPOINT.relative_to(ROOT)} {script}"
    assert "CMD" not in last
    assert "HEALTHCHECK" not in last


def test_the_image_reads_models_and_writes_outputs_at_the_documented_paths() -> None:
    variables = dict(
        pair.split("=", 1) for word, arguments in instructions() if word == "ENV" for pair in shlex.split(arguments)
    )
    assert (variables["HF_HOME"], variables["HF_HUB_OFFLINE"]) == ("/cache/hf", "1")
    folders = next(arguments for word, arguments in instructions() if "install --directory" in arguments)
    assert {"/outputs", "/data", "/cache/hf"} <= set(folders.split())
    workdir = [arguments for word, arguments in instructions() if word == "WORKDIR"][-1]
    composed = config.load("translate", ["preset=demo"])
    assert PurePosixPath(workdir) / composed.output_dir == PurePosixPath("/outputs")


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert ("ARG", f"VERSION={version}") in list(instructions())
    for file in (DOCKERFILE, COMPOSE, PAGE):
        assert set(re.findall(r"hymt-batch:([\w.]+)", file.read_text(encoding="utf-8"))) == {version}, file.name


def visible(path: str) -> bool:
    """Return whether a build sees this file: in .dockerignore the last pattern that matches decides, as in Docker."""
    name = PurePosixPath(path)
    is_visible = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(parent)) for parent in (name, *name.parents)):
            is_visible = line.startswith("!")
    return is_visible


def in_repository(folder: str) -> list[str]:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [str(path.relative_to(ROOT)) for path in files]


def sources() -> Iterator[str]:
    """Yield the paths of the repository that the Dockerfile copies or mounts."""
    for word, arguments in instructions():
        if word == "COPY" and "--from=" not in arguments:
            yield from [path for path in arguments.split() if not path.startswith("--")][:-1]
        mounts = re.findall(r"--mount=(\S+)", arguments)
        for mount in (dict(field.partition("=")[::2] for field in path.split(",")) for path in mounts):
            if mount["type"] == "bind" and "from" not in mount:
                yield mount["source"]


def test_everything_the_dockerfile_copies_exists_and_is_visible_to_the_build() -> None:
    assert set(sources()) >= {"pyproject.toml", "constraints.txt", "hymt_batch", "conf", "jobs"}
    for source in sources():
        path = ROOT / source
        assert path.exists(), source
        for file in in_repository(source) if path.is_dir() else [source]:
            assert visible(file), file


def test_a_build_sees_all_sources_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = set(sources())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied
    folders = {name: name for name in project["tool"]["setuptools"]["packages"]}
    folders |= project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        assert folders[package].split(".")[0] in copied, package
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / folders[package].replace(".", "/")
        for file in (path for pattern in patterns for path in folder.glob(pattern)):
            assert visible(str(file.relative_to(ROOT))), file


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".env",
        "jobs/deploy/.env",
        "outputs/corpus/translated/corpus.txt",
        "jobs/outputs/corpus/manifest.json",
        "corpus.txt",
        "model.safetensors",
        "hymt_batch/model/model-00001-of-00002.safetensors",
        "hymt_batch/demo/__pycache__/grammar.cpython-312.pyc",
        "tests/test_deploy.py",
    ],
)
@pytest.mark.fault(82)
def test_a_build_does_not_see_data_secrets_or_weights(path: str) -> None:
    assert not visible(path)


def test_no_weights_except_those_of_the_demo_model_are_visible_to_a_build() -> None:
    files = [file for source in sources() if (ROOT / source).is_dir() for file in in_repository(source)]
    seen = [file for file in files if file.endswith(WEIGHTS) and visible(file)]
    assert seen == ["hymt_batch/demo/model/model.safetensors"]


# Tests of compose.yaml and of the page.


def service() -> dict[str, Any]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return services["translate"]


def test_compose_gives_the_job_gpus_0_and_1() -> None:
    (device,) = service()["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0", "1"], "capabilities": ["gpu"]}


def test_compose_builds_this_dockerfile_from_the_root() -> None:
    build = service()["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert (context, (context / build["dockerfile"]).resolve()) == (ROOT.resolve(), DOCKERFILE.resolve())


def test_compose_mounts_inputs_and_models_read_only_and_creates_no_folder() -> None:
    volumes = {volume["target"]: volume for volume in service()["volumes"]}
    assert {target: volume.get("read_only", False) for target, volume in volumes.items()} == {
        "/data": True,
        "/outputs": False,
        "/cache/hf": True,
    }
    assert all(volume["bind"] == {"create_host_path": False} for volume in volumes.values())


def test_a_stop_leaves_more_time_than_the_running_part_may_take() -> None:
    grace_s = config.load("translate", ["preset=demo"]).launch.grace_s
    assert int(service()["stop_grace_period"].removesuffix("s")) > grace_s + 10
    (timeout_s,) = re.findall(r"docker stop -t (\d+)", PAGE.read_text(encoding="utf-8"))
    assert int(timeout_s) > grace_s + 10


def test_compose_limits_restarts_and_adds_no_second_init() -> None:
    assert re.fullmatch(r"on-failure:\d", service()["restart"])
    assert service()["init"] is False


def command_lines() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    words = [re.split(r"hymt-batch:[\d.]+ ", line)[1].partition(" < ")[0] for line in lines if "docker run" in line]
    return [service()["command"], *(shlex.split(line) for line in words)]


def test_the_command_lines_of_compose_and_of_the_page_are_valid_settings() -> None:
    assert len(command_lines()) == 5
    for job, *words in command_lines():
        config.load(job, words)


def test_the_page_explains_every_exit_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for code in ExitCode:
        assert re.search(rf"^\| {int(code)} \| .+ \|", text, re.MULTILINE), code


def test_links_of_the_page_have_targets() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
