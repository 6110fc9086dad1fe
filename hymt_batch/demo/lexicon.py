"""Find which words of two languages translate each other, and begin a network's embedding with it.

A network that begins at random has to learn a dictionary and where to look for the next word at once, and for a long
time learns neither: without the dictionary, it makes no difference where it looks. So a word begins near the words that
it translates, as far as counting tells them (IBM model 1). Knows no model and no grammar.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

NUM_ROUNDS = 6
OWN_SHARE = 0.5  # what of a token's vector is its own, against what it shares with its translations
Pair = tuple[Sequence[int], Sequence[int]]


def alignments(pairs: Sequence[Pair], num_words: int) -> "numpy.ndarray[Any, Any]":
    """Return how likely each word is the translation of each other one.

    Args:
        pairs: Sentences and their translations, as words.
        num_words: Number of words of all languages.

    Returns:
        [target word, source word] float32; a row sums to 1, or to 0 for a word that is in no translation.
    """
    import numpy as np

    likely = np.ones((num_words, num_words), dtype=np.float32)
    for _ in range(NUM_ROUNDS):
        counts = np.zeros_like(likely)
        for source, target in pairs:
            cells = np.ix_(target, source)
            share = likely[cells]
            np.add.at(counts, cells, share / share.sum(1, keepdims=True))
        likely = counts / np.maximum(counts.sum(0, keepdims=True), 1e-9)
    shares: numpy.ndarray[Any, Any] = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
    return shares


def embedding(tokenizer: Any, texts: Sequence[tuple[str, str]], num_dimensions: int) -> "Tensor":
    """Return vectors in which a token is near its translations, and near itself with a capital or a space.

    Args:
        tokenizer: Of the model.
        texts: Texts and their translations.
        num_dimensions: Of a vector.

    Returns:
        [token, dimension] float32, of a length of about 1: with shorter ones, the first steps would change most of it.
    """
    import torch

    forms = [tokenizer.decode([token]).strip().lower() or str(token) for token in range(len(tokenizer))]
    numbers = {form: number for number, form in enumerate(dict.fromkeys(forms))}
    words = [numbers[form] for form in forms]
    sources, targets = (
        tokenizer([pair[side] for pair in texts], add_special_tokens=False)["input_ids"] for side in (0, 1)
    )
    pairs = [
        (sorted({words[token] for token in source}), sorted({words[token] for token in target}))
        for source, target in zip(sources, targets, strict=True)
    ]
    share = torch.from_numpy(alignments(pairs, len(numbers)))
    of_words = torch.randn(len(numbers), num_dimensions)
    is_source = torch.zeros(len(numbers), dtype=torch.bool)
    is_source[[word for source, _ in pairs for word in source]] = True
    meant = share @ of_words
    known = ~is_source & (share.sum(1) > 0)
    of_words[known] = meant[known] / meant[known].std(1, keepdim=True)
    own = torch.randn(len(forms), num_dimensions)
    vectors: Tensor = num_dimensions**-0.5 * ((1 - OWN_SHARE**2) ** 0.5 * of_words[words] + OWN_SHARE * own)
    return vectors
