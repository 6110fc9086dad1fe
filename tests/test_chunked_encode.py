"""Long texts reach the tokenizer in chunks that give the ids of the whole; a failure costs only its row."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import prompt
from hymt_batch.errors import PreflightError, TextError
from hymt_batch.model import chat_template, chunked_encode, files, incremental_encode, tokenizer
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import MAX_CHUNK_CHARS, Segment, Status
from tests.campaigns import cuts
from tests.fakes.documents import documents
from tests.test_incremental_encode import HEADS, PIECES, PRE_TOKENIZERS, encoder_of

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)


def long_text(rng: random.Random) -> str:
    return "".join(
        rng.choice(cuts.NATURAL) if rng.random() < 0.5 else "".join(rng.choices(PIECES, k=6)) for _ in range(40)
    )


class Watched:
    """A tokenizer's library that records the texts it gets."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.calls, self.largest, self.texts = backend, 0, 0, 0

    def _noted(self, texts: Sequence[str]) -> None:
        self.calls += 1
        self.texts += len(texts)
        self.largest = max([self.largest, *map(len, texts)])

    def encode_batch(self, texts: Sequence[str], **options: Any) -> Any:
        self._noted(texts)
        return self._backend.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: Sequence[str], **options: Any) -> Any:
        self._noted(texts)
        return self._backend.encode_batch_fast(texts, **options)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_long_text_encoded_in_chunks_has_the_ids_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, backend = encoder_of(PRE_TOKENIZERS[name])
    rng = random.Random(name)
    monkeypatch.setattr(chunked_encode, "MAX_CHUNK_CHARS", 97)
    compared = 0
    for _ in range(60):
        text = long_text(rng)
        parts = list(chunked_encode.chunks(text))
        assert "".join(parts) == text
        assert max(map(len, parts)) <= 97
        if any(
            len(part) == 97 and not chunked_encode.is_boundary(part[-1], next_part[0])
            for part, next_part in pairwise(parts)
        ):
            continue  # a chunk without a guaranteed boundary
        whole = backend.encode(text, add_special_tokens=False).ids
        assert chunked_encode.encode(backend, [text, "short", text]) == [
            whole,
            chunked_encode.encode(backend, ["short"])[0],
            whole,
        ]
        assert chunked_encode.count_tokens(backend, text) == len(whole)
        offsets = backend.encode(text, add_special_tokens=False).offsets
        assert [start for starts in chunked_encode.token_starts(backend, text) for start in starts] == [
            start for start, _ in offsets
        ]
        compared += 1
    assert compared > 20


def test_a_text_without_a_boundary_is_cut_at_the_limit_with_reproducible_ids() -> None:
    _, backend = encoder_of(PRE_TOKENIZERS["hunyuan_dense"])
    for text in ("." * 20_000, "\u4f60" * 20_000, "1" * 9000, "e" + "\u0301" * 9000, "\U0001f468\u200d" * 9000):
        parts = list(chunked_encode.chunks(text))
        assert [len(part) for part in parts[:-1]] == [MAX_CHUNK_CHARS] * (len(parts) - 1)
        ids = chunked_encode.encode(backend, [text])[0]
        assert ids == [token for part in parts for token in backend.encode(part, add_special_tokens=False).ids]
        assert (
            chunked_encode.count_tokens(backend, text)
            == len(ids)
            == len(chunked_encode.encode(backend, ["x", text])[1])
        )


def test_no_call_of_the_library_gets_a_text_above_the_chunk_limit() -> None:
    encoder, backend = encoder_of(PRE_TOKENIZERS["demo"])
    recording = Watched(backend)
    encoder._backend = recording
    encoder._encode = lambda texts: chunked_encode.encode(recording, texts)  # type: ignore[method-assign]
    texts = [
        "a b " * 5000,
        "." * 20_000,
        "\u3002" * 20_000,
        "x" * 50_000,
        " lead " + "y z." * 6000,
        "\n" + "q, " * 9000,
    ]
    texts += [f"{first}{repeated * 9000}" for first, repeated in zip("ΩЖЯ", ("12", ".", ". \u3002"), strict=True)]
    ids = encoder.encode(HEADS[0], texts)
    assert encoder.enabled  # although a run is cut at a different position after the head
    assert ids[0] == backend.encode(HEADS[0] + texts[0], add_special_tokens=False).ids
    assert chunked_encode.count_tokens(recording, texts[3]) > 0
    assert sum(map(len, chunked_encode.token_starts(recording, texts[4]))) > 0
    assert 0 < recording.largest <= MAX_CHUNK_CHARS


def test_a_thousand_instructions_are_encoded_a_few_times_each_and_not_all_cached() -> None:
    """Regression: each instruction cost 47 encodings, and all were cached."""
    encoder, backend = encoder_of(PRE_TOKENIZERS["demo"])
    recording = Watched(backend)
    encoder._backend = recording
    encoder._encode = lambda texts: chunked_encode.encode(recording, texts)  # type: ignore[method-assign]
    for index in range(1000):
        head = f"{HEADS[0][:-2]} {chr(97 + index % 26) * (1 + index // 26)}\n\n"
        texts = ["Rain.", "Wind in Lyon."]
        assert encoder.encode(head, texts) == chunked_encode.encode(backend, [head + text for text in texts])
    assert recording.texts < 3000
    assert len(encoder._heads) <= incremental_encode._MAX_HEADS
    num_texts = recording.texts
    for index in range(600):
        encoder.encode(f"{HEADS[0][:-2]} {chr(97 + index % 26) * (1 + index // 26)}\n\n", ["Rain."] * 5 + ["Wind."])
    assert recording.texts - num_texts < 600 * 11
    assert len(encoder._heads) <= incremental_encode._MAX_HEADS
    assert len(encoder._interned_ids) <= incremental_encode._MAX_HEADS


