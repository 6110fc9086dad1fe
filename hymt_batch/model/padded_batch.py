"""16 fixed prompts of unequal length, and a left-padded batch that is decoded greedily step by step.

Used to compare two attention implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hymt_batch.model import transformers_compat
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

NUM_ROWS = 16

_INSTRUCTION = "Translate the following segment into French, without additional explanation.\n\n"
_SENTENCES = (
    "It is raining.",
    "The ferry to the island leaves at half past nine; tickets are sold on board, in cash only.",
    "你好，世界！今天下午有小雨，气温二十度左右，请带上雨伞。",
    "Please switch the machine off before you clean it.",
    "Der Zug nach Hamburg fährt heute von Gleis 7, etwa 12 Minuten später als geplant.",
    "She had not expected an answer, and so she read the letter twice.",
    "In 2019 the museum counted 1,204,000 visitors, more than in any year before.",
    "明日の会議は午後三時からです。",
    "Light snow is expected in the mountains on Sunday, with a fresh wind from the north-east.",
    "No.",
    "The committee postponed its decision, since two of the five reports were not there yet.",
    "Le musée est fermé le mardi.",
    "Whoever finds the key may keep what is in the box.",
    "Напишите нам, если у вас остались вопросы.",
    "Stir the flour into the cold milk, add the eggs one by one, and let the dough rest for an hour.",
    "Prices include taxes.",
)


def texts() -> list[str]:
    """Return NUM_ROWS texts of 1 to 6 sentences."""
    num = len(_SENTENCES)
    return [" ".join(_SENTENCES[(row + n) % num] for n in range(1 + row * 5 % 6)) for row in range(NUM_ROWS)]


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of the rows, with the same prefix and suffix as every prompt."""
    bodies = tokenizer.encode([_INSTRUCTION + text for text in texts()])
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in bodies]


class PaddedBatch:
    """A left-padded batch that runs through the network as in `generate`: same attention, masks and cache."""

    def __init__(self, network: Any, rows: Sequence[Sequence[int]], pad: int, device: str) -> None:
        import torch
        from transformers import DynamicCache

        self.network, self.cache, self.cache_kwarg = (
            network,
            DynamicCache(),
            transformers_compat.cache_argument(network),
        )
        width = max(map(len, rows))
        ids = [[pad] * (width - len(row)) + list(row) for row in rows]
        seen = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        self.ids = torch.tensor(ids, device=device)
        self.mask = torch.tensor(seen, device=device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    def next_logits(self) -> Tensor:
        import torch

        output = self.network(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_kwarg: self.cache},
        )
        logits: Tensor = output.logits[:, -1].float()
        self.ids = logits.argmax(-1, keepdim=True).to(self.ids.device)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        self.positions = self.positions[:, -1:] + 1
        return logits
