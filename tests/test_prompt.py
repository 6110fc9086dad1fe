"""Prompts are those of the model cards, and no source text becomes a control token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hymt_batch import languages, prompt
from hymt_batch.code_prompt import CodePrompts
from hymt_batch.demo import example
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.prompt import GenerationPrompt, PromptConfig, PromptFamily, PromptLanguage, PromptTemplate
from hymt_batch.prompt_end import describe_end
from hymt_batch.records import Document, Segment, Status
from tests.fakes.documents import documents
from tests.fakes.model import Bytes


def text_of(ids: tuple[int, ...]) -> str:
    assert ids[0] == 256
    assert ids[-1] == 257
    return bytes(ids[1:-1]).decode()


@pytest.mark.parametrize(
    ("family", "src_lang", "tgt_lang", "expected"),
    [
        (
            "hy_mt1_5",
            "en",
            "fr",
            "Translate the following segment into French, without additional explanation.\n\nHi {x}",
        ),
        ("hy_mt1_5", "en", "zh", "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\n\nHi {x}"),
        ("hy_mt1_5", "zh", "de", "将以下文本翻译为德语，注意只需要输出翻译后的结果，不要额外解释：\n\nHi {x}"),
        ("hy_mt1_5", None, "yue", "将以下文本翻译为粤语，注意只需要输出翻译后的结果，不要额外解释：\n\nHi {x}"),
        ("hunyuan_mt", "zh-Hant", "en", "把下面的文本翻译成英语，不要额外解释。\n\nHi {x}"),
        (
            "hy_mt2",
            None,
            "fr",
            "Translate the following text into French. Note that you should only output the translated result without "
            "any additional explanation:\n\nHi {x}",
        ),
    ],
)
def test_templates_are_those_of_the_model_cards(
    family: str, src_lang: str | None, tgt_lang: str, expected: str
) -> None:
    template = prompt.resolve_template(PromptConfig(), family, src_lang, tgt_lang)
    (rendered,), rejected = prompt.render([Segment(0, 0, "Hi {x}")], documents(["Hi {x}"]), Bytes(), template, 8192)
    assert text_of(rendered.ids) == expected
    assert rendered.num_source_tokens == len("Hi {x}")
    assert not rejected


def test_one_function_decides_what_surrounds_a_segment_also_under_the_code_ladder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a template would have it that shows the row's earlier segments."""

    def with_earlier(
        segments: Sequence[Segment], rows: Sequence[Document], template: PromptTemplate
    ) -> list[tuple[str, str]]:
        before, after = template.instruction(None, None)
        earlier = [
            " ".join(other.text for other in segments[:n] if other.document_index == segment.document_index)
            for n, segment in enumerate(segments)
        ]
        return [(f"Before: {text}\n\n{before}" if text else before, after) for text in earlier]

    monkeypatch.setattr(prompt, "surround", with_earlier)
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", "en", "fr")
    instruction = "".join(template.instruction(None, None))
    rows = documents(["One. Two.", "Three."])
    segments = [Segment(0, 0, "One.", codes=()), Segment(0, 1, "Two <b>.", codes=()), Segment(1, 0, "Three.", codes=())]
    prompts, rejected = prompt.render(segments, rows, Bytes(), template, 8192)
    assert [text_of(made.ids) for made in prompts] == [
        f"{instruction}One.",
        f"Before: One.\n\n{instruction}Two <b>.",
        f"{instruction}Three.",
    ]
    assert [made.num_source_tokens for made in prompts] == [4, 8, 6]
    assert not rejected
    without_codes = CodePrompts(template, Bytes(), 8192).plain_prompt(prompts[1], "Two.")
    assert without_codes is not None
    assert text_of(without_codes.ids) == f"Before: One.\n\n{instruction}Two."
    assert without_codes.num_source_tokens == 4


def test_the_language_of_the_prompt_and_its_family_can_be_chosen() -> None:
    config = PromptConfig(language=PromptLanguage.zh, family=PromptFamily.hunyuan_mt)
    assert (
        prompt.resolve_template(config, "hy_mt1_5", "en", "fr")
        .instruction(None, None)[0]
        .startswith("把下面的文本翻译成法语")
    )


