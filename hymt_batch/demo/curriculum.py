"""What the demo model learns in which order: the stages of its training, and the examples of each.

Knows no model and no tokens. Needs only the standard library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from hymt_batch.demo import example
from hymt_batch.demo.example import Example
from hymt_batch.demo.grammar import Text

# share of rows with the Chinese prompt, which the model card asks for if one side is Chinese
CHINESE_PROMPT_SHARE = {"fr": 0.1, "de": 0.1, "zh": 0.8}

# share of rows per target; Chinese shares the fewest words with the other languages and is learned most slowly
TARGET_SHARE = {"fr": 0.3, "de": 0.3, "zh": 0.4}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training."""

    num_steps: int
    max_batch_tokens: int  # of each thread, including padding
    kind_share: Mapping[str, float]  # share of rows by kind
    new_word_share: float = 0.0  # of the rows, those whose codes have words that were never seen, to learn to copy
    # which term of a glossary stands where is learned last, and best if the loss is that of this choice
    bare_term_share: float = 0.0  # share of the rows with terms whose text is the term alone
    two_terms_share: float = 0.0  # chance that a row with one term is drawn again
    max_unused_terms: int = 0  # terms of other texts in a glossary


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
        1_600,
        512,
        {"plain": 0.15, "codes": 0.3, "format": 0.1, "terms": 0.35, "context": 0.1},
        new_word_share=0.3,
        bare_term_share=0.3,
        two_terms_share=0.5,
        max_unused_terms=3,
    ),
    Stage(
        3_000,
        512,
        {"plain": 0.1, "codes": 0.32, "format": 0.1, "terms": 0.4, "context": 0.08},
        bare_term_share=0.15,
        two_terms_share=0.8,
        max_unused_terms=2,
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
        yield row, tgt_lang, rng.random() < CHINESE_PROMPT_SHARE[tgt_lang]


def _with_more_terms(row: Example, others: Iterator[Example], stage: Stage, rng: Random) -> Example:
    """Return an example, this one or another one, whose glossary also has terms that its text does not have."""
    while len(row.terms) < 2 and rng.random() < stage.two_terms_share:
        row = next(others)
    unused = _other_terms(row, others, int(rng.random() * (stage.max_unused_terms + 1)))
    glossary = sorted([*row.terms, *unused], key=lambda term: rng.random())
    text = rng.choice(row.terms) if rng.random() < stage.bare_term_share else row.text
    return replace(row, text=text, terms=tuple(glossary))


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
