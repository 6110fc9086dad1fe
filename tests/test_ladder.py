"""The code ladder tries until a translation has the codes of its source, and never loses one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import code_prompt, prompt
from hymt_batch.check import ladder, retry
from hymt_batch.check.settings import CODE_STEPS, CheckConfig, RetryConfig
from hymt_batch.code_prompt import CodePrompts
from hymt_batch.codes import SourceCodes, find_codes
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ConfigError
from hymt_batch.prompt import PromptConfig
from hymt_batch.records import FIRST, Attempt, FormatCodes, Prompt, Segment, Translation
from tests.fakes.job import Job, translate_with
from tests.fakes.model import Bytes

Answer = Callable[[str, int], str]
"""What a model answers to a user turn, at an attempt."""


def climb(
    source: str, answer: Answer, config: CheckConfig, family: str = "hy_mt1_5", tgt: str = "zh", codes: FormatCodes = ()
) -> tuple[Translation, list[tuple[str, int]]]:
    """Translate one text with a model that answers as told; return the translation and what was decoded."""
    template = prompt.resolve_template(PromptConfig(), family, "en", tgt)
    encoder = Bytes()
    before, after = template.instruction(None, None)
    segment = Segment(0, 0, source, codes=codes)
    ids = (256, *f"{before}{source}{after}".encode(), 257)
    usual = Prompt(segment, "a#1", ids, len(source), tgt, "en", (before, after))
    sent: list[tuple[str, int]] = []

    def decode(prompts: Sequence[Prompt], attempts: Sequence[Attempt]) -> list[Translation]:
        translations = []
        for each, (attempt, _) in zip(prompts, attempts or [FIRST] * len(prompts), strict=True):
            turn = bytes(each.ids[1:-1]).decode()
            sent.append((turn, attempt))
            translations.append(Translation(each, answer(turn, attempt), "stop", attempt=attempt))
        return translations

    ladders = ladder.open_ladders([usual], CodePrompts(template, encoder, 1 << 20), config)
    (translation,) = retry.translate([usual], decode, config, ladders)
    assert translation.prompt is usual
    return translation, sent


TEXT = "Press <b>any</b> key, {name}!"


def formatted(turn: str) -> bool:
    return turn.startswith("将以下<source>")


def test_the_form_of_the_card_is_asked_first_and_its_answer_is_unwrapped() -> None:
    def answer(turn: str, attempt: int) -> str:
        assert turn.endswith("输出格式为：<target>str</target>\n\n<source>Press <s1>any</s1> key, <s2>!</source>")
        return "<target><s2></s2>，请按<s1>任意</s1>键！</target>"

    translation, sent = climb(TEXT, answer, CheckConfig())
    assert (translation.text, translation.flags) == ("{name}，请按<b>任意</b>键！", ())
    assert (translation.tries, len(sent)) == (("format_prompt",), 1)


@pytest.mark.parametrize("first", ["", "<target>请按任意键</target>", "<target>请<s1>按</s1><s2><s2></target>", TEXT])
def test_then_the_usual_prompt_a_second_seed_and_the_text_without_codes_are_tried(first: str) -> None:
    def answer(turn: str, attempt: int) -> str:
        return first if formatted(turn) else "请按任意键！"

    translation, sent = climb(TEXT, answer, CheckConfig())
    assert translation.tries == CODE_STEPS
    assert [attempt for _, attempt in sent] == [0, 0, 1, 0]
    assert sent[1][0].endswith(f"\n\n{TEXT}") and sent[2][0] == sent[1][0]
    assert sent[3][0].endswith("\n\nPress any key, !")
    assert SourceCodes(TEXT).are_kept_in(translation.text)
    assert translation.flags == ("codes_moved",)


def test_the_ladder_ends_with_the_first_translation_that_has_the_codes() -> None:
    def answer(turn: str, attempt: int) -> str:
        return "请按<b>任意</b>键，{name}！" if attempt else "请按任意键"

    translation, _ = climb(TEXT, answer, CheckConfig())
    assert (translation.tries, translation.flags) == (("format_prompt", "plain", "retry"), ("retried",))
    assert translation.attempt == 2


def test_the_best_translation_is_kept_and_never_the_worse_of_two() -> None:
    def loops_without_codes(turn: str, attempt: int) -> str:
        return "按键" if "{name}" in turn else "键键键 键键键 键键键 键键键"

    translation, _ = climb(TEXT, loops_without_codes, CheckConfig())
    assert (translation.text, translation.flags) == ("按键", ())  # its codes are put back when the row is shaped

    def copies_under_the_form(turn: str, attempt: int) -> str:
        return "<target>Press <s1>any</s1> key, <s2>!</target>" if formatted(turn) else "按<b>任意</b>键，{name}"

    translation, _ = climb(TEXT, copies_under_the_form, CheckConfig())
    assert (translation.text, translation.flags) == ("按<b>任意</b>键，{name}", ())


def test_max_attempts_says_how_many_seeds_are_tried() -> None:
    translation, sent = climb(TEXT, lambda turn, attempt: "", CheckConfig(retry=RetryConfig(max_attempts=4)))
    assert translation.tries == ("format_prompt", "plain", "retry", "retry", "retry", "without_codes")
    assert [attempt for _, attempt in sent] == [0, 0, 1, 2, 3, 0]
    assert translation.flags == ("empty",)


@pytest.mark.parametrize(
    ("steps", "tries"),
    [
        (["plain"], ()),
        (["without_codes"], ("plain", "without_codes")),
        (["format_prompt", "without_codes"], ("format_prompt", "without_codes")),
        ([], ()),
    ],
)
def test_the_setting_says_which_steps_are_tried(steps: list[str], tries: tuple[str, ...]) -> None:
    translation, _ = climb(TEXT, lambda turn, attempt: "无", CheckConfig(code_ladder=steps))
    assert translation.tries == tries


@pytest.mark.parametrize("value", ["[retry,plain]", ["plain", "plain"], "all", 3, ["retry", "card"]])
def test_a_ladder_that_is_no_list_of_steps_in_order_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="format_prompt,plain,retry,without_codes"):
        CheckConfig(code_ladder=value)


def test_a_text_of_codes_alone_is_not_sent() -> None:
    translation, sent = climb("{name} <br> https://a.b/c.", lambda turn, attempt: "x", CheckConfig())
    assert (translation.text, translation.flags, sent) == ("{name} <br> https://a.b/c.", (), [])


@pytest.mark.parametrize(
    ("family", "tgt", "text", "codes", "start"),
    [
        ("hy_mt1_5", "fr", "a {x}", (), "将以下文本翻译为|Translate the following segment into French"),
        ("hy_mt1_5", "zh-Hant", "a {x}", (), "将以下文本翻译为繁体中文"),
        ("hunyuan_mt", "zh", "a {x}", (), "把下面的文本翻译成中文"),
        ("hy_mt2", "fr", "a {x}", (), "Please accurately translate the following text into French.\nYou must retain"),
        ("hy_mt2", "zh", "a {x}", (), "请将以下文本准确翻译为中文。\n你必须在译文中保留等量的分隔符"),
        ("hy_mt2", "fr", "a <b>x</b>", (), "### Task\nTranslate the user-facing text within the following HTML data"),
        ("hy_mt2", "zh", "a <b>x</b>", (), "# 任务目标\n将下方 source_text 中的 HTML 格式数据翻译为 中文。"),
        (
            "hy_mt2",
            "fr",
            "a **x**",
            (("**", "**"),),
            "### Task\nTranslate the user-facing text within the following Mark",
        ),
    ],
)
def test_each_family_asks_in_the_words_of_its_card(
    family: str, tgt: str, text: str, codes: FormatCodes, start: str
) -> None:
    _, sent = climb(text, lambda turn, attempt: text.replace("a", "b"), CheckConfig(), family, tgt, codes)
    assert re.match("|".join(map(re.escape, start.split("|"))), sent[0][0])
    assert sent[0][0].endswith(f"\n{text}") and len(sent) == 1


HOSTILE = [
    "<",
    "&",
    '"',
    "'",
    "\\",
    "\n",
    "\r\n",
    "\n\n",
    "-->",
    "{",
    "}",
    "%",
    "</",
    "=",
    "#",
    "]]>",
    "<target>",
    "<s9>",
]
CODES = [
    "<b>",
    "</b>",
    "{name}",
    "%s",
    "%(n)d",
    "{{x}}",
    "https://a.b/c",
    "a@b.org",
    "&amp;",
    "<br/>",
    "{\\an8}",
    "<s1>",
]


def spoil(rng: random.Random, answer: str) -> str:
    """Lose, double, rename, translate, move or badly nest the codes of an answer, or put hostile text into it."""
    codes = find_codes(answer)
    kind = rng.randrange(8)
    code = rng.choice(codes) if codes else ""
    if kind == 0:
        return answer.replace(code, "", 1)
    if kind == 1:
        return answer.replace(code, code * 2, 1)
    if kind == 2:
        return answer.replace(code, code.replace("n", "m").replace("s", "z").upper(), 1)
    if kind == 3:
        words = answer.split(" ")
        rng.shuffle(words)
        return " ".join(words)
    if kind == 4:
        return answer.replace("<b>", "<i>").replace("</b>", "<b>")
    if kind == 5:
        at = rng.randrange(len(answer) + 1)
        return answer[:at] + rng.choice(HOSTILE) + answer[at:]
    return "" if kind == 6 else answer.removesuffix("</target>")


@pytest.mark.parametrize(("family", "tgt"), [("hy_mt1_5", "zh"), ("hy_mt2", "fr"), ("hunyuan_mt", "fr")])
def test_whatever_the_model_answers_no_code_is_lost(family: str, tgt: str) -> None:
    rng = random.Random(f"{family} 1")
    words = ["rain", "été", "雨", "50", "off,", "(ok)", "x."]
    for _ in range(400):
        source = " ".join(rng.choice(CODES if rng.random() < 0.4 else words) for _ in range(rng.randrange(1, 9)))

        def answer(turn: str, attempt: int) -> str:
            text = turn.rpartition("<source>")[2].removesuffix("</source>") if formatted(turn) else turn
            text = text.rpartition("\n\n")[2].rpartition("### Source Data\n")[2].replace("rain", "pluie")
            return spoil(rng, f"<target>{text}</target>" if formatted(turn) else text)

        translation, sent = climb(source, answer, CheckConfig(), family, tgt)
        codes = SourceCodes(source)
        assert len(sent) <= 4
        if codes.found.codes and translation.text and not codes.are_kept_in(translation.text):
            assert "codes_moved" not in translation.flags
            assert "without_codes" in translation.tries


def answer_requests(answer: Answer) -> Callable[[Sequence[Request], Callable[[], None]], list[Completion]]:
    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [Completion(list(answer(bytes(r.prompt_ids[1:-1]).decode(), r.seed).encode()), "stop") for r in requests]

    return decode


def test_a_job_counts_what_was_tried_and_rows_without_codes_are_sent_as_ever(tmp_path: Path) -> None:
    texts = ["Hello", "Press <b>any</b> key", "Nothing {x} works", "Bye"]
    cues = [f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n" for n, text in enumerate(texts, 1)]
    (tmp_path / "a.srt").write_text("\n".join(cues), encoding="utf-8")
    turns: list[str] = []

    def answer(turn: str, seed: int) -> str:
        turns.append(turn)
        if formatted(turn):
            text = turn.rpartition("<source>")[2].removesuffix("</source>")
            return f"<target>{text.replace('key', '键')}</target>" if "key" in text else "无"
        text = turn.rpartition("\n\n")[2]
        return text.upper() if "{" not in text else "无"

    job = Job(tmp_path)
    run = lambda *words: _translate(job, answer, f"source.path={tmp_path / 'a.srt'}", "name=a", *words)  # noqa: E731
    summary = run("tgt_lang=zh")
    assert summary.tries == {"format_prompt": 2, "plain": 1, "retry": 1, "without_codes": 1}
    assert summary.flags == {"codes_moved": 1}
    assert sum(turn.endswith("Hello") for turn in turns) == 1
    translated = (tmp_path / "out/a/translated/a.srt").read_text(encoding="utf-8")
    assert "Press <b>any</b> 键" in translated and "HELLO" in translated
    assert sorted(find_codes(translated)) == ["</b>", "<b>", "{x}"]
    manifest = json.loads((tmp_path / "out/a/manifest.json").read_bytes())
    assert manifest["tries"] == dict(summary.tries)
    assert manifest["identity"]["check"]["code_ladder"] == list(CODE_STEPS)
    assert run("tgt_lang=zh").num_rows_decoded == 0


def _translate(job: Job, answer: Answer, *words: str) -> Any:
    from hymt_batch import config
    from hymt_batch.run.reporter import Reporter

    settings = config.load("translate", [f"output_dir={job.folder / 'out'}", "model=demo", *words])
    with Reporter("off") as reporter:
        return translate_with(settings, reporter, answer_requests(answer))


def test_row_formats_climb_the_ladder_only_by_a_setting(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Press {x} now\nHello\n", encoding="utf-8")
    job, path = Job(tmp_path), f"source.path={tmp_path / 'a.txt'}"
    without = _translate(job, lambda turn, seed: "jetzt", path, "tgt_lang=de", "name=a", "check.codes=true")
    assert (dict(without.tries), dict(without.flags)) == ({}, {"codes_moved": 1})
    of_rows = _translate(job, lambda turn, seed: "jetzt", path, "tgt_lang=de", "name=b", "check.code_rows=true")
    assert dict(of_rows.tries) == {"plain": 1, "retry": 1, "without_codes": 1}
    assert (tmp_path / "out/b/translated/a.txt").read_text(encoding="utf-8") == "jetzt {x}\njetzt\n"


def test_what_the_ladder_still_loses_in_a_row_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Press {x} now\nHello\n", encoding="utf-8")
    job, path = Job(tmp_path), f"source.path={tmp_path / 'a.txt'}"
    words = ("tgt_lang=de", "name=c", "check.code_rows=true", "check.code_ladder=[plain]")
    put_back = _translate(job, lambda turn, seed: "jetzt {y}", path, *words)
    assert dict(put_back.flags) == {"codes_moved": 2}
    assert (tmp_path / "out/c/translated/a.txt").read_text(encoding="utf-8") == "jetzt {x}\njetzt\n"


def test_the_forms_of_the_cards_are_no_format_strings() -> None:
    source = SourceCodes("a {target} {format} {text} {0} <b>%s</b>")
    for family, tgt in (("hy_mt1_5", "zh"), ("hy_mt2", "fr"), ("hy_mt2", "zh")):
        template = prompt.resolve_template(PromptConfig(), family, "en", tgt)
        usual = Prompt(Segment(0, 0, source.text, codes=()), "a#1", (1,), 3, tgt, "en")
        made = CodePrompts(template, Bytes(), 1 << 20).format_prompt(usual, source)
        assert made is not None
        turn = bytes(made.prompt.ids[1:-1]).decode()
        assert (code_prompt.number_codes(source) if family == "hy_mt1_5" else source.text) in turn
        assert CodePrompts(template, Bytes(), 200).format_prompt(usual, source) is None  # no room


def test_a_stopped_job_climbs_the_ladder_again_to_the_same_bytes(tmp_path: Path) -> None:
    texts = [f"Press <b>key {n}</b> {{x{n}}} now" if n % 3 else f"Nothing {n}" for n in range(24)]
    cues = [f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{text}\n" for n, text in enumerate(texts, 1)]
    (tmp_path / "a.srt").write_text("\n".join(cues), encoding="utf-8")
    calls = [0]

    def answer_until(last: int) -> Answer:
        def answer(turn: str, seed: int) -> str:
            calls[0] += 1
            if calls[0] == last:
                raise InterruptedError
            text = turn.rpartition("\n\n")[2]
            return text.replace("<b>", "") if int(re.findall(r"\d+", text)[0]) % 2 else text.upper().replace("B>", "b>")

        return answer

    words = [f"source.path={tmp_path / 'a.srt'}", "tgt_lang=fr", "batch.part_rows=5", "batch.max_rows=2"]
    whole = _translate(Job(tmp_path), answer_until(-1), *words, "name=whole")
    num_calls, calls[0] = calls[0], 0
    with pytest.raises(InterruptedError):
        _translate(Job(tmp_path), answer_until(num_calls // 2), *words, "name=stopped")
    again = _translate(Job(tmp_path), answer_until(-1), *words, "name=stopped", "batch.max_rows=3")
    assert again.num_rows_kept > 0 and again.tries == whole.tries
    files = [(tmp_path / "out" / name / "translated/a.srt").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]
