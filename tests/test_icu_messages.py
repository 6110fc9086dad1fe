"""Messages of ICU in JSON trees: the frame stays, each branch is a place, and an answer cannot break the syntax."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.formats.json_tree import icu
from hymt_batch.formats.json_tree.places import JsonTreeFile
from hymt_batch.formats.spliced import Place, PlaceOptions
from jobs import __main__ as front
from tests.fakes.job import Job


def places(value: Any, **options: Any) -> list[Place]:
    return list(JsonTreeFile(json.dumps(value).encode()).places(PlaceOptions(**options)))


def splice(data: bytes, change: Callable[[str], str], **options: Any) -> bytes:
    file = JsonTreeFile(data)
    out, at = b"", 0
    for place in file.places(PlaceOptions(**options)):
        assert at <= place.start <= place.end
        new = file.encode(place, change(place.text)) if place.text else data[place.start : place.end]
        out, at = out + data[at : place.start] + new, place.end
    return out + data[at:]


def shape(message: str) -> tuple[str, ...]:
    """Return the frame of a message, read by other means: without the texts between its parts and without quotes."""
    unquoted = re.sub(r"'[{}#](?:[^']|'')*'|''", "", message)
    frame = r"\{\s*\w+\s*,\s*(?:plural|select|selectordinal)\s*,|(?:=0|one|other|male|female)\s*\{|[{}]"
    return tuple(token[0] for token in re.finditer(frame, unquoted))


MESSAGES = {
    "plural": (
        "You have {count, plural, offset:1 =0 {no files} one {# file} other {# files}} here.",
        ["You have ", "no files", "# file", "# files", " here."],
    ),
    "select": ("{g, select, female {Her bag} male {His bag} other {Their bag}}", ["Her bag", "His bag", "Their bag"]),
    "ordinal": ("{n, selectordinal, one {#st place} other {#th place}}", ["#st place", "#th place"]),
    "nested": (
        "{g, select, female {She has {n, plural, one {# dog} other {# dogs}}} other {They left {when, date, short}}}",
        ["She has ", "# dog", "# dogs", "They left {when, date, short}"],
    ),
    "quotes": ("{n, plural, one {it''s '{'one'}' item} other {it''s # '#' '{x}'}}", ["it's {one} item", ""]),
    "lines": ('{n, plural,\n  one {a "b"}\n  other {é\\ ü}\n}', ['a "b"', "é\\ ü"]),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_branch_is_a_place_and_the_frame_is_kept(name: str) -> None:
    message, texts = MESSAGES[name]
    found = places({"m": message})
    assert [place.text for place in found] == texts
    assert len({place.name for place in found}) == len(found)
    for ascii_only in (True, False):
        data = json.dumps({"m": message}, ensure_ascii=ascii_only).encode()
        assert splice(data, lambda text: text) == data
        changed = json.loads(splice(data, lambda text: f"x{text}y"))["m"]
        assert [place.text for place in places({"m": changed})] == [f"x{text}y" if text else "" for text in texts]
        assert shape(changed) == shape(message)


def test_the_names_of_branches_are_readable() -> None:
    assert [place.name for place in places({"a": MESSAGES["plural"][0]})] == [
        *("a{1}", "a{count=0}", "a{count=one}", "a{count=other}", "a{2}")
    ]
    assert [place.name for place in places({"a": MESSAGES["nested"][0]})] == [
        *("a{g=female}", "a{g=female,n=one}", "a{g=female,n=other}", "a{g=other}")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{n, plural, one {a}",
        "{n, plural, one {a} other}",
        "{n, plural, }",
        "{n, plural, one {a} one {b} other {c}}",
        "{n, plural, other {a}} }",
        "{n, plural, other {'{ a}}",
        "{n plural, other {a}}",
        "{n, select, other {a {b}}",
        "{a, plural, other {" * 20 + "x" + "}}" * 20,
    ],
)
def test_broken_syntax_is_just_a_text(text: str) -> None:
    assert icu.parse(text) is None
    other = {"m": "{n, plural, other {files}}"}
    assert [place.text for place in places({"a": f"x {text}", **other})] == [f"x {text}", "files"]
    data = json.dumps({"a": text, **other}).encode()
    assert splice(data, lambda text: text) == data


def test_whatever_the_model_answers_the_frame_and_the_text_of_each_branch_stay() -> None:
    rng = random.Random(6)
    alphabet = [
        "'",
        "''",
        "{",
        "}",
        "#",
        "{name}",
        "{n}",
        "|",
        "a",
        " b ",
        "l'",
        '"',
        "\\",
        "\n",
        "{x, plural, other {y}}",
        "é",
    ]
    messages = [message for message, _ in MESSAGES.values()] + ["{n, plural, one {d'{name}} other {# à {name} l'été}}"]
    for _ in range(3000):
        message = rng.choice(messages)
        data = json.dumps({"m": message}, ensure_ascii=rng.random() < 0.5).encode()
        answers: list[str] = []

        def answer(text: str) -> str:
            codes = re.findall(r"\{(?:name|when, date, short)\}|#", text)
            pieces = [
                *codes,
                *(piece for piece in rng.choices(alphabet, k=4) if not codes or piece not in ("#", "{name}")),
            ]
            rng.shuffle(pieces)
            answers.append("x" + "".join(pieces))  # noqa: B023
            return answers[-1]  # noqa: B023

        out = json.loads(splice(data, answer))["m"]
        again = icu.parse(out)
        assert again is not None, (message, answers, out)
        before = icu.parse(message)
        assert before is not None
        assert [text.label for text in again.texts] == [text.label for text in before.texts]
        assert [text.branch.arguments for text in again.texts] == [
            tuple(sorted(text.branch.arguments, key=lambda a, o=out: o.find(a))) for text in before.texts
        ]
        # a text whose characters stand both for themselves and for a code is not read back
        written = [text.text for text, old in zip(again.texts, before.texts, strict=True) if old.text]
        for read, sent in zip(written, answers, strict=True):
            assert read in (sent, ""), (message, read, sent, out)


def test_apostrophes_are_doubled_where_the_message_doubles_them_or_they_would_quote() -> None:
    single = icu.Branch(("{x}",), in_plural=True, has_number=True, doubles=False)
    assert icu.write("l'été de l'{x} #", single) == "l'été de l''{x} #"
    assert icu.write("l'été", icu.Branch((), in_plural=False, has_number=False, doubles=True)) == "l''été"
    assert icu.write("# {y}", icu.Branch((), in_plural=True, has_number=False, doubles=False)) == "'#' '{'y'}'"


def test_the_number_and_arguments_that_only_icu_knows_are_codes() -> None:
    (one, other) = places({"m": "{n, plural, one {# x} other {{d, number, {a}} y #}}"})
    assert one.codes == (("#", ""),) and other.codes == (("{d, number, {a}}", ""), ("#", ""))


def test_a_simple_message_beside_others_has_its_apostrophes_read_as_in_a_message() -> None:
    value = {"a": "it''s {x}", "b": "{n, plural, other {files}}"}
    assert places(value)[0].text == "it's {x}"
    assert places({"a": "it''s {x}"})[0].text == "it''s {x}"
    data = json.dumps(value).encode()
    assert json.loads(splice(data, lambda text: f"d'{text}"))["a"] == "d''it''s {x}"


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("ja", "{n, plural, one {# file} other {# files}}"),
        ("ru", "{n, plural, one {# file} few {# files} many {# files} other {# files}}"),
        ("ar", "{n, plural, one {# file} zero {# files} two {# files} few {# files} many {# files} other {# files}}"),
    ],
)
def test_plural_branches_that_the_target_language_needs_are_inserted(language: str, expected: str) -> None:
    data = json.dumps({"m": "{n, plural, one {# file} other {# files}}"}).encode()
    out = splice(data, lambda text: text, add_plural_forms=True, tgt_lang=language)
    assert json.loads(out)["m"] == expected
    assert splice(data, lambda text: text, add_plural_forms=False, tgt_lang=language) == data
    again = splice(out, lambda text: text, add_plural_forms=True, tgt_lang=language)
    assert again == out


def test_plural_keys_that_the_target_language_needs_are_inserted_as_members() -> None:
    data = b'{\n  "item_one": "{{count}} item",\n  "item_other" : "{{count}} items",\n  "x_other": "only", "n": 1\n}'
    out = splice(data, str.upper, add_plural_forms=True, tgt_lang="pl")
    assert out == (
        b'{\n  "item_one": "{{COUNT}} ITEM",\n  "item_other" : "{{COUNT}} ITEMS",\n  "item_few" : "{{COUNT}} ITEMS",'
        b'\n  "item_many" : "{{COUNT}} ITEMS",\n  "x_other": "ONLY", "n": 1\n}'
    )
    ordinal = b'{"p_ordinal_one": "first", "p_ordinal_other": "th place"}'
    assert list(json.loads(splice(ordinal, str.upper, add_plural_forms=True, tgt_lang="uk"))) == [
        *("p_ordinal_one", "p_ordinal_other", "p_ordinal_few")
    ]


def test_a_job_inserts_plural_forms_and_verify_agrees(tmp_path: Path) -> None:
    source = {"m": "{n, plural, one {# file} other {# files}}", "i_one": "one item", "i_other": "items"}
    (tmp_path / "en.json").write_text(json.dumps(source))
    Job(tmp_path)(f"source.path={tmp_path / 'en.json'}", "name=n", "source.add_plural_forms=true", "tgt_lang=ru")
    out = json.loads((tmp_path / "out/n/translated/en.json").read_text())
    assert out["m"] == "{n, plural, one {# FILE} few {# FILES} many {# FILES} other {# FILES}}"
    assert list(out) == ["m", "i_one", "i_other", "i_few", "i_many"]
    assert front.main(["verify", f"output_dir={tmp_path / 'out'}", "name=n"]) == 0


@pytest.mark.parametrize(
    ("keys", "skip_keys", "expected"),
    [
        (None, None, ["a.c.b", "a.c.title[0]", "a.b", "xy.b", "title", '["d.e"]']),
        (["title"], None, ["a.c.title[0]", "title"]),
        (["a.*.b"], None, ["a.c.b"]),
        (["**.b"], None, ["a.c.b", "a.b", "xy.b"]),
        (["a.**.title"], None, ["a.c.title[0]"]),
        (["[ax]*"], None, ["a.c.b", "a.c.title[0]", "a.b", "xy.b"]),
        ([r"d\.e"], None, ['["d.e"]']),
        (["a.c.title.0"], None, ["a.c.title[0]"]),
        (None, ["x*", "title"], ["a.c.b", "a.b", '["d.e"]']),
        (["a"], ["b"], ["a.c.title[0]"]),
        (["[z-a]", "title"], None, ["a.c.title[0]", "title"]),
        (["a.[!z-a]"], None, ["a.c.b", "a.c.title[0]", "a.b"]),
    ],
)
def test_patterns_choose_strings_by_their_keys(keys: Any, skip_keys: Any, expected: list[str]) -> None:
    value = {"a": {"c": {"b": "x y", "title": ["q q"]}, "b": "r r"}, "xy": {"b": "z z"}, "title": "t", "d.e": "u"}
    assert [place.name for place in places(value, keys=keys, skip_keys=skip_keys)] == expected


def test_keys_are_settings_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text('{"a": "rain", "id": "sun", "b": {"url": "wind"}}')
    Job(tmp_path)(f"source.path={tmp_path / 'en.json'}", "name=n", "source.skip_keys=[id,b.*]")
    assert (tmp_path / "out/n/translated/en.json").read_text() == '{"a": "RAIN", "id": "sun", "b": {"url": "wind"}}'
    assert front.main(["verify", f"output_dir={tmp_path / 'out'}", "name=n"]) == 0
