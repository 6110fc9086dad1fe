"""The page for operators: every exit code has a rule, and what the page shows is accepted by the tools it is for."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hymt_batch import config
from hymt_batch.errors import ExitCode
from hymt_batch.run.run_status import RunStatus

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """Return the block of the page with this language that contains a text."""
    (found,) = [text for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) if containing in text]
    return found


def rows() -> dict[str, list[str]]:
    """Return the table of exit codes: code -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in cells if re.match(r"\d+", row[0])}


def test_every_exit_code_has_a_rule_and_only_75_is_always_repeated() -> None:
    table = rows()
    assert set(table) == {str(int(code)) for code in ExitCode} | {"128 + n"}
    assert [code for code, cells in table.items() if "always" in cells[1]] == ["75"]


def test_the_pod_failure_policy_ends_the_job_exactly_where_the_table_says_so() -> None:
    policy = yaml.safe_load(block("yaml", "podFailurePolicy"))["podFailurePolicy"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in policy["rules"] if "onExitCodes" in rule]
    assert codes == sorted(int(code) for code, cells in rows().items() if cells[3] == "fail")


def test_the_service_is_accepted_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = block("ini", "[Service]").replace("/opt/hymt/bin/hymt-batch", "/bin/true").replace("/srv/translations", "/")
    file = tmp_path / "nightly.service"
    for text, is_valid in ((unit, True), (unit.replace("Type=exec", "Type=oneshot"), False)):
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
        assert (done.returncode == 0 and not done.stderr) == is_valid, done.stderr


def test_the_batch_script_is_clean_under_shellcheck() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    assert shellcheck.exists(), "install the extra dev"
    script = block("sh", "#SBATCH")
    assert script.startswith("#!/bin/bash\n"), "sbatch refuses a script without it"
    done = subprocess.run([shellcheck, "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("variables", "requeued"),
    [
        ({"SLURM_JOB_ID": "12"}, "requeue 12\n"),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}, "requeue 12_7\n"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "20"}, ""),
    ],
)
def test_the_batch_script_requeues_its_own_task_and_never_the_whole_array(
    tmp_path: Path, variables: dict[str, str], requeued: str
) -> None:
    for name, line in (("hymt-batch", "exit 75"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    script = ["bash", "-u", "-c", block("sh", "#SBATCH")]
    done = subprocess.run(script, env={"PATH": path, **variables}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, requeued, "")


def test_the_commands_have_valid_settings() -> None:
    for line in block("sh", "launch.on_failure").splitlines():
        program, job, *words = shlex.split(line)
        assert program == "hymt-batch"
        config.load(job, words)


def test_the_page_names_every_metric_and_every_field_that_a_run_writes() -> None:
    source = (Path(__file__).parent.parent / "hymt_batch" / "run" / "metrics.py").read_text(encoding="utf-8")
    for name in re.findall(r'^        \("(\w+)", "', source, re.M):
        assert f"`hymt_batch_{name}`" in PAGE
    job = config.load("translate", ["preset=demo"])
    unnamed = {key for key in RunStatus(job).values if f"`{key}`" not in PAGE}
    assert unnamed == {"schema", "hymt_batch"}, "the others need no explanation"
