"""What the demo model learns in which order: the stages of its training, and the examples of each.

Knows no model and no tokens. Needs only the standard library.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from hymt_batch.demo import example
from hymt_batch.demo.example import Example
from hymt_batch.demo.grammar import CITIES, Text

# share of rows with the Chinese prompt, which the model card asks for if one side is Chinese
CHINESE_PROMPT_SHARE = {"fr": 0.1, "de": 0.1, "zh": 0.8}

# share of rows per target; Chinese shares the fewest words with the other languages and is learned most slowly
TARGET_SHARE = {"fr": 0.3, "de": 0.3, "zh": 0.4}

CITY_SHARE = 0.5  # of the texts of several terms, those with a city that the glossary does not translate
SEPARATORS = {"en": ", ", "fr": ", ", "de": ", ", "zh": "、"}  # between terms that are a text of their own


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training."""

    num_steps: int
    max_batch_tokens: int  # of each thread, including padding
    kind_share: Mapping[str, float]  # share of rows by kind
    new_word_share: float = 0.0  # of the rows, those whose codes have words that were never seen, to learn to copy
    # which term of a glossary stands where is learned last, and best if the loss is that of this choice
    bare_term_share: float = 0.0  # share of the rows with terms whose text is only terms of the glossary
    max_bare_terms: int = 1  # in such a text; if there can be more, a city may stand among them
    two_terms_share: float = 0.0  # chance that a row with one term is drawn again
    max_unused_terms: int = 0  # terms of other texts in a glossary
    exchange_share: float = 0.0  # share of the rows with terms that come again with translations exchanged
    name_weight: float = 1.0  # of the loss of a name in a row with terms: few tokens, and learned last


_LATE = Stage(
    3_100,
    1_024,
    {"plain": 0.12, "codes": 0.38, "format": 0.13, "terms": 0.29, "context": 0.08},
    bare_term_share=0.1,
    max_bare_terms=3,
    two_terms_share=0.5,
    max_unused_terms=2,
    exchange_share=0.3,
    name_weight=2.0,
)
STAGES = (
    Stage(
        2_400,  # the longest text grows
        512,
        {"plain": 0.4, "codes": 0.2, "terms": 0.3, "context": 0.1},
        new_word_share=1.0,
        bare_term_share=0.5,
        max_unused_terms=2,
    ),
    Stage(
        2_400,
        512,
        {"plain": 0.15, "codes": 0.3, "format": 0.1, "terms": 0.35, "context": 0.1},
        new_word_share=0.3,
        bare_term_share=0.3,
        two_terms_share=0.5,
        max_unused_terms=3,
    ),
    Stage(
        4_000,
        512,
        {"plain": 0.1, "codes": 0.3, "format": 0.1, "terms": 0.42, "context": 0.08},
        new_word_share=0.05,
        bare_term_share=0.3,
        max_bare_terms=3,
        two_terms_share=0.5,
        max_unused_terms=3,
        exchange_share=0.4,
        name_weight=2.0,
    ),
    _LATE,
    replace(
        _LATE,
        num_steps=3_900,
        kind_share={"plain": 0.09, "codes": 0.5, "format": 0.15, "terms": 0.2, "context": 0.06},
    ),
)
NUM_STEPS = sum(stage.num_steps for stage in STAGES)


def stage_of(step: int) -> Stage:
    """Return the stage of a step; steps beyond the last stage belong to it."""
    for stage in STAGES[:-1]:
        if step < stage.num_steps:
            return stage
        step -= stage.num_steps
    return STAGES[-1]


def rows(seed: int, stage: Stage) -> Iterator[tuple[Example, str, bool]]:
    """Yield an endless stream of examples to learn, with the target language and whether the prompt is Chinese."""
    rng = Random(seed)
    streams = {
        (kind, is_new): example.stream(kind, seed + 2 * index + is_new, held_out=False, is_new=is_new)
        for index, kind in enumerate(stage.kind_share)
        for is_new in (False, True)
    }
    while True:
        (kind,) = rng.choices(tuple(stage.kind_share), tuple(stage.kind_share.values()))
        (tgt_lang,) = rng.choices(tuple(TARGET_SHARE), tuple(TARGET_SHARE.values()))
        examples = streams[kind, rng.random() < stage.new_word_share]
        row = next(examples)
        if row.terms and stage.max_unused_terms:
            row = _with_more_terms(row, examples, stage, rng)
        tgt_lang = tgt_lang if tgt_lang in row.targets else row.targets[0]
        in_chinese = rng.random() < CHINESE_PROMPT_SHARE[tgt_lang]
        yield row, tgt_lang, in_chinese
        if len(row.terms) > 1 and rng.random() < stage.exchange_share:
            exchanged = _exchanged(row)
            if exchanged:
                yield exchanged, tgt_lang, in_chinese


def _with_more_terms(row: Example, others: Iterator[Example], stage: Stage, rng: Random) -> Example:
    """Return an example, this one or another one, whose glossary also has terms that its text does not have."""
    while len(row.terms) < 2 and rng.random() < stage.two_terms_share:
        row = next(others)
    unused = _other_terms(row, others, int(rng.random() * (stage.max_unused_terms + 1)))
    glossary = sorted([*row.terms, *unused], key=lambda term: rng.random())
    text = row.text
    if rng.random() < stage.bare_term_share:
        chosen = rng.sample(glossary, min(len(glossary), 1 + int(rng.random() * stage.max_bare_terms)))
        if stage.max_bare_terms > 1 and rng.random() < CITY_SHARE:
            city = rng.choice([city for city in CITIES if city.en not in {term.en for term in glossary}])
            chosen.insert(int(rng.random() * (len(chosen) + 1)), Text(city.en, city.fr, city.de, city.zh))
        text = Text(*(mark.join(term.in_language(lang) for term in chosen) for lang, mark in SEPARATORS.items()))
    return replace(row, text=text, terms=tuple(glossary))


def _exchanged(row: Example) -> Example | None:
    """Return the example with each term's translations those of the next one, or None if a term is not unique."""
    new = [
        Text(term.en, other.fr, other.de, other.zh)
        for term, other in zip(row.terms, (*row.terms[1:], row.terms[0]), strict=True)
    ]
    texts = [row.text.en]
    for lang in ("fr", "de", "zh"):
        text = row.text.in_language(lang)
        names = {old.in_language(lang): term.in_language(lang) for old, term in zip(row.terms, new, strict=True)}
        if len(names) < len(new) or any(a != b and a in b for a in names for b in names):
            return None
        if any(text.count(name) > 1 for name in names):
            return None
        texts.append("".join(names.get(part, part) for part in re.split(f"({'|'.join(map(re.escape, names))})", text)))
    return replace(row, text=Text(*texts), terms=tuple(new))


def _other_terms(row: Example, others: Iterator[Example], num: int) -> list[Text]:
    """Return terms of other examples, which do not occur in this one."""
    names = [term.en for term in row.terms]
    unused: list[Text] = []
    while len(unused) < num:
        for term in next(others).terms:
            if term.en not in row.text.en and term.en not in names:
                unused.append(term)
                names.append(term.en)
    return unused[:num]
