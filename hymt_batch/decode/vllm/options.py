"""The options of vLLM's engine; its defaults decide nothing that could change a token or depends on free memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCK_TOKENS = 128
"""Tokens in a block of vLLM's cache on a CPU, at least as many as on a GPU."""


def cache_tokens(max_tokens: int) -> int:
    """Return the tokens for which vLLM needs memory: two blocks more, one half empty and one that is never used."""
    return max_tokens + 2 * BLOCK_TOKENS


def engine_args(
    folder: str, dtype: str, *, max_length: int, max_rows: int, cache_bytes: int, rope: Mapping[str, Any], eager: bool
) -> dict[str, Any]:
    """Return the fields of vLLM's EngineArgs for a model on one device.

    Args:
        folder: The model's files.
        dtype: The format of its weights.
        max_length: Tokens of the longest row.
        max_rows: Rows decoded at once.
        cache_bytes: Bytes of keys and values on a device.
        rope: See `rope_overrides`.
        eager: False to compile the network and capture its steps.
    """
    return {
        "model": folder,
        "dtype": dtype,
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,  # it would change the shapes of prefills, and so the rounding
        "async_scheduling": False,
        "max_model_len": max_length,
        "max_num_seqs": max_rows,
        "kv_cache_memory_bytes": cache_bytes,
        "gpu_memory_utilization": 0.5,  # of a GPU that must be free; how much is used is set above
        "enforce_eager": eager,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **({"hf_overrides": dict(rope)} if rope else {}),
    }
