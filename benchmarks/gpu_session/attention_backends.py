"""torch's attention back ends side by side: does each give the text of plain products, and how long does it take?

cuDNN's is compared too, in this process alone: a job never uses it (hymt_batch/model/cudnn.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from benchmarks.gpu_session.machine import REPEATS
from benchmarks.gpu_session.session import Report
from benchmarks.gpu_session.speed import SEED
from hymt_batch.bench.timing import best_seconds

BACKENDS = ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION")
PROMPT_TOKENS = 64


def compare(report: Report) -> None:
    """Report each back end's agreement with plain products, as generate and as the slot engine use it, and its time."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from hymt_batch import config
    from hymt_batch.model import prepare, synthetic

    sizes = report.sizes
    job = config.load("translate", ["preset=demo", *report.device_words])
    prepared = prepare.prepare_model(job.model, job.device_map, None)
    tokenizer = prepared.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    # the widths and the key heads of the large model, and prompts that its vocabulary has too
    hymt = synthetic.make_model(synthetic.Shape[sizes.attention_shape], sizes.dtype, SEED, sizes.device)
    hymt = replace(hymt, tokenizer=tokenizer)
    if sizes.device.startswith("cuda"):
        torch.backends.cuda.enable_cudnn_sdp(True)
    for name in BACKENDS[:2] if report.dry_run else BACKENDS:
        only = partial(sdpa_kernel, [getattr(SDPBackend, name)])
        report.add(**{name: {"agreement": agreement(hymt, only), "us": times(report, hymt, only)}})
    every = partial(sdpa_kernel, [getattr(SDPBackend, name) for name in BACKENDS])
    report.add(as_torch_chooses={"us": times(report, hymt, every)})


def agreement(hymt: Any, own_context: Callable[[], AbstractContextManager[Any]]) -> dict[str, Any]:
    """Return how far 64 tokens of 16 padded rows agree with plain products, or why they do not."""
    from hymt_batch.decode import self_check
    from hymt_batch.model import attention

    checks = {
        "generate": lambda: attention.check(
            hymt.network, hymt.tokenizer, hymt.device, hymt.dtype, own_context=own_context
        ),
        "slots": lambda: self_check.check_attention(hymt, own_context),
    }
    results: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            results[name] = asdict(check())
        except Exception as error:  # a back end may refuse these inputs, or give other tokens
            results[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return results


def times(report: Report, hymt: Any, own_context: Callable[[], AbstractContextManager[Any]]) -> dict[str, Any]:
    """Return microseconds of the attention of one layer: of a step, and of a prefill, with the engine's masks."""
    import torch

    from hymt_batch.decode.slot_attention import attend, grouped_mask

    network, sizes, device = hymt.network.config, report.sizes, hymt.device
    heads, key_heads, size = network.num_attention_heads, network.num_key_value_heads, network.head_dim
    dtype, results = getattr(torch, hymt.dtype), {}
    for name, rows, width, keys in (
        ("step", sizes.attention_rows, 1, sizes.attention_keys),
        ("prefill", max(1, sizes.attention_rows // 8), PROMPT_TOKENS, PROMPT_TOKENS),
    ):
        query = torch.randn(rows, heads, width, size, device=device, dtype=dtype)
        key, value = torch.randn(2, rows, key_heads, keys, size, device=device, dtype=dtype)
        visible = torch.ones(rows, width, keys, dtype=torch.bool, device=device).tril(keys - width)
        mask = grouped_mask(visible, heads // key_heads, dtype)

        def work(query: Any = query, key: Any = key, value: Any = value, mask: Any = mask) -> None:
            with torch.inference_mode(), own_context():
                attend(None, query, key, value, mask)

        try:
            results[name] = round(best_seconds(work, str(device), REPEATS) * 1e6, 1)
        except RuntimeError as error:
            results[name] = str(error).splitlines()[0][:200]
    return results
