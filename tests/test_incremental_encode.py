"""Encoding a text apart from its instruction, and by its words, gives the ids of the whole; else it is not done."""

from __future__ import annotations

import json
import logging
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from hymt_batch import prompt
from hymt_batch.demo import grammar
from hymt_batch.model import files, incremental_encode
from hymt_batch.model.chunked_encode import encode as _encode
from hymt_batch.model.incremental_encode import IncrementalEncoder

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)
DIGITS = r"\d{1,3}(?=(?:\d{3})*(?!\d))"
TAIL = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}


def split(pattern: str, **other: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **other}


def steps(*some: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(some)}


CUTS = {
    "demo": steps(split(DIGITS), GPT2),
    "gpt2": GPT2,
    "hunyuan_dense": steps(
        split(r"\p{N}{1,3}"), split("[一-龥\u3040-\u309f\u30a0-\u30ff]+"), split(TAIL.replace(r"\r\n", "\r\n")), BYTES
    ),
    "hunyuan": steps(split(QWEN), BYTES),
    "llama3": steps(split(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), BYTES),
}
"""Pre-tokenizers, as tokenizer.json has them."""

HEADS = [
    prompt.resolve_template(prompt.PromptConfig(), family, "en", code).instruction(None, None)[0]
    for family, code in (("hy_mt1_5", "fr"), ("hy_mt1_5", "zh"), ("hy_mt2", "yue"), ("hunyuan_mt", "zh-Hant"))
]


@cache
def merged() -> dict[str, Any]:
    """A tokenizer.json whose merges run across everything, so that an end at another place gives other ids."""
    whole = Backend(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bulletins = grammar.sample(3, 400)
    texts = [f"{HEADS[n % 4]}{text}" for n, one in enumerate(bulletins) for text in (one.en, one.zh, one.fr)]
    odd = ["".join(random.Random(seed).choices(PIECES, k=40)) for seed in range(2000)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    whole.train_from_iterator([*texts, *odd], trainer)
    made: dict[str, Any] = json.loads(whole.to_str())
    return made


def seam_of(cut: dict[str, Any], **other: Any) -> tuple[IncrementalEncoder, Backend]:
    content = {**merged(), "pre_tokenizer": cut}
    content["model"] = {**content["model"], **other}
    bare = Backend.from_str(json.dumps(content))
    return IncrementalEncoder(bare, lambda texts: _encode(bare, texts), content), bare


PIECES = [
    *"aZéßñ19½٣你。！，あカ한กัنمו€$+-–—.,;:!?'\"“”()[]{}<>|｜▁#@/\\_~^&%*=`",
    *(" ", " ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u200b", "\u200d", "\ufeff"),
    *(
        "\x00",
        "\x1c",
        "\x85",
        "\u0301",
        "\u180e",
        "\U0001f600",
        "\U000e0001",
        "\u0378",
        "the",
        " rain",
        " Lyon,",
        "1234",
    ),
    *("'s", "'LL", "ſ", "İ", "123,456.7", " 2026", "ing.\n", "Translate", "．\n\n", " d'", "<｜hy_User｜>", "{text}"),
]


def source(rng: random.Random) -> str:
    """A text as segments are: without white space around it. One in ten keeps it."""
    text = "".join(rng.choices(PIECES, k=rng.randint(0, 24)))
    return text if rng.random() < 0.1 else text.strip()


@pytest.mark.parametrize("name", CUTS)
def test_20000_hostile_sources_get_the_ids_of_the_whole(name: str) -> None:
    found, bare = seam_of(CUTS[name])
    assert found.enabled
    rng = random.Random(name)
    for head in HEADS:
        for _ in range(5):
            texts = [source(rng) for _ in range(1000)]
            assert found.encode(head, texts) == _encode(bare, [head + text for text in texts])
    assert found.enabled
    assert len(found._word_ids) > 1000
    assert None in found._word_ids.values()


@pytest.mark.parametrize("name", CUTS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), max_size=8))
def test_any_text_gets_the_ids_of_the_whole(name: str, texts: list[str]) -> None:
    found, bare = made(name)
    assert found.encode(HEADS[0], texts) == _encode(bare, [HEADS[0] + text for text in texts])


@cache
def made(name: str) -> tuple[IncrementalEncoder, Backend]:
    return seam_of(CUTS[name])


def test_every_first_character_gets_the_ids_of_the_whole() -> None:
    found, bare = made("hunyuan_dense")
    texts = [chr(code) + tail for code in range(0x3100) for tail in ("", "1 x")]
    assert found.encode(HEADS[1], texts) == _encode(bare, [HEADS[1] + text for text in texts])


