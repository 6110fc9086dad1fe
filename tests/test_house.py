"""Rules that the files of the repository must follow: allowed imports, stage names, a comment for every setting."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from hymt_batch import schema
from hymt_batch.cli import help_text
from hymt_batch.cli.override import collect_settings

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "hymt_batch"
HEAVY = ("torch", "transformers", "accelerate", "datasets", "pyarrow", "tokenizers", "safetensors", "numpy")

BASE = {"records", "errors", "languages", "setting", "fs", "child_process", "storage_error"}
STAGES = {"source", "segment", "prompt", "batch", "model", "device_map", "decode", "check", "write", "launch"}
STAGE_TO_STAGE = {"decode": {"model"}, "model": {"device_map"}}
ALLOWED: dict[str, set[str]] = {
    "records": set(),
    "setting": set(),
    "errors": set(),
    "languages": {"errors"},
    "nofollow": set(),
    "fs_protocol": set(),
    "storage_error": {"errors"},
    "fs": {"errors", "records", "nofollow", "fs_protocol", "storage_error"},
    "manifest": BASE,
    "signals": {"errors"},
    "blank": {"records"},
    "cut": {"records"},
    "demo": BASE,
    "plan_report": BASE | {"device_map", "run", "prompt", "sanitize"},
    "sanitize": set(),
    "child_process": set(),
    "streams": {"errors"},
    "cli": BASE | STAGES | {"schema"},  # schema for types only
    "schema": BASE | STAGES,
    "config": BASE | STAGES | {"cli", "schema"},
    **{stage: BASE | STAGE_TO_STAGE.get(stage, set()) for stage in STAGES},
}
ALLOWED["formats"] = BASE
ALLOWED["write"] = BASE | {"formats", "manifest", "sanitize"}
ALLOWED["source"] = BASE | {"formats", "demo", "blank"}
ALLOWED["segment"] = BASE | {"blank", "cut"}
ALLOWED["bench"] = BASE | {"decode", "model", "device_map"}
ALLOWED["doctor"] = BASE | STAGES | {"schema", "manifest"}
ALLOWED["run"] = BASE | STAGES | {"manifest", "signals", "sanitize", "streams", "doctor", "schema"}

MODULES = sorted([*LIBRARY.rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))


def relative(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def unit(file: Path) -> str:
    parts = file.relative_to(LIBRARY).parts
    return parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield every module that a file imports, and whether it is imported when the file is loaded."""

    def walk(node: ast.AST, loaded: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, loaded) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0 or file.parent.name == "jobs", f"{file}: relative import"
                above = f"jobs.{child.module}" if child.level else child.module
                yield from ((f"{above}.{alias.name}", loaded) for alias in child.names)
            else:
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or typing
                yield from walk(child, loaded and not inside)

    return walk(ast.parse(file.read_text(encoding="utf-8")), True)


def inner(file: Path) -> set[str]:
    """Return the top-level modules of hymt_batch that a file imports, also those only for types."""
    names = [name.split(".") for name, _ in imports(file)]
    return {parts[1] for parts in names if parts[0] == "hymt_batch" and len(parts) > 1} - {"jobs"}


@pytest.mark.parametrize("file", [f for f in MODULES if LIBRARY in f.parents], ids=lambda f: str(f.relative_to(ROOT)))
def test_modules_import_only_what_is_allowed(file: Path) -> None:
    name = unit(file)
    if name == "__init__":
        return
    assert name in ALLOWED, f"{file.name}: add to ALLOWED in test_house.py what {name} may import"
    assert inner(file) - {name} <= ALLOWED[name]


def test_jobs_do_not_import_each_other() -> None:
    for file in (ROOT / "jobs").glob("*.py"):
        for name, _ in imports(file):
            own = name.split(".")[0] == "jobs" or name.startswith("hymt_batch.jobs")
            assert not own or name.split(".")[-2:] == ["__main__", "main_as"], f"{file.name} imports {name}"


def test_there_are_no_import_cycles() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for file in LIBRARY.rglob("*.py"):
        loaded = [name.split(".") for name, loaded in imports(file) if loaded]
        edges[unit(file)] |= {parts[1] for parts in loaded if parts[0] == "hymt_batch" and len(parts) > 1}

    def reach(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        for imported in edges[name] - {name}:
            reach(imported, (*path, name))

    for name in list(edges):
        reach(name, ())


@pytest.mark.parametrize(
    "file", [f for f in MODULES if f.name == "__init__.py"], ids=lambda f: str(f.relative_to(ROOT))
)
def test_an_init_file_has_only_a_docstring(file: Path) -> None:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


@pytest.mark.parametrize("file", MODULES, ids=relative(MODULES))
def test_no_module_imports_a_heavy_library_at_import_time(file: Path) -> None:
    loaded = {name.split(".")[0] for name, loaded in imports(file) if loaded}
    assert loaded.isdisjoint(HEAVY)
    if file.name != "config.py":
        assert {name.split(".")[0] for name, _ in imports(file)}.isdisjoint({"hydra", "omegaconf"})


@pytest.mark.parametrize("job", schema.JOBS)
def test_composing_a_job_imports_no_heavy_library(job: str, tmp_path: Path) -> None:
    words = {"translate": ["preset=demo"], "bench": []}.get(job, ["name=demo"])
    program = (
        "import sys; from hymt_batch import config; config.load(sys.argv[1], sys.argv[2:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, job, *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")


def stages() -> dict[str, type]:
    hints = get_type_hints(schema.TranslateJob)
    return {field.name: hints[field.name] for field in fields(schema.TranslateJob) if is_dataclass(hints[field.name])}


def test_a_stage_has_one_name_in_four_places() -> None:
    names = set(stages())
    keys = set(help_text.default_choices(ROOT / "conf" / "translate.yaml")) - {"preset"}
    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"preset", "__pycache__"}
    assert names == keys == folders == STAGES
    for stage, config_class in stages().items():
        assert config_class.__module__.split(".")[:2] == ["hymt_batch", stage]


