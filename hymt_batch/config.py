"""All settings of a job: the stages' dataclasses composed from conf/ and the command line.

The only module that knows Hydra and OmegaConf, both imported inside functions. Config is data: no `_target_`, no
resolver, no plugin, no folder but our own conf/. Hydra picks the files; each value of the command line is read by the
type of its setting (override.py), so that no text reaches Hydra's grammar unquoted.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from hymt_batch import job_name, validate
from hymt_batch.errors import ConfigError, PreflightError, UsageError
from hymt_batch.override import Override, OverrideParser, collect_settings, single_line_errors
from hymt_batch.schema import JOBS, OPTIONAL_SETTINGS, BenchJob, DoctorJob, InspectJob, PlanJob, TranslateJob, VerifyJob
from hymt_batch.sweep import expand_sweep

EXAMPLE_OVERRIDES = {"tgt_lang": "tgt_lang=fr", "source.path": "source.path=corpus.txt", "name": "name=demo"}
"""What a message proposes for a setting that is missing."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One job of a sweep."""

    label: str  # folder below outputs/NAME; "" when nothing is swept
    job: Any


def conf_folder() -> Path:
    """Where the YAML files are: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf" / "translate.yaml").exists() else package.parent / "conf"


def group_choices(job: str) -> dict[str, list[str]]:
    """The choices of each group of a job, in the order of the flow."""
    hints = get_type_hints(JOBS[job])
    groups = [one.name for one in fields(JOBS[job]) if is_dataclass(hints[one.name])]
    found = {
        group: sorted(file.stem for file in (conf_folder() / group).glob("*.yaml")) for group in [*groups, "preset"]
    }
    found["preset"] = [one for one in found["preset"] if one.startswith("bench_") == (job == "bench")]
    return found if groups or job == "bench" else {}


def override_parser(job: str) -> OverrideParser:
    """What reads the command line of a job."""
    return OverrideParser(job, collect_settings(JOBS[job]), group_choices(job), _expand_sweep_function)


@single_line_errors()
def load(job: str, overrides: Sequence[str]) -> Any:
    """Compose and check one job.

    Args:
        job: One of JOBS.
        overrides: Words of the command line, KEY=VALUE.

    Returns:
        The job's dataclass: TranslateJob for translate.

    Raises:
        UsageError: A wrong key or value.
        ConfigError: Settings that are missing or cannot work together.
    """
    return _build(job, override_parser(job).parse(overrides))


@single_line_errors()
def load_sweep(job: str, overrides: Sequence[str]) -> list[SweepPoint]:
    """Compose and check every job of a sweep (-m); all of them before the first runs.

    Raises:
        UsageError: A wrong key or value.
        ConfigError: As from `load`, for any point.
    """
    found = [(label, point, _build(job, point)) for label, point in expand_sweep(_parse_sweep(job, overrides))]
    if len(found) > 1 and any(getattr(getattr(one, "source", None), "path", None) == "-" for _, _, one in found):
        raise ConfigError("source.path=- can be read only once. Write stdin to a file and set source.path=FILE.")
    first = found[0][2].name
    for label, point, one in found:
        if label:  # one folder above all points, also where the input is swept and names each differently
            own = any(override.key == "name" for override in point)
            one.output_dir, one.name = os.path.join(one.output_dir, one.name if own else first), label
    return [SweepPoint(label, one) for label, _, one in found]


@single_line_errors()
def to_yaml(job: str, overrides: Sequence[str], stage: str | None = None) -> str:
    """The composed settings as YAML, before they are checked; `stage` selects a part of them."""
    from omegaconf import OmegaConf

    config, _ = _compose(job, override_parser(job).parse(overrides))
    if stage is not None and stage not in config:
        raise UsageError(f"--package {stage} is not a part of {job}. Parts: {', '.join(map(str, config))}.")
    node = config if stage is None else config[stage]
    return OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else f"{node}\n"


def list_sources(job: str, overrides: Sequence[str]) -> str:
    """Which file each group's settings come from, one line each."""
    chosen = _compose(job, override_parser(job).parse(overrides))[1].choices
    files = [f"{job}.yaml", *(f"{group}/{chosen[group]}.yaml" for group in group_choices(job) if chosen[group])]
    return "\n".join(str(conf_folder() / file) for file in files)


def _parse_sweep(job: str, overrides: Sequence[str]) -> list[Override]:
    """The words of a sweep, after what the chosen preset sweeps by itself (its hydra.sweeper.params)."""
    read = override_parser(job).parse(overrides, sweep=True)
    _, chosen = _compose(job, [override.expand()[0] for override in read if override.is_group])
    given = {override.key for override in read}
    params = [f"{key}={text}" for key, text in chosen.sweep_params.items() if key not in given]
    return [*override_parser(job).parse(params, sweep=True), *read]


