"""All checks of one job, in the order in which a run would meet the failures. Loads no weights, leaves no files.

`run_all` runs every check that applies to the settings; `check` runs those that `translate` makes before it verifies
the model. A check that is impossible because an earlier one failed is reported as skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import prompt
from hymt_batch.check import language_id
from hymt_batch.decode.batches import resolve_batch_budget
from hymt_batch.device_map import replicas
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import SPLIT_STRATEGIES, DeviceInventory, gib
from hymt_batch.doctor import cuda, distributed, environment, input_checks, machine, storage, vllm
from hymt_batch.doctor.finding import Finding, Level, errors_as_findings
from hymt_batch.errors import PreflightError
from hymt_batch.formats import writer
from hymt_batch.model import detect_devices, hashes, memory, nvidia, prepare, requirements, shapes
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.prepare import PlacementPlan
from hymt_batch.model.settings import dtype_bytes
from hymt_batch.prompt_end import describe_end
from hymt_batch.records import plural
from hymt_batch.source.inputs import Inputs
from hymt_batch.write import published_file

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob, TranslateJob

log = logging.getLogger(__name__)


def run_quick(job: TranslateJob | DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """Check the versions and the launcher, which takes almost no time; return the warnings.

    Raises:
        PreflightError: A check failed; the error describes the first one.
    """
    findings = environment.check_versions(None, job.model.attention.value)
    findings += distributed.check(
        os.environ if env is None else env, job.device_map.strategy.value, _may_split(job), None
    )
    shard = getattr(job, "shard", None)  # DoctorJob has none
    if shard is not None and shard.is_task:  # several processes with one command are what tasks are
        findings = [finding for finding in findings if finding.level is Level.FAIL or finding.id != "D1"]
    for finding in findings:
        if finding.level is Level.FAIL:
            raise PreflightError(**asdict(finding.problem))
    return [finding for finding in findings if finding.level is Level.WARN]


def check(job: TranslateJob, inputs: Inputs) -> None:
    """Check all of a job that can fail before the files of its model are read; log the warnings.

    Raises:
        HymtError: An input does not fit the settings or its output format, the languages are wrong, or the versions or
            the launcher make the job impossible.
    """
    inputs.check_first_rows()
    report = inputs.check_languages((job.src_lang, job.tgt_lang))
    report.log()
    for input in inputs.files:
        output = (input, published_file.out_format(input, job.write), inputs.preamble(input), job.write)
        writer.check(*output, partial(inputs.read, input))
        writer.check_languages(*output, report.targets or {str(job.tgt_lang)})
    check_process(job)
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    if job.model.path == "demo:model" and template.tgt_lang not in ("fr", "de", "zh"):
        log.warning(
            "the demo model translates weather reports to fr, de and zh only; tgt_lang=%s gives meaningless output",
            template.tgt_lang,
        )


def check_process(job: TranslateJob) -> None:
    """Check the versions, the launcher and the libraries of the checks, as every process does; log the warnings."""
    language_id.prepare(job.check)
    vllm.prepare(job.decode, job.launch.vllm_python)
    for finding in run_quick(job):
        log.warning("%s", finding.problem.text)


def run_all(job: DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """Run every check that applies to a job's settings, without loading the weights."""
    env = os.environ if env is None else env
    findings: list[Finding] = []
    torch_info = detect_devices.torch_info()
    nvidia_info = nvidia.query()
    _check_licence(job, findings)
    files = _check_files(job, findings)
    model_type = files.config["model_type"] if files else None
    findings += environment.check_versions(model_type, job.model.attention.value)
    findings += environment.check_model_class(model_type)
    dtype = job.model.dtype.value
    wants_gpu = job.device_map.strategy.value != "cpu"
    if job.devices is not None:
        findings.append(Finding("GPU", Level.SKIP, "not checked: devices= simulates another machine"))
    else:
        findings += [
            finding
            for finding in cuda.check(
                nvidia_info, torch_info.cuda, torch_info.num_gpus, env, dtype, has_gpu_device_files(), wants_gpu
            )
            if finding.id != "A6" or job.model.path != "demo:model"  # the demo model does not need a GPU
        ]
    with errors_as_findings("devices", findings):
        devices = (
            detect_devices.torch_devices() if job.devices is None else detect_devices.simulated_devices(job.devices)
        )
        findings.append(
            Finding("devices", Level.OK, ", ".join(f"{d.name} {gib(d.free_bytes)} free" for d in devices.devices))
        )
        shape = files or shapes.published_model(job.model.path)  # known models can be placed before they are downloaded
        plan = _check_placement(job, shape, devices, findings) if shape else None
        placement = plan.placements[0] if plan else None
        findings += vllm.check(job.decode, job.launch.vllm_python, files, plan, devices)
        splits = placement.is_split if placement else _may_split(job)
        findings += distributed.check(env, job.device_map.strategy.value, splits, len(devices.gpus))
        if placement and job.devices is None:
            labels = [device.label for device in devices.gpus]
            findings += distributed.check_interconnect(placement.devices, torch_info.peer_access, labels, env)
            weights = {use.device: use.weight_bytes for use in placement.usage}
            findings += machine.check_memory(
                devices.cpu.free_bytes, weights.get("cpu", 0), "weights on the CPU", memory.cgroup_limit()
            )
    findings += machine.check_shared_memory()
    _check_tokenizer(job, files, findings)
    need, need_inodes = input_checks.check(job, findings)
    if job.name is not None:
        folder = Path(job.output_dir) / job.name
        with errors_as_findings("output folder", findings):
            findings += storage.check(folder, need, need_inodes=need_inodes)
            findings += storage.check_lease(folder)
    else:
        findings.append(Finding("output folder", Level.SKIP, "unknown: neither name= nor source.path= is set"))
    return findings


