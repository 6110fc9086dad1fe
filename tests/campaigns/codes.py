"""Let a model lose, double, rename, translate and badly nest the codes of documents, and answer with hostile text.

Each document has `size` places for each kind of error. The stub makes the error of a place in every answer about it, or
in the first one alone. The output must have each code as often as the input, count as many places, and differ from the
input. Ends with one JSON line.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch import config
from hymt_batch.decode.request import Completion, Request
from hymt_batch.formats import registry
from hymt_batch.run.reporter import Reporter
from tests.campaigns import command
from tests.fakes import job as fake_job

WORDS = ("rain", "falls", "on", "the", "old", "roof", "of", "a", "house")
HOSTILE = (
    '"',
    "'",
    "<",
    ">",
    "&",
    "\n",
    "\r\n",
    "\n\n",
    "-->",
    "=",
    ":",
    "#",
    "\\",
    "|",
    "*",
    "_",
    "`",
    "[",
    "](x)",
    "{",
    "%",
)
HOSTILE += (
    'msgid "x"',
    "00:00:01,000 --> 00:00:02,000",
    "1\n",
    "- ",
    "> ",
    "<target>",
    "</b>",
    "<s1>",
    "]]>",
    "${",
    "\\u00",
)
KINDS = ("lose", "double", "rename", "translate", "nest", "empty", "hostile", "hostile delimiters")
NUMBERED = re.compile(r"n\d")
NUMBER = re.compile(r"nr(\d+)")
CODE = re.compile(r"</?[bi]>|<s\d+>|</s\d+>|\{\w+\}|%\(\w+\)d|https://a\.b/\w+|\w+@c\.org|\*\*|`\w+`|\[|\]\(\w+\)")


def make_text(rng: random.Random, number: int, is_markdown: bool) -> str:
    """Return a text with some codes, most of which no other text has."""
    codes = [f"{{n{number}}}", f"%(n{number})d", f"https://a.b/n{number}", f"n{number}@c.org"]
    pairs = [("<b>", "</b>"), ("<i>", "</i>")]
    if is_markdown:
        codes += [f"`n{number}`"]
        pairs += [("**", "**"), ("[", f"](n{number})")]
    words = [f"nr{number}", *rng.choices(WORDS, k=rng.randint(3, 8))]
    for code in rng.sample(codes, rng.randint(1, 2)):
        words.insert(rng.randint(1, len(words)), code)
    opening, closing = rng.choice(pairs)
    words[1] = f"{opening}{rng.choice(WORDS)} {rng.choice(WORDS)}{closing}"
    return " ".join([*words, "end"])


def spoil(kind: str, text: str, number: int) -> str:
    """Return an answer with this error."""
    codes = CODE.findall(text)
    code = codes[number % len(codes)] if codes else ""
    if kind == "lose":
        return text.replace(code, "", 1)
    if kind == "double":
        return text.replace(code, code * 2, 1)
    if kind == "rename":
        return text.replace(code, code.replace("n", "m").replace("b>", "u>").replace("s1", "s8"), 1)
    if kind == "translate":
        return (
            text.replace("{n", "{nombre").replace("%(n", "%(nombre").replace("/n", "/nombre").replace("<b>", "<gras>")
        )
    if kind == "nest":
        return re.sub(r"(<[bis1]+>|\*\*|\[)(.*?)(</[bis1]+>|\*\*|\]\(\w+\))", r"\3\2\1", text)
    if kind == "empty":
        return ""
    hostile = HOSTILE[number % len(HOSTILE)]
    words = text.split(" ")
    words.insert(number % len(words), hostile)
    return (" " if kind == "hostile" else hostile).join(words)


def answer(turn: str, kind: str, number: int, spoils: bool) -> str:
    """Answer a user turn in upper case, but for the codes, with an error if it is told so."""
    is_formatted = turn.startswith("将以下<source>")
    text = turn.rpartition("<source>")[2].removesuffix("</source>") if is_formatted else turn.rpartition("\n\n")[2]
    pieces, codes = CODE.split(text), CODE.findall(text)
    text = "".join(piece.upper() + code for piece, code in zip(pieces, [*codes, ""], strict=True))
    text = spoil(kind, text, number) if spoils else text
    return f"<target>{text}</target>" if is_formatted else text


def make_document(name: str, texts: Sequence[str]) -> str:
    """Return a document of a format with these texts, in order."""
    if name in ("srt", "vtt"):
        point = "," if name == "srt" else "."
        times = [f"{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}{point}" for n in range(len(texts))]
        cues = [f"{n}\n{at}000 --> {at}900\n{text}\n" for n, (at, text) in enumerate(zip(times, texts, strict=True), 1)]
        return "\n".join([*(["WEBVTT\n"] if name == "vtt" else []), *cues])
    if name == "properties":
        return "".join(f"key.{n} = {text}\n" for n, text in enumerate(texts))
    if name == "po":
        head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n'
        return head + "".join(f'\n#: a.c:{n}\nmsgid "{text}"\nmsgstr ""\n' for n, text in enumerate(texts))
    if name == "json":
        return json.dumps({f"key{n}": text for n, text in enumerate(texts)}, indent=1)
    if name == "icu":
        return json.dumps([f"{{count, plural, other {{{text}}}}}" for text in texts], indent=1)
    if name == "json_rows":
        return json.dumps([{"id": n, "text": text} for n, text in enumerate(texts)], indent=1)
    assert name == "markdown"
    return "\n".join(f"{text}\n" for text in texts)


def pairs_of(name: str, source: str, output: str) -> list[tuple[str, str]]:
    """Return the texts that must have the same codes: each message of a catalogue or string of JSON, or the whole."""
    if name == "json_rows":
        return [(row["text"], row["translation"]) for row in json.loads(output) if row["translation"]]
    if name in ("json", "icu"):
        before, after = (json.loads(document) for document in (source, output))
        values = ((list(tree.values()) if isinstance(tree, dict) else tree) for tree in (before, after))
        return list(zip(*values, strict=True))
    if name != "po":
        return [(source, output)]
    entries = re.findall(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n)+)', output, re.MULTILINE)
    joined = [tuple("".join(re.findall(r'"(.*)"', part)) for part in entry) for entry in entries]
    return [(message, translation) for message, translation in joined if translation]  # an empty one is not translated


EXTENSIONS = {"srt": "srt", "vtt": "vtt", "properties": "properties", "po": "po", "markdown": "md"}
EXTENSIONS |= {"json": "json", "icu": "json", "json_rows": "json"}
FORMATS = {"icu": "json"}
"""Name of a document -> its format, where that is another word."""


def run_document(
    name: str, seed: int, size: int, tgt_lang: str, always: bool, work: Path
) -> tuple[dict[str, Any], list[str]]:
    """Translate one document, and return its counts and what is wrong with its output."""
    rng = random.Random(f"{name} {seed}")
    texts = [make_text(rng, number, name == "markdown") for number in range(size * len(KINDS))]
    source = make_document(name, texts)
    path = work / f"in.{EXTENSIONS[name]}"
    work.mkdir(parents=True)
    path.write_bytes(source.encode())
    seen: set[int] = set()

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        answers = []
        for request in requests:
            turn = bytes(request.prompt_ids[1:-1]).decode()
            found = NUMBER.findall(turn)
            number = int(found[-1]) if found else 0
            text = answer(turn, KINDS[number % len(KINDS)], number // len(KINDS), always or number not in seen)
            seen.add(number)
            answers.append(Completion(list(text.encode()), "stop"))
        return answers

    words = [f"source.path={path}", f"tgt_lang={tgt_lang}", "model=demo", "name=job", f"output_dir={work}"]
    words += ["check.max_error_rate=1", "check.stop_rate=1", "launch.progress=off"]
    words += ["check.code_rows=true"] if name == "json_rows" else []
    with Reporter("off") as reporter:
        summary = fake_job.translate_with(config.load("translate", words), reporter, decode)
    output = (work / "job" / "translated" / path.name).read_bytes().decode()
    failures = [
        f"{name}: {code} {original.count(code)} times in the source, {written.count(code)} times after"
        for original, written in pairs_of(name, source, output)
        for code in sorted(set(CODE.findall(original)))
        if original.count(code) > written.count(code)
        or (
            NUMBERED.search(code) and original.count(code) < written.count(code)  # no hostile answer has one of these
        )
    ]
    counts = registry.get(FORMATS.get(name, name)).count_rows(work / "job" / "translated" / path.name, {})
    if summary.rows not in counts:
        failures.append(f"{name}: {summary.rows} places, but {counts} in the output")
    if not always and (bad := summary.flags.get("source_kept", 0)):
        failures.append(f"{name}: {bad} places keep their source although the second try is right")
    return {"places": summary.rows, **{f"flag_{flag}": n for flag, n in summary.flags.items()}}, failures


def run(seed: int, size: int, work: Path, names: Sequence[str] = tuple(EXTENSIONS)) -> dict[str, Any]:
    """Run documents of these formats, each with `size` places a kind of error, for a model that errs always or once."""
    failures: list[str] = []
    counts: dict[str, dict[str, Any]] = {}
    for name in names:
        for tgt_lang in ("fr", "zh"):
            for always in (True, False):
                key = f"{name}-{tgt_lang}-{'always' if always else 'once'}"
                counts[key], found = run_document(name, seed, size, tgt_lang, always, work / key)
                failures += found
    return {"passed": not failures, "failures": failures[:20], "documents": len(counts), **counts}


if __name__ == "__main__":
    unit = "places of each kind of error, format, language and model"
    alone = {name: (partial(run, names=[name]), f"only {name}") for name in EXTENSIONS}
    sys.exit(command.main(__doc__, run, 125, unit, alone))
