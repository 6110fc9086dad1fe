"""The last token of every prompt, read from a model's folder without transformers; for plans.

A load renders the chat template with transformers and compares the whole of it; here jinja2 alone is asked how a prompt
ends, after the template was tried out in a process of its own.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from hymt_batch.errors import first_line
from hymt_batch.model.chat_template import check_in_subprocess, jinja_environment

log = logging.getLogger(__name__)

_SENTINEL = "hymt sentinel 7f3a"


def last_token(folder: Path, *, add_generation_prompt: bool) -> tuple[str, int] | None:
    """Text and id of the last token that the chat template puts behind the user's text.

    Args:
        folder: Model folder.
        add_generation_prompt: Whether the template is asked for the assistant's token.

    Returns:
        None where tokenizer and template do not tell; the doctor says what is wrong with them.
    """
    try:
        return _last_token(folder, add_generation_prompt)
    except Exception as error:  # tokenizers raises bare Exceptions, jinja2 its own; a plan does without
        log.info("%s: the prompt's end is not known: %s", folder, first_line(error))
        return None


def _last_token(folder: Path, add_generation_prompt: bool) -> tuple[str, int] | None:
    from tokenizers import Tokenizer

    settings = _read_json(folder / "tokenizer_config.json")
    named = {**_read_json(folder / "special_tokens_map.json"), **settings}
    special = {key: _token_text(value) for key, value in named.items() if key.endswith("_token")}
    values = {
        **{key: value for key, value in special.items() if isinstance(value, str)},
        "messages": [{"role": "user", "content": _SENTINEL}],
        "add_generation_prompt": add_generation_prompt,
    }
    template = _read_template(folder, settings)
    check_in_subprocess(template, [values], str(folder))
    after = _render(template, values).partition(_SENTINEL)[2]
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    full = Tokenizer.from_str(json.dumps({**content, "truncation": None, "padding": None}))
    ids = full.encode(after, add_special_tokens=False).ids
    return (full.decode(ids[-1:], skip_special_tokens=False), int(ids[-1])) if ids else None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _token_text(value: Any) -> Any:
    """The text of a special token, which is written as it is or as an object."""
    return value.get("content") if isinstance(value, dict) else value


def _read_template(folder: Path, settings: dict[str, Any]) -> str:
    """The chat template: the file of its own, else the default one of tokenizer_config.json."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = {one["name"]: one["template"] for one in found}["default"]
    return str(found or "")


def _render(template: str, values: dict[str, Any]) -> str:
    return str(jinja_environment().from_string(template).render(**values))
