"""Compare an attention backend with torch's math backend: 64 greedy tokens of 16 left-padded rows of unequal length.

The canaries check one token only, but a kernel that is wrong in a few rows or beyond some length fails later. Here the
engine's attention and torch's math backend, the simplest one, decode side by side, each with its own keys and values.
Runs at every load where the whole model is on GPUs. Not yet run on a GPU.

Mixtures of experts and FP8 amplify rounding: a difference in the last bit can send a token to another expert, and the
logits then differ by up to half of their spread although the attention is correct. For these models, the outputs of the
attention are compared layer by layer instead.

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
    """Agreement of two attention implementations."""

    equal_tokens: int  # number of tokens on which both agree, over all rows
    diverged_rows: int  # number of rows that diverged where two tokens were almost equally likely
    max_difference: float  # largest difference between two logits, as a share of the spread of the row's logits


class MismatchError(Exception):
    """Two attention implementations differ by more than rounding explains; the message gives the row and token."""


GreedyStep = Callable[[], "Tensor"]
"""Greedy decoding of B rows: each call feeds the tokens of the previous call and returns the next logits [B, V]."""

ContextFactory = Callable[[], AbstractContextManager[Any]]


@contextmanager
def use_math_kernel() -> Iterator[None]:
    """Context in which torch computes scaled dot-product attention with plain matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def use_math_attention(network: Any) -> Iterator[None]:
    """Context in which the network uses torch's math backend, regardless of `model.attention`."""
    original = network.config._attn_implementation
    network.config._attn_implementation = "sdpa"
    try:
        with use_math_kernel():
            yield
    finally:
        network.config._attn_implementation = original


