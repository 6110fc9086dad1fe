"""Prompts for a text with codes: the forms of the model cards that ask the model to keep them, and other texts.

HY-MT1.5 has a form for formatted text, for Chinese as the target: each code becomes a numbered tag, `<s1>...</s1>` for
a pair and `<s2>` for one that stands alone. Hy-MT2 has two: for structured data, and for delimiters; the codes stay as
they are. Hunyuan-MT has none. No text of a user is ever a format string.

Source: README files of HY-MT (1.5; "Prompt Template for formatted translation") and Hy-MT2 ("Delimiters", "Structured
Data 1"), where `<br>` is a line break and `**` is the emphasis of the table. The first `{source_text}` of the Chinese
structured form names the text below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from hymt_batch import languages
from hymt_batch.codes import SourceCodes
from hymt_batch.errors import TextError
from hymt_batch.prompt import PromptFamily, PromptTemplate
from hymt_batch.prompt_encoder import Encoder, count_instruction_tokens
from hymt_batch.records import PLAN_VERSION, Prompt

FORMATTED = (
    "将以下<source></source>之间的文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释，"
    "原文中的<sn></sn>标签表示标签内文本包含格式信息，需要在译文中相应的位置尽量保留该标签。"
    "输出格式为：<target>str</target>\n\n<source>",
    "</source>",
)
"""Before and after the text, with numbered tags (HY-MT1.5)."""

DELIMITERS = {
    "zh": "请将以下文本准确翻译为{target}。\n"
    "你必须在译文中保留等量的分隔符，绝对不可遗漏、转义或翻译该符号，并注意分隔符的位置。\n\n",
    "en": "Please accurately translate the following text into {target}.\n"
    "You must retain the exact same number of delimiters in the translation. Strictly do not omit, escape, or "
    "translate these symbols, and pay close attention to their placement.\n\n",
}
"""Before the text, by the language of the instruction (Hy-MT2)."""

STRUCTURED = {
    "zh": "# 任务目标\n将下方 source_text 中的 {format} 格式数据翻译为 {target}。\n\n"
    "# 严格约束\n1. 结构锁定：绝对保持原有的 {format} 数据结构、缩进和层级完全不变。\n"
    "2. 选择性翻译：仅翻译面向用户展示的可见文本内容。\n"
    "3. 禁止修改：严禁翻译或更改任何代码标签、键名 (Key)、变量占位符（如 {{var}}、${var}、%s、%d 等）或代码属性。\n\n"
    "# 数据输入\n",
    "en": "### Task\nTranslate the user-facing text within the following {format} data into {target}.\n\n"
    "### Strict Rules\n1. Structure Preservation: You MUST preserve the original {format} data structure, nesting, "
    "hierarchy, and indentation exactly as they are.\n"
    "2. Selective Translation: Translate ONLY the visible, user-facing text content/values.\n"
    "3. Strict Non-Translation: NEVER translate or alter code tags, keys, properties, object names, or variable "
    "placeholders. Leave them exactly in their original English/code form.\n\n"
    "### Source Data\n",
}
"""Before the text, by the language of the instruction (Hy-MT2)."""

_NUMBERED_TAG = re.compile(r"<\s?(/?)\s?[sS](\d{1,6})\s?(/?)\s?>")
_TARGET = re.compile(r"</?target>")


@dataclass(frozen=True, slots=True)
class CodePrompt:
    """A prompt that asks for the codes, and what makes a translation of the model's answer."""

    prompt: Prompt
    read: Callable[[str], str]


