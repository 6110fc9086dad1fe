"""Each check finds its fault, and leaves human translations alone."""

from __future__ import annotations

import time

import pytest

from hymt_batch.check import leaks, length_ratios, scripts
from hymt_batch.check.checks import derive
from hymt_batch.check.measures import DERIVED, MEASURES, measure, worst
from hymt_batch.check.pair import Pair, words_of
from hymt_batch.check.settings import DERIVED_KINDS, FlagConfig
from hymt_batch.languages import LANGUAGES
from hymt_batch.prompt import TEMPLATES
from tests.campaigns import checks as campaign

FLAG = FlagConfig()
EN = "The council of Edinburgh will vote on the new budget in March 2019."
DE = "Der Stadtrat von Edinburgh stimmt im März 2019 über den neuen Haushalt ab."
JA = "エディンバラ市議会は2019年3月に新しい予算案について採決を行う予定です。"
ZH = "爱丁堡市议会将于2019年3月就新的预算案进行表决，届时各个党派都会参加。"
HANT = "愛丁堡市議會將於2019年3月就新的預算案進行表決，屆時各個黨派都會參加。"


def flags(
    source: str, translation: str, tgt_lang: str, src_lang: str | None = "en", config: FlagConfig = FLAG
) -> set[str]:
    return set(derive(measure(Pair(source, translation, src_lang, tgt_lang)), None, config, config.flags))


@pytest.mark.parametrize(("text", "code"), [(DE, "de"), (JA, "ja"), (ZH, "zh"), (HANT, "zh-Hant"), (HANT, "yue")])
@pytest.mark.parametrize("src_lang", ["en", None])
def test_a_good_translation_has_no_flag(text: str, code: str, src_lang: str | None) -> None:
    assert flags(EN, text, code, src_lang) == set()


@pytest.mark.parametrize(
    ("flag", "translation", "code"),
    [
        ("loop", "nein, nein, nein, nein", "de"),
        ("repetition", " ".join(f"Er sagte ihr nie mehr etwas {n}" for n in range(5)), "de"),
        ("repetition", "".join(f"市议会将在三月份对新预算案进行表决{n}" for n in range(5)), "zh"),
        ("length", f"{DE} Alle Parteien nehmen an der Sitzung teil. " * 2 + "Das Ende kommt erst am Abend.", "de"),
        ("length", "Der Rat.", "de"),
        ("wrong_script", EN, "zh"),
        ("wrong_script", JA, "th"),
        ("wrong_language", JA, "zh"),
        ("wrong_language", ZH, "ja"),
        ("wrong_language", "Рада проголосує за новий бюджет, і її підтримають усі.", "ru"),
        ("wrong_language", "Эти выборы были важны, чтобы обсудить новые вопросы города.", "uk"),
        ("wrong_language", "شورای شهر درباره بودجه جدید رأی می‌گیرد و چند گروه پشتیبان آن هستند.", "ar"),
        ("wrong_variant", HANT, "zh"),
        ("wrong_variant", ZH, "zh-Hant"),
        ("wrong_variant", ZH, "yue"),
        ("left_in_source", "爱丁堡 will vote on the new budget in March 2019。届时各个党派都会参加表决。", "zh"),
        ("leak", f"Translation: {DE}", "de"),
        ("leak", f"Here's the German translation of the text: {DE}", "de"),
        ("leak", f"{DE}\n\nNote: the name stays.", "de"),
        ("leak", f"以下是译文：{ZH}", "zh"),
        ("urls", f"{DE} https://example.org", "de"),
        ("numbers", DE.replace("2019", "2091"), "de"),
        ("markdown", f"**{DE}**", "de"),
        ("markdown", f"# {DE}", "de"),
    ],
)  # fmt: skip
def test_each_fault_has_its_flag(flag: str, translation: str, code: str) -> None:
    assert flag in flags(EN, translation, code)
    assert flag not in flags(EN, translation, code, config=FlagConfig(kinds=[k for k in DERIVED_KINDS if k != flag]))


