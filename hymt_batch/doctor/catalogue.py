"""The catalogue of known failures: reads catalogue.toml, matches exceptions against it and prints it.

`python -m hymt_batch.doctor.catalogue` prints docs/troubleshooting.md. Contains no checks; uses only the standard
library.
"""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hymt_batch.errors import UsageError

FILE = Path(__file__).parent / "catalogue.toml"

DETECTED_BY = {
    "doctor": "By doctor, before anything loads",
    "load": "During loading, before any output is written",
    "run": "While translating",
    "design": "Cannot occur",
    "reasoned": "Not reproduced here: needs a GPU, a network or the real weights",
}
"""How hymt-batch detects a failure."""

GROUPS = {
    "A": "Environment",
    "B": "Model files",
    "C": "Device map and memory",
    "D": "Launchers",
    "E": "Tokenizing and generating",
    "F": "Quantised models",
    "G": "Machine and storage",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One known failure."""

    id: str
    title: str
    symptoms: tuple[str, ...]  # messages as the libraries print them
    pattern: tuple[str, ...]  # regular expressions that match these messages
    cause: str
    fix: str
    versions: str
    found: str  # a key of DETECTED_BY
    silent: str = ""  # what you see if no message is printed
    because: str = ""  # why it cannot occur, or how it is known without being reproduced
    source: str = ""


@lru_cache(maxsize=1)
def load() -> dict[str, Failure]:
    """Return all failures by id, in the order of the file."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    failures = {}
    for id, entry in content.items():
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        failures[id] = Failure(id=id, **fields)
    return failures


def get(id: str) -> Failure:
    """Return the failure with this id; case is ignored.

    Raises:
        UsageError: The id is unknown; the message lists similar ids.
    """
    known = {name.casefold(): failure for name, failure in load().items()}
    key = id.strip().casefold()
    if key not in known:
        similar = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or list(known)[:3]
        listed = ", ".join(known[name].id for name in similar)
        raise UsageError(
            f"explain={id} is not a known failure",
            fix=f"Similar ids: {listed}. docs/troubleshooting.md lists all, A1 to G12.",
        )
    return known[key]


def match(text: str) -> Failure | None:
    """Return the failure whose pattern matches the longest part of an exception's text, or None."""
    best, length = None, 0
    for failure in load().values():
        for pattern in failure.pattern:
            matched = re.search(pattern, text, re.DOTALL | re.MULTILINE)
            if matched and len(matched[0]) > length:
                best, length = failure, len(matched[0])
    return best


def explain(failure: Failure) -> str:
    """Format one failure for the terminal."""
    lines = [f"{failure.id}: {failure.title}", ""]
    lines += [f"  message   {symptom}" for symptom in failure.symptoms]
    for name, text in (
        ("symptom", failure.silent),
        ("cause", failure.cause),
        ("fix", failure.fix),
        ("versions", failure.versions),
        ("detected", DETECTED_BY[failure.found] + (f": {failure.because}" if failure.because else "")),
        ("reports", failure.source),
    ):
        if text:
            indent = f"  {name:<9} "
            lines += textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=" " * len(indent))
    return "\n".join(lines)


INTRO = """\
# Troubleshooting

This page lists what can go wrong when you load HY-MT1.5, Hunyuan-MT or Hy-MT2 models, especially with
`device_map="auto"`, and how to fix it. Search the page for the message that you saw, or let hymt-batch search:
`hymt-batch doctor explain="the message"` takes a whole traceback too, and `explain=-` reads it from standard input.
`explain=C23` prints a single entry. `hymt-batch doctor` finds most of these failures before the weights load. Unless
an entry says otherwise, it describes what you see with transformers alone. This page is generated from
`hymt_batch/doctor/catalogue.toml`.

## Errors that articles quote

Widely copied articles about `device_map="auto"` and HY-MT1.5-1.8B quote three error messages. None of them is in the
files of transformers 4.56.0 or 5.23.0, accelerate 1.1.0 or 1.15.0, or torch 2.13. The entries say what the libraries
really print:

{quoted}

| articles say | correct is |
|---|---|
| 24 layers of about 80 MB | 32 layers of 96.5 MB in bfloat16 |
| an embedding of 1.2 GB | 0.495 GB in bfloat16; the output layer shares it, so it counts once |
| 38 languages | 33 languages plus 5 minority languages and dialects |
| each layer goes to the device with the most free memory | devices are filled one after another, in order |
| torch.distributed must be set up | torch.distributed is not used; accelerate 1.1 or newer is enough |
| auto makes several GPUs work in parallel | auto splits one model over the GPUs, which wait for each other (C27) |
| auto needs a GPU | without a GPU, it runs on the CPU without a message (A6) |
| control tokens `<|hy_User|>` with plain bars | the bars are full-width (U+FF5C); plain bars are ordinary text |

## Settings that articles use

| in articles | what transformers does | here |
|---|---|---|
| `device_map="auto"` | splits the model evenly over all GPUs | `device_map=replicate` (the default) runs a whole \
model on each GPU that holds it; `device_map=auto` splits as transformers does |
| `max_memory={{0: "10GiB"}}` | takes integer keys only (C5), and puts the rest on disk without a message (C8) | \
`device_map.max_memory='{{0: 10GiB}}'` |
| `offload_folder="offload"` | used only if layers go to disk | \
`device_map=offload device_map.offload_folder=offload` |
| `offload_state_dict=True` | 4.56 uses it if layers go to disk; 5.x drops it without a message (C31) | drop it |
| `low_cpu_mem_usage=True` | drops it without a message: it is always on (C31) | drop it |
| `torch_dtype=torch.bfloat16` | renamed to `dtype`; the old name still works (C32) | \
`model.dtype=bfloat16`; `auto` (the default) chooses it where the GPU has it natively |
| `trust_remote_code=True` | lets the model's folder run its own code (B16) | drop it: these models do not need it |

"""

QUOTED = ("C30", "A18", "D7")
"""Failures whose first symptom is quoted by articles, although no library prints it."""


def troubleshooting_page() -> str:
    """Return the text of docs/troubleshooting.md."""
    quoted = "\n\n".join(
        f"```text\n{load()[id].symptoms[0]}\n```\n\nSee [{id}](#{id.lower()}): {load()[id].fix}." for id in QUOTED
    )
    lines = [INTRO.format(quoted=quoted) + "## All failures\n", "| id | failure | detected |", "|---|---|---|"]
    for failure in load().values():
        detected = DETECTED_BY[failure.found].partition(":")[0].partition(",")[0]
        lines.append(f"| [{failure.id}](#{failure.id.lower()}) | {failure.title} | {detected} |")
    group = ""
    for failure in load().values():
        if failure.id[0] != group:
            group = failure.id[0]
            lines += ["", f"## {group}. {GROUPS[group]}"]
        lines += _section(failure)
    return "\n".join(lines) + "\n"


def _section(failure: Failure) -> list[str]:
    lines = ["", f'<a id="{failure.id.lower()}"></a>', "", f"### {failure.id}: {failure.title}", ""]
    if failure.symptoms:
        lines += ["```text", *failure.symptoms, "```", ""]
    if failure.silent:
        lines += [failure.silent, ""]
    lines += [f"**Cause.** {failure.cause}", "", f"**Fix.** {failure.fix}", ""]
    lines.append(f"**Versions.** {failure.versions}. **Detected.** {DETECTED_BY[failure.found]}.")
    if failure.because:
        lines[-1] += f" {failure.because}"
    if failure.source:
        lines[-1] += f" **Reports.** {failure.source}."
    return lines


if __name__ == "__main__":
    print(troubleshooting_page(), end="")