class CodePrompts:
    """Makes prompts of segments with codes.

    Args:
        template: The prompt template of the job.
        encoder: The tokenizer.
        max_context: Limit of prompt plus translation, in tokens.
    """

    def __init__(self, template: PromptTemplate, encoder: Encoder, max_context: int) -> None:
        self._template, self._encoder, self._max_context = template, encoder, max_context
        self._num_instruction_tokens: tuple[tuple[str, str], int] | None = None  # of the last one, mostly the same

    def format_prompt(self, prompt: Prompt, codes: SourceCodes) -> CodePrompt | None:
        """Return a segment under the form of the model's card; None if it has none for this target, or no room.

        Args:
            prompt: The segment under the usual prompt.
            codes: Its codes.
        """
        family = self._template.family
        if family is PromptFamily.hy_mt1_5 and languages.get(prompt.tgt_lang).code == "zh":
            made, read = self._render(prompt, FORMATTED, number_codes(codes)), partial(restore_codes, codes)
            return CodePrompt(made, read) if made else None
        if family is PromptFamily.hy_mt2:
            language, target = self._template.language_and_target(prompt.src_lang, prompt.tgt_lang)
            kind = _format_of(codes)
            form = STRUCTURED[language].replace("{format}", kind) if kind else DELIMITERS[language]
            made = self._render(prompt, (form.replace("{target}", target), ""), codes.text)
            return CodePrompt(made, str) if made else None
        return None

    def plain_prompt(self, prompt: Prompt, text: str) -> Prompt | None:
        """Return the usual prompt of a segment with another text; None if that has no room.

        None too where the prompt lists translations of the whole text, of which the other one is a part.
        """
        if self._template.takes_candidates:
            return None
        return self._render(prompt, prompt.around, text)

    def _render(self, prompt: Prompt, around: tuple[str, str], text: str) -> Prompt | None:
        before, after = around
        encoder = self._encoder
        try:
            (body,) = encoder.encode([f"{before}{text}{after}"])  # the encoder with a head belongs to the reader
        except TextError:
            return None
        if self._num_instruction_tokens is None or self._num_instruction_tokens[0] != around:
            self._num_instruction_tokens = around, count_instruction_tokens(encoder, before, after, PLAN_VERSION)
        num_source_tokens = max(1, len(body) - self._num_instruction_tokens[1])
        ids = (*encoder.prefix, *body, *encoder.suffix)
        if encoder.has_control_ids(body) or self._max_context - len(ids) < num_source_tokens:
            return None
        return replace(prompt, ids=ids, num_source_tokens=num_source_tokens, around=around)


def number_codes(codes: SourceCodes) -> str:
    """Return the source with numbered tags in the place of its codes."""
    numbers = _numbers(codes)
    tags = [f"</s{number}>" if is_end else f"<s{number}>" for number, is_end in numbers]
    first, *others = codes.found.pieces_of(codes.text)
    return first + "".join(tag + piece for tag, piece in zip(tags, others, strict=True))


def restore_codes(codes: SourceCodes, answer: str) -> str:
    """Return an answer without `<target>` around it, and with the codes of the source in the place of their tags."""
    text = unwrap(answer)
    opening: dict[int, str] = {}
    closing: dict[int, str] = {}
    for (number, is_end), code in zip(_numbers(codes), codes.found.codes, strict=True):
        (closing if is_end else opening)[number] = code.text

    def restore(match: re.Match[str]) -> str:
        number = int(match[2])
        if not match[1]:
            return opening.get(number, match[0])
        if number in opening and number not in closing:
            return ""  # the model may close what stands alone, as in <s1></s1>
        return closing.get(number, match[0])

    return _NUMBERED_TAG.sub(restore, text)


def unwrap(answer: str) -> str:
    """Return what is inside `<target>`, or what is left of the answer without a part of such a wrapping."""
    start, end = answer.find("<target>"), answer.rfind("</target>")
    inner = answer[start + len("<target>") if start >= 0 else 0 : end if end > start else len(answer)]
    return _TARGET.sub("", inner).strip()


def _numbers(codes: SourceCodes) -> list[tuple[int, bool]]:
    """Return the number of each code, and whether it is the end of a pair, which has the number of its start."""
    closed = {code.closes for code in codes.found.codes}
    numbers: list[tuple[int, bool]] = []
    last = 0
    for index, code in enumerate(codes.found.codes):
        if code.closes is not None and index not in closed:
            numbers.append((numbers[code.closes][0], True))
        else:
            last += 1
            numbers.append((last, False))
    return numbers


def _format_of(codes: SourceCodes) -> str:
    """Return the format of a text with tags or with marks in pairs; "" if it has other codes only."""
    if any(code.text.startswith("<") for code in codes.found.codes):
        return "HTML"
    return "Markdown" if any(code.side for code in codes.found.codes) else ""
