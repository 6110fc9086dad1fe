"""All checks of one job, in the order in which their failures would show; nothing is loaded, nothing is left behind.

`examine` runs what applies to the settings given; `cheap` what `translate` looks at by itself before it loads. A check
that cannot be made because an earlier one failed is skipped, and says so.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, prompt
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import SPLIT_STRATEGIES, DeviceInventory, gib
from hymt_batch.doctor import cuda, distributed, environment, machine, storage
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ConfigError, HymtError, PreflightError, with_explain_hint
from hymt_batch.fs import OS_FS
from hymt_batch.model import detect_devices, hashes, memory, nvidia, prepare, requirements, shapes
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.files import ModelFiles
from hymt_batch.prompt import PromptFamily
from hymt_batch.source import stream
from hymt_batch.write.storage import required_space

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob, TranslateJob

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`])")


def run_quick(job: TranslateJob | DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """What costs next to nothing: versions, and how the process was launched.

    Raises:
        PreflightError: The first thing found that would end the job.
    """
    found = environment.check_versions(None, job.model.attention.value)
    found += distributed.check(os.environ if env is None else env, job.device_map.strategy.value, _may_split(job), None)
    for one in found:
        if one.level is Level.FAIL:
            raise PreflightError(_sentence(one), id=one.id)
    return [one for one in found if one.level is Level.WARN]


def run_all(job: DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """Every check that applies to a job's settings, without the weights."""
    env = os.environ if env is None else env
    found: list[Finding] = []
    facts = detect_devices.torch_info()
    cards = nvidia.query()
    _check_licence(job, found)
    files = _check_files(job, found)
    model_type = files.config["model_type"] if files else None
    found += environment.check_versions(model_type, job.model.attention.value)
    found += environment.check_model_class(model_type)
    asked = job.model.dtype.value
    wants_gpu = job.device_map.strategy.value != "cpu"
    if job.devices is not None:
        found.append(Finding("GPU", Level.SKIP, "devices= pretends another machine"))
    else:
        found += [
            one
            for one in cuda.check(cards, facts.cuda, facts.num_gpus, env, asked, has_gpu_device_files(), wants_gpu)
            if one.id != "A6" or job.model.path != "demo:model"  # the demo is as quick without a GPU
        ]
    with _errors_as_findings("devices", found):
        devices = (
            detect_devices.torch_devices() if job.devices is None else detect_devices.simulated_devices(job.devices)
        )
        found.append(
            Finding("devices", Level.OK, ", ".join(f"{d.name} {gib(d.free_bytes)} free" for d in devices.devices))
        )
        shape = files or shapes.published_model(job.model.path)  # what is not downloaded yet can be placed all the same
        placement = _check_placement(job, shape, devices, found) if shape else None
        splits = placement.is_split if placement else _may_split(job)
        found += distributed.check(env, job.device_map.strategy.value, splits, len(devices.gpus))
        if placement and job.devices is None:
            labels = [device.label for device in devices.gpus]
            found += distributed.check_interconnect(placement.devices, facts.peer_access, labels, env)
            weights = {use.device: use.weight_bytes for use in placement.usage}
            found += machine.check_memory(
                devices.cpu.free_bytes, weights.get("cpu", 0), "the weights that lie in it", memory.cgroup_limit()
            )
    found += machine.check_shared_memory()
    _check_tokenizer(job, files, found)
    need, need_inodes = _check_source(job, found)
    if job.name is not None:
        folder = Path(job.output_dir) / job.name
        with _errors_as_findings("output folder", found):
            found += storage.check(folder, need, need_inodes=need_inodes)
            found += storage.check_lease(folder)
    else:
        found.append(Finding("output folder", Level.SKIP, "not checked: set name= or source.path= to select it"))
    return found


