"""Gettext catalogues (.po, .pot): entries without a translation get one, and nothing else changes but header fields."""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ExitCode
from hymt_batch.formats.po import plural, strings
from hymt_batch.formats.po.catalogue import Catalogue
from hymt_batch.formats.spliced import Place, PlaceOptions, ReadFile, ReadPlace, UnreadableFileError
from hymt_batch.formats.writer import open_writer
from hymt_batch.records import Document, Input, Preamble, Row, Status
from hymt_batch.source import discovery
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.write.settings import WriteConfig
from jobs import verify
from tests.fakes.job import Job

MSGFMT = shutil.which("msgfmt")
needs_msgfmt = pytest.mark.skipif(MSGFMT is None, reason="msgfmt is not installed (Debian: gettext)")
needs_msginit = pytest.mark.skipif(shutil.which("msginit") is None, reason="msginit is not installed")

HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n'
FRENCH = HEADER + '"Language: fr\\n"\n"Plural-Forms: nplurals=2; plural=(n > 1);\\n"\n\n'
Translate = Callable[[str], "str | None"]


def places(data: str | bytes, entries: str = "empty", tgt_lang: str = "fr") -> list[Place]:
    raw = data.encode() if isinstance(data, str) else data
    return list(Catalogue(raw).places(PlaceOptions(entries=entries, tgt_lang=tgt_lang)))


def texts(data: str | bytes, entries: str = "empty", tgt_lang: str = "fr") -> dict[str, str | None]:
    return {place.name: place.text for place in places(data, entries, tgt_lang)}


def translated_bytes(
    path: Path, data: bytes, change: Translate, *, entries: str = "empty", tgt_lang: str = "fr", **settings: Any
) -> bytes:
    """Return what the writer makes of a file; None of a text is a row without a translation."""
    path.write_bytes(data)
    input, out = Input(path.name, path.name, str(path), "po", tgt_lang=tgt_lang), io.BytesIO()
    writer = open_writer(input, "po", Preamble(), WriteConfig(**settings), out)
    file = ReadFile(data, Catalogue(data))
    for index, place in enumerate(places(data, entries, tgt_lang)):
        text = None if place.text is None else change(place.text)
        flags = ("truncated",) if text and text.endswith("!flagged") else ()
        status = Status.GENERATION_ERROR if text is None else Status.OK
        row = Row(index, b"", status, text or "", flags)
        writer.write(Document(place.name, index, place.text, b"", values=ReadPlace(place, file)), row)
    writer.close()
    return out.getvalue()


def translated(
    tmp_path: Path, data: str, change: Translate = str.upper, entries: str = "empty", tgt_lang: str = "fr", **more: Any
) -> str:
    path = tmp_path / "a.po"
    return translated_bytes(path, data.encode(), change, entries=entries, tgt_lang=tgt_lang, **more).decode()


def entry(tmp_path: Path, body: str, change: Translate = str.upper, **settings: Any) -> str:
    """Return the translation of an entry of a French catalogue."""
    out = translated(tmp_path, FRENCH + body, change, **settings)
    assert out.startswith(FRENCH)
    return out.removeprefix(FRENCH)