def all_on_gpu(devices: Iterable[str]) -> bool:
    """Return whether the whole model is on GPUs; only then is the comparison run at load."""
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
    """Compare a loaded network's attention, as `generate` uses it, with the math backend.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Device of the input tokens.
        dtype: Number format of the weights.
        by_layer: Compare the output of each layer's attention instead of tokens and logits; for experts and FP8.
        own_context: Context in which the network's own attention runs.
        reference_context: Context in which the reference attention runs; None: the math backend.

    Returns:
        The measured agreement.

    Raises:
        PreflightError: They disagree (E26); the message names the backend.
    """
    rows = prompts(tokenizer)

    def make_batch() -> PaddedBatch:
        return PaddedBatch(network, rows, tokenizer.pad_id, device)

    name = f"model.attention={network.config._attn_implementation}"
    label = f"{name} on {device}"
    if by_layer:
        return _run_comparison(
            lambda: compare_layers(make_batch(), dtype, own_context),
            lambda: make_batch().next_logits,
            dtype,
            own_context,
            label,
        )
    return compare(
        lambda: make_batch().next_logits,
        dtype,
        own_context,
        reference_context or (lambda: use_math_attention(network)),
        label,
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
        make_step: Returns a new step function, which starts again from the rows' prompts.
        dtype: Number format of the weights.
        own_context: Context in which the attention under test runs.
        reference_context: Context in which the reference attention runs.
        label: Name of the attention under test, for the message.

    Returns:
        The measured agreement.

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
    """Run `comparison`, and turn its MismatchError into the error that names the kernel."""
    import torch

    try:
        with torch.inference_mode():
            return comparison()
    except MismatchError as error:
        kernels = sdpa_kernels(make_step(), own_context)
        raise PreflightError(
            f"The attention backend {kernels} ({label}, {dtype}) does not agree with torch's math backend: {error}",
            why="Every translation could be wrong.",
            fix="Set model.attention=eager and decode.engine=generate, and report this with the versions that "
            "`hymt-batch doctor` prints.",
            id="E26",
        ) from None


def compare_steps(
    step: GreedyStep,
    reference_step: GreedyStep,
    dtype: str,
    own_context: ContextFactory,
    reference_context: ContextFactory,
) -> AttentionComparison:
    """Compare NUM_TOKENS steps; each row is compared up to its first differing token.

    In float32 all tokens must be the same. In other formats a row may diverge if both sides rate the two tokens equally
    likely, within rounding. In every format no logit may differ by more than rounding explains.

    Returns:
        The measured agreement.

    Raises:
        MismatchError: They disagree.
    """
    import torch

    allowed, exact = TOLERANCE[dtype], dtype == "float32"
    agreeing: Tensor | None = None
    num_equal, largest = 0, 0.0
    for step_index in range(NUM_TOKENS):
        with own_context():
            own_logits = step().cpu()
        with reference_context():
            reference_logits = reference_step().cpu()
        if agreeing is None:
            agreeing = torch.ones(len(own_logits), dtype=torch.bool)
        spread = (reference_logits.max(-1).values - reference_logits.min(-1).values).clamp(min=1e-6)
        share = (own_logits - reference_logits).abs().max(-1).values / spread
        own_tokens, reference_tokens = own_logits.argmax(-1, keepdim=True), reference_logits.argmax(-1, keepdim=True)
        gap = torch.maximum(
            own_logits.gather(1, own_tokens) - own_logits.gather(1, reference_tokens),
            reference_logits.gather(1, reference_tokens) - reference_logits.gather(1, own_tokens),
        )[:, 0]
        same = (own_tokens == reference_tokens)[:, 0]
        acceptable = same if exact else same | (gap <= allowed * spread)
        wrong = agreeing & ~((share <= allowed) & acceptable)  # written so that NaN counts as wrong
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise MismatchError(
                f"{int(wrong.sum())} of {len(own_logits)} rows, first row {row + 1} at token {step_index + 1} (token "
                f"{int(own_tokens[row, 0])} instead of {int(reference_tokens[row, 0])}; logits differ by "
                f"{float(share[row]):.2g} of their spread, and rounding explains at most {allowed:g})"
            )
        largest = max(largest, float(share[agreeing].max())) if bool(agreeing.any()) else largest
        agreeing &= same
        num_equal += int(agreeing.sum())
        if not bool(agreeing.any()):
            break
    assert agreeing is not None
    return AttentionComparison(num_equal, int((~agreeing).sum()), largest)


def compare_layers(batch: PaddedBatch, dtype: str, own_context: ContextFactory) -> AttentionComparison:
    """Compare the output of every layer's attention, in NUM_TOKENS steps, with the math backend on the same inputs.

    The difference, as a share of a head's largest output for a token, may be at most what rounding explains. With
    model.attention=eager, which already uses plain matrix products, there is nothing to compare.

    Returns:
        The measured agreement.

    Raises:
        MismatchError: They disagree.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name, allowed = batch.network.config._attn_implementation, TOLERANCE[dtype]
    if name == "eager":
        return AttentionComparison(0, 0, 0.0)
    attend = ALL_ATTENTION_FUNCTIONS[name]
    largest, token, calls = 0.0, 0, 0

    def checked_attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any
    ) -> Any:
        nonlocal largest, calls
        with own_context():
            output, weights = attend(module, query, key, value, *arguments, **options)
        scale = options.get("scaling", query.shape[-1] ** -0.5)
        share, seen = _layer_difference(output, query, key, value, batch.mask, scale)
        wrong = seen & ~(share <= allowed)  # written so that NaN counts as wrong
        if bool(wrong.any()):
            row, position = (int(n) for n in wrong.nonzero()[0])
            raise MismatchError(
                f"{int(wrong.any(-1).sum())} of {len(wrong)} rows in layer {getattr(module, 'layer_idx', calls)}, "
                f"first row {row + 1} at token {token + 1} (its output differs by {float(share[row, position]):.2g} of "
                f"its largest number, and rounding explains at most {allowed:g})"
            )
        largest, calls = max(largest, float(share[seen].max())), calls + 1
        return output, weights

    ALL_ATTENTION_FUNCTIONS[name] = checked_attention
    try:
        for token in range(NUM_TOKENS):  # noqa: B007 (the message uses it)
            batch.next_logits()
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = attend
    if not calls:
        raise MismatchError("the network did not call this backend")
    return AttentionComparison(NUM_TOKENS * len(batch.ids), 0, largest)


def _layer_difference(
    output: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compare the output of one layer's attention with torch's plain matrix products.

    Args:
        output: [B, Q, H, D], of the attention under test.
        query: [B, H, Q, D], the newest Q positions.
        key: [B, G, K, D], with G a divisor of H; its K positions end with the newest.
        value: As `key`.
        mask: [B, >= K], 1 where a position is a token.
        scale: Factor of the scores.

    Returns:
        The relative difference [B, Q], and a bool mask [B, Q] of the positions that are tokens.
    """
    import torch

    num, length = query.shape[2], key.shape[2]
    mask = mask[:, :length].to(query.device, torch.bool)
    causal = torch.ones(num, length, dtype=torch.bool, device=query.device).tril(length - num)
    groups = query.shape[1] // key.shape[1]
    with use_math_kernel():
        expected = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, 1),
            value.repeat_interleave(groups, 1),
            attn_mask=causal & mask[:, None, None, :],
            scale=scale,
        ).transpose(1, 2)
    difference = (output.float() - expected.float()).abs().amax(-1) / expected.float().abs().amax(-1).clamp(min=1e-6)
    return difference.amax(-1), mask[:, length - num :]


def sdpa_kernels(step: GreedyStep, own_context: ContextFactory) -> str:
    """Return the names of the torch kernels that two steps use for scaled dot-product attention."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    kernels: dict[str, None] = {}

    class KernelRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func).removeprefix("aten.").partition(".")[0]
            if "scaled_dot_product" in name:
                kernels[name.removeprefix("_scaled_dot_product_")] = None
            return func(*args, **(kwargs or {}))

    # not inference mode, in which only the composite operator is visible, not the kernel that it selects
    with torch.no_grad(), own_context(), KernelRecorder():  # type: ignore[no-untyped-call]
        step()
        step()
    return " and ".join(kernels) or "of plain matrix products"
