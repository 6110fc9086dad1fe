"""Markdown: the inline texts are found and replaced; blocks, links, code and everything else stay as they are."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hymt_batch.check.assemble import shape_row
from hymt_batch.check.settings import CheckConfig
from hymt_batch.errors import ExitCode
from hymt_batch.formats import registry
from hymt_batch.formats.markdown.blocks import MarkdownFile
from hymt_batch.formats.spliced import Place, PlaceOptions, ReadFile, ReadPlace
from hymt_batch.records import Document, Row, Status
from jobs import verify
from tests.fakes.job import Job

JUDGE = MarkdownIt("commonmark").enable(["table", "strikethrough"])
Structure = tuple[list[tuple[str, ...]], "Counter[tuple[str, ...]]"]


def places(data: str | bytes) -> list[Place]:
    return list(MarkdownFile(data.encode() if isinstance(data, str) else data).places(PlaceOptions()))


def texts(data: str) -> list[str | None]:
    return [place.text for place in places(data)]


def structure(data: bytes) -> Structure:
    """Return the blocks of a file, and how often each inline element is there, as another parser reads them.

    It knows no footnotes.
    """
    blocks, inlines = [], Counter[tuple[str, ...]]()
    for token in JUDGE.parse(data.decode().replace("[^", "(^")):
        if token.type == "inline":
            for child in token.children or ():
                if child.type not in ("text", "softbreak"):
                    is_kept = child.type in ("code_inline", "html_inline")
                    attributes = [str(child.attrs.get(name, "")) for name in ("href", "src", "title")]
                    inlines[child.type, child.content if is_kept else "", *attributes] += 1
        else:
            is_kept = token.type in ("fence", "code_block", "html_block")
            blocks.append((token.type, token.tag, token.info, token.content if is_kept else "", str(token.attrs)))
    return blocks, inlines


def translate(data: bytes, answer: Callable[[str], str]) -> tuple[bytes, Counter[str]]:
    """Do what a job does with the answers of a model; count what became of the rows."""
    file, out, at, counts = MarkdownFile(data), b"", 0, Counter[str]()
    can_hold = registry.get("markdown").can_hold
    assert can_hold is not None
    for place in file.places(PlaceOptions()):
        assert at <= place.start < place.end
        new = data[place.start : place.end]
        if place.text is not None:
            values = ReadPlace(place, ReadFile(b"", file))
            document = Document("a", 0, place.text, b"", keeps_codes=True, codes=place.codes, values=values)
            row = shape_row(document, Row(0, b"", Status.OK, answer(place.text)), False, CheckConfig())
            if row.status is Status.OK and can_hold(document, row.text):
                new = file.encode(place, row.text)
                counts["translated"] += 1
            else:
                counts["kept"] += 1
        out, at = out + data[at : place.start] + new, place.end
    return out + data[at:], counts


PAGE = """---
title: A title that stays
---
# A heading with `1` {#anchor}

> A quote over
> two lines with **strong** text\x20\x20
> and a hard break

- [ ] a task that
  goes on
* *all of it*
1. ***both*** and more

| Left | Right |
|:-----|------:|
| `1\\|2` cell | c \\| d |

Term
: A definition

:::note
Inside a directive
:::

{% highlight python %}
a = 1

not = "text"
{% endhighlight %}

A title
-------

See {ref}`label`, [the docs](a/b.html "Title"){target=_blank}, [label], ![an image](i.png), <https://x.org>,
<b>bold</b>&nbsp;and \\*stars\\* :smile: [[Wiki|page]] $x_1$ [^note] **over
two lines\x20\x20
and a break**.

[![Build status](b.svg)](ci)

    indented code

```
fenced code
```

<div>
HTML block
</div>

<!-- a comment -->

[label]: https://example.org "Title"
[^note]: A footnote
    over two lines

$$
x