def _build(job: str, overrides: Sequence[Override]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config, _ = _compose(job, overrides)
    try:
        for key in set(OPTIONAL_SETTINGS.get(job, ())) & OmegaConf.missing_keys(config):
            OmegaConf.update(config, key, None)
        empty = OmegaConf.missing_keys(config)
        missing = [key for key in collect_settings(JOBS[job]) if key in empty]
        built: Any = None if missing else OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason}. Correct the value of {error.full_key}.") from None
    if missing:
        demo = ", or try preset=demo" if job == "translate" else ""
        verb = "are" if len(missing) > 1 else "is"
        add = " ".join(EXAMPLE_OVERRIDES.get(key, f"{key}=VALUE") for key in missing)
        raise ConfigError(f"{' and '.join(missing)} {verb} missing. Add for example {add}{demo}.")
    if not isinstance(built, BenchJob):
        built.output_dir = os.path.expanduser(built.output_dir)
    if isinstance(built, TranslateJob) and built.source.path is None:
        raise ConfigError("source.path is null. Set source.path=FILE, a folder, a glob, a hub id, or - for stdin.")
    if isinstance(built, TranslateJob | PlanJob | DoctorJob):
        validate.validate_job(built)
    elif not isinstance(built, BenchJob):
        job_name.check(built.name, allow_sweep_point=True)
    if _is_cwd_removed():
        _check_relative_paths(built)
    return built


def _check_relative_paths(job: Any) -> None:
    """Refuse what is relative to a working directory that was removed."""
    places: list[tuple[str, str]] = []
    if isinstance(job, TranslateJob | InspectJob) and job.name is not None:
        places.append(("output_dir", job.output_dir))
    if isinstance(job, TranslateJob | PlanJob | DoctorJob) and job.source.path is not None:
        paths = [job.source.path] if isinstance(job.source.path, str) else job.source.path
        places += [("source.path", path) for path in paths if path != "-" and not path.startswith("demo:")]
    if isinstance(job, VerifyJob) and not isinstance(job.inputs, bool):
        places += [("inputs", path) for path in ([job.inputs] if isinstance(job.inputs, str) else job.inputs)]
    for key, path in places:
        if not os.path.isabs(os.path.expanduser(path)):
            raise PreflightError(
                f"The working directory of this process was removed, and {key}={path} is below it. Change to a folder "
                f"that is there (cd), or set an absolute {key}."
            )


def leave_removed_cwd() -> None:
    """Go to / where the working directory was removed: libraries (oneMKL) end the process that has none."""
    if _is_cwd_removed():
        os.chdir("/")


@contextmanager
def _initialize_hydra() -> Iterator[None]:
    """Hydra on our own folder: no plugin and no search path of the machine it runs on."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore

    for job, schema in JOBS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=schema)
    before = sys.modules.get("hydra_plugins")
    sys.modules["hydra_plugins"] = None  # type: ignore[assignment]  # its import then fails as if none were installed
    try:
        with _in_existing_cwd(), initialize_config_dir(str(conf_folder()), job_name="hymt_batch", version_base="1.3"):
            yield
    finally:
        del sys.modules["hydra_plugins"]
        if before is not None:
            sys.modules["hydra_plugins"] = before


def _is_cwd_removed() -> bool:
    """Whether the working directory was removed."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


@contextmanager
def _in_existing_cwd() -> Iterator[None]:
    """Hydra asks for the working directory: where it was removed, be in conf/ meanwhile."""
    if not _is_cwd_removed():
        yield
        return
    before = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.chdir(conf_folder())
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@dataclass(frozen=True, slots=True)
class _Composition:
    """What the files of a job say."""

    config: Any  # DictConfig
    choices: dict[str, str | None]  # of each group
    sweep_params: dict[str, str]  # what a preset sweeps by itself, by key


def _compose(job: str, overrides: Sequence[Override]) -> tuple[Any, _Composition]:
    """The settings as a DictConfig of their own, and the files that they came from."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = (f"{one.key}='{one.values[0]}'" for one in overrides if one.is_group and one.values[0])
    chosen = _compose_groups(job, tuple(groups))
    config = copy.deepcopy(chosen.config)
    for override in overrides:
        if not override.is_group:
            try:
                OmegaConf.update(config, override.key, override.values[0], merge=False)
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                raise UsageError(f"{override.key}={override.texts[0]}: {reason}. Correct the value.") from None
    return config, chosen


@lru_cache(maxsize=64)
def _compose_groups(job: str, groups: tuple[str, ...]) -> _Composition:
    """What Hydra composes from conf/ alone; the points of a sweep share it."""
    from hydra import compose
    from omegaconf import open_dict

    with _initialize_hydra():
        config = compose(job, list(groups), return_hydra_config=True)
    with open_dict(config):
        hydra = config.pop("hydra")
    return _Composition(config, dict(hydra.runtime.choices), dict(hydra.sweeper.params or {}))


def _expand_sweep_function(key: str, text: str, options: Sequence[str]) -> list[str]:
    """The values of one function of Hydra's sweep grammar, as texts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, Transformer
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        if isinstance(parsed._value, Glob):
            found = parsed._value.filter(list(options))
        elif parsed.is_discrete_sweep():
            found = [str(one) for one in parsed.sweep_iterator(Transformer.str)]
        else:
            raise UsageError(f"{key}={text} is no list of values. Write {key}=A,B or {key}=range(START,STOP,STEP).")
    except (HydraException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{key}={text}: {reason}. Quote it to take it literally: {key}=\"'...'\".") from None
    if not found:
        raise UsageError(f"{key}={text} matches no value. Choices: {', '.join(options) or 'none, it is not a group'}.")
    return found
