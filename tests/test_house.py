"""Rules that the files of the repository must follow: allowed imports, stage names, a comment for every setting."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from hymt_batch import schema
from hymt_batch.cli import help_text
from hymt_batch.cli.override import collect_settings
from tests.source_tree import PRODUCT, SourceFile, with_tests

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "hymt_batch"

BASE = (
    "records.py errors.py languages.py setting.py byte_size.py fs.py fs_protocol.py storage_error.py child_process.py"
)
STAGES = "source/ segment.py prompt.py batch.py model/ device_map/ decode/ check/ write/ launch/ shard.py tracking/"

RULES = {
    "jobs/__main__.py": "config.py schema.py cli/ launch/ write/sweep_points.py errors.py sanitize.py severity.py "
    "signals.py streams.py",
    # the settings of a pass are complete only when those of the job are known
    "jobs/retry.py": f"cli/validate.py run/ doctor/ {STAGES} schema.py manifest.py sanitize.py severity.py "
    f"signals.py {BASE}",
    "jobs/": f"run/ report/ card/ doctor/ bench/ evaluate/ plan_report.py prompt_end.py {STAGES} formats/ schema.py "
    f"manifest.py state_layout.py sanitize.py signals.py streams.py {BASE}",
    "file_units.py": f"formats/ {BASE}",
    "plan_report.py": "run/reporter.py device_map/ prompt_end.py records.py sanitize.py errors.py",
    "prompt_end.py": "prompt.py",
    "run/executor.py": f"doctor/explain.py schema.py signals.py {STAGES} {BASE}",  # explains why a model did not load
    "run/worker_pool.py": f"doctor/explain.py schema.py signals.py {STAGES} {BASE}",  # and why it fails at first
    "run/worker.py": f"doctor/explain.py schema.py {STAGES} {BASE}",
    "run/replica.py": f"code_prompt.py schema.py {STAGES} {BASE}",
    "run/candidates.py": f"candidate_list.py schema.py {STAGES} {BASE}",
    "run/finish.py": f"report/job_report.py schema.py signals.py {STAGES} {BASE}",
    "run/identity.py": f"{STAGES} formats/text_encoding.py schema.py manifest.py {BASE}",
    "run/kept_settings.py": f"{STAGES} code_state.py schema.py manifest.py {BASE}",
    "run/": f"{STAGES} formats/ file_units.py schema.py manifest.py state_layout.py sanitize.py signals.py streams.py "
    f"{BASE}",
    "report/": f"run/log_file.py evaluate/store.py source/ check/ write/ formats/ manifest.py sanitize.py {BASE}",
    "card/": f"run/kept_settings.py report/words.py evaluate/store.py write/ manifest.py sanitize.py {BASE}",
    "code_state.py": "",
    "doctor/": f"{STAGES} formats/ prompt_end.py schema.py {BASE}",
    "evaluate/": f"run/finished_rows.py source/ write/ formats/ manifest.py {BASE}",
    "bench/": f"decode/ model/ device_map/ {BASE}",
    "demo/": "",
    "config.py": "cli/ schema.py errors.py",
    "cli/": "schema.py */settings.py formats/registry.py decode/registry.py write/sweep_points.py languages.py "
    "errors.py",
    "schema.py": "*/settings.py decode/registry.py segment.py prompt.py batch.py shard.py model/synthetic.py "
    "setting.py errors.py",
    "source/settings.py": "formats/registry.py formats/options.py formats/text_encoding.py formats/zstd_frame.py "
    "byte_size.py setting.py errors.py",
    "write/settings.py": "formats/registry.py setting.py errors.py",
    "decode/settings.py": "model/settings.py setting.py errors.py",
    "*/settings.py": "byte_size.py setting.py languages.py errors.py",
    "source/": f"formats/ manifest.py blank.py {BASE}",
    "segment.py": f"blank.py codes.py cut.py {BASE}",
    "prompt.py": f"candidate_list.py prompt_encoder.py {BASE}",
    "candidate_list.py": f"prompt_encoder.py {BASE}",
    "prompt_encoder.py": BASE,
    "code_prompt.py": f"prompt.py prompt_encoder.py codes.py {BASE}",
    "batch.py": BASE,
    "shard.py": "setting.py errors.py",
    "decode/vllm/": f"model/ device_map/ child_process.py {BASE}",  # which GPU holds what is also vLLM's to say
    "decode/": f"model/ device_map/placement.py {BASE}",
    "model/": f"device_map/ {BASE}",
    "device_map/": BASE,
    "check/": f"codes.py cut.py sent_key.py {BASE}",
    "write/lease_holder.py": "launch/registry.py",  # whether a scheduler started the holder again
    "write/": f"formats/ file_units.py manifest.py state_layout.py pretty_json.py sanitize.py sent_key.py shard.py "
    f"{BASE}",
    "tracking/": BASE,
    "launch/registry.py": "",
    "launch/ray_cluster.py": f"shard.py sanitize.py signals.py {BASE}",  # it runs as long as the job
    "launch/": f"shard.py {BASE}",
    "formats/": "records.py errors.py languages.py fs.py fs_protocol.py",
    "manifest.py": "pretty_json.py state_layout.py records.py fs.py fs_protocol.py",
    "state_layout.py": "fs.py fs_protocol.py",
    "codes.py": "records.py",
    "sent_key.py": "records.py",
    "cut.py": "records.py",
    "blank.py": "records.py",
    "signals.py": "errors.py",
    "streams.py": "errors.py",
    "fs.py": "fs_protocol.py nofollow.py storage_error.py",
    "storage_error.py": "errors.py",
    "languages.py": "errors.py language_table.py language_tags.py",
    "byte_size.py": "errors.py",
    "severity.py": "errors.py",
    **dict.fromkeys(
        (
            "records.py",
            "errors.py",
            "setting.py",
            "fs_protocol.py",
            "nofollow.py",
            "pretty_json.py",
            "child_process.py",
            "sanitize.py",
            "language_table.py",
            "language_tags.py",
        ),
        "",
    ),
}
"""Which files a file may import, besides those of its own folder; of the rules that fit a file, the first one holds.

