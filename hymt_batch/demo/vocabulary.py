"""What the demo model's vocabulary is learned from: examples of all kinds, numbers, names, and pieces of other text."""

import itertools
from pathlib import Path

from hymt_batch.demo import checkpoint, example, grammar, invented, pronouns, terms, units

NUMBERS = [str(number) for number in (*range(10, 100), *range(100, 135, 5), *range(150, 950, 50))]
PROMPT_PIECES = (
    "，",
    "。",
    "：",
    "参考下面的翻译",
    " 翻译成",
    "将以下文本翻译为",
    grammar.NARROW_SPACE,
    grammar.NO_BREAK_SPACE,
)
# pairs of letters that shorten other texts than bulletins; those of names are syllables before
OTHER_PIECES = [
    "th", "ch", "sh", "ck", "ng", "he", "ha", "hi", "ho", "wa", "we", "wi", "wo", "ca", "ce", "ci", "co", "cu", "ja",
    "jo", "qu", "ye", "en", "er", "in", "on", "an", "es", "is", "or", "ar", "at", "al", "ed", "ou", "ea", "st", "ll",
    "ss", "ing", "ent", "ion", " a", " i", " o", " u", " e", " w", " h", " c",
]  # fmt: skip


def write_tokenizer(out: Path, seed: int) -> None:
    """Learn the vocabulary of examples of all kinds, drawn with this seed, and write `tokenizer.json`."""
    texts = [
        text
        for kind in example.KINDS
        if kind != "terms"  # whose names are spelled
        for row in itertools.islice(example.stream(kind, seed, held_out=False), 3_000)
        for tgt_lang in row.targets
        for text in (row.prompt(tgt_lang), row.answer(tgt_lang))
    ]
    names = (*invented.NAMES, *invented.WORDS, *invented.SIMPLE_TAGS)
    checkpoint.write_tokenizer(
        out,
        texts,
        words=[*NUMBERS, *names, *(name.upper() for name in names), *(name.capitalize() for name in names)],
        pieces=[*invented.MARKS, *terms.SOUNDS, *terms.ENDINGS, *PROMPT_PIECES, *OTHER_PIECES],
        syllables=invented.SYLLABLES,
        chinese_words=[*units.chinese_words(), *(subject.zh for subject in pronouns.SUBJECTS)],
    )
