"""Hostile files of spliced formats: read, written back, and written with hostile answers in their places."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from hymt_batch.check.assemble import shape_row
from hymt_batch.check.settings import CheckConfig
from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.format import Format
from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Document, Input, Preamble, Row, Status
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import read_preamble
from hymt_batch.source.settings import SourceConfig
from hymt_batch.write.settings import WriteConfig
from tests.campaigns import hostile

MARKS = (
    *(
        "**",
        "*",
        "_",
        "`",
        "~~",
        "[",
        "](u)",
        "![",
        "[a][b]",
        "<b>",
        "</b>",
        "&amp;",
        "$x$",
        "\\",
        "\\*",
        "[^1]",
        "{x}",
    ),
    *(
        "# ",
        "## ",
        "- ",
        "1. ",
        "> ",
        ">> ",
        "    ",
        "\t",
        "| ",
        " |",
        "|---|",
        "===",
        "---",
        "```",
        ":::",
        ": ",
        "!!! a",
    ),
    *(
        "<div>",
        "<!--",
        "-->",
        "{% x %}",
        "[a]: b",
        "$$",
        "  \n",
        "\\\n",
        "\n",
        "\n\n",
        "\r\n",
        "(a) ",
        "\u2014 ",
        "   ",
        "\0",
    ),
)


def make_file(rng: random.Random, size: int) -> bytes:
    """Return a file of texts between marks of Markdown and of plain text, with some of its bytes damaged."""
    pieces = [rng.choice(MARKS) if rng.random() < 0.5 else hostile.text(rng, long=False) for _ in range(size)]
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    return hostile.mutated(rng, data, rng.choice((0, 0, 0, 3)))


def answer(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    rng.shuffle(words)
    return " ".join([rng.choice(MARKS) if rng.random() < 0.2 else word for word in words] + [rng.choice(MARKS)])


def find_failure(rng: random.Random, path: Path, *, document: bool) -> str:
    """Return what is wrong with a file that was read and written back; "" if nothing is."""
    data = make_file(rng, rng.randrange(80))
    path.write_bytes(data)
    config = SourceConfig(path=str(path), document=document)
    try:
        (input,) = discovery.find_inputs(config)
        format, preamble = registry.of_input(input), read_preamble(input, config)
        documents = [found for found, _ in stream.read_full_documents(input, config, [input])]
    except ConfigError:  # such as one that begins as UTF-16
        return ""
    out = path.with_suffix(".out")
    _write(out, input, preamble, documents, lambda text: text)
    if out.read_bytes() != data:
        return f"it is not written byte for byte: {data!r}"
    _write(out, input, preamble, documents, lambda text: answer(rng, text))
    counts = format.count_rows(out, {"encoding": "utf-8"})
    return "" if counts == {len(documents)} else f"{counts} places for {len(documents)}: {data!r} {out.read_bytes()!r}"


def _write(
    path: Path, input: Input, preamble: Preamble, documents: list[Document], change: Callable[[str], str]
) -> None:
    format = registry.of_input(input)
    with open(path, "wb") as file:
        writer = open_writer(input, input.format, preamble, WriteConfig(), file, lambda: iter(documents))
        for document, row in _rows(format, documents, change):
            writer.write(document, row)
        writer.close()


def _rows(format: Format, documents: list[Document], change: Callable[[str], str]) -> Iterator[tuple[Document, Row]]:
    for document in documents:
        row = Row(document.row_index, document.digest, document.status, "")
        if document.status is Status.OK and document.text is not None:
            row = Row(document.row_index, document.digest, Status.OK, change(document.text))
            row = shape_row(document, row, False, CheckConfig()) if row.text != document.text else row
            if row.text and format.can_hold is not None and not format.can_hold(document, row.text):
                row = Row(document.row_index, document.digest, Status.GENERATION_ERROR, "")
        yield document, row
