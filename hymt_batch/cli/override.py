"""Parse the overrides of a command line: words of the form `KEY=VALUE` in, typed values out.

Each value is parsed by the type of its setting. So values that Hydra's grammar would reject (spaces, brackets, `=`,
quotes, letters of any script) work, and a path needs no quoting beyond the shell's. Independent of Hydra and of the
meaning of settings; config.py handles both.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hymt_batch.cli import renamed_settings, suggestion
from hymt_batch.cli.override_syntax import (
    BOOL_WORDS,
    SWEEP_FUNCTION,
    close_matches,
    escape_interpolation,
    parse_literal,
    path_exists,
    sort_by_similarity,
    split_list,
    unquote,
)
from hymt_batch.errors import UsageError

_INTERPOLATION = re.compile(r"(\\*)\$\{([^{}]*\}?)")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a job, as its dataclass declares it."""

    key: str  # dotted
    type: Any  # str, int, float, bool, an Enum, or Any
    optional: bool  # True if null is a valid value
    required: bool
    choices: tuple[str, ...] = ()  # the valid values, if there is a list: an Enum, or metadata of the field

    @property
    def is_path(self) -> bool:
        """True if a value that is the name of an existing file is taken literally, whatever its characters."""
        return self.key.endswith(("path", "_dir", "_file"))

    @property
    def is_text(self) -> bool:
        return (self.type is str and not self.choices) or (
            self.type is Any and self.key.endswith(("path", "pattern", "sha256", "text_field", "keys"))
        )


@dataclass(frozen=True, slots=True)
class Override:
    """One word of the command line: the choice for a group or the value of a setting; several values make a sweep."""

    key: str
    is_group: bool
    texts: tuple[str, ...]  # values as written, for the names of sweep folders
    values: tuple[Any, ...]  # a wrong value is its error, where a sweep keeps errors

    @property
    def error(self) -> UsageError | None:
        """The error of the only value of a point, or None."""
        return self.values[0] if isinstance(self.values[0], UsageError) else None

    @property
    def is_swept(self) -> bool:
        return len(self.values) > 1

    def expand(self) -> list[Override]:
        return [Override(self.key, self.is_group, (t,), (v,)) for t, v in zip(self.texts, self.values, strict=True)]


def collect_settings(job: type, prefix: str = "") -> dict[str, Setting]:
    """Return every setting of a job's dataclass by its dotted key, in field order."""
    settings: dict[str, Setting] = {}
    hints = get_type_hints(job)
    for field in fields(job):
        key, field_type = prefix + field.name, hints[field.name]
        if is_dataclass(field_type):
            assert isinstance(field_type, type)
            settings |= collect_settings(field_type, f"{key}.")
            continue
        members = set(get_args(field_type)) if get_origin(field_type) in (Union, UnionType) else {field_type}
        required = field.default is MISSING and field.default_factory is MISSING
        types = members - {NoneType}
        setting_type = types.pop() if len(types) == 1 else Any
        names = getattr(setting_type, "__members__", ())
        choices = tuple(field.metadata["choices"]() if "choices" in field.metadata else names)
        settings[key] = Setting(key, setting_type, NoneType in members or field_type is Any, required, choices)
    return settings