def test_every_job_has_settings_and_a_page() -> None:
    assert {path.stem for path in (ROOT / "conf").glob("*.yaml")} == set(schema.JOBS)
    for job, about in help_text.find_jobs(ROOT / "jobs").items():
        assert job in schema.JOBS
        assert about.endswith(".")


@pytest.mark.parametrize("file", YAMLS, ids=relative(YAMLS))
def test_every_setting_of_a_file_has_a_comment(file: Path) -> None:
    assert help_text.first_comment(file)
    for key, line in help_text.read_settings(file).items():
        heading = not line.value and file.parent.name == "preset"
        assert line.comment or heading, f"{key} has no comment"


@pytest.mark.parametrize("stage", stages())
def test_every_choice_lists_every_setting_of_its_stage(stage: str) -> None:
    expected = set(collect_settings(stages()[stage]))
    for file in (ROOT / "conf" / stage).glob("*.yaml"):
        lines = help_text.read_settings(file)
        listed = {key for key in lines if not any(longer.startswith(f"{key}.") for longer in lines)}
        assert listed == expected, file.name


@pytest.mark.parametrize("job", schema.JOBS)
def test_the_yaml_file_of_a_job_lists_all_its_top_level_settings(job: str) -> None:
    expected = {key for key in collect_settings(schema.JOBS[job]) if "." not in key}
    assert set(help_text.read_settings(ROOT / "conf" / f"{job}.yaml")) == expected


def test_the_defaults_in_conf_are_those_of_the_dataclasses() -> None:
    chosen = help_text.default_choices(ROOT / "conf" / "translate.yaml")
    for stage, config_class in stages().items():
        listed = yaml.safe_load((ROOT / "conf" / stage / f"{chosen[stage]}.yaml").read_text(encoding="utf-8"))
        required = {"path": "x"} if "path" in listed else {}
        built = config_class(**required)
        for key, value in listed.items():
            if key != "path" and not isinstance(value, dict):
                default = getattr(built, key)
                assert value == getattr(default, "name", default), f"{stage}.{key}"


@pytest.mark.parametrize("file", YAMLS, ids=relative(YAMLS))
@pytest.mark.fault(79)
def test_config_is_data(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "_target_" not in text
    assert not re.search(r"\$\{[^}]*:", text), "a resolver"
    assert "searchpath" not in text


CONFIRMED = {
    *("HY-MT1.5-1.8B", "HY-MT1.5-1.8B-FP8", "HY-MT1.5-1.8B-GPTQ-Int4", "HY-MT1.5-7B", "HY-MT1.5-7B-FP8"),
    *("Hy-MT2-1.8B", "Hy-MT2-1.8B-FP8", "Hy-MT2-7B", "Hy-MT2-7B-FP8", "Hy-MT2-30B-A3B", "Hy-MT2-30B-A3B-FP8"),
    *("Hunyuan-MT-7B", "Hunyuan-MT-7B-fp8", "Hunyuan-MT-Chimera-7B", "Hunyuan-MT-Chimera-7B-fp8"),
}
"""Names of the models in the README tables of HY-MT, Hy-MT2 and Hunyuan-MT."""


def test_hub_ids_are_confirmed_or_marked_and_their_licences_are_shown() -> None:
    for file in (ROOT / "conf" / "model").glob("*.yaml"):
        listed, text = yaml.safe_load(file.read_text(encoding="utf-8")), file.read_text(encoding="utf-8")
        known = listed["path"] == "demo:model" or listed["path"].removeprefix("tencent/") in CONFIRMED
        assert known != ("# unverified" in text), file.name
        assert "# Licence of the weights: " in text
        assert bool(listed["licence_limits"]) == ("# It does not apply in the EU, the UK and South Korea" in text)
        assert bool(listed["licence_limits"]) == (not file.stem.startswith(("hy_mt2", "demo")))
        assert (listed["revision"], listed["sha256"]) == ("main", None)
        for choice in re.findall(r"with the same shape: model=(\S+)", text):
            assert (file.parent / f"{choice}.yaml").is_file()


def test_a_long_module_has_its_reason_in_the_decisions() -> None:
    decisions = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    for file in MODULES:
        name = str(file.relative_to(ROOT))
        if len(file.read_text(encoding="utf-8").splitlines()) > 300:
            assert f"`{name}` (" in decisions, f"{name} has more than 300 lines: split it, or give the reason there"


def test_the_wheel_holds_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hymt_batch").rglob("__init__.py")}
    assert set(settings["packages"]) == packages | {"hymt_batch.jobs", "hymt_batch.conf"}
