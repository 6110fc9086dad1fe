"""Our planner gives the placements of transformers 5.23, and knows a network's size without building it."""

from __future__ import annotations

import importlib.metadata
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.device_map import network_spec, planner, table
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.settings import Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import files, shapes

GIB = 1 << 30
SMALL, LARGE = network_spec.from_config(shapes.SMALL), network_spec.from_config(shapes.LARGE)
OF_5 = int(importlib.metadata.version("transformers").split(".")[0]) >= 5
needs_5 = pytest.mark.skipif(
    not OF_5, reason="our planner equals that of transformers 5; transformers 4.56 splits differently"
)

TINY = {
    **shapes.SMALL,
    "num_hidden_layers": 5,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
}
TINY_SPARSE = {
    **shapes.SPARSE,
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
}
CONFIGS = {
    "1.8b": shapes.SMALL,
    "7b": shapes.LARGE,
    "30b": shapes.SPARSE,
    "tiny": TINY,
    "untied": {**TINY, "tie_word_embeddings": False, "attention_bias": True},
    "sparse": TINY_SPARSE,
}


def on_meta(config: dict[str, Any]) -> Any:
    """Return the real network on the meta device, without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)


def gibs(**limits: float) -> dict[str, int]:
    """Return limits in bytes from GiB; g0=24 is the limit of cuda:0."""
    return {key.replace("g", "cuda:") if key[0] == "g" else key: int(value * GIB) for key, value in limits.items()}


def layers(network: NetworkSpec, device_map: dict[str, str]) -> list[tuple[str, int]]:
    """Return the number of decoder layers on each device, in the order of the devices."""
    counts: dict[str, int] = {}
    for layer in network.layers:
        device = planner.device_of(device_map, layer.name)
        assert device
        counts[device] = counts.get(device, 0) + 1
    return list(counts.items())


GOLDEN: list[tuple[str, NetworkSpec, str, dict[str, int], list[tuple[str, int]]]] = [
    ("one 24", SMALL, "auto", gibs(g0=24, cpu=64), [("cuda:0", 32)]),
    ("one 3.7", SMALL, "auto", gibs(g0=3.7, cpu=64), [("cuda:0", 32)]),
    ("one 3.2", SMALL, "auto", gibs(g0=3.2, cpu=64), [("cuda:0", 29), ("cpu", 3)]),
    ("one 2", SMALL, "auto", gibs(g0=2, cpu=64), [("cuda:0", 16), ("cpu", 16)]),
    ("one 2, cpu not named", SMALL, "auto", gibs(g0=2), [("cuda:0", 16), ("disk", 16)]),
    ("one 2, cpu of 1", SMALL, "auto", gibs(g0=2, cpu=1), [("cuda:0", 16), ("cpu", 10), ("disk", 6)]),
    ("no card, cpu of 2", SMALL, "auto", gibs(cpu=2), [("cpu", 16), ("disk", 16)]),
    ("no card", SMALL, "auto", gibs(cpu=32), [("cpu", 32)]),
    ("two 24 auto", SMALL, "auto", gibs(g0=24, g1=24, cpu=64), [("cuda:0", 18), ("cuda:1", 14)]),
    ("two 24 balanced", SMALL, "balanced", gibs(g0=24, g1=24, cpu=64), [("cuda:0", 18), ("cuda:1", 14)]),
    ("two 24 low", SMALL, "balanced_low_0", gibs(g0=24, g1=24, cpu=64), [("cuda:1", 32)]),
    ("two 24 sequential", SMALL, "sequential", gibs(g0=24, g1=24, cpu=64), [("cuda:0", 32)]),
    (
        "four 24 auto",
        SMALL,
        "auto",
        gibs(g0=24, g1=24, g2=24, g3=24, cpu=64),
        [("cuda:0", 9), ("cuda:1", 15), ("cuda:2", 8)],
    ),
    (
        "four 24 low",
        SMALL,
        "balanced_low_0",
        gibs(g0=24, g1=24, g2=24, g3=24, cpu=64),
        [("cuda:1", 13), ("cuda:2", 18), ("cuda:3", 1)],
    ),
    ("80 and 4", SMALL, "auto", gibs(g0=80, g1=4, cpu=64), [("cuda:0", 18), ("cuda:1", 14)]),
    ("80 and 4 low", SMALL, "balanced_low_0", gibs(g0=80, g1=4, cpu=64), [("cuda:1", 32)]),
    ("80 and 4 sequential", SMALL, "sequential", gibs(g0=80, g1=4, cpu=64), [("cuda:0", 32)]),
    ("0.6 and 4", SMALL, "auto", gibs(g0=0.6, g1=4, cpu=64), [("cuda:1", 32)]),
    ("0.3 and 4", SMALL, "auto", gibs(g0=0.3, g1=4, cpu=64), [("cuda:1", 32)]),
    ("two 8", SMALL, "auto", gibs(g0=8, g1=8, cpu=64), [("cuda:0", 18), ("cuda:1", 14)]),
    ("two 2", SMALL, "auto", gibs(g0=2, g1=2, cpu=64), [("cuda:0", 16), ("cuda:1", 16)]),
    (
        "two 2 low",
        SMALL,
        "balanced_low_0",
        gibs(g0=2, g1=2, cpu=64),
        [("cuda:0", 8), ("cuda:1", 22), ("cpu", 2)],
    ),
    ("7b one 12", LARGE, "auto", gibs(g0=12, cpu=64), [("cuda:0", 26), ("cpu", 6)]),
    ("7b one 16", LARGE, "auto", gibs(g0=16, cpu=64), [("cuda:0", 32)]),
    ("7b two 8", LARGE, "auto", gibs(g0=8, g1=8, cpu=64), [("cuda:0", 16), ("cuda:1", 16)]),
    ("7b two 8 sequential", LARGE, "sequential", gibs(g0=8, g1=8, cpu=64), [("cuda:0", 16), ("cuda:1", 16)]),
    (
        "7b two 8 low",
        LARGE,
        "balanced_low_0",
        gibs(g0=8, g1=8, cpu=64),
        [("cuda:0", 11), ("cuda:1", 19), ("cpu", 2)],
    ),
    ("7b two 12", LARGE, "auto", gibs(g0=12, g1=12, cpu=64), [("cuda:0", 16), ("cuda:1", 16)]),
    ("7b two 12 sequential", LARGE, "sequential", gibs(g0=12, g1=12, cpu=64), [("cuda:0", 26), ("cuda:1", 6)]),
    (
        "7b two 12 low",
        LARGE,
        "balanced_low_0",
        gibs(g0=12, g1=12, cpu=64),
        [("cuda:0", 1), ("cuda:1", 29), ("cpu", 2)],
    ),
    ("7b two 24", LARGE, "auto", gibs(g0=24, g1=24, cpu=64), [("cuda:0", 16), ("cuda:1", 16)]),
    ("7b two 24 low", LARGE, "balanced_low_0", gibs(g0=24, g1=24, cpu=64), [("cuda:1", 32)]),
    ("7b two 24 sequential", LARGE, "sequential", gibs(g0=24, g1=24, cpu=64), [("cuda:0", 32)]),
    (
        "7b four 24",
        LARGE,
        "auto",
        gibs(g0=24, g1=24, g2=24, g3=24, cpu=64),
        [("cuda:0", 8), ("cuda:1", 11), ("cuda:2", 11), ("cuda:3", 2)],
    ),
    (
        "7b four 24 low",
        LARGE,
        "balanced_low_0",
        gibs(g0=24, g1=24, g2=24, g3=24, cpu=64),
        [("cuda:1", 12), ("cuda:2", 14), ("cuda:3", 6)],
    ),
]


@pytest.mark.parametrize(
    ("network", "strategy", "limits", "expected"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN]
)
def test_golden_placements_are_reproduced(
    network: NetworkSpec, strategy: str, limits: dict[str, int], expected: list[tuple[str, int]]
) -> None:
    device_map = planner.infer_device_map(network, Strategy(strategy), limits, 2)
    assert layers(network, device_map) == expected
    if len(set(device_map.values())) > 1:
        first = planner.device_of(device_map, "model.embed_tokens")
        assert planner.device_of(device_map, "lm_head") == first, "tied weights are on one device"
        assert planner.device_of(device_map, "model.norm") == expected[-1][0]


def test_parameters_and_bytes_match_the_model_cards() -> None:
    assert SMALL.num_parameters == 1_791_080_448
    assert LARGE.num_parameters == 7_504_568_320
    assert SMALL.module_bytes(2)["model.layers.0"] == 96_477_696
    assert LARGE.module_bytes(2)["model.layers.31"] == 436_224_512
    assert SMALL.module_bytes(2)["model.embed_tokens"] == 494_870_528
    assert SMALL.cache_bytes_per_token(2) == 64 << 10
    assert LARGE.cache_bytes_per_token(2) == 128 << 10
    assert network_spec.from_config(shapes.SPARSE).cache_bytes_per_token(2) == 96 << 10


@pytest.mark.core
@pytest.mark.parametrize("name", ["1.8b", "7b", "tiny", "untied"])
def test_modules_have_the_sizes_of_the_real_network(name: str) -> None:
    config = CONFIGS[name]
    real, ours = on_meta(config), network_spec.from_config(config)
    stored = {tensor.name: tensor.shape for tensor in ours.root.all_tensors() if tensor.stored}
    assert {key: tuple(weight.shape) for key, weight in real.state_dict().items()} == stored
    assert ours.num_parameters == sum(weight.numel() for weight in real.parameters())


@needs_5
@pytest.mark.parametrize("name", ["30b", "sparse"])
def test_a_mixture_of_experts_has_the_sizes_of_the_real_network(name: str) -> None:
    real, ours = on_meta(CONFIGS[name]), network_spec.from_config(CONFIGS[name])
    stored = {tensor.name: tensor.shape for tensor in ours.root.all_tensors() if tensor.stored}
    assert {key: tuple(weight.shape) for key, weight in real.state_dict().items()} == stored


@needs_5
@pytest.mark.parametrize("name", CONFIGS)
def test_every_strategy_places_as_transformers_does(name: str) -> None:
    from transformers.integrations.accelerate import _get_device_map

    real, ours = on_meta(CONFIGS[name]), network_spec.from_config(CONFIGS[name])
    rng, total, differing, compared = random.Random(20261124), ours.num_bytes(2), [], 0
    for _ in range(40):
        num_gpus = rng.choice([0, 1, 1, 2, 3, 4])
        limits: dict[int | str, int] = {
            gpu: int(total * rng.choice([rng.random() * 1.5, rng.random() * 0.2, 3])) for gpu in range(num_gpus)
        }
        if rng.random() < 0.7 or not num_gpus:
            limits["cpu"] = int(total * rng.choice([rng.random(), 5, rng.random() * 0.2]))
        for strategy in ("auto", "balanced", "balanced_low_0", "sequential"):
            reference = _get_device_map(real, strategy, dict(limits), None)
            max_memory = {f"cuda:{key}" if isinstance(key, int) else key: value for key, value in limits.items()}
            device_map = planner.infer_device_map(ours, Strategy(strategy), max_memory, 2)
            compared += 1
            if device_map != {
                key: f"cuda:{value}" if isinstance(value, int) else value for key, value in reference.items()
            }:
                differing.append((strategy, limits))
    assert compared == 160
    assert not differing


def test_gpus_that_are_not_numbered_from_0_are_placed_where_transformers_fails() -> None:
    # C15b: balanced_low_0 of transformers raises a bare KeyError for max_memory={1: ..., 2: ...}
    device_map = planner.infer_device_map(SMALL, Strategy.balanced_low_0, gibs(g1=24, g2=24), 2)
    assert layers(SMALL, device_map) == [("cuda:2", 32)]


@pytest.mark.parametrize("missing", ["num_hidden_layers", "hidden_size", "head_dim", "vocab_size"])
def test_a_config_without_a_size_is_refused_naming_the_field(missing: str) -> None:
    config = {key: value for key, value in shapes.SMALL.items() if key != missing}
    with pytest.raises(PreflightError, match=f"{missing} is missing") as raised:
        network_spec.from_config(config)
    assert raised.value.id == ("B12" if missing == "head_dim" else "B24")
    with pytest.raises(PreflightError, match=f"{missing} is 'x'"):
        network_spec.from_config({**config, missing: "x"})
    with pytest.raises(PreflightError, match="is not a multiple"):
        network_spec.from_config({**shapes.SMALL, "num_key_value_heads": 3})


def test_a_split_is_shown_as_ranges_of_layers() -> None:
    device_map = planner.infer_device_map(SMALL, Strategy.auto, gibs(g0=24, g1=24), 2)
    groups = table.layer_groups(device_map, SMALL, 2)
    assert [(group.modules, group.device) for group in groups] == [
        ("model.embed_tokens, lm_head", "cuda:0"),
        ("model.layers.0-17", "cuda:0"),
        ("model.layers.18-31", "cuda:1"),
        ("model.norm, model.rotary_emb", "cuda:1"),
    ]
    assert sum(group.weight_bytes for group in groups) == SMALL.num_bytes(2)
    assert table.compact_map({"": "cuda:1"}, SMALL) == {"": "cuda:1"}
    assert table.compact_map(device_map, SMALL)["model.layers.18-31"] == "cuda:1"


def test_packed_weights_count_as_they_are_stored() -> None:
    packed = shapes.published_model("tencent/HY-MT1.5-1.8B-GPTQ-Int4")
    assert packed
    stored = packed.network.with_stored_tensors(
        {name: (files.element_bytes(dtype), shape) for name, (dtype, shape) in packed.tensors.items()}
    )
    assert abs(stored.num_bytes(2) - packed.num_bytes) < 1024  # apart from the RoPE buffers
    assert stored.num_bytes(2) < 0.4 * SMALL.num_bytes(2)
    assert len(stored.layers) == 32


def test_a_7b_plan_takes_seconds_less_than_1_gib_and_no_torch() -> None:
    program = (
        "import json, sys, time; from pathlib import Path; began = time.monotonic();"
        "from jobs import plan; from hymt_batch import config;"
        "job = config.load('plan', ['model=hy_mt1.5_7b', 'device_map=auto', 'devices=[12GiB,12GiB]']);"
        "report = plan.plan(job);"
        "print(json.dumps([report.parameters, time.monotonic() - began,"
        # not ru_maxrss: a new process starts with the ru_maxrss of the process that started it
        "int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]) * 1024,"
        "[name for name in ('torch', 'transformers', 'accelerate') if name in sys.modules]]))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    parameters, seconds, peak_bytes, imported = json.loads(completed.stdout)
    assert parameters == 7_504_568_320
    assert seconds < 10
    assert peak_bytes < GIB
    assert imported == []