class OverrideParser:
    """Parses the overrides of one job."""

    def __init__(
        self,
        job: str,
        settings: Mapping[str, Setting],
        groups: Mapping[str, Sequence[str]],
        expand_function: Callable[[str, str, Sequence[str]], list[str]],
        find_other_jobs: Callable[[str], list[str]] = lambda key: [],
    ) -> None:
        """Set which keys and values are valid.

        Args:
            job: Name of the job, for messages.
            settings: Dotted key -> setting.
            groups: Config group -> its choices.
            expand_function: Returns the values of a sweep function such as range(1,4), given the key, the function's
                text and the choices of the group.
            find_other_jobs: Returns the other jobs that have a setting, given its key.
        """
        self.job, self.settings, self.groups, self.expand_function = job, settings, groups, expand_function
        self.find_other_jobs = find_other_jobs

    def parse(self, overrides: Iterable[str], *, sweep: bool = False, keep_errors: bool = False) -> list[Override]:
        """Parse overrides in order; of two with the same key the later one wins.

        Args:
            overrides: Words of the command line, each KEY=VALUE.
            sweep: True if commas and functions list several values (-m).
            keep_errors: True if one wrong value among several is kept as its error, so that the others can be used.

        Raises:
            UsageError: A key or value is invalid; the message lists the valid ones.
        """
        parsed: dict[str, Override] = {}
        for word in overrides:
            override = self._parse_override(word, sweep, keep_errors)
            parsed.pop(override.key, None)
            parsed[override.key] = override
        return list(parsed.values())

    def _parse_override(self, word: str, sweep: bool, keep_errors: bool) -> Override:
        key, equals, text = word.partition("=")
        key = key.strip()
        self._check_key(key, word, bool(equals))
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text) and not os.path.lexists(text):
            raise UsageError(f"{key}={text!a} is not UTF-8", fix="Write the value in UTF-8, or rename the file.")
        group, setting = key in self.groups, renamed_settings.find(self.settings, key)
        literal = setting is not None and setting.is_path and path_exists(text)
        texts = [text]
        if sweep and not literal:
            if SWEEP_FUNCTION.fullmatch(text.strip()):
                texts = self.expand_function(key, text.strip(), self.groups.get(key, ()))
            else:
                texts = split_list(text)
        values: list[Any] = []
        for value in texts:
            try:
                values.append(self._parse_choice(key, value) if setting is None else self.parse_value(setting, value))
            except UsageError as error:
                if not keep_errors or len(texts) == 1:
                    raise
                values.append(error)
        return Override(key, group, tuple(texts), tuple(values))

    def _check_key(self, key: str, word: str, has_value: bool) -> None:
        if key.startswith(("+", "~")):
            plain = key.lstrip("+~")
            if plain not in self.settings and plain not in self.groups:
                raise UsageError(
                    f"{word} begins with '{key[0]}' to add or remove a setting, but the settings of {self.job} are "
                    f"fixed, and {plain} is not one of them",
                    fix=self._suggest(word.lstrip("+~")),
                )
            raise UsageError(
                f"{word} begins with '{key[0]}' to add or remove a setting, but the settings of {self.job} are fixed",
                fix=f"Write {plain}=VALUE, or drop {plain} to use the default.",
            )
        if not has_value:
            matches = close_matches(word, [*self.settings, *self.groups])[:1]
            see = 'Quote a message: explain="..."' if self.job == "doctor" else f"See hymt-batch {self.job} --help."
            fix = f"Write {matches[0]}=VALUE." if matches else see
            if path_exists(word) and "source.path" in self.settings:
                fix = f"To translate this file, write source.path={word}."
            elif "errors" in self.settings or "inputs" in self.settings:  # a job that examines a folder
                fix = f"For the folder of a job, write name={os.path.basename(word.rstrip('/'))}."
            raise UsageError(f"{word} is not KEY=VALUE", fix=fix)
        if key.startswith(("hydra.", "hydra/")) or key == "hydra":
            raise UsageError(
                f"{key} is not available: hymt-batch writes only to output_dir/name and sweeps with -m",
                fix="Drop it; to see more log lines during a run, set launch.progress=log.",
            )
        if key in self.groups or renamed_settings.find(self.settings, key) is not None:
            return
        if any(part.startswith("_") for part in key.split(".")):
            raise UsageError(
                f"{key} is not a setting of {self.job}: keys that begin with _ would run code", fix="Drop it."
            )
        nested = [known for known in self.settings if known.startswith(f"{key}.")]
        if nested:
            raise UsageError(f"{key} holds several settings", fix=f"Set one of them: {', '.join(nested)}.")
        raise UsageError(f"{key or word} is not a setting of {self.job}", fix=self._suggest(word))

    def _suggest(self, word: str) -> str:
        """Return what to write instead of a word with an unknown key."""
        known = self.settings, self.groups
        return suggestion.for_setting(word, self.job, *known, self._accepts, self.find_other_jobs)

    def _accepts(self, word: str) -> bool:
        if word.partition("=")[0] in {*self.settings, *self.groups}:  # else the error would ask again
            with suppress(UsageError):
                return bool(self.parse([word]))
        return False

    def _parse_choice(self, group: str, text: str) -> str | None:
        choices = self.groups[group]
        choice = unquote(text.strip())
        choice = text.strip() if choice is None else choice
        if choice.removesuffix(".yaml") in choices:
            return choice.removesuffix(".yaml")
        if group == "preset" and choice.lower() == "null":
            return None
        if len(split_list(choice)) > 1 or SWEEP_FUNCTION.fullmatch(choice):
            raise UsageError(f"{group}={text} lists several choices", fix="Add -m to run one job for each.")
        nested = [key for key in self.settings if key.startswith(f"{group}.")]
        meant = suggestion.for_value(group, choice, choices)
        path = f"For a path, write {group}.path={text}. " if f"{group}.path" in nested and text and not meant else ""
        listed = ", ".join(sort_by_similarity(choice, choices))
        raise UsageError(f"{group}={text} is not a choice", fix=f"{meant}{path}Choices: {listed}.")

    def parse_value(self, setting: Setting, text: str) -> Any:
        """Parse one value by the type of its setting; interpolations stay strings.

        Raises:
            UsageError: The text is not a value of that type.
        """
        key = setting.key
        if setting.is_path and path_exists(text):
            return escape_interpolation(text)
        quoted = unquote(text.strip())
        if quoted is None and text.strip().lower() == "null":
            if not setting.optional:
                or_default = "" if setting.required else ", or drop it to use the default"
                raise UsageError(f"{key} cannot be null", fix=f"Set {key}=VALUE{or_default}.")
            return None
        if setting.is_text:
            if setting.type is Any and quoted is None and re.fullmatch(r"\[.*\]", text.strip(), re.DOTALL):
                return [
                    self._parse_text(key, part)
                    for part in split_list(text.strip()[1:-1])
                    if part or text.strip() != "[]"
                ]
            return self._parse_text(key, text)
        plain = (text if quoted is None else quoted).strip()
        if "${" in plain:
            return self._parse_text(key, plain)
        if setting.type is Any:
            return plain if quoted is not None else parse_literal(plain)
        return self._parse_typed(setting, plain)

    def _parse_text(self, key: str, text: str) -> str:
        quoted = unquote(text.strip())
        value = text if quoted is None else quoted
        for slashes, inner in _INTERPOLATION.findall(value):
            if len(slashes) % 2 == 0 and inner.removesuffix("}") not in self.settings:
                raise UsageError(
                    f"{key}={text}: ${{{inner.removesuffix('}')}}} is not available: ${{...}} inserts only the "
                    "value of another setting, such as ${tgt_lang}",
                    fix="To write these characters literally, write \\${.",
                )
        return value

    def _parse_typed(self, setting: Setting, text: str) -> Any:
        key, value_type = setting.key, setting.type
        if names := setting.choices:
            if text in names:
                return text
            meant = suggestion.for_value(key, text, names)
            add_m = "Add -m to run one job for each. " if len(split_list(text)) > 1 else ""
            listed = ", ".join(sort_by_similarity(text, names))
            raise UsageError(f"{key}={text} is not a choice", fix=f"{meant}{add_m}Choices: {listed}.")
        name = {int: "a whole number", float: "a number", bool: "true or false"}[value_type]
        try:
            if value_type is bool:
                return BOOL_WORDS[text.lower()]
            number: int | float = value_type(text)
            if math.isfinite(number):
                return number
        except (KeyError, ValueError):
            pass
        add_m = (
            "Add -m to run one job for each. " if len(split_list(text)) > 1 or SWEEP_FUNCTION.fullmatch(text) else ""
        )
        or_null = " or null" if setting.optional else ""
        raise UsageError(
            f"{key}={text} is not {name}",
            fix=f"{suggestion.for_value(key, text, ())}{add_m}Set {key} to {name}{or_null}.",
        )
