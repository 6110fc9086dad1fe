"""The model cards' templates as token ids; nothing in a source text can act as a control token.

The whole user turn (instruction and text) is encoded without control tokens, and the checkpoint's framing ids are put
around it by number. Texts are joined by concatenation, never by a format string: braces in a source mean nothing.

Source: README files of HY-MT (1.5), Hunyuan-MT (1.0) and Hy-MT2; `\\n` are real line breaks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hymt_batch import languages
from hymt_batch.errors import PreflightError, TextError
from hymt_batch.languages import CHINESE_CODES
from hymt_batch.records import PLAN_VERSION, Document, Prompt, Rejection, Segment, Status

log = logging.getLogger(__name__)

_SAMPLE_TEXT = "Text."


class PromptLanguage(Enum):
    """Language of the instruction around the text."""

    auto = "auto"  # Chinese when Chinese is on either side, else English: the model card's rule
    zh = "zh"
    en = "en"


class PromptFamily(Enum):
    """Which model card's wording is used."""

    auto = "auto"  # the model's own
    hunyuan_mt = "hunyuan_mt"
    hy_mt1_5 = "hy_mt1_5"
    hy_mt2 = "hy_mt2"


class GenerationPrompt(Enum):
    """Whether a prompt ends with the assistant's token, as `apply_chat_template(add_generation_prompt=...)` has it."""

    auto = "auto"  # as the model's own card does
    true = "true"
    false = "false"


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """How a segment becomes a prompt; every field is explained in conf/prompt/."""

    family: PromptFamily = PromptFamily.auto
    language: PromptLanguage = PromptLanguage.auto
    add_generation_prompt: GenerationPrompt = GenerationPrompt.auto

    def adds_generation_prompt(self, card_default: bool) -> bool:
        """What `add_generation_prompt` comes to for a model whose card says `card`."""
        asked = self.add_generation_prompt
        return card_default if asked is GenerationPrompt.auto else asked is GenerationPrompt.true


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """How every prompt ends, for people: its last token, and who decided it."""

    token: str  # "" where it is not known
    id: int | None
    added: bool  # the generation prompt
    by: str  # the setting that decided it

    def __str__(self) -> str:
        last = "not known without the model's files" if self.id is None else f"{self.token} (id {self.id})"
        return f"{last}: {'with' if self.added else 'without'} the generation prompt, {self.by}"


def describe_end(config: PromptConfig, card_default: bool, last_token: tuple[str, int] | None) -> PromptEnd:
    """Say how prompts end.

    Args:
        config: The prompt settings.
        card: What the model's own card does.
        last: Text and id of the last token; None where it is not known.
    """
    added = config.adds_generation_prompt(card_default)
    if config.add_generation_prompt is GenerationPrompt.auto:
        by = "as the model's own card does"
    else:
        agrees = "like" if added is card_default else "unlike"
        by = f"as prompt.add_generation_prompt={config.add_generation_prompt.value} says, {agrees} the model's own card"
    token, id = last_token or ("", None)
    return PromptEnd(token, id, added, by)


_ZH_1_5 = "将以下文本翻译为{target}，注意只需要输出翻译后的结果，不要额外解释：\n\n{text}"
_EN_1_5 = "Translate the following segment into {target}, without additional explanation.\n\n{text}"
TEMPLATES: dict[PromptFamily, dict[str, str]] = {
    PromptFamily.hunyuan_mt: {"zh": "把下面的文本翻译成{target}，不要额外解释。\n\n{text}", "en": _EN_1_5},
    PromptFamily.hy_mt1_5: {"zh": _ZH_1_5, "en": _EN_1_5},
    PromptFamily.hy_mt2: {
        "zh": _ZH_1_5,
        "en": (
            "Translate the following text into {target}. Note that you should only output the translated result "
            "without any additional explanation:\n\n{text}"
        ),
    },
}
"""Family -> language of the instruction -> template; {target} and {text} occur once each."""


class Encoder(Protocol):
    """What a tokenizer must offer to compose prompts (model/tokenizer.py does)."""

    @property
    def prefix(self) -> tuple[int, ...]: ...
    @property
    def suffix(self) -> tuple[int, ...]: ...
    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...
    def encode_with_head(self, head: str, texts: Sequence[str]) -> list[list[int]]: ...
    def has_control_ids(self, body: Sequence[int]) -> bool: ...


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Everything a run needs to compose prompts: settings resolved, nothing about tokens."""

    family: PromptFamily
    language: PromptLanguage
    src_lang: str | None
    tgt_lang: str

    def instruction(self, src_lang: str | None, tgt_lang: str | None) -> tuple[str, str]:
        """Text before and after the segment for one language pair."""
        source, target = src_lang or self.src_lang, languages.get(tgt_lang or self.tgt_lang)
        language = self.language.value
        if self.language is PromptLanguage.auto:
            chinese = target.code in CHINESE_CODES or (
                source is not None and languages.get(source).code in CHINESE_CODES
            )
            language = "zh" if chinese else "en"
        name = target.chinese if language == "zh" else target.english
        before, _, after = TEMPLATES[self.family][language].partition("{text}")
        return before.replace("{target}", name), after.replace("{target}", name)

    @property
    def identity(self) -> dict[str, str | None]:
        """What of it decides the text, for the job's identity."""
        before, after = self.instruction(None, None)
        return {
            "family": self.family.value,
            "language": self.language.value,
            "src_lang": self.src_lang,
            "tgt_lang": self.tgt_lang,
            "text": f"{before}{{text}}{after}",
        }


