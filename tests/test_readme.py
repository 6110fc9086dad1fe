"""The commands of the README run unchanged, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "README.zh-CN.md"]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    assert len(blocks("README.md", "bash")) >= 8
    for block in blocks("README.md", "bash"):
        result = shell(block, tmp_path)
        assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        kept = re.search(r"rows/s\), (\d+) from earlier runs", result.stdout)
        assert ("kill -9" in block) == (kept is not None), result.stdout
    assert len(list((tmp_path / "outputs").glob("*/manifest.json"))) >= 5
    assert (tmp_path / "outputs/parts/translated/src.txt").read_text() != ""


def test_both_pages_show_the_same_commands() -> None:
    assert blocks("README.md", "bash") == blocks("README.zh-CN.md", "bash")
    assert blocks("README.md", "sh") == blocks("README.zh-CN.md", "sh")


def test_commands_that_need_the_real_model_compose(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").touch()
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("hymt-batch")]
    assert commands
    for command in commands:
        result = shell(f"{command} --cfg job", tmp_path)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_all_exit_codes_are_listed(page: str) -> None:
    from hymt_batch.errors import ExitCode

    text = (ROOT / page).read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {int(code)} |" in text


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_have_targets(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
