"""Encoding a text separately from its instruction, and word by word, gives the ids of the whole, or is disabled."""

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


def split(pattern: str, **options: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **options}


def steps(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(entries)}


PRE_TOKENIZERS = {
    "demo": steps(split(DIGITS), GPT2),
    "gpt2": GPT2,
    "hunyuan_dense": steps(
        split(r"\p{N}{1,3}"), split("[一-龥\u3040-\u309f\u30a0-\u30ff]+"), split(TAIL.replace(r"\r\n", "\r\n")), BYTES
    ),
    "hunyuan": steps(split(QWEN), BYTES),
    "llama3": steps(split(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), BYTES),
}
"""Pre-tokenizers in the form of tokenizer.json."""

HEADS = [
    prompt.resolve_template(prompt.PromptConfig(), family, "en", code).instruction(None, None)[0]
    for family, code in (("hy_mt1_5", "fr"), ("hy_mt1_5", "zh"), ("hy_mt2", "yue"), ("hunyuan_mt", "zh-Hant"))
]


@cache
def merged() -> dict[str, Any]:
    """Train a tokenizer.json whose merges cross every boundary, so that a wrong boundary gives different ids."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bulletins = grammar.sample(3, 400)
    texts = [
        f"{HEADS[index % 4]}{text}"
        for index, bulletin in enumerate(bulletins)
        for text in (bulletin.en, bulletin.zh, bulletin.fr)
    ]
    random_texts = ["".join(random.Random(seed).choices(PIECES, k=40)) for seed in range(2000)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*texts, *random_texts], trainer)
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def encoder_of(pre_tokenizer: dict[str, Any], **model_options: Any) -> tuple[IncrementalEncoder, Backend]:
    content = {**merged(), "pre_tokenizer": pre_tokenizer}
    content["model"] = {**content["model"], **model_options}
    backend = Backend.from_str(json.dumps(content))
    return IncrementalEncoder(backend, lambda texts: _encode(backend, texts), content), backend


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


def random_text(rng: random.Random) -> str:
    """Return a random text without white space around it, like a segment; one in ten keeps the white space."""
    text = "".join(rng.choices(PIECES, k=rng.randint(0, 24)))
    return text if rng.random() < 0.1 else text.strip()


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_20000_hostile_sources_get_the_ids_of_the_whole(name: str) -> None:
    encoder, backend = encoder_of(PRE_TOKENIZERS[name])
    assert encoder.enabled
    rng = random.Random(name)
    for head in HEADS:
        for _ in range(5):
            texts = [random_text(rng) for _ in range(1000)]
            assert encoder.encode(head, texts) == _encode(backend, [head + text for text in texts])
    assert encoder.enabled
    assert len(encoder._word_ids) > 1000
    assert None in encoder._word_ids.values()


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), max_size=8))
def test_any_text_gets_the_ids_of_the_whole(name: str, texts: list[str]) -> None:
    encoder, backend = cached_encoder_of(name)
    assert encoder.encode(HEADS[0], texts) == _encode(backend, [HEADS[0] + text for text in texts])


@cache
def cached_encoder_of(name: str) -> tuple[IncrementalEncoder, Backend]:
    return encoder_of(PRE_TOKENIZERS[name])


def test_every_first_character_gets_the_ids_of_the_whole() -> None:
    encoder, backend = cached_encoder_of("hunyuan_dense")
    texts = [chr(code) + tail for code in range(0x3100) for tail in ("", "1 x")]
    assert encoder.encode(HEADS[1], texts) == _encode(backend, [HEADS[1] + text for text in texts])


@pytest.mark.parametrize(
    ("pre_tokenizer", "model_options"),
    [
        (steps(split(DIGITS), BYTES), {}),  # a pre-token may cross the end of the head
        (steps(split(r"(?<=\n)x|\s+"), BYTES), {}),
        (steps(split(r"\b\w+|\s+"), BYTES), {}),
        (steps(split(r"'s"), GPT2), {}),  # the first character does not decide whether it splits after the head
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
def test_an_unsupported_tokenizer_encodes_the_whole(
    pre_tokenizer: dict[str, Any], model_options: dict[str, Any]
) -> None:
    encoder, _ = encoder_of(pre_tokenizer, **model_options)
    assert not encoder.enabled
    encoded: list[str] = []
    encoder._encode = lambda texts: [encoded.append(text) or [] for text in texts]  # type: ignore[func-returns-value]
    encoder.encode("head\n", ["a text"])
    assert encoded == ["head\na text"]


def test_a_normalizer_or_an_unsupported_model_disables_incremental_encoding() -> None:
    assert incremental_encode.supports_incremental({"model": {"type": "BPE"}, "pre_tokenizer": GPT2})
    assert not incremental_encode.supports_incremental(
        {"model": {"type": "BPE"}, "pre_tokenizer": GPT2, "normalizer": {"type": "NFC"}}
    )
    assert not incremental_encode.supports_incremental({"model": {"type": "Unigram"}, "pre_tokenizer": GPT2})
    assert not incremental_encode.supports_incremental({"model": {"type": "BPE"}, "pre_tokenizer": None})


@pytest.mark.parametrize("head", ["", "Translate: ", "In 2026:\n", "½\n", "no end"])
def test_a_head_without_a_guaranteed_boundary_is_encoded_with_the_text(head: str) -> None:
    encoder, backend = cached_encoder_of("demo")
    texts = ["123 4", "a", "\n", "x y"]
    assert encoder.encode(head, texts) == _encode(backend, [head + text for text in texts])
    assert head not in encoder._heads


def test_a_tokenizer_that_does_not_follow_its_file_is_detected(caplog: pytest.LogCaptureFixture) -> None:
    """The file declares a different pre-tokenizer from the one used; the hostile texts reveal it."""
    backend = Backend.from_str(json.dumps({**merged(), "pre_tokenizer": BYTES}))
    encoder = IncrementalEncoder(backend, lambda texts: _encode(backend, texts), {**merged(), "pre_tokenizer": GPT2})
    texts = ["Rain in Lyon.", "2026"]
    with caplog.at_level(logging.WARNING):
        assert encoder.encode(HEADS[0], texts) == _encode(backend, [HEADS[0] + text for text in texts])
    assert not encoder.enabled
    assert "does not split text as tokenizer.json declares" in caplog.text


def test_a_row_that_is_split_differently_is_detected_by_its_first_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental_encode, "_HOSTILE_TEXTS", "a")
    backend = Backend.from_str(json.dumps({**merged(), "pre_tokenizer": BYTES}))
    encoder = IncrementalEncoder(backend, lambda texts: _encode(backend, texts), {**merged(), "pre_tokenizer": GPT2})
    texts = ["Rain in Lyon.", "2026", "Les averses"]
    assert encoder.encode(HEADS[0], texts) == _encode(backend, [HEADS[0] + text for text in texts])
    assert not encoder.enabled


def test_the_word_cache_is_limited_and_keeps_words_that_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incremental_encode, "_MAX_WORDS", 40)
    encoder, backend = encoder_of(PRE_TOKENIZERS["demo"])
    for index in range(100):
        texts = [f"word{index}-{row} and w{index}, {row} more" for row in range(10)]
        assert encoder.encode(HEADS[0], texts) == _encode(backend, [HEADS[0] + text for text in texts])
    assert len(encoder._word_ids) + len(encoder._word_ids.older) < 200
    assert " and" in {**encoder._word_ids, **encoder._word_ids.older}
    assert "word3-1" not in {**encoder._word_ids, **encoder._word_ids.older}


def test_a_very_long_word_is_not_cached() -> None:
    encoder, backend = encoder_of(PRE_TOKENIZERS["demo"])
    texts = ["a b c d e f g " + "rain" * 20]
    assert encoder.encode(HEADS[0], texts) == _encode(backend, [HEADS[0] + text for text in texts])
    assert max(map(len, encoder._word_ids)) <= 64


def test_the_demo_tokenizer_supports_incremental_encoding() -> None:
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["pre_tokenizer"] == PRE_TOKENIZERS["demo"]
