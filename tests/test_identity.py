"""What is recorded of a job follows from the class of each setting, for every setting of every job."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import batch, config, manifest, prompt, schema
from hymt_batch.cli.override import collect_settings
from hymt_batch.model import detect_devices, prepare
from hymt_batch.model import files as model_files
from hymt_batch.run import identity
from hymt_batch.setting import SettingClass, classes_of
from hymt_batch.source import discovery
from hymt_batch.source.spool import Spool
from hymt_batch.write import identity_versions

RECORDED = json.loads((Path(__file__).parent / "data" / "identity2.json").read_text(encoding="utf-8"))
"""What version 2 recorded of some jobs when its keys were still listed by hand, at commit 43e9708."""

BASE = ("source.path=in/a.txt", "tgt_lang=fr", "name=job", "model=demo", "model.dtype=float32", "device_map=cpu")
"""model.dtype=auto would resolve by the device, and so let settings of the environment change the identity."""

GPUS = "device_map=auto"
SMALL = "device_map.max_memory={0: 3MiB}"
CSV = "source.path=in/a.csv"
HUB = "source.path=org/corpus"
SLURM, K8S, RAY, CRON = "launch=slurm", "launch=k8s", "launch=ray", "launch=cron"
SAMPLING = "decode=recommended"
DEMO = Path(model_files.__file__).parent.parent / "demo" / "model"

CHANGES: dict[str, str | tuple[str, ...]] = {
    "name": "other",
    "src_lang": "zh",
    "tgt_lang": "de",
    "output_dir": "elsewhere",
    "overwrite": "true",
    "on_mismatch": "fork",
    "on_input_change": "redo",
    "strict": "true",
    "seed": "1",
    "source.path": "in/b.txt",
    "source.format": "jsonl",
    "source.pattern": ("a.*", "source.path=in"),
    "source.text_field": "body",
    "source.src_lang_field": "from",
    "source.tgt_lang_field": "to",
    "source.limit": "1",
    "source.max_row_bytes": "100",
    "source.header": ("false", CSV),
    "source.delimiter": (";", CSV),
    "source.escape": ("backslash", CSV),
    "source.encoding": "cp1252",
    "source.join_cues": ("true", "source.path=film.srt"),
    "source.keys": ("title", "source.path=tree.json"),
    "source.skip_keys": ("[id,url]", "source.path=tree.json"),
    "source.add_plural_forms": ("true", "source.path=tree.json"),
    "source.document": "true",
    "source.entries": ("all", "source.path=app.po"),
    "source.max_window": "1GiB",
    "source.follow_symlinks": ("true", "source.path=linked"),
    "source.subset": ("small", HUB),
    "source.split": ("train", HUB),
    "source.revision": ("v2", HUB),
    "segment.max_tokens": "100",
    "segment.on_too_long": "error",
    "segment.max_segments": "3",
    "prompt.family": "hy_mt2",
    "prompt.language": "zh",
    "prompt.add_generation_prompt": "false",
    "batch.shard_rows": "100",
    "batch.part_new_tokens": "9",
    "batch.shard_bytes": "1000",
    "batch.part_rows": "7",
    "batch.part_tokens": "700",
    "batch.max_tokens": "2000",
    "batch.max_rows": "3",
    "model.path": "model",
    "model.family": "hy_mt2",
    "model.add_generation_prompt": "false",
    "model.licence": "MIT",
    "model.licence_limits": "none",
    "model.revision": ("v2", "model.path=org/model"),
    "model.download": "true",
    "model.dtype": "bfloat16",
    "model.attention": "eager",
    "model.packed": "false",
    "model.max_context": "16384",
    "model.sha256": hashlib.sha256((DEMO / "model.safetensors").read_bytes()).hexdigest(),
    "model.sampling.temperature": ("0.9", SAMPLING),
    "model.sampling.top_p": ("0.9", "check.retry.max_attempts=2"),
    "model.sampling.top_k": ("9", SAMPLING),
    "model.sampling.repetition_penalty": ("1.3", "check.retry.max_attempts=2"),
    "device_map.strategy": ("auto", "device_map=replicate"),
    "device_map.device": ("1", "device_map=single"),
    "device_map.max_memory": ("{0: 1MiB, 1: 10MiB}", GPUS),
    "device_map.margin": ("8189MiB", "device_map=sequential"),
    "device_map.map": ("{model: 1, lm_head: 1}", "device_map=manual", "device_map.map={model: 0, lm_head: 0}"),
    "device_map.order": ("[cpu]", "device_map=fallback"),
    "device_map.offload_folder": ("disk", "device_map=fallback", "device_map.order=[offload,cpu]", SMALL),
    "device_map.accelerate_config": ("accelerate.yaml", GPUS),
    "decode.method": "sampling",
    "decode.engine": "generate",
    "decode.temperature": ("0.5", SAMPLING),
    "decode.top_p": ("0.5", SAMPLING),
    "decode.top_k": ("5", SAMPLING),
    "decode.repetition_penalty": "1.2",
    "decode.max_new_tokens": "100",
    "decode.new_tokens_ratio": "3",
    "decode.new_tokens_extra": "9",
    "decode.stop_loops": "false",
    "decode.stages": "2",
    "decode.read_every": "4",
    "decode.capture": "true",
    "decode.kernels": "off",
    "check.max_error_rate": "0.5",
    "check.max_failed_files": "3",
    "check.codes": "true",
    "check.code_ladder": "[plain,without_codes]",
    "check.code_rows": "true",
    "check.on_fail": "source",
    "check.fail_kinds": "[loop]",
    "check.retry.kinds": "[loop]",
    "check.retry.max_attempts": "2",
    "check.retry.ladder": "[seed,split]",
    "check.retry.loop_repeats": "4",
    "check.retry.min_logprob": "-1.5",
    "check.retry.length_factor": "1.5",
    "check.retry.foreign_share": "0.9",
    "check.retry.source_words": "8",
    "check.retry.language_margin": "0.9",
    "check.flag.kinds": "[loop,length]",
    "check.flag.loop_repeats": "4",
    "check.flag.min_logprob": "-1.5",
    "check.flag.length_factor": "1.5",
    "check.flag.foreign_share": "0.9",
    "check.flag.source_words": "8",
    "check.flag.language_margin": "0.9",
    "check.flag.identify_share": "0.5",
    "check.stop_rate": "0.9",
    "check.stop_rows": "10",
    "write.format": "jsonl",
    "write.name": "{stem}.{tgt}{ext}",
    "write.encoding": "input",
    "write.on_error": "source",
    "write.raw_errors": "false",
    "write.review": "false",
    "write.translation_field": "out",
    "write.meta_field": "about",
    "write.row_group_rows": "100",
    "write.fuzzy": "true",
    "write.wrap_cues": "false",
    "write.keep_rows": "false",
    "write.retire": "all",
    "write.keep_retired_days": "7",
    "write.min_free": "1GiB",
    "launch.grace_s": "3",
    "launch.lease_ttl_s": "300",
    "launch.lease_beat_s": "10",
    "launch.prefetch_shards": "0",
    "launch.progress": "off",
    "launch.log_every_s": "5",
    "launch.samples": "0",
    "launch.num_threads": "2",
    "launch.workers": "2",
    "launch.vllm_python": "python3",
    "shard.index": "0-3",
    "shard.per_task": "4",
    "tracking.tracker": "csv",
    "tracking.file": "x.csv",
    "tracking.uri": "http://x",
    "tracking.experiment": "x",
    "tracking.timeout_s": "5",
    "launch.hang_s": "60",
    "launch.if_held": "wait",
    "launch.report": "false",
    "launch.on_success": "true",
    "launch.on_failure": "true",
    "launch.hook_timeout_s": "5",
    "launch.metrics_file": "x.prom",
    "launch.log_detail": "summary",
    "launch.keep_logs": "5",
    "launch.target": "slurm",
    "launch.dry_run": ("true", SLURM),
    "launch.array_parallelism": ("2", SLURM),
    "launch.max_requeues": ("2", SLURM),
    "launch.gpus_per_task": ("1", SLURM),
    "launch.cpus_per_task": ("8", SLURM),
    "launch.mem": ("32G", SLURM),
    "launch.devices": ("[80GiB]", SLURM),
    "launch.part_s": ("120", SLURM),
    "launch.gres": ("gpu:1", SLURM),
    "launch.account": ("a", SLURM),
    "launch.partition": ("gpu", SLURM),
    "launch.qos": ("high", SLURM),
    "launch.time": ("'4:00:00'", SLURM),
    "launch.constraint": ("a100", SLURM),
    "launch.extra": ("['--exclusive']", SLURM),
    "launch.setup": ("['module load cuda']", SLURM),
    "launch.image": ("hymt-batch:1", K8S),
    "launch.namespace": ("mt", K8S),
    "launch.data_claim": ("data", K8S),
    "launch.outputs_claim": ("out", K8S),
    "launch.cache_claim": ("cache", K8S),
    "launch.tasks": ("4", K8S),
    "launch.address": ("auto", RAY),
    "launch.schedule": ("'0 2 * * *'", CRON),
}
"""Setting -> another value, and the other settings with which it matters."""


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs, a model in two revisions, and two GPUs, below the working directory."""
    import huggingface_hub.constants
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt", "a.csv"):
        (tmp_path / "in" / name).write_text(f"text\n{name}\n", encoding="utf-8")
    (tmp_path / "tree.json").write_text('{"a": "b"}', encoding="utf-8")
    (tmp_path / "app.po").write_text('msgid "a"\nmsgstr ""\n', encoding="utf-8")
    (tmp_path / "film.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\na\n", encoding="utf-8")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.txt").write_text("a\n", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("b\n", encoding="utf-8")
    (tmp_path / "linked" / "in").symlink_to("real")
    (tmp_path / "linked" / "real").mkdir()
    (tmp_path / "linked" / "real" / "c.txt").write_text("c\n", encoding="utf-8")
    for dataset in ("org--corpus/all", "org--corpus--small/all", "org--corpus/only-train", "org--corpus--v2/all"):
        folder = tmp_path / "outputs/job/.hymt/spool/hub" / dataset
        folder.mkdir(parents=True)
        (folder / "train.parquet").write_text(dataset, encoding="utf-8")  # finding inputs does not read them
    for commit, revision in (("0" * 40, "main"), ("1" * 40, "v2")):
        repo = tmp_path / "hub" / "models--org--model"
        shutil.copytree(DEMO, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit, encoding="utf-8")
    shutil.copytree(DEMO, tmp_path / "model")
    with open(tmp_path / "model" / "generation_config.json", "a", encoding="utf-8") as file:
        file.write("\n")
    (tmp_path / "accelerate.yaml").write_text("use_cpu: true\n", encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    monkeypatch.setattr(prepare, "torch_devices", lambda: detect_devices.simulated_devices(["2x8GiB", "cpu:64GiB"]))


def record(*words: str) -> dict[str, Any]:
    """Return what is recorded of a job, by class; the list of inputs belongs to the identity."""
    job = config.load("translate", [*BASE, *words])
    inputs = discovery.find_inputs(job.source, Spool(Path(job.output_dir, "job")))
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    model = prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    part_limits = batch.resolve_part_limits(job.batch, model.num_parameters, on_gpu=False)
    recorded = {
        "identity": identity.build_identity(job, model.identity, template, part_limits),
        "inputs": [(input.rel, input.format, Path(input.path).read_bytes()) for input in inputs],
        "output": identity.build_output(job),
        "environment": {**model.environment, **identity.build_environment(job)},
    }
    return {key: value if key == "inputs" else manifest.json_roundtrip(value) for key, value in recorded.items()}


def test_every_setting_of_a_translation_is_tried_below() -> None:
    assert set(CHANGES) == set(collect_settings(schema.TranslateJob))


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.usefixtures("inputs")
def test_a_setting_changes_what_its_class_says(key: str) -> None:
    change = CHANGES[key]
    value, *context = (change,) if isinstance(change, str) else change
    before, after = record(*context), record(*context, f"{key}={value}")
    changed = {name for name in before if before[name] != after[name]}
    declared = classes_of(schema.TranslateJob)[key]
    if declared is SettingClass.identity:
        assert len(changed) == 1 and changed <= {"identity", "inputs"}
    elif declared is SettingClass.output:
        assert changed == {"output"}
        assert manifest.diff(before["output"], after["output"])[0][0] == key
    elif declared is SettingClass.environment:
        assert changed == {"environment"}
    else:
        assert changed == set()


@pytest.mark.core
@pytest.mark.parametrize("name", RECORDED)
def test_the_identity_and_the_environment_are_those_that_version_2_recorded(name: str) -> None:
    job = identity.with_code_ladder(config.load("translate", RECORDED[name]["words"]), [])  # version 2 had none
    expected = RECORDED[name]["identity"]
    template = prompt.resolve_template(job.prompt, job.model.family.value, job.src_lang, job.tgt_lang)
    part_limits = batch.resolve_part_limits(job.batch, 1_800_000_000, on_gpu=False)
    model = {key: expected["model"][key] for key in ("files", "commit", "family", "dtype")}
    recorded = identity.build_identity(job, model, template, part_limits)
    settings = identity.build_output(job)
    earlier = identity_versions.earlier_identities(recorded, settings)
    assert manifest.canonical_json(expected) in map(manifest.canonical_json, earlier)
    assert identity_versions.differences(expected, recorded) == []
    earlier_settings = identity_versions.output_settings_in(expected)
    renamed = identity_versions.CHANGES.renamed_output
    assert {key: settings[renamed.get(key, key)] for key in earlier_settings} == earlier_settings
    environment = identity.build_environment(job, {"device": "AMD EPYC"})
    assert environment.pop("hymt_batch")
    assert environment.pop("kernels") == "auto"  # a setting that version 2 did not have
    assert manifest.canonical_json(environment) == manifest.canonical_json(RECORDED[name]["environment"])


def test_a_resolver_covers_settings_of_its_class() -> None:
    classes = classes_of(schema.TranslateJob)
    for resolver in identity.IDENTITY_RESOLVERS.values():
        assert {classes[key] for key in resolver.settings} == {SettingClass.identity}
    for keys in identity.ENVIRONMENT_RESOLVERS.values():
        assert {classes[key] for key in keys} == {SettingClass.environment}


@pytest.mark.usefixtures("inputs")
def test_every_resolver_of_the_environment_has_its_key() -> None:
    job = config.load("translate", [*BASE])
    model = prepare.prepare_model(job.model, job.device_map)
    assert set(identity.ENVIRONMENT_RESOLVERS) <= set(model.environment)


def test_settings_of_the_environment_have_different_names() -> None:
    covered = {key for keys in identity.ENVIRONMENT_RESOLVERS.values() for key in keys}
    own = [key for key, value in classes_of(schema.TranslateJob).items() if value is SettingClass.environment]
    names = [key.rpartition(".")[2] for key in own if key not in covered]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("job", schema.JOBS)
def test_a_setting_that_no_translation_has_changes_nothing(job: str) -> None:
    translation, classes = classes_of(schema.TranslateJob), classes_of(schema.JOBS[job])
    assert set(classes) == set(collect_settings(schema.JOBS[job]))
    has_all = issubclass(schema.JOBS[job], schema.PipelineJob | schema.RetryJob)
    for key, declared in classes.items():
        shared = has_all or key.startswith("launch.")
        expected = translation.get(key, SettingClass.operation) if shared else SettingClass.operation
        assert declared is expected, key
