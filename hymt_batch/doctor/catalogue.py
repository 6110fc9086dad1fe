"""The catalogue of known failures: data in catalogue.toml, read, matched with exceptions, and printed.

`python -m hymt_batch.doctor.catalogue` prints docs/troubleshooting.md. Knows no check; standard library only.
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
    "doctor": "The doctor, before anything loads",
    "load": "The load, before any output",
    "run": "While translating",
    "design": "It cannot occur",
    "reasoned": "Not shown here: only a GPU, a network or the real weights show it",
}
"""How hymt-batch meets a failure."""

GROUPS = {
    "A": "Environment",
    "B": "Files of the model",
    "C": "Device map and memory",
    "D": "Launchers",
    "E": "Tokenizing and generating",
    "F": "Quantised models",
    "G": "Machine and store",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One known way to fail."""

    id: str
    title: str
    symptoms: tuple[str, ...]  # texts as libraries print them
    pattern: tuple[str, ...]  # regular expressions that recognise them
    cause: str
    fix: str
    versions: str
    found: str  # a key of FOUND
    silent: str = ""  # what is seen where nothing is printed
    because: str = ""  # how it was reasoned, or why it cannot occur
    source: str = ""


@lru_cache(maxsize=1)
def load() -> dict[str, Failure]:
    """Every failure by its id, in the order of the file."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    found = {}
    for id, entry in content.items():
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        found[id] = Failure(id=id, **fields)
    return found


def get(id: str) -> Failure:
    """The failure of an id, however its letters are written.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    known = {name.casefold(): failure for name, failure in load().items()}
    wanted = id.strip().casefold()
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4) or list(known)[:3]
        listed = ", ".join(known[name].id for name in near)
        raise UsageError(
            f"explain={id} is no failure mode; near it: {listed}. docs/troubleshooting.md lists all, from A1 to G12."
        )
    return known[wanted]


def match(text: str) -> Failure | None:
    """The failure that an exception's text shows: of all that fit, the one whose pattern covers most of it."""
    best, length = None, 0
    for failure in load().values():
        for pattern in failure.pattern:
            found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
            if found and len(found[0]) > length:
                best, length = failure, len(found[0])
    return best


def explain(failure: Failure) -> str:
    """One failure as a page for the terminal."""
    lines = [f"{failure.id}: {failure.title}", ""]
    lines += [f"  seen      {symptom}" for symptom in failure.symptoms]
    for name, text in (
        ("seen", failure.silent),
        ("cause", failure.cause),
        ("fix", failure.fix),
        ("versions", failure.versions),
        ("found by", DETECTED_BY[failure.found] + (f": {failure.because}" if failure.because else "")),
        ("reports", failure.source),
    ):
        if text:
            indent = f"  {name:<9} "
            lines += textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=" " * len(indent))
    return "\n".join(lines)


INTRO = """\
# Troubleshooting

What goes wrong when HY-MT1.5, Hunyuan-MT and Hy-MT2 models are loaded with `device_map="auto"`, and what to do. Find
the text that you saw with your browser's search, or let `hymt-batch doctor` look: it finds most of these before the
weights are read. `hymt-batch doctor explain=C23` prints one of them. This page is made from
`hymt_batch/doctor/catalogue.toml`.

## What is often written, and what is true

Widely copied articles about `device_map="auto"` and HY-MT1.5-1.8B have some of it wrong. Two error messages that they
quote, "Unable to find suitable device for linear layer" and "device_map='auto' requires accelerate>=0.20.0 and torch
distributed environment setup", stand in no version of transformers or accelerate that was searched (transformers 4.56.0
and 5.23.0, accelerate up to 1.15 with its whole history).

| often written | true |
|---|---|
| 24 layers of some 80 MB | 32 layers of 96.5 MB in bfloat16 |
| an embedding of 1.2 GB | 0.495 GB in bfloat16, shared with the output layer and so counted once |
| 38 languages | 33 languages and 5 minority languages or dialects |
| each layer goes to the device with the most free memory | devices are filled front to back, never going back |
| torch.distributed must be set up | it is not used; accelerate 1.1 or newer is enough |
| auto makes several GPUs work at once | it splits one model over them, and they wait for one another: see C27 |
| auto needs a GPU | without one it runs on the CPU, in silence: see A6 |
| control tokens `<|hy_User|>` with plain bars | the bars are full-width (U+FF5C); plain ones are ordinary text |

"""


def troubleshooting_page() -> str:
    """docs/troubleshooting.md."""
    lines = [INTRO + "## All of them\n", "| id | what | found |", "|---|---|---|"]
    for failure in load().values():
        found = DETECTED_BY[failure.found].partition(":")[0].partition(",")[0]
        lines.append(f"| [{failure.id}](#{failure.id.lower()}) | {failure.title} | {found} |")
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
    lines.append(f"**Versions.** {failure.versions}. **Found.** {DETECTED_BY[failure.found]}.")
    if failure.because:
        lines[-1] += f" {failure.because}"
    if failure.source:
        lines[-1] += f" **Reports.** {failure.source}."
    return lines


if __name__ == "__main__":
    print(troubleshooting_page(), end="")
