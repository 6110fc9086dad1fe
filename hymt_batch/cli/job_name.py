"""The name of a job: which characters it may have, and its default if you do not set one.

The name is that of a folder directly below output_dir, so it must not lead elsewhere or be hidden.
"""

from __future__ import annotations

import os
import re
import unicodedata

from hymt_batch.errors import ConfigError
from hymt_batch.write import sweep_points

MAX_BYTES = 200
"""Maximum length of a job's name: file systems allow 255 bytes, and files next to the folder have longer names."""


def default(path: str | list[str]) -> str | None:
    """Return the default name of a job: the base name of its first input without extension, or None for stdin.

    Raises:
        ConfigError: The input has no usable name.
    """
    first = path if isinstance(path, str) else path[0]
    if first == "-":
        return None
    base = first
    while "*" in os.path.basename(base) or "?" in os.path.basename(base):
        base = os.path.dirname(base)  # a glob is named after its folder
    if first.startswith("demo:"):
        base = first.removeprefix("demo:")
    elif not os.path.exists(base):
        base = base.rstrip("/")
    base = _base_name(base)
    if not os.path.isdir(first):
        base = re.sub(r"(?<=.)\.(gz|zst|xz|bz2)$", "", base)
        base = os.path.splitext(base)[0]
    name = to_folder_name(base).strip("_")
    if not any(character not in "._-" for character in name):
        raise ConfigError(f"source.path={first} has no usable name for the job's folder", fix="Add name=NAME.")
    while len(name.encode()) > MAX_BYTES:
        name = name[:-1]
    return name


def _base_name(path: str) -> str:
    """Return the last component of a path, with `.` and `..` resolved; "" if the working directory was removed."""
    last = os.path.basename(os.path.normpath(path))
    if last not in ("", ".", ".."):
        return last
    try:
        return os.path.basename(os.path.abspath(path))
    except OSError:
        return ""


def check(name: str, output_dir: str = "outputs", *, allow_sweep_point: bool = False) -> None:
    """Reject a name that is not a plain folder name; `allow_sweep_point` also allows NAME/POINT, a point of a sweep.

    A name that is the path of a folder is refused with what to write instead: users copy it from the messages of a job.

    Raises:
        ConfigError: The name is invalid; the message proposes a valid one.
    """
    # a point of a sweep alone, as a scheduler runs it: its folder lies in that of the sweep
    is_in_sweep = os.path.isfile(os.path.join(output_dir, sweep_points.NAME))
    extra = "/=," if allow_sweep_point else "=," if is_in_sweep else ""
    wrong = sorted({character for character in name if not (is_allowed(character) or character in extra)})
    proposal = to_folder_name(name).strip("._")[:60] or "NAME"
    below = _relative_path(name, output_dir) if "/" in name.rstrip("/.") else ""
    parent, base = os.path.split(name.rstrip("/"))
    if below and not below.startswith("..") and os.path.normpath(output_dir) != ".":
        raise ConfigError(f"name={name} is a path below output_dir={output_dir}", fix=f"Set name={below}.")
    is_elsewhere = "/" in name and os.path.isdir(name) and not os.path.isdir(os.path.join(output_dir, name))
    if is_elsewhere and base and all(map(is_allowed, base)):
        raise ConfigError(f"name={name} is a path", fix=f"Set output_dir={parent or '/'} name={base}.")
    if not name or name.strip(".") == "":
        raise ConfigError(f"name={name} is not the name of a folder", fix=f"Set name={proposal}.")
    if wrong or ".." in name or name.startswith("/") or (allow_sweep_point and "//" in name):
        problem = f"contains {' '.join(map(repr, wrong))}" if wrong else "would lead outside output_dir"
        raise ConfigError(
            f"name={name} {problem}",
            why="a name may have letters, digits, '.', '_' and '-', but no '/' and no '..'",
            fix=f"Set name={proposal}.",
        )
    if len(name.encode()) > MAX_BYTES and not allow_sweep_point:
        raise ConfigError(f"name={name} has more than {MAX_BYTES} bytes", fix=f"Set a shorter name={proposal}.")


def _relative_path(path: str, folder: str) -> str:
    """Return a path relative to a folder; "" if that cannot be told."""
    try:
        return os.path.relpath(path, folder)
    except (OSError, ValueError):  # the working directory was removed; a NUL character
        return ""


def to_folder_name(text: str) -> str:
    """Replace every character that a folder name may not have by `_`."""
    return "".join(character if is_allowed(character) else "_" for character in text).replace("..", "__")


def is_allowed(character: str) -> bool:
    """Return whether a name may have this character: a letter or digit of any script, `.`, `_` or `-`."""
    return character in "._-" or unicodedata.category(character)[0] in "LMN"
