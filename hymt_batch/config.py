"""Compose and check the settings of a job from the YAML files in conf/ and the command line.

The only module that uses Hydra and OmegaConf; both are imported inside functions. The YAML files are pure data: no
`_target_`, no resolver, no plugin, no config folder other than conf/. Hydra only selects the files. override.py parses
each value of the command line by the type of its setting, so that no unquoted text reaches Hydra's grammar.
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

from hymt_batch.cli import job_name, removed_cwd, renamed_settings, validate
from hymt_batch.cli.override import Override, OverrideParser, collect_settings
from hymt_batch.cli.override_syntax import single_line_errors
from hymt_batch.cli.sweep import expand_sweep
from hymt_batch.errors import ConfigError, HymtError, UsageError, first_line
from hymt_batch.schema import (
    JOBS,
    OPTIONAL_SETTINGS,
    DoctorJob,
    InspectJob,
    PipelineJob,
    PlanJob,
    TranslateJob,
)

EXAMPLE_OVERRIDES = {"tgt_lang": "tgt_lang=fr", "source.path": "source.path=corpus.txt", "name": "name=demo"}
"""Missing setting -> the example override that the error message shows."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One job of a sweep."""

    label: str  # folder name below outputs/NAME; "" if no setting is swept
    job: Any  # None if the point has an error
    error: HymtError | None = None  # why the point cannot run
    words: tuple[str, ...] = ()  # the overrides as they were written, each KEY=VALUE, of a sweep those of the point
    notes: tuple[str, ...] = ()  # for the user: how a value was understood


def conf_folder() -> Path:
    """Return the folder of the YAML files: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf" / "translate.yaml").exists() else package.parent / "conf"


def group_choices(job: str) -> dict[str, list[str]]:
    """Return the choices of each config group of a job, in pipeline order; a pass has no presets."""
    hints = get_type_hints(JOBS[job])
    groups = [field.name for field in fields(JOBS[job]) if is_dataclass(hints[field.name])]
    choices = {
        group: sorted(file.stem for file in (conf_folder() / group).glob("*.yaml")) for group in [*groups, "preset"]
    }
    choices["preset"] = [preset for preset in choices["preset"] if preset.startswith("bench_") == (job == "bench")]
    choices = {group: listed for group, listed in choices.items() if (job, group) != ("retry", "preset")}
    return choices if groups or job == "bench" else {}


def override_parser(job: str) -> OverrideParser:
    """Return the parser for a job's overrides."""

    def other_jobs(key: str) -> list[str]:
        return [name for name, settings in JOBS.items() if name != job and key in collect_settings(settings)]

    return OverrideParser(job, collect_settings(JOBS[job]), group_choices(job), _expand_sweep_function, other_jobs)


@single_line_errors()
def load(job: str, overrides: Sequence[str]) -> Any:
    """Compose and check the settings of one job.

    Args:
        job: One of JOBS.
        overrides: Words of the command line, each KEY=VALUE.

    Returns:
        An instance of the job's dataclass, such as TranslateJob for translate.

    Raises:
        UsageError: A key or value is invalid.
        ConfigError: A setting is missing, or settings cannot be combined.
        PreflightError: A path is relative, and the working directory was removed.
    """
    return load_point(job, overrides).job


@single_line_errors()
def load_point(job: str, overrides: Sequence[str]) -> SweepPoint:
    """Compose and check the settings of one job, as `load` does; also return the notes for the user."""
    built, notes = _build(job, parsed := override_parser(job).parse(overrides))
    return SweepPoint("", built, notes=tuple(notes), words=_words(parsed))


