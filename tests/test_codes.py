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
from hymt_batch.records import Document, Row, Status


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Hello <b class='x'>you</b>, {name}!", ["<b class='x'>", "</b>", "{name}"]),
        ("%s of %(count)d and %1$s, 100%", ["%s", "%(count)d", "%1$s"]),
        ("50 % of it, 20% off, 5%d", []),
        ("See https://a.b/c?d=e. Or mail to a.b@c.org.", ["https://a.b/c?d=e", "a.b@c.org"]),
        ("{{user}} ${total} {0,number} {\\an8}", ["{{user}}", "${total}", "{0,number}", "{\\an8}"]),
        ("AT&amp;T & co; 3 < 4 > 2", ["&amp;"]),
        ("<c.yellow>x</c> <00:01.000> <v Roger B>hi</v>", ["<c.yellow>", "</c>", "<00:01.000>", "<v Roger B>", "</v>"]),
        ("共%d个文件，%s已完成100%%", ["%d", "%s", "%%"]),
        ("%dx%d, %s%s, %ds, %.1fMB", ["%d", "%d", "%s", "%s", "%d", "%.1f"]),
        ("%{name} #{x} @{y} $t(key.a) {0} {} { x }", ["%{name}", "#{x}", "@{y}", "$t(key.a)", "{0}", "{}", "{ x }"]),
        ("{x.y[0]!r:>10} {0:N2} {0,-10} {t:%H:%M %p}", ["{x.y[0]!r:>10}", "{0:N2}", "{0,-10}", "{t:%H:%M %p}"]),
        (
            '<a href="https://x.y/a b?c=1" target=_blank disabled>x</a><br />',
            ['<a href="https://x.y/a b?c=1" target=_blank disabled>', "</a>", "<br />"],
        ),
        ("&nbsp;&#160;&#xA0; AT&T; Q&As; R&D;", ["&nbsp;", "&#160;", "&#xA0;"]),
        ("<0>text</0> <1/> I <3 you", ["<0>", "</0>", "<1/>"]),
        ("One\\nTwo\\n 三\\n四 C:\\new\\table", ["\\n", "\\n", "\\n"]),
        ("见https://a.b/c了解，联系a@b.cn。www.example.com", ["https://a.b/c", "a@b.cn", "www.example.com"]),
        ("http://a.b, (http://c.d) http://x.y/z_(foo)", ["http://a.b", "http://c.d", "http://x.y/z_(foo"]),
        ("{% if x %}a{% endif %}{# c #} <!-- c -->", ["{% if x %}", "{% endif %}", "{# c #}", "<!-- c -->"]),
        ("%Y-%m-%d %H:%M", ["%Y", "%m", "%d", "%H", "%M"]),
        ("{see the note below} {a, b} a <b and c> d, 10:30 :smile: :name 12% complete %complete 100%de", []),
    ],
)
def test_codes_are_found(text: str, codes: list[str]) -> None:
    assert find_codes(text) == codes


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
        ("50%d off", "50 %d", True),
        ("5% discount", "5 %d", False),
        ("a\\nb", "啊\\n吧", True),
        ("{x}", "{{x}}", False),
        ("%s", "%%s", False),
    ],
)
def test_lost_doubled_renamed_and_badly_nested_codes_are_noticed(source: str, translation: str, expected: bool) -> None:
    assert SourceCodes(source).are_kept_in(translation) is expected


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
    assert put_back(SourceCodes(source), translation) == expected


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
            assert Counter(find_codes(row.text)) == Counter(find_codes(source)) or not translation
        else:
            kept += 1
            assert (row.status, row.text, row.flags) == (Status.GENERATION_ERROR, "", ("source_kept",))
    assert kept < 40


MARKDOWN = (
    ("**", "**"),
    ("*", "*"),
    ("[", ""),
    ("](u)", "["),
    ("![", ""),
    ("](i)", "!["),
    ("`x y`", ""),
    ("_", "_"),
    ("\n", ""),
)


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("see **a** and `x y`", "`x y` et **b**", True),
        ("see **a** and `x y`", "`x  y` et **b**", False),
        ("see **a**", "voir ** b", False),
        ("[a](u) b [c](u)", "[d](u) [e](u)", True),
        ("[a](u) b", "](u) a [b", False),
        ("[![a](i)](u) b", "c [![d](i)](u)", True),
        ("[![a](i)](u) b", "c [![d](u)](i)", False),
        ("_a_ b snake_case", "c _d_ snake_case", True),
        ("a\nb", "c d", False),
        ("{x} and **y**", "**z**", False),
        ("*see https://a.b*", "*https://a.b voir*", True),
        ("[see https://a.b](u) now", "maintenant [https://a.b voir](u)", True),
        ("see *a* at https://a.b/c*d", "https://a.b/c*d : *b*", True),
    ],
)
def test_codes_that_only_the_format_knows_are_kept_in_pairs(source: str, translation: str, expected: bool) -> None:
    codes = SourceCodes(source, MARKDOWN)
    assert codes.are_kept_in(translation) is expected
    repaired = put_back(codes, translation)
    assert codes.are_kept_in(repaired), repaired


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("See **the docs** now", "Voir la doc maintenant", "Voir **la doc** maintenant"),
        ("See [the docs](u) now", "maintenant doc](u) [la Voir", "maintenant [doc la](u) Voir"),
        ("Use `x y` here", "Hier verwenden", "Hier `x y` verwenden"),
    ],
)
def test_codes_of_the_format_are_put_back(source: str, translation: str, expected: str) -> None:
    assert put_back(SourceCodes(source, MARKDOWN), translation) == expected
    document = Document("a#1", 0, source, b"", keeps_codes=True, codes=MARKDOWN)
    row = shape_row(document, Row(0, b"", Status.OK, translation), False, CheckConfig())
    assert (row.text, row.flags) == (expected, ("codes_moved",))


def test_row_formats_keep_their_codes_by_a_setting() -> None:
    document, row = Document("a#1", 0, "see {x}", b""), Row(0, b"", Status.OK, "voir")
    assert shape_row(document, row, False, CheckConfig()) == row
    shaped = shape_row(document, row, False, CheckConfig(codes=True))
    assert (shaped.text, shaped.flags) == ("voir {x}", ("codes_moved",))


def test_codes_that_are_put_back_into_a_segment_and_into_its_row_are_one_flag() -> None:
    document = Document("a#1", 0, "<b>One.</b> Two {n}.", b"", keeps_codes=True)
    row = Row(0, b"", Status.OK, "<b>Un.</b> Deux.", ("codes_moved", "loop"))
    assert shape_row(document, row, False, CheckConfig()).flags == ("loop", "codes_moved")


def test_codes_take_linear_time() -> None:
    hostile = ["<" * 200_000, "%(" * 100_000, "{{" * 100_000, "a@" * 100_000, "a.-" * 60_000 + "@", "http://" * 30_000]
    hostile += [
        piece * 60_000 for piece in ("<a b='", "<a b=c ", "{a[b]", "{x:%", "{x,", "$t(", "<!--", "{\\a", "%0", "<v ")
    ]
    start = time.process_time()
    for text in hostile:
        find_codes(text)
    put_back(SourceCodes("<b>word</b> " * 10_000), "mot " * 10_000)
    links = [f"](http://x/{'y' * (n % 50)}{n})" for n in range(20_000)]
    source = " ".join(f"[a{link}" for link in links)
    assert SourceCodes(source, (*((link, "[") for link in links), ("[", ""))).are_kept_in(source + " ")
    assert time.process_time() - start < 20
