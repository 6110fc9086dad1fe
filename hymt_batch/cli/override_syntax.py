"""The syntax of values on the command line: quotes, lists, escapes; and suggestions for mistyped names.

Pure functions on strings. Independent of settings and Hydra.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any

from hymt_batch.errors import UsageError

BOOL_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
"""Value of a boolean setting, in lower case -> what it means."""

SWEEP_FUNCTION = re.compile(r"(choice|range|glob|shuffle|sort|tag|extend_list|interval)\s*\(.*\)", re.DOTALL)
"""Matches a call of a function of Hydra's sweep grammar, such as range(1,4)."""


def path_exists(text: str) -> bool:
    """Return whether a file, folder or link (broken or not) has exactly this name."""
    return bool(text) and "\0" not in text and os.path.lexists(text)


def escape_interpolation(text: str) -> str:
    """Escape a text so that OmegaConf returns it unchanged, without interpolation."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def unquote(text: str) -> str | None:
    """Return the content of a quoted value, or None if no quotes enclose the whole text."""
    match = re.fullmatch(r"""(['"])((?:(?!\1)[^\\]|\\.)*)\1""", text, re.DOTALL)
    if match is None:
        return None
    quote = match[1]
    return re.sub(rf"(\\+)({quote}|$)", lambda escape: "\\" * (len(escape[1]) // 2) + escape[2], match[2])


def split_list(text: str, brackets: bool = True) -> list[str]:
    r"""Split at commas that are outside quotes and brackets; `\,` is a literal comma."""
    parts, start, depth, quote, index = [], 0, 0, "", 0
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not text[start:index].strip(" [{("):
            quote = character
        elif brackets and character in "[{(":
            depth += 1
        elif brackets and character in ")}]":
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    if depth and brackets:
        return split_list(text, brackets=False)
    parts.append(text[start:])
    return [part.strip().replace("\\,", ",") for part in parts] if len(parts) > 1 else [text.replace("\\,", ",")]


def parse_literal(text: str) -> Any:
    """Parse a number, boolean, null, list or map; return any other text unchanged, without enclosing quotes."""
    if re.fullmatch(r"\{.*\}", text, re.DOTALL):
        return parse_mapping(text)
    if re.fullmatch(r"\[.*\]", text, re.DOTALL):
        return [parse_literal(part) for part in split_list(text[1:-1])] if text[1:-1].strip() else []
    if text.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text.lower()]
    for number_type in (int, float):
        try:
            number = number_type(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text if unquote(text) is None else unquote(text)


def parse_mapping(text: str) -> dict[Any, Any] | str:
    """Parse a map such as `{0: 10GiB, cpu: 30GiB}`; return the text itself if an entry has no colon."""
    mapping: dict[Any, Any] = {}
    for part in split_list(text[1:-1]) if text[1:-1].strip() else []:
        match = re.fullmatch(r"""\s*("[^"]*"|'[^']*'|cuda:\d+|.*?)\s*:(?:\s+|(?=\S))(.+?)\s*""", part, re.DOTALL)
        if match is None:
            return text
        key, value = parse_literal(match[1]), parse_literal(match[2])
        if not isinstance(key, (str, int)) or key in mapping:
            return text
        mapping[key] = value
    return mapping


def _similarity(word: str, candidate: str) -> float:
    word, candidate = word.casefold().replace("-", "_"), candidate.casefold().replace("-", "_")
    if word == candidate:
        return 1.0
    if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", candidate):  # a choice, such as hy_mt1.5_1.8b
        return SequenceMatcher(None, word.replace(".", "_"), candidate.replace(".", "_")).ratio()
    whole = SequenceMatcher(None, word, candidate).ratio()
    # users also write the last word of a key alone, or put the name of another stage before it
    last = SequenceMatcher(None, word.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
    return max(whole, 0.95 * last)


def sort_by_similarity(word: str, candidates: Iterable[str]) -> list[str]:
    """Return all candidates, the most similar to `word` first."""
    return sorted(candidates, key=lambda candidate: (-_similarity(word, candidate), candidate.count("."), candidate))


def close_matches(word: str, candidates: Iterable[str]) -> list[str]:
    """Return the candidates that `word` is probably a typo of: none, one, or several that are about equally similar."""
    matches = sort_by_similarity(word, (candidate for candidate in candidates if _similarity(word, candidate) >= 0.75))
    return [candidate for candidate in matches if _similarity(word, candidate) >= _similarity(word, matches[0]) - 0.02]


@contextmanager
def single_line_errors() -> Iterator[None]:
    """Keep an error message on one line if it quotes a value that has several lines."""
    try:
        yield
    except UsageError as error:
        fields = {name: "\\n".join(text.splitlines()) for name, text in asdict(error.problem).items()}
        raise error.replace(**fields) from None
