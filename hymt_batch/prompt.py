"""Renders the model cards' prompt templates to token ids; no source text can act as a control token.

The whole user turn (instruction and text) is encoded without control tokens, then the ids of the checkpoint's prefix
and suffix are added. Texts are joined by concatenation, never with a format string: braces in a text have no meaning.

Source: README files of HY-MT (1.5), Hunyuan-MT (1.0) and Hy-MT2; `\\n` are real line breaks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import compress

from hymt_batch import languages
from hymt_batch.candidate_list import MIN_CANDIDATES, with_candidates
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.languages import CHINESE_CODES
from hymt_batch.prompt_encoder import Encoder, count_all_instructions, encode_bodies
from hymt_batch.records import PLAN_VERSION, Document, Prompt, Rejection, Segment, Status
from hymt_batch.setting import Identity

log = logging.getLogger(__name__)


class PromptLanguage(Enum):
    """Language of the instruction around the text."""

    auto = "auto"  # Chinese if the source or target is Chinese, else English, as in the model card
    zh = "zh"
    en = "en"


class PromptFamily(Enum):
    """The model card whose template is used."""

    auto = "auto"  # the family of the model
    hunyuan_mt = "hunyuan_mt"
    hunyuan_mt_chimera = "hunyuan_mt_chimera"  # refines candidate translations
    hy_mt1_5 = "hy_mt1_5"
    hy_mt2 = "hy_mt2"


class GenerationPrompt(Enum):
    """Whether prompts end with the assistant token, like `add_generation_prompt` of `apply_chat_template`."""

    auto = "auto"  # as in the model card
    true = "true"
    false = "false"


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """How a segment becomes a prompt; every field is explained in conf/prompt/."""

    family: Identity[PromptFamily] = PromptFamily.auto
    language: Identity[PromptLanguage] = PromptLanguage.auto
    add_generation_prompt: Identity[GenerationPrompt] = GenerationPrompt.auto

    @property
    def num_texts(self) -> int:
        """How many texts of up to segment.max_tokens tokens a prompt holds at most."""
        return 1

    def check_model(self, model_family: str, *, refines: bool) -> None:
        """Check that the prompt is one for the model: with candidate translations if it refines them, else without.

        Raises:
            ConfigError: It is not.
        """
        fix = "Set prompt.family=auto and prompt.language=auto (the defaults)."
        if self.family is not PromptFamily.auto and (self.family is PromptFamily.hunyuan_mt_chimera) != refines:
            raise ConfigError(
                f"prompt.family={self.family.value} does not go with model.family={model_family}",
                why="one of them is for several candidate translations, and the other is not",
                fix=fix,
            )
        if refines and self.language is PromptLanguage.zh:
            raise ConfigError(
                f"prompt.language=zh does not go with model.family={model_family}",
                why="the model's card has its prompt in English alone",
                fix=fix,
            )

    def adds_generation_prompt(self, card_default: bool) -> bool:
        """Return whether prompts get the generation prompt; `card_default` is the model card's choice."""
        setting = self.add_generation_prompt
        return card_default if setting is GenerationPrompt.auto else setting is GenerationPrompt.true


_ZH_1_5 = "将以下文本翻译为{target}，注意只需要输出翻译后的结果，不要额外解释：\n\n{text}"
_EN_1_5 = "Translate the following segment into {target}, without additional explanation.\n\n{text}"
TEMPLATES: dict[PromptFamily, dict[str, str]] = {
    PromptFamily.hunyuan_mt: {"zh": "把下面的文本翻译成{target}，不要额外解释。\n\n{text}", "en": _EN_1_5},
    PromptFamily.hunyuan_mt_chimera: {
        "en": (
            "Analyze the following multiple {target} translations of the {source} segment surrounded in triple "
            "backticks and generate a single refined {target} translation. Only output the refined translation, do not "
            "explain.\n\nThe {source} segment:\n```{text}```\n\nThe multiple `{target}` translations:\n"
        ),
    },
    PromptFamily.hy_mt1_5: {"zh": _ZH_1_5, "en": _EN_1_5},
    PromptFamily.hy_mt2: {
        "zh": _ZH_1_5,
        "en": (
            "Translate the following text into {target}. Note that you should only output the translated result "
            "without any additional explanation:\n\n{text}"
        ),
    },
}
"""Template by family and language of the instruction; {text} occurs once. Chimera's ends with a list of candidates."""

UNKNOWN_SOURCE = "source"
"""What Chimera's template calls a language that neither the job nor the row names."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The resolved prompt settings of a run, independent of the tokenizer."""

    family: PromptFamily
    language: PromptLanguage
    src_lang: str | None
    tgt_lang: str

    def instruction(self, src_lang: str | None, tgt_lang: str | None) -> tuple[str, str]:
        """Return the text before and the text after a segment of one language pair."""
        language, name = self.language_and_target(src_lang, tgt_lang)
        source = src_lang or self.src_lang
        source_name = languages.get(source).english if source else UNKNOWN_SOURCE
        named = TEMPLATES[self.family][language].replace("{target}", name).replace("{source}", source_name)
        before, _, after = named.partition("{text}")
        return before, after

    @property
    def takes_candidates(self) -> bool:
        """True if a prompt lists candidate translations, of which the model makes one."""
        return self.family is PromptFamily.hunyuan_mt_chimera

    def language_and_target(self, src_lang: str | None, tgt_lang: str | None) -> tuple[str, str]:
        """Return the language of the instruction for a language pair, and the name of its target in that language."""
        source, target = src_lang or self.src_lang, languages.get(tgt_lang or self.tgt_lang)
        language = self.language.value
        if self.language is PromptLanguage.auto:
            chinese = target.code in CHINESE_CODES or (
                source is not None and languages.get(source).code in CHINESE_CODES
            )
            language = "zh" if chinese and "zh" in TEMPLATES[self.family] else "en"
        return language, target.chinese if language == "zh" else target.english

    @property
    def identity(self) -> dict[str, str | None]:
        """The settings that decide the text of a prompt, for the job's identity."""
        before, after = self.instruction(None, None)
        return {
            "family": self.family.value,
            "language": self.language.value,
            "src_lang": self.src_lang,
            "tgt_lang": self.tgt_lang,
            "text": f"{before}{{text}}{after}",
        }


