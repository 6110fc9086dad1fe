"""The catalogue of failures is whole, its page is current, and it knows the libraries' exceptions by their text."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.doctor import catalogue
from hymt_batch.errors import UsageError
from hymt_batch.model import files, library
from tests import corruptions
from tests.corruptions import edit, weights

ROOT = Path(__file__).parent.parent
DEMO, _ = files.resolve("demo:model", "main", download=False)
CHECKS = "(hymt-batch|device_map|model|batch|source|decode|output_dir|name|prompt)[.=]?"


def test_the_page_is_what_the_catalogue_says() -> None:
    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8") == catalogue.page()


def test_every_failure_is_whole() -> None:
    known = catalogue.load()
    assert len(known) >= 110
    for failure in known.values():
        assert failure.found in catalogue.FOUND
        assert failure.symptoms or failure.silent, failure.id
        assert failure.cause.endswith("."), failure.id
        assert failure.fix and failure.versions
        assert bool(failure.because) == (failure.found in ("design", "reasoned")), failure.id
        for pattern in failure.pattern:
            re.compile(pattern)
        if failure.found == "doctor":
            command = r"(pip|hf|git|unset|docker|sbatch|output_dir|nvidia-smi|python3)\b"
            assert re.search(rf"{CHECKS}|{command}|Install|Remove|Wait|Start|Add", failure.fix), failure.id


def test_every_symptom_that_a_pattern_is_for_is_recognised_as_its_own() -> None:
    for failure in catalogue.load().values():
        for symptom in failure.symptoms:
            if failure.pattern and any(re.search(one, symptom, re.DOTALL | re.MULTILINE) for one in failure.pattern):
                assert catalogue.match(symptom) is failure, (failure.id, symptom)


@pytest.mark.parametrize(
    "text", ["list index out of range", "", "KeyError: 'text'", "division by zero", "name 'x' is not defined"]
)
def test_an_error_that_is_unknown_stays_unknown(text: str) -> None:
    assert catalogue.match(text) is None


def test_an_id_is_found_however_it_is_written_and_a_wrong_one_is_refused() -> None:
    assert catalogue.get("c15B").id == "C15b"
    assert catalogue.get(" b1 ").id == "B1"
    with pytest.raises(UsageError, match="near it: C2"):
        catalogue.get("C2x")


def test_a_page_for_the_terminal_has_all_of_a_failure() -> None:
    text = catalogue.explain(catalogue.get("E21"))
    assert "cause" in text
    assert "fix" in text
    assert "Not shown here" in text
    assert max(map(len, text.splitlines())) <= 110


def load(folder: Path, **settings: Any) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), **settings)


def tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder))


def generate(folder: Path, **settings: Any) -> Any:
    import torch

    return load(folder).generate(torch.tensor([[1390, 5]]), max_new_tokens=2, **settings)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


Damage = Callable[[Path], Any]
REAL: list[tuple[str, Damage, Damage]] = [
    ("A4", lambda folder: None, lambda folder: load(folder, device_map="cuda")),
    ("A5", lambda folder: None, lambda folder: load(folder, device_map=0)),
    ("A7", lambda folder: None, lambda folder: load(folder, attn_implementation="flash_attention_2")),
    ("A2", lambda folder: edit(folder / "config.json", model_type="hunyuan_v9_dense"), load),
    ("B1", corruptions.lfs_pointer, load),
    ("B2", corruptions.truncated, load),
    ("B3", corruptions.missing_shard, load),
    ("B4", lambda folder: weights(folder).unlink(), load),
    ("B5", lambda folder: edit(folder / "config.json", model_type=None, architectures=None), load),
    ("B6", without_tokenizer, tokenizer),
    ("B7", lambda folder: None, lambda folder: load(Path("/no/such/folder"))),
    ("B10", lambda folder: edit(folder / "config.json", hidden_size=64), load),
    ("B12", lambda folder: edit(folder / "config.json", head_dim=None), load),
    ("B23", corruptions.empty, load),
    ("C1", lambda folder: None, lambda folder: load(folder, device_map="gpu")),
    ("C2", lambda folder: None, lambda folder: load(folder, device_map=-1)),
    ("C5", lambda folder: None, lambda folder: load(folder, device_map="auto", max_memory={"cuda:0": "1GiB"})),
    ("C6", lambda folder: None, lambda folder: load(folder, device_map="auto", max_memory={"cpu": "10 gigs"})),
    ("C13", lambda folder: None, lambda folder: load(folder, device_map={"model.norm": "cpu", "lm_head": "disk"})),
    ("C3", lambda folder: None, lambda folder: load(folder, device_map="meta").to("cpu")),
    ("E9", lambda folder: None, lambda folder: generate(folder, do_sample=True, temperature=0.0)),
    ("E10", lambda folder: None, lambda folder: generate(folder, do_sample=True, top_k=-1)),
    ("E13", lambda folder: None, lambda folder: load(folder, load_in_8bit=True)),
    ("E14", lambda folder: None, lambda folder: load(folder, dtype="fp16")),
    ("F5", lambda folder: edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), load),
]


@pytest.mark.parametrize(("id", "damage", "use"), REAL, ids=[row[0] for row in REAL])
def test_a_real_exception_of_the_libraries_is_recognised(id: str, damage: Damage, use: Damage, tmp_path: Path) -> None:
    if library.version("transformers") < (5,):
        pytest.skip("texts of transformers 5")
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    damage(folder)
    with warnings.catch_warnings(), pytest.raises(Exception) as raised:
        warnings.simplefilter("ignore")
        use(folder)
    found = catalogue.match(f"{type(raised.value).__name__}: {raised.value}")
    assert found is not None, f"{type(raised.value).__name__}: {raised.value}"
    assert found.id == id, f"{type(raised.value).__name__}: {raised.value}"
