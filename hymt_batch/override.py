"""Words of the command line as settings: `KEY=VALUE` in, typed values out.

What Hydra's grammar would refuse (spaces, brackets, `=`, quotes, any script) is read here by the type of the setting,
so that a path needs no quoting beyond the shell's. Knows neither Hydra nor what a setting means; config.py has both.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hymt_batch.errors import UsageError
from hymt_batch.override_syntax import (
    SWEEP_FUNCTION,
    close_matches,
    escape_interpolation,
    parse_literal,
    path_exists,
    sort_by_similarity,
    split_list,
    unquote,
)

_INTERPOLATION = re.compile(r"(\\*)\$\{([^{}]*\}?)")
_BOOL_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a job, as its dataclass declares it."""

    key: str  # dotted
    type: Any  # str, int, float, bool, an Enum, or Any
    optional: bool  # null is a value
    required: bool

    @property
    def is_path(self) -> bool:
        """Whether a value that names an existing file is that file, whatever its characters."""
        return self.key.endswith(("path", "_dir", "_file"))

    @property
    def is_text(self) -> bool:
        return self.type is str or (self.type is Any and self.key.endswith(("path", "pattern", "sha256")))


@dataclass(frozen=True, slots=True)
class Override:
    """One word of the command line: a choice of a group, or the value of a setting; several values are a sweep."""

    key: str
    is_group: bool
    texts: tuple[str, ...]  # as written, for the names of sweep folders
    values: tuple[Any, ...]

    @property
    def is_swept(self) -> bool:
        return len(self.values) > 1

    def expand(self) -> list[Override]:
        return [Override(self.key, self.is_group, (t,), (v,)) for t, v in zip(self.texts, self.values, strict=True)]


