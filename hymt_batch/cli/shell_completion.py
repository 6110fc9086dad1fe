"""Completion of the command line in bash: `eval "$(hymt-batch --completion bash)"`.

Bash passes the command line and the cursor position; the reply is one completion per line. Bash replaces only the text
after the last word break (`=` or `:`), so each reply omits the text before it. Imports neither torch nor Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from hymt_batch.cli.override import Setting
from hymt_batch.languages import LANGUAGES

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
    """Split a command line into words as a shell does, up to the cursor.

    Args:
        line: The whole line.
        cursor: Cursor position in characters (bash 4.3 and newer); the text after it is ignored.

    Returns:
        The finished words; the current word without its quotes; the current word as typed; the open quote, or "".
    """
    text = line[:cursor]
    words: list[str] = []
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
                words.append(current)
            current, raw = "", ""
        else:
            current, raw = current + character, raw + character
        index += 1
    return words, current, raw, quote


def complete(
    previous_words: Sequence[str],
    current: str,
    jobs: Sequence[str],
    flags: Sequence[str],
    settings: Mapping[str, Mapping[str, Setting]],
    choices: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[str]:
    """Return all completions of the current word; a completion that finishes the word ends with a space.

    Args:
        previous_words: Words before the current one, without the program.
        current: The current word as typed so far, without its quotes.
        jobs: Names of all jobs.
        flags: All spellings of all flags.
        settings: Job -> key -> setting.
        choices: Job -> group -> choices.
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
    if key == "name" and "source.path" not in settings.get(job, {}):  # a job that examines an existing folder
        output_dir = next(
            (word.partition("=")[2] for word in previous_words[::-1] if word.startswith("output_dir=")), "outputs"
        )
        return [f"{key}={job_name}" for job_name in _with_prefix(start, _job_names(output_dir))]
    return [
        f"{key}={head}{ending}" for ending in _complete_value(key, start, settings.get(job, {}), choices.get(job, {}))
    ]


def _job_names(output_dir: str) -> list[str]:
    """Return the names of the jobs and sweeps that have a folder in output_dir, each with a space at the end."""
    root = os.path.expanduser(output_dir)
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [f"{name} " for name in names if not name.startswith(".") and os.path.isdir(os.path.join(root, name))]


def _complete_key(current: str, settings: Mapping[str, Setting], choices: Mapping[str, Sequence[str]]) -> list[str]:
    candidates = [*(f"{group}=" for group in choices), *(f"{key}=" for key in settings if "." not in key)]
    candidates += [f"{group}." for group in choices if group != "preset"]
    if "." in current:
        candidates = [f"{key}=" for key in settings]
    return _with_prefix(current, candidates)


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
    candidates: list[str] = []
    if key.rpartition(".")[2] in ("src_lang", "tgt_lang"):
        candidates = list(LANGUAGES)
    elif setting.choices:
        candidates = list(setting.choices)
    elif setting.type is bool:
        candidates = ["true", "false"]
    if setting.optional:
        candidates.append("null")
    return _with_prefix(prefix, [f"{candidate} " for candidate in candidates])


def _complete_path(prefix: str, folders_only: bool) -> list[str]:
    parent, _, start = prefix.rpartition("/")
    folder = os.path.expanduser(f"{parent}/" if "/" in prefix else ".")
    paths = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not start.startswith(".")
                if not hidden and entry.name.startswith(start) and (entry.is_dir() or not folders_only):
                    path = f"{parent}/{entry.name}" if "/" in prefix else entry.name
                    paths.append(f"{path}/" if entry.is_dir() else f"{path} ")
    except OSError:
        return []
    return sorted(paths)


def _with_prefix(prefix: str, candidates: Sequence[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(prefix)]


def bash_replies(completions: Sequence[str], current: str, raw: str, quote: str, word_breaks: str) -> list[str]:
    """Format completions for bash: quoted like the typed word, without the text before its last word break.

    Args:
        completions: Completions of the whole word.
        current: The word without its quotes.
        raw: The word as typed.
        quote: The open quote, or "".
        word_breaks: The value of COMP_WORDBREAKS.
    """
    if quote:
        typed = raw.rpartition(quote)[2]  # bash completes only the text after the quote
        num_dropped = len(current) - len(typed)
        return [
            completion[num_dropped:].rstrip(" ") if completion.endswith(" ") else completion[num_dropped:]
            for completion in completions
        ]
    cut = max((current.rfind(character) for character in "=:" if character in word_breaks), default=-1) + 1
    replies = []
    for completion in completions:
        space = " " if completion.endswith(" ") else ""
        replies.append(_SHELL_SPECIAL.sub(r"\\\1", completion[cut:].removesuffix(" ")) + space)
    return replies
