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
from hymt_batch.device_map.settings import SPLITTING, Census, gib
from hymt_batch.doctor import cuda, distributed, environment, machine, store
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ConfigError, HymtError, PreflightError, tagged
from hymt_batch.fs import OS
from hymt_batch.model import census, hashes, memory, network, nvidia, requirements, shapes
from hymt_batch.model import files as model_files
from hymt_batch.model import tokenizer as tokenizing
from hymt_batch.model.files import ModelFiles
from hymt_batch.prompt import PromptFamily
from hymt_batch.source import stream
from hymt_batch.write.store import needs

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob, TranslateJob

_SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`])")


def cheap(job: TranslateJob | DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """What costs next to nothing: versions, and how the process was launched.

    Raises:
        PreflightError: The first thing found that would end the job.
    """
    found = environment.versions(None, job.model.attention.value)
    found += distributed.check(os.environ if env is None else env, job.device_map.strategy.value, _splits(job), None)
    for one in found:
        if one.level is Level.FAIL:
            raise PreflightError(_sentence(one), id=one.id)
    return [one for one in found if one.level is Level.WARN]


def examine(job: DoctorJob, env: Mapping[str, str] | None = None) -> list[Finding]:
    """Every check that applies to a job's settings, without the weights."""
    env = os.environ if env is None else env
    found: list[Finding] = []
    facts = census.torch_facts()
    cards = nvidia.query()
    _use(job, found)
    files = _files(job, found)
    model_type = files.config["model_type"] if files else None
    found += environment.versions(model_type, job.model.attention.value)
    found += environment.model_class(model_type)
    asked = job.model.dtype.value
    wants_gpu = job.device_map.strategy.value != "cpu"
    if job.devices is not None:
        found.append(Finding("GPU", Level.SKIP, "devices= pretends another machine"))
    else:
        found += [
            one
            for one in cuda.torch_build(cards, facts.cuda, facts.num_gpus, env, asked, gpu_files(), wants_gpu)
            if one.id != "A6" or job.model.path != "demo:model"  # the demo is as quick without a GPU
        ]
    with _guarded("devices", found):
        devices = census.census() if job.devices is None else census.pretend(job.devices)
        found.append(
            Finding("devices", Level.OK, ", ".join(f"{d.name} {gib(d.free_bytes)} free" for d in devices.devices))
        )
        shape = files or shapes.published(job.model.path)  # what is not downloaded yet can be placed all the same
        placement = _placement(job, shape, devices, found) if shape else None
        splits = placement.splits if placement else _splits(job)
        found += distributed.check(env, job.device_map.strategy.value, splits, len(devices.gpus))
        if placement and job.devices is None:
            labels = [device.label for device in devices.gpus]
            found += distributed.interconnect(placement.devices, facts.peer_access, labels, env)
            weights = {use.device: use.weight_bytes for use in placement.uses}
            found += machine.memory(
                devices.cpu.free_bytes, weights.get("cpu", 0), "the weights that lie in it", memory.cgroup()
            )
    found += machine.shared_memory()
    _tokenizer(job, files, found)
    need, need_inodes = _source(job, found)
    if job.name is not None:
        folder = Path(job.output_dir) / job.name
        with _guarded("output folder", found):
            found += store.check(folder, need, need_inodes=need_inodes)
            found += store.lease(folder)
    else:
        found.append(Finding("output folder", Level.SKIP, "no name= or source.path= tells which"))
    return found


def gpu_files() -> bool:
    """Whether the kernel knows an NVIDIA card."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()


def _splits(job: Any) -> bool:
    return job.device_map.strategy in SPLITTING


@contextmanager
def _guarded(check: str, found: list[Finding]) -> Iterator[None]:
    """What a stage refuses inside becomes a failed check."""
    try:
        yield
    except HymtError as error:
        pieces = _SENTENCE.split(error.message.strip())
        seen, fix = " ".join(pieces[:-1]), pieces[-1]
        if not seen and "; " in fix:
            seen, _, fix = fix.rpartition("; ")
        found.append(Finding(check, Level.FAIL, seen, fix, error.id))
    except Exception as error:  # the doctor tells of a broken installation, it does not die of it
        first = next(iter(str(error).strip().splitlines()), "")
        fix = "Install the packages anew in an empty environment, with constraints.txt"
        found.append(Finding(check, Level.FAIL, f"{type(error).__name__}: {first}", fix, "A8"))


def _files(job: DoctorJob, found: list[Finding]) -> ModelFiles | None:
    """The model's files, verified by their headers; None where they are refused."""
    files: ModelFiles | None = None
    with _guarded("model files", found):
        try:  # never downloads: translate does, where it is asked to
            folder, commit = model_files.resolve(job.model.path, job.model.revision, download=False)
        except PreflightError as error:
            if error.id != "B8" or not job.model.download:
                raise
            found.append(
                Finding("model files", Level.SKIP, "not in the cache; model.download=true lets translate fetch them")
            )
            return None
        files = model_files.verify(folder, commit)
        seen = (
            f"{len(files.weights)} safetensors file(s), {gib(files.num_bytes)}, {files.network.num_parameters:,} "
            f"parameters, every tensor named and shaped as {files.config['model_type']} needs it"
        )
        found.append(Finding("model files", Level.OK, seen))
        requirements.check_libraries(files, job.model.attention)
    if files is not None and job.model.sha256 is not None:
        with _guarded("sha256 of the weights", found):
            network.check_pins(job.model, files, hashes.of(files.folder, files.names, anew=True))
            found.append(Finding("sha256 of the weights", Level.OK, "as pinned by model.sha256"))
    return files


def _placement(job: DoctorJob, files: ModelFiles, devices: Census, found: list[Finding]) -> Placement | None:
    """Where the layers would go, and the memory of each device, now and with the keys and values of the slots."""
    placement: Placement | None = None
    with _guarded("device map", found), _warnings_as(found, "device map"):
        dtype, net, placements = network.choose(job.model, job.device_map, devices, files)
        placement = placements[0]
        seen = f"{placement.strategy.value} in {dtype}: {'; '.join(placement.reasons)}"
        found.append(Finding("device map", Level.OK, seen))
        for warning in placement.warnings:
            found.append(_from_warning("device map", warning))
        cache_bytes = net.cache_bytes_per_token(network.dtype_bytes(dtype))
        on_gpu = placement.device.name != "cpu"
        size = batch.budget(job.batch, cache_bytes, net.vocab_size, placement.predicted_room(devices), on_gpu)
        free = {device.name: device.free_bytes for device in devices.devices}
        for use in placement.uses:
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
                found.append(Finding(check, Level.OK, seen))
            else:
                fix = f"batch.max_tokens={max(512, size.max_tokens // 2)}, or free the device"
                found.append(Finding(check, Level.WARN, f"{seen}; fewer rows will be decoded at once", fix, "E23"))
    return placement


def _from_warning(check: str, text: str) -> Finding:
    """A warning of a stage as a doubtful check; its last clause after a colon or semicolon tells what to do."""
    match = re.fullmatch(r"(.*?)(?: \[(\w+): hymt-batch doctor explain=\w+\])?", text, re.DOTALL)
    words, id = (match[1], match[2] or "") if match else (text, "")
    fixes = re.findall(r"(?:device_map|model|batch)[.\w]*=(?:\{[^}]*\}|[\w./-]*\w)", words)
    return Finding(check, Level.WARN, words, fixes[0] if fixes else "", id)


@contextmanager
def _warnings_as(found: list[Finding], check: str) -> Iterator[None]:
    """Warnings that the model stage logs inside become doubtful checks."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                found.append(_from_warning(check, record.getMessage()))

    logger, handler = logging.getLogger("hymt_batch.model"), Keep()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _tokenizer(job: DoctorJob, files: ModelFiles | None, found: list[Finding]) -> None:
    """Tokenizer and template, and how every prompt ends."""
    check, end = "last token of the prompt", partial(prompt.end, job.prompt, job.model.add_generation_prompt)
    if files is None:
        found.append(Finding(check, Level.SKIP, str(end(None))))
        return
    with _guarded("tokenizer and chat template", found):
        loaded = tokenizing.load(files.folder, files.config, add_generation_prompt=job.add_generation_prompt)
        if job.model.family.value in PromptFamily.__members__:  # of the others `_use` tells
            prompt.check(loaded, prompt.wording(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang or "en"))
        seen = (
            f"{loaded.full.get_vocab_size()} tokens, {len(loaded.control)} of them control tokens; the template "
            f"frames a text with {list(loaded.prefix)} and {list(loaded.suffix)}; it ends at {list(loaded.stop)}"
        )
        found.append(Finding("tokenizer and chat template", Level.OK, seen))
        found.append(Finding(check, Level.OK, str(end(loaded.last))))


def _use(job: DoctorJob, found: list[Finding]) -> None:
    """Whether the model translates by itself, and what its licence leaves out."""
    with _guarded("use of the model", found):
        job.model.check_translates()
    seen = job.model.licence_told
    if job.model.licence_limits:
        seen += "; Hy-MT2 is under Apache-2.0 (model=hy_mt2_1.8b or hy_mt2_7b, with the same shapes)"
    found.append(Finding("licence of the weights", Level.OK, seen))


def _source(job: DoctorJob, found: list[Finding]) -> tuple[int | None, int | None]:
    """Bytes and inodes that the output will need; None where there is no input to tell."""
    if job.source.path is None:
        found.append(Finding("source", Level.SKIP, "source.path is not given"))
        return None, None
    if stream.needs_spool(job.source):
        found.append(Finding("source", Level.SKIP, "standard input and data sets of a hub are read by translate alone"))
        return None, None
    need: int | None = None
    need_inodes: int | None = None
    with _guarded("source", found):
        inputs = stream.find(job.source)
        if not inputs:
            raise ConfigError("source.path names no file that can be translated. Check source.path and source.pattern.")
        stream.fields_conflict(inputs, job.source, job.write.added_fields)
        need, need_inodes = needs(OS, Path(job.output_dir) / str(job.name), inputs, job.write.min_free)
        found.append(Finding("source", Level.OK, f"{len(inputs)} file(s), the output needs about {gib(need)}"))
    return need, need_inodes


def told(finding: Finding) -> str:
    """A finding as one line of a log."""
    return tagged(_sentence(finding), finding.id)


def _sentence(finding: Finding) -> str:
    fix = f". Fix: {finding.fix}." if finding.fix else "."
    return f"{finding.check}: {finding.seen}{fix}"
