"""Python, the packages, and the model's class. Knows no torch and no GPU: that is cuda.py.

Versions come in as a function, and the model's class is imported in a process of its own, which a broken installation
may take down. The floors are those of our own package's metadata, written once in pyproject.toml. Source of the
failures: reference/hymt.md 3, A.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.files import MODEL_TYPES

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "hymt-batch"
MIN_PYTHON = (3, 11)
STACK = ("transformers", "tokenizers", "accelerate")  # whose own requirements must hold
IMPORT_PROGRAM = """
import sys
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
if sys.argv[1] not in CONFIG_MAPPING:
    sys.exit(3)
print(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[sys.argv[1]]].__name__)
"""


def installed_version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list[str] | None:
    """What an installed package asks for; None where it is not installed. Ours is known in a plain checkout too."""
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        if package != PACKAGE:
            return None
    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
        return [str(one) for one in project["project"]["dependencies"]]
    except (OSError, ValueError, KeyError):
        return None


def check_versions(
    model_type: str | None,
    attention: str,
    version: Callable[[str], str | None] = installed_version,
    requires: Callable[[str], list[str] | None] = requirements,
    python: tuple[int, int, int] = sys.version_info[:3],
) -> list[Finding]:
    """Python and the packages: against our floors, the model's need, and each other.

    Args:
        model_type: Of the model's config.json; None where that is not known.
        attention: model.attention.
        version: Name of a package -> installed version, None where there is none.
        requires: Name of a package -> its requirements.
        python: Version of the interpreter.
    """
    has = ".".join(map(str, python))
    found = [Finding("Python", Level.OK, has)]
    if python[:2] < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        fix = f"python{needed} -m venv .venv && .venv/bin/pip install {PACKAGE}"
        found = [Finding("Python", Level.FAIL, f"{has} is older than {needed}", fix, "A17")]
    if importlib.util.find_spec("packaging"):
        found += _check_minimum_versions(version, requires)
        found += _check_model_type(model_type, version("transformers"))
        found += _check_dependencies(version, requires)
    else:
        seen = "packaging, which transformers needs, is not installed; no version was compared"
        found.append(Finding("packages", Level.FAIL, seen, "pip install packaging", "A15"))
    if attention == "flash_attention_2":
        flash = version("flash-attn")
        missing = "flash-attn is not installed"
        found.append(
            Finding("attention", Level.OK, f"flash_attention_2 by flash-attn {flash}")
            if flash
            else Finding("attention", Level.FAIL, missing, "model.attention=sdpa", "A7")
        )
    else:
        found.append(Finding("attention", Level.OK, f"{attention} is part of torch and transformers"))
    return found


def _check_minimum_versions(
    version: Callable[[str], str | None], requires: Callable[[str], list[str] | None]
) -> Iterator[Finding]:
    asked = requires(PACKAGE)
    if asked is None:
        yield Finding("packages", Level.SKIP, f"{PACKAGE} is not installed as a package: its floors are not known")
    for one in _parse_requirements(asked):
        id = "A1" if one.name == "accelerate" else "A14"
        has = version(one.name)
        if has is None:
            yield Finding(one.name, Level.FAIL, f"not installed; {one} is needed", _pip_install(one), id)
        elif not _satisfies(one, has):
            yield Finding(one.name, Level.FAIL, f"{has} is installed; {one} is needed", _pip_install(one), id)
        else:
            yield Finding(one.name, Level.OK, has)


def _check_model_type(model_type: str | None, installed: str | None) -> Iterator[Finding]:
    check = "model type"
    if model_type is None:
        yield Finding(check, Level.SKIP, "the model's config.json is not known")
    elif model_type not in MODEL_TYPES:
        yield Finding(check, Level.SKIP, f"{model_type} is none of {', '.join(MODEL_TYPES)}")
    else:
        needed = f"transformers>={MODEL_TYPES[model_type]}"
        if installed is None or not _satisfies(_parse_requirements([needed])[0], installed):
            seen = f"{model_type} needs {needed}; {installed or 'none'} is installed"
            yield Finding(check, Level.FAIL, seen, f"pip install '{needed}'", "A2")
        else:
            yield Finding(check, Level.OK, f"{model_type} is known to transformers {installed}")


def _check_dependencies(
    version: Callable[[str], str | None], requires: Callable[[str], list[str] | None]
) -> Iterator[Finding]:
    """Whether what is installed beside transformers is what transformers and its neighbours ask for."""
    fits, ours = True, {one.name for one in _parse_requirements(requires(PACKAGE))}
    for package in STACK:
        for one in _parse_requirements(requires(package)):
            has = version(one.name)
            if _satisfies(one, has) if has is not None else one.name in ours:
                continue  # what is missing of our own requirements is told already
            fits = False
            seen = f"{package} {version(package)} needs {one}; {has or 'none'} is installed"
            # transformers looks at its own requirements as it is imported; the others do not
            level = Level.FAIL if package == "transformers" or has is None else Level.WARN
            yield Finding("packages together", level, seen, _pip_install(one), "A15")
    if fits:
        yield Finding("packages together", Level.OK, f"what {', '.join(STACK)} ask for is installed")


def _parse_requirements(texts: Sequence[str] | None) -> list[Requirement]:
    """Requirements that hold here without any extra; what cannot be read is left out."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for text in texts or ():
        try:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                one.marker = None
                found.append(one)
        except (InvalidRequirement, ValueError):
            continue
    return found


def _satisfies(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except ValueError:  # a version of no known form, in an older packaging
        return False


def _pip_install(requirement: Requirement) -> str:
    return f"pip install '{requirement}'"


def check_model_class(
    model_type: str | None, timeout_s: float = 180, env: Mapping[str, str] | None = None
) -> list[Finding]:
    """Import the model's class in a process of its own.

    Args:
        model_type: Of the model's config.json.
        timeout_s: A first import from a slow store takes minutes.
        env: The environment of that process; None for ours.
    """
    check = "model class"
    if model_type is None:
        return [Finding(check, Level.SKIP, "the model's config.json is not known")]
    fix = "pip install --force-reinstall torch transformers tokenizers"
    try:
        # -P: what lies in the working directory must not stand for a package
        done = subprocess.run(
            [sys.executable, "-P", "-c", IMPORT_PROGRAM, model_type],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, env=env, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding(check, Level.FAIL, f"its import did not end in {timeout_s:g} s", fix, "A8")]
    except OSError as error:
        return [Finding(check, Level.FAIL, f"{sys.executable} does not start: {error.strerror}", fix, "A8")]
    said = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if done.returncode == 0:
        return [Finding(check, Level.OK, done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])]
    if done.returncode == 3 and model_type in MODEL_TYPES:
        needed = f"transformers>={MODEL_TYPES[model_type]}"
        return [Finding(check, Level.FAIL, f"transformers does not know {model_type}", f"pip install '{needed}'", "A2")]
    if done.returncode == 3:
        known = ", ".join(MODEL_TYPES)
        fix = f"set model.path to a model of type {known}"
        return [Finding(check, Level.FAIL, f"transformers does not know {model_type}", fix, "A2")]
    if done.returncode < 0:
        name = signal.strsignal(-done.returncode) or f"signal {-done.returncode}"
        return [Finding(check, Level.FAIL, f"its import was ended by a signal ({name})", fix, "A8")]
    last = said[-1] if said else f"exit code {done.returncode}"
    return [Finding(check, Level.FAIL, f"its import fails: {last}", fix, "A8")]
