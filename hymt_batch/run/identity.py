"""What is recorded of a job: its identity, its output settings, and the environment that affects rounding.

Each setting declares its class (setting.py); what is recorded is computed from there. A setting is recorded under its
own key, unless its value does not say what the job does (`auto`, a path, a default of the model card). Such settings
are covered by a resolver.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import batch, fs, manifest, prompt
from hymt_batch.decode import engine
from hymt_batch.decode.registry import Draws
from hymt_batch.decode.settings import Method, resolved_sampling
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.prompt import GenerationPrompt
from hymt_batch.records import PLAN_VERSION
from hymt_batch.setting import SettingClass, values_of
from hymt_batch.write import identity_versions

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job with everything that decides its translations."""

    job: TranslateJob
    model: Mapping[str, Any]  # identity of the prepared model: hashes, commit, family, dtype
    template: prompt.PromptTemplate
    part_limits: batch.PartLimits
    device: str = ""  # the name of the hardware that the model is on

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters, and the engine if the job may sample and the engine draws in its own way."""
        decode, check = self.job.decode, self.job.check
        may_sample = decode.method is Method.sampling or check.retry.max_attempts > 1 or "retry" in check.code_steps
        drawn_by = {"drawn_by": self._drawn_by} if may_sample and decode.draws is Draws.own else {}
        return {**resolved_sampling(decode, self.job.model.sampling), **drawn_by}

    @property
    def _drawn_by(self) -> str:
        """What decides the draws of an engine that draws in its own way: the engine, its version and the device."""
        name = self.job.decode.engine
        describe: Callable[[str | None], str] | None = getattr(engine.find(name), "describe_draws", None)
        return name if describe is None else f"{describe(self.job.launch.vllm_python)} on {self.device}"

    @property
    def retry_sampling(self) -> dict[str, Any] | None:
        """How second tries are sampled: as the model card says; None if there are none."""
        return asdict(self.job.model.sampling) if self.job.check.retry.max_attempts > 1 else None

    @property
    def code_ladder(self) -> dict[str, Any]:
        """The steps of the code ladder, and how its second tries are sampled."""
        steps = self.job.check.code_steps
        sampling = asdict(self.job.model.sampling) if "retry" in steps else None
        return {"code_ladder": list(steps), "code_retry": sampling}


@dataclass(frozen=True, slots=True)
class Resolver:
    """Gives the values that the identity records in place of some settings."""

    settings: tuple[str, ...]  # the settings that it covers
    resolve: Callable[[ResolvedJob], Mapping[str, Any]]  # dotted key of the identity -> value


def _keys(stage: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{stage}.{name}" for name in names)


def _under(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{stage}.{key}": value for key, value in values.items()}


CARD_SAMPLING = _keys("model.sampling", "temperature", "top_p", "top_k", "repetition_penalty")

IDENTITY_RESOLVERS: dict[str, Resolver] = {
    "list of inputs": Resolver(  # compared beside the identity, by write/ownership.py
        _keys("source", "path", "format", "document", "pattern", "follow_symlinks", "subset", "split", "revision"),
        lambda resolved: {},
    ),
    "text field": Resolver(
        ("source.text_field",), lambda resolved: {"source.text_field": resolved.job.source.resolved_text_field}
    ),
    "model files": Resolver(
        _keys("model", "path", "revision", "family", "dtype"),
        lambda resolved: _under("model", resolved.model),
    ),
    "prompt template": Resolver(
        ("src_lang", "tgt_lang", "prompt.family", "prompt.language", "model.family"),
        lambda resolved: _under("prompt", resolved.template.identity),
    ),
    "generation prompt": Resolver(
        ("prompt.add_generation_prompt", "model.add_generation_prompt"),
        lambda resolved: {"prompt.add_generation_prompt": resolved.job.add_generation_prompt},
    ),
    "part limits": Resolver(
        _keys("batch", "shard_rows", "shard_bytes", "part_rows", "part_tokens", "part_new_tokens"),
        lambda resolved: _under("batch", asdict(resolved.part_limits)),
    ),
    "sampling": Resolver(
        (*_keys("decode", "temperature", "top_p", "top_k", "repetition_penalty"), *CARD_SAMPLING),
        lambda resolved: _under("decode", resolved.sampling),
    ),
    "seed": Resolver(("seed",), lambda resolved: {"decode.seed": resolved.job.seed}),
    "code ladder": Resolver(
        ("check.code_ladder", *CARD_SAMPLING), lambda resolved: _under("check", resolved.code_ladder)
    ),
    "second tries": Resolver(CARD_SAMPLING, lambda resolved: {"check.retry_sampling": resolved.retry_sampling}),
}

ENVIRONMENT_RESOLVERS: dict[str, tuple[str, ...]] = {
    "device_map": _keys(
        "device_map",
        "strategy",
        "device",
        "max_memory",
        "margin",
        "map",
        "order",
        "offload_folder",
        "accelerate_config",
    ),
    "attention": ("model.attention",),
    "packed": ("model.packed",),
    "licence": ("model.licence", "model.licence_limits"),
    "num_threads": ("launch.num_threads",),
}
"""Key of `PreparedModel.environment_for` -> the settings that it covers."""


def build_identity(
    job: TranslateJob,
    model: Mapping[str, Any],
    template: prompt.PromptTemplate,
    part_limits: batch.PartLimits,
    device: str = "",
) -> Any:
    """Return the resolved value of every setting that changes the text or the rows of a part.

    Args:
        job: The job's settings.
        model: The identity of the prepared model.
        template: The prompt template.
        part_limits: The limits of parts.
        device: The name of the hardware that the model is on; recorded only with an engine whose draws depend on it.
    """
    resolved = ResolvedJob(job, model, template, part_limits, device)
    covered = {key for resolver in IDENTITY_RESOLVERS.values() for key in resolver.settings}
    own = values_of(job, SettingClass.identity)
    recorded = {key: value for key, value in own.items() if key not in covered}
    for resolver in IDENTITY_RESOLVERS.values():
        recorded |= resolver.resolve(resolved)
    return {"version": identity_versions.VERSION, **_nest(recorded)}


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested dicts."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *stages, name = key.split(".")
        inner = nested
        for stage in stages:
            inner = inner.setdefault(stage, {})
        inner[name] = value
    return nested


def build_output(job: TranslateJob) -> dict[str, Any]:
    """Return the settings that only shape files and flags, by the keys that users write."""
    return values_of(job, SettingClass.output)


def build_environment(job: TranslateJob, resolved: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that may change a translation through rounding errors in low precision.

    Args:
        job: The job's settings.
        resolved: Values that the job resolved; they replace those of the settings.
    """
    covered = {key for keys in ENVIRONMENT_RESOLVERS.values() for key in keys}
    own = {
        key.rpartition(".")[2]: value
        for key, value in values_of(job, SettingClass.environment).items()
        if key not in covered
    }
    return {"hymt_batch": importlib.metadata.version("hymt-batch"), **own, **(resolved or {})}