def msgfmt(path: Path, data: bytes) -> str:
    """Return what msgfmt -c has against a catalogue; "" for nothing."""
    path.write_bytes(data)
    command = [str(MSGFMT), "-c", "-o", "/dev/null", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return result.stderr if result.returncode else ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('msgid "one"\nmsgstr ""\n', {"1": "one"}),
        ('msgid "one"\nmsgstr "un"\n', {}),
        ('# note\n#. for you\n#: a.c:1\n#, c-format\nmsgctxt "menu"\nmsgid "one"\nmsgstr ""\n', {"6": "one"}),
        ('msgid ""\n"one "\n"two\\n"\nmsgstr ""\n""\n', {"1": "one two\n"}),
        ('msgid "\\t\\"\\\\\\303\\251\\xc3\\xa9\\101\\n"\nmsgstr ""\n', {"1": '\t"\\ééA\n'}),
        ('#~ msgid "gone"\n#~ msgstr ""\n#~| msgid "x"\n#~ msgid "y"\n#~ msgstr ""\n', {}),
        ('#| msgid "old"\nmsgid "new"\nmsgstr ""\n', {"2": "new"}),
        ('msgid "a" msgstr ""msgid"b"msgstr""\nmsgid "c"\nmsgstr ""', {"1": "a", "1.2": "b", "2": "c"}),
        ('domain "x"\nmsgid "a"\nmsgstr ""\nmsgid "a"\nmsgstr ""\n', {"2": "a", "4": "a"}),
        ('#, fuzzy\nmsgid "a"\nmsgstr "b"\n', {}),
        ('msgctxt "only"\nmsgid ""\nmsgstr ""\n', {}),
        ('msgid "a\rb"\nmsgstr ""\n', {"1": "a\rb"}),
        ("# only a comment", {}),
        ("", {}),
    ],
)
def test_the_texts_are_the_ids_of_entries_without_a_translation(body: str, expected: dict[str, str]) -> None:
    assert texts(body) == expected
    for prefix, shift in ((FRENCH, 6), ("\ufeff", 0)):
        moved = {
            ".".join([str(int(line) + shift), *rest]): text
            for (line, *rest), text in ((name.split("."), text) for name, text in expected.items())
        }
        assert texts(prefix + body) == moved
        assert texts((prefix + body).replace("\n", "\r\n")) == moved


def test_fuzzy_entries_and_all_entries_are_places_on_request() -> None:
    body = 'msgid "a"\nmsgstr ""\n#, c-format, fuzzy\nmsgid "b"\nmsgstr "B"\nmsgid "c"\nmsgstr "C"\n'
    assert [list(texts(body, entries).values()) for entries in ("empty", "fuzzy", "all")] == [
        ["a"],
        ["a", "b"],
        ["a", "b", "c"],
    ]


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ('msgid "a"\n\nmsgid "b"\nmsgstr ""\n', 3, "missing 'msgstr' section"),
        ('msgid "a"\nmsgid_plural "b"\nmsgid "c"\n', 3, r"missing 'msgstr\[\]' section"),
        ('msgid "a"\nmsgstr[0] "b"\n', 2, "missing 'msgid_plural' section"),
        ('msgid "a"\nmsgid_plural "b"\nmsgstr[1] "b"\n', 3, "first plural form has nonzero index"),
        ('msgid "a"\nmsgid_plural "b"\nmsgstr[0] "b"\nmsgstr[2] "b"\n', 4, "plural form has wrong index"),
        ('msgid "a"\nmsgstr "b\n', 2, "end-of-line within string"),
        ('msgid "a"\nmsgstr "b', 2, "end-of-file within string"),
        ('msgid "a\\q"\nmsgstr ""\n', 1, "invalid control sequence"),
        ('msgid "a"\nmsgstr ""\nmsgfoo "b"\n', 3, 'keyword "msgfoo" unknown'),
        ('msgid "a"\nmsgstr ""\n= b\n', 3, "syntax error"),
        ('msgid "a"\n# inside\nmsgstr ""\n', 2, "missing 'msgstr' section"),
        ('msgid "a"\n#~ msgstr ""\n', 2, "inconsistent use of #~"),
        ('#| msgid "old"\n# note\nmsgid "a"\nmsgstr ""\n', 2, "a comment is not possible"),
        ('msgid\nmsgstr ""\n', 2, "msgid has no string"),
        ('"a"\n', 1, "a string without a keyword"),
        ('msgstr "a"\n', 1, "msgstr is not possible here"),
        ('msgid "a"\n', 2, "missing 'msgstr' section"),
    ],
)
def test_a_file_that_msgfmt_does_not_parse_is_not_of_the_format(
    tmp_path: Path, body: str, line: int, reason: str
) -> None:
    with pytest.raises(UnreadableFileError, match=reason) as caught:
        Catalogue(body.encode())
    assert caught.value.line == line
    if MSGFMT and not body.startswith('"'):  # there, it would be one more string of the header
        assert msgfmt(tmp_path / "a.po", (HEADER + "\n" + body).encode())