def resolve_template(config: PromptConfig, model_family: str, src_lang: str | None, tgt_lang: str) -> PromptTemplate:
    """Resolve the settings of a run.

    Args:
        config: The prompt settings.
        model_family: The family the model belongs to, used for family=auto.
        src_lang: Language code of the source, or None: only whether Chinese is involved matters.
        tgt_lang: Language code of the target.
    """
    family = PromptFamily[model_family] if config.family is PromptFamily.auto else config.family
    if family.value != model_family:
        log.warning("prompt.family=%s is not the wording of the model's own card (%s)", family.value, model_family)
    source = languages.get(src_lang, "src_lang").code if src_lang else None
    return PromptTemplate(family, config.language, source, languages.get(tgt_lang).code)


def render(
    segments: Sequence[Segment],
    documents: Sequence[Document],
    encoder: Encoder,
    template: PromptTemplate,
    max_context: int,
    plan_version: int = PLAN_VERSION,
    *,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[list[Prompt], dict[int, Rejection]]:
    """Compose the token ids of every segment.

    Args:
        segments: Of all documents of a shard.
        documents: The shard's documents.
        encoder: Text to token ids.
        words: The prompt's wording.
        max_context: Tokens of prompt and translation together; a translation needs about as many as its source.
        plan: Version of the job's plan; see records.PLAN.
        step: Called again and again; what it raises ends the work.

    Returns:
        One prompt a segment, in order; and the documents that cannot be sent, by index, with the reason.

    Source: the ids are those of the user turn encoded as a whole, so that token boundaries are those of the
    checkpoint's template.
    """
    pairs = [
        (documents[segment.document_index].src_lang, documents[segment.document_index].tgt_lang) for segment in segments
    ]
    instructions = {pair: template.instruction(*pair) for pair in dict.fromkeys(pairs)}
    overhead = {pair: _count_instruction_tokens(encoder, *text, plan_version) for pair, text in instructions.items()}
    places: dict[tuple[str | None, str | None], list[int]] = {pair: [] for pair in instructions}
    for place, pair in enumerate(pairs):
        places[pair].append(place)
    bodies: list[list[int]] = [[]] * len(segments)
    prompts: list[Prompt] = []
    refused: dict[int, Rejection] = {}
    for pair, all_places in places.items():
        before, after = instructions[pair]
        for some in _chunks(segments, all_places):
            check_stop()
            try:
                found = encoder.encode_with_head(before, [f"{segments[place].text}{after}" for place in some])
            except TextError:  # of one of them
                found = []
                for place in some:
                    check_stop()
                    try:
                        found += encoder.encode_with_head(before, [f"{segments[place].text}{after}"])
                    except TextError as error:
                        found.append([])
                        refused[segments[place].document_index] = Rejection(Status.GENERATION_ERROR, error.message)
            for place, body in zip(some, found, strict=True):
                bodies[place] = body
    prefix, suffix, leaks = encoder.prefix, encoder.suffix, encoder.has_control_ids
    longest = max_context - len(prefix) - len(suffix)
    for segment, pair, body in zip(segments, pairs, bodies, strict=True):
        if not body:
            continue
        if leaks(body):
            refused[segment.document_index] = Rejection(
                Status.GENERATION_ERROR, "its text would become a control token of the model; it was not sent"
            )
            continue
        num_source_tokens = max(1, len(body) - overhead[pair])
        room = longest - len(body)
        if room < num_source_tokens:
            refused[segment.document_index] = Rejection(
                Status.TOO_LONG,
                f"a segment of {num_source_tokens} tokens leaves {max(0, room)} of model.max_context={max_context} for "
                "its translation; a smaller segment.max_tokens would cut it",
            )
            continue
        prompts.append(
            Prompt(
                segment=segment,
                row_id=documents[segment.document_index].id,
                ids=(*prefix, *body, *suffix),
                num_source_tokens=num_source_tokens,
                tgt_lang=pair[1] or template.tgt_lang,
            )
        )
    if refused:
        prompts = [prompt for prompt in prompts if prompt.segment.document_index not in refused]
    return prompts, refused


_CHUNK_ROWS, _CHUNK_CHARS = 4096, 250_000  # about a second of work


def _chunks(segments: Sequence[Segment], indices: Sequence[int]) -> Iterator[list[int]]:
    """The places of segments that are encoded together."""
    some: list[int] = []
    chars = 0
    for place in indices:
        some.append(place)
        chars += len(segments[place].text)
        if chars >= _CHUNK_CHARS or len(some) >= _CHUNK_ROWS:
            yield some
            some, chars = [], 0
    if some:
        yield some


def _count_instruction_tokens(encoder: Encoder, before: str, after: str, plan_version: int) -> int:
    """Tokens of an instruction around a text: of white space at its end, what follows decides. Plan 1: of it alone."""
    if plan_version == 1:
        return len(encoder.encode([f"{before}{after}"])[0])
    whole, text = encoder.encode([f"{before}{_SAMPLE_TEXT}{after}", _SAMPLE_TEXT])
    return len(whole) - len(text)


def check_template(encoder: Encoder, template: PromptTemplate) -> None:
    """Refuse a tokenizer whose own instruction would hold a control token.

    Raises:
        PreflightError: The checkpoint's tokenizer cannot encode the model card's wording as plain text.
    """
    if encoder.has_control_ids(encoder.encode(["".join(template.instruction(None, None))])[0]):
        raise PreflightError("The tokenizer turns the prompt's own words into control tokens; the model is refused.")
