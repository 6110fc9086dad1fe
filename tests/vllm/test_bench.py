"""The benchmark with a real vLLM: it races in a process of its own, and gives the tokens of the other engines."""

from __future__ import annotations

from hymt_batch import config
from jobs import bench
from tests.vllm.real_vllm import PYTHON, needs_vllm

pytestmark = needs_vllm


def test_vllm_takes_its_turn_and_gives_the_same_tokens() -> None:
    words = ["shape=demo", "segments=48", "rounds=2", "compare_rows=48", "num_threads=1"]
    figures = bench.bench(config.load("bench", [*words, "engines=[vllm]", f"vllm_python={PYTHON}"]))
    assert figures["left_out"] == {}
    assert figures["equal_rows"] == {"slots": "48/48", "vllm": "48/48"}
    assert [len(seconds) for seconds in figures["seconds"].values()] == [2, 2]