def test_a_string_that_is_not_in_the_charset_makes_the_file_unreadable_and_a_comment_does_not() -> None:
    body = b'\n# \xe9\nmsgid "a"\nmsgstr ""\n'
    assert len(places(HEADER.encode() + body)) == 1
    with pytest.raises(UnreadableFileError, match=r"charset UTF-8: byte 0xe9") as caught:
        places(HEADER.encode() + body + b'msgid "b\xe9"\nmsgstr ""\n')
    assert caught.value.line == 8
    with pytest.raises(UnreadableFileError, match="charset UTF-16, which no catalogue can have"):
        places(HEADER.replace("UTF-8", "UTF-16").encode() + b"# \xe9")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('msgid "one"\nmsgstr ""\n', 'msgid "one"\nmsgstr "ONE"\n'),
        ('msgid "one\\n"\nmsgstr ""', 'msgid "one\\n"\nmsgstr "ONE\\n"'),
        ('  msgid   "one" msgstr   ""  # x\n', '  msgid   "one" msgstr   "ONE"  # x\n'),
        ('msgid ""\n"one\\n"\n"two"\nmsgstr ""\n', 'msgid ""\n"one\\n"\n"two"\nmsgstr ""\n"ONE\\n"\n"TWO"\n'),
        ('msgid ""\n  "a "\n  "b"\nmsgstr ""\n', 'msgid ""\n  "a "\n  "b"\nmsgstr "A B"\n'),
        ('msgid "a"\nmsgstr ""\n""\n\n', 'msgid "a"\nmsgstr "A"\n\n'),
    ],
)
def test_a_translation_is_written_as_its_source_is(tmp_path: Path, before: str, after: str) -> None:
    assert entry(tmp_path, before) == after


def test_long_lines_are_broken_as_gettext_does(tmp_path: Path) -> None:
    words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore"
    source = f'msgid ""\n"{words[:60]}"\n"{words[60:]}"\nmsgstr ""\n'
    lines = entry(tmp_path, source).splitlines()[3:]
    assert lines == ['msgstr ""', f'"{words[:72].upper()}"', f'"{words[72:].upper()}"'] or all(
        len(line) <= 79 for line in lines
    )
    assert "".join(line.strip('"') for line in lines[1:]) == words.upper()
    wide = entry(tmp_path, source, lambda text: "雨が降る。" * 20).splitlines()[4:]
    assert "".join(line.strip('"') for line in wide) == "雨が降る。" * 20
    assert all(len(line) <= 41 and not line.startswith('"。') for line in wide)
    unbroken = f'msgid ""\n"{words}\\n"\n"x"\nmsgstr ""\n'
    assert entry(tmp_path, unbroken).splitlines()[4] == f'"{words.upper()}\\n"'


@pytest.mark.parametrize("entries", ["empty", "fuzzy", "all"])
def test_a_file_without_a_new_translation_is_written_byte_for_byte(tmp_path: Path, entries: str) -> None:
    data = (
        FRENCH
        + 'msgid "a"\nmsgid_plural "b"\nmsgstr[0] ""\nmsgstr[1] ""\nmsgstr[2] ""\n#, fuzzy\nmsgid "c"\nmsgstr "C"'
    )
    assert translated(tmp_path, data, lambda text: None, entries, "ru") == data


def test_a_text_that_equals_its_source_is_written_with_the_bytes_of_its_source(tmp_path: Path) -> None:
    body = 'msgid ""\n"a very\\n"\n   "odd \\x41"\n"layout"\nmsgstr ""\n'
    assert entry(tmp_path, body, str) == body[:-3] + '""\n"a very\\n"\n   "odd \\x41"\n"layout"\n'
    kept = 'msgid "a"\nmsgstr ""\n"\\x61"\n'
    assert entry(tmp_path, kept, str, entries="all") == kept


