"""What to write instead of an unknown setting or a value that does not exist, as the fix of an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache

from hymt_batch.cli.names_elsewhere import ANSWERS, VALUES, Answer
from hymt_batch.cli.override_syntax import close_matches, sort_by_similarity


@lru_cache(maxsize=1)
def _answers() -> dict[str, Answer]:
    return {name: answer for answer in ANSWERS for name in answer.names.split()}


def find_answer(key: str) -> Answer | None:
    """Return the answer for a name of another program: for the whole key, else for its last word."""
    folded = key.strip().lstrip("-").casefold().replace("-", "_")
    answers = _answers()
    return answers.get(folded) or answers.get(folded.rpartition(".")[2])


def _answer_text(answer: Answer, value: str, accepts: Callable[[str], bool]) -> str:
    """Return an answer as a fix, with the user's value if the setting accepts it; "" if the job has no such setting."""
    if not answer.override:
        return answer.about
    own, example = answer.override.replace("{value}", value), answer.example or answer.override
    key = answer.override.partition("=")[0]
    if value and all(map(accepts, own.split(" "))):
        written = f"Write {own}"
    elif not all(map(accepts, example.split(" "))):
        return ""
    elif value and answer.example and (known := _value_fix(key, value)):
        return f"Did you mean {key}? {known}"
    else:
        written = f"Write {example}"
    return f"Did you mean {key}? {written}{f': {answer.about}' if answer.about else ''}."


def for_setting(
    word: str,
    job: str,
    keys: Collection[str],
    groups: Collection[str],
    accepts: Callable[[str], bool],
    other_jobs: Callable[[str], list[str]],
) -> str:
    """Return the fix for an unknown setting.

    Args:
        word: The word of the command line with the unknown key.
        job: The job.
        keys: All settings of the job.
        groups: All groups of the job.
        accepts: Returns whether an override is valid for the job.
        other_jobs: Returns the jobs that have a setting.
    """
    key, _, value = (part.strip() for part in word.partition("="))
    answer = find_answer(key)
    if answer is not None and (text := _answer_text(answer, value, accepts)):
        return text
    if jobs := other_jobs(key):
        return f"It is a setting of {' and '.join(jobs)}: hymt-batch {jobs[0]} {key}={value or 'VALUE'}."
    stage = key.partition(".")[0].partition("@")[0].partition("/")[0]
    of_stage = [known for known in keys if known.startswith(f"{stage}.")]
    matches = close_matches(key, [*keys, *groups])
    meant = f"Did you mean {matches[0]}? " if matches else ""
    if of_stage:
        listed = f"Settings of {stage}: {', '.join(sort_by_similarity(key, of_stage))}."
    else:
        top = dict.fromkeys([*groups, *(known for known in keys if "." not in known)])
        listed = f"Settings of {job}: {', '.join(sort_by_similarity(key, top))}."
    return f"{meant}{listed}"


def for_value(key: str, text: str, choices: Collection[str]) -> str:
    """Return what to write instead of a value, as the beginning of a fix; "" if nothing is known of it."""
    if known := _value_fix(key, text):
        return f"{known} "
    matches = close_matches(text.rpartition("/")[2], choices)
    return f"Did you mean {key}={matches[0]}? " if len(matches) == 1 else ""


def _value_fix(key: str, text: str) -> str:
    value = text.strip().strip("'\"").casefold()
    matches = ((answer, re.fullmatch(answer.pattern, value, re.DOTALL)) for answer in VALUES if answer.key == key)
    return next((match.expand(answer.fix) for answer, match in matches if match), "")


def for_flag(word: str) -> str:
    """Return what to write instead of a flag that is meant as a setting; "" if nothing is known of it."""
    name, _, value = word.lstrip("-").partition("=")
    answer = find_answer(name)
    if answer is None:
        is_key = bool(value) and bool(re.fullmatch(r"[a-z_.]+", name))
        return f"Settings have no dashes: write {name}={value}. " if is_key else ""
    text = _answer_text(answer, value, lambda override: True)
    return f"{text} " if not answer.override else f"Settings have no dashes. {text} "
