"""Baseline: llama.cpp with the same weights, through its low-level interface; finished rows are replaced at once.

Each row is a sequence with its own keys and values; the common prefix of the prompts is decoded once and copied. A
row's prefill runs together with the next step of the other rows, as in llama.cpp's own server. CPU only.

Measured (0.3.36, one core, 96 rows of `mid`): separate caches per sequence take 0.5 to 0.6 of the time of a unified
cache. Flash attention rounds more: in float32 scores differ from those of transformers by 1e-2 with it, and by 1e-5
without it. So flash attention is off in float32, with a float32 cache, and on in bfloat16, with llama.cpp's default
half-precision cache.
"""

from __future__ import annotations

import ctypes
import logging
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.bench.baselines import gguf_file
from hymt_batch.bench.benchmark import Engine, Workload
from hymt_batch.decode.sequence import shared_prefix
from hymt_batch.model.prepare import LoadedModel

log = logging.getLogger(__name__)

_LOG_CALLBACKS: list[Any] = []  # callbacks of llama.cpp; must stay alive as long as it runs

UBATCH = 512
"""Tokens per forward pass; the default of llama.cpp."""

ALIGNMENT = 256
"""llama.cpp rounds the number of cache cells of a sequence up to a multiple of this."""


def llama_cpp_engine(hymt: LoadedModel, max_rows: int, work: Workload, num_threads: int) -> Engine:
    """Make a llama.cpp engine for workloads no longer than `work`; writes and loads the weights once, here.

    Args:
        hymt: The network.
        max_rows: Maximum number of rows decoded at once.
        work: The longest workload that the engine will run.
        num_threads: CPU threads.

    Raises:
        ImportError: llama-cpp-python or gguf is not installed.
        RuntimeError: llama.cpp rejects the file or the context size.
    """
    import llama_cpp

    rows = min(max_rows, llama_cpp.llama_max_parallel_sequences() - 1)
    longest = max(len(prompt) + limit for prompt, limit in zip(work.prompts, work.output_lengths, strict=True))
    _redirect_log()
    llama_cpp.llama_backend_init()
    model = _load(hymt.network)
    settings = llama_cpp.llama_context_default_params()
    settings.n_seq_max = rows + 1
    settings.n_ctx = (rows + 1) * -(-longest // ALIGNMENT) * ALIGNMENT
    settings.n_batch = max(UBATCH, rows * longest)
    settings.n_ubatch = UBATCH
    settings.n_threads = settings.n_threads_batch = num_threads
    settings.kv_unified = False
    exact = hymt.dtype == "float32"
    settings.flash_attn_type = int(not exact)
    if exact:
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        llama_cpp.llama_model_free(model)
        raise RuntimeError(f"llama.cpp cannot create a context of {rows} rows")
    run = _LlamaCppEngine(context, rows, settings.n_batch, hymt.vocab_size)
    weakref.finalize(run, _free, context, model)
    return run


@dataclass(slots=True)
class _Sequence:
    """A row that is being decoded."""

    index: int  # index of the row in the workload
    num_cached: int  # tokens whose keys and values are cached
    new_ids: list[int]  # new tokens so far


class _LlamaCppEngine:
    """One llama.cpp context and its decoding loop; call it with a workload."""

    def __init__(self, context: Any, max_rows: int, max_tokens: int, vocab_size: int) -> None:
        import llama_cpp

        self.context, self.max_rows, self.vocab_size = context, max_rows, vocab_size
        self.batch = llama_cpp.llama_batch_init(max_tokens, 0, 1)
        weakref.finalize(self, llama_cpp.llama_batch_free, self.batch)

    def __call__(self, work: Workload) -> list[list[int]]:
        import llama_cpp

        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, False)
        common = shared_prefix(work.prompts)
        if common:
            self._decode([(work.prompts[0][:common], 0, self.max_rows)])
        waiting = sorted(range(len(work.prompts)), key=lambda n: len(work.prompts[n]))  # pop() takes the longest first
        rows: list[_Sequence] = []  # the index of a row is its sequence id: llama.cpp is fast if these have no gaps
        outputs: list[list[int]] = [[] for _ in work.prompts]

        def begin(sequence_id: int) -> _Sequence:
            llama_cpp.llama_memory_seq_rm(memory, sequence_id, -1, -1)
            if common:
                llama_cpp.llama_memory_seq_cp(memory, self.max_rows, sequence_id, -1, -1)
            return _Sequence(waiting.pop(), common, [])

        while waiting and len(rows) < self.max_rows:
            rows.append(begin(len(rows)))
        while rows:
            inputs = [
                (row.new_ids[-1:] or work.prompts[row.index][common:], row.num_cached, n) for n, row in enumerate(rows)
            ]
            for row, (tokens, _, _), token in zip(rows, inputs, self._decode(inputs), strict=True):
                row.num_cached += len(tokens)
                row.new_ids.append(token)
            for sequence_id in reversed(range(len(rows))):
                row = rows[sequence_id]
                if len(row.new_ids) < work.output_lengths[row.index]:
                    continue
                outputs[row.index] = row.new_ids
                if waiting:
                    rows[sequence_id] = begin(sequence_id)
                    continue
                last = len(rows) - 1
                if sequence_id != last:
                    llama_cpp.llama_memory_seq_rm(memory, sequence_id, -1, -1)
                    llama_cpp.llama_memory_seq_cp(memory, last, sequence_id, -1, -1)
                    rows[sequence_id] = rows[last]
                llama_cpp.llama_memory_seq_rm(memory, last, -1, -1)
                rows.pop()
        return outputs

    def _decode(self, inputs: Sequence[tuple[Sequence[int], int, int]]) -> list[int]:
        """Decode several inputs in one batch, each (tokens, first position, sequence id).

        Returns:
            The most likely token after the last token of each input.

        Raises:
            RuntimeError: llama.cpp returned an error status.
        """
        import llama_cpp
        import numpy as np

        batch, count = self.batch, 0
        for tokens, start, sequence in inputs:
            for offset, token in enumerate(tokens):
                batch.token[count] = token
                batch.pos[count] = start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = offset == len(tokens) - 1
                count += 1
        batch.n_tokens = count
        if status := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {status} for {count} tokens of {len(inputs)} rows")
        logits = llama_cpp.llama_get_logits(self.context)
        likeliest = np.ctypeslib.as_array(logits, shape=(len(inputs), self.vocab_size)).argmax(axis=1)
        return [int(token) for token in likeliest]


def _load(network: Any) -> Any:
    """Write the weights to a temporary file, load them into memory, and remove the file."""
    import llama_cpp

    settings = llama_cpp.llama_model_default_params()
    settings.use_mmap = False
    settings.n_gpu_layers = 0
    with tempfile.TemporaryDirectory(prefix="hymt-bench-") as folder:
        path = Path(folder) / "network.gguf"
        gguf_file.write(network, path)
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise RuntimeError("llama.cpp cannot read the network's file")
    return model


def _free(context: Any, model: Any) -> None:
    import llama_cpp

    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def _redirect_log() -> None:
    """Send llama.cpp's messages to our log; by default it prints them."""
    import llama_cpp

    def write_log(level: int, text: bytes, _: Any) -> None:
        log.debug("%s", text.decode(errors="replace").rstrip())

    if not _LOG_CALLBACKS:
        _LOG_CALLBACKS.append(llama_cpp.llama_log_callback(write_log))
    llama_cpp.llama_log_set(_LOG_CALLBACKS[0], ctypes.c_void_p(0))