def test_rows_may_have_their_own_languages() -> None:
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    rows = [*documents(["a"], tgt_lang="de"), *documents(["a"], src_lang="zh")]
    prompts, _ = prompt.render([Segment(0, 0, "a"), Segment(1, 0, "a")], rows, Bytes(), template, 8192)
    assert "German" in text_of(prompts[0].ids)
    assert "法语" in text_of(prompts[1].ids)
    assert [rendered.tgt_lang for rendered in prompts] == ["de", "fr"]


@pytest.mark.fault(58, 73)
def test_a_text_that_encodes_to_a_control_token_is_rejected_with_all_its_segments() -> None:
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    segments = [Segment(0, 0, "fine"), Segment(0, 1, "bad \x1d"), Segment(1, 0, "good")]
    prompts, rejected = prompt.render(
        segments, documents(["fine bad", "good"]), Bytes(control_byte=0x1D), template, 8192
    )
    assert [rendered.segment.document_index for rendered in prompts] == [1]
    assert rejected[0].status is Status.GENERATION_ERROR


def test_a_segment_without_room_for_its_translation_is_too_long() -> None:
    template = prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr")
    prompts, rejected = prompt.render([Segment(0, 0, "x" * 50)], documents(["x" * 50]), Bytes(), template, 150)
    assert prompts == []
    assert rejected[0].status is Status.TOO_LONG
    assert "segment.max_tokens" in rejected[0].message


@pytest.mark.fault(78)
def test_a_tokenizer_that_encodes_the_instruction_to_control_tokens_is_rejected() -> None:
    class LeakyTokenizer(Bytes):
        def has_control_ids(self, body: object) -> bool:
            return True

    with pytest.raises(PreflightError):
        prompt.check_template(LeakyTokenizer(), prompt.resolve_template(PromptConfig(), "hy_mt1_5", None, "fr"))


def test_there_are_38_languages_and_a_wrong_code_names_the_nearest() -> None:
    assert len(languages.LANGUAGES) == 38
    assert languages.get("ZH_hant").code == "zh-Hant"
    with pytest.raises(ConfigError, match=r"tgt_lang=ca .* Nearest: es, fr, pt\."):
        languages.get("ca")
    with pytest.raises(ConfigError, match=r"src_lang=sv "):
        prompt.resolve_template(PromptConfig(), "hy_mt1_5", "sv", "fr")


def test_the_demo_model_learns_the_prompts_and_names_that_a_job_sends() -> None:
    for template, key in ((example.ENGLISH_PROMPT, "en"), (example.CHINESE_PROMPT, "zh")):
        assert "{target}".join(template) + "{text}" == prompt.TEMPLATES[prompt.PromptFamily.hy_mt1_5][key]
    for code, name in example.ENGLISH_NAMES.items():
        language = languages.get(code)
        assert (name, example.CHINESE_NAMES[code]) == (language.english, language.chinese)


@pytest.mark.parametrize(
    ("setting", "card", "added", "text"),
    [
        ("auto", True, True, "with the generation prompt, as in the model card"),
        ("auto", False, False, "without the generation prompt, as in the model card"),
        ("true", True, True, "with the generation prompt, set by prompt.add_generation_prompt=true, like the"),
        ("true", False, True, "with the generation prompt, set by prompt.add_generation_prompt=true, unlike the"),
        ("false", True, False, "without the generation prompt, set by prompt.add_generation_prompt=false, unlike the"),
        ("false", False, False, "without the generation prompt, set by prompt.add_generation_prompt=false, like the"),
    ],
)
def test_the_generation_prompt_follows_the_card_unless_it_is_set(
    setting: str, card: bool, added: bool, text: str
) -> None:
    config = PromptConfig(add_generation_prompt=GenerationPrompt[setting])
    assert config.adds_generation_prompt(card) is added
    end = describe_end(config, card, ("<end>", 7))
    assert end.added is added
    assert str(end).startswith(f"<end> (id 7): {text}")
    assert str(describe_end(config, card, None)).startswith(f"not known without the model's files: {text}")
