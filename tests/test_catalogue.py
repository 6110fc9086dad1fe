"""The catalogue of failures is complete, its page is current, and it recognises real exceptions of the libraries."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import schema
from hymt_batch.cli.override import collect_settings
from hymt_batch.doctor import catalogue
from hymt_batch.errors import UsageError
from hymt_batch.model import files, transformers_compat
from tests.fakes import corruptions
from tests.fakes.corruptions import edit, weights

ROOT = Path(__file__).parent.parent
DEMO, _ = files.resolve("demo:model", "main", download=False)
STAGES = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
CHECKS = "(hymt-batch|device_map|model|batch|source|decode|output_dir|name|prompt)[.=]?"


def test_the_troubleshooting_page_matches_the_catalogue() -> None:
    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8") == catalogue.troubleshooting_page()


def test_every_failure_is_complete() -> None:
    known = catalogue.load()
    assert len(known) >= 110
    for failure in known.values():
        assert failure.found in catalogue.DETECTED_BY
        assert failure.symptoms or failure.silent, failure.id
        assert failure.cause.endswith("."), failure.id
        assert failure.fix and failure.versions
        assert bool(failure.because) == (failure.found in ("design", "reasoned")), failure.id
        for pattern in failure.pattern:
            re.compile(pattern)
            assert ".*" not in pattern, f"{failure.id}: it would match across lines, and the longest match wins"
        if failure.found == "doctor":
            command = r"(pip|hf|git|unset|docker|sbatch|output_dir|nvidia-smi|python3)\b"
            assert re.search(rf"{CHECKS}|{command}|Install|Remove|Wait|Start|Add", failure.fix), failure.id


TOO_COMMON = {
    "CUDA out of memory",  # while loading or later: C21
    "Killed",
    "oom-kill",
    "Permission denied",
    "Bus error",
    "LOAD REPORT",  # the lines below it distinguish B9 from B10
    "invalid literal for int()",
    "No space left on device, though",
}
"""Symptoms that do not identify one failure."""


def test_every_symptom_matches_its_own_failure_unless_too_common() -> None:
    for failure in catalogue.load().values():
        for symptom in failure.symptoms:
            if catalogue.match(symptom) is not failure:
                assert any(text in symptom for text in TOO_COMMON), (failure.id, symptom)
                assert failure.id != "C21"


def test_every_override_of_a_fix_exists() -> None:
    known = {key for job in schema.JOBS.values() for key in collect_settings(job)}
    for failure in catalogue.load().values():
        for stage, field, value in re.findall(rf"\b({'|'.join(STAGES)})((?:\.\w+)*)=([\w.]*)", failure.fix):
            if field:
                assert stage + field in known, failure.id
            else:
                assert (ROOT / "conf" / stage / f"{value}.yaml").is_file(), (failure.id, stage, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "IndexError: list index out of range",
        "KeyError: 'text'",
        "KeyError: 10",
        "division by zero",
        "name 'x' is not defined",
        "AttributeError: 'NoneType' object has no attribute 'shape'",
        "TypeError: Reader.__init__() got an unexpected keyword argument 'path'",
        "FileNotFoundError: [Errno 2] No such file or directory: 'in.txt'",
        "ImportError: cannot import name 'Iterator' from 'typing'",
        "RuntimeError: The size of tensor a (3) must match the size of tensor b (4)",
    ],
)
def test_an_unknown_error_does_not_match(text: str) -> None:
    assert catalogue.match(text) is None


def test_an_id_is_found_in_any_case_and_an_unknown_one_is_rejected() -> None:
    assert catalogue.get("c15B").id == "C15b"
    assert catalogue.get(" b1 ").id == "B1"
    with pytest.raises(UsageError, match="Similar ids: C2"):
        catalogue.get("C2x")


def test_explain_shows_all_fields_of_a_failure() -> None:
    text = catalogue.explain(catalogue.get("E21"))
    assert "cause" in text
    assert "fix" in text
    assert "Not reproduced here" in text
    assert max(map(len, text.splitlines())) <= 110


def load(folder: Path, **settings: Any) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), **settings)


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the warnings that the libraries log."""
    from transformers.utils import logging as library_logging

    verbosity = library_logging.get_verbosity()
    library_logging.set_verbosity_warning()
    library_logging.warning_once.cache_clear()  # it would not repeat a warning that an earlier test caused
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("transformers", "accelerate")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        library_logging.set_verbosity(verbosity)
        for logger in loggers:
            logger.removeHandler(handler)


def tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder))


def generate(folder: Path, **settings: Any) -> Any:
    return step(load(folder), **settings)


def step(network: Any, **settings: Any) -> Any:
    import torch

    return network.generate(torch.tensor([[1390, 5]]), max_new_tokens=2, **settings)


