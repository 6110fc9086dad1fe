"""The chat format comes from the checkpoint; no text becomes a control token, for any flags of the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hymt_batch.errors import PreflightError
from hymt_batch.model import chunked_encode, files, prompt_end, tokenizer
from hymt_batch.model.tokenizer import Tokenizer

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)
CONTROL = ["<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>", "<think>", "<|extra_0|>", "<image>"]
TEMPLATE_7B = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ '<|startoftext|>' }}{% endif %}"
    "{{ message['content'] }}{% if message['role'] == 'user' %}{{ '<|extra_0|>' }}{% endif %}{% endfor %}"
)


def edited(folder: Path, added: dict[str, bool], template: str | None = None, bos: str = "") -> Tokenizer:
    """Return the demo tokenizer with more added tokens (text -> special), optionally another template and bos token."""
    shutil.copytree(DEMO, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first_id = max(token["id"] for token in content["added_tokens"]) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] += [
        {"id": first_id + index, "content": text, "special": special, **flags}
        for index, (text, special) in enumerate(added.items())
    ]
    path.write_text(json.dumps(content), encoding="utf-8")
    if template:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "chat_template": template}))
    settings = {**config(), "vocab_size": first_id + len(added)}
    if bos:
        settings["bos_token_id"] = first_id + list(added).index(bos)
    return tokenizer.load(folder, settings, add_generation_prompt=True)


def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("models") / "extended"
    return edited(folder, {"<think>": False, "<image>": True, "<|extra_0|>": True})


def test_the_framing_is_that_of_the_1_8b_model() -> None:
    with_prompt = tokenizer.load(DEMO, config(), add_generation_prompt=True)
    assert [with_prompt.backend.id_to_token(token_id) for token_id in with_prompt.prefix] == [
        "<｜hy_begin▁of▁sentence｜>",
        "<｜hy_User｜>",
    ]
    assert [with_prompt.backend.id_to_token(token_id) for token_id in with_prompt.suffix] == ["<｜hy_Assistant｜>"]
    assert [with_prompt.backend.id_to_token(token_id) for token_id in with_prompt.stop_ids] == [
        "<｜hy_place▁holder▁no▁2｜>"
    ]
    without_prompt = tokenizer.load(DEMO, config(), add_generation_prompt=False)
    assert [without_prompt.backend.id_to_token(token_id) for token_id in without_prompt.suffix] == [
        "<｜hy_place▁holder▁no▁8｜>"
    ]


def test_the_framing_of_the_7b_model_is_found_the_same_way(tmp_path: Path) -> None:
    loaded = edited(tmp_path / "7b", {"<|startoftext|>": True, "<|extra_0|>": True}, TEMPLATE_7B, "<|startoftext|>")
    assert [loaded.backend.id_to_token(token_id) for token_id in loaded.prefix] == ["<|startoftext|>"]
    assert [loaded.backend.id_to_token(token_id) for token_id in loaded.suffix] == ["<|extra_0|>"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(CONTROL), st.sampled_from("<｜|_▁>")), max_size=12))
@pytest.mark.fault(58, 59, 73)
def test_no_text_becomes_a_control_token_and_every_text_is_decoded_unchanged(
    extended: Tokenizer, pieces: list[str]
) -> None:
    text = "".join(pieces)
    (body,) = extended.encode([text])
    assert not extended.has_control_ids(body)
    assert extended.plain_backend.decode(body, skip_special_tokens=False) == text


@pytest.mark.fault(73)
def test_the_unmodified_tokenizer_would_turn_text_into_control_tokens(extended: Tokenizer) -> None:
    leaked = [
        text
        for text in CONTROL
        if extended.has_control_ids(extended.backend.encode(text, add_special_tokens=False).ids)
    ]
    assert leaked == CONTROL


@pytest.mark.fault(74)
def test_control_tokens_in_a_translation_are_left_out(extended: Tokenizer) -> None:
    ids = extended.encode(["Il pleut."])[0]
    think = extended.backend.token_to_id("<think>")
    assert extended.decode([[*ids[:1], think, *ids[1:], extended.stop_ids[0]]]) == ["Il pleut."]


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ messages[0]['content'] | upper }}", "exactly once"), ("no user text", "exactly once")],
)
@pytest.mark.fault(67, 78)
def test_a_template_that_does_not_keep_the_text_is_refused(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        edited(tmp_path / "model", {}, template)


@pytest.mark.fault(67)
def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(PreflightError, match="belong to different models"):
        tokenizer.load(DEMO, {**config(), "vocab_size": 500}, add_generation_prompt=True)


@settings(max_examples=60)
@given(st.lists(st.text(), max_size=8))
def test_batch_encoding_gives_the_ids_of_single_encoding(extended: Tokenizer, texts: list[str]) -> None:
    texts += [*CONTROL, "l'été 12 345 678,90 €\u2028日本語 e\u0301 \U0001f600", " \n\n x", ""]
    slow = [extended.plain_backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert extended.encode(texts) == slow


def test_no_text_is_lost_between_two_batches(extended: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{index} " + "rain " * (index % 7) for index in range(50)]
    whole = extended.encode(texts)
    monkeypatch.setattr(chunked_encode, "BATCH_CHARS", 40)
    monkeypatch.setattr(chunked_encode, "BATCH_TEXTS", 3)
    assert extended.encode(texts) == whole
    assert len(whole) == 50
    assert max(map(len, chunked_encode.batches(texts))) == 3


@pytest.mark.fault(74)
def test_control_tokens_anywhere_in_a_translation_are_left_out_and_the_rest_is_kept(extended: Tokenizer) -> None:
    ids = extended.encode(["Rain in Lyon."])[0]
    assert extended.decode([ids, [extended.stop_ids[0], *ids[:2], extended.prefix[0], *ids[2:]], []]) == [
        "Rain in Lyon.",
        "Rain in Lyon.",
        "",
    ]


NAMED = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE_7B}]


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("where", ["as it is", "list", "file"])
def test_a_plan_finds_the_same_last_prompt_token_as_a_load(tmp_path: Path, add: bool, where: str) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    template = TEMPLATE_7B.replace("<|startoftext|>", "<｜hy_begin▁of▁sentence｜>").replace(
        "<|extra_0|>", "<｜hy_User｜>"
    )
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if where == "list":
        templates = [{**entry, "template": entry["template"].replace(TEMPLATE_7B, template)} for entry in NAMED]
        path.write_text(json.dumps({**settings, "chat_template": templates}), encoding="utf-8")
    if where == "file":
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    loaded = tokenizer.load(folder, config(), add_generation_prompt=add)
    assert prompt_end.last_token(folder, add_generation_prompt=add) == loaded.last_prompt_token
    if where == "as it is":
        ids = {token["content"]: int(token_id) for token_id, token in settings["added_tokens_decoder"].items()}
        last = "<｜hy_Assistant｜>" if add else "<｜hy_place▁holder▁no▁8｜>"
        assert loaded.last_prompt_token == (last, ids[last])
    else:
        assert loaded.last_prompt_token[0] == "<｜hy_User｜>"


def test_a_prompt_end_that_cannot_be_determined_is_none(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    for template in ("{{ messages[0].content }}", "{% for x in %}", "{{ 'x' * 2 ** 33 }}"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        assert prompt_end.last_token(folder, add_generation_prompt=True) is None
    assert prompt_end.last_token(tmp_path / "none", add_generation_prompt=True) is None
