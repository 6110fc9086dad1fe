"""Settings: composition, refusals and their messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hymt_batch import config, schema
from hymt_batch.cli import job_name, override_syntax, sweep
from hymt_batch.decode.settings import Method
from hymt_batch.errors import ConfigError, UsageError
from hymt_batch.schema import OnMismatch, StatusJob, TranslateJob

BASE = ["source.path=in.txt", "tgt_lang=fr"]
CHOICES = [(group, choice) for group, choices in config.group_choices("translate").items() for choice in choices]


def load(*words: str) -> TranslateJob:
    job = config.load("translate", words)
    assert isinstance(job, TranslateJob)
    return job


def refusal(*words: str, points: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        config.load_sweep("translate", words) if points else config.load("translate", words)
    message = str(caught.value)
    assert "\n" not in message
    assert " +" not in message
    return message


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["-".join(pair) for pair in CHOICES])
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    needed = ["device_map.map={'*': 0}"] if choice == "manual" else []
    if "chimera" in choice:  # translate refuses this model, plan does not
        assert config.load("plan", [f"{group}={choice}"]).model.path
        return
    job = load(*BASE, f"{group}={choice}", *needed)
    if group == "model":
        assert job.model.path


def test_defaults_are_the_documented_ones() -> None:
    job = load(*BASE)
    assert job.model.path == "tencent/HY-MT1.5-1.8B"
    assert (job.model.revision, job.model.download) == ("main", False)
    assert job.device_map.strategy.value == "replicate"
    assert job.decode.method is Method.greedy
    assert job.on_mismatch is OnMismatch.refuse
    assert job.name == "in"


def test_the_demo_preset_is_a_complete_job() -> None:
    job = load("preset=demo")
    assert (job.model.path, job.source.path) == ("demo:model", "demo:bulletins")
    assert (job.src_lang, job.tgt_lang, job.name) == ("en", "fr", "demo")


def test_the_command_line_overrides_a_preset() -> None:
    job = load("tgt_lang=de", "preset=demo", "model=hy_mt2_7b", "name=mine")
    assert (job.tgt_lang, job.model.path, job.name) == ("de", "tencent/Hy-MT2-7B", "mine")


def test_a_choice_with_dots_is_found_and_a_yaml_suffix_is_accepted() -> None:
    assert load(*BASE, "model=hy_mt1.5_1.8b_gptq_int4").model.path == "tencent/HY-MT1.5-1.8B-GPTQ-Int4"
    assert load(*BASE, "model=hy_mt1.5_7b.yaml").model.path == "tencent/HY-MT1.5-7B"


AWKWARD = [
    "语料 (1), a=b.txt",
    "my file.txt",
    "a=b.txt",
    "~/x.txt",
    "{a}.txt",
    "a,b.txt",
    "it's.txt",
    'a"b".txt',
    "back\\slash.txt",
    "tail\\",
    "a:b|c>d&e;f.txt",
    "#1 %20 @x!.txt",
    " leading.txt",
    "тест.txt",
    "مرحبا.txt",
    "$HOME.txt",
    "007",
    "1e3",
    "true",
    "a\tb\nc.txt",
]


@pytest.mark.parametrize("path", AWKWARD)
def test_a_path_may_have_any_characters(path: str) -> None:
    assert load("tgt_lang=fr", "name=n", f"source.path={path}").source.path == path


@pytest.mark.parametrize(
    "file", ["[x].txt", "[a,b]", "null", "'q'", "${x}.txt", "a\\${y}\\", "choice(1,2)", "a,b", "x${oc.env:HOME}"]
)
def test_the_name_of_an_existing_file_is_taken_literally(file: str) -> None:
    Path(file).write_text("x")
    assert load("tgt_lang=fr", "name=n", f"source.path={file}").source.path == file
    assert [
        point.job.source.path for point in config.load_sweep("translate", ["tgt_lang=fr", f"source.path={file}"])
    ] == [file]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("[a.txt,b.txt]", ["a.txt", "b.txt"]),
        ("[my file (1).txt, 语料.txt]", ["my file (1).txt", "语料.txt"]),
        ("['a,b.txt',\"c]d\"]", ["a,b.txt", "c]d"]),
        ("[a\\,b.txt,2024]", ["a,b.txt", "2024"]),
        ("'quoted name.txt'", "quoted name.txt"),
        ('"say \\"hi\\".txt"', 'say "hi".txt'),
        ("data/[ab]*.txt", "data/[ab]*.txt"),
    ],
)
def test_lists_quotes_and_globs_stay_usable(text: str, paths: str | list[str]) -> None:
    assert load("tgt_lang=fr", "name=n", f"source.path={text}").source.path == paths


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["\\", "${", "}", "'", '"', "a", ":", " "]), max_size=8).map("".join))
def test_omegaconf_returns_an_escaped_text_unchanged(text: str) -> None:
    assert OmegaConf.create({"k": override_syntax.escape_interpolation(text)}).k == text


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("\\'\"a, "), max_size=10), st.sampled_from("'\""))
def test_quoted_texts_are_parsed_as_hydra_parses_them(text: str, quote: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString

    written = QuotedString(text, Quote.single if quote == "'" else Quote.double).with_quotes()
    assert OverridesParser.create().parse_override(f"k={written}").value() == text
    assert override_syntax.unquote(written) == text


def test_null_is_none_and_an_empty_value_is_an_empty_text() -> None:
    assert load(*BASE, "src_lang=null").src_lang is None
    assert load(*BASE, "source.subset=").source.subset == ""
    assert load(*BASE, "source.limit=NULL").source.limit is None
    assert "or drop it to use the default" in refusal(*BASE, "write.meta_field=null")
    message = refusal("source.path=x", "tgt_lang=null")
    assert "tgt_lang cannot be null. Set tgt_lang=VALUE." in message  # it has no default
    assert "is empty" in refusal("source.path=", "tgt_lang=fr")


@pytest.mark.parametrize(
    ("word", "needles"),
    [
        ("source.pth=x", ["Did you mean source.path?", "Settings of source: source.path, "]),
        ("temperature=0.3", ["Did you mean decode.temperature?"]),
        ("target_lang=fr", ["Did you mean tgt_lang?"]),
        ("modle=demo", ["Did you mean model?"]),
        ("model=demmo", ["Did you mean model=demo?", "Choices: demo, "]),
        ("model=HY-MT1.5-1.8B", ["Did you mean model=hy_mt1.5_1.8b?"]),
        ("model=/data/m", ["model.path=/data/m", "Choices: "]),
        ("source=in.txt", ["source.path=in.txt"]),
        ("model=", ["is not a choice"]),
        ("model=demo,hy_mt2_7b", ["Add -m"]),
        ("model.sampling=1", ["model.sampling.temperature"]),
        ("decode.temperature=hot", ["is not a number", "null"]),
        ("decode.temperature=nan", ["is not a number"]),
        ("decode.top_k=1.5", ["is not a whole number"]),
        ("decode.top_k=1,2", ["Add -m"]),
        ("strict=maybe", ["true or false"]),
        ("model.dtype=bf16", ["Choices: bfloat16"]),
        ("on_mismatch=forq", ["Did you mean on_mismatch=fork?"]),
        ("batch.max_rows=0", ["batch.max_rows=0"]),
        ("write.min_free=much", ["write.min_free=5GiB"]),
        ("tgt_lang=frr", ["it is Northern Frisian. Nearest: nl, de."]),
        ("tgt_lang=fr,de", ["Add -m"]),
        ("src_lang=frensh", ["src_lang=frensh", "Nearest: fr."]),
        ("+model.path=x", ["Write model.path=VALUE"]),
        ("++a.b=x", ["are fixed", "a.b is not one of them", "Settings of translate: "]),
        ("+modle=x", ["are fixed", "Did you mean model?"]),
        ("launch.samples=1001", ["launch.samples=1001", "Set launch.samples=3"]),
        ("~model", ["are fixed"]),
        ("_target_=os.system", ["would run code"]),
        ("model._target_=os.system", ["would run code"]),
        ("hydra.run.dir=x", ["not available"]),
        ("hydra/launcher=x", ["not available"]),
        ("hydra.searchpath=[x]", ["not available"]),
        ("model@other=demo", ["is not a setting"]),
        ("source.path=${oc.env:HOME}", ["${oc.env:HOME} is not available"]),
        ("name=${nothing}", ["${nothing} is not available"]),
        ("name=a${oc.env:${tgt_lang}}", ["not available"]),
        ("seed=${tgt_lang}", ["seed", "Correct the value"]),
        ("tgt_lang=${tgt_lang}", ["tgt_lang", "Recursive"]),
        ("decode.top_k=1\n2", ["1\\n2 is not a whole number"]),
        ("batch.max_rows=1\n2", ["1\\n2 is not"]),
        ("in.txt", ["is not KEY=VALUE"]),
        ("=x", ["is not a setting"]),
        ("name=a/b", ["Set name=a_b"]),
        ("name=..", ["is not the name of a folder"]),
        ("name=a..b", ["no '..'"]),
        ("name=", ["is not the name of a folder"]),
        ("name=" + "x" * 300, ["bytes"]),
        ("output_dir=", ["output_dir=outputs"]),
        ("write.meta_field=translation", ["write.meta_field="]),
        ("write.translation_field=text", ["write.translation_field", "source.text_field"]),
        ("decode.temperature=0.3", ["has no effect", "decode=recommended"]),
        ("segment.max_tokens=9000", ["model.max_context"]),
    ],
)
@pytest.mark.fault(79)
def test_a_wrong_key_or_value_is_refused_in_one_line_with_what_is_valid(word: str, needles: list[str]) -> None:
    message = refusal(*BASE, word)
    for needle in needles:
        assert needle in message, message


def test_missing_settings_are_named_with_an_example() -> None:
    message = refusal()
    assert "tgt_lang" in message
    assert "source.path=corpus.txt" in message
    assert "preset=demo" in message
    assert "tgt_lang is missing" in refusal("source.path=x")
    with pytest.raises(ConfigError, match=r"name is missing. Add for example name=demo\."):
        config.load("status", [])


def test_a_value_of_another_setting_may_be_used() -> None:
    assert load(*BASE, "name=run_${tgt_lang}").name == "run_fr"


def test_languages_are_normalized_to_their_codes() -> None:
    job = load("source.path=x", "src_lang=EN", "tgt_lang=ZH_hant")
    assert (job.src_lang, job.tgt_lang) == ("en", "zh-Hant")
    job = load("source.path=x", "src_lang=eng_Latn", "tgt_lang=Chinese, Traditional")
    assert (job.src_lang, job.tgt_lang) == ("en", "zh-Hant")
    assert "both fr" in refusal(*BASE, "src_lang=fr-CA")


@pytest.mark.parametrize("job", ["translate", "plan", "doctor"])
def test_a_language_that_is_not_written_as_its_code_is_noted(job: str) -> None:
    point = config.load_point(job, ["source.path=x", "src_lang=en", "tgt_lang=pt-BR"])
    assert point.job.tgt_lang == "pt"
    assert point.notes == (
        "tgt_lang=pt-BR is read as pt (Portuguese); BR is dropped, because the models do not distinguish it",
    )
    assert config.load_point(job, ["source.path=x", "src_lang=EN", "tgt_lang=zh_hant"]).notes == ()
    assert "both fr" in refusal(*BASE, "src_lang=fr")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("in.txt", "in"),
        ("data/a.jsonl.gz", "a"),
        ("data/*.txt", "data"),
        ("data/", "data"),
        ("org/corpus", "corpus"),
        ("语料 (1), a=b.txt", "语料 _1__ a_b".replace(" ", "_")),
        (["b.csv", "c.csv"], "b"),
        ("-", None),
        ("demo:bulletins", "bulletins"),
        ("x" * 300 + ".txt", "x" * 200),
    ],
)
def test_the_name_comes_from_the_input(path: str | list[str], expected: str | None) -> None:
    assert job_name.default(path) == expected


def test_names_of_any_script_are_accepted() -> None:
    for good in ("a-b_c.1", "语料", "हिन्दी", "été"):
        assert load(*BASE, f"name={good}").name == good


def test_an_input_without_a_usable_name_asks_for_one() -> None:
    assert "Add name=NAME" in refusal("source.path=(!).txt", "tgt_lang=fr")


def test_a_folder_of_a_dataset_keeps_its_dots_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "set-v1.5").mkdir()
    assert job_name.default("set-v1.5") == "set-v1.5"


def test_status_accepts_a_point_of_a_sweep_but_no_path_outside_output_dir() -> None:
    job = config.load("status", ["name=demo/tgt_lang=fr", "format=json"])
    assert isinstance(job, StatusJob)
    assert job.name == "demo/tgt_lang=fr"
    for bad in ("/etc", "../x", "a//b"):
        with pytest.raises(UsageError):
            config.load("status", [f"name={bad}"])


def points(*words: str) -> list[config.SweepPoint]:
    return config.load_sweep("translate", [*BASE, *words])


def test_a_sweep_runs_every_combination_in_its_own_folder() -> None:
    swept = points("tgt_lang=fr,de", "decode.top_k=choice(10,20)", "decode=recommended", "name=s")
    assert [(point.job.tgt_lang, point.job.decode.top_k) for point in swept] == [
        ("fr", 10),
        ("fr", 20),
        ("de", 10),
        ("de", 20),
    ]
    assert swept[0].label == "decode.top_k=10,tgt_lang=fr"
    assert (swept[0].job.output_dir, swept[0].job.name) == ("outputs/s", swept[0].label)


def test_ranges_and_globs_of_hydra_sweep() -> None:
    assert [point.job.seed for point in points("seed=range(1,4)")] == [1, 2, 3]
    paths = {point.job.model.path for point in points("model=glob(hy_mt1.5_7b*)")}
    assert paths == {"tencent/HY-MT1.5-7B", "tencent/HY-MT1.5-7B-FP8"}
    assert "matches no value" in refusal(*BASE, "model=glob(x*)", points=True)
    assert "must not be zero" in refusal(*BASE, "seed=range(0,5,0)", points=True)
    assert len(points("preset=null")) == 1
    assert "not a list of values" in refusal(*BASE, "seed=interval(1,2)", points=True)


def test_swept_inputs_share_a_parent_folder_but_never_a_point() -> None:
    swept = points("source.path=a/b.txt,a_b.txt,[c.txt,d.txt]")
    assert {point.job.output_dir for point in swept} == {"outputs/b"}
    assert len({point.label for point in swept}) == 3
    assert swept[2].job.source.path == ["c.txt", "d.txt"]


def test_a_swept_name_is_the_parent_folder() -> None:
    swept = points("name=x,y", "tgt_lang=fr,de")
    assert [(point.job.output_dir, point.label) for point in swept][::3] == [
        ("outputs/x", "tgt_lang=fr"),
        ("outputs/y", "tgt_lang=de"),
    ]
    assert [(point.job.output_dir, point.job.name) for point in points("name=x,y")] == [
        ("outputs", "x"),
        ("outputs", "y"),
    ]


def test_a_long_point_is_named_by_a_hash() -> None:
    swept = points("source.path=" + ",".join(letter * 120 for letter in "ab"))
    assert all(len(point.label) == 16 for point in swept)
    assert len({point.label for point in swept}) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=150), min_size=2, max_size=2, unique=True))
def test_two_points_never_share_a_folder(texts: list[str]) -> None:
    from hymt_batch.cli.override import Override

    labels = {sweep.point_label([Override("source.path", False, (text,), (text,))]) for text in texts}
    assert len(labels) == 2
    assert all(len(label) <= sweep.MAX_LABEL_CHARS and "/" not in label and label.strip(".") for label in labels)


def test_a_preset_may_define_a_sweep_that_the_command_line_overrides() -> None:
    assert len(points("preset=sweep_decode")) == 6
    swept = points("preset=sweep_decode", "decode.temperature=0.5")
    assert [point.label for point in swept] == ["decode.top_p=0.6", "decode.top_p=0.9"]


def test_stdin_cannot_be_swept() -> None:
    for path in ("-", "[-]", "a.txt,-", "[-],a.txt"):
        assert "only once" in refusal(f"source.path={path}", "tgt_lang=fr,de", "name=n", points=True)
    assert "with other inputs" in refusal("source.path=[-,a.txt]", "tgt_lang=fr")


def test_a_preset_without_a_name_keeps_the_name_of_the_input() -> None:
    job = load("preset=nightly", "source.path=2026-01-02.txt", "tgt_lang=fr")
    assert (job.name, job.on_input_change, job.strict) == ("2026-01-02", schema.OnInputChange.update, True)


def test_a_tilde_is_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load(*BASE, "output_dir=~/x").output_dir == "/home/me/x"
    assert config.load("status", ["name=n", "output_dir=~/x"]).output_dir == "/home/me/x"


@pytest.mark.parametrize(
    ("word", "wrong", "needle"),
    [
        ("tgt_lang=fr,xx,de", 1, "tgt_lang=xx is not a language"),
        ("batch.max_rows=8,foo", 1, "batch.max_rows=foo is not"),
        ("batch.max_rows=0,8", 0, "batch.max_rows=0"),
        ("model=nonexistent,demo", 0, "model=nonexistent is not a choice"),
        ("decode.engine=generate,bad", 1, "decode.engine=bad is not a choice"),
        ("preset=nightly,bad", 1, "preset=bad is not a choice"),
        ("segment.max_tokens=64,9000", 1, "model.max_context"),
        ("name=good,a\u0001b", 1, "name=a"),
        ("strict=true,1\n2", 1, "1\\n2 is not true or false"),
    ],
)
def test_a_wrong_point_has_its_error_and_the_others_a_job(word: str, wrong: int, needle: str) -> None:
    swept = points(word)
    assert [point.error is not None for point in swept] == [index == wrong for index in range(len(swept))]
    for point in swept:
        assert (point.job is None) == (point.error is not None)
    error = swept[wrong].error
    assert error is not None and needle in str(error) and "\n" not in str(error)


def test_what_is_wrong_in_every_point_is_said_once() -> None:
    assert "batch.max_row is not a setting" in refusal(*BASE, "tgt_lang=fr,de", "batch.max_row=8", points=True)
    assert "strict=maybe is not true or false" in refusal(*BASE, "tgt_lang=fr,de", "strict=maybe", points=True)
    assert "source.path is missing" in refusal("tgt_lang=fr,de", points=True)
    assert "zz" in refusal("source.path=x", "tgt_lang=zz", points=True)
    both = points("tgt_lang=xx,yy")
    assert [str(point.error)[:11] for point in both] == ["tgt_lang=xx", "tgt_lang=yy"]


def test_a_wrong_point_does_not_move_the_folders_of_the_others() -> None:
    swept = points("tgt_lang=xx,fr", "decode.top_k=1,2", "decode=recommended")
    good = [point.job for point in swept if point.job is not None]
    assert [(job.output_dir, job.name) for job in good] == [
        ("outputs/in", "decode.top_k=1,tgt_lang=fr"),
        ("outputs/in", "decode.top_k=2,tgt_lang=fr"),
    ]


def test_two_spellings_of_one_language_are_one_point() -> None:
    assert [point.label for point in points("tgt_lang=fr,fr-FR,French,de_DE")] == ["tgt_lang=fr", "tgt_lang=de"]
    assert [point.label for point in points("tgt_lang=zh-TW,zho_Hans")] == ["tgt_lang=zh-Hant", "tgt_lang=zh"]
    (point,) = points("name=a,a")
    assert (point.label, point.job.name) == ("", "a")
    assert points("tgt_lang=fr-FR,de")[0].notes == points("tgt_lang=fr-FR")[0].notes != ()


@pytest.mark.fault(79)
def test_no_installed_hydra_plugin_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton

    (tmp_path / "hydra_plugins" / "evil").mkdir(parents=True)
    (tmp_path / "hydra_plugins" / "evil" / "__init__.py").write_text("open('ran', 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Singleton, "_instances", {k: v for k, v in Singleton._instances.items() if k is not Plugins})
    load(*BASE)
    assert not (tmp_path / "ran").exists()


CARDS = {
    "demo": True,
    "hunyuan_mt_7b": False,
    "hunyuan_mt_7b_fp8": False,
    "hunyuan_mt_chimera_7b": False,
    "hunyuan_mt_chimera_7b_fp8": False,
    "hy_mt1.5_1.8b": False,
    "hy_mt1.5_1.8b_fp8": False,
    "hy_mt1.5_1.8b_gptq_int4": False,
    "hy_mt1.5_7b": False,
    "hy_mt1.5_7b_fp8": False,
    "hy_mt2_1.8b": True,
    "hy_mt2_1.8b_fp8": True,
    "hy_mt2_30b_a3b": True,
    "hy_mt2_30b_a3b_fp8": True,
    "hy_mt2_7b": True,
    "hy_mt2_7b_fp8": True,
}
"""Model -> True if the translation example of its card sets add_generation_prompt."""


def test_this_file_lists_every_model() -> None:
    assert sorted(CARDS) == config.group_choices("translate")["model"]


@pytest.mark.parametrize("model", CARDS)
def test_the_generation_prompt_and_the_licence_are_those_of_the_models_card(model: str) -> None:
    job = config.load("plan", [f"model={model}"])
    assert job.add_generation_prompt is CARDS[model]
    for word in ("true", "false"):
        overridden = config.load("plan", [f"model={model}", f"prompt.add_generation_prompt={word}"])
        assert overridden.add_generation_prompt is (word == "true")
    if model.startswith(("hy_mt2", "demo")):
        assert job.model.licence_text == "Apache-2.0"
    else:
        assert "does not apply in the EU, the UK and South Korea" in job.model.licence_text
        assert "outputs may not improve other AI models" in job.model.licence_text
        assert "Tencent" in job.model.licence


def test_an_invalid_generation_prompt_is_refused_with_the_choices() -> None:
    message = refusal(*BASE, "prompt.add_generation_prompt=maybe")
    assert "Choices: " in message
    for choice in ("auto", "true", "false"):
        assert choice in message


@pytest.mark.parametrize("model", ["hunyuan_mt_chimera_7b", "hunyuan_mt_chimera_7b_fp8"])
def test_a_model_whose_prompt_takes_candidates_is_refused_before_anything_runs(model: str) -> None:
    message = refusal("source.path=x", "tgt_lang=fr", f"model={model}")
    assert "several candidate translations" in message
    assert "Set model=hunyuan_mt_7b." in message
    swept = config.load_sweep("translate", ["source.path=x", "tgt_lang=fr", f"model=hunyuan_mt_7b,{model}"])
    assert swept[0].error is None and "several candidate translations" in str(swept[1].error)
    with pytest.raises(ConfigError, match="several candidate translations"):
        config.load("plan", ["source.path=x", "tgt_lang=fr", f"model={model}", "probe=true"])
    assert config.load("plan", [f"model={model}"]).model.family.value == "hunyuan_mt_chimera"
    assert config.load("doctor", [f"model={model}"]).model.family.value == "hunyuan_mt_chimera"


def identity_of(*words: str) -> Any:
    from hymt_batch import batch, prompt
    from hymt_batch.run import identity

    job = load("preset=demo", *words)
    language = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    return identity.build_identity(
        job, {"dtype": "float32"}, language, batch.resolve_part_limits(job.batch, 10, on_gpu=False)
    )


def test_the_identity_has_the_resolved_generation_prompt_but_not_the_licence() -> None:
    first = identity_of()
    assert first["prompt"]["add_generation_prompt"] is True
    assert identity_of("prompt.add_generation_prompt=true") == first
    assert identity_of("model.licence=another", "model.licence_limits=none") == first
    assert identity_of("model.add_generation_prompt=false", "prompt.add_generation_prompt=true") == first
    assert identity_of("model.add_generation_prompt=false")["prompt"]["add_generation_prompt"] is False
