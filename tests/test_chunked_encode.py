"""Long texts reach the tokenizer in pieces, with the ids of the whole; what it fails on costs the row alone."""

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
from test_incremental_encode import CUTS, HEADS, PIECES, seam_of

from hymt_batch import prompt
from hymt_batch.errors import PreflightError, TextError
from hymt_batch.model import chat_template, chunked_encode, files, incremental_encode, tokenizer
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import MAX_CHUNK_CHARS, Segment, Status
from tests.campaigns import cuts

from conftest import documents  # isort: skip

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)


def long_text(rng: random.Random) -> str:
    return "".join(
        rng.choice(cuts.NATURAL) if rng.random() < 0.5 else "".join(rng.choices(PIECES, k=6)) for _ in range(40)
    )


class Watched:
    """A tokenizer's library that notes what it is given."""

    def __init__(self, bare: Any) -> None:
        self._bare, self.calls, self.largest, self.texts = bare, 0, 0, 0

    def _noted(self, texts: Sequence[str]) -> None:
        self.calls += 1
        self.texts += len(texts)
        self.largest = max([self.largest, *map(len, texts)])

    def encode_batch(self, texts: Sequence[str], **named: Any) -> Any:
        self._noted(texts)
        return self._bare.encode_batch(texts, **named)

    def encode_batch_fast(self, texts: Sequence[str], **named: Any) -> Any:
        self._noted(texts)
        return self._bare.encode_batch_fast(texts, **named)


@pytest.mark.parametrize("name", CUTS)
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bare = seam_of(CUTS[name])
    rng = random.Random(name)
    monkeypatch.setattr(chunked_encode, "MAX_CHUNK_CHARS", 97)
    compared = 0
    for _ in range(60):
        text = long_text(rng)
        parts = list(chunked_encode.chunks(text))
        assert "".join(parts) == text
        assert max(map(len, parts)) <= 97
        if any(len(part) == 97 and not chunked_encode.is_boundary(part[-1], rest[0]) for part, rest in pairwise(parts)):
            continue  # no sure place
        whole = bare.encode(text, add_special_tokens=False).ids
        assert chunked_encode.encode(bare, [text, "short", text]) == [
            whole,
            chunked_encode.encode(bare, ["short"])[0],
            whole,
        ]
        assert chunked_encode.count_tokens(bare, text) == len(whole)
        offsets = bare.encode(text, add_special_tokens=False).offsets
        assert [start for some in chunked_encode.token_starts(bare, text) for start in some] == [
            start for start, _ in offsets
        ]
        compared += 1
    assert compared > 20


def test_a_text_without_a_sure_place_is_cut_at_the_limit_and_always_the_same() -> None:
    _, bare = seam_of(CUTS["hunyuan_dense"])
    for text in ("." * 20_000, "\u4f60" * 20_000, "1" * 9000, "e" + "\u0301" * 9000, "\U0001f468\u200d" * 9000):
        parts = list(chunked_encode.chunks(text))
        assert [len(part) for part in parts[:-1]] == [MAX_CHUNK_CHARS] * (len(parts) - 1)
        ids = chunked_encode.encode(bare, [text])[0]
        assert ids == [token for part in parts for token in bare.encode(part, add_special_tokens=False).ids]
        assert chunked_encode.count_tokens(bare, text) == len(ids) == len(chunked_encode.encode(bare, ["x", text])[1])


def test_no_call_of_the_library_gets_more_than_its_share_of_a_text() -> None:
    found, bare = seam_of(CUTS["demo"])
    seen = Watched(bare)
    found._backend = seen
    found._encode = lambda texts: chunked_encode.encode(seen, texts)  # type: ignore[method-assign]
    texts = [
        "a b " * 5000,
        "." * 20_000,
        "\u3002" * 20_000,
        "x" * 50_000,
        " lead " + "y z." * 6000,
        "\n" + "q, " * 9000,
    ]
    texts += [f"{first}{run * 9000}" for first, run in zip("ΩЖЯ", ("12", ".", ". \u3002"), strict=True)]
    ids = found.encode(HEADS[0], texts)
    assert found.enabled  # although a run is cut at another place behind the head
    assert ids[0] == bare.encode(HEADS[0] + texts[0], add_special_tokens=False).ids
    assert chunked_encode.count_tokens(seen, texts[3]) > 0
    assert sum(map(len, chunked_encode.token_starts(seen, texts[4]))) > 0
    assert 0 < seen.largest <= MAX_CHUNK_CHARS


