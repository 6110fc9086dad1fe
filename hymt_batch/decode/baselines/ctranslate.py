"""CTranslate2 with a made-up network's own weights, read as those of a Qwen3, since it has no loader for this one.

Qwen3 norms queries and keys before their turn, a Hunyuan after it. A turn keeps lengths, so both are the same where
the norms scale by one throughout, as a made-up network's do. float32 on the CPU only.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from typing import Any

from hymt_batch.decode.baselines import gguf_file
from hymt_batch.decode.benchmark import Engine, Workload
from hymt_batch.decode.sequence import shared_prefix
from hymt_batch.model.prepare import LoadedModel


def ctranslate2_engine(hymt: LoadedModel, max_rows: int, num_threads: int) -> Engine:
    """CTranslate2's engine over batches sorted by length, the common start cached, each row ended at its limit.

    Raises:
        ImportError: ctranslate2 is not installed.
        RuntimeError: It makes rows of other lengths than asked for.
    """
    import ctranslate2

    with tempfile.TemporaryDirectory(prefix="hymt-bench-") as folder:
        _write_model(hymt.network, folder)
        made = ctranslate2.Generator(
            folder, device="cpu", compute_type="float32", inter_threads=1, intra_threads=num_threads
        )
    held = [made]
    del made

    def run(work: Workload) -> list[list[int]]:
        common = shared_prefix(work.prompts)
        start = [str(token) for token in work.prompts[0][:common]]
        order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
        made: list[list[int]] = [[] for _ in order]
        for first in range(0, len(order), max_rows):
            group = order[first : first + max_rows]
            longest = max(work.output_lengths[n] for n in group)
            results = held[0].generate_batch(
                [[str(token) for token in work.prompts[n][common:]] for n in group],
                static_prompt=start or None,
                max_length=longest,
                end_token=[],  # rows end at their limits alone
                include_prompt_in_result=False,
                callback=_length_callback([work.output_lengths[n] for n in group]),
            )
            made_here = [list(one.sequences_ids[0]) for one in results]
            if [len(ids) for ids in made_here] != [work.output_lengths[n] for n in group]:
                raise RuntimeError("CTranslate2 made rows of other lengths than asked for")
            for number, ids in zip(group, made_here, strict=True):
                made[number] = ids
        return made

    weakref.finalize(run, held.clear)  # its threads end before the interpreter does
    return run


def _length_callback(limits: list[int]) -> Callable[[Any], bool]:
    """What CTranslate2 asks after each token: whether its row has ended."""
    made = [0] * len(limits)

    def ended(step: Any) -> bool:
        made[step.batch_id] += 1
        return bool(made[step.batch_id] >= limits[step.batch_id])

    return ended


def _write_model(network: Any, folder: str) -> None:
    """Write a Hunyuan network as CTranslate2's Qwen3.

    Raises:
        ValueError: Its norms of queries and keys scale, so that it is no Qwen3.
    """
    import torch
    from ctranslate2.converters.transformers import Qwen3Loader
    from transformers import AutoModelForCausalLM, Qwen3Config

    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    )  # fmt: skip
    config = network.config
    base = gguf_file.rope_base(config)
    same = Qwen3Config(
        **{name: getattr(config, name) for name in names},
        rope_theta=base,  # transformers 4 reads this one
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    weights = {}
    for name, weight in network.state_dict().items():
        if ".query_layernorm." in name or ".key_layernorm." in name:
            if not bool((weight == 1).all()):
                raise ValueError("the network's norms of queries and keys scale, which a Qwen3 does before the turn")
            name = name.replace("query_layernorm", "q_norm").replace("key_layernorm", "k_norm")
        weights[name] = weight
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(same, dtype=torch.float32)
    made.load_state_dict(weights, assign=True)
    made.eval().requires_grad_(False)
    spec = Qwen3Loader().get_model_spec(made)
    spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config.rms_norm_eps
    spec.validate()
    spec.optimize()
    spec.save(folder)