Paths are below hymt_batch/ (jobs/ is beside it); a folder ends with a slash.
"""

HEAVY = {
    "torch": "model/ decode/ bench/ demo/",
    "transformers": "model/ decode/ bench/ demo/",
    "accelerate": "",  # transformers uses it
    "tokenizers": "model/ bench/ demo/",
    "safetensors": "demo/",
    "huggingface_hub": "model/files.py",
    "datasets": "source/hub.py formats/parquet/saved_dataset.py",
    "pyarrow": "formats/parquet/ formats/bytestream.py formats/compressed_stream.py source/hub.py",
    "numpy": "bench/baselines/llama.py demo/lexicon.py evaluate/bootstrap.py",
    "sacrebleu": "evaluate/metrics.py",
    "py3langid": "check/language_id.py",
    "mlflow": "tracking/mlflow_server.py",
    "triton": "decode/kernels/triton_source.py",
    "llama_cpp": "bench/baselines/llama.py",
    "gguf": "bench/baselines/gguf_file.py",
    "ctranslate2": "bench/baselines/ctranslate.py",
    "ray": "launch/ray_cluster.py",
    "vllm": "decode/vllm/server.py",
    "hydra": "config.py",
    "omegaconf": "config.py",
}
"""Library that is slow to import -> the files that may import it, inside functions."""

LOADED_WITH_TRITON = "decode/kernels/triton_source.py"
"""The one file that imports a heavy library when it is loaded; it is itself imported inside functions only."""

MODULES = sorted([*LIBRARY.rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))


def relative(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def fits(path: str, patterns: str) -> bool:
    """Return whether a path is one of the files or lies in one of the folders."""
    return any(
        path.startswith(pattern) if pattern.endswith("/") else fnmatch.fnmatch(path, pattern)
        for pattern in patterns.split()
    )


def rule_of(file: SourceFile) -> str | None:
    return next((allowed for pattern, allowed in RULES.items() if fits(file.house_path, pattern)), None)


def test_every_file_has_a_rule_and_every_rule_a_file() -> None:
    files = [file for file in PRODUCT.files if file.house_path != "__init__.py"]
    assert [file for file in files if rule_of(file) is None] == []
    used = {next(p for p in RULES if fits(file.house_path, p)) for file in files}
    assert set(RULES) - used == set()
    named = {pattern for allowed in [*RULES.values(), *HEAVY.values()] for pattern in allowed.split()}
    assert {pattern for pattern in named if not any(fits(file.house_path, pattern) for file in files)} == set()


def test_a_file_imports_only_what_its_rule_allows() -> None:
    refused = []
    for file in PRODUCT.files:
        for item in file.imports:
            target = PRODUCT.target(item)
            if target is None or target.house_path == "__init__.py" or file.house_path == "__init__.py":
                continue
            own_folder = file.house_path.partition("/")[0] == target.house_path.partition("/")[0]
            if not own_folder and not fits(target.house_path, rule_of(file) or ""):
                refused.append(str(item))
    assert "\n".join(refused) == ""


def test_a_format_imports_no_other_format() -> None:
    def format_of(file: SourceFile) -> str:
        top, *below = file.house_path.split("/")
        return below[0] if top == "formats" and len(below) > 1 else ""

    for file in PRODUCT.files:
        for item in file.imports if format_of(file) else ():
            target = PRODUCT.target(item)
            assert target is None or format_of(target) in ("", format_of(file)), str(item)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert PRODUCT.cycles() == []


def test_jobs_do_not_import_each_other() -> None:
    for file in PRODUCT.files:
        for item in file.imports if file.path.startswith("jobs/") else ():
            is_job = item.module.split(".")[0] == "jobs" or item.module.startswith("hymt_batch.jobs")
            assert not is_job or (item.module, item.name) == ("jobs.__main__", "main_as"), str(item)


def test_heavy_libraries_are_imported_by_few_files_and_never_when_a_file_is_loaded() -> None:
    refused, used = [], set()
    for file in PRODUCT.files:
        for item in file.imports:
            library = item.module.split(".")[0]
            if library not in HEAVY:
                continue
            used |= {(library, pattern) for pattern in HEAVY[library].split() if fits(file.house_path, pattern)}
            at_load = item.at_load and file.house_path != LOADED_WITH_TRITON
            if at_load or not fits(file.house_path, HEAVY[library]):
                refused.append(str(item))
    assert "\n".join(refused) == ""
    assert used == {(library, pattern) for library, patterns in HEAVY.items() for pattern in patterns.split()}


def test_the_kernels_are_imported_inside_functions_only() -> None:
    imports = [
        item
        for file in PRODUCT.files
        for item in file.imports
        if (target := PRODUCT.target(item)) is not None and target.house_path == LOADED_WITH_TRITON
    ]
    assert imports
    assert [str(item) for item in imports if item.at_load] == []


def test_every_name_is_imported_from_the_module_that_defines_it() -> None:
    uses = [  # tests also patch what a module has imported
        use for use in with_tests().borrowed_names() if not (use.path.startswith("tests/") and use.as_attribute)
    ]
    assert "\n".join(map(str, uses)) == ""
    assert [file for file in PRODUCT.files if "__all__" in file.defined_names] == []


def test_an_init_file_has_only_a_docstring() -> None:
    for file in PRODUCT.files:
        if file.path.endswith("__init__.py"):
            (statement,) = file.tree.body
            assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant), file.path


@pytest.mark.parametrize("job", schema.JOBS)
def test_composing_a_job_imports_no_heavy_library(job: str, tmp_path: Path) -> None:
    words = {"translate": ["preset=demo"], "prepare": ["preset=demo"], "bench": [], "languages": [], "formats": []}.get(
        job, ["name=demo", *(["references=x"] if job == "evaluate" else [])]
    )
    program = (
        "import sys; from hymt_batch import config; config.load(sys.argv[1], sys.argv[2:]);"
        f"print([name for name in {sorted(set(HEAVY) - {'hydra', 'omegaconf'})} if name in sys.modules])"
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
    assert names == keys == folders == {path.removesuffix(".py").rstrip("/") for path in STAGES.split()}
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


def listed_reasons(heading: str) -> dict[str, str]:
    """Return the list below a heading of the decisions: what an entry names -> its reason."""
    decisions = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {heading} \([0-9-]+\)$(.*?)^### ", decisions, re.MULTILINE | re.DOTALL)
    assert section is not None
    return dict(re.findall(r"^- `([^`]+)`: (\S.*)$", section[1], re.MULTILINE))


def test_long_modules_are_those_with_a_reason_in_the_decisions() -> None:
    long = {file.path for file in PRODUCT.files if len(file.text.splitlines()) > 300}
    reasons = set(listed_reasons("Modules over 300 lines"))
    assert sorted(long - reasons) == [], "split it, or give the reason there"
    assert sorted(reasons - long) == [], "no longer long: remove the entry"


def test_large_functions_are_those_with_a_reason_in_the_decisions() -> None:
    large = {
        f"{function.path}: {function.name}"
        for file in PRODUCT.files
        for function in file.functions
        if function.num_lines > 60 or function.num_parameters > 8
    }
    reasons = set(listed_reasons("Functions over 60 lines or 8 parameters"))
    assert sorted(large - reasons) == [], "split it, or give the reason there"
    assert sorted(reasons - large) == [], "no longer large: remove the entry"


def test_the_wheel_holds_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hymt_batch").rglob("__init__.py")}
    assert set(settings["packages"]) == packages | {"hymt_batch.jobs", "hymt_batch.conf"}
