"""The beginning of the demo model's embedding: words are near the words that they translate."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hymt_batch.demo import lexicon

pytestmark = pytest.mark.core

# rain 0, snow 1, in 2, Lyon 3; pluie 4, neige 5, à 6; Lyon is itself; 7 is in no text
SENTENCES = [
    ([0, 2, 3], [4, 6, 3]),
    ([1, 2, 3], [5, 6, 3]),
    ([0], [4]),
    ([0, 1], [4, 5]),
    ([2, 3], [6, 3]),
    ([3], [3]),
]


def test_the_likely_translation_of_a_word_is_found_without_a_sentence_that_has_it_alone() -> None:
    share = lexicon.alignments(SENTENCES, 8)
    assert share.shape == (8, 8)
    assert {target: int(share[target].argmax()) for target in (3, 4, 5, 6)} == {3: 3, 4: 0, 5: 1, 6: 2}
    assert share[4, 0] > 0.9  # pluie is rain
    assert share.sum(1) == pytest.approx([0, 0, 0, 1, 1, 1, 1, 0], abs=1e-5)  # what no translation has, has no share


class Tokenizer:
    """A tokenizer whose tokens are words, with a space before all but the first."""

    tokens = ("Rain", " rain", " snow", " in", " Lyon", "Pluie", " pluie", " neige", " à", " hail", "<", ">")

    def __len__(self) -> int:
        return len(self.tokens)

    def decode(self, ids: list[int]) -> str:
        return "".join(self.tokens[token] for token in ids)

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        words = [text.split(" ") for text in texts]
        spelled = [[first, *(f" {word}" for word in rest)] for first, *rest in words]
        return {"input_ids": [[self.tokens.index(token) for token in text] for text in spelled]}


def test_a_token_begins_near_its_other_forms_and_its_translations() -> None:
    import torch

    torch.manual_seed(5)
    texts = [
        ("Rain in Lyon", "Pluie à Lyon"),
        ("Rain rain", "Pluie pluie"),
        ("Rain snow", "Pluie neige"),
        ("Rain Lyon", "Pluie Lyon"),
        ("Rain snow in Lyon", "Pluie neige à Lyon"),
    ]
    vectors = lexicon.embedding(Tokenizer(), texts, 2_000)
    assert vectors.shape == (12, 2_000)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 12, rel=0.1)
    near = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    groups = [{"Rain", " rain", "Pluie", " pluie"}, {" snow", " neige"}, {" in", " à"}, {" Lyon"}, {" hail"}, {"<"}]
    for group, other in itertools.product(groups, groups):
        for first, second in itertools.product(sorted(group), sorted(other)):
            similarity = float(near[Tokenizer.tokens.index(first), Tokenizer.tokens.index(second)])
            if first == second:
                assert similarity == pytest.approx(1, abs=1e-4)
            elif group == other:
                assert similarity > 0.5, (first, second)
            else:
                assert similarity < 0.35, (first, second)
