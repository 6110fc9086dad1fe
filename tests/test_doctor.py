"""The doctor reports each known failure, caused on purpose, before the weights load."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import config
from hymt_batch.doctor import catalogue, environment, explain, machine, preflight
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ConfigError, ExitCode, PreflightError, UsageError
from hymt_batch.model import detect_devices, files, nvidia
from hymt_batch.model.detect_devices import TorchInfo
from hymt_batch.model.nvidia import Gpu, NvidiaInfo
from jobs import doctor
from tests.fakes import corruptions
from tests.fakes.corruptions import edit, read, shards, weights, write

DEMO, _ = files.resolve("demo:model", "main", download=False)
GIB = 1 << 30
SHAPED = "model=hy_mt1.5_1.8b"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the import of the model class, which takes seconds; test_doctor_environment.py tests it."""
    monkeypatch.setattr(
        environment, "check_model_class", lambda model_type: [Finding("model class", Level.OK, "not checked")]
    )
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


class Case:
    """One failure: a copy of the demo model, changes to it and to the machine, and the doctor's overrides."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.model = Path(shutil.copytree(DEMO, folder / "model"))
        self.overrides = ["model=demo", f"model.path={self.model}", f"output_dir={folder}", "name=job"]

    def version(self, package: str, text: str | None) -> None:
        """Simulate that a package has this version, or is missing."""
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name == package:
                if text is None:
                    raise importlib.metadata.PackageNotFoundError(name)
                return text
            return real(name)

        self.monkeypatch.setattr(importlib.metadata, "version", version)

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def cards(self, *names: str, cuda: str = "12.8", torch_cuda: str | None = "12.4", seen: int | None = None) -> None:
        """Simulate GPUs and a torch that sees them."""
        capability = {"T4": (7, 5), "P40": (6, 1)}
        gpus = tuple(
            Gpu(index, f"GPU-{index}", name, 24 * GIB, 24 * GIB, capability.get(name, (8, 9)))
            for index, name in enumerate(names)
        )
        self.monkeypatch.setattr(nvidia, "query", lambda: NvidiaInfo("570.1", cuda, gpus))
        torch_info = TorchInfo("2.13.0", torch_cuda, len(names) if seen is None else seen, lambda source, target: False)
        self.monkeypatch.setattr(detect_devices, "torch_info", lambda: torch_info)

    def header(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        entries, data = read(weights(self.model))
        write(weights(self.model), change(entries), bytes(data))


def lm_head(case: Case) -> None:
    entries, data = read(weights(case.model))
    entry = entries["model.embed_tokens.weight"]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    entries["lm_head.weight"] = {**entry, "data_offsets": [len(data), len(data) + size]}
    write(weights(case.model), entries, bytes(data) + bytes(size))


def second_copy(case: Case) -> None:
    shards(case.model)
    (case.model / "model-00002-of-00002.safetensors").write_bytes(
        (case.model / "model-00001-of-00002.safetensors").read_bytes()
    )


def lease(case: Case) -> None:
    from hymt_batch.fs import OS_FS
    from hymt_batch.write import lease as leases

    (case.folder / "job/.hymt/lease").mkdir(parents=True)
    leases.acquire(OS_FS, case.folder / "job", ttl_s=180, beat_s=20)


def tmpfs(case: Case, options: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount_point = case.folder / "small"
    mount_point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount_point)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    case.overrides.append(f"output_dir={mount_point}")


def source(case: Case, size: int) -> None:
    path = case.folder / "in.txt"
    path.write_text("A row of text.\n" * (size // 15), encoding="utf-8")
    case.overrides += [f"source.path={path}", "tgt_lang=fr"]


def accelerate(case: Case) -> None:
    (case.folder / "accelerate.yaml").write_text("num_processes: 4\nmixed_precision: bf16\n", encoding="utf-8")
    case.overrides.append(f"device_map.accelerate_config={case.folder / 'accelerate.yaml'}")


def little_shared_memory(case: Case) -> None:
    case.monkeypatch.setattr(machine.check_shared_memory, "__defaults__", ("/dev/shm", 1 << 60))


Do = Callable[[Case], Any]
SPLIT = ("device_map=auto", "devices=[9GiB,9GiB]", "device_map.max_memory={0: 5MiB, 1: 5MiB}")
ON_DISK = ("device_map=offload", "devices=[cpu:9GiB]", "device_map.max_memory={cpu: 3MiB, disk: 1GiB}")


def override(*overrides: str) -> Do:
    return lambda case: case.overrides.extend(overrides)


def damaged(change: Callable[[Path], Any]) -> Do:
    return lambda case: change(case.model)


def quantised(method: str) -> Do:
    def do(case: Case) -> None:
        edit(case.model / "config.json", quantization_config={"quant_method": method})
        case.version("compressed-tensors", None)

    return do


PROVOKED: list[tuple[str, str, Do]] = [
    ("A1", "accelerate is missing", lambda case: case.version("accelerate", None)),
    ("A2", "transformers is too old", lambda case: case.version("transformers", "4.55.4")),
    ("A3", "driver older than torch's CUDA", lambda case: case.cards("L4", cuda="11.8", seen=0)),
    ("A5", "GPU 0 requested, but none present", override("device_map=single", "devices=[cpu:16GiB]")),
    ("A6", "no GPU, the CPU used silently", lambda case: case.monkeypatch.setattr(nvidia, "query", lambda: None)),
    ("A7", "flash-attn is missing", override("model.attention=flash_attention_2")),
    ("A12", "bfloat16 on a T4", lambda case: (case.cards("T4"), case.overrides.append("model.dtype=bfloat16"))),
    ("A13", "a GPU that is hidden", lambda case: (case.cards("L4", seen=0), case.env(CUDA_VISIBLE_DEVICES="-1"))),
    ("A14", "datasets too old", lambda case: case.version("datasets", "2.0.0")),
    ("A15", "tokenizers that do not fit", lambda case: case.version("tokenizers", "0.10.0")),
    ("A16", "torch without CUDA next to a GPU", lambda case: case.cards("L4", torch_cuda=None, seen=0)),
    ("B1", "Git-LFS pointer", damaged(corruptions.lfs_pointer)),
    ("B2", "truncated", damaged(corruptions.truncated)),
    ("B3", "missing shard", damaged(corruptions.missing_shard)),
    ("B4", "no weights", damaged(lambda folder: weights(folder).unlink())),
    ("B5", "no config", damaged(lambda folder: (folder / "config.json").unlink())),
    ("B6", "no tokenizer", damaged(lambda folder: (folder / "tokenizer.json").unlink())),
    ("B7", "a path that does not exist", override("model.path=/no/such/folder")),
    ("B8", "not in the cache", lambda case: case.overrides.append("model.path=tencent/HY-MT1.5-1.8B")),
    ("B9", "absent tensor", damaged(corruptions.absent_tensor)),
    ("B9", "one layer more than stored", damaged(lambda folder: edit(folder / "config.json", num_hidden_layers=5))),
    ("B9", "one layer less", damaged(lambda folder: edit(folder / "config.json", num_hidden_layers=3))),
    ("B9", "untied without a head", damaged(lambda folder: edit(folder / "config.json", tie_word_embeddings=False))),
    ("B10", "shapes of another model", damaged(lambda folder: edit(folder / "config.json", hidden_size=64))),
    ("B11", "tied, stored and different", lm_head),
    ("B12", "head_dim is missing", damaged(lambda folder: edit(folder / "config.json", head_dim=None))),
    ("B13", "not the pinned weights", override("model.sha256=" + 64 * "0")),
    ("B14", "pickled only", damaged(corruptions.pickles_only)),
    ("B15", "'../' in the index", damaged(corruptions.index_leaves_the_folder)),
    ("B16", "remote code", damaged(lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "x.Y"}))),
    ("B17", "another family", damaged(lambda folder: edit(folder / "config.json", model_type="llama"))),
    (
        "B18",
        "index and single file",
        damaged(lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "y"}}')),
    ),
    ("B19", "another tokenizer", damaged(corruptions.wrong_tokenizer)),
    ("B20", "another template", damaged(corruptions.wrong_template)),
    ("B22", "a tensor in two files", second_copy),
    ("B23", "zero length", damaged(corruptions.empty)),
    ("B24", "a size that is not a number", damaged(lambda folder: edit(folder / "config.json", vocab_size="many"))),
    ("C1", "unknown device name", override("device_map=manual", "device_map.map={*: gpu}")),
    ("C8", "disk used silently", override("device_map=auto", "device_map.max_memory={0: 1MiB}", "devices=[9GiB]")),
    ("C9", "offload", override("device_map=offload", "devices=[9GiB]", "device_map.max_memory={0: 1.2MiB, cpu: 1GiB}")),
    ("C13", "incomplete map", override("device_map=manual", "device_map.map={model.norm: cpu}")),
    ("C15", "a module that does not exist", override("device_map=manual", "device_map.map={transformer.h.0: cpu}")),
    ("C15c", "limit too high", override("device_map=auto", "device_map.max_memory={0: 9GiB}", "devices=[1GiB]")),
    ("C16", "split tied pair", override("device_map=manual", "device_map.map={*: 0, lm_head: cpu}", "devices=[9GiB]")),
    ("C17", "all of it on disk", override("device_map=manual", "device_map.map={*: disk}")),
    ("C21", "no memory besides the weights", override("device_map=manual", "device_map.map={*: 0}", "devices=[1GiB]")),
    ("C23", "does not fit any GPU", override("devices=[1GiB]")),
    ("C24", "a split layer", override("device_map=manual", "device_map.map={model.layers.0.mlp: cpu}")),
    ("C25", "accelerate settings ignored", accelerate),
    ("C26", "a GPU that does not exist", override("device_map=single", "device_map.device=4", "devices=[9GiB]")),
    ("C27", "a needless split", override(*SPLIT)),
    ("C28", "float16 on the CPU", override("model.dtype=float16")),
    ("C29", "idle GPUs", override("devices=[9GiB,9GiB]", "launch.workers=1")),
    ("C29", "a GPU without room", override("devices=[9GiB,1GiB]")),
    ("D1", "torchrun", lambda case: case.env(WORLD_SIZE="4", RANK="0", LOCAL_RANK="0", MASTER_ADDR="localhost")),
    ("D2", "WORLD_SIZE is not a number", lambda case: case.env(WORLD_SIZE="two")),
    ("D5", "DeepSpeed enabled", lambda case: case.env(ACCELERATE_USE_DEEPSPEED="true")),
    ("D6", "every GPU hidden", lambda case: (case.cards("L4", seen=0), case.env(CUDA_VISIBLE_DEVICES=""))),
    ("E23", "KV cache larger than memory", override("batch.max_tokens=900000000000")),
    ("F1", "FP8 without its library", quantised("compressed-tensors")),
    ("F5", "GPTQ without its libraries", quantised("gptq")),
    ("G1", "memory too small", override("devices=[cpu:2MiB]")),
    ("G2", "small /dev/shm", little_shared_memory),
    ("G3", "no space", lambda case: (tmpfs(case, "size=1m"), source(case, 3_000_000))),
    ("G4", "no inodes", lambda case: (tmpfs(case, "size=9m,nr_inodes=20"), source(case, 1500))),
    ("G9", "read-only", lambda case: tmpfs(case, "size=1m,ro")),
    ("G11", "offload folder is a file", override(*ON_DISK, "device_map.offload_folder=/dev/null")),
    ("G12", "another process holds the lease", lease),
]  # fmt: skip


@pytest.mark.parametrize(("id", "description", "do"), PROVOKED, ids=[f"{row[0]}-{row[1]}" for row in PROVOKED])
def test_the_doctor_reports_a_failure_before_anything_loads(
    id: str, description: str, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    case = Case(tmp_path, monkeypatch)
    try:
        do(case)
        before = sorted(path for path in tmp_path.rglob("*"))
        findings = preflight.run_all(config.load("doctor", case.overrides))
        after = sorted(path for path in tmp_path.rglob("*"))
    finally:
        if (tmp_path / "small").is_dir():
            subprocess.run(["umount", str(tmp_path / "small")], capture_output=True, check=False)
    wrong = {finding.id: finding for finding in findings if finding.level in (Level.WARN, Level.FAIL)}
    assert id in wrong, [f"{finding.level} {finding.check}: {finding.seen} [{finding.id}]" for finding in findings]
    assert wrong[id].seen
    assert wrong[id].fix or wrong[id].level is Level.WARN
    assert catalogue.get(id).id == id
    assert before == after, "the doctor left files behind"


REFUSED_BY_CONFIG = [
    ("C2", ["device_map=single", "device_map.device=-1"]),
    ("C5", ["device_map=auto", "device_map.max_memory={card0: 1GiB}"]),
    ("C6", ["device_map=auto", "device_map.max_memory={0: 10 gigs}"]),
    ("C8", ["device_map=auto", "device_map.max_memory={}"]),
]


@pytest.mark.parametrize(("id", "more"), REFUSED_BY_CONFIG, ids=[row[0] for row in REFUSED_BY_CONFIG])
def test_settings_that_transformers_would_accept_are_rejected_with_their_id(id: str, more: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        preflight.run_all(config.load("doctor", ["model=demo", *more]))
        pytest.fail("composed")
    assert f"explain={id}]" in str(raised.value)


def test_at_least_60_failures_are_known_and_40_of_them_are_provoked() -> None:
    known = catalogue.load()
    provoked = {row[0] for row in [*PROVOKED, *REFUSED_BY_CONFIG]}
    assert len(known) >= 60
    assert len(provoked) >= 40
    assert provoked <= set(known)
    for failure in known.values():
        if failure.found == "doctor":
            assert failure.fix
        if failure.found in ("design", "reasoned"):
            assert failure.because, f"{failure.id} is not provoked: give the reason"


def test_a_healthy_job_has_no_failure_and_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("It is raining.\n", encoding="utf-8")
    more = [
        f"source.path={tmp_path / 'in.txt'}",
        f"output_dir={tmp_path}",
        "model=demo",
        "tgt_lang=fr",
        "device_map=cpu",
    ]
    assert doctor.run(config.load("doctor", more)) is ExitCode.COMPLETE
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith(("fail", "warn"))]
    assert any(line.startswith("ok    model files") for line in lines)
    assert doctor.run(config.load("doctor", [*more, "format=json"])) is ExitCode.COMPLETE
    table = json.loads(capsys.readouterr().out)
    assert {"check", "level", "seen", "fix", "id", "why"} == set(table[0])
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_failures_stand_last_above_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["model=demo", f"output_dir={tmp_path}", "device_map=manual", "device_map.map={lm_head: cpu}"]
    assert doctor.run(config.load("doctor", more)) is ExitCode.PREFLIGHT
    lines = capsys.readouterr().out.splitlines()
    levels = [line.split()[0] for line in lines if line.startswith(("ok ", "skip ", "warn ", "fail "))]
    assert levels == sorted(levels, key=["ok", "skip", "warn", "fail"].index)
    assert levels[-1] == "fail"
    assert lines[-1].endswith("1 fail")


def test_warnings_exit_1_under_strict_and_failures_exit_6(tmp_path: Path) -> None:
    more = ["model=demo", f"output_dir={tmp_path}", *SPLIT]
    assert doctor.run(config.load("doctor", more)) is ExitCode.COMPLETE
    assert doctor.run(config.load("doctor", [*more, "strict=true"])) is ExitCode.WARNINGS
    assert doctor.run(config.load("doctor", ["model.path=/no/such", "strict=true"])) is ExitCode.PREFLIGHT


def test_a_failure_mode_is_explained_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(config.load("doctor", ["explain=c23"])) is ExitCode.COMPLETE
    assert "C23" in capsys.readouterr().out
    with pytest.raises(UsageError, match="Z99"):
        doctor.run(config.load("doctor", ["explain=Z99"]))


def test_load_true_loads_the_model_and_compares_its_logits(tmp_path: Path) -> None:
    overrides = ["model=demo", f"output_dir={tmp_path}", "load=true", "device_map=manual"]
    device_map = "{*: cpu, model.layers.1: disk, model.layers.3: disk}"
    overrides += [f"device_map.map={device_map}", f"device_map.offload_folder={tmp_path / 'offload'}"]
    split = {finding.check: finding for finding in doctor.doctor(config.load("doctor", overrides))}
    assert split["load"].level is Level.OK
    assert split["canary: batched against single"].level is Level.OK
    assert split["canary: split against single on cpu"].level is Level.OK
    whole = {
        finding.check: finding
        for finding in doctor.doctor(config.load("doctor", ["model=demo", "load=true", "device_map=cpu"]))
    }
    assert whole["canary: replica against replica"].level is Level.SKIP
    assert whole["attention against the math backend"].level is Level.SKIP


def test_load_true_loads_nothing_after_a_failure(tmp_path: Path) -> None:
    corruptions.truncated(Path(shutil.copytree(DEMO, tmp_path / "model")))
    findings = doctor.doctor(config.load("doctor", [f"model.path={tmp_path / 'model'}", "load=true", "device_map=cpu"]))
    assert [finding.level for finding in findings if finding.check == "load"] == [Level.SKIP]


def test_a_model_that_translate_would_download_is_skipped_and_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    findings = preflight.run_all(config.load("doctor", [SHAPED, "model.download=true", "device_map=cpu"]))
    assert [finding.level for finding in findings if finding.check == "model files"] == [Level.SKIP]
    assert not (tmp_path / "hub").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PreflightError, match="HF_HUB_OFFLINE") as raised:
        files.resolve("tencent/HY-MT1.5-1.8B", "main", download=True)
    assert raised.value.id == "B8"


def test_a_library_error_keeps_its_message_and_gains_a_cause_and_a_fix() -> None:
    text = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1!"
    with pytest.raises(PreflightError) as raised, explain.explain_errors("loading the model"):
        raise RuntimeError(text)
    assert text in str(raised.value)
    assert "Fix: " in str(raised.value)
    assert raised.value.id == "C19"
    with pytest.raises(ValueError, match="something new"), explain.explain_errors("loading the model"):
        raise ValueError("something new")
    with pytest.raises(PreflightError) as raised, explain.explain_errors("loading the model"):
        raise PreflightError("already named", id="B1")
    assert raised.value.id == "B1"
    with pytest.raises(PreflightError) as raised, explain.explain_errors("loading the model"):
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise PreflightError("FOLDER cannot be loaded") from error
    assert raised.value.id == "C19"


def test_a_warning_of_the_device_map_becomes_a_finding_with_its_fields() -> None:
    overrides = ["model=demo", "device_map=balanced", "devices=[24GiB,24GiB]", "model.dtype=bfloat16"]
    findings = preflight.run_all(config.load("doctor", overrides))
    found = [finding for finding in findings if finding.check == "device map" and finding.level is Level.WARN]
    assert [(finding.id, finding.fix) for finding in found] == [("C27", "device_map=replicate")]
    assert found[0].seen.startswith("the model fits cuda:0 alone")
    assert found[0].why == "because the devices of a split wait for one another"


def test_the_doctor_shows_the_workers_and_the_memory_of_each_gpu() -> None:
    found = findings_by_check("device_map=replicate", "model=demo", "devices=[9GiB,9GiB]", "model.dtype=bfloat16")
    assert found["workers"].seen.startswith("launch.workers=auto: up to 2 workers")
    assert found["memory of cuda:0"].level is found["memory of cuda:1"].level is Level.OK
    too_many = findings_by_check("device_map=replicate", "model=demo", "devices=[9GiB]", "launch.workers=2")
    assert (too_many["device map"].level, too_many["device map"].fix) == (Level.FAIL, "Set launch.workers=auto.")


def test_the_quick_checks_stop_a_job_with_the_id_or_return_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    job = config.load("translate", ["preset=demo"])
    assert preflight.run_quick(job, {}) == []
    with pytest.raises(PreflightError) as raised:
        preflight.run_quick(job, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"})
    assert raised.value.id == "D1"
    assert [finding.id for finding in preflight.run_quick(job, {"ACCELERATE_USE_FSDP": "true"})] == ["D5"]


def findings_by_check(*overrides: str) -> dict[str, Finding]:
    return {
        finding.check: finding for finding in preflight.run_all(config.load("doctor", ["device_map=cpu", *overrides]))
    }


def test_the_doctor_shows_the_licence_and_its_limits() -> None:
    for model in ("hy_mt1.5_1.8b", "hunyuan_mt_7b"):
        finding = findings_by_check(f"model={model}")["licence of the weights"]
        assert finding.level is Level.OK, "a licence is not a failure"
        for text in ("the EU, the UK and South Korea", "may not improve other AI models", "model=hy_mt2_1.8b"):
            assert text in finding.seen
    assert findings_by_check("model=hy_mt2_1.8b")["licence of the weights"].seen == "Apache-2.0"


def test_the_doctor_shows_how_prompts_end() -> None:
    settings = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token_id for token_id, token in settings["added_tokens_decoder"].items()}
    assistant, end = "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁8｜>"
    finding = findings_by_check("model=demo")["last token of the prompt"]
    assert finding.seen == f"{assistant} (id {ids[assistant]}): with the generation prompt, as in the model card"
    finding = findings_by_check("model=demo", "prompt.add_generation_prompt=false")["last token of the prompt"]
    assert f"{end} (id {ids[end]}): without the generation prompt" in finding.seen
    finding = findings_by_check("model=hy_mt1.5_1.8b")["last token of the prompt"]
    assert finding.level is Level.SKIP
    assert "without the generation prompt, as in the model card" in finding.seen


def test_the_doctor_rejects_a_model_that_cannot_translate_on_its_own() -> None:
    findings = findings_by_check("model=hunyuan_mt_chimera_7b", f"model.path={DEMO}")
    assert findings["use of the model"].level is Level.FAIL
    assert "model=hunyuan_mt_7b" in findings["use of the model"].fix
    assert findings["tokenizer and chat template"].level is Level.OK
