"""Hostile catalogues and `.properties` files, and answers that try to break them, for the fuzz campaign.

A file is made of pieces of its format in random order, and damaged in some. The product reads it and writes it twice:
without a translation, which must give its bytes, and with hostile answers, after which it must have the same entries,
and the places without an answer the same bytes.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

from hymt_batch.formats import registry
from hymt_batch.formats.spliced import ParsedFile, PlaceOptions, UnreadableFileError
from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Document, Input, Preamble, Row, Status
from hymt_batch.source import discovery
from hymt_batch.source.settings import Entries, SourceConfig
from hymt_batch.source.shards import read_documents
from hymt_batch.write.settings import WriteConfig
from tests.campaigns import hostile

ENDINGS = ("\n", "\n", "\r\n")
STRINGS = ('""', '"text %d"', '"a\\n"', '"\\""', '"\\\\"', '"\\x41\\101"', '"é 你"', '"\\q"', '"', '"a\r"', '"%s {x}"')
COMMENTS = ("# c", "#, fuzzy", "#, c-format, fuzzy", '#| msgid "old"', '#~ msgid "o"', '#~ msgstr ""', "#: a.c:1", "#")
KEYS = ("a", "b.c", "k\\ 1", "\\u0041", "=", "#x", "!", "")
VALUES = ("one", "{0} it''s", "it's {0}", "\\u00e9", "\\u12", "a \\\n  b", "\\", "é 你", "", "\\ud83d", "C:\\path")
ANSWERS = (
    '"',
    "\\",
    "\n",
    "\r\n",
    '\nmsgid "',
    '"\nmsgstr "x',
    "#~ x",
    "\0",
    "\ud83d",
    "%",
    "{0}'s",
    " = :",
    "é雨",
    "\f",
)


def catalogue(rng: random.Random) -> str:
    """Return a catalogue, which msgfmt would mostly parse."""
    lines = ['msgid ""', 'msgstr ""', '"Content-Type: text/plain; charset=UTF-8\\n"'] if rng.random() < 0.7 else []
    for index in range(rng.randrange(12)):
        strings = [rng.choice(STRINGS[:7]) for _ in range(rng.randrange(1, 4))]
        lines += [rng.choice(COMMENTS[:3])] if rng.random() < 0.5 else []
        lines += [f'msgctxt "{index}"', "msgid " + rng.choice(("\n", " ", "\n  ")).join(strings)]
        old = rng.choice(('""', '"kept"', '""\n"two"'))
        if rng.random() < 0.3:
            lines.append(f"msgid_plural {strings[0]}")
            lines += [f"msgstr[{form}] {old}" for form in range(rng.randrange(1, 5))]
        else:
            lines.append(f"msgstr {old}")
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice((*COMMENTS, *STRINGS, "msgstr", "msgid", "domain")))
    return "\n".join(lines)


def properties(rng: random.Random) -> str:
    """Return a `.properties` file."""
    entries = [f"{rng.choice(KEYS)}{rng.choice('=: ')}{rng.choice(VALUES)}" for _ in range(rng.randrange(20))]
    return "\n".join(rng.choice((entry, f"# {entry}", entry)) for entry in entries)


MAKERS = {"po": catalogue, "properties": properties}


def check(rng: random.Random, folder: Path, name: str) -> tuple[int, str]:
    """Read and write one file; return its number of places, and what is wrong, "" if nothing is."""
    format = rng.choice(list(MAKERS))
    data = (MAKERS[format](rng) + rng.choice(("", "\n"))).replace("\n", rng.choice(ENDINGS)).encode()
    data = hostile.mutated(rng, data, rng.choice((0, 0, 0, 1, 5)))
    path = folder / f"{name}.{format}"
    path.write_bytes(data)
    config = SourceConfig(path=str(path), **({"entries": rng.choice(list(Entries))} if format == "po" else {}))
    tgt_lang = rng.choice(("fr", "zh", "ru", "ar"))
    (input,) = discovery.find_inputs(config).with_target(tgt_lang)
    documents = [document for document, _ in read_documents(input, config, full=True)]
    if documents and documents[0].status is Status.FAILED_FILE:
        return 1, "" if len(documents) == 1 else "a failed file has more than one row"
    if written(input, [(document, "") for document in documents]) != data:
        return len(documents), "a file without a translation has other bytes"
    answers = [
        (document, rng.choice(("", document.text, "".join(rng.choices(ANSWERS, k=3)))) if document.text else "")
        for document in documents
    ]
    out = written(input, answers)
    return len(documents), difference(format, data, out, answers, PlaceOptions(entries="all", tgt_lang=tgt_lang))


def written(input: Input, answers: list[tuple[Document, str]]) -> bytes:
    """Return what is written with these translations; "" for none."""
    out = io.BytesIO()
    writer = open_writer(input, input.format, Preamble(), WriteConfig(), out)
    for document, answer in answers:
        status = Status.OK if answer else Status.GENERATION_ERROR
        writer.write(document, Row(document.row_index, document.digest, status, answer))
    writer.close()
    return out.getvalue()


def difference(format: str, data: bytes, out: bytes, answers: list[tuple[Document, str]], options: PlaceOptions) -> str:
    """Return how a written file differs from what it must be; "" if it does not."""
    try:
        before, after = (parsed(format, file) for file in (data, out))
    except UnreadableFileError as error:
        return f"the output cannot be read: line {error.line} {error}"
    if format == "po":
        texts = [[place.text for place in file.places(options)] for file in (before, after)]
        # another charset or rule in the header can show other texts only in what was not read before
        return "" if texts[0] == texts[1] else f"entries {texts[0]!a:.150} became {texts[1]!a:.150}"
    old, new = (list(file.places(options)) for file in (before, after))
    if len(old) != len(new):
        return f"{len(old)} values became {len(new)}"
    kept = {document.row_index for document, answer in answers if not answer}
    changed = [
        place.name
        for row, (place, other) in enumerate(zip(old, new, strict=True))
        if row in kept and data[place.start : place.end] != out[other.start : other.end]
    ]
    return f"values without a translation changed: {changed[:3]}" if changed else ""


def parsed(format: str, data: bytes) -> ParsedFile:
    parse = registry.get(format).open_input.keywords["parse"]  # type: ignore[attr-defined]
    file: ParsedFile = parse(data)
    return file