def auto_keys(job: TranslateJob) -> frozenset[str]:
    """Return the identity keys that are set to `auto`: resolved when the folder is created, then fixed."""
    auto = {
        "batch.part_rows": job.batch.part_rows == "auto",
        "batch.part_tokens": job.batch.part_tokens == "auto",
        "batch.part_new_tokens": job.batch.part_new_tokens == "auto",
        "prompt.add_generation_prompt": job.prompt.add_generation_prompt is GenerationPrompt.auto,
        "check.code_ladder": job.check.code_ladder == "auto",
    }
    return frozenset(key for key, is_auto in auto.items() if is_auto)


def alias_identities(
    job: TranslateJob,
    model: Mapping[str, Any],
    template: prompt.PromptTemplate,
    num_parameters: int,
    device: str = "",
) -> list[Any]:
    """Return the identities that this job would have if `auto` had resolved differently when the job was created.

    Part sizes differ between CPU and GPU; earlier versions always added the generation prompt, and had no code ladder.
    """
    jobs = [job]
    if job.prompt.add_generation_prompt is GenerationPrompt.auto:
        jobs = [with_generation_prompt(job, added) for added in (True, False)]
    if job.check.code_ladder == "auto":
        jobs += [with_code_ladder(alias, []) for alias in jobs]
    all_limits = [batch.resolve_part_limits(job.batch, num_parameters, on_gpu) for on_gpu in (False, True)]
    return [build_identity(alias, model, template, limits, device) for alias in jobs for limits in all_limits]


def with_generation_prompt(job: TranslateJob, add: bool) -> TranslateJob:
    """Return the job with `prompt.add_generation_prompt` set to `add`."""
    setting = GenerationPrompt.true if add else GenerationPrompt.false
    return replace(job, prompt=replace(job.prompt, add_generation_prompt=setting))


def with_code_ladder(job: TranslateJob, steps: list[str]) -> TranslateJob:
    """Return the job with `check.code_ladder` set to these steps."""
    return replace(job, check=replace(job.check, code_ladder=steps))


def part_limits_of(identity: Mapping[str, Any]) -> batch.PartLimits:
    """Return the part limits in an identity."""
    limits: Mapping[str, Any] = identity["batch"]
    return batch.PartLimits(**limits)


def stored_plan_version(folder: Path) -> int:
    """Return the plan version of the job in a folder; the newest version if no job can be read."""
    stored = _stored_identity(folder)
    return PLAN_VERSION if stored is None else identity_versions.plan_version_of(stored)


def stored_formats(folder: Path) -> tuple[str, ...] | None:
    """Return the list of formats of the job in a folder, () if it recorded none; None if there is no job."""
    try:
        return manifest.read_job(fs.OS_FS, folder).formats
    except manifest.StateDamagedError:
        pass
    try:
        return tuple(map(str, manifest.read(fs.OS_FS, folder).get("formats", ())))
    except manifest.StateDamagedError:
        return None


def stored_encoding(folder: Path) -> str | None:
    """Return the encoding by which the job in a folder reads its inputs; None if no job can be read."""
    stored = _stored_identity(folder)
    return None if stored is None else str(stored.get("source", {}).get("encoding", UTF8))


def _stored_identity(folder: Path) -> dict[str, Any] | None:
    try:
        return manifest.read_job(fs.OS_FS, folder).identity
    except manifest.StateDamagedError:
        return None