@pytest.mark.parametrize(
    ("cut", "other"),
    [
        (steps(split(DIGITS), BYTES), {}),  # a piece may run over the end of the head
        (steps(split(r"(?<=\n)x|\s+"), BYTES), {}),
        (steps(split(r"\b\w+|\s+"), BYTES), {}),
        (steps(split(r"'s"), GPT2), {}),  # whether it cuts after the head, its first character does not tell
        (steps(split(r" ?\p{L}+"), GPT2), {}),
        (steps(split(QWEN, behavior="MergedWithNext"), BYTES), {}),
        (steps(split(QWEN, invert=True), BYTES), {}),
        (steps(split(QWEN, behavior="Removed"), BYTES), {}),
        (steps(BYTES, split(QWEN)), {}),
        (steps({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}), {}),
        ({**GPT2, "add_prefix_space": True}, {}),
        (GPT2, {"dropout": 0.1}),
    ],
)
def test_a_tokenizer_of_another_kind_encodes_the_whole(cut: dict[str, Any], other: dict[str, Any]) -> None:
    found, _ = seam_of(cut, **other)
    assert not found.enabled
    asked: list[str] = []
    found._encode = lambda texts: [asked.append(text) or [] for text in texts]  # type: ignore[func-returns-value]
    found.encode("head\n", ["a text"])
    assert asked == ["head\na text"]


def test_a_normalizer_and_another_model_encode_the_whole() -> None:
    assert incremental_encode.supports_incremental({"model": {"type": "BPE"}, "pre_tokenizer": GPT2})
    assert not incremental_encode.supports_incremental(
        {"model": {"type": "BPE"}, "pre_tokenizer": GPT2, "normalizer": {"type": "NFC"}}
    )
    assert not incremental_encode.supports_incremental({"model": {"type": "Unigram"}, "pre_tokenizer": GPT2})
    assert not incremental_encode.supports_incremental({"model": {"type": "BPE"}, "pre_tokenizer": None})


@pytest.mark.parametrize("head", ["", "Translate: ", "In 2026:\n", "½\n", "no end"])
def test_a_head_without_a_sure_end_is_encoded_with_the_text(head: str) -> None:
    found, bare = made("demo")
    texts = ["123 4", "a", "\n", "x y"]
    assert found.encode(head, texts) == _encode(bare, [head + text for text in texts])
    assert head not in found._heads


def test_a_tokenizer_that_breaks_its_promise_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """A file that tells of other cuts than those that are made; the canaries tell."""
    bare = Backend.from_str(json.dumps({**merged(), "pre_tokenizer": BYTES}))
    found = IncrementalEncoder(bare, lambda texts: _encode(bare, texts), {**merged(), "pre_tokenizer": GPT2})
    texts = ["Rain in Lyon.", "2026"]
    with caplog.at_level(logging.WARNING):
        assert found.encode(HEADS[0], texts) == _encode(bare, [HEADS[0] + text for text in texts])
    assert not found.enabled
    assert "other pieces" in caplog.text


def test_a_row_that_breaks_the_promise_is_found_out_by_its_first_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental_encode, "_HOSTILE_TEXTS", "a")
    bare = Backend.from_str(json.dumps({**merged(), "pre_tokenizer": BYTES}))
    found = IncrementalEncoder(bare, lambda texts: _encode(bare, texts), {**merged(), "pre_tokenizer": GPT2})
    texts = ["Rain in Lyon.", "2026", "Les averses"]
    assert found.encode(HEADS[0], texts) == _encode(bare, [HEADS[0] + text for text in texts])
    assert not found.enabled


def test_words_are_forgotten_before_they_fill_the_memory_unless_they_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incremental_encode, "_MAX_WORDS", 40)
    found, bare = seam_of(CUTS["demo"])
    for number in range(100):
        texts = [f"word{number}-{row} and w{number}, {row} more" for row in range(10)]
        assert found.encode(HEADS[0], texts) == _encode(bare, [HEADS[0] + text for text in texts])
    assert len(found._word_ids) + len(found._word_ids.older) < 200
    assert " and" in {**found._word_ids, **found._word_ids.older}
    assert "word3-1" not in {**found._word_ids, **found._word_ids.older}


def test_a_very_long_word_is_not_kept() -> None:
    found, bare = seam_of(CUTS["demo"])
    texts = ["a b c d e f g " + "rain" * 20]
    assert found.encode(HEADS[0], texts) == _encode(bare, [HEADS[0] + text for text in texts])
    assert max(map(len, found._word_ids)) <= 64


def test_the_demo_tokenizer_encodes_by_words() -> None:
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["pre_tokenizer"] == CUTS["demo"]
