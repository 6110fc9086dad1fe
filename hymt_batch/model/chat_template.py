"""Run a chat template and a tokenizer in a subprocess with time and memory limits before using them in this process.

Both are programs written by the model's author. jinja2's sandbox keeps a template away from files and from Python, but
does not stop a template that never ends, such as `10 ** 10 ** 10` or nested loops. The regular expressions of a
tokenizer.json may also run forever, or end in an error that the tokenizers library does not handle. This module does
not judge what a template renders or how the tokenizer splits a text.
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
"""CPU time limit for rendering a template; the templates of the Hunyuan family take about a millisecond."""

TOKENIZER_CPU_S = 30
"""CPU time limit for loading a tokenizer and encoding all `hostile_texts`; known tokenizers need about a second."""

TEMPLATE_MEMORY_BYTES = 1 << 30
TOKENIZER_MEMORY_BYTES = 4 << 30  # of address space
TIMEOUT_S = 300.0  # wall clock; long, because the machine may be busy with other work
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
# a regex library may search for a required character first, so the last tail has every ASCII character
_TAILS = ("", "b", "!", " ", "\n", "0", f"\u00a7{_ASCII}")
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
    """Yield batches of texts that are hard for regular expressions: a repeated unit with a different ending.

    No text has more than MAX_CHUNK_CHARS characters.
    """
    for unit in _SHORT_RUN_UNITS:
        yield [unit * _NUM_REPEATS + tail for tail in _TAILS]
    for unit in _LONG_RUN_UNITS:
        yield [unit * ((MAX_CHUNK_CHARS - 1) // len(unit)) + "b"]


def check_in_subprocess(
    template: str, values: Sequence[dict[str, Any]], where: str, tokenizer: Path | None = None
) -> None:
    """Render a chat template in a subprocess, once for each of `values`, then encode `hostile_texts` there.

    Args:
        template: The template's text.
        values: Variables of each rendering: messages, add_generation_prompt, special tokens.
        where: The model's folder, for the message.
        tokenizer: Path of the model's tokenizer.json; None checks the template only.

    Raises:
        PreflightError: The template or the tokenizer does not end or exceeds its memory limit, or the tokenizer fails
            on a text. An error that the template itself raises is ignored here: rendering it in this process raises
            the same error.
    """
    command = [sys.executable, "-P", "-m", "hymt_batch.model.chat_template"]
    task = json.dumps(
        {"template": template, "values": list(values), "tokenizer": tokenizer and str(tokenizer.absolute())}
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    output = ""
    try:
        completed = subprocess.run(
            command, input=task, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment
        )
        output = completed.stdout
        problem = {_TOO_LARGE: "takes too much memory", _FAILED: "fails"}.get(completed.returncode, "")
        problem = problem or ("does not end" if completed.returncode < 0 else "")
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        problem = "does not end"
    if problem and _RENDERED in output:
        raise PreflightError(
            f"{where}: its tokenizer {problem} on a text that is hard for its regular expressions",
            why="so rows could be lost",
            fix="Do not use this copy; download the model again from its publisher.",
            id="B6",
        )
    if problem:
        problem = "takes more than 1 GiB of memory" if problem == "takes too much memory" else problem
        raise PreflightError(
            f"{where}: rendering its chat template {problem}",
            why="no valid template does that",
            fix="Do not use this copy; download the model again from its publisher.",
            id="B20",
        )


def main() -> int:
    """Read a task from stdin, render its template and encode the hostile texts, each within its limits."""
    import resource

    def limit(limit_id: int, max_value: int) -> None:
        _, hard = resource.getrlimit(limit_id)
        resource.setrlimit(limit_id, (max_value if hard == resource.RLIM_INFINITY else min(max_value, hard), hard))

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
    """Return a sandboxed jinja2 environment with the extensions, filters and functions that transformers provides."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: "2026"
    return environment


def _render(template: str, variables: Sequence[dict[str, Any]]) -> None:
    try:
        compiled = jinja_environment().from_string(template)
        for values in variables:
            compiled.render(**values)
    except MemoryError:
        raise
    except Exception:  # the template's own error: the parent process reports it when it renders the template
        return


def _encode_hostile_texts(path: Path) -> int:
    from hymt_batch.errors import TextError
    from hymt_batch.model import chunked_encode

    try:
        backend = chunked_encode.plain_backend(json.loads(path.read_text(encoding="utf-8")))
    except MemoryError:
        raise
    except Exception:  # the parent process reports this error when it loads the tokenizer
        return 0
    try:
        for texts in hostile_texts():
            chunked_encode.encode(backend, texts)
    except TextError:
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
