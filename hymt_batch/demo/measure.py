"""Measure the demo model: translate held-out examples with transformers alone, and compare them with the right answers.

The translations here are the reference for other implementations. Does not know jobs, configuration or devices.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.demo import example

MIN_EXACT_SHARE = 0.99
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Exactness:
    """How many of `num_rows` held-out examples were translated exactly."""

    kind: str
    tgt_lang: str
    dtype: str
    num_exact: int
    num_rows: int

    @property
    def share(self) -> float:
        return self.num_exact / self.num_rows


def measure(
    folder: Path,
    *,
    num_rows: int = 100,
    seed: int = 1,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    kinds: Sequence[str] = example.KINDS,
) -> list[Exactness]:
    """Translate held-out examples greedily in left-padded batches and compare them with the right answers."""
    results = []
    for dtype, kind in itertools.product(dtypes, kinds):
        examples = example.sample(kind, seed, num_rows)
        for tgt_lang in examples[0].targets:
            outputs = answer(folder, [row.prompt(tgt_lang) for row in examples], dtype=dtype)
            num_exact = sum(output == row.answer(tgt_lang) for output, row in zip(outputs, examples, strict=True))
            results.append(Exactness(kind, tgt_lang, dtype, num_exact, num_rows))
    return results


def translate(
    folder: Path,
    texts: Sequence[str],
    tgt_lang: str,
    *,
    dtype: str = "float32",
    batch_size: int = 50,
    in_chinese: bool | None = None,
) -> list[str]:
    """Translate texts under the card's plain prompt; see `answer`."""
    prompts = [example.prompt(text, tgt_lang, in_chinese=in_chinese) for text in texts]
    return answer(folder, prompts, dtype=dtype, batch_size=batch_size)


def answer(folder: Path, prompts: Sequence[str], *, dtype: str = "float32", batch_size: int = 50) -> list[str]:
    """Answer prompts greedily on the CPU with transformers alone; the reference for other implementations."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config = greedy
    turns = [render(tokenizer, prompt) for prompt in prompts]
    outputs: list[str] = []
    for start in range(0, len(turns), batch_size):
        rows = tokenizer(
            turns[start : start + batch_size],
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            tokens = model.generate(**rows, generation_config=greedy)
        translations = tokens[:, rows["input_ids"].shape[1] :]
        outputs += tokenizer.batch_decode(translations, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return outputs


def render(tokenizer: Any, user: str) -> str:
    """Return the prompt of a user turn, by the chat template."""
    messages = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
