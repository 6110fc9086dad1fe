"""JSON trees: every string is a place with a readable id, and nothing but texts changes."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.codes import SourceCodes
from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.json_tree.tokenizer import MAX_DEPTH, MAX_NAME_CHARS
from hymt_batch.formats.spliced import Place, PlaceOptions, UnreadableFileError
from jobs import __main__ as front
from tests.fakes.job import Job


def splice(data: bytes, change: Callable[[str], str], options: PlaceOptions = PlaceOptions()) -> bytes:  # noqa: B008
    file = JsonTreeFile(data)
    out, at = b"", 0
    for place in file.places(options):
        assert at <= place.start <= place.end
        new = file.encode(place, change(place.text)) if place.text else data[place.start : place.end]
        out, at = out + data[at : place.start] + new, place.end
    return out + data[at:]


def places(data: bytes, **options: Any) -> list[Place]:
    return list(JsonTreeFile(data).places(PlaceOptions(**options)))


def names(value: str) -> list[str]:
    return [place.name for place in places(value.encode())]


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)


def test_a_place_has_the_path_of_its_keys_whatever_they_are() -> None:
    data = (
        '{"a": {"b.c": ["x y", {"Two words": "z z"}]}, "": "e e", "a\\n": "n n", "[0]": "i i", "#": "h h", "é": "u u"}'
    )
    assert names(data) == ['a["b.c"][0]', 'a["b.c"][1].Two words', '[""]', '["a\\n"]', '["[0]"]', '["#"]', "é"]
    assert names('{"k": "a a", "k": {"x": "b b"}, "k": {"x": "c c"}}') == ["k", "k(2).x", "k(3).x"]
    assert names('{"k(2)": "a", "k": "b", "k": "c"}') == ['["k(2)"]', "k", "k(2)"]
    assert names('"only a text"') == ["$"]
    assert names('[["a"], "b"]') == ["[0][0]", "[1]"]
    assert names('{"\\ud800": "a"}') == ['["\\ud800"]']


def test_names_are_unique_and_short_whatever_the_keys_are() -> None:
    rng = random.Random(11)
    alphabet = ["a", ".", "[", "]", "(2)", '\\"', "\\\\", " ", "0", "~", "é", "\\u2028"]

    def value(depth: int) -> str:
        if depth == 0 or rng.random() < 0.3:
            return '"some text"'
        if rng.random() < 0.3:
            return f"[{', '.join(value(depth - 1) for _ in range(3))}]"
        keys = ("".join(rng.choices(alphabet, k=rng.choice((0, 1, 2, 3, 150)))) for _ in range(4))
        return f"{{{', '.join(f'{json.dumps(key)[0]}{key}{json.dumps(key)[0]}: {value(depth - 1)}' for key in keys)}}}"

    for _ in range(60):
        found = names(value(5))
        assert len(set(found)) == len(found)
        assert all(len(name) <= MAX_NAME_CHARS and not name.splitlines()[1:] for name in found)


STYLES = {
    "ascii": '{"a": "caf\\u00e9 <b>", "b": "/x y"}',
    "utf-8": '{"a": "café <b>", "b": "/x y"}',
    "php": '{"a": "caf\\u00E9 \\/ x", "b": "x y"}',
    "plain": '{"a": "x <b>", "b": "x y \\n"}',
    "go": '{"a": "x \\u003cb\\u003e", "é": "x y \\u0026 z"}',
}


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("ascii", r"\u00e9/<&\n\"\\\u0001\ud83d\ude00\ufffd"),
        ("utf-8", 'é/<&\\n\\"\\\\\\u0001\U0001f600\ufffd'),
        ("php", r"\u00E9\/<&\n\"\\\u0001\uD83D\uDE00\uFFFD"),
        ("plain", 'é/<&\\n\\"\\\\\\u0001\U0001f600\ufffd'),  # English has no letter that shows how others are written
        ("go", 'é/\\u003c\\u0026\\n\\"\\\\\\u0001\U0001f600\ufffd'),
    ],
)
def test_a_translation_has_the_escapes_of_its_file(style: str, expected: str) -> None:
    data = STYLES[style].encode()
    file = JsonTreeFile(data)
    place = next(iter(file.places(PlaceOptions())))
    assert file.encode(place, 'é/<&\n"\\\x01\U0001f600\ud800').decode() == expected
    assert splice(data, lambda text: text) == data


HOSTILE = [
    '"',
    "\\",
    '"}',
    "\n",
    "\r\n",
    "\x00",
    "\x1f",
    "\ud800",
    "\udc00\ud800",
    "\u2028",
    "]}",
    "\\u0022",
    "\\\\",
    "{{",
    "'",
]


def test_whatever_the_model_answers_the_output_parses_and_holds_the_answer() -> None:
    rng = random.Random(4)
    for _ in range(300):
        value = {f"k{index}": rng.choice(("a text", ["b text", {"c": "d"}], 5, None)) for index in range(4)}
        data = json.dumps(value, indent=rng.choice((None, 2)), ensure_ascii=rng.random() < 0.5).encode()
        data = rng.choice((data, b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n")))
        answers: list[str] = []

        def answer(text: str) -> str:
            answers.append(f"{''.join(rng.choices(HOSTILE, k=3))}x{text}{''.join(rng.choices(HOSTILE, k=3))}")  # noqa: B023
            return answers[-1]  # noqa: B023

        out = json.loads(splice(data, answer).decode("utf-8-sig"))
        expected = ["".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text) for text in answers]
        assert list(leaves(out)) == expected
        assert json.dumps(out).count(":") >= json.dumps(value).count(":")


@pytest.mark.parametrize(
    "text",
    (
        *("", "  ", "5", "1,234.5 %", "{{x}}", "{name} – {n}", "%s: %(n)d", "https://a.b/c?d", "a@b.co", "#ff8800"),
        *("#FFF", "rgb(1, 2, 3)", "<br/>", "&nbsp;", "$t(key)", "${x}", "mailto:a@b.co", "//cdn.x.org/a.js"),
        *("www.a.org", "→"),
    ),
)
def test_a_string_without_a_letter_outside_codes_is_a_place_that_is_not_translated(text: str) -> None:
    (place,) = places(json.dumps([text]).encode())
    assert place.text == ""


@pytest.mark.parametrize("text", ["a", "雨", "Open {name}", "see https://a.b", "#hash tag", "<b>x</b>", "100 km", "й"])
def test_a_string_with_a_word_is_translated(text: str) -> None:
    (place,) = places(json.dumps([text]).encode())
    assert place.text == text


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 1, "is empty"),
        (b"\n{", 2, "ends too early"),
        (b'{"a": 1,\n}', 2, "comma before a closing bracket"),
        (b"[1,\n]", 2, "comma before a closing bracket"),
        (b'{"a": "x"\r"b": 2}', 2, "where a comma or the end of an object must stand"),
        (b'["a"\r\n"b"]', 2, "where a comma or the end of an array must stand"),
        (b'{"a": "x\ny"}', 1, "control character"),
        (b'{"a": "\\x"}', 1, "escape that JSON does not have"),
        (b'{// c\n"a": 1}', 1, "comment"),
        (b"{'a': 1}", 1, "where a key must stand"),
        (b'{"a"}', 1, "key without a colon"),
        (b'{"a": }', 1, "where a value must stand"),
        (b'{"a": 01}', 1, "where a value must stand"),
        (b'{"a": True}', 1, "where a value must stand"),
        (b'{"a": 1}\n{"a": 2}', 2, "second value"),
        (b"[" * (MAX_DEPTH + 1), 1, "nested more than 1000 deep"),
        (b"\xff\xfe{", 1, "where a value must stand"),
    ],
)
def test_what_is_not_json_is_a_failed_file_with_the_line(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(UnreadableFileError, match=reason) as caught:
        JsonTreeFile(data)
    assert caught.value.line == line


def test_every_json_value_is_read_and_nothing_else() -> None:
    rng = random.Random(8)
    base = b'{"a": [1, -2.5e+3, true, null, "x\\u00e9", {}], "b": {"c": [], "d": "\\\\"}, "e": NaN}'
    for _ in range(4000):
        data = bytearray(base)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(data))
            rng.choice((data.pop, lambda at, data=data: data.insert(at, rng.choice(b'"\\{}[],: 0-.eE\tu'))))(at)  # type: ignore[misc]
        try:
            expected = list(leaves(json.loads(data)))
            is_json = True
        except ValueError:
            is_json = False
        try:
            found = places(bytes(data))
        except UnreadableFileError:
            assert not is_json, data
        else:
            assert is_json, data
            assert len(found) >= len(expected)  # a key may occur twice
            assert splice(bytes(data), lambda text: text) == data


def test_time_is_linear_and_nesting_is_bounded() -> None:
    def seconds(data: bytes) -> float:
        begun = time.process_time()
        with contextlib.suppress(UnreadableFileError):
            places(data)
        return time.process_time() - begun

    for make in (
        lambda n: b'["' + b"\\\\" * n + b'"]',
        lambda n: b'["' + b"a" * n,
        lambda n: b'{"' + b"k" * n + b'": "v"}',
        lambda n: b"[" * 990 + b'"a",' * n,
        lambda n: b"[" + b" " * n + b'"x y"' + b" " * n + b"]",
        lambda n: b'{"a": "x",' * 900 + b'"b":' + b"1" * n,
        lambda n: b'["' + b"{" * n + b'a"]',
        lambda n: b'["' + b"{a, plural, other {" * n + b'"]',
    ):
        short, long = seconds(make(20_000)), seconds(make(200_000))
        assert long < 5 and long < 30 * short + 0.2


def test_links_to_other_keys_are_codes_except_in_earlier_plans() -> None:
    data = b'{"a": "See @:menu.open-file. and @.lower:(menu.x), a@b.org, $t(k) it", "b": "at 5 @: x"}'
    expected = [(("@:menu.open-file", ""), ("@.lower:(menu.x)", ""), ("$t(k)", "")), ()]
    assert [place.codes for place in places(data)] == expected
    assert [place.codes for place in places(data, plan_version=6)] == [(("$t(k)", ""),), ()]


def test_metadata_of_a_resource_bundle_are_gaps() -> None:
    bundle = {
        "@@locale": "en",
        "hello": "Hello",
        "@hello": {"description": "a word", "placeholders": {"x": {"example": "y z"}}},
    }
    assert [place.name for place in places(json.dumps(bundle).encode())] == ["hello"]
    assert [place.name for place in places(b'{"@context": "a text", "name": {"@x": "b c"}}')] == ["@context", "name.@x"]


@pytest.mark.parametrize(
    ("locale", "tgt_lang", "expected"),
    [
        ("en", "fr", "fr"),
        ("en_US", "zh-TW", "zh_Hant"),
        ("en-US", "zh-TW", "zh-Hant"),
        ("fr_CA", "fr", "fr_CA"),  # it names the target language already
    ],
)
def test_the_locale_of_a_translated_bundle_becomes_the_target_language(
    tmp_path: Path, locale: str, tgt_lang: str, expected: str
) -> None:
    data = b'{\n  "@@locale": "%s",\n  "a": "rain",\n  "@a": {"@@locale": "en"}\n}\n' % locale.encode()
    written = run(tmp_path, data, f"tgt_lang={tgt_lang}")
    assert written == data.replace(b"rain", b"RAIN").replace(f'"{locale}",'.encode(), f'"{expected}",'.encode())


@pytest.mark.parametrize(
    "data", [b'{"@@locale": "en", "a": "{x}"}', b'{"a": "{x}", "@@locale": "en"}', b'{"@@locale": ""}']
)
def test_the_locale_of_a_bundle_of_which_nothing_is_translated_stays(tmp_path: Path, data: bytes) -> None:
    assert run(tmp_path, data) == data


def test_the_locale_of_a_bundle_is_found_after_its_texts_too(tmp_path: Path) -> None:
    assert run(tmp_path, b'{"a": "rain", "@@locale": "en"}') == b'{"a": "RAIN", "@@locale": "fr"}'


def test_a_string_that_is_not_utf8_or_half_a_surrogate_pair_keeps_its_bytes() -> None:
    data = b'{"a": "caf\xe9", "b": "\\ud83d x", "c": "rain"}'
    found = places(data)
    assert [place.error is not None for place in found] == [True, True, False]
    assert splice(data, str.upper) == data.replace(b"rain", b"RAIN")


def run(tmp_path: Path, data: bytes, *overrides: str) -> bytes:
    (tmp_path / "en.json").write_bytes(data)
    Job(tmp_path)(f"source.path={tmp_path / 'en.json'}", "name=n", *overrides)
    return (tmp_path / "out/n/translated/en.json").read_bytes()


def test_a_tree_is_translated_and_verified_by_its_places(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{\r\n\t"a": "rain {{x}}", "b": ["sun", 1.0, "%s"],\r\n\t"a": "wind"\r\n}\r\n'
    expected = data.replace(b"rain", b"RAIN").replace(b"sun", b"SUN").replace(b"wind", b"WIND")
    assert run(tmp_path, data) == expected
    assert front.main(["verify", f"output_dir={tmp_path / 'out'}", "name=n"]) == 0


def test_places_beyond_the_limit_keep_their_source(tmp_path: Path) -> None:
    data = b'{"a": "rain", "b": "sun", "c": "wind"}'
    assert run(tmp_path, data, "source.limit=2") == b'{"a": "RAIN", "b": "SUN", "c": "wind"}'


def test_a_file_that_is_not_json_has_no_output_and_ends_the_job_with_exit_code_10(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.json").write_bytes(b'{"a": "b"}')
    (tmp_path / "in/b.json").write_bytes(b'{"a": "b",\n}')
    summary = Job(tmp_path)(f"source.path={tmp_path / 'in'}", "name=n", "check.max_error_rate=1")
    (failed,) = summary.failed
    assert failed.rel == "b.json" and "b.json:2" in failed.why
    assert [path.name for path in (tmp_path / "out/n/translated").iterdir()] == ["a.json"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030"])
def test_a_tree_in_another_encoding_is_read_and_may_keep_it(tmp_path: Path, encoding: str) -> None:
    data = '{"雨": "雨 rain", "b": "x y"}'.encode(encoding)
    out = run(
        tmp_path,
        data,
        f"source.encoding={encoding}",
        "write.encoding=input",
    )
    assert json.loads(out.decode(encoding)) == {"雨": "雨 RAIN", "b": "X Y"}


INSTALLED = sorted(
    path
    for package in (
        "jupyterlab",
        "notebook",
        "jsonschema",
        "jsonschema_specifications",
        "torch",
        "transformers",
        "datasets",
        "sympy",
        "networkx",
        "pyarrow",
        "hypothesis",
        "mypy",
        "matplotlib",
        "botocore",
    )
    for base in [
        Path(json.__file__).parent / "site-packages",
        *[Path(p) for p in __import__("sys").path if "site-packages" in p],
    ]
    for path in (base / package).rglob("*.json")
    if path.stat().st_size < 200_000
)[:150]


@pytest.mark.skipif(not INSTALLED, reason="no installed package ships JSON files")
def test_real_files_come_back_unchanged_and_reversing_words_changes_only_texts() -> None:
    for path in INSTALLED:
        data = path.read_bytes()
        try:
            value = json.loads(data)
        except ValueError:
            with pytest.raises(UnreadableFileError):
                JsonTreeFile(data)
            continue
        assert splice(data, lambda text: text) == data, path
        reversed_value = json.loads(splice(data, lambda text: " ".join(text.split(" ")[::-1])))
        for before, after in zip(leaves(value), leaves(reversed_value), strict=True):
            assert after in (before, " ".join(before.split(" ")[::-1]))


def test_keys_and_numbered_tags_of_i18next_are_codes() -> None:
    (place, plain) = places(b'["see $t(menu.open) <0>here</0><1/>", "a < b"]')
    assert place.codes == (("$t(menu.open)", ""), ("<0>", ""), ("</0>", "<0>"), ("<1/>", ""))
    assert plain.codes == ()
    codes = SourceCodes(str(place.text), place.codes)
    assert codes.are_kept_in("<0>ici</0> $t(menu.open) <1/>")
    assert not codes.are_kept_in("<0>ici</0> $t(menu.ouvrir) <1/>")
    assert not codes.are_kept_in("</0>ici<0> $t(menu.open) <1/>")