def has_gpu_device_files() -> bool:
    """Whether the kernel knows an NVIDIA card."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def _may_split(job: Any) -> bool:
    return job.device_map.strategy in SPLIT_STRATEGIES


@contextmanager
def _errors_as_findings(check: str, findings: list[Finding]) -> Iterator[None]:
    """What a stage refuses inside becomes a failed check."""
    try:
        yield
    except HymtError as error:
        pieces = _SENTENCE_END.split(error.message.strip())
        seen, fix = " ".join(pieces[:-1]), pieces[-1]
        if not seen and "; " in fix:
            seen, _, fix = fix.rpartition("; ")
        findings.append(Finding(check, Level.FAIL, seen, fix, error.id))
    except Exception as error:  # the doctor tells of a broken installation, it does not die of it
        first = next(iter(str(error).strip().splitlines()), "")
        fix = "Install the packages anew in an empty environment, with constraints.txt"
        findings.append(Finding(check, Level.FAIL, f"{type(error).__name__}: {first}", fix, "A8"))


def _check_files(job: DoctorJob, findings: list[Finding]) -> ModelFiles | None:
    """The model's files, verified by their headers; None where they are refused."""
    files: ModelFiles | None = None
    with _errors_as_findings("model files", findings):
        try:  # never downloads: translate does, where it is asked to
            folder, commit = model_files.resolve(job.model.path, job.model.revision, download=False)
        except PreflightError as error:
            if error.id != "B8" or not job.model.download:
                raise
            findings.append(
                Finding("model files", Level.SKIP, "not in the cache; model.download=true lets translate fetch them")
            )
            return None
        files = model_files.verify(folder, commit)
        seen = (
            f"{len(files.weight_files)} safetensors file(s), {gib(files.num_bytes)}, {files.network.num_parameters:,} "
            f"parameters, every tensor named and shaped as {files.config['model_type']} needs it"
        )
        findings.append(Finding("model files", Level.OK, seen))
        requirements.check_libraries(files, job.model.attention)
    if files is not None and job.model.sha256 is not None:
        with _errors_as_findings("sha256 of the weights", findings):
            prepare.check_pins(job.model, files, hashes.compute(files.folder, files.file_names, ignore_cache=True))
            findings.append(Finding("sha256 of the weights", Level.OK, "as pinned by model.sha256"))
    return files


def _check_placement(
    job: DoctorJob, files: ModelFiles, inventory: DeviceInventory, findings: list[Finding]
) -> Placement | None:
    """Where the layers would go, and the memory of each device, now and with the keys and values of the slots."""
    placement: Placement | None = None
    with _errors_as_findings("device map", findings), _warnings_as_findings(findings, "device map"):
        dtype, net, placements = prepare.plan_placement(job.model, job.device_map, inventory, files)
        placement = placements[0]
        seen = f"{placement.strategy.value} in {dtype}: {'; '.join(placement.reasons)}"
        findings.append(Finding("device map", Level.OK, seen))
        for warning in placement.warnings:
            findings.append(_warning_finding("device map", warning))
        cache_bytes = net.cache_bytes_per_token(prepare.dtype_bytes(dtype))
        on_gpu = placement.device.name != "cpu"
        size = batch.resolve_batch_budget(
            job.batch, cache_bytes, net.vocab_size, placement.predicted_cache_bytes(inventory), on_gpu
        )
        free = {device.name: device.free_bytes for device in inventory.devices}
        for use in placement.usage:
            if use.device not in free:
                continue
            cache = size.max_tokens * cache_bytes * use.num_layers // max(1, net.num_layers)
            need = use.weight_bytes + cache
            seen = (
                f"{gib(free[use.device])} free; {gib(use.weight_bytes)} of weights and {gib(cache)} of keys and values "
                f"for {size.max_rows} rows"
            )
            check = f"memory of {use.device}"
            if need <= free[use.device]:
                findings.append(Finding(check, Level.OK, seen))
            else:
                fix = f"batch.max_tokens={max(512, size.max_tokens // 2)}, or free the device"
                findings.append(Finding(check, Level.WARN, f"{seen}; fewer rows will be decoded at once", fix, "E23"))
    return placement


