"""One attention against another in the same batch: 64 greedy tokens of 16 left-padded rows of unequal length.

The canaries look at one token, and a kernel that is wrong in a few rows or behind some length shows later: here the
engine's own attention and torch's math back end, the plainest, decode side by side, each with keys and values of its
own. Run at every load where the whole model lies on GPUs; never run on one yet.

Mixtures of experts and FP8 round in jumps: a last bit sends a token to another expert, and the logits differ by up to
half of their spread though the attention is right. There the two are compared where they compute, layer by layer.

Source: pytorch#193893, "invisible to any check that does not generate more than a few tokens".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.errors import PreflightError
from hymt_batch.model.canary import TOLERANCE
from hymt_batch.model.padded_batch import PaddedBatch, prompts
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

NUM_TOKENS = 64


@dataclass(frozen=True, slots=True)
class AttentionComparison:
    """What two attentions have in common."""

    equal_tokens: int  # that both gave, over all rows
    diverged_rows: int  # rows that went apart at a near tie of two tokens
    max_difference: float  # largest of a logit, as a share of the spread of its row's logits


class MismatchError(Exception):
    """Two attentions disagree by more than rounding explains; the text says where."""


GreedyStep = Callable[[], "Tensor"]
"""Greedy decoding of B rows: each call takes in the tokens of the last one, and gives the logits [B, V] of the next."""

ContextFactory = Callable[[], AbstractContextManager[Any]]


@contextmanager
def use_math_kernel() -> Iterator[None]:
    """Inside, torch computes its scaled dot products by plain matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def use_math_attention(network: Any) -> Iterator[None]:
    """Inside, the network attends by torch's math back end, whatever `model.attention` is."""
    before = network.config._attn_implementation
    network.config._attn_implementation = "sdpa"
    try:
        with use_math_kernel():
            yield
    finally:
        network.config._attn_implementation = before


def all_on_gpu(devices: Iterable[str]) -> bool:
    """Whether the comparison is made at a load: where the whole model lies on GPUs."""
    return all(device.startswith("cuda") for device in devices)


def check(
    network: Any,
    tokenizer: Tokenizer,
    device: str,
    dtype: str,
    *,
    by_layer: bool = False,
    own_context: ContextFactory = nullcontext,
    reference_context: ContextFactory | None = None,
) -> AttentionComparison:
    """Compare a loaded network's attention, as `generate` uses it, with the math back end.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Where tokens enter.
        dtype: Of the weights.
        by_layer: Compare what each layer's attention gives instead of tokens and logits: for kinds that round in jumps.
        own: What the network's own attention runs in.
        reference: What it runs in to be compared with; None: the math back end.

    Raises:
        PreflightError: They disagree (E26); the message names the back end.
    """
    rows = prompts(tokenizer)

    def make() -> PaddedBatch:
        return PaddedBatch(network, rows, tokenizer.pad_id, device)

    name = f"model.attention={network.config._attn_implementation}"
    what = f"{name} on {device}"
    if by_layer:
        return _run_comparison(
            lambda: compare_layers(make(), dtype, own_context), lambda: make().next_logits, dtype, own_context, what
        )
    return compare(
        lambda: make().next_logits, dtype, own_context, reference_context or (lambda: use_math_attention(network)), what
    )


def compare(
    make_step: Callable[[], GreedyStep],
    dtype: str,
    own_context: ContextFactory,
    reference_context: ContextFactory,
    label: str,
) -> AttentionComparison:
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
    return _run_comparison(
        lambda: compare_steps(make_step(), make_step(), dtype, own_context, reference_context),
        make_step,
        dtype,
        own_context,
        label,
    )


def _run_comparison(
    comparison: Callable[[], AttentionComparison],
    make_step: Callable[[], GreedyStep],
    dtype: str,
    own_context: ContextFactory,
    label: str,
) -> AttentionComparison:
    """What `judge` finds; its disagreement as the error that names the kernel."""
    import torch

    try:
        with torch.inference_mode():
            return comparison()
    except MismatchError as error:
        kernels = sdpa_kernels(make_step(), own_context)
        raise PreflightError(
            f"The attention back end {kernels} ({label}, {dtype}) does not agree with torch's math back end: "
            f"{error}. Every translation could be wrong. Set model.attention=eager and decode.engine=generate, and "
            "report this with the versions that `hymt-batch doctor` prints.",
            id="E26",
        ) from None


