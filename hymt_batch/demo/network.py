"""Prepare the demo's network for training: fused norms, a last layer that computes only what the loss needs, and the
weights of an earlier model.
"""

from functools import partial
from pathlib import Path
from typing import Any


def fuse_norms(model: Any) -> None:
    """Make each RMSNorm one function with a gradient of its own, which takes a fifth less time of a step."""
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, epsilon: float) -> Any:
            scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + epsilon)
            normed = x * scale
            ctx.save_for_backward(normed, scale, weight)
            return normed * weight

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            normed, scale, weight = ctx.saved_tensors
            (gradient,) = gradients
            product = gradient * normed
            mean = (product @ weight).unsqueeze(-1) / weight.shape[0]
            of_weight = product.reshape(-1, weight.shape[0]).sum(0)
            return (gradient * weight).sub_(normed * mean).mul_(scale), of_weight, None

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_apply, Norm, module)


def _apply(function: Any, module: Any, x: Any) -> Any:
    return function.apply(x, module.weight, module.variance_epsilon)


def answer_only(model: Any) -> None:
    """Let the last layer's MLP compute only the positions of `in_answer`, an argument of the network [B, T] bool.

    The network then returns the states of these positions [N, D], which takes a tenth less time of a step.
    """
    layer = model.model.layers[-1]
    layer.forward = partial(_last_layer, layer)


def _last_layer(layer: Any, hidden: Any, *, in_answer: Any, **arguments: Any) -> Any:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **arguments)
    hidden = (hidden + attended)[in_answer]
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def copy_weights(model: Any, folder: Path, start: Path) -> None:
    """Copy the weights of another model; a token that it lacks begins as the mean of the tokens that spell it there."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    weights = load_file(start / "model.safetensors")
    embedding = weights.pop("model.embed_tokens.weight").float()
    old, new = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (start, folder))
    model.load_state_dict(weights, strict=False)
    for token, row in new.get_vocab().items():
        known = old.token_to_id(token)
        rows = [piece.id for piece in old.model.tokenize(token)] if known is None else [known]
        model.model.embed_tokens.weight.data[row] = embedding[rows].mean(0)