def has_gpu_device_files() -> bool:
    """Return whether the NVIDIA kernel driver has created its device files."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def _may_split(job: Any) -> bool:
    return job.device_map.strategy in SPLIT_STRATEGIES


def _check_files(job: DoctorJob, findings: list[Finding]) -> ModelFiles | None:
    """Check the model's files by their headers; return None if they are missing or rejected."""
    files: ModelFiles | None = None
    with errors_as_findings("model files", findings):
        try:  # the doctor never downloads; translate does if model.download=true
            folder, commit = model_files.resolve(job.model.path, job.model.revision, download=False)
        except PreflightError as error:
            if error.id != "B8" or not job.model.download:
                raise
            findings.append(
                Finding(
                    "model files", Level.SKIP, "not in the cache; translate will download them (model.download=true)"
                )
            )
            return None
        files = model_files.verify(folder, commit)
        seen = (
            f"{plural(len(files.weight_files), 'safetensors file')}, {gib(files.num_bytes)}, "
            f"{files.network.num_parameters:,} parameters; "
            f"all tensors have the names and shapes that {files.config['model_type']} needs"
        )
        findings.append(Finding("model files", Level.OK, seen))
        requirements.check_libraries(files, job.model.attention)
    if files is not None and job.model.sha256 is not None:
        with errors_as_findings("sha256 of the weights", findings):
            prepare.check_pins(job.model, files, hashes.compute(files.folder, files.file_names, ignore_cache=True))
            findings.append(Finding("sha256 of the weights", Level.OK, "equal to model.sha256"))
    return files