def compare_steps(
    step: GreedyStep,
    reference_step: GreedyStep,
    dtype: str,
    own_context: ContextFactory,
    reference_context: ContextFactory,
) -> AttentionComparison:
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
        with own_context():
            found = step().cpu()
        with reference_context():
            wanted = reference_step().cpu()
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
            raise MismatchError(
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
    return AttentionComparison(tokens, int((~together).sum()), largest)


def compare_layers(batch: PaddedBatch, dtype: str, own_context: ContextFactory) -> AttentionComparison:
    """Compare what every layer's attention gives in NUM_TOKENS steps with what the math back end makes of its input.

    A head's output of a token may differ by what rounding explains, as a share of its largest number. With
    model.attention=eager, which is plain matrix products itself, there is nothing to compare.

    Raises:
        DifferentError: They disagree.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name, allowed = batch.network.config._attn_implementation, TOLERANCE[dtype]
    if name == "eager":
        return AttentionComparison(0, 0, 0.0)
    attend = ALL_ATTENTION_FUNCTIONS[name]
    largest, token, calls = 0.0, 0, 0

    def watched(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Any:
        nonlocal largest, calls
        with own_context():
            output, weights = attend(module, query, key, value, *rest, **more)
        scale = more.get("scaling", query.shape[-1] ** -0.5)
        share, seen = _layer_difference(output, query, key, value, batch.mask, scale)
        wrong = seen & ~(share <= allowed)  # written so that NaN is wrong
        if bool(wrong.any()):
            row, place = (int(n) for n in wrong.nonzero()[0])
            raise MismatchError(
                f"{int(wrong.any(-1).sum())} of {len(wrong)} rows in layer {getattr(module, 'layer_idx', calls)}, "
                f"first row {row + 1} at token {token + 1} (its output differs by {float(share[row, place]):.2g} of "
                f"its largest number, and rounding explains {allowed:g})"
            )
        largest, calls = max(largest, float(share[seen].max())), calls + 1
        return output, weights

    ALL_ATTENTION_FUNCTIONS[name] = watched
    try:
        for token in range(NUM_TOKENS):  # noqa: B007 (the message names it)
            batch.next_logits()
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = attend
    if not calls:
        raise MismatchError("the network did not call it")
    return AttentionComparison(NUM_TOKENS * len(batch.ids), 0, largest)


def _layer_difference(
    output: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """How far one layer's output [B, Q, H, D] is from torch's plain products, and which of the Q positions are read.

    Args:
        output: Of the attention in question.
        query: [B, H, Q, D], the newest Q positions.
        key: [B, G, K, D], with G a divisor of H.
        value: As `key`.
        mask: [B, >= K], 1 where a position is a token; of the K positions that end with the newest.
        scale: What the products are multiplied by.
    """
    import torch

    num, length = query.shape[2], key.shape[2]
    mask = mask[:, :length].to(query.device, torch.bool)
    causal = torch.ones(num, length, dtype=torch.bool, device=query.device).tril(length - num)
    groups = query.shape[1] // key.shape[1]
    with use_math_kernel():
        right = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, 1),
            value.repeat_interleave(groups, 1),
            attn_mask=causal & mask[:, None, None, :],
            scale=scale,
        ).transpose(1, 2)
    difference = (output.float() - right.float()).abs().amax(-1) / right.float().abs().amax(-1).clamp(min=1e-6)
    return difference.amax(-1), mask[:, length - num :]


def sdpa_kernels(step: GreedyStep, own_context: ContextFactory) -> str:
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
    with torch.no_grad(), own_context(), Watch():  # type: ignore[no-untyped-call]
        step()
        step()
    return " and ".join(seen) or "of plain matrix products"
