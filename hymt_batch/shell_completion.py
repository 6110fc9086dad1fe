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

_SHELL_SPECIAL = re.compile(r"""([ \t!"#$&'()*;<>?\[\\\]^`{|}~])""")


def split_command_line(line: str, cursor: int) -> tuple[list[str], str, str, str]:
    """Cut a command line at the cursor as a shell would.

    Args:
        line: The whole line.
        point: Cursor, in characters (since bash 4.3); what stands right of it does not matter.

    Returns:
        The finished words, the current word without its quotes, the same as it was typed, and the open quote.
    """
    text = line[:cursor]
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
    previous_words: Sequence[str],
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
    if previous_words and previous_words[-1] == "--completion":
        return _with_prefix(current, ["bash "])
    if previous_words and previous_words[-1] in ("--cfg", "-c"):
        return _with_prefix(current, ["job "])
    job = next((word for word in previous_words if word in jobs), None)
    if previous_words and previous_words[-1] in ("--package", "-p"):
        return _with_prefix(current, [f"{group} " for group in choices.get(job or "", {}) if group != "preset"])
    if current.startswith("-"):
        return _with_prefix(current, [f"{flag} " for flag in flags])
    if job is None:
        return _with_prefix(current, [f"{name} " for name in jobs])
    key, equals, value = current.partition("=")
    if not equals:
        return _complete_key(current, settings.get(job, {}), choices.get(job, {}))
    head, start = "", value
    if "-m" in previous_words or "--multirun" in previous_words or value.startswith("["):
        head, comma, start = value.rpartition(",")
        head += comma
        if not head and value.startswith("["):
            head, start = "[", value[1:]
    if key == "name" and job in ("status", "verify"):
        place = next(
            (word.partition("=")[2] for word in previous_words[::-1] if word.startswith("output_dir=")), "outputs"
        )
        return [f"{key}={one}" for one in _with_prefix(start, _job_names(place))]
    return [f"{key}={head}{end}" for end in _complete_value(key, start, settings.get(job, {}), choices.get(job, {}))]


def _job_names(output_dir: str) -> list[str]:
    """Names of the jobs, and of the sweeps, whose folders are in a folder."""
    root = os.path.expanduser(output_dir)
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [f"{name} " for name in names if not name.startswith(".") and os.path.isdir(os.path.join(root, name))]


def _complete_key(current: str, settings: Mapping[str, Setting], choices: Mapping[str, Sequence[str]]) -> list[str]:
    found = [*(f"{group}=" for group in choices), *(f"{key}=" for key in settings if "." not in key)]
    found += [f"{group}." for group in choices if group != "preset"]
    if "." in current:
        found = [f"{key}=" for key in settings]
    return _with_prefix(current, found)


def _complete_value(
    key: str, prefix: str, settings: Mapping[str, Setting], choices: Mapping[str, Sequence[str]]
) -> list[str]:
    if key in choices:
        return _with_prefix(prefix, [f"{choice} " for choice in choices[key]])
    if key not in settings:
        return []
    setting = settings[key]
    if setting.is_path:
        return _complete_path(prefix, folders_only=key.endswith("_dir"))
    found: list[str] = []
    if key.rpartition(".")[2] in ("src_lang", "tgt_lang"):
        found = list(LANGUAGES)
    elif isinstance(setting.type, type) and issubclass(setting.type, Enum):
        found = [member.name for member in setting.type]
    elif setting.type is bool:
        found = ["true", "false"]
    if setting.optional:
        found.append("null")
    return _with_prefix(prefix, [f"{one} " for one in found])


def _complete_path(prefix: str, folders_only: bool) -> list[str]:
    above, _, beginning = prefix.rpartition("/")
    folder = os.path.expanduser(f"{above}/" if "/" in prefix else ".")
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not beginning.startswith(".")
                if not hidden and entry.name.startswith(beginning) and (entry.is_dir() or not folders_only):
                    path = f"{above}/{entry.name}" if "/" in prefix else entry.name
                    found.append(f"{path}/" if entry.is_dir() else f"{path} ")
    except OSError:
        return []
    return sorted(found)


def _with_prefix(prefix: str, candidates: Sequence[str]) -> list[str]:
    return [one for one in candidates if one.startswith(prefix)]


def bash_replies(completions: Sequence[str], current: str, raw: str, quote: str, word_breaks: str) -> list[str]:
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
        return [one[before:].rstrip(" ") if one.endswith(" ") else one[before:] for one in completions]
    cut = max((current.rfind(character) for character in "=:" if character in word_breaks), default=-1) + 1
    answers = []
    for one in completions:
        end = " " if one.endswith(" ") else ""
        answers.append(_SHELL_SPECIAL.sub(r"\\\1", one[cut:].removesuffix(" ")) + end)
    return answers
