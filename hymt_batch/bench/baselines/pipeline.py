"""Baseline: transformers' text-generation pipeline; its tokenizer has one word for each token id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext
from hymt_batch.decode.request import Request


def open_engine(context: EngineContext) -> PipelineEngine:
    return PipelineEngine(context)


class PipelineEngine(FixedLengthEngine):
    """One pipeline; it decodes batches in the order of the requests."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers

        hymt = context.load()
        words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(hymt.vocab_size)}, unk_token="w0"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer: Any = transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="w0", padding_side="left", clean_up_tokenization_spaces=False
        )
        self._pipe: Any = transformers.pipeline("text-generation", model=hymt.network, tokenizer=tokenizer)

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        import torch
        import transformers

        max_rows = self.context.budget.max_rows
        output_lengths = [request.max_new_tokens for request in requests]
        limits = [output_lengths[start : start + max_rows] for start in range(0, len(output_lengths), max_rows)]
        lengths: list[int] = []  # padded prompt length of each batch
        over = [True]  # True once the current batch has ended

        def ended(ids: Any, scores: Any, **kwargs: Any) -> Any:
            if over[0]:
                lengths.append(ids.shape[1] - 1)
            rows = torch.tensor(limits[len(lengths) - 1], device=ids.device) <= ids.shape[1] - lengths[-1]
            over[0] = bool(rows.all())
            return rows

        outputs = self._pipe(
            [" ".join(f"w{token}" for token in request.prompt_ids) for request in requests],
            batch_size=max_rows,
            return_tensors=True,
            do_sample=False,
            max_new_tokens=max(output_lengths),
            stopping_criteria=transformers.StoppingCriteriaList([ended]),
        )
        rows = []
        for index, output in enumerate(outputs):
            padded = lengths[index // max_rows]
            rows.append(list(output[0]["generated_token_ids"])[padded : padded + output_lengths[index]])
        return rows
