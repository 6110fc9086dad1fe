"""Measure the processor time of the reader and the writer of each format of documents, for each place.

Each format reads a document made for it, and writes it with a translation in each place, as a job does: `read_us` is
the pass before the model, `us` the one that reads again and writes. The least of several rounds counts, of the
processor time of this process. That doubles where other work shares the core, so a fixed loop runs beside each round:
`quiet_us` is what `us` would be while the loop takes `QUIET_REFERENCE_US`, and `quiet_job_us` the same of both passes.
Ends with one JSON line; fails if `quiet_us` is over the limit.
"""

from __future__ import annotations

import io
import json
import random
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Document, Input, Row, Status
from hymt_batch.source import discovery
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents
from hymt_batch.write.settings import WriteConfig
from tests.campaigns import command

LIMIT_US = 50.0
QUIET_REFERENCE_US = 0.21
"""A word of the fixed loop on an idle core of the machine on which the limit was set."""
ROUNDS = 5
REFERENCE_WORDS = 20_000
WORDS = ("the", "rain", "falls", "on", "an", "old", "roof", "of", "a", "house", "in", "Lyon", "and", "nobody", "knows")
CODES = ("{name}", "%s", "<b>now</b>", "https://a.example/b", "{0}")


def sentence(rng: random.Random, codes: tuple[str, ...] = CODES) -> str:
    """Return a sentence of 6 to 18 words, of which a third of the sentences has a code."""
    words = rng.choices(WORDS, k=rng.randint(6, 18))
    if codes and rng.random() < 0.35:
        words.insert(rng.randint(1, len(words)), rng.choice(codes))
    return " ".join(words).capitalize() + "."


