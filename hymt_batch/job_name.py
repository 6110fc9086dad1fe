"""The name of a job: which characters it may have, and where it comes from when nobody gives one.

A name is one folder below output_dir, so it can neither leave it nor hide in it.
"""

from __future__ import annotations

import os
import re
import unicodedata

from hymt_batch.errors import ConfigError

MAX_BYTES = 200
"""Of a folder's name: file systems take 255, and the files beside it need some."""


def default(path: str | list[str]) -> str | None:
    """The job's name from its (first) input: its base name without extension; None for stdin, which is temporary.

    Raises:
        ConfigError: The input has no usable name.
    """
    first = path if isinstance(path, str) else path[0]
    if first == "-":
        return None
    base = first
    while "*" in os.path.basename(base) or "?" in os.path.basename(base):
        base = os.path.dirname(base)  # of a glob the folder names the job
    if first.startswith("demo:"):
        base = first.removeprefix("demo:")
    elif not os.path.exists(base):
        base = base.rstrip("/")
    base = _base_name(base)
    if not os.path.isdir(first):
        base = re.sub(r"(?<=.)\.(gz|zst|xz|bz2)$", "", base)
        base = os.path.splitext(base)[0]
    found = to_folder_name(base).strip("_")
    if not any(character not in "._-" for character in found):
        raise ConfigError(f"source.path={first} gives no name for the job's folder. Add name=NAME.")
    while len(found.encode()) > MAX_BYTES:
        found = found[:-1]
    return found


def _base_name(path: str) -> str:
    """The last component of a path, of `.` and `..` too; "" where the working directory was removed."""
    last = os.path.basename(os.path.normpath(path))
    if last not in ("", ".", ".."):
        return last
    try:
        return os.path.basename(os.path.abspath(path))
    except OSError:
        return ""


def check(name: str, allow_sweep_point: bool = False) -> None:
    """Refuse a name that is no plain folder name; `inside` also takes NAME/POINT, a point of a sweep.

    Raises:
        ConfigError: What is wrong with it, and a name that would do.
    """
    extra = "/=," if allow_sweep_point else ""
    wrong = sorted({character for character in name if not (is_allowed(character) or character in extra)})
    proposal = to_folder_name(name).strip("._")[:60] or "NAME"
    if not name or name.strip(".") == "":
        raise ConfigError(f"name={name} names no folder. Set name={proposal}.")
    if wrong or ".." in name or name.startswith("/") or (allow_sweep_point and "//" in name):
        what = f"holds {' '.join(map(repr, wrong))}" if wrong else "would leave output_dir"
        raise ConfigError(
            f"name={name} {what}; a name has letters, digits, '.', '_' and '-', no '/' and no '..'. "
            f"Set name={proposal}."
        )
    if len(name.encode()) > MAX_BYTES and not allow_sweep_point:
        raise ConfigError(f"name={name} has more than {MAX_BYTES} bytes. Set a shorter name={proposal}.")


def to_folder_name(text: str) -> str:
    """A text with `_` for every character that a folder's name may not have."""
    return "".join(character if is_allowed(character) else "_" for character in text).replace("..", "__")


def is_allowed(character: str) -> bool:
    """Whether a name may have this character: letters and digits of any script, `.`, `_` and `-`."""
    return character in "._-" or unicodedata.category(character)[0] in "LMN"
