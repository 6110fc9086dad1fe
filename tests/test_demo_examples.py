"""The kinds of examples of the demo model: one right answer each, codes in all languages, prompts of the model card."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.codes import SourceCodes
from hymt_batch.demo import (
    checkpoint,
    curriculum,
    example,
    grammar,
    invented,
    measure,
    network,
    pronouns,
    terms,
    train,
    units,
)
from hymt_batch.demo.example import Example
from hymt_batch.demo.grammar import Text
from hymt_batch.prompt import TEMPLATES, PromptFamily
from tests.fakes.job import Interrupted

pytestmark = pytest.mark.core

CARD = TEMPLATES[PromptFamily.hy_mt1_5]


def drawn(kind: str, num: int = 500, seed: int = 5) -> list[Example]:
    return list(itertools.islice(example.stream(kind, seed, held_out=False), num))


@pytest.mark.parametrize("kind", example.KINDS)
def test_a_prompt_has_one_right_answer(kind: str) -> None:
    for tgt_lang in drawn(kind, 1)[0].targets:
        answers: dict[str, str] = {}
        for row in drawn(kind):
            answer = row.answer(tgt_lang)
            assert answers.setdefault(row.prompt(tgt_lang), answer) == answer
        assert len(answers) > 400


@pytest.mark.parametrize("kind", example.KINDS)
def test_held_out_examples_of_a_kind_are_never_trained_on(kind: str) -> None:
    sampled = {row.prompt("zh") for row in example.sample(kind, 3, 40)}
    assert not sampled & {row.prompt("zh") for row in drawn(kind, 700, seed=3)}
    assert [row.text for row in example.sample("plain", 7, 20)] == grammar.sample(7, 20)


@pytest.mark.parametrize("kind", ["codes", "format", "terms"])
def test_every_translation_has_the_codes_of_its_source(kind: str) -> None:
    shapes = set()
    for row in drawn(kind, 900):
        for lang in grammar.TARGETS:
            translation = row.text.in_language(lang)
            # the marks of Markdown are codes of that format alone; the name of a place may be any word
            for mark in ("**", "~~", "`", "](", "\n"):
                assert row.text.en.count(mark) == translation.count(mark), row
            # an address in brackets does not end before 天, nor %s before a number
            if "](" not in row.text.en and not re.search(r"%(\d\$)?[sd@]\d", translation):
                assert SourceCodes(row.text.en).are_kept_in(translation), row
        shapes |= {shape for shape in SHAPES if re.search(shape, row.text.en)}
    assert shapes == (set(SHAPES) if kind != "terms" else shapes)


SHAPES = (
    r"<b>.+</b>", r"<i>.+</i>", r"\{\w+\}", r"\{\{\w+\}\}", r"%s", r"%\(\w+\)d", r"\{\\an8\}", "&nbsp;", "https?://",
    r"<a href=", r"<s\d>", r"\*\*.+\*\*", r"\w@\w", "\n", r"<br/?>", r"\[.+\]\(https?:",
)  # fmt: skip


def test_codes_stand_at_the_same_words_in_every_language() -> None:
    text = Text(
        "It will be sunny in Munich on Monday.",
        "Le temps sera ensoleillé à Munich lundi.",
        "In München wird es am Montag sonnig.",
        "周一慕尼黑天气晴朗。",
    )
    found = [tuple(text.in_language(lang)[slice(*span)] for lang, span in zip(units.LANGS, unit.spans, strict=True))
             for unit in units.find_units(text)]  # fmt: skip
    assert found == [
        ("sunny", "ensoleillé", "sonnig", "晴朗"),
        ("Munich", "Munich", "München", "慕尼黑"),
        ("Monday", "lundi", "Montag", "周一"),
    ]
    edits = units.Edits(text)
    edits.around(units.find_units(text)[2].spans, "<b>", "</b>")
    assert edits.result() == Text(
        "It will be sunny in Munich on <b>Monday</b>.",
        "Le temps sera ensoleillé à Munich <b>lundi</b>.",
        "In München wird es am <b>Montag</b> sonnig.",
        "<b>周一</b>慕尼黑天气晴朗。",
    )


def test_codes_of_pieces_that_meet_are_closed_in_order() -> None:
    text = Text(
        "Sunny in the south on Monday.",
        "Soleil dans le sud lundi.",
        "Am Montag im Süden sonnig.",
        "周一南部地区天气晴朗。",
    )
    south, monday = (unit for unit in units.find_units(text) if text.en[slice(*unit.spans[0])] != "Sunny")
    for first, second in itertools.permutations([("<a>", "</a>"), ("**", "**"), ("~~", "~~"), ("[", "](u)")], 2):
        edits = units.Edits(text)
        edits.around(south.spans, *first)
        edits.around(monday.spans, *second)
        assert edits.result().zh == f"{second[0]}周一{second[1]}{first[0]}南部地区{first[1]}天气晴朗。"


def test_words_that_a_language_has_twice_or_otherwise_are_no_units() -> None:
    text = Text("Rome on Monday. Rome tomorrow.", "Rome lundi. Rome demain.", "Rom am Montagabend. Rom morgen.", "罗马")
    assert units.find_units(text) == []


def test_no_code_hides_a_number_that_a_translation_needs() -> None:
    text = Text(
        "The rain will ease around 5 am. Up to 20 centimetres of fresh snow may fall in Rome by Sunday.",
        "La pluie faiblira vers 5 h. Jusqu'à 20 centimètres de neige fraîche pourraient tomber à Rome d'ici dimanche.",
        "Der Regen lässt gegen 5 Uhr nach. In Rom können bis Sonntag bis zu 20 Zentimeter Neuschnee fallen.",
        "雨势将在凌晨5点左右减弱。到周日，罗马的新增积雪可能达到20厘米。",
    )
    hidden = [text.en[slice(*unit.spans[0])] for unit in units.find_units(text) if units.can_be_hidden(text, unit)]
    assert hidden == ["20"]
    assert not any(re.search(r"(\}|%[sd@]|\$[sd]|`|/>) [ap]m\b", row.text.en) for row in drawn("codes", 900))


def test_new_words_stand_in_codes_only_where_they_are_asked_for() -> None:
    def words(*, is_new: bool) -> list[str]:
        rows = itertools.islice(example.stream("codes", 5, held_out=False, is_new=is_new), 1_000)
        return [word for row in rows for name in re.findall(r"\{\{(\w+)\}\}", row.text.en) for word in name.split("_")]

    known = {form for name in invented.NAMES for form in (name, name.upper())}
    assert set(words(is_new=False)) <= known
    new = words(is_new=True)
    assert len(new) > 20 and sum(word.lower() not in known for word in new) > 0.9 * len(new)


def test_terms_are_words_that_the_model_cannot_know() -> None:
    usual = {city.en: city.fr for city in grammar.CITIES}
    rows = drawn("terms", 400)
    for row in rows:
        for term in row.terms:
            assert all(term.in_language(lang) in row.text.in_language(lang) for lang in units.LANGS)
            assert term.fr != usual.get(term.en)
    names = [term.en for row in rows for term in row.terms]
    assert 0.6 < sum(name not in usual for name in names) / len(names) < 0.8
    assert len(set(names)) > 0.4 * len(names)
    assert all(len(sound) == 1 for sound in terms.SOUNDS)


def test_only_the_context_tells_what_a_pronoun_stands_for() -> None:
    translations: dict[str, set[Text]] = {}
    for row in drawn("context", 4000):
        translations.setdefault(row.text.en, set()).add(row.text)
    for lang in grammar.TARGETS:
        by_text = ({text.in_language(lang) for text in texts} for texts in translations.values())
        assert sum(len(texts) > 1 for texts in by_text) > 50
    assert {subject.fr for subject in pronouns.SUBJECTS} == {"il", "elle", "ils", "elles"}
    assert {subject.de for subject in pronouns.SUBJECTS} == {"er", "sie", "es"}


def test_the_prompts_are_those_of_the_model_card() -> None:
    text = Text("A {x} b", "", "", "")
    assert example.prompt("A {x} b", "fr") == CARD["en"].replace("{target}", "French").replace("{text}", "A {x} b")
    assert example.prompt("A {x} b", "zh") == CARD["zh"].replace("{target}", "中文").replace("{text}", "A {x} b")
    glossary = (Text("Oslo", "Oslo F", "Oslo D", "奥斯陆"), Text("Rome", "Rome F", "Rome D", "罗马"))
    assert Example("terms", text, glossary).prompt("de") == (
        "参考下面的翻译：\nOslo 翻译成 Oslo D\nRome 翻译成 Rome D\n\n"
        "将以下文本翻译为德语，注意只需要输出翻译后的结果，不要额外解释：\nA {x} b"
    )
    assert Example("context", text, context="Before.").prompt("fr") == (
        "Before.\n参考上面的信息，把下面的文本翻译成法语，注意不需要翻译上文，也不要额外解释：\nA {x} b"
    )
    assert Example("format", text).prompt("zh") == (
        "将以下<source></source>之间的文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释，原文中的<sn></sn>标签表示标签内"
        "文本包含格式信息，需要在译文中相应的位置尽量保留该标签。输出格式为：<target>str</target>\n\n"
        "<source>A {x} b</source>"
    )
    assert Example("format", Text("a", "b", "c", "d")).answer("zh") == "<target>d</target>"


def test_a_name_has_the_same_few_tokens_wherever_it_stands() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.MODEL_DIR / "tokenizer.json"))

    def spelled(text: str) -> list[str]:
        return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False).ids]

    assert spelled("Zabi 翻译成 Zabidorf\n") == ["Za", "bi", " 翻译成", " Za", "bi", "dorf", "\n"]
    assert spelled("in Zabidorf.") == ["in", " Za", "bi", "dorf", "."]
    for row in drawn("terms", 300):
        for term in row.terms:
            words = term.fr.split()
            assert len(spelled(term.fr)) <= 5 * len(words)
            assert spelled(f"in {term.fr}, ")[1:-2] == spelled(f" {term.fr}")
            assert len(spelled(term.zh)) == len(term.zh)


def test_a_word_of_a_bulletin_is_one_token() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.MODEL_DIR / "tokenizer.json"))
    for lang in ("en", "fr", "de"):
        texts = [text.in_language(lang) for text in grammar.sample(3, 300)]
        for text in texts:
            pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
            num_pairs = len(re.findall(r"%[.,]", text))  # two marks are one piece, and two tokens
            assert len(tokenizer.encode(text, add_special_tokens=False).ids) <= len(pieces) + num_pairs


def test_the_training_computes_the_gradient_of_the_whole_network() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.MODEL_DIR), dtype=torch.float32)
    training = train.Training(model, AutoTokenizer.from_pretrained(checkpoint.MODEL_DIR), 5)
    input_ids = torch.randint(300, (2, 12))
    labels = input_ids.roll(-1, 1)
    labels[:, :5] = labels[:, -1] = train.IGNORE_INDEX
    labels[1, 5:8] = train.IGNORE_INDEX
    logits = model(input_ids=input_ids, use_cache=False).logits
    weights = 1 + torch.rand(labels.shape)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    sum_of_weights = float(weights[labels != train.IGNORE_INDEX].sum())
    whole = (losses * weights.flatten()).sum() / sum_of_weights
    expected = torch.autograd.grad(whole, training.parameters)
    network.fuse_norms(model)
    network.answer_only(model)
    loss, gradients = training._gradients((input_ids, labels, weights), sum_of_weights)
    assert loss == pytest.approx(whole.item(), abs=1e-5)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(gradients, expected, strict=True))


def test_a_row_to_learn_is_rendered_as_by_the_template() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.MODEL_DIR)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.MODEL_DIR))
    turn = train.Training(model, tokenizer, 5).turn
    for kind in example.KINDS:
        prompt = drawn(kind, 1)[0].prompt("zh")
        assert prompt.join(turn) == measure.render(tokenizer, prompt)


def test_a_stopped_training_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(train, "POOL_ROWS", 24)
    last = dataclasses.replace(curriculum.STAGES[-1], max_batch_tokens=256)
    monkeypatch.setattr(curriculum, "STAGES", (curriculum.Stage(3, 256, {"plain": 1.0}), last))
    monkeypatch.setattr(train, "SAVE_EVERY_S", 0)

    def trained(*, stopped: bool) -> dict[str, Any]:
        """Train five steps; if stopped, in two processes that share only the file, as far as they can tell."""
        path = tmp_path / f"{stopped}.pt"
        for _ in range(2 if stopped else 1):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.MODEL_DIR))
            network.answer_only(model)
            training = train.Training(model, AutoTokenizer.from_pretrained(checkpoint.MODEL_DIR), 5)
            if path.exists():
                training.load(path)
                assert 0 < training.step < 5
            elif stopped:
                monkeypatch.setattr(training, "save", stop_after(training.save))
            with contextlib.suppress(Interrupted):
                training.run(path)
        return dict(model.state_dict())

    once, twice = trained(stopped=False), trained(stopped=True)
    assert all(torch.equal(once[name], twice[name]) for name in once)


def stop_after(save: Callable[[Path], None]) -> Callable[[Path], None]:
    def stopped(path: Path) -> None:
        save(path)
        raise Interrupted

    return stopped


def test_a_glossary_has_terms_that_its_text_does_not_have() -> None:
    late = curriculum.STAGES[1]
    rows = [row for row, _, _ in itertools.islice(curriculum.rows(3, late), 400) if row.terms]
    unused = [[term for term in row.terms if term.en not in row.text.en] for row in rows]
    assert {len(terms_of_row) for terms_of_row in unused} >= {0, 1, 2, 3}
    assert all(len(row.terms) - len(of_row) in (1, 2) for row, of_row in zip(rows, unused, strict=True))
    assert any(row.text in row.terms for row in rows)  # the term alone


def test_a_text_comes_again_with_translations_exchanged() -> None:
    stage = dataclasses.replace(curriculum.STAGES[-1], kind_share={"terms": 1.0}, exchange_share=1.0)
    rows = [row for row, _, _ in itertools.islice(curriculum.rows(3, stage), 400)]
    pairs = [
        (row, again)
        for row, again in itertools.pairwise(rows)
        if [term.en for term in row.terms] == [term.en for term in again.terms] and row.terms != again.terms
    ]
    assert len(pairs) > 100
    for row, again in pairs:
        assert again.text.en == row.text.en
        for lang in grammar.TARGETS:
            translations = [term.in_language(lang) for term in row.terms]
            exchanged = [term.in_language(lang) for term in again.terms]
            assert exchanged == [*translations[1:], translations[0]]
            expected = row.text.in_language(lang)
            for index, name in enumerate(translations):
                expected = expected.replace(name, f"[{index}]")
            for index, name in enumerate(exchanged):
                expected = expected.replace(f"[{index}]", name)
            assert again.text.in_language(lang) == expected


def test_a_text_of_several_terms_has_a_city_among_them() -> None:
    stage = dataclasses.replace(
        curriculum.STAGES[0], kind_share={"terms": 1.0}, bare_term_share=1.0, max_bare_terms=3, max_unused_terms=3
    )
    rows = [row for row, _, _ in itertools.islice(curriculum.rows(3, stage), 200)]
    cities = {city.en: city for city in grammar.CITIES}
    nums = set()
    for row in rows:
        terms_of_row = {term.en: term for term in row.terms}
        names = row.text.en.split(", ")
        places = [terms_of_row.get(name) or cities[name] for name in names]
        nums.add((len(names), sum(name not in terms_of_row for name in names)))
        assert row.text.de == ", ".join(place.de for place in places)
        assert row.text.zh == "、".join(place.zh for place in places)
    assert nums == {(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (4, 1)}


def test_the_loss_of_a_name_weighs_more() -> None:
    offsets = [(0, 2), (2, 5), (5, 7), (7, 11), (11, 16), (16, 17), (0, 0)]
    weights = train._weights("In Nabu ist Köln.", ["Köln", "Nabu"], offsets, 3.0)
    assert weights == [1.0, 3.0, 3.0, 1.0, 3.0, 1.0, 1.0]
    assert train._weights("In Nabu ist Köln.", [], offsets, 3.0) == [1.0] * 7
