"""Try out a chat template in a process of its own, within limits of time and memory, before this process renders it.

A chat template is a program of whoever made the model. jinja2's sandbox keeps it from files and from Python, and not
from working for ever: `10 ** 10 ** 10`, or one loop in another. Does not judge what a template says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hymt_batch.errors import PreflightError

CPU_S = 10
"""Processor time that a template may take; those of the family take a thousandth of a second."""

MEMORY_BYTES = 1 << 30
WAIT_S = 120.0  # on a machine that is busy with other things
_TOO_LARGE = 3


def try_out(template: str, values: Sequence[dict[str, Any]], where: str) -> None:
    """Render `template` in another process, once with each of `values`.

    Args:
        template: The template's text.
        values: What it is given each time: messages, add_generation_prompt, special tokens.
        where: Whose it is, for the message.

    Raises:
        PreflightError: It does not end, or takes more than 1 GiB. An error of the template itself is not raised: this
            process will meet the same one.
    """
    command = [sys.executable, "-P", "-m", "hymt_batch.model.template"]
    task = json.dumps({"template": template, "values": list(values)})
    try:
        ran = subprocess.run(command, input=task, capture_output=True, text=True, timeout=WAIT_S)
        what = "takes more than 1 GiB of memory" if ran.returncode == _TOO_LARGE else ""
        what = what or ("does not end" if ran.returncode < 0 else "")
    except subprocess.TimeoutExpired:
        what = "does not end"
    if what:
        raise PreflightError(
            f"{where}: rendering its chat template {what}: no model needs that. Do not use this copy; download the "
            "model again from its publisher.",
            id="B20",
        )


def main() -> int:
    """Render what stands on stdin, within the limits."""
    import resource

    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    # what transformers gives to a template, as far as it may be called
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: "2026"
    try:
        compiled = environment.from_string(task["template"])
        for values in task["values"]:
            compiled.render(**values)
    except MemoryError:
        return _TOO_LARGE
    except Exception:  # the template's own error: whoever renders it in earnest tells it
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