def broken(folder: Path, regex: str = "(a+)+$") -> Path:
    """Copy the demo model with a normalizer that fails on some texts."""
    shutil.copytree(DEMO, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": regex}, "content": "b"}
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("regex", ["(a+)+$", r"(\s+)+x", r"(\w|\d|_)*(\w+)*!"])
def test_a_tokenizer_that_fails_on_hard_texts_is_refused(
    tmp_path: Path, regex: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PreflightError, match=r"its tokenizer (fails|does not end)") as refused:
        tokenizer.load(broken(tmp_path / "model", regex), config(), add_generation_prompt=True)
    assert refused.value.id == "B6"
    assert "panicked" not in str(refused.value) + capfd.readouterr().err


def test_a_tokenizer_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(chat_template.sys, "executable", shutil.which("sleep"))
    monkeypatch.setattr(chat_template.subprocess, "run", slow(chat_template.subprocess.run))
    with pytest.raises(PreflightError, match="its tokenizer does not end"):
        chat_template.check_in_subprocess("x", [], "model", tmp_path / "tokenizer.json")


def slow(run: Any) -> Any:
    """Replace subprocess.run by one whose process reports the template as rendered and does not end."""
    return lambda command, **options: run(["sh", "-c", "echo rendered; exec sleep 60"], **options)


def test_hostile_texts_fit_in_one_chunk_and_cover_all_of_ascii() -> None:
    texts = [text for batch in chat_template.hostile_texts() for text in batch]
    assert max(map(len, texts)) <= MAX_CHUNK_CHARS
    assert {chr(code) for code in range(32, 127)} <= set("".join(texts))
    assert any(len(text) > 8000 for text in texts)


@cache
def failing() -> tokenizer.Tokenizer:
    """Return the demo's tokenizer with a library that fails on some texts."""
    demo = tokenizer.load(DEMO, config(), add_generation_prompt=True)
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    backend = chunked_encode.plain_backend(content)
    return tokenizer.Tokenizer(
        demo.backend, backend, demo.prefix, demo.suffix, demo.control_ids, demo.stop_ids, demo.pad_id
    )


def test_a_failure_of_the_library_costs_only_its_row_and_gives_our_own_message() -> None:
    bad = "a" * 40 + "b"
    encoder = failing()
    for call in (encoder.count, lambda text: encoder.encode([text]), lambda text: list(encoder.token_starts(text))):
        with pytest.raises(TextError, match="tokenizer failed on this text"):
            call(bad)
    texts = ["good", bad, "good too", f"good. {bad}"]
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    segments = [
        Segment(0, 0, texts[0]),
        Segment(1, 0, bad),
        Segment(2, 0, texts[2]),
        Segment(3, 0, "good."),
        Segment(3, 1, bad),
    ]
    prompts, refused = prompt.render(segments, documents(texts), encoder, template, 4096)
    assert [item.segment.document_index for item in prompts] == [0, 2]
    assert set(refused) == {1, 3}
    assert {item.status for item in refused.values()} == {Status.GENERATION_ERROR}
    assert all("panicked" not in item.message for item in refused.values())


def test_a_translation_that_cannot_be_decoded_is_empty_and_the_others_are_kept() -> None:
    demo = tokenizer.load(DEMO, config(), add_generation_prompt=True)

    class PanicException(BaseException):
        """Stands for the library's exception of that name, which cannot be imported."""

    class Full:
        def decode_batch(self, rows: Sequence[Sequence[int]], **options: Any) -> Any:
            if [7] in rows:
                raise PanicException("panicked")
            return demo.backend.decode_batch(rows, **options)

    failing_tokenizer = tokenizer.Tokenizer(
        Full(), demo.plain_backend, demo.prefix, demo.suffix, demo.control_ids, demo.stop_ids, demo.pad_id
    )
    ids = demo.encode(["Rain in Lyon."])[0]
    assert failing_tokenizer.decode([ids, [7], ids]) == ["Rain in Lyon.", "", "Rain in Lyon."]


def test_an_error_of_our_own_code_is_not_blamed_on_the_text() -> None:
    def call(*_: object, **__: object) -> object:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        chunked_encode.call_backend(call, ["x"])


def test_the_number_of_source_tokens_does_not_depend_on_the_instruction() -> None:
    encoder = tokenizer.load(DEMO, config(), add_generation_prompt=True)
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    rows = [
        *documents(["Rain in Lyon."]),
        *documents(["Rain in Lyon."], tgt_lang="zh"),
        *documents(["Rain in Lyon."], tgt_lang="zh-Hant"),
    ]
    prompts, _ = prompt.render(
        [Segment(index, 0, "Rain in Lyon.") for index in range(3)], rows, encoder, template, 4096
    )
    assert len({len(item.ids) for item in prompts}) == 3
    assert {item.num_source_tokens for item in prompts} == {encoder.count("Rain in Lyon.")}
