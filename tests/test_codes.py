"""Codes of a text are kept by its translation, or put back."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from hymt_batch.check.assemble import shape_row
from hymt_batch.check.put_back import put_back
from hymt_batch.check.settings import CheckConfig
from hymt_batch.codes import SourceCodes, find_codes
from hymt_batch.records import Code, Document, Row, Status


def codes_of(text: str) -> list[str]:
    return [code.text for code in find_codes(text)]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Hello <b class='x'>you</b>, {name}!", ["<b class='x'>", "</b>", "{name}"]),
        ("%s of %(count)d and %1$s, 100%", ["%s", "%(count)d", "%1$s"]),
        ("50 % of it, 20% off, 5%d", []),
        ("See https://a.b/c?d=e. Or mail to a.b@c.org.", ["https://a.b/c?d=e", "a.b@c.org"]),
        ("{{user}} ${total} {0,number} {\\an8}", ["{{user}}", "${total}", "{0,number}", "{\\an8}"]),
        ("AT&amp;T & co; 3 < 4 > 2", ["&amp;"]),
        ("<c.yellow>x</c> <00:01.000>", ["<c.yellow>", "</c>", "<00:01.000>"]),
    ],
)
def test_codes_are_found(text: str, codes: list[str]) -> None:
    assert codes_of(text) == codes


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("a <b>c</b> d", "e <b>f</b> g", True),
        ("a {x} b {y}", "{y} c {x} d", True),
        ("a <b>c</b> d", "e f g", False),
        ("a <b>c</b> d", "e </b>f<b> g", False),
        ("a {x}", "b {x} {x}", False),
        ("a {x}", "b {X}", False),
        ("a", "b {x}", False),
        ("a</b> <b>c", "d</b> <b>e", True),
    ],
)
def test_lost_doubled_renamed_and_badly_nested_codes_are_noticed(source: str, translation: str, expected: bool) -> None:
    assert SourceCodes.of(source).are_kept_in(translation) is expected


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("Hello <b>world</b>, {name}!", "Bonjour monde !", "Bonjour <b>monde !</b> {name}"),
        ("<i>a</i> and <b>c</b>", "x et y", "<i>x</i> et <b>y</b>"),
        ("Click %s to see https://x.y/z.", "Cliquez pour voir", "Cliquez %s pour voir https://x.y/z"),
        ("{n} files", "fichiers", "{n} fichiers"),
        ("你好<b>世界</b>", "Hello world", "Hello <b>world</b>"),
        ("Hi <b>all</b>", "大家好", "大<b>家好</b>"),
        ("{x}", "", "{x}"),
    ],
)
def test_codes_are_put_back_at_the_same_share_of_the_text(source: str, translation: str, expected: str) -> None:
    assert put_back(SourceCodes.of(source), translation) == expected


def test_codes_are_put_back_or_the_source_is_kept_and_never_lost() -> None:
    rng = random.Random(1)
    codes = ["<b>", "</b>", "{name}", "%s", "%(n)d", "{{x}}", "https://a.b/c", "a@b.org", "&amp;", "<br/>", "{\\an8}"]
    words = ["rain", "été", "雨", "下雨了", "50", "%", "off,", "(ok)", "x."]

    def text(share: float) -> str:
        return "".join(
            rng.choice(codes if rng.random() < share else words) + rng.choice(["", " ", " "])
            for _ in range(rng.randrange(10))
        )

    kept = 0
    for _ in range(4000):
        source, translation = text(0.3), text(0.2)
        document = Document("a#1", 0, source, b"", keeps_codes=True)
        row = shape_row(document, Row(0, b"", Status.OK, translation), False, CheckConfig())
        if row.status is Status.OK:
            assert Counter(codes_of(row.text)) == Counter(codes_of(source)) or not translation
        else:
            kept += 1
            assert (row.status, row.text, row.flags) == (Status.GENERATION_ERROR, "", ("source_kept",))
    assert kept < 40


def declare(text: str, *strings: str) -> list[Code]:
    """Declare codes of a text: each string in turn; one written `open...close` is two, the second closing the first."""
    codes: list[Code] = []
    at = 0
    for string in strings:
        opening, is_pair, closing = string.partition("...")
        start = text.index(opening, at)
        codes.append(Code(start, at := start + len(opening)))
        if is_pair:
            start = text.index(closing, at)
            codes.append(Code(start, start + len(closing), closes=len(codes) - 1))
    return codes


MARKDOWN = 'Press **any** `key`, see [the page](https://a.b/c_d*e "A b").'


@pytest.mark.parametrize(
    ("translation", "expected"),
    [
        ('Voir [la page](https://a.b/c_d*e "A b"), taper `key` **vite**.', True),
        ('Voir [la page](https://a.b/c_d*e "A b"), taper `key` vite.', False),  # lost
        ('Voir [la page](https://a.b/c_d*e "A b"), `key` `key` **vite**.', False),  # doubled
        ('Voir [la page](https://a.b/c_d*e "Un b"), taper `key` **vite**.', False),  # translated
        ('Voir ](https://a.b/c_d*e "A b")la page[, taper `key` **vite**.', False),  # badly nested
        ('Voir [la **page](https://a.b/c_d*e "A b"), taper** `key` vite.', False),
        ('Voir [la page](https://a.b/c_d*e "A b"), taper `key` **vite** {x}.', False),  # invented
    ],
)
def test_codes_that_a_format_declares_are_compared_like_others(translation: str, expected: bool) -> None:
    codes = declare(MARKDOWN, "**...**", "`key`", '[...](https://a.b/c_d*e "A b")')
    source = SourceCodes.of(MARKDOWN, codes)
    assert [code.text for code in source.found] == ["**", "**", "`key`", "[", '](https://a.b/c_d*e "A b")']
    assert source.are_kept_in(translation) is expected
    document = Document("a.md#1", 0, MARKDOWN, b"", keeps_codes=True, codes=tuple(codes))
    row = shape_row(document, Row(0, b"", Status.OK, translation), False, CheckConfig())
    assert source.are_kept_in(row.text)
    assert row.flags == (() if expected else ("codes_moved",))


def test_declared_codes_are_put_back_beside_their_words() -> None:
    source = SourceCodes.of(MARKDOWN, declare(MARKDOWN, "**...**", "`key`", '[...](https://a.b/c_d*e "A b")'))
    put = put_back(source, "Appuyez sur une touche, voir la page entière.")
    assert put == 'Appuyez sur **une** `key` touche, voir [la page entière.](https://a.b/c_d*e "A b")'


def test_row_formats_keep_their_codes_by_a_setting() -> None:
    document, row = Document("a#1", 0, "see {x}", b""), Row(0, b"", Status.OK, "voir")
    assert shape_row(document, row, False, CheckConfig()) == row
    shaped = shape_row(document, row, False, CheckConfig(codes=True))
    assert (shaped.text, shaped.flags) == ("voir {x}", ("codes_moved",))


def test_codes_take_linear_time() -> None:
    hostile = ["<" * 200_000, "%(" * 100_000, "{{" * 100_000, "a@" * 100_000, "a.-" * 60_000 + "@", "http://" * 30_000]
    start = time.process_time()
    for text in hostile:
        find_codes(text)
    put_back(SourceCodes.of("<b>word</b> " * 10_000), "mot " * 10_000)
    links = "".join(f"[a](http://x/{'y' * (n % 50)}{n}) " for n in range(20_000))
    declared, at = [], 0
    while (start := links.find("](", at)) >= 0:
        at = links.index(")", start) + 1
        declared += [Code(start - 2, start - 1), Code(start, at, closes=len(declared))]
    assert SourceCodes.of(links, declared).are_kept_in(links + " ")
    assert time.process_time() - start < 20