@single_line_errors()
def load_sweep(job: str, overrides: Sequence[str]) -> list[SweepPoint]:
    """Compose and check all points of a sweep (-m), before the first one runs.

    A point that `load` would reject has the error instead of a job, so that the other points can run.

    Raises:
        UsageError: A key is invalid, or a value that is not swept; or all points have the same error.
        ConfigError: Several points read stdin.
        PreflightError: A path is relative, and the working directory was removed.
    """
    points = [(point, _load_swept(job, label, point)) for label, point in expand_sweep(_parse_sweep(job, overrides))]
    jobs = [loaded.job for _, loaded in points if loaded.error is None]
    errors = [loaded.error for _, loaded in points if loaded.error is not None]
    if not jobs and len(set(map(str, errors))) == 1:
        raise errors[0]
    if len(points) > 1 and any(getattr(getattr(built, "source", None), "path", None) == "-" for built in jobs):
        raise ConfigError("source.path=- can be read only once", fix="Write stdin to a file and set source.path=FILE.")
    first = str(jobs[0].name) if jobs else ""
    for point, loaded in points:
        if loaded.label and loaded.error is None:
            # all points share one parent folder, even if the input is swept, which changes the default name
            is_named = any(override.key == "name" for override in point)
            name = loaded.job.name if is_named else first
            loaded.job.output_dir, loaded.job.name = os.path.join(loaded.job.output_dir, name), loaded.label
    return [loaded for _, loaded in points]


def _load_swept(job: str, label: str, point: Sequence[Override]) -> SweepPoint:
    try:
        with single_line_errors():
            if wrong := next((override.error for override in point if override.error is not None), None):
                raise wrong
            built, notes = _build(job, point)
    except HymtError as error:
        return SweepPoint(label, None, error)
    return SweepPoint(label, built, notes=tuple(notes), words=_words(point))


def _words(overrides: Sequence[Override]) -> tuple[str, ...]:
    return tuple(f"{key}={each.texts[0]}" for each in overrides for key in renamed_settings.current_keys(each.key))


@single_line_errors()
def to_yaml(job: str, overrides: Sequence[str], stage: str | None = None) -> str:
    """Return the composed settings as YAML, before they are checked; `stage` selects one top-level key.

    Raises:
        UsageError: A key or value is invalid, or the job has no such stage.
    """
    from omegaconf import OmegaConf

    config, _ = _compose(job, override_parser(job).parse(overrides))
    if stage is not None and stage not in config:
        raise UsageError(f"--package {stage} is not a stage of {job}", fix=f"Stages: {', '.join(map(str, config))}.")
    node = config if stage is None else config[stage]
    return OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else f"{node}\n"


def list_sources(job: str, overrides: Sequence[str]) -> str:
    """Return the paths of the YAML files that the settings come from, one per line."""
    chosen = _compose(job, override_parser(job).parse(overrides))[1].choices
    files = [f"{job}.yaml", *(f"{group}/{chosen[group]}.yaml" for group in group_choices(job) if chosen[group])]
    return "\n".join(str(conf_folder() / file) for file in files)


def _parse_sweep(job: str, overrides: Sequence[str]) -> list[Override]:
    """Parse the overrides of a sweep, preceded by those that the chosen preset sweeps (its hydra.sweeper.params)."""
    parsed = override_parser(job).parse(overrides, sweep=True, keep_errors=True)
    presets = [point for override in parsed if override.key == "preset" for point in override.expand()]
    _, chosen = _compose(job, [preset for preset in presets if preset.error is None][:1])
    parsed_keys = {override.key for override in parsed}
    params = [f"{key}={text}" for key, text in chosen.sweep_params.items() if key not in parsed_keys]
    return [*override_parser(job).parse(params, sweep=True), *parsed]


