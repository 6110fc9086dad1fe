"""Parsing the output of nvidia-smi, from fake programs of that name, and CUDA_VISIBLE_DEVICES as CUDA does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hymt_batch.model import nvidia
from hymt_batch.model.nvidia import Gpu, NvidiaInfo, hides_all_gpus, visible_gpus

A, B, C = (f"GPU-{letter * 8}-1111-2222-3333-444444444444" for letter in "abc")
SLICE = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
ROW = f"0, {A}, NVIDIA H100 80GB HBM3, 81559, 81003, 9.0, 550.54.15\n"
PAGE = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |\n"
QUERY = "--query-gpu=index,uuid,name,memory.total,memory.free,compute_cap,driver_version --format=csv,noheader,nounits"


class Smi:
    """A fake program `nvidia-smi`, first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        self.outputs(rows=ROW, page=PAGE)

    def outputs(self, *, rows: str, page: str = "", listing: str = "", code: int = 0) -> None:
        for name, text in (("rows", rows), ("page", page), ("listing", listing)):
            (self.folder / name).write_text(text)
        self.runs(
            f'echo "$@" >> {self.folder}/asked\n'
            f'case "$1" in\n--query*) cat {self.folder}/rows; exit {code};;\n'
            f"-L) cat {self.folder}/listing;;\n*) cat {self.folder}/page;;\nesac\n"
        )

    def runs(self, script: str) -> None:
        program = self.folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)

    def calls(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    return Smi(tmp_path, monkeypatch)


def query() -> NvidiaInfo:
    info = nvidia.query()
    assert info is not None
    return info


def test_driver_cuda_and_cards_are_read(smi: Smi) -> None:
    card = Gpu(0, A, "NVIDIA H100 80GB HBM3", 81559 << 20, 81003 << 20, (9, 0))
    assert query() == NvidiaInfo("550.54.15", "12.4", (card,))
    assert smi.calls() == [QUERY, ""]


def test_without_nvidia_smi_the_query_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.query() is None


@pytest.mark.parametrize("code", [6, 9, 255])
def test_a_failing_nvidia_smi_gives_none(smi: Smi, code: int) -> None:
    smi.outputs(rows="No devices were found\n", code=code)
    assert nvidia.query() is None


def test_an_nvidia_smi_that_is_not_a_program_gives_none(smi: Smi, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF, but not really")
    assert nvidia.query() is None


def test_a_hanging_nvidia_smi_is_abandoned_after_the_timeout(smi: Smi) -> None:
    smi.runs("exec sleep 60\n")
    start = time.monotonic()
    assert nvidia.query(timeout_s=0.2) is None
    assert time.monotonic() - start < 10


def test_the_cuda_version_of_a_newer_driver_is_read(smi: Smi) -> None:
    smi.outputs(rows=ROW, page="| NVIDIA-SMI 610.43.02    KMD Version: 610.43.02    CUDA UMD Version: 13.3     |\n")
    assert query().cuda == "13.3"


@pytest.mark.parametrize("page", ["", "| CUDA Version: N/A |", "| CUDA Version: ERR! |"])
def test_a_cuda_version_that_is_not_reported_is_empty(smi: Smi, page: str) -> None:
    smi.outputs(rows=ROW, page=page)
    assert query().cuda == ""


def test_an_old_driver_without_compute_cap_is_queried_again_without_it(smi: Smi, tmp_path: Path) -> None:
    (tmp_path / "old").write_text(f"0, {A}, Tesla K80, 11441, 11000, 450.80.02\n")
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    smi.runs(f'case "$1" in\n*compute_cap*) {refusal};;\n--query*) cat {tmp_path}/old;;\nesac\n')
    assert query().gpus == (Gpu(0, A, "Tesla K80", 11441 << 20, 11000 << 20, None),)


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "[Unknown Error]", ""])
def test_a_value_that_a_card_does_not_report_is_unknown_and_not_an_error(smi: Smi, word: str) -> None:
    smi.outputs(rows=f"0, {A}, NVIDIA GB10, {word}, {word}, {word}, 580.1\n", page=PAGE)
    assert query().gpus == (Gpu(0, A, "NVIDIA GB10", 0, 0, None),)


def test_a_name_may_contain_commas(smi: Smi) -> None:
    smi.outputs(rows=f"3, {A}, Tesla, T4, revised, 15360, 15000, 7.5, 535.1\n", page=PAGE)
    (card,) = query().gpus
    assert (card.index, card.name, card.capability) == (3, "Tesla, T4, revised", (7, 5))


