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
from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.decode.engine import EngineContext, UnsupportedError
from hymt_batch.decode.request import Request
from hymt_batch.decode.sequence import shared_prefix

log = logging.getLogger(__name__)

_LOG_CALLBACKS: list[Any] = []  # callbacks of llama.cpp; must stay alive as long as it runs

UBATCH = 512
"""Tokens per forward pass; the default of llama.cpp."""

ALIGNMENT = 256
"""llama.cpp rounds the number of cache cells of a sequence up to a multiple of this."""


def open_engine(context: EngineContext) -> LlamaCppEngine:
    """Make the engine; writes and loads the weights once, here.

    Raises:
        ImportError: llama-cpp-python or gguf is not installed.
        UnsupportedError: The network is on a GPU.
        RuntimeError: llama.cpp rejects the file.
    """
    device = context.load().device
    if device != "cpu":
        raise UnsupportedError(f"this benchmark runs it on the CPU only, not on {device}")
    return LlamaCppEngine(context)


@dataclass(slots=True)
class _Sequence:
    """A row that is being decoded."""

    index: int  # index of the row in the requests
    num_cached: int  # tokens whose keys and values are cached
    new_ids: list[int]  # new tokens so far


class LlamaCppEngine(FixedLengthEngine):
    """llama.cpp's decoding loop; its context is made for the longest rows so far."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        import llama_cpp

        self._max_rows = min(context.budget.max_rows, llama_cpp.llama_max_parallel_sequences() - 1)
        _redirect_log()
        llama_cpp.llama_backend_init()
        self._model = _load(context.load().network)
        self._cells = 0  # cache cells of each sequence
        self._context: Any = None
        self._batch: Any = None
        self._free_model = weakref.finalize(self, llama_cpp.llama_model_free, self._model)
        self._free: weakref.finalize[Any, Any] | None = None  # frees the context and the batch

    def _make_context(self, longest: int) -> None:
        """Make a context whose sequences hold `longest` tokens, unless there is one.

        Raises:
            RuntimeError: llama.cpp rejects the context size.
        """
        import llama_cpp
        import torch

        cells = -(-longest // ALIGNMENT) * ALIGNMENT
        if cells <= self._cells:
            return
        if self._free is not None:
            self._free()
        settings = llama_cpp.llama_context_default_params()
        settings.n_seq_max = self._max_rows + 1
        settings.n_ctx = (self._max_rows + 1) * cells
        settings.n_batch = max(UBATCH, self._max_rows * cells)
        settings.n_ubatch = UBATCH
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.kv_unified = False
        exact = self.context.load().dtype == "float32"
        settings.flash_attn_type = int(not exact)
        if exact:
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot create a context of {self._max_rows} rows")
        self._batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
        self._cells, self._free = cells, weakref.finalize(self, _free, self._context, self._batch)

    def close(self) -> None:
        if self._free is not None:
            self._free()
        self._free_model()

    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        import llama_cpp

        self._make_context(max(request.max_length for request in requests))
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        common = shared_prefix([request.prompt_ids for request in requests])
        if common:
            self._decode([(requests[0].prompt_ids[:common], 0, self._max_rows)])
        # pop() takes the longest first
        waiting = sorted(range(len(requests)), key=lambda n: len(requests[n].prompt_ids))
        rows: list[_Sequence] = []  # the index of a row is its sequence id: llama.cpp is fast if these have no gaps
        outputs: list[list[int]] = [[] for _ in requests]

        def begin(sequence_id: int) -> _Sequence:
            llama_cpp.llama_memory_seq_rm(memory, sequence_id, -1, -1)
            if common:
                llama_cpp.llama_memory_seq_cp(memory, self._max_rows, sequence_id, -1, -1)
            return _Sequence(waiting.pop(), common, [])

        while waiting and len(rows) < self._max_rows:
            rows.append(begin(len(rows)))
        while rows:
            inputs = [
                (row.new_ids[-1:] or requests[row.index].prompt_ids[common:], row.num_cached, n)
                for n, row in enumerate(rows)
            ]
            for row, (tokens, _, _), token in zip(rows, inputs, self._decode(inputs), strict=True):
                row.num_cached += len(tokens)
                row.new_ids.append(token)
            for sequence_id in reversed(range(len(rows))):
                row = rows[sequence_id]
                if len(row.new_ids) < requests[row.index].max_new_tokens:
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

        batch, count = self._batch, 0
        for tokens, start, sequence in inputs:
            for offset, token in enumerate(tokens):
                batch.token[count] = token
                batch.pos[count] = start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = sequence
                batch.logits[count] = offset == len(tokens) - 1
                count += 1
        batch.n_tokens = count
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {status} for {count} tokens of {len(inputs)} rows")
        logits = llama_cpp.llama_get_logits(self._context)
        likeliest = np.ctypeslib.as_array(logits, shape=(len(inputs), self.context.load().vocab_size)).argmax(axis=1)
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


def _free(context: Any, batch: Any) -> None:
    import llama_cpp

    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)


def _redirect_log() -> None:
    """Send llama.cpp's messages to our log; by default it prints them."""
    import llama_cpp

    def write_log(level: int, text: bytes, _: Any) -> None:
        log.debug("%s", text.decode(errors="replace").rstrip())

    if not _LOG_CALLBACKS:
        _LOG_CALLBACKS.append(llama_cpp.llama_log_callback(write_log))
    llama_cpp.llama_log_set(_LOG_CALLBACKS[0], ctypes.c_void_p(0))
