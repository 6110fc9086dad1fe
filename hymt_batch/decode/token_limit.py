"""The limit of new tokens of a segment: what a translation may cost, known before it is decoded."""

from __future__ import annotations

from hymt_batch import languages
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.records import Prompt


def max_new_tokens(settings: DecodeConfig, max_context: int, prompt: Prompt) -> int:
    """Return a segment's limit of new tokens, from its source length, its language's expansion and the context.

    Args:
        settings: The settings.
        max_context: Limit of prompt and translation together, in tokens.
        prompt: The segment.
    """
    expansion = languages.get(prompt.tgt_lang).expansion
    limit = int(prompt.num_source_tokens * settings.new_tokens_ratio * expansion) + settings.new_tokens_extra
    return max(1, min(limit, settings.max_new_tokens, max_context - len(prompt.ids)))
