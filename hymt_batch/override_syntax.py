"""How values are spelt on a command line: quotes, lists, escapes; and which name a slip probably meant.

Pure functions over texts. Knows neither settings nor Hydra.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

SWEEP_FUNCTION = re.compile(r"(choice|range|glob|shuffle|sort|tag|extend_list|interval)\s*\(.*\)", re.DOTALL)
"""A function of Hydra's sweep grammar."""


def path_exists(text: str) -> bool:
    """Whether a file, folder or link has exactly this name."""
    return bool(text) and "\0" not in text and os.path.lexists(text)


def escape_interpolation(text: str) -> str:
    """Write a text so that OmegaConf reads it back as it is."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def unquote(text: str) -> str | None:
    """What a quoted value holds; None where the quotes do not enclose all of it."""
    match = re.fullmatch(r"""(['"])((?:(?!\1)[^\\]|\\.)*)\1""", text, re.DOTALL)
    if match is None:
        return None
    quote = match[1]
    return re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], match[2])


def split_list(text: str, brackets: bool = True) -> list[str]:
    r"""Split at commas that stand outside of quotes and brackets; `\,` is a comma that does not split."""
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
    """A number or truth value where the text is one, a list or a map of them, else the text."""
    if re.fullmatch(r"\{.*\}", text, re.DOTALL):
        return parse_mapping(text)
    if re.fullmatch(r"\[.*\]", text, re.DOTALL):
        return [parse_literal(part) for part in split_list(text[1:-1])] if text[1:-1].strip() else []
    if text.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text if unquote(text) is None else unquote(text)


def parse_mapping(text: str) -> dict[Any, Any] | str:
    """`{0: 10GiB, cpu: 30GiB}` as a map; the text itself where a part of it has no colon."""
    found: dict[Any, Any] = {}
    for part in split_list(text[1:-1]) if text[1:-1].strip() else []:
        match = re.fullmatch(r"""\s*("[^"]*"|'[^']*'|cuda:\d+|.*?)\s*:(?:\s+|(?=\S))(.+?)\s*""", part, re.DOTALL)
        if match is None:
            return text
        key, value = parse_literal(match[1]), parse_literal(match[2])
        if not isinstance(key, (str, int)) or key in found:
            return text
        found[key] = value
    return found


def _similarity(word: str, candidate: str) -> float:
    word, candidate = word.casefold().replace("-", "_"), candidate.casefold().replace("-", "_")
    if word == candidate:
        return 1.0
    if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", candidate):  # a choice, such as hy_mt1.5_1.8b
        return SequenceMatcher(None, word.replace(".", "_"), candidate.replace(".", "_")).ratio()
    whole = SequenceMatcher(None, word, candidate).ratio()
    # a setting is also asked for by its last word alone, or with another stage's name before it
    last = SequenceMatcher(None, word.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
    return max(whole, 0.95 * last)


def sort_by_similarity(word: str, candidates: Iterable[str]) -> list[str]:
    """All of `known`, the most alike first."""
    return sorted(candidates, key=lambda one: (-_similarity(word, one), one.count("."), one))


def close_matches(word: str, candidates: Iterable[str]) -> list[str]:
    """Those that `wanted` is probably a slip for: one, or several that are about equally near."""
    near = sort_by_similarity(word, (one for one in candidates if _similarity(word, one) >= 0.75))
    return [one for one in near if _similarity(word, one) >= _similarity(word, near[0]) - 0.02]