def spread(**devices: str) -> dict[str, str]:
    """Return a device map of all modules: the given devices, else the CPU."""
    names = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
    return {name: devices.get(name.split(".")[-1], "cpu") for name in names}


def inside_a_meta_context(folder: Path) -> Any:
    import torch

    with torch.device("meta"):
        return load(folder)


def on_the_embedding_of_disk(folder: Path) -> Any:
    import torch

    network = load(folder, device_map=spread(embed_tokens="disk", lm_head="disk"))
    return network.generate(torch.tensor([[1390, 5]]).to(network.device), max_new_tokens=1)


def with_tokenized_chat(folder: Path) -> Any:
    turn = [{"role": "user", "content": "It rains."}]
    return load(folder).generate(tokenizer(folder).apply_chat_template(turn, return_tensors="pt"), max_new_tokens=1)


def without_pad_token(folder: Path) -> Any:
    loaded = tokenizer(folder)
    loaded.pad_token = None
    return loaded(["a", "b c"], padding=True)


def with_a_weight_of_nan(folder: Path) -> Any:
    network = load(folder)
    network.model.norm.weight.data.fill_(float("nan"))
    return step(network, do_sample=True)


def of_nothing(folder: Path) -> Any:
    import torch

    return load(folder).generate(torch.zeros((1, 0), dtype=torch.long), max_new_tokens=1)


def pipeline(task: str, **settings: Any) -> Any:
    import transformers

    return transformers.pipeline(task, **settings)


def moved_into_a_pipeline(folder: Path) -> Any:
    network = load(folder, device_map=spread(layers="disk"))
    return pipeline("text-generation", model=network, tokenizer=tokenizer(folder), device="cpu")


def without_template(folder: Path) -> Any:
    return tokenizer(folder).apply_chat_template([{"role": "user", "content": "It rains."}])


def from_the_cache(folder: Path) -> Any:
    from huggingface_hub import snapshot_download

    return snapshot_download("tencent/HY-MT1.5-1.8B", local_files_only=True, cache_dir=folder)


def as_a_script(folder: Path) -> Any:
    import datasets

    script = folder / "flores200.py"
    script.write_text("", encoding="utf-8")
    return datasets.load_dataset(str(script))


def untied(folder: Path) -> None:
    from safetensors.torch import load_file, save

    tensors = load_file(weights(folder))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    weights(folder).write_bytes(save(tensors, metadata={"format": "pt"}))


def padded_on_the_right(folder: Path) -> Any:
    batch = tokenizer(folder)(["a", "a b c d"], return_tensors="pt", padding=True, padding_side="right")
    return load(folder).generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=1)


def nothing(folder: Path) -> None:
    """Do not damage the folder: the call itself is wrong."""


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