def _warning_finding(check: str, text: str) -> Finding:
    """A warning of a stage as a doubtful check; its last clause after a colon or semicolon tells what to do."""
    match = re.fullmatch(r"(.*?)(?: \[(\w+): hymt-batch doctor explain=\w+\])?", text, re.DOTALL)
    words, id = (match[1], match[2] or "") if match else (text, "")
    fixes = re.findall(r"(?:device_map|model|batch)[.\w]*=(?:\{[^}]*\}|[\w./-]*\w)", words)
    return Finding(check, Level.WARN, words, fixes[0] if fixes else "", id)


@contextmanager
def _warnings_as_findings(findings: list[Finding], check: str) -> Iterator[None]:
    """Warnings that the model stage logs inside become doubtful checks."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                findings.append(_warning_finding(check, record.getMessage()))

    logger, handler = logging.getLogger("hymt_batch.model"), Keep()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _check_tokenizer(job: DoctorJob, files: ModelFiles | None, findings: list[Finding]) -> None:
    """Tokenizer and template, and how every prompt ends."""
    check, end = "last token of the prompt", partial(prompt.describe_end, job.prompt, job.model.add_generation_prompt)
    if files is None:
        findings.append(Finding(check, Level.SKIP, str(end(None))))
        return
    with _errors_as_findings("tokenizer and chat template", findings):
        loaded = tokenizing.load(files.folder, files.config, add_generation_prompt=job.add_generation_prompt)
        if job.model.family.value in PromptFamily.__members__:  # of the others `_use` tells
            prompt.check_template(
                loaded, prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang or "en")
            )
        seen = (
            f"{loaded.backend.get_vocab_size()} tokens, {len(loaded.control_ids)} of them control tokens; the template "
            f"frames a text with {list(loaded.prefix)} and {list(loaded.suffix)}; it ends at {list(loaded.stop_ids)}"
        )
        findings.append(Finding("tokenizer and chat template", Level.OK, seen))
        findings.append(Finding(check, Level.OK, str(end(loaded.last_prompt_token))))


def _check_licence(job: DoctorJob, findings: list[Finding]) -> None:
    """Whether the model translates by itself, and what its licence leaves out."""
    with _errors_as_findings("use of the model", findings):
        job.model.check_translates()
    seen = job.model.licence_text
    if job.model.licence_limits:
        seen += "; Hy-MT2 is under Apache-2.0 (model=hy_mt2_1.8b or hy_mt2_7b, with the same shapes)"
    findings.append(Finding("licence of the weights", Level.OK, seen))


def _check_source(job: DoctorJob, findings: list[Finding]) -> tuple[int | None, int | None]:
    """Bytes and inodes that the output will need; None where there is no input to tell."""
    if job.source.path is None:
        findings.append(Finding("source", Level.SKIP, "source.path is not given"))
        return None, None
    if stream.needs_spool(job.source):
        findings.append(
            Finding("source", Level.SKIP, "standard input and data sets of a hub are read by translate alone")
        )
        return None, None
    need: int | None = None
    need_inodes: int | None = None
    with _errors_as_findings("source", findings):
        inputs = stream.find_inputs(job.source)
        if not inputs:
            raise ConfigError("source.path names no file that can be translated. Check source.path and source.pattern.")
        stream.check_fields(inputs, job.source, job.write.added_fields)
        need, need_inodes = required_space(OS_FS, Path(job.output_dir) / str(job.name), inputs, job.write.min_free)
        findings.append(Finding("source", Level.OK, f"{len(inputs)} file(s), the output needs about {gib(need)}"))
    return need, need_inodes


def log_line(finding: Finding) -> str:
    """A finding as one line of a log."""
    return with_explain_hint(_sentence(finding), finding.id)


def _sentence(finding: Finding) -> str:
    fix = f". Fix: {finding.fix}." if finding.fix else "."
    return f"{finding.check}: {finding.seen}{fix}"