def test_lines_that_do_not_describe_a_card_are_skipped(smi: Smi) -> None:
    warning = "WARNING: gpu 0000:3B:00.0, infoROM, is, corrupted, at, several, places"
    smi.outputs(rows=f"{warning}\n{ROW}  MIG 1g.10gb Device 0: (UUID: {SLICE})\n\n")
    assert [gpu.uuid for gpu in query().gpus] == [A]


def test_mig_slices_are_queried_only_if_the_summary_shows_some(smi: Smi) -> None:
    listing = f"GPU 0: NVIDIA A100 (UUID: {A})\n  MIG 1g.5gb      Device  0: (UUID: {SLICE})\nGPU 1: X (UUID: {B})\n"
    smi.outputs(
        rows=ROW + ROW.replace("0, ", "1, ", 1).replace(A, B), page=f"{PAGE}| MIG devices: |\n", listing=listing
    )
    assert [gpu.mig_uuids for gpu in query().gpus] == [(SLICE,), ()]
    assert smi.calls() == [QUERY, "", "-L"]


CARDS = [
    Gpu(0, A, "H100", 1, 1, (9, 0), (SLICE, "MIG-d0000000-0000")),
    Gpu(1, B, "H100", 1, 1, (9, 0)),
    Gpu(2, C, "T4", 1, 1, (7, 5)),
]


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (None, [0, 1, 2]),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("+1", [1]),
        (B, [1]),
        ("GPU-c", [2]),
        (f"{C},GPU-a", [2, 0]),
        (SLICE, [0]),
        ("MIG-c6d4", [0]),
        (f"MIG-{A}/1/0", [0]),
    ],
)
def test_a_valid_value_leaves_its_gpus_visible_in_its_order(value: str | None, left: list[int]) -> None:
    visible, problem = visible_gpus(CARDS, value)
    assert ([gpu.index for gpu in visible], problem) == (left, "")
    assert not hides_all_gpus(value)


@pytest.mark.parametrize(
    ("value", "left", "expected"),
    [
        ("", [], "it is empty"),
        ("  ", [], "it is empty"),
        ("-1", [], "ends the list: no GPU is left"),
        ("NoDevFiles", [], "what SLURM sets for a job without a GPU"),
        ("all", [], "is not a GPU number"),
        ("cuda:0", [], "is not a GPU number"),
        ("[0,1]", [], "is not a GPU number"),
        ("0,2,-1,1", [0, 2], "'-1' ends the list: it and the entries after it are ignored"),
        ("1,3,0", [1], "'3' is not a GPU of this machine, which has 3"),
        ("7", [], "is not a GPU of this machine"),
        ("0,", [0], "an empty entry"),
        ("1;2", [1], "'1;2' is read as 1"),
        ("0,0", [], "a second time"),
        ("0,1,0", [], "a second time"),
        ("GPU-a,GPU-aa", [], "a second time"),
        ("GPU-", [], "is a prefix of the UUIDs of 3 GPUs"),
        ("GPU-9", [], "matches no GPU UUID"),
        (f"{A},GPU-9,{B}", [0], "matches no GPU UUID"),
        (f"{A},1", [0], "does not start with GPU- like the first entry"),
        (f"0,{B}", [0], "is not a GPU number"),
        ("MIG-9", [], "is not a MIG slice"),
        (f"{SLICE},MIG-d0000000-0000", [0], "only one MIG slice per process"),
    ],
)
def test_an_unusual_value_is_parsed_as_cuda_does_and_the_problem_is_named(
    value: str, left: list[int], expected: str
) -> None:
    visible, problem = visible_gpus(CARDS, value)
    assert [gpu.index for gpu in visible] == left
    assert expected in problem


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles", "all", "none", ",0"])
def test_a_value_that_hides_every_gpu_is_recognised_without_querying_the_machine(value: str) -> None:
    assert hides_all_gpus(value)
    assert visible_gpus(CARDS, value)[0] == []


NUMBERS = [
    "0",
    "2,0",
    "-1",
    "0,2,-1,1",
    "1,3,0",
    "0,0",
    "0,1,0",
    "0,",
    "all",
    "NoDevFiles",
    "1;2",
    "+1",
    " 1 , 2 ",
    ",0",
]


@pytest.mark.parametrize("value", NUMBERS)
def test_gpu_numbers_are_parsed_as_torch_parses_them(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    parse = getattr(torch.cuda, "_parse_visible_devices", None)
    if parse is None:
        pytest.skip("this torch does not parse CUDA_VISIBLE_DEVICES itself")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    expected = []
    for index in parse():
        if index >= len(CARDS):
            break
        expected.append(index)
    assert [gpu.index for gpu in visible_gpus(CARDS, value)[0]] == expected
