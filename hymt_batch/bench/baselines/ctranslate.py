"""Baseline: CTranslate2 with the weights of a random network, loaded as Qwen3, since it has no Hunyuan loader.

Qwen3 normalises queries and keys before the rotary embedding, Hunyuan after it. The rotation preserves lengths, so both
are the same if all norm weights are 1, as in a network with random weights. float32 on the CPU only.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from hymt_batch.bench.baselines import gguf_file
from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext, UnsupportedError
from hymt_batch.decode.request import Request
from hymt_batch.decode.sequence import shared_prefix


def open_engine(context: EngineContext) -> CTranslate2Engine:
    """Make the engine.

    Raises:
        ImportError: ctranslate2 is not installed.
        UnsupportedError: The network is on a GPU, or not in float32.
    """
    hymt = context.load()
    if hymt.device != "cpu":
        raise UnsupportedError(f"this benchmark runs it on the CPU only, not on {hymt.device}")
    if hymt.dtype != "float32":
        raise UnsupportedError(f"this benchmark runs it in float32 only, not in {hymt.dtype}")
    return CTranslate2Engine(context)


class CTranslate2Engine(FixedLengthEngine):
    """Batches sorted by length, with a cached common prefix; uses as many threads as torch."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        import ctranslate2
        import torch

        with tempfile.TemporaryDirectory(prefix="hymt-bench-") as folder:
            _write_model(context.load().network, folder)
            self._generators = [
                ctranslate2.Generator(
                    folder,
                    device="cpu",
                    compute_type="float32",
                    inter_threads=1,
                    intra_threads=torch.get_num_threads(),
                )
            ]
        weakref.finalize(self, self._generators.clear)  # its threads must end before the interpreter does

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `FixedLengthEngine`.

        Raises:
            RuntimeError: A row does not have the requested length.
        """
        common = shared_prefix([request.prompt_ids for request in requests])
        start = [str(token) for token in requests[0].prompt_ids[:common]]
        order = sorted(range(len(requests)), key=lambda n: (-len(requests[n].prompt_ids), n))
        tokens: list[list[int]] = [[] for _ in order]
        for first in range(0, len(order), self.context.budget.max_rows):
            group = order[first : first + self.context.budget.max_rows]
            limits = [requests[n].max_new_tokens for n in group]
            results = self._generators[0].generate_batch(
                [[str(token) for token in requests[n].prompt_ids[common:]] for n in group],
                static_prompt=start or None,
                max_length=max(limits),
                end_token=[],  # rows end only at their limits
                include_prompt_in_result=False,
                callback=_length_callback(limits),
            )
            batch_tokens = [list(result.sequences_ids[0]) for result in results]
            if [len(ids) for ids in batch_tokens] != limits:
                raise RuntimeError("CTranslate2 generated rows whose lengths differ from those requested")
            for index, ids in zip(group, batch_tokens, strict=True):
                tokens[index] = ids
        return tokens


def _length_callback(limits: list[int]) -> Callable[[Any], bool]:
    """Make the callback that CTranslate2 calls after each token; it returns True if the row has reached its limit."""
    num_tokens = [0] * len(limits)

    def ended(step: Any) -> bool:
        num_tokens[step.batch_id] += 1
        return bool(num_tokens[step.batch_id] >= limits[step.batch_id])

    return ended


def _write_model(network: Any, folder: str) -> None:
    """Write a Hunyuan network as a Qwen3 model of CTranslate2.

    Raises:
        ValueError: A norm weight of queries or keys is not 1, so that Qwen3 would compute something else.
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
    qwen_config = Qwen3Config(
        **{name: getattr(config, name) for name in names},
        rope_theta=base,  # read by transformers 4; version 5 reads rope_parameters
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    weights = {}
    for name, weight in network.state_dict().items():
        if ".query_layernorm." in name or ".key_layernorm." in name:
            if not bool((weight == 1).all()):
                raise ValueError(
                    "the norms of queries and keys have weights other than 1; Qwen3 applies them before the rotary "
                    "embedding"
                )
            name = name.replace("query_layernorm", "q_norm").replace("key_layernorm", "k_norm")
        weights[name] = weight
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(qwen_config, dtype=torch.float32)
    model.load_state_dict(weights, assign=True)
    model.eval().requires_grad_(False)
    spec = Qwen3Loader().get_model_spec(model)
    spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config.rms_norm_eps
    spec.validate()
    spec.optimize()
    spec.save(folder)
