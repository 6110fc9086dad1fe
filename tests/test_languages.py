"""Languages are understood as users write them, and never taken for another language or another script."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hymt_batch.jobs import __main__ as front
from pyarrow import parquet

from hymt_batch import config, language_table, language_tags, languages
from hymt_batch.errors import ConfigError
from hymt_batch.formats.row_reader import ReadContext
from hymt_batch.language_tags import Tag
from hymt_batch.languages import LANGUAGES
from hymt_batch.source import discovery, language_check
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents

pytestmark = pytest.mark.core
ROOT = Path(__file__).parent.parent

FLORES = """
zho_Hans eng_Latn fra_Latn por_Latn spa_Latn jpn_Jpan tur_Latn rus_Cyrl arb_Arab kor_Hang tha_Thai ita_Latn deu_Latn
vie_Latn zsm_Latn ind_Latn tgl_Latn hin_Deva zho_Hant pol_Latn ces_Latn nld_Latn khm_Khmr mya_Mymr pes_Arab guj_Gujr
urd_Arab tel_Telu mar_Deva heb_Hebr ben_Beng tam_Taml ukr_Cyrl bod_Tibt kaz_Cyrl khk_Cyrl uig_Arab yue_Hant
"""
BIBLIOGRAPHIC = (
    "chi eng fre por spa jpn tur rus ara kor tha ita ger vie may ind fil hin - pol cze dut khm bur per guj urd "
)
BIBLIOGRAPHIC += "tel mar heb ben tam ukr tib kaz mon uig -"


def code(text: str) -> str:
    return languages.understand(text).language.code


def refusal(text: str, key: str = "tgt_lang") -> str:
    with pytest.raises(ConfigError) as caught:
        languages.understand(text, key)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("codes", [FLORES, BIBLIOGRAPHIC], ids=["flores", "iso639-2/B"])
def test_every_language_is_understood_by_its_codes(codes: str) -> None:
    for text, expected in zip(codes.split(), LANGUAGES, strict=True):
        if text != "-":
            assert code(text) == expected
            assert f"is read as {expected} (" in languages.understand(text).note


def test_every_name_and_code_of_the_table_means_its_own_row_alone() -> None:
    for language in LANGUAGES.values():
        for text in (*language.accepted, *language.names, language.code.upper(), language.english.upper()):
            assert code(text) == language.code, text
            assert code(unicodedata.normalize("NFD", text)) == language.code, text
        assert languages.understand(language.code).note == ""
    names = [languages._name_key(name) for language in LANGUAGES.values() for name in set(language.names)]
    by_code, by_name = languages._others()
    assert not set(by_code) & set(languages._by_code())
    assert not set(by_name) & set(names)
    for other in by_code.values():
        assert set(other.nearest) <= set(LANGUAGES), other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fr-FR", "fr"), ("pt_BR", "pt"), ("fr_FR.UTF-8", "fr"), ("de_DE@euro", "de"), ("es-419", "es"),
        ("en_XX", "en"), ("zh-CN", "zh"), ("zh-SG", "zh"), ("zh_Hans", "zh"), ("zh-Hans-TW", "zh"), ("cmn", "zh"),
        ("zh-cmn", "zh"),
        ("zh-TW", "zh-Hant"), ("zh-hk", "zh-Hant"), ("zh-MO", "zh-Hant"), ("zh-Hant-CN", "zh-Hant"),
        ("cmn_Hant", "zh-Hant"), ("cmn-TW", "zh-Hant"), ("zho_trad", "zh-Hant"), ("zho_simpl", "zh"),
        ("zh-CHT", "zh-Hant"),
        ("yue", "yue"), ("zh-yue", "yue"), ("yue-HK", "yue"), ("zh-yue-HK", "yue"),
        ("arb", "ar"), ("ar-EG", "ar"), ("ar-arb", "ar"), ("prs", "fa"), ("fa-AF", "fa"), ("Dari", "fa"), ("zlm", "ms"),
        ("in", "id"), ("iw", "he"), ("fil-PH", "tl"), ("ko-Kore", "ko"), ("ur-Aran", "ur"), ("de-1996", "de"),
        ("en-u-ca-buddhist", "en"), ("en-x-house", "en"), ("en-FR", "en"), ("es-ar", "es"), ("hi-in", "hi"),
        ("ja_JA", "ja"),
        ("french", "fr"), ("Deutsch", "de"), ("Francais", "fr"), ("日本語", "ja"), ("德语", "de"),
        ("德文", "de"), ("德語", "de"),
        ("Chinese (Traditional)", "zh-Hant"), ("Chinese_Simplified", "zh"), ("Simplified Chinese", "zh"),
        ("中文（繁體）", "zh-Hant"),
        ("Brazilian Portuguese", "pt"), ("Portuguese (Brazil)", "pt"), ("Thai language", "th"), (" FR ", "fr"),
    ],
)  # fmt: skip
def test_a_locale_or_a_name_means_the_language_that_users_mean(text: str, expected: str) -> None:
    assert code(text) == expected


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("hin_Latn", ["Hindi in Latin script", "in Devanagari script only", "Set tgt_lang=hi if"]),
        ("kaz_Latn", ["Kazakh in Latin script", "in Cyrillic script only"]),
        ("kk-CN", ["Kazakh in Arabic script"]),
        ("mon_Mong", ["Mongolian in Mongolian script"]),
        ("mn-CN", ["Mongolian in Mongolian script"]),
        ("uig_Latn", ["Uyghur in Latin script"]),
        ("ug-KZ", ["Uyghur in Cyrillic script"]),
        ("zho_Latn", ["Chinese in Latin script"]),
        ("zh-pinyin", ["Chinese in the transcription pinyin"]),
        ("ja-Latn-hepburn", ["Japanese in Latin script"]),
        ("arb_Latn", ["Arabic in Latin script"]),
        ("Modern Standard Arabic (Romanized)", ["Arabic in Latin script"]),
        ("ms-Arab", ["Malay in Arabic script"]),
        ("yue_Hans", ["Cantonese in simplified Han script"]),
        ("yue-CN", ["Cantonese in simplified Han script"]),
        ("ur@latin", ["Urdu in Latin script"]),
    ],
)
def test_another_script_of_a_language_is_refused_with_the_reason(text: str, needles: list[str]) -> None:
    message = refusal(text)
    for needle in needles:
        assert needle in message


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("nb", "it is Norwegian Bokmål, and none of the 38 is close to it. All 38"),
        ("Norwegian", "none of the 38 is close to it"),
        ("ca", "it is Catalan. Nearest: es, fr, pt."),
        ("cat_Latn", "it is Catalan. Nearest: es, fr, pt."),
        ("gl", "Nearest: pt, es."),
        ("be", "Nearest: ru, uk."),
        ("af", "Nearest: nl."),
        ("sk", "Nearest: cs."),
        ("sr_Latn", "it is Serbian"),
        ("uz", "it is Uzbek. Nearest: ug, kk."),
        ("azj_Latn", "it is Azerbaijani. Nearest: tr."),
        ("frr", "Nearest: nl, de."),
        ("arz_Arab", "it is Egyptian Arabic. Nearest: ar."),
        ("ar-ary", "it is Moroccan Arabic. Nearest: ar."),
        ("Egyptian Arabic", "Nearest: ar."),
        ("Swiss German", "Nearest: de."),
        ("zh-min-nan", "it is Min Nan Chinese"),
        ("wuu", "it is Wu Chinese. Nearest: zh."),
        ("mvf", "Nearest: mn."),
        ("ace_Arab", "it is Acehnese"),
        ("jp", "For Japanese, set tgt_lang=ja."),
        ("kr", "For Korean, set tgt_lang=ko."),
        ("frensh", "Nearest: fr."),
        ("pt-rBR", "Nearest: pt."),
        ("en-fr", "set src_lang=en and tgt_lang=fr."),
        ("zh2en", "set src_lang=zh and tgt_lang=en."),
    ],
)
def test_another_language_is_refused_with_the_nearest_by_language(text: str, needle: str) -> None:
    message = refusal(text)
    assert f"tgt_lang={text} is not a language of the models" in message
    assert needle in message


@pytest.mark.parametrize("text", ["", " ", "xx", "xyz", "frx", "und", "tlh", "x-klingon", "\0", "a" * 999])
def test_what_is_no_language_is_refused_without_a_guess(text: str) -> None:
    message = refusal(text, "src_lang")
    assert "Nearest" not in message and "All 38" in message


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("zh-yue-Hant-HK", Tag("yue", "Hant", "HK")),
        ("SR_latn_rs", Tag("sr", "Latn", "RS")),
        ("sr@cyrillic", Tag("sr", "Cyrl")),
        ("de-DE-1901-u-co-phonebk", Tag("de", "", "DE", ("1901",), ("u", "co", "phonebk"))),
        ("en-ZH", None),
        ("en us", None),
        ("日本", None),
    ],
)
def test_a_tag_is_parsed_by_its_subtags(text: str, tag: Tag | None) -> None:
    assert language_tags.parse(text) == tag


def test_names_and_prompts_of_the_model_card_are_unchanged() -> None:
    assert [LANGUAGES[key].english for key in ("tl", "my", "bn", "yue", "id")] == [
        "Filipino", "Burmese", "Bengali", "Cantonese", "Indonesian",
    ]  # fmt: skip
    assert [LANGUAGES[key].chinese for key in ("zh", "zh-Hant", "id", "km")] == ["中文", "繁体中文", "印尼语", "高棉语"]
    for script in {language.script for language in LANGUAGES.values()}:
        assert script in language_table.SCRIPT_NAMES


def write(path: Path, values: list[Any]) -> Path:
    rows = [{"text": f"row {index}", "to": value} for index, value in enumerate(values)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema([("text", pa.string()), ("to", pa.string())])), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [["text", "to"], *([row["text"], row["to"] or ""] for row in rows)]
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
    return path


FILES = ["in.jsonl", "in.csv", "in.tsv", "in.parquet"]
CODES = ["de-DE", "zh-CN", "zh_Hant", "pt-BR", "fra_Latn", "ger", "German", "法语", "", " ", None]
MEANT = ["de", "zh", "zh-Hant", "pt", "fr", "de", "de", "fr", None, None, None]


def report_of(path: Path, **settings: Any) -> language_check.LanguageReport:
    source = SourceConfig(path=str(path), tgt_lang_field="to", **settings)
    return language_check.check_languages(discovery.find_inputs(source), source)


@pytest.mark.parametrize("name", FILES)
def test_rows_name_their_languages_in_every_format(tmp_path: Path, name: str) -> None:
    source = SourceConfig(path=str(write(tmp_path / name, CODES)), tgt_lang_field="to")
    (input,) = discovery.find_inputs(source)
    documents = [document for document, _ in read_documents(input, source)]
    assert [document.tgt_lang for document in documents] == MEANT
    report = report_of(tmp_path / name)
    assert report.warnings == []
    assert report.seen == ["to: de 3, fr 2, zh 1, zh-Hant 1, pt 1, no value 3"]
    assert "pt-BR as pt" in report.notes[0] and "de-DE, ger, German as de" in report.notes[0]
    assert "zh_Hant" not in report.notes[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_whose_first_rows_name_only_unknown_languages_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ["tlh", "xx", "tlh", "hin_Latn"])
    with pytest.raises(ConfigError) as caught:
        report_of(tmp_path / name)
    assert "'tlh' (2), 'xx' (1), 'hin_Latn' (1, Hindi in Latin script)" in str(caught.value)
    assert "source.tgt_lang_field" in caught.value.fix
    write(tmp_path / "good.jsonl", ["de"])
    with pytest.raises(ConfigError, match="tlh"):  # one such file among others, too
        report_of(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_some_unknown_languages_are_a_warning_with_their_counts(tmp_path: Path, name: str) -> None:
    report = report_of(write(tmp_path / name, ["de", "xx", "xx", "nb", ""]))
    (warning,) = report.warnings
    assert "in 3 of the first 5 rows: 'xx' (2), 'nb' (1, Norwegian Bokmål)" in warning.what
    assert "bad_language" in warning.why


def test_the_warning_tells_the_status_that_each_unknown_row_gets(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"text": "t", "to": {value}}}\n' for value in ('"de"', '"xx"', '"nb"', "5", '["fr"]')))
    (warning,) = report_of(path).warnings
    assert warning.why.endswith("no translation: 2 the status bad_language, 2 the status bad_row")
    source = SourceConfig(path=str(path), tgt_lang_field="to")
    (input,) = discovery.find_inputs(source)
    statuses = [document.status.value for document, _ in read_documents(input, source)]
    assert statuses == ["ok", "bad_language", "bad_language", "bad_row", "bad_row"]


@pytest.mark.parametrize("name", FILES)
def test_rows_with_the_same_source_and_target_language_are_counted(tmp_path: Path, name: str) -> None:
    source = SourceConfig(path=str(write(tmp_path / name, ["fr-CA", "de", "fra", "xx", ""])), tgt_lang_field="to")
    inputs = discovery.find_inputs(source)

    def notes(*job_languages: str | None) -> list[str]:
        report = language_check.check_languages(inputs, source, job_languages=job_languages)  # type: ignore[arg-type]
        return [note for note in report.notes if "the same source and target" in note]

    assert notes("fr", "de") == [
        "2 rows have the same source and target language (fr 2), and the model translates them, too"
    ]
    assert notes("de", "de")[0].startswith("2 rows have")
    assert notes("de", "ja")[0].startswith("1 row has")
    assert notes("ja", "de") == notes(None, "fr") == []


def test_one_field_cannot_be_both_source_and_target_language(capsys: pytest.CaptureFixture[str]) -> None:
    both = ["source.src_lang_field=lang", "source.tgt_lang_field=lang"]
    for words in (["translate", "model=demo"], ["plan", "model=demo"], ["doctor", "model=demo"]):
        assert front.main([*words, "source.path=in.jsonl", "tgt_lang=fr", *both]) == 2
        assert "source.src_lang_field and source.tgt_lang_field are both lang" in capsys.readouterr().err


def test_rows_without_a_value_have_the_languages_of_the_job(tmp_path: Path) -> None:
    assert len(report_of(write(tmp_path / "in.jsonl", ["", "xx"])).warnings) == 1
    assert report_of(write(tmp_path / "in.jsonl", [None, ""])).warnings == []


def test_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", ["xx", "xx", "de"])
    with pytest.raises(ConfigError):
        report_of(path, limit=2)
    assert report_of(path, limit=3).seen == ["to: de 1"]
    late = write(tmp_path / "late.jsonl", ["de"] * language_check.MAX_ROWS + ["xx"])
    assert report_of(late).warnings == []


def test_a_column_of_source_languages_is_checked_as_well(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", ["xx"])
    source = SourceConfig(path=str(path), src_lang_field="to")
    with pytest.raises(ConfigError, match=r"source\.src_lang_field"):
        language_check.check_languages(discovery.find_inputs(source), source)


def test_a_job_of_an_earlier_plan_understands_what_it_understood(tmp_path: Path) -> None:
    source = SourceConfig(
        path=str(write(tmp_path / "in.jsonl", ["FR", "zh_hant", "fr-FR", "ger"])), tgt_lang_field="to"
    )
    (input,) = discovery.find_inputs(source)
    documents = [document for document, _ in read_documents(input, source, plan_version=3)]
    assert [document.tgt_lang for document in documents] == ["fr", "zh-Hant", None, None]
    assert [document.status.value for document in documents] == ["ok", "ok", "bad_language", "bad_language"]
    assert "'fr-FR', which was not understood when this job was created. Write fr." in documents[2].message
    assert ReadContext().plan_version > 3


def test_a_value_that_is_no_language_is_looked_up_once_for_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def understand(text: str, key: str) -> languages.Reading:
        looked_up.append(text)
        return known(text, key)

    known = languages.understand
    monkeypatch.setattr(languages, "understand", understand)
    source = SourceConfig(path=str(write(tmp_path / "in.jsonl", ["xx", "de", "und"] * 50)), tgt_lang_field="to")
    (input,) = discovery.find_inputs(source)
    documents = [document for document, _ in read_documents(input, source)]
    assert [document.status.value for document in documents] == ["bad_language", "ok", "bad_language"] * 50
    assert len({document.message.partition(" ")[2] for document in documents[::3]}) == 1
    assert looked_up == ["xx", "de", "und"]


def test_doctor_and_plan_look_at_the_languages_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "some.jsonl", ["de-DE", "xx"])
    write(tmp_path / "none.jsonl", ["xx"])
    settings = ["model=demo", "device_map=cpu", "source.tgt_lang_field=to", "tgt_lang=fr", "format=json"]
    assert front.main(["plan", "source.path=some.jsonl", *settings]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["corpus"]["languages"] == ["to: de 1", "field 'to': de-DE as de"]
    assert "'xx' (1)" in report["findings"][-1]["what"]
    assert front.main(["plan", "source.path=none.jsonl", *settings]) == 2
    capsys.readouterr()
    levels = {}
    for name in ("some", "none"):
        front.main(["doctor", f"source.path={name}.jsonl", *settings])
        findings = json.loads(capsys.readouterr().out)
        levels[name] = [finding["level"] for finding in findings if finding["check"] == "languages of rows"]
    assert levels == {"some": ["ok", "warn"], "none": ["fail"]}


def test_translate_refuses_before_the_model_loads(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["xx", "tlh"])
    run = "import sys; from hymt_batch.jobs.__main__ import main; sys.exit(main())"
    words = ["source.path=in.jsonl", "source.tgt_lang_field=to", "tgt_lang=fr", f"model.path={tmp_path / 'missing'}"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", run, "translate", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "'xx' (1), 'tlh' (1)" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_the_job_languages_lists_them_all_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from hymt_batch.jobs.__main__ import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    outputs = {}
    for words in ([], ["format=json"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "languages", *words],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs[bool(words)], _, imported = done.stdout.rstrip("\n").rpartition("\n")
        assert imported == "[]"
    listed = json.loads(outputs[True])
    assert [row["code"] for row in listed] == list(LANGUAGES)
    lines = outputs[False].splitlines()
    for line, row in zip(lines[1:], listed, strict=False):
        assert line.split()[0] == row["code"] and line.endswith(" ".join(row["codes"]))
        assert row["native"] in line and row["chinese"] in line


def test_completion_offers_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    line = "hymt-batch translate tgt_lang=zh"
    front.main(["--complete", line, str(len(line)), "=:"])
    assert capsys.readouterr().out.split() == ["zh", "zh-Hant"]


def test_a_note_is_printed_once_and_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("x\n")
    words = ["source.path=in.txt", "tgt_lang=fr-FR", "model=demo", "device_map=cpu", "strict=true", "format=json"]
    assert front.main(["plan", *words]) == 0
    caught = capsys.readouterr()
    assert caught.err.count("tgt_lang=fr-FR is read as fr (French)") == 1
    assert json.loads(caught.out)


def test_the_identity_has_the_code_however_it_is_written() -> None:
    jobs = [
        config.load("translate", ["source.path=x", f"tgt_lang={text}"]) for text in ("fr", "fr-FR", "fra_Latn", "法语")
    ]
    assert all(job == jobs[0] for job in jobs)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readme_lists_every_language_with_its_codes(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for language in LANGUAGES.values():
        codes = ", ".join(language.accepted)
        assert f"| `{language.code}` | {language.english} | {language.chinese} | {language.native} | {codes} |" in text