def collect_settings(job: type, prefix: str = "") -> dict[str, Setting]:
    """Every setting of a job's dataclass by its dotted key, in order."""
    found: dict[str, Setting] = {}
    hints = get_type_hints(job)
    for field in fields(job):
        key, kind = prefix + field.name, hints[field.name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            found |= collect_settings(kind, f"{key}.")
            continue
        options = set(get_args(kind)) if get_origin(kind) in (Union, UnionType) else {kind}
        required = field.default is MISSING and field.default_factory is MISSING
        plain = options - {NoneType}
        single = plain.pop() if len(plain) == 1 else Any
        found[key] = Setting(key, single, NoneType in options or kind is Any, required)
    return found


@contextmanager
def single_line_errors() -> Iterator[None]:
    """Keep a message in one line where it quotes a value of several."""
    try:
        yield
    except UsageError as error:
        lines = str(error).splitlines()
        raise (type(error)("\\n".join(lines)) if len(lines) > 1 else error) from None


class OverrideParser:
    """Reads the words of one job's command line."""

    def __init__(
        self,
        job: str,
        settings: Mapping[str, Setting],
        groups: Mapping[str, Sequence[str]],
        expand_function: Callable[[str, str, Sequence[str]], list[str]],
    ) -> None:
        """Say what may be set.

        Args:
            job: Its name, for messages.
            settings: By key.
            groups: Choices by group.
            functions: Values of a sweep function such as range(1,4), from its key, its text and the group's choices.
        """
        self.job, self.settings, self.groups, self.expand_function = job, settings, groups, expand_function

    def parse(self, overrides: Iterable[str], *, sweep: bool = False) -> list[Override]:
        """Read words in order; of two with the same key the later one holds.

        Args:
            words: Each KEY=VALUE.
            sweep: Whether commas and functions list several values (-m).

        Raises:
            UsageError: A wrong key or value, in one line with what is valid.
        """
        found: dict[str, Override] = {}
        for word in overrides:
            override = self._parse_override(word, sweep)
            found.pop(override.key, None)
            found[override.key] = override
        return list(found.values())

    def _parse_override(self, word: str, sweep: bool) -> Override:
        key, equals, text = word.partition("=")
        key = key.strip()
        self._check_key(key, word, bool(equals))
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text) and not os.path.lexists(text):
            raise UsageError(f"{key}={text!a} is not UTF-8. Write the value in UTF-8, or rename the file.")
        group, setting = key in self.groups, self.settings.get(key)
        literal = setting is not None and setting.is_path and path_exists(text)
        texts = [text]
        if sweep and not literal:
            if SWEEP_FUNCTION.fullmatch(text.strip()):
                texts = self.expand_function(key, text.strip(), self.groups.get(key, ()))
            else:
                texts = split_list(text)
        if group:
            return Override(key, True, tuple(texts), tuple(self._parse_choice(key, one) for one in texts))
        assert setting is not None
        return Override(key, False, tuple(texts), tuple(self.parse_value(setting, one) for one in texts))

    def _check_key(self, key: str, word: str, has_value: bool) -> None:
        if key.startswith(("+", "~")):
            plain = key.lstrip("+~")
            if plain not in self.settings and plain not in self.groups:
                raise UsageError(
                    f"{word} begins with '{key[0]}' to add or remove a setting, but those of {self.job} are fixed, and "
                    f"{plain} is none of them.{self._suggest(plain)}"
                )
            raise UsageError(
                f"{word} begins with '{key[0]}' to add or remove a setting, but those of {self.job} are fixed. "
                f"Write {plain}=VALUE, or leave {plain} out for its default."
            )
        if not has_value:
            hint = f" To translate it write source.path={word}" if path_exists(word) and self.job == "translate" else ""
            near = close_matches(word, [*self.settings, *self.groups])[:1]
            hint = hint or (f" Write {near[0]}=VALUE." if near else f" See hymt-batch {self.job} --help.")
            raise UsageError(f"{word} is not KEY=VALUE.{hint}")
        if key.startswith(("hydra.", "hydra/")) or key == "hydra":
            raise UsageError(
                f"{key} is not available: hymt-batch writes to output_dir/name alone and sweeps with -m. "
                "Leave it out; for more lines while it runs set launch.progress=log."
            )
        if key in self.groups or key in self.settings:
            return
        if any(part.startswith("_") for part in key.split(".")):
            raise UsageError(
                f"{key} is not a setting of {self.job}: keys that begin with _ would run code. Leave it out."
            )
        inside = [known for known in self.settings if known.startswith(f"{key}.")]
        if inside:
            raise UsageError(f"{key} holds several settings. Set one of them: {', '.join(inside)}.")
        raise UsageError(f"{key or word} is not a setting of {self.job}.{self._suggest(key)}")

    def _suggest(self, key: str) -> str:
        """What a key that is no setting was probably meant for, and which there are."""
        stage = key.partition(".")[0].partition("@")[0].partition("/")[0]
        same = [known for known in self.settings if known.startswith(f"{stage}.")]
        near = close_matches(key, [*self.settings, *self.groups])
        meant = f" Did you mean {near[0]}?" if near else ""
        if same:
            listed = f"Settings of {stage}: {', '.join(sort_by_similarity(key, same))}."
        else:
            top = [*self.groups, *(known for known in self.settings if "." not in known)]
            listed = f"Settings of {self.job}: {', '.join(sort_by_similarity(key, dict.fromkeys(top)))}."
        return f"{meant} {listed}"

    def _parse_choice(self, group: str, text: str) -> str | None:
        choices = self.groups[group]
        wanted = unquote(text.strip())
        wanted = text.strip() if wanted is None else wanted
        if wanted.removesuffix(".yaml") in choices:
            return wanted.removesuffix(".yaml")
        if group == "preset" and wanted.lower() == "null":
            return None
        if len(split_list(wanted)) > 1 or SWEEP_FUNCTION.fullmatch(wanted):
            raise UsageError(f"{group}={text} lists several choices. Add -m to run one job for each.")
        inside = [key for key in self.settings if key.startswith(f"{group}.")]
        near = close_matches(wanted.rpartition("/")[2].replace("-", "_"), choices)
        meant = f" Did you mean {group}={near[0]}?" if len(near) == 1 else ""
        path = f" For a path write {group}.path={text}." if f"{group}.path" in inside and text and not meant else ""
        listed = ", ".join(sort_by_similarity(wanted, choices))
        raise UsageError(f"{group}={text} is not a choice.{meant}{path} Choices: {listed}.")

    def parse_value(self, setting: Setting, text: str) -> Any:
        """Read one value by the type of its setting; interpolations stay texts.

        Raises:
            UsageError: Not a value of that type.
        """
        key = setting.key
        if setting.is_path and path_exists(text):
            return escape_interpolation(text)
        quoted = unquote(text.strip())
        if quoted is None and text.strip().lower() == "null":
            if not setting.optional:
                raise UsageError(f"{key} cannot be null. Set {key}=VALUE, or leave it out for its default.")
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
                    f"{key}={text}: ${{{inner.removesuffix('}')}}} is not available: ${{...}} takes the value "
                    f"of another setting, such as ${{tgt_lang}}, nothing else. Write \\${{ for the characters."
                )
        return value

    def _parse_typed(self, setting: Setting, text: str) -> Any:
        key, kind = setting.key, setting.type
        if isinstance(kind, type) and issubclass(kind, Enum):
            names = [member.name for member in kind]
            if text in names:
                return text
            near = close_matches(text, names)
            meant = f" Did you mean {key}={near[0]}?" if len(near) == 1 else ""
            several = " Add -m to run one job for each." if len(split_list(text)) > 1 else ""
            raise UsageError(
                f"{key}={text} is not a choice.{meant}{several} Choices: {', '.join(sort_by_similarity(text, names))}."
            )
        name = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        try:
            if kind is bool:
                return _BOOL_WORDS[text.lower()]
            number: int | float = kind(text)
            if math.isfinite(number):
                return number
        except (KeyError, ValueError):
            pass
        several = (
            " Add -m to run one job for each." if len(split_list(text)) > 1 or SWEEP_FUNCTION.fullmatch(text) else ""
        )
        null = " or null" if setting.optional else ""
        raise UsageError(f"{key}={text} is not {name}.{several} Set {key} to {name}{null}.")