def make_srt(rng: random.Random, size: int) -> str:
    """Return subtitles, most of two lines."""
    cues = []
    for number in range(1, size + 1):
        words = sentence(rng, ("<i>now</i>",)).split(" ")
        text = " ".join(words[: len(words) // 2]) + "\n" + " ".join(words[len(words) // 2 :])
        at = f"{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
        cues.append(f"{number}\n{at},000 --> {at},900\n{text}\n")
    return "\n".join(cues)


def make_vtt(rng: random.Random, size: int) -> str:
    """Return WebVTT."""
    return "WEBVTT\n\n" + make_srt(rng, size).replace(",000", ".000").replace(",900", ".900")


def make_properties(rng: random.Random, size: int) -> str:
    """Return Java properties."""
    return "".join(f"page.text.{index} = {sentence(rng)}\n" for index in range(size))


def make_po(rng: random.Random, size: int) -> str:
    """Return a catalogue, in which a tenth of the entries have a plural."""
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n'
    entries, places = [head], 0
    while places < size:
        text = sentence(rng, ("%s", "%d", "{name}"))
        flags = "#, c-format\n" if "%" in text else ""
        if rng.random() < 0.1:
            entries.append(
                f'#: src/a.c:{places}\n{flags}msgid "{text}"\nmsgid_plural "{text}s"\nmsgstr[0] ""\nmsgstr[1] ""\n'
            )
            places += 2
        else:
            half = len(text) // 2
            wrapped = f'""\n"{text[:half]}"\n"{text[half:]}"' if len(text) > 70 else f'"{text}"'
            entries.append(f'#: src/a.c:{places}\n{flags}msgid {wrapped}\nmsgstr ""\n')
            places += 1
    return "\n".join(entries)


def make_tree(rng: random.Random, size: int) -> str:
    """Return a tree of keys, ten strings to an object."""
    tree = {
        f"page{page}": {f"title{index}": sentence(rng, ("{{name}}", "$t(a.b)", "<0>now</0>")) for index in range(10)}
        for page in range(size // 10)
    }
    return json.dumps(tree, indent=2)


def make_icu(rng: random.Random, size: int) -> str:
    """Return messages with a plural of two branches each."""
    messages = {
        f"message{index}": f"{{n, plural, one {{# {sentence(rng, ())}}} other {{# {sentence(rng, ('{name}',))}}}}}"
        for index in range(size // 2)
    }
    return json.dumps(messages, indent=2)


def make_markdown(rng: random.Random, size: int) -> str:
    """Return headings, lists and paragraphs with links, code and marks."""
    blocks = []
    inline = ("`run()`", "**now**", "[here](a.html)", "*soon*", "https://a.example/b", "{name}")
    for index in range(size):
        text = sentence(rng, inline)
        kind = index % 8
        blocks.append(f"## {text}\n" if kind == 0 else f"- {text}" if kind in (2, 3) else f"{text}\n")
    return "\n".join(blocks)


def make_document(rng: random.Random, size: int) -> str:
    """Return paragraphs of three lines."""
    texts = [" ".join(sentence(rng, ()) for _ in range(3)) for _ in range(size)]
    return "\n\n".join(textwrap.fill(text, 72) for text in texts)


def make_rows(rng: random.Random, size: int) -> str:
    """Return rows with one text."""
    return "".join(json.dumps({"id": index, "text": sentence(rng)}) + "\n" for index in range(size))


def make_chats(rng: random.Random, size: int) -> str:
    """Return rows with four messages each."""
    return "".join(
        json.dumps({"id": row, "messages": [{"role": "user", "content": sentence(rng)} for _ in range(4)]}) + "\n"
        for row in range(size // 4)
    )


Make = Callable[[random.Random, int], str]

KINDS: dict[str, tuple[str, Make, dict[str, Any]]] = {
    "srt": ("a.srt", make_srt, {}),
    "vtt": ("a.vtt", make_vtt, {}),
    "properties": ("a.properties", make_properties, {}),
    "po": ("a.po", make_po, {}),
    "json": ("a.json", make_tree, {}),
    "icu": ("b.json", make_icu, {}),
    "markdown": ("a.md", make_markdown, {}),
    "document": ("a.txt", make_document, {"document": True}),
    "jsonl": ("a.jsonl", make_rows, {}),
    "messages": ("b.jsonl", make_chats, {"text_field": "messages.*.content"}),
}
"""Name -> file name, how it is made, and settings of the source stage."""


def reference_us() -> float:
    """Return the microseconds of a word in a fixed loop of dictionary and string operations."""
    words = [f"word{index % 977}" for index in range(REFERENCE_WORDS)]
    began = time.process_time()
    counts: dict[str, int] = {}
    for word in words:
        counts[word.upper()] = counts.get(word.upper(), 0) + len(word.encode())
    return (time.process_time() - began) / REFERENCE_WORDS * 1e6


def translation_of(document: Document) -> Row:
    """Return a row with another text, which has all codes of the source."""
    text = (document.text or "").replace(" the ", " der ").replace(" of ", " von ").replace(" rain ", " Regen ")
    return Row(document.row_index, document.digest, Status.OK, text)


def read_once(input: Input, config: SourceConfig, full: bool, preambles: PreambleCache) -> list[Document]:
    return [document for document, _ in read_documents(input, config, full=full, preambles=preambles)]


def measure(path: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Return the microseconds to read a place of a file, and to read and write it."""
    config = SourceConfig(path=str(path), **settings)
    (input,) = discovery.find_inputs(config).with_target("de")
    preambles = PreambleCache(config)
    preamble = preambles(input)
    rows = [translation_of(document) for document in read_once(input, config, False, preambles)]
    rounds = []
    for _ in range(ROUNDS):
        reference = reference_us()
        began = time.process_time()
        for _document in read_documents(input, config, preambles=preambles):
            pass
        read = time.process_time()
        out = io.BytesIO()
        writer = open_writer(input, input.format, preamble, WriteConfig(), out)
        for (document, _), row in zip(read_documents(input, config, full=True, preambles=preambles), rows, strict=True):
            writer.write(document, row)
        writer.close()
        written = time.process_time()
        assert out.getvalue() != path.read_bytes()
        reference = min(reference, reference_us())
        first, second = ((end - start) / len(rows) * 1e6 for start, end in ((began, read), (read, written)))
        quiet = QUIET_REFERENCE_US / reference
        rounds.append((first, second, second * quiet, (first + second) * quiet))
    figures = (round(min(figures), 1) for figures in zip(*rounds, strict=True))
    return {"places": len(rows), **dict(zip(("read_us", "us", "quiet_us", "quiet_job_us"), figures, strict=True))}


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Measure all formats with about `size` places each."""
    figures: dict[str, Any] = {"reference_us": round(min(reference_us() for _ in range(ROUNDS)), 3)}
    failures = []
    for name, (file_name, make, settings) in KINDS.items():
        path = work / file_name
        path.write_text(make(random.Random(f"{name} {seed}"), size))
        figures[name] = measure(path, settings)
        if figures[name]["quiet_us"] > LIMIT_US:
            failures.append(f"{name}: {figures[name]['quiet_us']:.1f} us a place, more than {LIMIT_US:.0f}")
    return {"passed": not failures, "failures": failures, **figures}


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 4000, "places of each format"))
