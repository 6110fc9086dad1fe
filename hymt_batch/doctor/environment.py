"""Checks of Python, the installed packages and the model class. Checks neither torch nor GPUs: cuda.py does.

Versions are looked up with a function that callers can replace. The model class is imported in a separate process,
because a broken installation may crash it. The minimum versions come from the metadata of hymt-batch, which
pyproject.toml defines. The failures are group A of catalogue.toml.
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
STACK = ("transformers", "tokenizers", "accelerate")  # packages whose own requirements are checked too
IMPORT_PROGRAM = """
import sys
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
if sys.argv[1] not in CONFIG_MAPPING:
    sys.exit(3)
print(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[sys.argv[1]]].__name__)
"""


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list[str] | None:
    """Return the requirements of an installed package, or None if it is not installed.

    In a checkout that is not installed, those of hymt-batch are read from pyproject.toml.
    """
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        if package != PACKAGE:
            return None
    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
        return [str(dependency) for dependency in project["project"]["dependencies"]]
    except (OSError, ValueError, KeyError):
        return None


def check_versions(
    model_type: str | None,
    attention: str,
    version: Callable[[str], str | None] = installed_version,
    requires: Callable[[str], list[str] | None] = requirements,
    python: tuple[int, int, int] = sys.version_info[:3],
) -> list[Finding]:
    """Compare the versions of Python and the packages with our requirements, the model's, and each other's.

    Args:
        model_type: model_type in the model's config.json; None if unknown.
        attention: model.attention.
        version: Returns the installed version of a package; None if it is not installed.
        requires: Returns the requirements of a package; None if it is not installed.
        python: Version of the interpreter.
    """
    python_version = ".".join(map(str, python))
    findings = [Finding("Python", Level.OK, python_version)]
    if python[:2] < MIN_PYTHON:
        min_python = ".".join(map(str, MIN_PYTHON))
        fix = f"python{min_python} -m venv .venv && .venv/bin/pip install {PACKAGE}"
        findings = [Finding("Python", Level.FAIL, f"{python_version} is older than {min_python}", fix, "A17")]
    if importlib.util.find_spec("packaging"):
        findings += _check_minimum_versions(version, requires)
        findings += _check_model_type(model_type, version("transformers"))
        findings += _check_dependencies(version, requires)
    else:
        seen = "packaging, which transformers needs, is not installed; versions were not compared"
        findings.append(Finding("packages", Level.FAIL, seen, "pip install packaging", "A15"))
    if attention == "flash_attention_2":
        flash_version = version("flash-attn")
        missing = "flash-attn is not installed"
        findings.append(
            Finding("attention", Level.OK, f"flash_attention_2 from flash-attn {flash_version}")
            if flash_version
            else Finding("attention", Level.FAIL, missing, "model.attention=sdpa", "A7")
        )
    else:
        findings.append(Finding("attention", Level.OK, f"{attention} is part of torch and transformers"))
    return findings


def _check_minimum_versions(
    version: Callable[[str], str | None], requires: Callable[[str], list[str] | None]
) -> Iterator[Finding]:
    requirement_texts = requires(PACKAGE)
    if requirement_texts is None:
        yield Finding("packages", Level.SKIP, f"{PACKAGE} is not installed as a package; its requirements are unknown")
    for requirement in _parse_requirements(requirement_texts):
        id = "A1" if requirement.name == "accelerate" else "A14"
        installed = version(requirement.name)
        if installed is None:
            yield Finding(
                requirement.name, Level.FAIL, f"not installed; {requirement} is needed", _pip_install(requirement), id
            )
        elif not _satisfies(requirement, installed):
            yield Finding(
                requirement.name,
                Level.FAIL,
                f"{installed} is installed; {requirement} is needed",
                _pip_install(requirement),
                id,
            )
        else:
            yield Finding(requirement.name, Level.OK, installed)


def _check_model_type(model_type: str | None, installed: str | None) -> Iterator[Finding]:
    check = "model type"
    if model_type is None:
        yield Finding(check, Level.SKIP, "the model's config.json is not available")
    elif model_type not in MODEL_TYPES:
        yield Finding(check, Level.SKIP, f"{model_type} is not one of {', '.join(MODEL_TYPES)}")
    else:
        needed = f"transformers>={MODEL_TYPES[model_type]}"
        if installed is None or not _satisfies(_parse_requirements([needed])[0], installed):
            seen = f"{model_type} needs {needed}; installed: {installed or 'none'}"
            yield Finding(check, Level.FAIL, seen, f"pip install '{needed}'", "A2")
        else:
            yield Finding(check, Level.OK, f"{model_type} is supported by transformers {installed}")


def _check_dependencies(
    version: Callable[[str], str | None], requires: Callable[[str], list[str] | None]
) -> Iterator[Finding]:
    """Check that the installed packages satisfy the requirements of transformers, tokenizers and accelerate."""
    compatible, own_names = True, {requirement.name for requirement in _parse_requirements(requires(PACKAGE))}
    for package in STACK:
        for requirement in _parse_requirements(requires(package)):
            installed = version(requirement.name)
            if _satisfies(requirement, installed) if installed is not None else requirement.name in own_names:
                continue  # a missing requirement of ours was reported above
            compatible = False
            seen = f"{package} {version(package)} needs {requirement}; installed: {installed or 'none'}"
            # transformers checks its own requirements when it is imported; the others do not
            level = Level.FAIL if package == "transformers" or installed is None else Level.WARN
            yield Finding("package compatibility", level, seen, _pip_install(requirement), "A15")
    if compatible:
        yield Finding("package compatibility", Level.OK, f"the requirements of {', '.join(STACK)} are installed")


def _parse_requirements(texts: Sequence[str] | None) -> list[Requirement]:
    """Parse the requirements that apply to this system without extras; skip those that cannot be parsed."""
    from packaging.requirements import InvalidRequirement, Requirement

    parsed = []
    for text in texts or ():
        try:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requirement.marker = None
                parsed.append(requirement)
        except (InvalidRequirement, ValueError):
            continue
    return parsed


def _satisfies(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except ValueError:  # older versions of packaging raise for a version that they cannot parse
        return False


def _pip_install(requirement: Requirement) -> str:
    return f"pip install '{requirement}'"


def check_model_class(
    model_type: str | None, timeout_s: float = 180, env: Mapping[str, str] | None = None
) -> list[Finding]:
    """Import the model class in a separate process.

    Args:
        model_type: model_type in the model's config.json; None if unknown.
        timeout_s: Timeout in seconds; the first import from a slow file system takes minutes.
        env: The environment of that process; None for the current one.
    """
    check = "model class"
    if model_type is None:
        return [Finding(check, Level.SKIP, "the model's config.json is not available")]
    fix = "pip install --force-reinstall torch transformers tokenizers"
    try:
        # -P: a file in the working directory must not shadow a package
        process = subprocess.run(
            [sys.executable, "-P", "-c", IMPORT_PROGRAM, model_type],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, env=env, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding(check, Level.FAIL, f"its import did not finish in {timeout_s:g} s", fix, "A8")]
    except OSError as error:
        return [Finding(check, Level.FAIL, f"{sys.executable} cannot be started: {error.strerror}", fix, "A8")]
    stderr_lines = [line.strip() for line in process.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if process.returncode == 0:
        return [Finding(check, Level.OK, process.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])]
    if process.returncode == 3 and model_type in MODEL_TYPES:
        needed = f"transformers>={MODEL_TYPES[model_type]}"
        return [
            Finding(check, Level.FAIL, f"transformers does not support {model_type}", f"pip install '{needed}'", "A2")
        ]
    if process.returncode == 3:
        known = ", ".join(MODEL_TYPES)
        fix = f"set model.path to a model of type {known}"
        return [Finding(check, Level.FAIL, f"transformers does not support {model_type}", fix, "A2")]
    if process.returncode < 0:
        name = signal.strsignal(-process.returncode) or f"signal {-process.returncode}"
        return [Finding(check, Level.FAIL, f"its import was killed by a signal ({name})", fix, "A8")]
    reason = stderr_lines[-1] if stderr_lines else f"exit code {process.returncode}"
    return [Finding(check, Level.FAIL, f"its import fails: {reason}", fix, "A8")]
