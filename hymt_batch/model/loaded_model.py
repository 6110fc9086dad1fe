"""A model with its weights, as loading hands it to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.device_map.placement import Placement
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hymt_batch.model.attention import AttentionComparison


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model with everything that the engine needs."""

    network: Any  # transformers' HunYuanDenseV1ForCausalLM, in evaluation mode
    tokenizer: Tokenizer
    device: str  # device of the input tokens
    dtype: str
    max_context: int  # tokens of prompt and translation together
    cache_bytes_per_token: int  # keys and values of one token over all layers
    vocab_size: int
    free_bytes: int  # memory left for keys and values of the whole network, after loading
    placement: Placement | None = None
    canary_difference: float = 0.0  # between batched and single canaries, as a share of the logits' spread
    attention_check: AttentionComparison | None = None  # with torch's math backend; None if not compared