@pytest.mark.parametrize(
    ("source", "answer", "written"),
    [
        ("a\\n", "b", "b\\n"),
        ("\\na", "b\n", "\\nb"),
        ("a", "\nb\n", "b"),
        ("a", 'q " \\ \t \r \a \b \f \v', 'q \\" \\\\ \\t \\r \\a \\b \\f \\v'),
        ("a", "nul\0 lone \ud83d", "nul lone \ufffd"),
        ("a", 'x"\nmsgid "b', 'x\\"\\nmsgid \\"b'),
        ("a", "\u2028 \x85 \x1b", "\u2028 \x85 \x1b"),
    ],
)
def test_an_answer_cannot_break_the_file(tmp_path: Path, source: str, answer: str, written: str) -> None:
    out = entry(tmp_path, f'msgid "{source}"\nmsgstr ""\n', lambda text: answer)
    assert out == f'msgid "{source}"\nmsgstr "{written}"\n'


PLURAL = 'msgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] ""\nmsgstr[1] ""\n'
NAMED = PLURAL.replace("%d", "{n}")


@pytest.mark.parametrize(
    ("tgt_lang", "names"),
    [
        ("zh", {"4[0]": "%d files"}),
        ("fr", {"4[0]": "%d file", "4[1]": "%d files"}),
        ("ru", {"4[0]": "%d file", "4[1]": "%d files", "4[2]": "%d files"}),
        ("ar", {"4[0]": "%d files", "4[1]": "%d file"} | {f"4[{form}]": "%d files" for form in range(2, 6)}),
    ],
)
def test_an_entry_gets_as_many_forms_as_the_target_language_has(
    tmp_path: Path, tgt_lang: str, names: dict[str, str]
) -> None:
    data = f"{HEADER}{PLURAL}"
    assert texts(data, tgt_lang=tgt_lang) == names
    out = translated(tmp_path, data, lambda text: f"x {text}", tgt_lang=tgt_lang)
    forms = "".join(f'msgstr[{form}] "x {text}"\n' for form, text in enumerate(names.values()))
    assert out.endswith(f'msgid_plural "%d files"\n{forms}')
    rule = plural.of_language(tgt_lang)
    assert f'"Plural-Forms: {rule.field}\\n"\n' in out
    assert f'"Language: {"zh_CN" if tgt_lang == "zh" else tgt_lang}\\n"\n' in out
    assert not MSGFMT or msgfmt(tmp_path / "b.po", out.encode()) == ""


def test_a_form_for_several_numbers_is_made_from_the_text_that_writes_the_number() -> None:
    data = 'msgid "One file"\nmsgid_plural "%d files"\nmsgstr[0] ""\nmsgstr[1] ""\n'
    assert list(texts(data, tgt_lang="ru").values()) == ["%d files"] * 3  # the first one is also for 21
    assert list(texts(data, tgt_lang="de").values()) == ["One file", "%d files"]


def test_only_the_missing_forms_of_an_entry_are_translated_and_others_too_many_are_removed(tmp_path: Path) -> None:
    body = 'msgid "%d a"\nmsgid_plural "%d b"\nmsgstr[0] "%d X"\nmsgstr[1] "%d Y"\n'
    out = translated(tmp_path, HEADER + body, tgt_lang="ru")
    assert out.endswith('msgstr[0] "%d X"\nmsgstr[1] "%d Y"\nmsgstr[2] "%D B"\n')
    out = translated(tmp_path, HEADER + body + 'msgid "c"\nmsgstr ""\n', tgt_lang="ja")
    assert out.endswith('msgid_plural "%d b"\nmsgstr[0] "%d X"\nmsgid "c"\nmsgstr "C"\n')


def test_an_entry_of_which_a_form_has_no_translation_stays_empty(tmp_path: Path) -> None:
    other = 'msgid "c"\nmsgstr ""\n'
    out = translated(tmp_path, HEADER + PLURAL + other, lambda text: None if "files" in text else "x", tgt_lang="ru")
    assert out.endswith('msgstr[0] ""\nmsgstr[1] ""\nmsgstr[2] ""\nmsgid "c"\nmsgstr "x"\n')