Damage = Callable[[Path], Any]
REAL: list[tuple[str, Damage, Damage]] = [
    ("A4", nothing, lambda folder: load(folder, device_map="cuda")),
    ("A5", nothing, lambda folder: load(folder, device_map=0)),
    ("A7", nothing, lambda folder: load(folder, attn_implementation="flash_attention_2")),
    ("A2", lambda folder: edit(folder / "config.json", model_type="hunyuan_v9_dense"), load),
    ("B1", corruptions.lfs_pointer, load),
    ("B2", corruptions.truncated, load),
    ("B3", corruptions.missing_shard, load),
    ("B4", lambda folder: weights(folder).unlink(), load),
    ("B5", lambda folder: edit(folder / "config.json", model_type=None, architectures=None), load),
    ("B6", without_tokenizer, tokenizer),
    ("B7", nothing, lambda folder: load(Path("/no/such/folder"))),
    ("B10", lambda folder: edit(folder / "config.json", hidden_size=64), load),
    ("B12", lambda folder: edit(folder / "config.json", head_dim=None), load),
    ("B2", lambda folder: weights(folder).write_bytes(weights(folder).read_bytes()[:100]), load),
    ("B8", nothing, lambda folder: load(Path("tencent/HY-MT1.5-1.8B"), local_files_only=True, cache_dir=str(folder))),
    ("B8", nothing, from_the_cache),
    ("B16", lambda folder: edit(folder / "config.json", model_type="x", auto_map={"AutoConfig": "x.X"}), load),
    ("B20", lambda folder: edit(folder / "tokenizer_config.json", chat_template=None), without_template),
    ("B23", corruptions.empty, load),
    ("B24", lambda folder: edit(folder / "config.json", num_hidden_layers="4"), load),
    ("C1", nothing, lambda folder: load(folder, device_map="gpu")),
    ("C2", nothing, lambda folder: load(folder, device_map=-1)),
    ("C5", nothing, lambda folder: load(folder, device_map="auto", max_memory={"cuda:0": "1GiB"})),
    ("C6", nothing, lambda folder: load(folder, device_map="auto", max_memory={"cpu": "10 gigs"})),
    ("C13", nothing, lambda folder: load(folder, device_map={"model.norm": "cpu", "lm_head": "disk"})),
    ("C3", nothing, lambda folder: load(folder, device_map="meta").to("cpu")),
    ("C3", nothing, lambda folder: step(load(folder, device_map="meta"))),
    ("C4", nothing, inside_a_meta_context),
    ("C5", nothing, lambda folder: load(folder, device_map="auto", max_memory={"0": "1GiB"})),
    ("C10", nothing, lambda folder: load(folder, device_map=spread(layers="disk")).to("cpu")),
    ("C11", nothing, on_the_embedding_of_disk),
    ("C12", nothing, lambda folder: load(folder, device_map="auto").hf_device_map),
    ("C16", nothing, lambda folder: step(load(folder, device_map=spread(lm_head="disk")))),
    ("C16", nothing, lambda folder: step(load(folder, device_map=spread(embed_tokens="disk")))),
    ("C18", corruptions.pickles_only, lambda folder: load(folder, device_map=spread(layers="disk"))),
    ("E1", nothing, with_tokenized_chat),
    ("E3", nothing, without_pad_token),
    ("E4", nothing, lambda folder: generate(folder, token_type_ids=[[0, 0]])),
    ("E9", nothing, lambda folder: generate(folder, do_sample=True, temperature=0.0)),
    ("E10", nothing, lambda folder: generate(folder, do_sample=True, top_k=-1)),
    ("E11", nothing, lambda folder: generate(folder, do_sample=True, top_k=20.0)),
    ("E11", nothing, lambda folder: generate(folder, do_sample=True, temperature=2)),
    ("E11", nothing, lambda folder: generate(folder, do_sample=True, repetition_penalty=2)),
    ("E13", nothing, lambda folder: load(folder, load_in_8bit=True)),
    ("E14", nothing, lambda folder: load(folder, dtype="fp16")),
    ("E15", nothing, of_nothing),
    ("E16", nothing, lambda folder: pipeline("translation", model=str(folder))),
    ("E16", nothing, lambda folder: pipeline("translation_en_to_fr", model=str(folder))),
    ("E17", nothing, moved_into_a_pipeline),
    ("E22", nothing, with_a_weight_of_nan),
    ("A10", nothing, as_a_script),
    ("F5", lambda folder: edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), load),
]


@pytest.mark.parametrize(("id", "damage", "use"), REAL, ids=[row[0] for row in REAL])
def test_a_real_library_exception_is_recognised(id: str, damage: Damage, use: Damage, tmp_path: Path) -> None:
    if transformers_compat.installed_version("transformers") < (5,):
        pytest.skip("the messages are those of transformers 5")
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    damage(folder)
    with warnings.catch_warnings(), logged(), pytest.raises(Exception) as raised:
        warnings.simplefilter("ignore")
        use(folder)
    failure = catalogue.match(f"{type(raised.value).__name__}: {raised.value}")
    assert failure is not None, f"{type(raised.value).__name__}: {raised.value}"
    assert failure.id == id, f"{type(raised.value).__name__}: {raised.value}"


WARNINGS: list[tuple[str, Damage, Damage]] = [
    ("B9", lambda folder: edit(folder / "config.json", num_hidden_layers=5), load),
    ("B9", lambda folder: edit(folder / "config.json", num_hidden_layers=3), load),
    ("B11", untied, load),
    ("C9", nothing, lambda folder: load(folder, device_map=spread(layers="disk"))),
    ("C15", nothing, lambda folder: load(folder, device_map={**spread(lm_head="disk"), "transformer.h": "cpu"})),
    ("E2", nothing, padded_on_the_right),
    ("E8", nothing, lambda folder: generate(folder, do_sample=False, temperature=0.7)),
    ("E12", nothing, lambda folder: load(folder).generate()),
    ("E24", nothing, load),
    ("C32", nothing, lambda folder: pipeline("text-generation", model=str(folder), torch_dtype="auto")),
]


@pytest.mark.parametrize(("id", "damage", "use"), WARNINGS, ids=[row[0] for row in WARNINGS])
def test_a_real_library_warning_is_recognised(id: str, damage: Damage, use: Damage, tmp_path: Path) -> None:
    if transformers_compat.installed_version("transformers") < (5,):
        pytest.skip("the messages are those of transformers 5")
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    damage(folder)
    with warnings.catch_warnings(record=True) as warned, logged() as lines:
        warnings.simplefilter("always")
        use(folder)
    texts = [*lines, *(str(warning.message) for warning in warned)]
    assert id in {failure.id for text in texts if (failure := catalogue.match(text))}, texts