y is no text
$$
"""


def test_the_texts_of_the_blocks_are_found_with_their_codes() -> None:
    assert texts(PAGE) == [
        "A heading with `1`",
        "A quote over two lines with **strong** text",
        "and a hard break",
        "a task that goes on",
        "all of it",
        "***both*** and more",
        "Left",
        "Right",
        "`1\\|2` cell",
        "c \\| d",
        "Term",
        "A definition",
        "Inside a directive",
        "A title",
        'See {ref}`label`, [the docs](a/b.html "Title"){target=_blank}, [label][label], ![an image](i.png), '
        "<https://x.org>, <b>bold</b>&nbsp;and \\*stars\\* :smile: [[Wiki|page]] $x_1$ [^note] **over two lines\n"
        "and a break**.",
        "Build status",
        "A footnote over two lines",
    ]
    long = places(PAGE)[14]
    assert set(long.codes) >= {
        ("{ref}`label`", ""),
        ('](a/b.html "Title"){target=_blank}', "["),
        ("][label]", "["),
        ("](i.png)", "!["),
        ("<https://x.org>", ""),
        ("\\*", ""),
        (":smile:", ""),
        ("[[Wiki|page]]", ""),
        ("$x_1$", ""),
        ("[^note]", ""),
        ("**", "**"),
        ("\n", ""),
    }
    assert [place.name for place in places(PAGE)[6:10]] == ["15", "15[2]", "17", "17[2]"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_untranslated_files_are_written_byte_for_byte(newline: str) -> None:
    for data in (PAGE.replace("\n", newline).encode(), b"\xef\xbb\xbf" + PAGE.replace("\n", newline).encode(), b""):
        assert translate(data, lambda text: text)[0] == data
    assert texts(PAGE.replace("\n", newline)) == texts(PAGE)


def test_only_the_texts_change_and_a_label_still_finds_its_link() -> None:
    out, counts = translate(PAGE.encode(), str.swapcase)
    assert counts == {"translated": 17}
    assert structure(out) == structure(PAGE.encode())
    text = out.decode()
    for kept in (
        "---\ntitle: A title that stays\n---\n# a HEADING WITH `1` {#anchor}\n",
        "\n- [ ] A TASK THAT GOES ON\n",
    ):
        assert kept in text
    assert "> a QUOTE OVER TWO LINES WITH **STRONG** TEXT  \n> AND A HARD BREAK\n" in text
    assert "* *ALL OF IT*\n" in text and "tERM\n: a DEFINITION\n" in text and ":::note\niNSIDE A DIRECTIVE\n:::" in text
    prefixed = translate(PAGE.encode(), lambda source: f"Mot {source.replace('label]', 'Marke]', 1)}")[0].decode()
    assert "[Marke][label]" in prefixed and "**over two lines  \nand a break**." in prefixed
    assert text.endswith(PAGE[PAGE.index("\n$$") :]) and "[^note]: a FOOTNOTE OVER TWO LINES\n" in text


@pytest.mark.parametrize(
    ("source", "answer", "written"),
    [
        ("Text\n", "# Text", "\\# Text\n"),
        ("Text\n", "- Text", "\\- Text\n"),
        ("Text\n", "1. Text", "1\\. Text\n"),
        ("Text\n", "> Text", "\\> Text\n"),
        ("Text\n", ": Text", "\\: Text\n"),
        ("Text\n", ":::note Text", "\\:::note Text\n"),
        ("Text\n", "    Text", "Text\n"),
        ("Text\n", "one\n\ntwo\u2028three", "one  two three\n"),
        ("Text\n", "```Text", "\\`\\`\\`Text\n"),
        ("Text\n", "a ` b", "a ` b\n"),
        ("Text\n", "a * b * c", "a * b * c\n"),
        ("Text\n", "a *b* c", "a \\*b\\* c\n"),
        ("Text\n", "snake_case and __init__", "snake_case and \\_\\_init\\_\\_\n"),
        ("Text\n", "[a](b)", "\\[a\\](b)\n"),
        ("Text\n", "[x]: y", "\\[x\\]: y\n"),
        ("Text\n", "<!-- Text", "\\<!-- Text\n"),
        ("Text\n", "a < b & c", "a < b & c\n"),
        ("Text\n", "| Text |", "| Text |\n"),
        ("- Text\n", "[x] Text", "- \\[x\\] Text\n"),
        ("# Text\n", "C#", "# C#\n"),
        ("# Text\n", "C ##", "# C \\##\n"),
        ("# Text\n", "Text {#id}", "# Text\n"),
        ("Text\n===\n", "- Text", "\\- Text\n===\n"),
        ("| a |\n|---|\n| b |\n", "x | y", "| x \\| y |\n|---|\n| x \\| y |\n"),
        ("**Note:** text\n", "**注意：**文本", "**注意：** 文本\n"),
        ("**Note** text\n", "** Texte ** ici", "**Texte** ici\n"),
        ("a  \nb\n", "===", "a  \nb\n"),
        ("[Text](u) more\n", "](u) plus [Texte", "[plus](u) Texte\n"),
        ("see [Text]\n\n[text]: u\n", "voir [Texte][Text]", "voir [Texte][Text]\n\n[text]: u\n"),
        ("Text\n\n[label]: u\n", "a [label] b", "a \\[label\\] b\n\n[label]: u\n"),
        ("Text\n", "a [label] b", "a [label] b\n"),
        ("Text\n", "!!!", "Text\n"),
        ("Text\n", "https://x.org", "Text\n"),
        ("a **b  \nc** d\n", "e **f\ng** h", "e **f  \ng** h\n"),
    ],
)
def test_what_would_be_markup_in_an_answer_is_escaped(source: str, answer: str, written: str) -> None:
    out, _ = translate(source.encode(), lambda text: answer)
    assert out.decode() == written
    assert len(places(out)) == len(places(source))


HOSTILE = [
    *(
        "#",
        "##",
        "-",
        "+",
        "*",
        "1.",
        "2)",
        ">",
        "|",
        "    ",
        "\t",
        "\n",
        "\n\n",
        "===",
        "---",
        "```",
        "~~~",
        "`",
        "``",
    ),
    *(
        "**",
        "*",
        "__",
        "_",
        "~~",
        "$",
        "$$",
        "<",
        ">",
        "&",
        "&amp;",
        "<b>",
        "</b>",
        "<!--",
        "-->",
        "<div>",
        "\\",
        "\\\\",
    ),
    *("[", "]", "](", "](u)", "![", "[^1]", "[^1]:", "[a]:", "[ ]", "[x]", "{#id}", "{: .c}", ":::", "!!!", ": ", "\r"),
    *(
        "{% x %}",
        "{{x}}",
        "https://x.org",
        "a@b.org",
        "\u2028",
        "\x0c",
        "\0",
        "\ufeff",
        "word",
        "mot",
        "雨",
        "注意：",
        "été",
    ),
]


def seeded_page(rng: random.Random) -> str:
    inline = [
        "word",
        "more words",
        "**strong**",
        "*em*",
        "`code`",
        "[text](url)",
        "![alt](img)",
        "<b>x</b>",
        "{n}",
        "%s",
    ]
    inline += [
        "[ref]",
        "[^1]",
        "\\*",
        "&amp;",
        "$x$",
        "~~gone~~",
        "<https://a.b>",
        "***both***",
        "[![alt](i)](u)",
        "雨が降る",
    ]

    def line() -> str:
        return " ".join(rng.choice(inline) for _ in range(rng.randint(1, 7)))

    def block() -> str:
        text = rng.choice(["\n", "  \n", "\\\n"]).join(line() for _ in range(rng.randint(1, 3)))
        match rng.randrange(8):
            case 0:
                return f"{'#' * rng.randint(1, 4)} {line()}"
            case 1:
                return f"{line()}\n{rng.choice(['===', '---'])}"
            case 2:
                return "> " + text.replace("\n", "\n> ")
            case 3:
                return "\n".join(f"{rng.choice(['-', '1.'])} {line()}" for _ in range(rng.randint(1, 3)))
            case 4:
                return f"| {line()} | {line()} |\n|---|:-:|\n| {line()} | x |"
            case 5:
                return rng.choice(
                    ["```\ncode\n```", "    code", "<div>\nhtml\n</div>", "***", ":::note\n" + text + "\n:::"]
                )
            case _:
                return text

    return "\n\n".join(block() for _ in range(rng.randint(1, 6))) + "\n\n[ref]: /r\n\n[^1]: note\n"


def hostile_answer(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    match rng.randrange(5):
        case 0:
            rng.shuffle(words)
        case 1:
            words.insert(rng.randrange(len(words) + 1), rng.choice(HOSTILE))
        case 2:
            words = [rng.choice(HOSTILE), *words, rng.choice(HOSTILE)]
        case 3:
            words.pop(rng.randrange(len(words)))
        case _:
            words = [rng.choice(HOSTILE) for _ in range(rng.randint(1, 8))]
    return rng.choice(["", " "]).join(words) if rng.random() < 0.2 else " ".join(words)


def test_no_answer_of_a_model_changes_the_structure_of_a_page() -> None:
    rng, counts = random.Random(17), Counter[str]()
    for _ in range(1000):
        page = seeded_page(rng).encode()
        out, outcome = translate(page, lambda text: hostile_answer(rng, text))
        counts += outcome
        assert structure(out) == structure(page), page
        assert [place.name.partition("[")[2] for place in places(out)] == [
            place.name.partition("[")[2] for place in places(page)
        ], page
    assert counts["translated"] > 3 * counts["kept"]


def test_a_reversed_page_has_each_code_once() -> None:
    out, counts = translate(PAGE.encode(), lambda text: " ".join(reversed(text.split())))
    assert counts["kept"] == 0
    assert structure(out) == structure(PAGE.encode())
    assert len(places(out)) == len(places(PAGE))


def test_bytes_that_are_no_text_make_an_error_row_and_the_rest_is_translated() -> None:
    data = b"one\n\ntw\xff\xfeo *x*\n\nthr\0ee \xc3\xa9\n"
    broken = places(data)
    assert [place.text for place in broken] == ["one", None, "thr\0ee é"]
    assert broken[1].error is not None and broken[1].error.status is Status.BAD_ENCODING
    assert translate(data, str.upper)[0] == b"ONE\n\ntw\xff\xfeo *x*\n\nTHREE \xc3\x89\n"


HUGE = {
    "quotes": ">" * 100_000 + " a\n",
    "quotes and lines": ("> " * 1000 + "a\n") * 50,
    "lists": "- " * 20_000 + "a\n",
    "emphasis": "*a " * 50_000,
    "pairs": "*_" * 25_000 + "a" + "_*" * 25_000,
    "brackets": "[" * 100_000,
    "links": "[a](" * 10_000,
    "math": "$$\n" * 20_001,
    "highlight": "{% highlight x %}\n" * 20_000,
    "front matter": "---\n" + "x\n" * 20_000,
    "cells": "|a" * 5_000 + "\n" + "|-" * 5_000 + "\n",
    "braces": "{" * 50_000 + "a",
    "lines": "a\n" * 20_000,
    "breaks": "a  \n" * 5_000,
    "roles": "{x}`y`" * 20_000,
    "footnotes": "[^1]" * 20_000 + "\n\n[^1]: a\n",
}


@pytest.mark.parametrize("name", HUGE)
def test_hostile_files_take_linear_time(name: str) -> None:
    start = time.process_time()
    translate(HUGE[name].encode(), lambda text: f"x {text}")
    assert time.process_time() - start < 10


def test_a_job_translates_markdown_and_keeps_what_an_answer_would_break(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in.md").write_bytes(b"# rain\r\n\r\n`1` and **sun**\r\n\r\n- one\r\n- 1\r\n")
    result = job(f"source.path={tmp_path / 'in.md'}", "name=n", "check.max_error_rate=1")
    folder = tmp_path / "out/n"
    assert (folder / "translated/in.md").read_bytes() == b"# RAIN\r\n\r\n`1` AND **SUN**\r\n\r\n- ONE\r\n- 1\r\n"
    assert (result.rows, dict(result.counts), dict(result.flags)) == (3, {"ok": 3}, {})
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE


def test_an_answer_that_cannot_be_written_keeps_its_source_and_is_an_error_row(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hymt_batch.formats.markdown.writing.Surroundings._write", lambda *_: None)
    (tmp_path / "in.md").write_text("# rain\n")
    result = job(f"source.path={tmp_path / 'in.md'}", "name=n", "check.max_error_rate=1")
    assert (tmp_path / "out/n/translated/in.md").read_text() == "# rain\n"
    assert (dict(result.counts), dict(result.flags)) == ({"generation_error": 1}, {"source_kept": 1})
    assert "in.md#1" in (tmp_path / "out/n/errors/in.md.errors.jsonl").read_text()


def test_markdown_is_found_by_its_extensions() -> None:
    assert registry.by_extension(".MD") is registry.by_extension(".markdown") is registry.get("markdown")
