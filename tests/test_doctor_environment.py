"""The checks of Python, the packages, the model class, and torch with the GPUs; every failure is caused on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from hymt_batch.doctor import cuda, environment
from hymt_batch.doctor.environment import installed_version, requirements
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.files import MODEL_TYPES
from hymt_batch.model.nvidia import Gpu, NvidiaInfo
from tests.findings import wrong

A, B = "GPU-aaaaaaaa-1111", "GPU-bbbbbbbb-1111"
H100, SECOND_H100, T4 = Gpu(0, A, "H100", 1, 1, (9, 0)), Gpu(1, B, "H100", 1, 1, (9, 0)), Gpu(1, B, "T4", 1, 1, (7, 5))
P40, UNKNOWN = Gpu(0, A, "P40", 1, 1, (6, 1)), Gpu(0, A, "GB10", 0, 0, None)


def versions_with(**versions: str | None) -> Callable[[str], str | None]:
    """Return a version lookup with some versions replaced; None means not installed."""
    replaced = {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda package: replaced[package] if package in replaced else installed_version(package)


def with_id(findings: list[Finding], id: str) -> Finding:
    return next(finding for finding in findings if finding.id == id)


def test_the_installed_packages_are_ok() -> None:
    findings = environment.check_versions("hunyuan_v1_dense", "sdpa")
    assert wrong(findings) == []
    assert {finding.check for finding in findings} >= {
        "Python",
        "torch",
        "transformers",
        "accelerate",
        "model type",
        "attention",
    }


def test_a_python_that_is_too_old_is_reported() -> None:
    findings = environment.check_versions(None, "sdpa", python=(3, 10, 12))
    assert wrong(findings) == [("A17", Level.FAIL, "Python")]
    assert findings[0].seen == "3.10.12 is older than 3.11"


@pytest.mark.parametrize(("version", "seen"), [(None, "not installed"), ("1.0.1", "1.0.1 is installed")])
def test_an_accelerate_that_is_missing_or_too_old_is_reported(version: str | None, seen: str) -> None:
    findings = environment.check_versions("hunyuan_v1_dense", "sdpa", versions_with(accelerate=version))
    assert wrong(findings) == [("A1", Level.FAIL, "accelerate")]
    assert with_id(findings, "A1").seen == f"{seen}; accelerate>=1.1 is needed"
    assert with_id(findings, "A1").fix == "pip install 'accelerate>=1.1'"


@pytest.mark.parametrize(
    ("package", "version"),
    [("torch", "2.5.1+cu121"), ("datasets", "3.6.0"), ("hydra-core", "1.5.0"), ("tqdm", None), ("safetensors", "?")],
)
def test_a_package_version_outside_our_requirements_is_reported(package: str, version: str | None) -> None:
    findings = environment.check_versions(None, "sdpa", versions_with(**{package: version}))
    assert ("A14", Level.FAIL, package) in wrong(findings)


def test_a_missing_requirement_is_reported_once_even_if_other_packages_need_it() -> None:
    findings = environment.check_versions(
        None, "sdpa", versions_with(torch=None), requirements_with(accelerate=["torch>=2.0.0"])
    )
    assert wrong(findings) == [("A14", Level.FAIL, "torch")]


def test_requirements_are_known_in_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for name in ("hymt_batch", "pyproject.toml"):
        (tmp_path / name).symlink_to(root / name)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hymt_batch.doctor import environment;"
        "print(environment.installed_version('hymt-batch'), *environment.requirements('hymt-batch'), sep='\\n')"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert process.stdout.splitlines() == ["None", *project["dependencies"]]


def test_every_dependency_is_checked() -> None:
    none_installed = environment.check_versions(None, "sdpa", lambda package: None, lambda package: ["a>=1", "b"])
    assert [finding.check for finding in none_installed if finding.id == "A14"] == ["a", "b"]
    findings = environment.check_versions(None, "sdpa", lambda package: None, lambda package: None)
    assert wrong(findings) == []
    assert findings[1].level is Level.SKIP


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_transformers_that_does_not_support_the_model_type_is_reported(model_type: str) -> None:
    needed = MODEL_TYPES[model_type]
    older = ".".join([*needed.split(".")[:1], str(int(needed.split(".")[1]) - 1), "3"])
    findings = environment.check_versions(model_type, "sdpa", versions_with(transformers=older))
    assert ("A2", Level.FAIL, "model type") in wrong(findings)
    assert with_id(findings, "A2").fix == f"pip install 'transformers>={needed}'"
    newest = environment.check_versions(model_type, "sdpa", versions_with(transformers=needed))
    assert "A2" not in [id for id, _, _ in wrong(newest)]


def requirements_with(**lists: list[str]) -> Callable[[str], list[str] | None]:
    return lambda package: lists.get(package, [] if package in environment.STACK else requirements(package))


@pytest.mark.parametrize(
    ("requirement", "package", "version"),
    [
        ("tokenizers<0.24.0,>=0.23.1", "tokenizers", "0.22.0"),
        ("huggingface-hub<3.0,>=1.31.0", "huggingface-hub", "0.36.0"),
        ("safetensors>=0.8.0", "safetensors", "0.4.3"),
        ("typer", "typer", None),
    ],
)
def test_a_package_that_transformers_would_reject_is_reported(
    requirement: str, package: str, version: str | None
) -> None:
    findings = environment.check_versions(
        None, "sdpa", versions_with(**{package: version}), requirements_with(transformers=[requirement])
    )
    assert wrong(findings) == [("A15", Level.FAIL, "package compatibility")]
    assert f"needs {with_id(findings, 'A15').fix[13:-1]}" in with_id(findings, "A15").seen
    assert f"installed: {version or 'none'}" in with_id(findings, "A15").seen


def test_an_unmet_requirement_of_another_package_is_a_warning() -> None:
    findings = environment.check_versions(
        None, "sdpa", versions_with(numpy="3.0"), requirements_with(accelerate=["numpy<3"])
    )
    assert wrong(findings) == [("A15", Level.WARN, "package compatibility")]


def test_requirements_of_extras_and_of_other_systems_are_ignored() -> None:
    lists = ['accelerate>=99; extra == "torch"', 'tomli>=9; python_version < "3"', "not a (requirement"]
    assert wrong(environment.check_versions(None, "sdpa", requires=requirements_with(transformers=lists))) == []


def test_a_missing_packaging_is_reported_and_no_version_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging", None)
    assert wrong(environment.check_versions("hy_v3", "sdpa")) == [("A15", Level.FAIL, "packages")]


def test_flash_attention_that_is_not_installed_is_reported() -> None:
    findings = environment.check_versions(None, "flash_attention_2", versions_with(flash_attn=None))
    assert wrong(findings) == [("A7", Level.FAIL, "attention")]
    assert with_id(findings, "A7").fix == "model.attention=sdpa"
    assert wrong(environment.check_versions(None, "flash_attention_2", versions_with(flash_attn="2.8.3"))) == []


# the model class, imported in a separate process


def test_the_class_of_a_supported_model_type_can_be_imported() -> None:
    (finding,) = environment.check_model_class("hunyuan_v1_dense")
    assert (finding.level, finding.seen) == (Level.OK, "HunYuanDenseV1ForCausalLM")


def test_without_a_model_type_no_class_is_imported() -> None:
    assert environment.check_model_class(None)[0].level is Level.SKIP


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import tokenizers_that_are_missing", "ModuleNotFoundError: No module named 'tokenizers_that_are_missing'"),
        ("raise RuntimeError('Failed to import\\nlib.so: undefined symbol')", "lib.so: undefined symbol"),
        ("import os; os.abort()", "killed by a signal (Aborted)"),
        ("import time; time.sleep(60)", "did not finish in 0.5 s"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_a_broken_installation_is_reported_and_does_not_crash_the_doctor(tmp_path: Path, code: str, seen: str) -> None:
    (tmp_path / "transformers.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    findings = environment.check_model_class("hunyuan_v1_dense", 0.5 if "sleep" in code else 60, env)
    assert wrong(findings) == [("A8", Level.FAIL, "model class")]
    assert seen in findings[0].seen


def test_a_file_in_the_working_directory_does_not_shadow_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    known = "CONFIG_MAPPING = {'hy_v3': 1}; MODEL_FOR_CAUSAL_LM_MAPPING = {1: int}"
    (tmp_path / "library" / "transformers.py").write_text(known)
    (tmp_path / "transformers.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    (finding,) = environment.check_model_class("hy_v3", env={**os.environ, "PYTHONPATH": str(tmp_path / "library")})
    assert (finding.level, finding.seen) == (Level.OK, "int")


@pytest.mark.parametrize("model_type", ["hy_v3", "llama"])
def test_a_model_type_that_transformers_does_not_support_is_reported(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "transformers.py").write_text("CONFIG_MAPPING = MODEL_FOR_CAUSAL_LM_MAPPING = {}")
    findings = environment.check_model_class(model_type, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert wrong(findings) == [("A2", Level.FAIL, "model class")]


# torch with the driver and the GPUs


def build(
    *gpus: Gpu,
    driver: str = "12.4",
    torch_cuda: str | None = "12.4",
    torch_gpus: int = 0,
    dtype: str = "auto",
    files: bool = True,
    wants_gpu: bool = True,
    **env: str,
) -> list[Finding]:
    nvidia = NvidiaInfo("550.54.15", driver, gpus) if gpus else None
    return cuda.check(nvidia, torch_cuda, torch_gpus, env, dtype, files, wants_gpu)


def test_a_torch_that_sees_its_gpus_is_ok() -> None:
    findings = build(H100, SECOND_H100, torch_gpus=2)
    assert wrong(findings) == []
    assert findings[1].seen == "torch built for CUDA 12.4, driver 550.54.15 (CUDA 12.4): 2 GPUs"


def test_a_driver_older_than_torch_is_reported_with_both_versions() -> None:
    findings = build(H100, torch_cuda="13.0")
    assert wrong(findings) == [("A3", Level.FAIL, "torch and driver")]
    assert with_id(findings, "A3").seen == "torch built for CUDA 13.0, but driver 550.54.15 (CUDA 12.4) is older"
    assert "install a torch built for CUDA 12.4 or older, or update the driver" in with_id(findings, "A3").fix


def test_a_driver_with_an_older_minor_version_is_ok_if_torch_sees_the_gpu() -> None:
    assert wrong(build(H100, torch_cuda="12.8", torch_gpus=1)) == []
    assert wrong(build(H100, torch_cuda="12.8")) == [("A3", Level.FAIL, "torch and driver")]


def test_an_old_driver_is_reported_even_if_the_variable_hides_the_gpu() -> None:
    findings = build(H100, torch_cuda="13.0", CUDA_VISIBLE_DEVICES="")
    assert [id for id, _, _ in wrong(findings)] == ["D6", "A3"]


@pytest.mark.parametrize("gpus", [(H100,), ()], ids=["nvidia-smi sees it", "only its device file exists"])
def test_a_gpu_that_torch_does_not_see_for_another_reason_is_reported(gpus: tuple[Gpu, ...]) -> None:
    findings = build(*gpus)
    assert wrong(findings) == [("A3", Level.FAIL, "torch and driver")]
    assert "torch sees no GPU" in with_id(findings, "A3").seen
    assert "torch.cuda.init()" in with_id(findings, "A3").fix


def test_a_torch_without_cuda_next_to_a_gpu_is_reported() -> None:
    findings = build(H100, torch_cuda=None)
    assert wrong(findings) == [("A16", Level.FAIL, "torch and driver")]
    assert with_id(findings, "A16").seen == "torch built without CUDA, but nvidia-smi sees 1 GPUs"
    assert with_id(findings, "A16").fix == "install a torch built for CUDA 12.4 or older, or set device_map=cpu"


def test_a_torch_without_cuda_next_to_a_gpu_device_file_is_reported() -> None:
    assert wrong(build(torch_cuda=None)) == [("A4", Level.FAIL, "torch and driver")]


def test_a_machine_without_a_gpu_uses_the_cpu_with_a_warning() -> None:
    for torch_cuda in (None, "12.4"):
        findings = build(torch_cuda=torch_cuda, files=False)
        assert wrong(findings) == [("A6", Level.WARN, "GPU")]
        assert findings[1].seen == "float32 on the CPU"
    assert wrong(build(files=False, CUDA_VISIBLE_DEVICES="")) == [("A6", Level.WARN, "GPU")]


def test_device_map_cpu_skips_the_gpu_checks() -> None:
    findings = build(H100, torch_cuda=None, wants_gpu=False, CUDA_VISIBLE_DEVICES="-1")
    assert wrong(findings) == []
    assert findings[0].level is Level.SKIP


@pytest.mark.parametrize("gpus", [(H100,), ()], ids=["nvidia-smi sees it", "only its device file exists"])
@pytest.mark.parametrize(
    ("value", "id"), [("", "D6"), (" ", "D6"), ("-1", "A13"), ("NoDevFiles", "A13"), ("all", "A13")]
)
def test_a_variable_that_hides_every_gpu_is_reported(gpus: tuple[Gpu, ...], value: str, id: str) -> None:
    findings = build(*gpus, CUDA_VISIBLE_DEVICES=value)
    assert wrong(findings) == [(id, Level.FAIL, "CUDA_VISIBLE_DEVICES")]
    assert with_id(findings, id).fix == "unset CUDA_VISIBLE_DEVICES, or set device_map=cpu"
    assert [finding.level for finding in findings[1:]] == [Level.SKIP, Level.SKIP]


def test_in_a_slurm_job_the_fix_is_to_request_a_gpu() -> None:
    findings = build(H100, CUDA_VISIBLE_DEVICES="NoDevFiles", SLURM_JOB_ID="12")
    assert "sbatch --gres=gpu:1" in with_id(findings, "A13").fix


def test_a_partly_valid_variable_is_reported_with_its_valid_part() -> None:
    findings = build(H100, SECOND_H100, torch_gpus=1, CUDA_VISIBLE_DEVICES="1,2")
    assert wrong(findings) == [("A13", Level.WARN, "CUDA_VISIBLE_DEVICES")]
    assert "'2' is not a GPU of this machine, which has 2" in with_id(findings, "A13").seen
    assert with_id(findings, "A13").fix == "CUDA_VISIBLE_DEVICES=1"


def test_indices_of_different_gpus_need_the_pci_bus_order() -> None:
    mixed = {"torch_gpus": 1, "CUDA_VISIBLE_DEVICES": "1"}
    findings = build(H100, T4, **mixed)  # type: ignore[arg-type]
    assert ("A13", Level.WARN, "CUDA_VISIBLE_DEVICES") in wrong(findings)
    assert with_id(findings, "A13").fix == "CUDA_DEVICE_ORDER=PCI_BUS_ID"
    assert wrong(build(H100, T4, CUDA_DEVICE_ORDER="PCI_BUS_ID", **mixed)) == []  # type: ignore[arg-type]
    assert wrong(build(H100, SECOND_H100, **mixed)) == []  # type: ignore[arg-type]
    assert wrong(build(H100, T4, torch_gpus=1, CUDA_VISIBLE_DEVICES=B)) == []


def test_a_torch_that_sees_only_some_of_the_gpus_is_reported() -> None:
    assert wrong(build(H100, SECOND_H100, torch_gpus=1)) == [("A13", Level.WARN, "torch and driver")]


@pytest.mark.parametrize(
    ("gpu", "dtype", "id"),
    [(T4, "bfloat16", "A12"), (P40, "bfloat16", "A12"), (P40, "float16", "C28"), (T4, "float16", ""),
     (H100, "bfloat16", ""), (H100, "float16", ""), (P40, "float32", ""), (UNKNOWN, "bfloat16", "")],
)  # fmt: skip
def test_a_dtype_that_the_gpu_only_emulates_is_reported(gpu: Gpu, dtype: str, id: str) -> None:
    findings = build(gpu, torch_gpus=1, dtype=dtype)
    assert wrong(findings) == ([(id, Level.WARN, "dtype")] if id else [])


@pytest.mark.parametrize(("gpus", "dtype"), [((H100,), "bfloat16"), ((T4,), "float32"), ((H100, T4), "float32")])
def test_auto_shows_the_selected_dtype(gpus: tuple[Gpu, ...], dtype: str) -> None:
    assert build(*gpus, torch_gpus=len(gpus))[-1].seen == f"auto selects {dtype}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_the_cpu_is_slow(dtype: str) -> None:
    findings = build(torch_cuda=None, files=False, dtype=dtype)
    assert wrong(findings) == [("A6", Level.WARN, "GPU"), ("C28", Level.WARN, "dtype")]
