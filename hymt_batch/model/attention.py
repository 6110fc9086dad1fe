"""One attention against another in the same batch: 64 greedy tokens of 16 left-padded rows of unequal length.

The canaries look at one token, and a kernel that is wrong in a few rows or behind some length shows later: here the
engine's own attention and torch's math back end, the plainest, decode side by side, each with keys and values of its
own. Run at every load where the whole model lies on GPUs; never run on one yet.

Source: pytorch#193893, "invisible to any check that does not generate more than a few tokens".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.errors import PreflightError
from hymt_batch.model import library
from hymt_batch.model.canary import TOLERANCE
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NUM_ROWS, NUM_TOKENS = 16, 64

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


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two attentions have in common."""

    tokens: int  # that both gave, over all rows
    parted: int  # rows that went apart at a near tie of two tokens
    difference: float  # largest of a logit, as a share of the spread of its row's logits


class DifferentError(Exception):
    """Two attentions disagree by more than rounding explains; the text says where."""


Steps = Callable[[], "Tensor"]
"""Greedy decoding of B rows: each call takes in the tokens of the last one, and gives the logits [B, V] of the next."""

Context = Callable[[], AbstractContextManager[Any]]


def texts() -> list[str]:
    """NUM_ROWS texts of 1 to 6 sentences."""
    num = len(_SENTENCES)
    return [" ".join(_SENTENCES[(row + n) % num] for n in range(1 + row * 5 % 6)) for row in range(NUM_ROWS)]


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of the rows, framed as every prompt is."""
    bodies = tokenizer.encode([_INSTRUCTION + text for text in texts()])
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in bodies]


class Padded:
    """One left-padded batch through the network, as `generate` runs it: its attention, its masks, its cache."""

    def __init__(self, network: Any, rows: Sequence[Sequence[int]], pad: int, device: str) -> None:
        import torch
        from transformers import DynamicCache

        self.network, self.cache, self.word = network, DynamicCache(), library.cache_word(network)
        width = max(map(len, rows))
        ids = [[pad] * (width - len(row)) + list(row) for row in rows]
        seen = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        self.ids = torch.tensor(ids, device=device)
        self.mask = torch.tensor(seen, device=device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    def logits(self) -> Tensor:
        import torch

        output = self.network(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            use_cache=True,
            logits_to_keep=1,
            **{self.word: self.cache},
        )
        logits: Tensor = output.logits[:, -1].float()
        self.ids = logits.argmax(-1, keepdim=True).to(self.ids.device)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        self.positions = self.positions[:, -1:] + 1
        return logits


@contextmanager
def math_kernel() -> Iterator[None]:
    """Inside, torch computes its scaled dot products by plain matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def math(network: Any) -> Iterator[None]:
    """Inside, the network attends by torch's math back end, whatever `model.attention` is."""
    before = network.config._attn_implementation
    network.config._attn_implementation = "sdpa"
    try:
        with math_kernel():
            yield
    finally:
        network.config._attn_implementation = before


def applies(devices: Iterable[str]) -> bool:
    """Whether the comparison is made at a load: where the whole model lies on GPUs."""
    return all(device.startswith("cuda") for device in devices)


def check(
    network: Any,
    tokenizer: Tokenizer,
    device: str,
    dtype: str,
    *,
    strict: bool = True,
    own: Context = nullcontext,
    reference: Context | None = None,
) -> Agreement | None:
    """Compare a loaded network's attention, as `generate` uses it, with the math back end.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Where tokens enter.
        dtype: Of the weights.
        strict: Refuse a difference; False only warns, for kinds whose rounding was never measured (experts, FP8).
        own: What the network's own attention runs in.
        reference: What it runs in to be compared with; None: the math back end.

    Returns:
        What they have in common; None where they disagree and it is only warned of.

    Raises:
        PreflightError: They disagree (E26); the message names the back end.
    """
    rows = prompts(tokenizer)

    def make() -> Steps:
        return Padded(network, rows, tokenizer.pad, device).logits

    name = f"model.attention={network.config._attn_implementation}"
    try:
        return compare(make, dtype, own, reference or (lambda: math(network)), f"{name} on {device}")
    except PreflightError as error:
        if strict:
            raise
        log.warning("%s", error)
        return None


def compare(make: Callable[[], Steps], dtype: str, own: Context, reference: Context, what: str) -> Agreement:
    """Decode the same rows twice, side by side.

    Args:
        make: Steps over these rows, from their beginning.
        dtype: Of the weights.
        own: What the attention in question runs in.
        reference: What it is compared with.
        what: Whose attention it is, for the message.

    Raises:
        PreflightError: They disagree (E26).
    """
    import torch

    try:
        with torch.inference_mode():
            return side_by_side(make(), make(), dtype, own, reference)
    except DifferentError as error:
        kernels = kernels_of(make(), own)
        raise PreflightError(
            f"The attention back end {kernels} ({what}, {dtype}) gives other tokens than torch's math back end: "
            f"{error}. Every translation could be wrong. Set model.attention=eager and decode.engine=generate, and "
            "report this with the versions that `hymt-batch doctor` prints.",
            id="E26",
        ) from None


def side_by_side(mine: Steps, right: Steps, dtype: str, own: Context, reference: Context) -> Agreement:
    """Compare NUM_TOKENS steps; a row is compared up to the first token that is not the same.

    In float32 all tokens must be the same. In the others a row may go apart where both find the two tokens as likely
    as rounding explains. In all of them no logit may differ by more than that.

    Raises:
        DifferentError: They disagree.
    """
    import torch

    allowed, exact = TOLERANCE[dtype], dtype == "float32"
    together: Tensor | None = None
    tokens, largest = 0, 0.0
    for number in range(NUM_TOKENS):
        with own():
            found = mine().cpu()
        with reference():
            wanted = right().cpu()
        if together is None:
            together = torch.ones(len(found), dtype=torch.bool)
        spread = (wanted.max(-1).values - wanted.min(-1).values).clamp(min=1e-6)
        share = (found - wanted).abs().max(-1).values / spread
        one, other = found.argmax(-1, keepdim=True), wanted.argmax(-1, keepdim=True)
        gap = torch.maximum(
            found.gather(1, one) - found.gather(1, other), wanted.gather(1, other) - wanted.gather(1, one)
        )[:, 0]
        same = (one == other)[:, 0]
        tie = same if exact else same | (gap <= allowed * spread)
        wrong = together & ~((share <= allowed) & tie)  # written so that NaN is wrong
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise DifferentError(
                f"{int(wrong.sum())} of {len(found)} rows, first row {row + 1} at token {number + 1} (token "
                f"{int(one[row, 0])} instead of {int(other[row, 0])}; logits differ by {float(share[row]):.2g} of "
                f"their spread, and rounding explains {allowed:g})"
            )
        largest = max(largest, float(share[together].max())) if bool(together.any()) else largest
        together &= same
        tokens += int(together.sum())
        if not bool(together.any()):
            break
    assert together is not None
    return Agreement(tokens, int((~together).sum()), largest)


def kernels_of(steps: Steps, own: Context) -> str:
    """The kernels of torch that two steps take for scaled dot products."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: dict[str, None] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func).removeprefix("aten.").partition(".")[0]
            if "scaled_dot_product" in name:
                seen[name.removeprefix("_scaled_dot_product_")] = None
            return func(*args, **(kwargs or {}))

    # not inference mode: there the operator is seen whole, and not the kernel that it takes
    with torch.no_grad(), own(), Watch():  # type: ignore[no-untyped-call]
        steps()
        steps()
    return " and ".join(seen) or "of plain matrix products"
