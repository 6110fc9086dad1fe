"""An unknown setting, value or flag is answered with the setting that does the job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hymt_batch.jobs import __main__ as front

from hymt_batch import config
from hymt_batch.cli import names_elsewhere, suggestion
from hymt_batch.errors import ConfigError, UsageError

pytestmark = pytest.mark.core
BASE = ["source.path=in.txt", "tgt_lang=de"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*words: str, job: str = "translate") -> str:
    with pytest.raises(UsageError) as caught:
        config.load(job, [*(BASE if job == "translate" else []), *words])
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    assert not re.search(r"(^| )\+\w", message.replace(words[0], ""))
    return message


@pytest.mark.parametrize(
    ("word", "needle"),
    [
        ("batch_size=32", "Write batch.max_rows=32"),
        ("batch_size=auto", "Write batch.max_rows=auto"),
        ("threads=many", "Write launch.num_threads=4"),
        ("--batch-size", "is not KEY=VALUE"),
        ("num_beams=4", "There is no beam search"),
        ("decode.num_beams=4", "There is no beam search"),
        ("resume=true", "Resuming is automatic: run the same command again."),
        ("glossary=terms.csv", "not available yet"),
        ("lang=fr", "Write tgt_lang=fr"),
        ("target_lang=fr", "Did you mean tgt_lang? Write tgt_lang=fr"),
        ("TargetLang=fr", "Write tgt_lang=fr"),
        ("source_lang=en", "Write src_lang=en"),
        ("source.lang=to", "Write source.tgt_lang_field=to"),
        ("input=a.txt", "Write source.path=a.txt"),
        ("output=out", "Write output_dir=outputs name=NAME"),
        ("write.path=out", "Write output_dir=outputs name=NAME"),
        ("num_workers=4", "Write launch.workers=4"),
        ("max_length=200", "Write decode.max_new_tokens=200"),
        ("generation.max_length=200", "Write decode.max_new_tokens=200"),
        ("temperature=0.3", "Did you mean decode.temperature?"),
        ("fp16=true", "Write model.dtype=float16"),
        ("bf16=true", "Write model.dtype=bfloat16"),
        ("load_in_8bit=true", "Write model=hy_mt1.5_1.8b_fp8"),
        ("torch_dtype=bfloat16", "Write model.dtype=bfloat16"),
        ("torch_dtype=torch.float16", "Write model.dtype=float16"),
        ("model.torch_dtype=bf16", "Write model.dtype=bfloat16"),
        ("low_cpu_mem_usage=true", "Weights are always read one by one"),
        ("offload_state_dict=true", "Weights are always read one by one"),
        ("offload_folder=x", "Did you mean device_map.offload_folder?"),
        ("cache_dir=x", "HF_HOME"),
        ("revision=main", "Write model.revision=main"),
        ("random_seed=7", "Write seed=7"),
        ("threads=4", "Write launch.num_threads=4"),
        ("gpus=2", "Write launch.workers=2"),
        ("device=cuda:1", "Write device_map=single device_map.device=1"),
        ("device=cpu", "Write device_map=cpu"),
        ("tensor_parallel_size=2", "Write device_map=balanced"),
        ("verbose=true", "Write launch.progress=log"),
        ("quiet=true", "Write launch.progress=off"),
        ("dry_run=true", "hymt-batch plan"),
        ("force=true", "Write overwrite=true"),
        ("token=abc", "HF_TOKEN"),
        ("trust_remote_code=true", "never run"),
        ("+batch_size=3", "Write batch.max_rows=3"),
        ("probe=true", "It is a setting of plan: hymt-batch plan probe=true."),
        ("errors=20", "It is a setting of status"),
        ("device_map=cuda:0", "Write device_map=single device_map.device=0."),
        ("device_map=1", "Write device_map=single device_map.device=1."),
        ("device_map=cuda", "Write device_map=replicate"),
        ("device_map=auto_balanced", "Write device_map=balanced"),
        ("device_map={model: 0}", "Write device_map=manual device_map.map="),
        ("device_map=mps", "device_map=cpu"),
        ("model.dtype=int8", "model=hy_mt1.5_1.8b_fp8"),
        ("model.dtype=4bit", "model=hy_mt1.5_1.8b_gptq_int4"),
        ("model.dtype=bf16", "Write model.dtype=bfloat16."),
        ("model=tencent/HY-MT1.5-1.8B", "Did you mean model=hy_mt1.5_1.8b?"),
        ("model=Qwen/Qwen2-7B", "write model.path=Qwen/Qwen2-7B"),
        ("decode.engine=sglang", "write decode.engine=auto"),
        ("decode=beam", "There is no beam search"),
        ("write=json", "Write write=jsonl."),
        ("launch.progress=none", "Write launch.progress=off."),
        ("no_such_thing=1", "Settings of translate: "),
    ],
)
def test_an_unknown_setting_or_value_is_answered_with_what_does_the_job(word: str, needle: str) -> None:
    assert needle in refusal(word)


def named_overrides() -> Iterator[str]:
    for answer in names_elsewhere.ANSWERS:
        yield from (answer.example or answer.override).split(" ")
    for value in names_elsewhere.VALUES:
        yield from re.findall(r"\b[a-z_.]+=[^ :;,.'\\]+(?:\.[^ :;,.'\\]+)*", value.fix)


def test_every_override_that_an_answer_names_is_valid() -> None:
    parser = config.override_parser("translate")
    named = [override for override in named_overrides() if override]
    assert len(named) > 80
    for override in named:
        if override.startswith("source.encoding=") and "source.encoding" not in parser.settings:
            continue
        parser.parse([override])


def test_a_name_has_one_answer_and_is_not_itself_a_setting() -> None:
    names = [name for answer in names_elsewhere.ANSWERS for name in answer.names.split()]
    assert sorted(names) == sorted(set(names))
    parser = config.override_parser("translate")
    for answer in names_elsewhere.ANSWERS:
        assert answer.override or answer.about.endswith("."), answer
        assert ("{value}" in answer.override) == bool(answer.example), answer
        for name in answer.names.split():
            assert name == name.casefold() and suggestion.find_answer(name.upper().replace("_", "-")) is answer
            assert name not in parser.settings, name


@pytest.mark.parametrize("job", ["status", "verify", "languages", "plan", "doctor", "bench"])
def test_an_answer_never_names_a_setting_that_the_job_lacks(job: str) -> None:
    settings = config.override_parser(job).settings
    words = ["name=x"] if job in ("status", "verify") else []
    for name in ("batch_size", "lang", "num_workers", "output", "fp16", "probe", "threads"):
        if name in settings:
            continue
        message = refusal(f"{name}=4", *words, job=job)
        for key in re.findall(r"Write ([a-z_.]+)=", message):
            assert key in settings or key in config.group_choices(job), message


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--batch-size=8"], "Settings have no dashes. Did you mean batch.max_rows? Write batch.max_rows=8"),
        (["--num_beams", "4"], "There is no beam search"),
        (["--input", "in.txt"], "Write source.path=corpus.txt"),
        (["-i", "in.txt"], "source.path=corpus.txt"),
        (["-o", "out"], "output_dir=outputs name=NAME"),
        (["--tgt_lang=fr"], "Settings have no dashes: write tgt_lang=fr."),
        (["--resume"], "Resuming is automatic"),
        (["--cgf"], "is not a flag of hymt-batch. Flags: --cfg"),
        (["--nonsense"], "Flags: "),
    ],
)
def test_a_flag_that_is_a_setting_elsewhere_is_answered(
    words: list[str], needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(["translate", *words]) == 2
    error = capsys.readouterr().err
    assert needle in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("job", "name", "fix"),
    [
        ("status", "outputs/x", "Set name=x."),
        ("status", "./outputs/x/", "Set name=x."),
        ("verify", "outputs/sweep/tgt_lang=fr", "Set name=sweep/tgt_lang=fr."),
        ("status", "other/x", "Set output_dir=other name=x."),
        ("status", "{cwd}/outputs/x", "Set name=x."),
        ("translate", "outputs/x", "Set name=x."),
        ("translate", "other/x", "Set output_dir=other name=x."),
        ("translate", "a/b", "Set name=a_b."),
    ],
)
def test_a_path_as_a_name_is_answered_with_the_name(job: str, name: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / "other" / "x").mkdir(parents=True)
    assert fix in refusal(f"name={name.format(cwd=tmp_path)}", job=job)


def test_a_folder_without_a_key_is_answered_with_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["status", "outputs/x"]) == 2
    assert "write name=x." in capsys.readouterr().err


def test_several_paths_with_commas_are_answered_with_a_list(tmp_path: Path) -> None:
    from hymt_batch.source import discovery
    from hymt_batch.source.settings import SourceConfig

    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(ConfigError, match=r"set source\.path=\[a\.txt,b\.txt\]"):
        discovery.find_inputs(SourceConfig(path="a.txt,b.txt"))
    with pytest.raises(ConfigError, match=r"does not exist\. Similar names"):
        discovery.find_inputs(SourceConfig(path="a.txt,c.txt"))
    (input_a, input_b) = discovery.find_inputs(SourceConfig(path=["a.txt", "b.txt"]))
    assert (input_a.rel, input_b.rel) == ("a.txt", "b.txt")
