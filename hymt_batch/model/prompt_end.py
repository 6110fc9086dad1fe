"""Find the last token of every prompt from a model's folder without transformers; for plans.

Loading a model renders the chat template with transformers and checks the whole result. Here jinja2 alone renders the
end of a prompt, after the template was tried in a subprocess.
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
    """Return text and id of the last token that the chat template puts after the user's text.

    Args:
        folder: The model's folder.
        add_generation_prompt: Passed to the template: end the prompt with the assistant's token.

    Returns:
        None if tokenizer or template cannot be used; `hymt-batch doctor` reports what is wrong with them.
    """
    try:
        return _last_token(folder, add_generation_prompt)
    except Exception as error:  # tokenizers raises bare Exceptions, jinja2 its own; a plan works without the token
        log.info("last_prompt_token=unknown folder=%s reason=%r", folder, first_line(error))
        return None


def _last_token(folder: Path, add_generation_prompt: bool) -> tuple[str, int] | None:
    from tokenizers import Tokenizer

    settings = _read_json(folder / "tokenizer_config.json")
    tokens = {**_read_json(folder / "special_tokens_map.json"), **settings}
    special_tokens = {key: _token_text(value) for key, value in tokens.items() if key.endswith("_token")}
    values = {
        **{key: value for key, value in special_tokens.items() if isinstance(value, str)},
        "messages": [{"role": "user", "content": _SENTINEL}],
        "add_generation_prompt": add_generation_prompt,
    }
    template = _read_template(folder, settings)
    check_in_subprocess(template, [values], str(folder))
    prompt_end = _render(template, values).partition(_SENTINEL)[2]
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps({**content, "truncation": None, "padding": None}))
    ids = tokenizer.encode(prompt_end, add_special_tokens=False).ids
    return (tokenizer.decode(ids[-1:], skip_special_tokens=False), int(ids[-1])) if ids else None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty if the file does not exist."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _token_text(value: Any) -> Any:
    """Return the text of a special token, which is stored as a string or as an object."""
    return value.get("content") if isinstance(value, dict) else value


def _read_template(folder: Path, settings: dict[str, Any]) -> str:
    """Return the chat template: chat_template.jinja, else the default template of tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}["default"]
    return str(template or "")


def _render(template: str, values: dict[str, Any]) -> str:
    return str(jinja_environment().from_string(template).render(**values))