def test_a_thousand_instructions_are_encoded_a_few_times_each_and_not_all_kept() -> None:
    """Each cost 47 encodings, and all were kept."""
    found, bare = seam_of(CUTS["demo"])
    seen = Watched(bare)
    found._backend = seen
    found._encode = lambda texts: chunked_encode.encode(seen, texts)  # type: ignore[method-assign]
    for number in range(1000):
        head = f"{HEADS[0][:-2]} {chr(97 + number % 26) * (1 + number // 26)}\n\n"
        texts = ["Rain.", "Wind in Lyon."]
        assert found.encode(head, texts) == chunked_encode.encode(bare, [head + text for text in texts])
    assert seen.texts < 3000
    assert len(found._heads) <= incremental_encode._MAX_HEADS
    before = seen.texts
    for number in range(600):
        found.encode(f"{HEADS[0][:-2]} {chr(97 + number % 26) * (1 + number // 26)}\n\n", ["Rain."] * 5 + ["Wind."])
    assert seen.texts - before < 600 * 11
    assert len(found._heads) <= incremental_encode._MAX_HEADS
    assert len(found._interned_ids) <= incremental_encode._MAX_HEADS


def broken(folder: Path, regex: str = "(a+)+$") -> Path:
    """The demo's model with a normalizer that fails on some texts."""
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
    """A process that says that the template is rendered, and does not end."""
    return lambda command, **named: run(["sh", "-c", "echo rendered; exec sleep 60"], **named)


def test_hostile_texts_are_no_longer_than_what_the_library_gets_and_cover_all_of_ascii() -> None:
    texts = [text for some in chat_template.hostile_texts() for text in some]
    assert max(map(len, texts)) <= MAX_CHUNK_CHARS
    assert {chr(code) for code in range(32, 127)} <= set("".join(texts))
    assert any(len(text) > 8000 for text in texts)


@cache
def failing() -> tokenizer.Tokenizer:
    """The demo's tokenizer with a library that fails on some texts, as it stands in a run."""
    good = tokenizer.load(DEMO, config(), add_generation_prompt=True)
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    bare = chunked_encode.plain_backend(content)
    return tokenizer.Tokenizer(
        good.backend, bare, good.prefix, good.suffix, good.control_ids, good.stop_ids, good.pad_id
    )


def test_a_failure_of_the_library_costs_its_row_alone_and_is_told_in_our_words() -> None:
    bad = "a" * 40 + "b"
    encoder = failing()
    for call in (encoder.count, lambda text: encoder.encode([text]), lambda text: list(encoder.token_starts(text))):
        with pytest.raises(TextError, match="tokenizer failed on this text"):
            call(bad)
    texts = ["good", bad, "good too", f"good. {bad}"]
    words = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    segments = [
        Segment(0, 0, texts[0]),
        Segment(1, 0, bad),
        Segment(2, 0, texts[2]),
        Segment(3, 0, "good."),
        Segment(3, 1, bad),
    ]
    made, refused = prompt.render(segments, documents(texts), encoder, words, 4096)
    assert [one.segment.document_index for one in made] == [0, 2]
    assert set(refused) == {1, 3}
    assert {one.status for one in refused.values()} == {Status.GENERATION_ERROR}
    assert all("panicked" not in one.message for one in refused.values())


def test_a_translation_that_the_library_fails_on_has_no_text_and_its_neighbours_have() -> None:
    good = tokenizer.load(DEMO, config(), add_generation_prompt=True)

    class PanicException(BaseException):
        """As the library's own, which cannot be imported."""

    class Full:
        def decode_batch(self, rows: Sequence[Sequence[int]], **named: Any) -> Any:
            if [7] in rows:
                raise PanicException("panicked")
            return good.backend.decode_batch(rows, **named)

    failing = tokenizer.Tokenizer(
        Full(), good.plain_backend, good.prefix, good.suffix, good.control_ids, good.stop_ids, good.pad_id
    )
    ids = good.encode(["Rain in Lyon."])[0]
    assert failing.decode([ids, [7], ids]) == ["Rain in Lyon.", "", "Rain in Lyon."]


def test_an_error_of_our_own_in_the_call_is_not_taken_for_the_texts() -> None:
    def call(*_: object, **__: object) -> object:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        chunked_encode.call_backend(call, ["x"])


def test_a_rows_own_tokens_do_not_depend_on_the_length_of_its_instruction() -> None:
    encoder = tokenizer.load(DEMO, config(), add_generation_prompt=True)
    words = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    rows = [
        *documents(["Rain in Lyon."]),
        *documents(["Rain in Lyon."], tgt_lang="zh"),
        *documents(["Rain in Lyon."], tgt_lang="zh-Hant"),
    ]
    made, _ = prompt.render([Segment(n, 0, "Rain in Lyon.") for n in range(3)], rows, encoder, words, 4096)
    assert len({len(one.ids) for one in made}) == 3
    assert {one.num_source_tokens for one in made} == {encoder.count("Rain in Lyon.")}
