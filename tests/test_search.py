"""A pasted message finds its failure, whatever surrounds it; other texts get the nearest ones."""

from __future__ import annotations

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest

from hymt_batch import config
from hymt_batch.doctor import catalogue, search
from hymt_batch.errors import ExitCode, UsageError
from jobs import doctor
from tests.test_catalogue import TOO_COMMON

ARTICLE = {
    "RuntimeError: Unable to find suitable device for linear layer": "C30",
    "ValueError: device_map='auto' requires accelerate>=0.20.0 and torch distributed environment setup": "A18",
    "You are trying to use device_map='auto', but torch.distributed is not initialized.": "D7",
}

TRACEBACK = """\
Traceback (most recent call last):
  File "/home/someone/my models/run.py", line 17, in <module>
    model = AutoModelForCausalLM.from_pretrained("tencent/HY-MT1.5-1.8B", device_map="auto")
  File "/opt/conda/lib/python3.12/site-packages/transformers/modeling_utils.py", line 4321, in from_pretrained
    return func(*args, **kwargs)
{message}
"""


def found(text: str) -> list[str]:
    return [failure.id for failure in search.search(text).found]


@pytest.mark.parametrize(("message", "id"), ARTICLE.items())
def test_the_messages_that_articles_quote_stand_unwrapped_on_the_page_and_are_found(message: str, id: str) -> None:
    page = catalogue.troubleshooting_page()
    assert message in page.splitlines()
    section = page.partition(f"### {id}: ")[2].partition("\n### ")[0]
    assert message in section.splitlines() and "**Fix.**" in section
    assert found(message)[0] == id
    assert found(message.partition(": ")[2] or message)[0] == id
    assert found(TRACEBACK.format(message=message))[0] == id


@pytest.mark.parametrize("setting", ["low_cpu_mem_usage", "offload_state_dict", "torch_dtype"])
def test_the_settings_that_articles_use_are_explained(setting: str) -> None:
    page = catalogue.troubleshooting_page()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{setting}="))
    (id,) = re.findall(r"\b[A-Z]\d+\b", row)
    assert setting in catalogue.get(id).title
    assert found(setting) == [id]


def test_every_symptom_is_found_in_a_traceback_with_other_paths_and_versions() -> None:
    for failure in catalogue.load().values():
        for symptom in failure.symptoms:
            if any(text in symptom for text in TOO_COMMON):
                continue
            message = symptom.replace("FOLDER", "/data/models/hy-mt").replace("5.23", "5.24")
            assert failure.id in found(TRACEBACK.format(message=message)), symptom
            assert failure.id in found(message), symptom


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("Device 3 is not available, available devices are [0, 1]", "A5"),
        ("find suitable device for linear", "C30"),
        ("\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out\n of memory. Tried to allocate 20.00 GiB", "C21"),
        ("PermissionError: [Errno 13] Permission denied: '/data/out'", "G9"),
        ("ValueError: invalid literal for int() with base 16: 'two'", "D2"),
        ("/bin/sh: line 1: 4321 Killed    hymt-batch translate", "G1"),
        ("hymt-batch: The weights take 13.98 GiB [C23: hymt-batch doctor explain=C23]", "C23"),
        ("You are trying to use device_map='auto',\n    but torch.distributed is not\n    initialized.", "D7"),
        ("cuda:0 and cuda:3! Expected all tensors to be on the same device", "C19"),
    ],
)
def test_a_part_of_a_message_is_found_with_other_numbers_paths_and_line_breaks(text: str, id: str) -> None:
    assert found(text)[0] == id


@pytest.mark.parametrize(
    "text", ["IndexError: list index out of range", "KeyError: 'text'", "my cat ate the cable", "你好"]
)
def test_a_message_that_is_not_known_is_not_explained(text: str) -> None:
    assert found(text) == []
    assert len(search.search(text).nearest) <= 3


def explain(text: str, *more: str) -> ExitCode:
    return doctor.run(config.load("doctor", [f"explain={text}", *more]))


def test_the_doctor_explains_a_pasted_traceback_from_the_command_line_or_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TRACEBACK.format(message=next(iter(ARTICLE)))
    assert explain(text) is ExitCode.COMPLETE
    printed = capsys.readouterr().out
    assert printed.startswith("C30: ")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert explain("-") is ExitCode.COMPLETE
    assert capsys.readouterr().out == printed
    assert explain("Killed", "format=json") is ExitCode.COMPLETE
    assert [failure["id"] for failure in json.loads(capsys.readouterr().out)] == ["C22", "G1"]
    assert explain("Killed") is ExitCode.COMPLETE
    assert "It may also be:\n  G1: not enough main memory (hymt-batch doctor explain=G1)" in capsys.readouterr().out


def test_a_message_that_is_not_known_lists_the_nearest_three_and_exits_2() -> None:
    with pytest.raises(
        UsageError, match="no known failure has the message 'the tensors are on another device'"
    ) as raised:
        explain("the tensors are on another device")
    assert raised.value.exit_code is ExitCode.USAGE
    assert len(re.findall(r"^  [A-Z]\d+\w?: ", raised.value.message, re.MULTILINE)) == 3
    assert re.search(r"hymt-batch doctor explain=[A-Z]\d+", raised.value.fix)
    with pytest.raises(UsageError, match="none is similar"):
        explain("你好")
    with pytest.raises(UsageError, match="has no text"):
        explain("")
