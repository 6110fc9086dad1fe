"""Malicious model folders are refused with exit code 6 before any output, or used without running their code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.model import files
from jobs.__main__ import main
from tests.fakes.corruptions import edit

DEMO, _ = files.resolve("demo:model", "main", download=False)
DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def run(job: str, folder: Path, *more: str) -> int:
    source = folder.parent / "in.txt"
    source.write_text("It is raining in Lyon.\n", encoding="utf-8")
    overrides = [f"source.path={source}", f"output_dir={folder.parent}", "name=out", "tgt_lang=fr", "device_map=cpu"]
    return main([job, *overrides, "model=demo", f"model.path={folder}", *more])


def replaced(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def deep(path: Path) -> None:
    path.write_text(DEEP, encoding="utf-8")


def header(path: Path) -> None:
    path.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())


def to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


READ = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
ENDLESS = [(name, make) for name in [*READ, "model.safetensors"] for make in (os.mkfifo, to_device)]
LARGE = [(name, sparse) for name in READ]
NESTED = [
    ("config.json", deep),
    ("tokenizer.json", deep),
    ("generation_config.json", deep),
    ("model.safetensors", header),
]


@pytest.mark.fault(77, 78, 84)
@pytest.mark.parametrize(
    ("name", "make"),
    [pytest.param(name, make, id=f"{make.__name__}-{name}") for name, make in (*ENDLESS, *LARGE, *NESTED)],
)
def test_an_endless_or_oversized_file_is_refused_before_any_output(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], object]
) -> None:
    replaced(folder, name, make)
    assert run("translate", folder) == 6
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert name in lines[0]
    assert not (folder.parent / "out").exists()


@pytest.mark.fault(78, 84)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("vocab_size", 10**12),
        ("hidden_size", -5),
        ("hidden_size", "9" * 30),
        ("hidden_size", 10**30),
    ],
)
def test_a_network_of_absurd_size_is_refused_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any
) -> None:
    edit(folder / "config.json", **{field: value})
    assert run("translate", folder) == 6
    assert "config.json" in capsys.readouterr().err or field == "num_hidden_layers"
    assert not (folder.parent / "out").exists()


@pytest.mark.fault(75, 76, 77)
def test_a_folder_with_custom_code_fails_both_the_doctor_and_the_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = folder.parent / "mark"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", encoding="utf-8")
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    for job in ("doctor", "translate"):
        assert run(job, folder) == 6
        assert "auto_map" in "".join(capsys.readouterr())
    assert not mark.exists()
    assert not (folder.parent / "out").exists()


@pytest.mark.fault(75, 76, 78)
def test_extra_files_and_settings_in_a_model_folder_are_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, blobs = folder.parent / "mark", folder.parent / "store"
    assert run("translate", folder, "name=plain") == 0
    code = f"import os\nos.mkdir({str(mark)!r})\n"
    for name in ("modeling_hunyuan.py", "tokenization_hy.py", "sitecustomize.py", "__init__.py", "evil.py"):
        (folder / name).write_text(code, encoding="utf-8")
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "model.ckpt", "optimizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]},
        custom_pipelines={"x": 1},
    )
    edit(
        folder / "generation_config.json",
        max_new_tokens=10**7,
        max_length=10**7,
        num_beams=10**4,
        num_return_sequences=500,
        trust_remote_code=True,
        custom_generate="evil",
    )
    blobs.mkdir()
    shutil.move(folder / "model.safetensors", blobs / "blob")  # a link to a regular file, as in the hub's cache
    (folder / "model.safetensors").symlink_to(blobs / "blob")
    assert run("translate", folder) == 0
    output, expected = (folder.parent / name / "translated" / "in.txt" for name in ("out", "plain"))
    assert output.read_bytes() == expected.read_bytes() != b"\n"
    assert not mark.exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["in.txt", "model", "out", "plain", "store"]
    assert not list(folder.rglob("__pycache__"))
    capsys.readouterr()


@pytest.mark.fault(78)
@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}",
        "{{ self.__init__.__globals__.__builtins__.__import__('os').mkdir('mark') }}",
        "{{ cycler.__init__.__globals__.os.mkdir('mark') }}",
        "{{ raise_exception('stop') }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{{ messages[0]['content'] * 3 }}",
        "{{ messages[0]['content'] }}<｜hy_begin▁of▁sentence｜>",
    ],
)
def test_a_template_that_accesses_the_system_or_changes_the_user_turn_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.chdir(folder.parent)
    edit(folder / "tokenizer_config.json", chat_template=template)
    assert run("translate", folder) == 6
    assert "model" in capsys.readouterr().err
    assert not (folder.parent / "mark").exists()
    assert not list((folder.parent / "out").glob("translated/**/*"))


@pytest.mark.fault(77)
@pytest.mark.parametrize(
    "name", ["../out.safetensors", "/etc/out.safetensors", "a/b.safetensors", "..", "", "a\n.safetensors"]
)
def test_an_index_that_names_a_path_outside_the_folder_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert run("translate", folder) == 6
    error = capsys.readouterr().err
    assert "is outside the folder" in error or ".. is missing" in error
    assert not (folder.parent / "out").exists()
