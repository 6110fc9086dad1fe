"""Try translations with a hard flag again. Does not decode: the caller passes a function that does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hymt_batch.check.checks import HARD_FLAGS, flag_all
from hymt_batch.check.settings import CheckConfig
from hymt_batch.records import Prompt, Translation


def flag_and_retry(
    translations: Sequence[Translation],
    decode_again: Callable[[Sequence[Prompt], int], list[Translation]],
    config: CheckConfig,
) -> list[Translation]:
    """Flag the translations of a part and retry those with a hard flag.

    Args:
        translations: One translation per prompt.
        decode_again: Decodes prompts with the seed of a given attempt, from 1.
        config: The limits.

    Returns:
        One translation per prompt, in order: the first attempt without a hard flag, or attempt 0 if all have one.
    """
    results = flag_all(translations, config)
    for attempt in range(1, config.max_attempts):
        retry_indices = [index for index, translation in enumerate(results) if HARD_FLAGS & set(translation.flags)]
        if not retry_indices:
            break
        retries = flag_all(decode_again([results[n].prompt for n in retry_indices], attempt), config)
        for index, retry in zip(retry_indices, retries, strict=True):
            if retry.finish_reason == "stop" and not HARD_FLAGS & set(retry.flags):
                results[index] = replace(retry, flags=(*retry.flags, "retried"))
    return results
