"""Python, packages, the model's class, and torch against the cards: each failure provoked, none by a patch."""

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

A, B = "GPU-aaaaaaaa-1111", "GPU-bbbbbbbb-1111"
H100, H100_TOO, T4 = Gpu(0, A, "H100", 1, 1, (9, 0)), Gpu(1, B, "H100", 1, 1, (9, 0)), Gpu(1, B, "T4", 1, 1, (7, 5))
P40, UNKNOWN = Gpu(0, A, "P40", 1, 1, (6, 1)), Gpu(0, A, "GB10", 0, 0, None)


def wrong(found: list[Finding]) -> list[tuple[str, Level, str]]:
    """What is not well, by id. Whatever is wrong has a way out, and what is not has none."""
    for one in found:
        bad = one.level in (Level.WARN, Level.FAIL)
        assert bad == bool(one.id) == bool(one.fix), one
        assert one.seen
    return [(one.id, one.level, one.check) for one in found if one.id]


def have(**versions: str | None) -> Callable[[str], str | None]:
    """What is installed here, with some versions otherwise; None: not installed."""
    other = {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda package: other[package] if package in other else installed_version(package)


def told(found: list[Finding], id: str) -> Finding:
    return next(one for one in found if one.id == id)


def test_what_is_installed_here_is_well() -> None:
    found = environment.check_versions("hunyuan_v1_dense", "sdpa")
    assert wrong(found) == []
    assert {one.check for one in found} >= {"Python", "torch", "transformers", "accelerate", "model type", "attention"}


def test_a_python_that_is_too_old_is_named() -> None:
    found = environment.check_versions(None, "sdpa", python=(3, 10, 12))
    assert wrong(found) == [("A17", Level.FAIL, "Python")]
    assert found[0].seen == "3.10.12 is older than 3.11"


@pytest.mark.parametrize(("version", "seen"), [(None, "not installed"), ("1.0.1", "1.0.1 is installed")])
def test_an_accelerate_that_is_missing_or_too_old_is_named(version: str | None, seen: str) -> None:
    found = environment.check_versions("hunyuan_v1_dense", "sdpa", have(accelerate=version))
    assert wrong(found) == [("A1", Level.FAIL, "accelerate")]
    assert told(found, "A1").seen == f"{seen}; accelerate>=1.1 is needed"
    assert told(found, "A1").fix == "pip install 'accelerate>=1.1'"


@pytest.mark.parametrize(
    ("package", "version"),
    [("torch", "2.5.1+cu121"), ("datasets", "3.6.0"), ("hydra-core", "1.5.0"), ("tqdm", None), ("safetensors", "?")],
)
def test_a_package_outside_of_what_we_support_is_named(package: str, version: str | None) -> None:
    found = environment.check_versions(None, "sdpa", have(**{package: version}))
    assert ("A14", Level.FAIL, package) in wrong(found)


def test_a_missing_package_of_ours_is_told_once_though_others_need_it_too() -> None:
    found = environment.check_versions(None, "sdpa", have(torch=None), asks(accelerate=["torch>=2.0.0"]))
    assert wrong(found) == [("A14", Level.FAIL, "torch")]


def test_floors_are_known_in_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for name in ("hymt_batch", "pyproject.toml"):
        (tmp_path / name).symlink_to(root / name)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hymt_batch.doctor import environment;"
        "print(environment.installed_version('hymt-batch'), *environment.requirements('hymt-batch'))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert done.stdout.split() == ["None", *project["dependencies"]]


def test_every_dependency_of_ours_is_looked_at() -> None:
    nothing = environment.check_versions(None, "sdpa", lambda package: None, lambda package: ["a>=1", "b"])
    assert [one.check for one in nothing if one.id == "A14"] == ["a", "b"]
    found = environment.check_versions(None, "sdpa", lambda package: None, lambda package: None)
    assert wrong(found) == []
    assert found[1].level is Level.SKIP


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_transformers_that_does_not_know_the_model_type_is_named(model_type: str) -> None:
    needed = MODEL_TYPES[model_type]
    older = ".".join([*needed.split(".")[:1], str(int(needed.split(".")[1]) - 1), "3"])
    found = environment.check_versions(model_type, "sdpa", have(transformers=older))
    assert ("A2", Level.FAIL, "model type") in wrong(found)
    assert told(found, "A2").fix == f"pip install 'transformers>={needed}'"
    newest = environment.check_versions(model_type, "sdpa", have(transformers=needed))
    assert "A2" not in [id for id, _, _ in wrong(newest)]


def asks(**lists: list[str]) -> Callable[[str], list[str] | None]:
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
def test_a_package_that_transformers_would_refuse_is_named(requirement: str, package: str, version: str | None) -> None:
    found = environment.check_versions(None, "sdpa", have(**{package: version}), asks(transformers=[requirement]))
    assert wrong(found) == [("A15", Level.FAIL, "packages together")]
    assert f"needs {told(found, 'A15').fix[13:-1]}" in told(found, "A15").seen
    assert f"{version or 'none'} is installed" in told(found, "A15").seen


def test_a_package_that_only_its_neighbours_dislike_is_a_warning() -> None:
    found = environment.check_versions(None, "sdpa", have(numpy="3.0"), asks(accelerate=["numpy<3"]))
    assert wrong(found) == [("A15", Level.WARN, "packages together")]


def test_requirements_of_extras_and_of_other_systems_do_not_count() -> None:
    lists = ['accelerate>=99; extra == "torch"', 'tomli>=9; python_version < "3"', "not a (requirement"]
    assert wrong(environment.check_versions(None, "sdpa", requires=asks(transformers=lists))) == []


def test_without_packaging_nothing_is_compared_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging", None)
    assert wrong(environment.check_versions("hy_v3", "sdpa")) == [("A15", Level.FAIL, "packages")]


def test_flash_attention_that_is_not_installed_is_named() -> None:
    found = environment.check_versions(None, "flash_attention_2", have(flash_attn=None))
    assert wrong(found) == [("A7", Level.FAIL, "attention")]
    assert told(found, "A7").fix == "model.attention=sdpa"
    assert wrong(environment.check_versions(None, "flash_attention_2", have(flash_attn="2.8.3"))) == []


# the model's class, in a process of its own


def test_the_class_of_an_allowed_model_type_can_be_imported() -> None:
    (one,) = environment.check_model_class("hunyuan_v1_dense")
    assert (one.level, one.seen) == (Level.OK, "HunYuanDenseV1ForCausalLM")


def test_without_a_model_type_no_class_is_tried() -> None:
    assert environment.check_model_class(None)[0].level is Level.SKIP


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import tokenizers_that_are_missing", "ModuleNotFoundError: No module named 'tokenizers_that_are_missing'"),
        ("raise RuntimeError('Failed to import\\nlib.so: undefined symbol')", "lib.so: undefined symbol"),
        ("import os; os.abort()", "ended by a signal (Aborted)"),
        ("import time; time.sleep(60)", "did not end in 0.5 s"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_a_broken_installation_is_told_and_does_not_end_the_doctor(tmp_path: Path, code: str, seen: str) -> None:
    (tmp_path / "transformers.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = environment.check_model_class("hunyuan_v1_dense", 0.5 if "sleep" in code else 60, env)
    assert wrong(found) == [("A8", Level.FAIL, "model class")]
    assert seen in found[0].seen


def test_what_lies_in_the_working_directory_is_not_taken_for_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    known = "CONFIG_MAPPING = {'hy_v3': 1}; MODEL_FOR_CAUSAL_LM_MAPPING = {1: int}"
    (tmp_path / "library" / "transformers.py").write_text(known)
    (tmp_path / "transformers.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    (one,) = environment.check_model_class("hy_v3", env={**os.environ, "PYTHONPATH": str(tmp_path / "library")})
    assert (one.level, one.seen) == (Level.OK, "int")


@pytest.mark.parametrize("model_type", ["hy_v3", "llama"])
def test_a_model_type_that_transformers_does_not_know_is_told(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "transformers.py").write_text("CONFIG_MAPPING = MODEL_FOR_CAUSAL_LM_MAPPING = {}")
    found = environment.check_model_class(model_type, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert wrong(found) == [("A2", Level.FAIL, "model class")]


# torch against the driver and the cards


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


def test_a_torch_that_sees_its_gpus_is_well() -> None:
    found = build(H100, H100_TOO, torch_gpus=2)
    assert wrong(found) == []
    assert found[1].seen == "torch built for CUDA 12.4, driver 550.54.15 (CUDA 12.4): 2 GPUs"


def test_a_driver_older_than_the_torch_is_told_with_both_versions() -> None:
    found = build(H100, torch_cuda="13.0")
    assert wrong(found) == [("A3", Level.FAIL, "torch and driver")]
    assert told(found, "A3").seen == "torch built for CUDA 13.0, but driver 550.54.15 (CUDA 12.4) is older"
    assert "install a torch built for CUDA 12.4 or older, or update the driver" in told(found, "A3").fix


def test_an_older_minor_version_of_the_driver_is_well_while_torch_sees_the_gpu() -> None:
    assert wrong(build(H100, torch_cuda="12.8", torch_gpus=1)) == []
    assert wrong(build(H100, torch_cuda="12.8")) == [("A3", Level.FAIL, "torch and driver")]


def test_an_old_driver_is_told_also_where_the_variable_hides_the_gpu() -> None:
    found = build(H100, torch_cuda="13.0", CUDA_VISIBLE_DEVICES="")
    assert [id for id, _, _ in wrong(found)] == ["D6", "A3"]


@pytest.mark.parametrize("gpus", [(H100,), ()], ids=["nvidia-smi sees it", "only its device file is there"])
def test_a_gpu_that_torch_does_not_see_for_another_cause_is_told(gpus: tuple[Gpu, ...]) -> None:
    found = build(*gpus)
    assert wrong(found) == [("A3", Level.FAIL, "torch and driver")]
    assert "torch sees no GPU" in told(found, "A3").seen
    assert "torch.cuda.init()" in told(found, "A3").fix


def test_a_torch_without_cuda_beside_a_gpu_is_told() -> None:
    found = build(H100, torch_cuda=None)
    assert wrong(found) == [("A16", Level.FAIL, "torch and driver")]
    assert told(found, "A16").seen == "torch built without CUDA, but nvidia-smi sees 1 GPUs"
    assert told(found, "A16").fix == "install a torch built for CUDA 12.4 or older, or set device_map=cpu"


def test_a_torch_without_cuda_beside_the_device_file_of_a_gpu_is_told() -> None:
    assert wrong(build(torch_cuda=None)) == [("A4", Level.FAIL, "torch and driver")]


def test_a_machine_without_a_gpu_uses_the_cpu_and_says_so() -> None:
    for torch_cuda in (None, "12.4"):
        found = build(torch_cuda=torch_cuda, files=False)
        assert wrong(found) == [("A6", Level.WARN, "GPU")]
        assert found[1].seen == "float32 on the CPU"
    assert wrong(build(files=False, CUDA_VISIBLE_DEVICES="")) == [("A6", Level.WARN, "GPU")]


def test_who_asks_for_the_cpu_hears_nothing_of_gpus() -> None:
    found = build(H100, torch_cuda=None, wants_gpu=False, CUDA_VISIBLE_DEVICES="-1")
    assert wrong(found) == []
    assert found[0].level is Level.SKIP


@pytest.mark.parametrize("gpus", [(H100,), ()], ids=["nvidia-smi sees it", "only its device file is there"])
@pytest.mark.parametrize(
    ("value", "id"), [("", "D6"), (" ", "D6"), ("-1", "A13"), ("NoDevFiles", "A13"), ("all", "A13")]
)
def test_a_variable_that_hides_every_gpu_is_told(gpus: tuple[Gpu, ...], value: str, id: str) -> None:
    found = build(*gpus, CUDA_VISIBLE_DEVICES=value)
    assert wrong(found) == [(id, Level.FAIL, "CUDA_VISIBLE_DEVICES")]
    assert told(found, id).fix == "unset CUDA_VISIBLE_DEVICES, or set device_map=cpu"
    assert [one.level for one in found[1:]] == [Level.SKIP, Level.SKIP]


def test_in_a_slurm_job_a_gpu_is_to_be_asked_for() -> None:
    found = build(H100, CUDA_VISIBLE_DEVICES="NoDevFiles", SLURM_JOB_ID="12")
    assert "sbatch --gres=gpu:1" in told(found, "A13").fix


def test_a_variable_that_is_read_in_part_is_told_with_what_is_left() -> None:
    found = build(H100, H100_TOO, torch_gpus=1, CUDA_VISIBLE_DEVICES="1,2")
    assert wrong(found) == [("A13", Level.WARN, "CUDA_VISIBLE_DEVICES")]
    assert "'2' is not a GPU of this machine, which has 2" in told(found, "A13").seen
    assert told(found, "A13").fix == "CUDA_VISIBLE_DEVICES=1"


def test_numbers_among_different_gpus_need_the_order_of_the_bus() -> None:
    mixed = {"torch_gpus": 1, "CUDA_VISIBLE_DEVICES": "1"}
    found = build(H100, T4, **mixed)  # type: ignore[arg-type]
    assert ("A13", Level.WARN, "CUDA_VISIBLE_DEVICES") in wrong(found)
    assert told(found, "A13").fix == "CUDA_DEVICE_ORDER=PCI_BUS_ID"
    assert wrong(build(H100, T4, CUDA_DEVICE_ORDER="PCI_BUS_ID", **mixed)) == []  # type: ignore[arg-type]
    assert wrong(build(H100, H100_TOO, **mixed)) == []  # type: ignore[arg-type]
    assert wrong(build(H100, T4, torch_gpus=1, CUDA_VISIBLE_DEVICES=B)) == []


def test_a_torch_that_sees_only_some_of_the_gpus_is_told() -> None:
    assert wrong(build(H100, H100_TOO, torch_gpus=1)) == [("A13", Level.WARN, "torch and driver")]


@pytest.mark.parametrize(
    ("gpu", "dtype", "id"),
    [(T4, "bfloat16", "A12"), (P40, "bfloat16", "A12"), (P40, "float16", "C28"), (T4, "float16", ""),
     (H100, "bfloat16", ""), (H100, "float16", ""), (P40, "float32", ""), (UNKNOWN, "bfloat16", "")],
)  # fmt: skip
def test_a_dtype_that_the_gpu_only_emulates_is_told(gpu: Gpu, dtype: str, id: str) -> None:
    found = build(gpu, torch_gpus=1, dtype=dtype)
    assert wrong(found) == ([(id, Level.WARN, "dtype")] if id else [])


@pytest.mark.parametrize(("gpus", "dtype"), [((H100,), "bfloat16"), ((T4,), "float32"), ((H100, T4), "float32")])
def test_auto_says_which_dtype_it_becomes(gpus: tuple[Gpu, ...], dtype: str) -> None:
    assert build(*gpus, torch_gpus=len(gpus))[-1].seen == f"auto is {dtype} here"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_the_cpu_is_slow(dtype: str) -> None:
    found = build(torch_cuda=None, files=False, dtype=dtype)
    assert wrong(found) == [("A6", Level.WARN, "GPU"), ("C28", Level.WARN, "dtype")]