def _build(job: str, overrides: Sequence[Override]) -> tuple[Any, list[str]]:
    """Return the checked settings of one job, and the notes for the user."""
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
        setting, reason = error.full_key, first_line(error)
        raise ConfigError(f"{setting}: {reason}", fix=f"Correct the value of {setting}.") from None
    if missing:
        demo = ", or try preset=demo" if job == "translate" else ""
        verb = "are" if len(missing) > 1 else "is"
        add = " ".join(EXAMPLE_OVERRIDES.get(key, f"{key}=VALUE") for key in missing)
        raise ConfigError(f"{' and '.join(missing)} {verb} missing", fix=f"Add for example {add}{demo}.")
    if isinstance(built, PipelineJob | InspectJob):
        built.output_dir = os.path.expanduser(built.output_dir)
    if isinstance(built, TranslateJob):
        built.check_request()
    notes = validate.validate_job(built) if isinstance(built, TranslateJob | PlanJob | DoctorJob) else []
    notes = renamed_settings.notes([override.key for override in overrides]) + notes
    if isinstance(built, InspectJob):
        job_name.check(built.name, built.output_dir, allow_sweep_point=True)
    if removed_cwd.is_removed():
        removed_cwd.check_relative_paths(built)
    return built, notes


@contextmanager
def _initialize_hydra() -> Iterator[None]:
    """Initialize Hydra with conf/ alone: no plugin and no search path of the machine it runs on."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore

    for job, schema in JOBS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=schema)
    plugins = sys.modules.get("hydra_plugins")
    sys.modules["hydra_plugins"] = None  # type: ignore[assignment]  # its import fails as if no plugin were installed
    try:
        with (
            removed_cwd.in_existing(conf_folder()),
            initialize_config_dir(str(conf_folder()), job_name="hymt_batch", version_base="1.3"),
        ):
            yield
    finally:
        del sys.modules["hydra_plugins"]
        if plugins is not None:
            sys.modules["hydra_plugins"] = plugins


@dataclass(frozen=True, slots=True)
class _Composition:
    """The settings of a job as its YAML files give them."""

    config: Any  # DictConfig
    choices: dict[str, str | None]  # group -> its choice
    sweep_params: dict[str, str]  # what the preset sweeps: key -> text


def _compose(job: str, overrides: Sequence[Override]) -> tuple[Any, _Composition]:
    """Return the settings as a new DictConfig, and the composition of files that they are based on."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = (f"{group.key}='{group.values[0]}'" for group in overrides if group.is_group and group.values[0])
    chosen = _compose_groups(job, tuple(groups))
    config = copy.deepcopy(chosen.config)
    for override in overrides:
        if not override.is_group:
            try:
                for key in renamed_settings.current_keys(override.key):
                    OmegaConf.update(config, key, override.values[0], merge=False)
            except OmegaConfBaseException as error:
                what = f"{override.key}={override.texts[0]}: {first_line(error)}"
                raise UsageError(what, fix="Correct the value.") from None
    return config, chosen


@lru_cache(maxsize=64)
def _compose_groups(job: str, groups: tuple[str, ...]) -> _Composition:
    """Compose the YAML files with Hydra; cached, because the points of a sweep share the result."""
    from hydra import compose
    from omegaconf import open_dict

    with _initialize_hydra():
        config = compose(job, list(groups), return_hydra_config=True)
    with open_dict(config):
        hydra = config.pop("hydra")
    return _Composition(config, dict(hydra.runtime.choices), dict(hydra.sweeper.params or {}))


def _expand_sweep_function(key: str, text: str, options: Sequence[str]) -> list[str]:
    """Return the values of a function of Hydra's sweep grammar, such as range(1,4), as strings."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, Transformer
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        if isinstance(parsed._value, Glob):
            values = parsed._value.filter(list(options))
        elif parsed.is_discrete_sweep():
            values = [str(value) for value in parsed.sweep_iterator(Transformer.str)]
        else:
            raise UsageError(
                f"{key}={text} is not a list of values", fix=f"Write {key}=A,B or {key}=range(START,STOP,STEP)."
            )
    except (HydraException, ValueError) as error:
        reason = first_line(error)
        raise UsageError(f"{key}={text}: {reason}", fix=f"Quote it to take it literally: {key}=\"'...'\".") from None
    if not values:
        raise UsageError(
            f"{key}={text} matches no value", fix=f"Choices: {', '.join(options) or 'none, it is not a group'}."
        )
    return values