def _check_placement(
    job: DoctorJob, files: ModelFiles, inventory: DeviceInventory, findings: list[Finding]
) -> PlacementPlan | None:
    """Check where the layers would go, and that the weights and the KV cache fit into each device."""
    plan: PlacementPlan | None = None
    with errors_as_findings("device map", findings):
        plan = prepare.plan_placement(job.model, job.device_map, inventory, files)
        placement = plan.placements[0]
        for warning in plan.warnings:
            findings.append(Finding.of_problem("device map", Level.WARN, warning))
        seen = f"{placement.strategy.value} in {plan.dtype}: {'; '.join(placement.reasons)}"
        findings.append(Finding("device map", Level.OK, seen))
        for warning in placement.warnings:
            findings.append(Finding.of_problem("device map", Level.WARN, warning))
        choice = replicas.choose(job.launch.workers, placement, usable_cpus())
        findings.append(Finding("workers", Level.OK, choice.describe(job.launch.workers)))
        findings += [Finding.of_problem("workers", Level.WARN, warning) for warning in choice.warnings]
        with suppress(PreflightError):  # what vLLM refuses is a finding of its own
            placement = vllm.place(job.decode, plan, files, inventory).placements[0]
        for devices in dict.fromkeys(choice.devices):
            copy = replicas.place_replica(placement, devices, inventory)
            findings += _check_device_memory(job, copy, plan, inventory, choice.devices.count(devices))
    return plan


def _check_device_memory(
    job: DoctorJob, placement: Placement, plan: PlacementPlan, inventory: DeviceInventory, num_replicas: int
) -> Iterator[Finding]:
    """Check that weights and KV cache fit into each device of a replica, of which there may be several on a CPU."""
    network = plan.network
    cache_bytes = network.cache_bytes_per_token(dtype_bytes(plan.dtype))
    budget = resolve_batch_budget(
        job.batch.max_rows,
        job.batch.max_tokens,
        cache_bytes,
        network.vocab_size,
        placement.predicted_cache_bytes(inventory),
        placement.device.name != "cpu",
    )
    free = {device.name: device.free_bytes for device in inventory.devices}
    num_layers = sum(use.num_layers for use in placement.usage)
    for use in placement.usage:
        if use.device not in free:
            continue
        weight_bytes = num_replicas * use.weight_bytes
        kv_cache_bytes = num_replicas * budget.max_tokens * cache_bytes * use.num_layers // max(1, num_layers)
        seen = (
            f"{gib(free[use.device])} free; {gib(weight_bytes)} of weights and {gib(kv_cache_bytes)} of KV cache for "
            f"{num_replicas * budget.max_rows} rows"
        )
        check = f"memory of {use.device}"
        if weight_bytes + kv_cache_bytes <= free[use.device]:
            yield Finding(check, Level.OK, seen)
        else:
            fix = f"batch.max_tokens={max(512, budget.max_tokens // 2)}, or free memory on the device"
            yield Finding(check, Level.WARN, f"{seen}; fewer rows will be decoded at a time", fix, "E23")


def _check_tokenizer(job: DoctorJob, files: ModelFiles | None, findings: list[Finding]) -> None:
    """Check the tokenizer and the chat template, and report the last token of every prompt."""
    check, end = "last token of the prompt", partial(describe_end, job.prompt, job.model.add_generation_prompt)
    if files is None:
        findings.append(Finding(check, Level.SKIP, str(end(None))))
        return
    with errors_as_findings("tokenizer and chat template", findings):
        tokenizer = tokenizing.load(files.folder, files.config, add_generation_prompt=job.add_generation_prompt)
        prompt.check_template(
            tokenizer,
            prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang or "en"),
        )
        seen = (
            f"{tokenizer.backend.get_vocab_size()} tokens, {len(tokenizer.control_ids)} of them control tokens; prefix "
            f"{list(tokenizer.prefix)}, suffix {list(tokenizer.suffix)}, stop tokens {list(tokenizer.stop_ids)}"
        )
        findings.append(Finding("tokenizer and chat template", Level.OK, seen))
        findings.append(Finding(check, Level.OK, str(end(tokenizer.last_prompt_token))))


def _check_licence(job: DoctorJob, findings: list[Finding]) -> None:
    """Check that the model can translate on its own, and report the limits of its licence."""
    with errors_as_findings("use of the model", findings):
        job.model.check_translates()
    seen = job.model.licence_text
    if job.model.licence_limits:
        seen += "; Hy-MT2 is licensed under Apache-2.0 (model=hy_mt2_1.8b or hy_mt2_7b, with the same shapes)"
    findings.append(Finding("licence of the weights", Level.OK, seen))
