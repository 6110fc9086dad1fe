"""The pages that `--help` prints: jobs, settings with their comments, choices, exit codes.

The texts come from the docstrings of the jobs, the comments in conf/ and errors.EXIT_CODE_MEANINGS. Imports neither
the jobs nor Hydra, so that help is fast and works even if the installation is broken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import EXIT_CODE_MEANINGS

_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>.*?))??(?: +# +(?P<comment>.*))?")

FLAGS = {
    "-h, --help": "show this page; after a job, show the settings of that job",
    "-m, --multirun": "run one job for each combination of values, such as tgt_lang=fr,de decode.top_k=range(10,31,10)",
    "--cfg job": "print the resolved settings as YAML; run nothing",
    "--package STAGE": "with --cfg job: print only one stage, such as decode",
    "--info": "print the files that the settings come from; run nothing",
    "--version": "print the version",
    "--completion bash": 'print the bash completion script; to enable it: eval "$(hymt-batch --completion bash)"',
}
"""Flag as written -> its description. Flags may be anywhere among the overrides."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """The value and the comment of one setting in a YAML file."""

    value: str
    comment: str


def find_jobs(folder: Path) -> dict[str, str]:
    """Map each job of a folder to the first line of its docstring, without importing it; translate comes first."""
    files = [file for file in sorted(folder.glob("*.py")) if not file.name.startswith("_")]
    files.sort(key=lambda file: file.stem != "translate")
    return {file.stem: _docstring_summary(file) for file in files}


def _docstring_summary(file: Path) -> str:
    try:
        return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    except SyntaxError:
        return "(syntax error in this file)"


def read_settings(file: Path) -> dict[str, SettingLine]:
    """Return the settings of a YAML file by dotted key, each with its comment; `defaults` and `hydra` are left out."""
    settings: dict[str, SettingLine] = {}
    path: list[tuple[int, str]] = []
    for text in file.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(text)
        if match is None:
            continue
        indent = len(match["indent"])
        path = [(depth, key) for depth, key in path if depth < indent] + [(indent, match["key"])]
        if path[0][1] not in ("defaults", "hydra"):
            settings[".".join(key for _, key in path)] = SettingLine(match["value"] or "", match["comment"] or "")
    return settings


def first_comment(file: Path) -> str:
    """Return the first comment line of a YAML file, which describes the file; "" if it has none."""
    for text in file.read_text(encoding="utf-8").splitlines():
        if text.startswith("# ") and not text.startswith("# @"):
            return text[2:]
    return ""


def default_choices(file: Path) -> dict[str, str]:
    """Return the choice of each group in a job's defaults list, in the order of the list."""
    return dict(re.findall(r"^  - (\w+): ([^\s#]+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def overview_page(jobs: Mapping[str, str]) -> str:
    """Return the text of `hymt-batch --help`."""
    return "\n".join(
        [
            "Translate a corpus with Tencent's Hunyuan translation models. Run a stopped job again to continue it.",
            "",
            "    hymt-batch JOB [KEY=VALUE ...] [flags]",
            "    hymt-batch translate preset=demo",
            "    hymt-batch translate source.path=corpus.txt tgt_lang=fr",
            "",
            "Jobs (`hymt-batch JOB --help` lists the settings of a job):",
            *_table(jobs),
            "",
            *_footer(),
        ]
    )


def job_page(
    job: str, summary: str, conf: Path, choices: Mapping[str, Sequence[str]], selected_choices: Mapping[str, str]
) -> str:
    """Return the text of `hymt-batch JOB --help`.

    Args:
        job: Name of the job.
        summary: One line that describes the job.
        conf: Folder of the YAML files.
        choices: Group -> all its choices.
        selected_choices: Group -> the choice whose values are shown instead of those of the default.
    """
    shown = default_choices(conf / f"{job}.yaml") | dict(selected_choices)
    page = [summary, "", f"    hymt-batch {job} [KEY=VALUE ...] [flags]", "", "Settings (with their defaults):"]
    page += _settings_table("", conf / f"{job}.yaml")
    for group, names in choices.items():
        choice = shown.get(group, "null")
        page += ["", f"{group}={choice}, one of:"]
        page += _table({name: first_comment(conf / group / f"{name}.yaml") for name in names}, indent=6)
        if choice != "null" and group != "preset":
            page += _settings_table(f"{group}.", conf / group / f"{choice}.yaml")
    return "\n".join([*page, "", *_footer()])


def _settings_table(prefix: str, file: Path) -> list[str]:
    return _table(
        {
            f"{prefix}{key}={'' if line.value == '???' else line.value}": line.comment
            for key, line in read_settings(file).items()
            if line.value  # a key that only holds other keys, such as model.sampling, has no value
        }
    )


def _footer() -> list[str]:
    codes = {str(int(code)): meaning for code, meaning in EXIT_CODE_MEANINGS.items()}
    return ["Flags:", *_table(FLAGS), "", "Exit codes:", *_table(codes)]


def _table(rows: Mapping[str, str], indent: int = 2) -> list[str]:
    width = min(36, max(map(len, rows), default=0))
    return [f"{'':{indent}}{left:<{width}}  {right}".rstrip() for left, right in rows.items()]
