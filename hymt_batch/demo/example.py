"""What a demo model can learn to translate, by kind, with the prompt and the right answer of each example.

    plain    bulletins, under the model card's prompt
    codes    bulletins with tags, placeholders and addresses in them, under the same prompt
    format   the same under the card's prompt for formatted text, which is for Chinese; <target></target> is around the
             answer
    terms    bulletins with terms of a glossary, under the card's prompt for terminology
    context  a sentence that only the sentence before makes clear, or any bulletin after another one, under the card's
             prompt for context

One example in sixteen is held out, by a hash of its prompt without the language. Needs only the standard library.

Source: prompts from Tencent-Hunyuan/HY-MT (README at 3b33173).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from hymt_batch.demo import grammar, markup, pronouns, terms
from hymt_batch.demo.grammar import Text

KINDS = ("plain", "codes", "format", "terms", "context")

ENGLISH_PROMPT = ("Translate the following segment into ", ", without additional explanation.\n\n")
CHINESE_PROMPT = ("将以下文本翻译为", "，注意只需要输出翻译后的结果，不要额外解释：\n\n")
FORMAT_PROMPT = (
    "将以下<source></source>之间的文本翻译为",
    "，注意只需要输出翻译后的结果，不要额外解释，原文中的<sn></sn>标签表示标签内文本包含格式信息，需要在译文中相应的位置尽量保留该"
    "标签。输出格式为：<target>str</target>\n\n<source>",
    "</source>",
)
TERMS_PROMPT = (
    "参考下面的翻译：\n",
    " 翻译成 ",
    "\n\n将以下文本翻译为",
    "，注意只需要输出翻译后的结果，不要额外解释：\n",
)
CONTEXT_PROMPT = ("\n参考上面的信息，把下面的文本翻译成", "，注意不需要翻译上文，也不要额外解释：\n")
ENGLISH_NAMES = {"fr": "French", "de": "German", "zh": "Chinese"}
CHINESE_NAMES = {"fr": "法语", "de": "德语", "zh": "中文"}


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its translations, and what the prompt says beside it."""

    kind: str
    text: Text
    terms: tuple[Text, ...] = ()
    context: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages that it can be translated into."""
        return ("zh",) if self.kind == "format" else grammar.TARGETS

    def prompt(self, tgt_lang: str, *, in_chinese: bool | None = None) -> str:
        """Return the model card's prompt.

        Args:
            tgt_lang: One of `targets`.
            in_chinese: Language of the prompt, where there are two; default: Chinese if the target is Chinese.
        """
        source, name = self.text.en, CHINESE_NAMES[tgt_lang]
        if self.kind == "format":
            before, between, after = FORMAT_PROMPT
            return f"{before}{name}{between}{source}{after}"
        if self.terms:
            before, means, between, after = TERMS_PROMPT
            glossary = "\n".join(f"{term.en}{means}{term.in_language(tgt_lang)}" for term in self.terms)
            return f"{before}{glossary}{between}{name}{after}{source}"
        if self.context:
            return f"{self.context}{CONTEXT_PROMPT[0]}{name}{CONTEXT_PROMPT[1]}{source}"
        return prompt(source, tgt_lang, in_chinese=in_chinese)

    def answer(self, tgt_lang: str) -> str:
        """Return the right answer of the model."""
        translation = grammar.reference(self.text, tgt_lang)
        return f"<target>{translation}</target>" if self.kind == "format" else translation


def prompt(text: str, tgt_lang: str, *, in_chinese: bool | None = None) -> str:
    """Return the model card's prompt, in Chinese if the target is Chinese; `in_chinese` overrides this choice."""
    if in_chinese is None:
        in_chinese = tgt_lang == "zh"
    if in_chinese:
        return CHINESE_NAMES[tgt_lang].join(CHINESE_PROMPT) + text
    return ENGLISH_NAMES[tgt_lang].join(ENGLISH_PROMPT) + text


def stream(kind: str, seed: int, *, held_out: bool, is_new: bool = False) -> Iterator[Example]:
    """Yield an endless stream of examples of a kind: only held-out ones, or only others; with new words in codes."""
    rng = Random(seed)
    while True:
        example = _draw(kind, rng, is_new=is_new)
        if example and grammar.is_held_out(_hashed(example)) == held_out:
            yield example


def sample(kind: str, seed: int, num: int) -> list[Example]:
    """Draw `num` held-out examples; the same seed gives the same ones."""
    examples = stream(kind, seed, held_out=True)
    return [next(examples) for _ in range(num)]


def _draw(kind: str, rng: Random, *, is_new: bool) -> Example | None:
    if kind == "plain":
        return Example(kind, grammar.write(rng))
    if kind == "context" and rng.random() < 0.75:
        context, text = pronouns.write(rng)
        return Example(kind, text, context=context)
    text = _write_short(rng)
    if kind == "context":
        return Example(kind, text, context=_write_short(rng).en)
    if kind == "terms":
        found = terms.with_terms(text, rng)
        if found is None:
            return None
        text, of_glossary = found
        coded = markup.with_codes(text, rng, is_new=is_new) if rng.random() < 0.2 else text
        return Example(kind, coded, of_glossary) if coded else None
    coded = markup.with_codes(text, rng, is_new=is_new)
    return Example(kind, coded) if coded else None


def _write_short(rng: Random) -> Text:
    """Write a bulletin, of three sentences one time in twenty: other texts than bulletins are mostly short."""
    text = grammar.write(rng)
    return text if text.en.count(". ") < 2 else grammar.write(rng)


def _hashed(example: Example) -> str:
    """Return what tells an example from others; a bulletin alone is hashed as in `grammar`."""
    return "\n".join([*(term.en for term in example.terms), *filter(None, [example.context]), example.text.en])
