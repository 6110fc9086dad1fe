"""Try out a chat template and a tokenizer in a process of its own, within limits of time and memory, before this one.

Both are programs of whoever made the model. jinja2's sandbox keeps a template from files and from Python, and not from
working for ever: `10 ** 10 ** 10`, or one loop in another. The patterns of a tokenizer.json may take for ever too, or
end in an error that its library does not expect. Does not judge what a template says, nor how a text is cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError
from hymt_batch.records import MAX_CHUNK_CHARS

TEMPLATE_CPU_S = 10
"""Processor time that a template may take; those of the family take a thousandth of a second."""

TOKENIZER_CPU_S = 30
"""Processor time in which a tokenizer must be read and take all of `hostile_texts`; known ones need about a second."""

TEMPLATE_MEMORY_BYTES = 1 << 30
TOKENIZER_MEMORY_BYTES = 4 << 30  # of address space
TIMEOUT_S = 300.0  # on a machine that is busy with other things
_TOO_LARGE, _FAILED = 3, 4
_RENDERED = "rendered"

_SHORT_RUN_UNITS = (
    *map(chr, range(0x20, 0x7F)),
    *(
        "\n",
        "\t",
        "\r\n",
        "\x00",
        "\u00a0",
        "\u200b",
        "\u200d",
        "\u0301",
        "é",
        "ß",
        "İ",
        "я",
        "ا",
        "ก",
        "你",
        "あ",
        "한",
    ),
    *(
        "。",
        "！",
        "\u2028",
        "\u3000",
        "\ufeff",
        "\U0001f600",
        "\U0001f468\u200d",
        "ab",
        "a ",
        "a1",
        "a.",
        "a\n",
        " \n",
        "'s",
    ),
    *("e\u0301", "12,", "aA", "<|", "https://a.b/"),
)
_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_TAILS = ("", "b", "!", " ", "\n", "0", f"\u00a7{_ASCII}")  # a library looks first for a letter that a pattern needs
_LONG_RUN_UNITS = (
    "a",
    "A",
    "é",
    "你",
    "1",
    " ",
    "\n",
    ".",
    "?",
    "-",
    "\u0301",
    "\U0001f468\u200d",
    "a ",
    "a.",
    "a\n",
    "1 ",
)
_NUM_REPEATS = 40


def hostile_texts() -> Iterator[list[str]]:
    """Texts that are hard for patterns, some at a time: runs that end otherwise than they began, up to MAX_CHARS."""
    for unit in _SHORT_RUN_UNITS:
        yield [unit * _NUM_REPEATS + tail for tail in _TAILS]
    for unit in _LONG_RUN_UNITS:
        yield [unit * ((MAX_CHUNK_CHARS - 1) // len(unit)) + "b"]


def check_in_subprocess(
    template: str, values: Sequence[dict[str, Any]], where: str, tokenizer: Path | None = None
) -> None:
    """Render `template` in another process, once with each of `values`, and encode `hostile_texts` there.

    Args:
        template: The template's text.
        values: What it is given each time: messages, add_generation_prompt, special tokens.
        where: Whose it is, for the message.
        tokenizer: Its tokenizer.json; None: the template alone.

    Raises:
        PreflightError: It does not end, or takes more memory than it may, or the tokenizer cannot take a text. An
            error of the template itself is not raised: this process will meet the same one.
    """
    command = [sys.executable, "-P", "-m", "hymt_batch.model.chat_template"]
    task = json.dumps(
        {"template": template, "values": list(values), "tokenizer": tokenizer and str(tokenizer.absolute())}
    )
    alone = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    said = ""
    try:
        ran = subprocess.run(command, input=task, capture_output=True, text=True, timeout=TIMEOUT_S, env=alone)
        said = ran.stdout
        what = {_TOO_LARGE: "takes too much memory", _FAILED: "fails"}.get(ran.returncode, "")
        what = what or ("does not end" if ran.returncode < 0 else "")
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        what = "does not end"
    if what and _RENDERED in said:
        raise PreflightError(
            f"{where}: its tokenizer {what} on a text that is hard for its patterns, so rows could be lost to it. "
            "Do not use this copy; download the model again from its publisher.",
            id="B6",
        )
    if what:
        what = "takes more than 1 GiB of memory" if what == "takes too much memory" else what
        raise PreflightError(
            f"{where}: rendering its chat template {what}: no model needs that. Do not use this copy; download the "
            "model again from its publisher.",
            id="B20",
        )


def main() -> int:
    """Render what stands on stdin, within the limits; then encode."""
    import resource

    def limit(what: int, most: int) -> None:
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))

    task = json.load(sys.stdin)
    limit(resource.RLIMIT_CPU, TEMPLATE_CPU_S)
    limit(resource.RLIMIT_AS, TEMPLATE_MEMORY_BYTES)
    try:
        _render(task["template"], task["values"])
        print(_RENDERED, flush=True)
        if task["tokenizer"] is None:
            return 0
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + TOKENIZER_CPU_S)
        limit(resource.RLIMIT_AS, TOKENIZER_MEMORY_BYTES)
        return _encode_hostile_texts(Path(task["tokenizer"]))
    except MemoryError:
        return _TOO_LARGE


def jinja_environment() -> Any:
    """What renders a chat template, with all that transformers gives to one, as far as it may be called."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: "2026"
    return made


def _render(template: str, variables: Sequence[dict[str, Any]]) -> None:
    try:
        compiled = jinja_environment().from_string(template)
        for values in variables:
            compiled.render(**values)
    except MemoryError:
        raise
    except Exception:  # the template's own error: whoever renders it in earnest tells it
        return


def _encode_hostile_texts(path: Path) -> int:
    from hymt_batch.errors import TextError
    from hymt_batch.model import chunked_encode

    try:
        bare = chunked_encode.plain_backend(json.loads(path.read_text(encoding="utf-8")))
    except MemoryError:
        raise
    except Exception:  # whoever reads it in earnest tells it
        return 0
    try:
        for texts in hostile_texts():
            chunked_encode.encode(bare, texts)
    except TextError:
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