def resolve_template(config: PromptConfig, model_family: str, src_lang: str | None, tgt_lang: str) -> PromptTemplate:
    """Resolve the prompt settings of a run.

    Args:
        config: The prompt settings.
        model_family: Family of the model, used if prompt.family=auto.
        src_lang: Source language code, or None; it decides the language of the instruction, and Chimera's names it.
        tgt_lang: Target language code.
    """
    template = make_template(config, model_family, src_lang, tgt_lang)
    if template.takes_candidates and template.src_lang is None:
        log.warning("src_lang is not set: the prompt of rows that do not name their language says %r", UNKNOWN_SOURCE)
    if template.family.value != model_family:
        family = template.family.value
        log.warning("prompt.family=%s differs from the template of the model card (%s)", family, model_family)
    return template


def make_template(config: PromptConfig, model_family: str, src_lang: str | None, tgt_lang: str) -> PromptTemplate:
    """Do what `resolve_template` does, and log nothing: for a process in which the run is resolved already."""
    family = PromptFamily[model_family] if config.family is PromptFamily.auto else config.family
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
    """Render each segment to the token ids of its prompt.

    Args:
        segments: Segments of all documents of a shard.
        documents: The documents of the shard.
        encoder: The tokenizer.
        template: The prompt template.
        max_context: Limit of prompt plus translation, in tokens; a translation is assumed as long as its source.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        check_stop: Called repeatedly; an exception that it raises ends the function.

    Returns:
        One prompt per segment, in order, and the rejected documents: document index -> reason.

    The user turn is encoded as a whole, so that the token boundaries are those of the checkpoint's template.
    """
    surroundings = surround(segments, documents, template)
    if template.takes_candidates:
        surroundings = with_candidates(segments, documents, surroundings, encoder, max_context, check_stop)
    bodies, rejected = encode_bodies(segments, surroundings, encoder, check_stop)
    overhead = count_all_instructions(encoder, list(compress(surroundings, bodies)), plan_version, check_stop)
    prompts: list[Prompt] = []
    prefix, suffix, has_control_ids = encoder.prefix, encoder.suffix, encoder.has_control_ids
    for segment, around, body in zip(segments, surroundings, bodies, strict=True):
        if not body:
            continue
        if has_control_ids(body):
            rejected[segment.document_index] = Rejection(
                Status.GENERATION_ERROR, "its text encodes to a control token of the model; it was not sent"
            )
            continue
        num_source_tokens = max(1, len(body) - overhead[around])
        free_tokens = max_context - len(prefix) - len(body) - len(suffix)
        if free_tokens < num_source_tokens:
            rejected[segment.document_index] = _no_room(num_source_tokens, free_tokens, max_context, template)
            continue
        document = documents[segment.document_index]
        prompts.append(
            Prompt(
                segment=segment,
                row_id=document.id,
                ids=(*prefix, *body, *suffix),
                num_source_tokens=num_source_tokens,
                tgt_lang=document.tgt_lang or template.tgt_lang,
                src_lang=document.src_lang or template.src_lang,
                around=around,
            )
        )
    return [prompt for prompt in prompts if prompt.segment.document_index not in rejected], rejected


def surround(
    segments: Sequence[Segment], documents: Sequence[Document], template: PromptTemplate
) -> list[tuple[str, str]]:
    """Return what the user turn of each segment has before and after its text; a row's segments stand in order.

    This alone decides it: what is made of a prompt later (the code ladder) takes it from there, as `Prompt.around`.
    """
    rows = [documents[segment.document_index] for segment in segments]
    pairs = [(row.src_lang, row.tgt_lang) for row in rows]
    of_pair = {pair: template.instruction(*pair) for pair in dict.fromkeys(pairs)}
    return [of_pair[pair] for pair in pairs]


def _no_room(num_source_tokens: int, free_tokens: int, max_context: int, template: PromptTemplate) -> Rejection:
    if template.takes_candidates:
        return Rejection(
            Status.TOO_LONG,
            f"a row of {num_source_tokens} tokens with {MIN_CANDIDATES} candidate translations leaves "
            f"{max(0, free_tokens)} of model.max_context={max_context} for the refined one",
        )
    return Rejection(
        Status.TOO_LONG,
        f"a segment of {num_source_tokens} tokens leaves {max(0, free_tokens)} of model.max_context="
        f"{max_context} for its translation; set a smaller segment.max_tokens to split it",
    )


def check_template(encoder: Encoder, template: PromptTemplate) -> None:
    """Reject a tokenizer that encodes the instruction of the prompt to a control token.

    Raises:
        PreflightError: The checkpoint's tokenizer cannot encode the prompt template as plain text.
    """
    if encoder.has_control_ids(encoder.encode(["".join(template.instruction(None, None))])[0]):
        what = "The tokenizer encodes the prompt's instruction to control tokens"
        raise PreflightError(what, fix="Set model.path to another model.")
