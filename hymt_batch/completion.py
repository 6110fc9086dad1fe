"""Completion of the command line in bash: `eval "$(hymt-batch --completion bash)"`.

Bash hands over its line and the cursor; the answer is one completion a line. Bash replaces only what follows the last
of its word breaks (`=`, `:`), and so each answer leaves out what stands before it. Imports neither torch nor Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum

from hymt_batch.languages import LANGUAGES
from hymt_batch.override import Setting

SCRIPT = """\
_hymt_batch() {
    local answer
    COMPREPLY=()
    while IFS= read -r answer; do
        COMPREPLY+=("$answer")
    done < <("$1" --complete "$COMP_LINE" "$COMP_POINT" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _hymt_batch hymt-batch
"""

_SPECIAL = re.compile(r"""([ \t!"#$&'()*;<>?\[\\\]^`{|}~])""")


def words(line: str, point: int) -> tuple[list[str], str, str, str]:
    """Cut a command line at the cursor as a shell would.

    Args:
        line: The whole line.
        point: Cursor, in characters (since bash 4.3); what stands right of it does not matter.

    Returns:
        The finished words, the current word without its quotes, the same as it was typed, and the open quote.
    """
    text = line[:point]
    found: list[str] = []
    current, raw, quote, index = "", "", "", 0
    while index < len(text):
        character = text[index]
        if character == "\\" and quote != "'" and index + 1 < len(text):
            current, raw, index = current + text[index + 1], raw + text[index : index + 2], index + 2
            continue
        if quote:
            current, quote = (current, "") if character == quote else (current + character, quote)
            raw += character
        elif character in "'\"":
            quote, raw = character, raw + character
        elif character.isspace():
            if raw:
                found.append(current)
            current, raw = "", ""
        else:
            current, raw = current + character, raw + character
        index += 1
    return found, current, raw, quote


def complete(
    done: Sequence[str],
    current: str,
    jobs: Sequence[str],
    flags: Sequence[str],
    settings: Mapping[str, Mapping[str, Setting]],
    choices: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[str]:
    """Every way to go on with the current word; one that ends a word has a space behind it.

    Args:
        done: Words before it, without the program.
        current: The word as typed so far.
        jobs: Names of all jobs.
        flags: Spellings of all flags.
        settings: Of each job, by key.
        choices: Of each job, by group.
    """
    if done and done[-1] == "--completion":
        return _matching(current, ["bash "])
    if done and done[-1] in ("--cfg", "-c"):
        return _matching(current, ["job "])
    job = next((word for word in done if word in jobs), None)
    if done and done[-1] in ("--package", "-p"):
        return _matching(current, [f"{group} " for group in choices.get(job or "", {}) if group != "preset"])
    if current.startswith("-"):
        return _matching(current, [f"{flag} " for flag in flags])
    if job is None:
        return _matching(current, [f"{name} " for name in jobs])
    key, equals, value = current.partition("=")
    if not equals:
        return _keys(current, settings.get(job, {}), choices.get(job, {}))
    head, start = "", value
    if "-m" in done or "--multirun" in done or value.startswith("["):
        head, comma, start = value.rpartition(",")
        head += comma
        if not head and value.startswith("["):
            head, start = "[", value[1:]
    if key == "name" and job in ("status", "verify"):
        place = next((word.partition("=")[2] for word in done[::-1] if word.startswith("output_dir=")), "outputs")
        return [f"{key}={one}" for one in _matching(start, _jobs_in(place))]
    return [f"{key}={head}{end}" for end in _values(key, start, settings.get(job, {}), choices.get(job, {}))]


def _jobs_in(place: str) -> list[str]:
    """Names of the jobs, and of the sweeps, whose folders are in a folder."""
    root = os.path.expanduser(place)
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [f"{name} " for name in names if not name.startswith(".") and os.path.isdir(os.path.join(root, name))]


def _keys(current: str, settings: Mapping[str, Setting], choices: Mapping[str, Sequence[str]]) -> list[str]:
    found = [*(f"{group}=" for group in choices), *(f"{key}=" for key in settings if "." not in key)]
    found += [f"{group}." for group in choices if group != "preset"]
    if "." in current:
        found = [f"{key}=" for key in settings]
    return _matching(current, found)


def _values(key: str, start: str, settings: Mapping[str, Setting], choices: Mapping[str, Sequence[str]]) -> list[str]:
    if key in choices:
        return _matching(start, [f"{choice} " for choice in choices[key]])
    if key not in settings:
        return []
    setting = settings[key]
    if setting.is_path:
        return _files(start, folders_only=key.endswith("_dir"))
    found: list[str] = []
    if key.rpartition(".")[2] in ("src_lang", "tgt_lang"):
        found = list(LANGUAGES)
    elif isinstance(setting.type, type) and issubclass(setting.type, Enum):
        found = [member.name for member in setting.type]
    elif setting.type is bool:
        found = ["true", "false"]
    if setting.optional:
        found.append("null")
    return _matching(start, [f"{one} " for one in found])


def _files(start: str, folders_only: bool) -> list[str]:
    above, _, beginning = start.rpartition("/")
    folder = os.path.expanduser(f"{above}/" if "/" in start else ".")
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not beginning.startswith(".")
                if not hidden and entry.name.startswith(beginning) and (entry.is_dir() or not folders_only):
                    path = f"{above}/{entry.name}" if "/" in start else entry.name
                    found.append(f"{path}/" if entry.is_dir() else f"{path} ")
    except OSError:
        return []
    return sorted(found)


def _matching(start: str, found: Sequence[str]) -> list[str]:
    return [one for one in found if one.startswith(start)]


def replacements(found: Sequence[str], current: str, raw: str, quote: str, breaks: str) -> list[str]:
    """Completions as bash wants them: quoted like the word, without what stands before its last word break.

    Args:
        found: Completions of the whole word.
        current: The word without its quotes.
        raw: The word as typed.
        quote: The quote that is open, or "".
        breaks: COMP_WORDBREAKS.
    """
    if quote:
        typed = raw.rpartition(quote)[2]  # bash completes what follows the quote
        before = len(current) - len(typed)
        return [one[before:].rstrip(" ") if one.endswith(" ") else one[before:] for one in found]
    cut = max((current.rfind(character) for character in "=:" if character in breaks), default=-1) + 1
    answers = []
    for one in found:
        end = " " if one.endswith(" ") else ""
        answers.append(_SPECIAL.sub(r"\\\1", one[cut:].removesuffix(" ")) + end)
    return answers