@pytest.mark.parametrize(
    ("source", "translation", "code"),
    [
        ("Note: " + EN, f"Hinweis: {DE}", "de"),
        ("**" + EN + "**", f"**{DE}**", "de"),
        (f"{EN} See https://example.org/a.", f"{ZH}请见https://example.org/a。", "zh"),
        ("It cost 10,000 dollars in 1999, they said.", "Es kostete 1999 angeblich 10.000 Dollar, sagten sie.", "de"),
        ("It cost 10000 dollars in 1999, they said.", "1999年にその費用は10,000ドルだったと言われています。", "ja"),
        ("It happened in 1999, they all said then.", "حدث ذلك في عام ١٩٩٩ كما قالوا جميعا في ذلك الوقت.", "ar"),
        ('Press <a href="https://a.org/b/c/d">here now</a>', '<a href="https://a.org/b/c/d">请点击这里</a>', "zh"),
        ("BBC Scotland's Alasdair Lamont reports.", "BBC Scotland的记者Alasdair Lamont从那里发回报道。", "zh"),
        ("no, no, no, no, he said to them all", "nein, nein, nein, nein, sagte er ihnen allen", "de"),
    ],
)  # fmt: skip
def test_what_the_source_has_too_is_no_fault(source: str, translation: str, code: str) -> None:
    assert flags(source, translation, code) == set()


def test_short_rows_are_not_judged_by_length_script_or_language() -> None:
    assert flags("Yes, sir", "OK", "zh") == flags("OK", "Das ist in Ordnung so", "de") == set()


def test_every_measurement_serves_a_flag_and_thresholds_decide() -> None:
    assert set(DERIVED) == set(DERIVED_KINDS)
    names = {name for name in MEASURES if derive(((name, 9.0),), None, FLAG, DERIVED_KINDS)}
    assert names == set(MEASURES)
    for setting, value in (("length_factor", 1.6), ("foreign_share", 0.95), ("source_words", 8), ("loop_repeats", 9)):
        measures = (("loop", 8), ("long", 1.5), ("foreign", 0.9), ("left", 7))
        loose = FlagConfig(**{setting: value})
        assert len(derive(measures, None, FLAG, FLAG.flags)) == 4 == 1 + len(derive(measures, None, loose, loose.flags))


def test_the_worst_segment_of_a_row_counts() -> None:
    measures = worst([(("loop", 3), ("long", 1.1)), (), (("long", 1.5), ("urls", 1)), (("language", 0.7),)])
    assert measures == (("loop", 3), ("long", 1.5), ("urls", 1), ("language", 0.7))


def test_every_language_has_a_script_and_a_length() -> None:
    for code, language in LANGUAGES.items():
        low, high = length_ratios.limits("en", code) if code != "en" else (0.5, 2)
        assert 0 < low < high
        assert language.script in scripts.CHARACTERS
        assert scripts.main_script(language.native) in (language.script, "Hans")
    assert set(length_ratios.FROM_ENGLISH) == set(LANGUAGES)
    low, high = length_ratios.limits("zh", "de")
    assert low < 1.19 / 0.34 < high


def test_the_words_of_every_prompt_are_known_as_a_leak() -> None:
    for by_language in TEMPLATES.values():
        for template in by_language.values():
            assert leaks.has_leak(template.replace("{target}", "French").replace("{text}", "Bonjour"))


def test_codes_are_in_no_language() -> None:
    assert words_of('<a href="x">点击</a> {name} https://a.b/c').split() == ["点击"]
    assert words_of("plain text") == "plain text"


def test_all_checks_take_less_than_100_microseconds_a_row() -> None:
    texts = campaign.read(campaign.SAMPLE)
    start = time.process_time()
    assert min(campaign.microseconds_a_row(texts) for _ in range(3)) < 100 or time.process_time() - start > 20


@pytest.mark.parametrize("kind", campaign.KINDS)
def test_faults_in_human_translations_are_found(kind: str) -> None:
    identifies = kind in ("wrong_language", "wrong_script")
    if identifies:
        pytest.importorskip("py3langid")
    texts = campaign.read(campaign.SAMPLE)
    results = campaign.measure_recall(texts, kind, 40, seed=7, identify_share=float(identifies)).values()
    assert sum(result.num for result in results) > 20
    assert sum(result.found for result in results) / sum(result.num for result in results) >= campaign.NEEDED_RECALL


def test_human_translations_have_few_flags() -> None:
    alarms, num = campaign.measure_alarms(campaign.read(campaign.SAMPLE), identify_share=0.0)
    assert num == 80 * (len(campaign.FILES) - 1)
    for kind, counts in alarms.items():
        rate = sum(counts.values()) / (num * (len(campaign.FILES) - 1))
        assert rate <= 2 * campaign.ALLOWED_ALARMS.get(kind, 0), kind
