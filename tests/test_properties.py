"""Java .properties: the values are found as Java finds them, and only they are replaced."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hymt_batch.formats.properties import PropertiesFile
from hymt_batch.formats.spliced import Place, PlaceOptions
from hymt_batch.records import Status


def places(data: bytes) -> list[Place]:
    return list(PropertiesFile(data).places(PlaceOptions()))


def values(data: bytes) -> list[str | None]:
    return [place.text for place in places(data)]


def replace_values(data: bytes, texts: dict[str, str]) -> bytes:
    """Write texts into the places of these names; the others keep their bytes."""
    parsed, out, at = PropertiesFile(data), b"", 0
    for place in parsed.places(PlaceOptions()):
        old = data[place.start : place.end]
        out += data[at : place.start] + (parsed.encode(place, texts[place.name]) if place.name in texts else old)
        at = place.end
    return out + data[at:]


class JavaError(ValueError):
    """Java refuses the file."""


def java_load(text: str) -> list[tuple[str, str]]:
    """Do what java.util.Properties.load does, character by character: the entries, repeated keys included.

    Source: LineReader.readLine, load0 and loadConvert of OpenJDK 21.
    """
    return [java_entry(line) for line in java_lines(text)]


def java_entry(line: str) -> tuple[str, str]:
    length, start, has_separator, preceded = 0, len(line), False, False
    while length < len(line):
        char = line[length]
        if char in "=:" and not preceded:
            start, has_separator = length + 1, True
            break
        if char in " \t\f" and not preceded:
            start = length + 1
            break
        preceded = char == "\\" and not preceded
        length += 1
    while start < len(line):
        if line[start] not in " \t\f":
            if has_separator or line[start] not in "=:":
                break
            has_separator = True
        start += 1
    return java_convert(line[:length]), java_convert(line[start:])


def java_lines(text: str) -> list[str]:
    lines, line, skip_space, continued, comment, preceded = [], "", True, False, False, False
    index = 0
    while index < len(text):
        char = text[index]
        index += 1
        if skip_space:
            if char in " \t\f" or (not continued and char in "\r\n"):
                continue
            skip_space = continued = False
        if not line and char in "#!":
            while index < len(text) and text[index] not in "\r\n":
                index += 1
            comment = True
            continue
        if char not in "\r\n":
            line += char
            preceded = char == "\\" and not preceded
            continue
        if comment or not line:
            line, comment, skip_space = "", False, True
            continue
        if not preceded:
            lines.append(line)
            line, skip_space = "", True
            continue
        line, skip_space, continued, preceded = line[:-1], True, True, False
        if char == "\r" and text[index : index + 1] == "\n":
            index += 1
    if line:
        lines.append(line[:-1] if preceded else line)
    return lines


def java_convert(text: str) -> str:
    out, index = "", 0
    while index < len(text):
        char = text[index]
        index += 1
        if char == "\\":
            char = text[index]
            index += 1
            if char == "u":
                digits = text[index : index + 4]
                if len(digits) < 4 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                    raise JavaError(digits)
                char, index = chr(int(digits, 16)), index + 4
            else:
                char = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}.get(char, char)
        out += char
    return out.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\r\n \t\n", []),
        (b"# comment = no\n! also: no\n  # and this\n", []),
        (b"a=one", ["one"]),
        (b"a=one\nb:two\r\nc three\rd \t= four\n", ["one", "two", "three", "four"]),
        (b"  a  =  one  \n", ["one  "]),
        (b"a==b\nc=:d\ne = = f\n", ["=b", ":d", "= f"]),
        (b"with\\ space\\=\\:=x\n", ["x"]),
        (b"a=one \\\n    two\\\r\n\tthree\n", ["one two\tthree".replace("\t", "")]),
        (b"a=\\\n  first\n", ["first"]),
        (b"a\\\n  b = c\n", ["c"]),
        (b"a=one\\\\\nb=two\n", ["one\\", "two"]),
        (b"a=one\\\\\\\nb=two\n", ["one\\b=two"]),
        (b"a=x\\\n\nb=y\n", ["x", "y"]),
        (b"a=# no comment\n# a comment\\\nb=two\n", ["# no comment", "two"]),
        (b"a=x\\\n# part of the value\n", ["x# part of the value"]),
        (b"key\nkey2=\nkey3 \n", ["", "", ""]),
        (b"=no key\n", ["no key"]),
        (b"a=\\t\\n\\r\\f\\q\\\\\\\"\n", ["\t\n\r\fq\\\""]),
        (b"a=\\u00e9\\u4F60\\uD83D\\uDE00\n", ["é你😀"]),
        (b"a=\\u00\\\n  e9\n", ["é"]),
        ("a=é你😀\n".encode(), ["é你😀"]),
        ("a=é\n".encode("latin-1"), ["é"]),
        (b"\xef\xbb\xbf# comment\na=one\n", ["one"]),
        (b"a=one\0two\n", ["one\0two"]),
        (b"a=one\\", ["one"]),
        (b"a=1\na=2\n", ["1", "2"]),
    ],
)  # fmt: skip
def test_the_values_are_those_that_java_reads(data: bytes, expected: list[str]) -> None:
    assert values(data) == expected
    text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1" if b"\xe9" in data else "utf-8")
    assert [value for _, value in java_load(text)] == expected


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"a=\\u12\n", Status.BAD_ROW, "has \\u without four hexadecimal digits. Complete the escape, or double the"),
        (b"a=\\u", Status.BAD_ROW, "has \\u without"),
        (b"a=C:\\users\n", Status.BAD_ROW, "has \\u without"),
        (b"a=\\ud83d\n", Status.BAD_ENCODING, "has half of a surrogate pair in \\u escapes"),
        (b"\xef\xbb\xbfa=\xe9\n", Status.BAD_ENCODING, "is not UTF-8: byte 0xe9 at offset 0 of the value"),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error_and_the_next_one_is_read(
    data: bytes, status: Status, message: str
) -> None:
    first, second = places(data.rstrip(b"\n") + b"\nb=fine\n")
    assert first.text is None
    assert first.error is not None
    assert first.error.status is status
    assert str(first.error).startswith(message)
    assert (second.text, second.name) == ("fine", "2")


def test_a_place_is_named_by_the_line_of_its_key() -> None:
    data = b"# one\r\n\r\na=1 \\\r\n  more\rb=2\nb=3\n\n\n  c=4"
    assert [place.name for place in places(data)] == ["3", "5", "6", "9"]


@pytest.mark.parametrize(
    ("data", "text", "expected"),
    [
        (b"a=x\n", "  two spaces", b"a=\\  two spaces\n"),
        (b"a x\n", "= and : first", b"a \\= and : first\n"),
        (b"a=x\n", "tab\tline\nreturn\rfeed\f", b"a=tab\\tline\\nreturn\\rfeed\\f\n"),
        (b"a=x\n", "back\\slash \0 \x1b \x7f", b"a=back\\\\slash \\u0000 \\u001b \\u007f\n"),
        (b"a=x\n", "é 你 😀", b"a=\\u00e9 \\u4f60 \\ud83d\\ude00\n"),
        (b"a=x\n# \xe9\n", "é", b"a=\\u00e9\n# \xe9\n"),
        ("a=x\n# ü\n".encode(), "é 你 😀", "a=é 你 😀\n# ü\n".encode()),
        (b"a : one \\\r\n  two\r\nb=c", "un deux", b"a : un deux\r\nb=c"),
    ],
)
def test_a_text_is_written_with_the_escapes_and_in_the_encoding_of_the_file(
    data: bytes, text: str, expected: bytes
) -> None:
    name = places(data)[0].name
    assert replace_values(data, {name: text}) == expected
    assert values(expected)[0] == text


@pytest.mark.parametrize(
    ("value", "text", "translation", "expected"),
    [
        (b"Can''t open {0}", "Can't open {0}", "Impossible d'ouvrir {0}", b"Impossible d''ouvrir {0}"),
        (b"{0} files", "{0} files", "l'article {0}", b"l''article {0}"),
        (b"{0,number,integer} of {1}", "{0,number,integer} of {1}", "{0,number,integer}'s", b"{0,number,integer}''s"),
        (b"Can't open {0}", "Can't open {0}", "n'ouvre pas {0}", b"n'ouvre pas {0}"),
        (b"quoted '{'0'}' {0}", "quoted '{'0'}' {0}", "x '{'0'}' {0}", b"x '{'0'}' {0}"),
        (b"Can''t open", "Can''t open", "n'ouvre pas", b"n'ouvre pas"),
        (b"no {name} here", "no {name} here", "pas d'{name}", b"pas d'{name}"),
        ("it{0}\\u0027\\u0027s é".encode(), "it{0}'s é", "c'est {0} é", "c''est {0} é".encode()),
    ],
)
def test_an_apostrophe_is_doubled_where_the_value_is_a_pattern_of_message_format(
    value: bytes, text: str, translation: str, expected: bytes
) -> None:
    data = b"a=%s\n" % value
    assert values(data) == [text]
    assert replace_values(data, {"1": translation}) == b"a=%s\n" % expected
    assert replace_values(data, {"1": text}) == data


PIECES = [b"\\", b"\n", b"\r", b"\r\n", b"=", b":", b" ", b"\t", b"\f", b"#", b"!", b"\\u12", b"\\u00e9", b"key", b"\0"]
PIECES += [
    "é".encode(),
    "😀".encode(),
    b"\xe9",
    b"\\ud83d",
    b"\\uDE00",
    b"\xef\xbb\xbf",
    b"text text",
    b"{0}",
    b"'",
    b"''",
]
files = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join) | st.binary(max_size=60)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=400)
@given(data=files)
@example(b"a=\\\n#b\n")
@example(b"\\\n#b\nc")
@example(b"\\")
def test_any_file_has_the_entries_that_java_reads(data: bytes) -> None:
    if data.startswith(b"\xef\xbb\xbf"):
        return  # Java takes the mark for a part of the first key
    text = data.decode("utf-8" if is_utf8(data) else "latin-1")
    found, lines = places(data), java_lines(text)
    assert len(found) == len(lines)
    for place, line in zip(found, lines, strict=True):
        try:
            _, expected = java_entry(line)
        except JavaError:
            continue  # also for an escape in a key, which is not read here
        if place.text is None:
            assert place.error is not None
            assert re.search("[\ud800-\udfff]", expected)
        else:
            is_pattern = re.search(r"\{\s*\d+\s*[,}]", expected) and re.fullmatch(r"([^']|'')*", expected)
            assert place.text == (expected.replace("''", "'") if is_pattern else expected)


@settings(max_examples=300)
@given(data=files)
def test_places_and_gaps_are_the_file_and_names_are_unique(data: bytes) -> None:
    found = places(data)
    bounds = [0, *(bound for place in found for bound in (place.start, place.end)), len(data)]
    assert bounds == sorted(bounds)
    assert replace_values(data, {}) == data
    assert len({place.name for place in found}) == len(found)


@settings(max_examples=400)
@given(data=files, text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_text_in_any_place_of_any_file_is_read_back_and_changes_no_other_place(data: bytes, text: str) -> None:
    before = places(data)
    for place in before:
        if place.text:  # a blank place is never translated
            written = replace_values(data, {place.name: text})
            assume(is_utf8(written) == is_utf8(data))  # the rest of an ISO-8859-1 file may happen to be UTF-8
            after = places(written)
            assert [other.text if other.name != place.name else text for other in before if not other.error] == [
                other.text for other, old in zip(after, before, strict=True) if not old.error
            ]
            return


def test_arguments_that_choose_one_of_several_texts_are_codes_except_in_earlier_plans() -> None:
    choice, plural = (
        "{0,choice,0#no files|1#one file|1<{0} files}",
        "{n, plural, one {# {x, select, other {y}}} other {z}}",
    )
    data = f"a=There are {choice} and {plural} here\nb={{0}} plain {{1,date}}\nc=broken {{0,choice,0#x\n".encode()
    file = PropertiesFile(data)
    assert [place.codes for place in file.places(PlaceOptions())] == [((choice, ""), (plural, "")), (), ()]
    assert not any(place.codes for place in file.places(PlaceOptions(plan_version=6)))