def test_the_rule_of_a_catalogue_in_the_target_language_is_kept(tmp_path: Path) -> None:
    own = HEADER + '"Language: fr_CA\\n"\n"Plural-Forms: nplurals=3; plural=n==0?0:n==1?1:2;\\n"\n\n'
    assert len(texts(own + PLURAL)) == 3
    assert translated(tmp_path, own + PLURAL, lambda text: f"x {text}").startswith(own)
    assert len(texts(own.replace("fr_CA", "de") + PLURAL)) == 2
    broken = own.replace("nplurals=3; plural=n==0?0:n==1?1:2", "nplurals=INTEGER; plural=EXPRESSION")
    assert '"Plural-Forms: nplurals=2; plural=(n > 1);\\n"' in translated(
        tmp_path, broken + PLURAL, lambda text: "x %d"
    )


@needs_msginit
@pytest.mark.parametrize(
    "code", ["en", "fr", "pt", "es", "ja", "tr", "ru", "ko", "it", "de", "vi", "pl", "cs", "nl", "he", "uk"]
)
def test_the_plural_rules_are_those_of_gettext(tmp_path: Path, code: str) -> None:
    (tmp_path / "a.pot").write_text(HEADER + "\n" + PLURAL)
    command = ["msginit", "--no-translator", "-l", code, "-i", str(tmp_path / "a.pot"), "-o", "-", "--no-wrap"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"Plural-Forms: {plural.of_language(code).field}\\n" in out


def test_only_language_plural_forms_and_charset_of_the_header_change(tmp_path: Path) -> None:
    fields = [
        "Project-Id-Version: x 1\\n", "POT-Creation-Date: 2020-01-01 00:00+0000\\n",
        "PO-Revision-Date: YEAR-MO-DA HO:MI+ZONE\\n", "Last-Translator: FULL NAME <EMAIL@ADDRESS>\\n",
        "Language-Team: LANGUAGE <LL@li.org>\\n", "Language: \\n", "MIME-Version: 1.0\\n",
        "Content-Type: text/plain; charset=CHARSET\\n", "Content-Transfer-Encoding: 8bit\\n",
        "Plural-Forms: nplurals=INTEGER; plural=EXPRESSION;\\n",
    ]  # fmt: skip
    template = "".join(f'"{field}"\n' for field in fields)
    data = f'# T.\n#, fuzzy\nmsgid ""\nmsgstr ""\n{template}\n{PLURAL}'
    out = translated(tmp_path, data, lambda text: f"é {text}", tgt_lang="zh-Hant")
    expected = template.replace('"Language: ', '"Language: zh_TW').replace("CHARSET", "UTF-8")
    expected = expected.replace("nplurals=INTEGER; plural=EXPRESSION", "nplurals=1; plural=0")
    assert out.startswith(f'# T.\nmsgid ""\nmsgstr ""\n{expected}\nmsgid "%d file"')
    one_line = f'msgid ""\nmsgstr "{fields[0]}{fields[5]}{fields[7]}"\n\nmsgid "a"\nmsgstr ""\n'
    assert '"Language: fr\\n"\n' in translated(tmp_path, one_line)
    assert translated(tmp_path, one_line) == translated(tmp_path, one_line)


def test_a_file_without_a_header_gets_one_only_where_it_is_needed(tmp_path: Path) -> None:
    assert translated(tmp_path, 'msgid "a"\nmsgstr ""\n') == 'msgid "a"\nmsgstr "A"\n'
    out = translated(tmp_path, '\ufeffmsgid "a"\r\nmsgstr ""\r\n', lambda text: "é")
    assert out.startswith('\ufeffmsgid ""\r\nmsgstr ""\r\n"Language: fr\\n"\r\n"MIME-Version: 1.0\\n"\r\n')
    assert "charset=UTF-8" in out and out.endswith('\r\n\r\nmsgid "a"\r\nmsgstr "é"\r\n')
    assert "nplurals=3" in translated(tmp_path, PLURAL, lambda text: text, tgt_lang="ru")


CHARSETS = ["ISO-8859-1", "ISO-8859-15", "SHIFT_JIS", "EUC-JP", "BIG5", "GBK", "GB18030", "EUC-KR", "KOI8-R", "CP1251"]


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_catalogue_is_read_and_written_in_its_charset(tmp_path: Path, charset: str) -> None:
    sample = {"SHIFT_JIS": "表ソ能", "BIG5": "功許蓋", "GBK": "乗誠", "GB18030": "乗誠䶮", "EUC-JP": "表ソ"}.get(
        charset
    )
    sample = sample or {"EUC-KR": "한국", "KOI8-R": "дождь", "CP1251": "дождь"}.get(charset, "été")
    data = f'{HEADER}"Language: fr\\n"\n\n# {sample}\nmsgid "{sample}\\"\\n"\nmsgstr ""\n'.replace("UTF-8", charset)
    raw = data.encode(charset)
    assert list(texts(raw).values()) == [f'{sample}"\n']
    out = translated_bytes(tmp_path / "a.po", raw, lambda text: f"{text} {sample}")
    assert out == data.replace('msgstr ""\n', f'msgstr "{sample}\\"\\n {sample}\\n"\n', 2).replace(
        f'msgstr "{sample}\\"\\n {sample}\\n"\n', 'msgstr ""\n', 1
    ).encode(charset)
    out = translated_bytes(tmp_path / "a.po", raw, lambda text: "\U0001f600 雨 é Ж")
    if charset == "GB18030":
        assert out.decode(charset).endswith('msgstr "\U0001f600 雨 é Ж\\n"\n')
    else:
        assert out.decode() == data.replace(charset, "UTF-8").removesuffix('""\n') + '"\U0001f600 雨 é Ж\\n"\n'


def test_a_new_translation_of_a_fuzzy_entry_is_not_fuzzy_and_one_with_a_flag_is_on_request(tmp_path: Path) -> None:
    old = (
        '# n\n#, fuzzy, c-format\n#| msgid ""\n#| "old"\nmsgid "a"\nmsgstr "x"\n\n'
        '#,fuzzy\n#: a.c\nmsgid "b"\nmsgstr "y"\n'
    )
    new = '# n\n#, c-format\nmsgid "a"\nmsgstr "A"\n\n#: a.c\nmsgid "b"\nmsgstr "B"\n'
    assert entry(tmp_path, old, entries="fuzzy") == new
    assert entry(tmp_path, old, entries="empty") == old
    flagged: Translate = lambda text: f"{text}!flagged"  # noqa: E731
    plain = '# n\nmsgctxt "m"\nmsgid "a"\nmsgstr ""\n\n#: a\n#, c-format\n#| msgid "o"\nmsgid "b"\nmsgstr ""\n'
    marked = entry(tmp_path, plain, flagged, fuzzy=True)
    assert marked.startswith(
        '# n\n#, fuzzy\nmsgctxt "m"\nmsgid "a"\nmsgstr "a!flagged"\n\n#: a\n#, fuzzy, c-format\n#| '
    )
    assert "fuzzy" not in entry(tmp_path, plain, flagged)
    assert "fuzzy" not in entry(tmp_path, plain, fuzzy=True)
    one_line = 'msgid "a" msgstr "b" msgid "c" msgstr ""\n'
    assert entry(tmp_path, one_line, flagged, fuzzy=True).count("\n#, fuzzy\n") == 1


@pytest.mark.parametrize(
    ("flag", "source", "answer", "written", "is_fuzzy"),
    [
        ("c-format", "%s has %d", "%d sont à %s", "%2$d sont à %1$s", False),
        ("c-format", "50%% of %s", "50 % de %s", "50 %% de %s", False),
        ("c-format", "%s", "100 % sûr %s", "100 %% sûr %s", False),
        ("python-format", "%s has %d", "%d sont à %s", "%d sont à %s", True),
        ("python-format", "%(a)s %(b)s", "%(b)s %(a)s", "%(b)s %(a)s", False),
        ("no-c-format", "100 % sure", "sûr à 100 %", "sûr à 100 %", False),
    ],
)
def test_directives_are_such_that_a_program_reads_the_right_arguments(
    tmp_path: Path, flag: str, source: str, answer: str, written: str, is_fuzzy: bool
) -> None:
    out = entry(tmp_path, f'#, {flag}\nmsgid "{source}"\nmsgstr ""\n', lambda text: answer)
    assert out == f'#, {"fuzzy, " * is_fuzzy}{flag}\nmsgid "{source}"\nmsgstr "{written}"\n'


def test_the_directives_of_a_flagged_entry_are_codes() -> None:
    body = '#, c-format\nmsgid "%*d of%<PRIu64>"\nmsgstr ""\n#, kde-format\nmsgid "%1 and %2"\nmsgstr ""\n'
    assert [[code for code, _ in place.codes] for place in places(body)] == [["%*d", "%<PRIu64>"], ["%1", "%2"]]


ANSWERS = [
    '"',
    "\\",
    "\n",
    "\r\n",
    'msgid "',
    'msgstr "x"\n',
    "#~ x",
    "# x",
    "[0]",
    "\ud83d",
    "\0",
    "%",
    "{",
    "é",
    "雨",
]


PIECES = ["text %d", "a\\nb", "\\n", "{x}", '\\"q\\"', " "]
HEADS = ["", "# c\n", "#, fuzzy\n", "#, c-format\n", '#| msgid "old"\n', '#~ msgid "o"\n#~ msgstr ""\n']


def random_file(rng: random.Random) -> str:
    """Return a catalogue with entries of every kind."""
    entries = []
    for index in range(8):
        strings = [f"{rng.choice(PIECES)}{index}" for _ in range(rng.randint(1, 3))]
        id = "\n".join(f'"{string}"' for string in strings)
        head = rng.choice(HEADS)
        old = rng.choice(['""', '"kept"', '""\n"two"\n" lines"'])
        forms = "".join(f"msgstr[{form}] {old}\n" for form in range(rng.randint(1, 4)))
        context = rng.choice(["", f'msgctxt "c{index}"\n'])
        entries.append(f"{head}{context}msgid {id}\n" + rng.choice([f"msgstr {old}\n", f"msgid_plural {id}\n{forms}"]))
    return rng.choice(["", HEADER + "\n", FRENCH]) + "\n".join(entries)


def test_whatever_is_answered_every_file_is_parsed_and_has_the_answers(tmp_path: Path) -> None:
    polib = pytest.importorskip("polib")
    rng, path = random.Random(17), tmp_path / "a.po"
    for round, tgt_lang in zip(range(120), itertools.cycle(["fr", "ru", "zh", "ar"]), strict=False):
        data = random_file(rng).replace("\n", rng.choice(["\n", "\r\n"]))
        entries = rng.choice(["empty", "fuzzy", "all"])

        def answer(text: str) -> str | None:
            pieces = [rng.choice([*ANSWERS, text]) for _ in range(3)]
            return rng.choice([None, text, "".join(pieces)])

        out = translated_bytes(path, data.encode(), answer, entries=entries, tgt_lang=tgt_lang)
        catalogue = Catalogue(out)
        left, every = catalogue.count_places(PlaceOptions(entries=entries, tgt_lang=tgt_lang))
        num_places = len(places(data, entries, tgt_lang))
        assert left <= num_places <= every
        parsed = polib.pofile(out.decode())
        assert len([item for item in parsed if not item.obsolete]) == 8
        if MSGFMT and round % 6 == 0 and "Content-Type" in out.decode():
            problem = msgfmt(tmp_path / "b.po", out)
            assert "syntax" not in problem and "nplurals" not in problem, problem


def test_no_byte_of_another_entry_changes(tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(60):
        data = FRENCH + random_file(rng).removeprefix(HEADER).removeprefix(FRENCH).lstrip()
        found = [place for place in places(data, "all") if "[" not in place.name and place.text]
        if not found or any(place.name.count("[") for place in places(data, "all")):
            continue
        chosen = rng.choice(found)
        out = translated(tmp_path, data, lambda text, chosen=chosen: "NEW" if text == chosen.text else None, "all")
        others = [(place.text, data[place.start : place.end]) for place in found if place.text != chosen.text]
        assert [
            (place.text, out[place.start : place.end]) for place in places(out, "all") if place.text != chosen.text
        ] == others


def test_reading_and_writing_takes_linear_time(tmp_path: Path) -> None:
    for data in ('msgid "' + "\\\\" * 500_000 + '"\nmsgstr ""\n', 'msgid ""\n' + '"x"\n' * 100_000 + 'msgstr ""\n'):
        assert len(translated(tmp_path, data)) > 100_000
    many = "".join(f'# c\nmsgid "{index}"\nmsgstr ""\n' for index in range(20_000))
    assert translated(tmp_path, many).count('msgstr ""') == 0
    with pytest.raises(UnreadableFileError):
        places("msgid" + " " * 1_000_000 + "x")


def test_a_job_translates_catalogues_and_templates_in_their_place(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.po").write_text(FRENCH + 'msgid "rain"\nmsgstr "pluie"\n\nmsgid "sun"\nmsgstr ""\n' + NAMED)
    (tmp_path / "in/b.pot").write_text('msgid "snow {n}"\nmsgstr ""\n')
    (tmp_path / "in/bad.po").write_text('msgid "a"\n')
    settings = (f"source.path={tmp_path / 'in'}", "name=n", "check.max_failed_files=1", "batch.part_rows=1")
    result = job(*settings)
    assert (result.rows, [file.rel for file in result.failed]) == (5, ["bad.po"])
    assert "bad.po:2 missing 'msgstr' section" in result.failed[0].why
    folder = tmp_path / "out/n"
    assert (folder / "translated/a.po").read_text().endswith('msgstr[0] "{n} FILE"\nmsgstr[1] "{n} FILES"\n')
    assert (folder / "translated/b.pot").read_text() == 'msgid "snow {n}"\nmsgstr "SNOW {n}"\n'
    assert verify.verify(folder, inputs=True).exit_code is ExitCode.COMPLETE
    assert job(*settings).num_rows_decoded == 0
    assert job(*settings, "write.fuzzy=true").num_rows_decoded == 0
    marked = (folder / "translated/b.pot").read_text()
    assert marked.startswith("#, fuzzy\n")  # its code had to be put back
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE


def test_templates_are_found_in_a_folder_when_the_format_is_set(tmp_path: Path) -> None:
    for name in ("a.po", "b.pot", "c.txt"):
        (tmp_path / name).write_text('msgid "a"\nmsgstr ""\n')
    found = discovery.find_inputs(SourceConfig(path=str(tmp_path), format=SourceFormat("po")))
    assert [input.rel for input in found] == ["a.po", "b.pot"]


def test_with_a_limit_the_other_entries_stay_and_an_error_names_its_entry(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "a.po"
    path.write_text(f'{FRENCH}msgid "{"x" * 200}"\nmsgstr ""\nmsgid "b"\nmsgstr ""\nmsgid "c"\nmsgstr ""\n')
    result = job(
        f"source.path={path}", "name=n", "source.limit=2", "source.max_row_bytes=100", "check.max_error_rate=1"
    )
    assert dict(result.counts) == {"ok": 1, "too_long": 1, "not_selected": 1}
    out = (tmp_path / "out/n/translated/a.po").read_text()
    assert out == path.read_text().replace('msgid "b"\nmsgstr ""', 'msgid "b"\nmsgstr "B"')
    (line,) = (tmp_path / "out/n/errors/a.po.errors.jsonl").read_text().splitlines()
    error = json.loads(line)
    assert (error["id"], error["raw"]) == ("a.po#7", f'"{"x" * 200}"')
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE


def test_all_entries_of_a_job_are_counted_again_by_verify(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "a.po"
    path.write_text(FRENCH + NAMED + 'msgid "c"\nmsgstr "C"\n')
    assert job(f"source.path={path}", "name=n", "source.entries=all", "tgt_lang=ru").rows == 4
    assert verify.verify(tmp_path / "out/n").exit_code is ExitCode.COMPLETE
    assert 'msgstr[2] "{n} FILES"\n' in (tmp_path / "out/n/translated/a.po").read_text()


def test_a_combining_mark_takes_no_column_and_stays_on_the_line_of_its_letter() -> None:
    letter = "か\u3099"

    written = strings.write(letter * 60, "msgstr ", strings.Layout(is_single=False))

    assert written.split("\n") == ['""', f'"{letter * 38}"', f'"{letter * 22}"']
