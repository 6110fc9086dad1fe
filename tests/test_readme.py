"""The commands of the README run unchanged, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch import languages
from hymt_batch.doctor import catalogue

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


PLACEHOLDERS = {"目录": "FOLDER", "文件": "FILE", "格式": "FORMAT"}
"""How the Chinese page writes a value that the reader chooses."""


def sections(page: str) -> list[tuple[int, list[str]]]:
    """Return the level of each heading, and the lines below it without blocks of commands."""
    text = re.sub(r"^```.*?^```\n", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[tuple[int, list[str]]] = []
    for line in text.splitlines():
        if heading := re.match(r"(#+) ", line):
            found.append((len(heading[1]), []))
        else:
            found[-1][1].append(line)
    return found


def named(lines: list[str]) -> set[str]:
    """Return the settings, values, statuses, flags and exit codes that a section names."""
    names: set[str] = set()
    for span in re.findall(r"`([^`]+)`", "\n".join(lines)):
        for local, english in PLACEHOLDERS.items():
            span = span.replace(f"={local}", f"={english}")
        span = re.sub(r"(source\.encoding)=[\w-]+", r"\1", span)  # each page has the examples that its readers need
        names |= {word.rstrip(".") for word in re.findall(r"[a-z][a-z_0-9.]*(?:=[\w./*-]*)?", span)}
    return {name for name in names if re.search(r"[._=]", name)}


def first_cells(lines: list[str]) -> list[str]:
    """Return the code in the first cell of each row of the tables; rows without code count only."""
    rows = [line.split("|")[1] for line in lines if line.startswith("| ")]
    return [" ".join(re.findall(r"`([^`]+)`", cell)) or "text" for cell in rows]


def test_both_pages_say_the_same() -> None:
    """They have the same sections, and each of these the same tables, lists, settings, statuses and flags."""
    english, chinese = (sections(page) for page in PAGES)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    for (_, first), (_, second) in zip(english, chinese, strict=True):
        assert named(first) == named(second)
        assert first_cells(first) == first_cells(second)
        assert [line[:2] for line in first if line[:2] == "- "] == [line[:2] for line in second if line[:2] == "- "]


@pytest.mark.parametrize("page", PAGES)
def test_the_first_screen_names_every_preset_and_language(page: str) -> None:
    first = "\n".join(sections(page)[0][1])
    for preset in (ROOT / "conf" / "preset").iterdir():
        assert f"`preset={preset.stem}`" in first
    assert f": {' '.join(languages.LANGUAGES)}." in first.replace("：", ": ").replace("。", ".")
    assert len(languages.LANGUAGES) == 38 and "**38 " in first


@pytest.mark.parametrize("page", PAGES)
def test_the_number_of_known_problems_is_current(page: str) -> None:
    num = sum(failure.found == "doctor" for failure in catalogue.load().values())
    (written,) = re.findall(r"`doctor` \D*(\d+)", "\n".join(sections(page)[0][1]))
    assert abs(int(written) - num) <= 5


@pytest.mark.parametrize("page", PAGES)
def test_links_within_a_page_have_targets(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors == set()


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
