"""The names of translated files: the template write.name, and what its fields stand for. Touches no file."""

from __future__ import annotations

import os
import re

from hymt_batch.errors import ConfigError
from hymt_batch.records import COMPRESSIONS

DEFAULT = "{stem}{ext}"
_FIELD = re.compile(r"\{(stem|ext|src|tgt)\}")


def check(template: str, key: str = "write.name") -> None:
    """Check a template.

    Raises:
        ConfigError: It has an unknown field, does not end with {ext}, or is not a relative path below a folder.
    """
    why = ""
    literal = _FIELD.sub("", template)
    if "{" in literal or "}" in literal:
        why = "it has other fields than {stem}, {ext}, {src} and {tgt}"
    elif not template.endswith("{ext}"):
        why = "it does not end with {ext}, by which programs know what a file is"
    elif any(part in ("", ".", "..") for part in template.split("/")):
        why = "it begins with a slash, or has a part that is empty, . or .., and so may lead out of the output folder"
    elif any(character in literal for character in "\0\n\r"):
        why = "it has a line break or NUL"
    if why:
        raise ConfigError(
            f"{key}={template} is not a name of files", why=why, fix=f"Set {key}='{{stem}}.{{tgt}}{{ext}}'."
        )


def make(template: str, name: str, src_lang: str | None, tgt_lang: str) -> str:
    """Return the name of an output.

    Args:
        template: A checked template.
        name: The path of the output below translated/ without a template, such as docs/guide.txt.gz; its folder stays.
        src_lang: Code of the source language, if it is known.
        tgt_lang: Code of the target language.
    """
    folder, base = os.path.split(name)
    stem, ext = os.path.splitext(base)
    if ext.lower() in COMPRESSIONS:
        stem, inner = os.path.splitext(stem)
        ext = inner + ext
    values = {"stem": stem, "ext": ext, "src": src_lang or "", "tgt": tgt_lang}
    return os.path.join(folder, _FIELD.sub(lambda field: values[field[1]], template))
