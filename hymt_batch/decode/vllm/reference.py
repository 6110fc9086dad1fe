"""What our own network answers to 16 fixed prompts, for comparison with vLLM, and the program that computes it.

A process of its own loads the weights and ends, so they are gone from the GPU when vLLM loads them. The answers are
kept beside the hashes of model files, by everything that they depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from hymt_batch import child_process
from hymt_batch.errors import HymtError, PreflightError
from hymt_batch.model import attention, hashes, padded_batch
from hymt_batch.model.load import PreparedModel

VERSION = 1
POLL_S = 0.5

Answers = list[list[tuple[int, float]]]
"""For each prompt attention.NUM_TOKENS greedy tokens, also those after an end token, each with its log-probability."""


def answers(model: PreparedModel, prompts: Sequence[Sequence[int]], check_stop: Callable[[], None]) -> Answers:
    """Return the answers of a model, computed now or earlier.

    Args:
        model: The model.
        prompts: Token ids of the prompts.
        check_stop: Called while they are computed.

    Raises:
        HymtError: The model cannot be loaded.
    """
    path = _cache_path(model, prompts)
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = [[(int(token), float(logprob)) for token, logprob in row] for row in json.loads(path.read_bytes())]
        if len(kept) == len(prompts) and all(len(row) == attention.NUM_TOKENS for row in kept):
            return kept
    computed = _run_program(model, prompts, check_stop)
    with contextlib.suppress(OSError):  # without a cache, they are computed again
        _write(path, json.dumps(computed).encode())
    return computed


def _cache_path(model: PreparedModel, prompts: Sequence[Sequence[int]]) -> Path:
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    facts = [VERSION, model.identity, model.placement.device.label, versions, [list(ids) for ids in prompts]]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return hashes.cache_file().with_name(f"reference-{digest[:32]}.json")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


def _run_program(model: PreparedModel, prompts: Sequence[Sequence[int]], check_stop: Callable[[], None]) -> Answers:
    package_root = str(Path(__file__).parent.parent.parent.parent)
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process, pipe = child_process.start_connected(
        [sys.executable, "-P", "-m", "hymt_batch.decode.vllm.reference"],
        ignored_signals=child_process.IGNORED_SIGNALS,
        env={**os.environ, "PYTHONPATH": path},
        stdout=2,
    )
    with pipe:
        try:
            pipe.send((model, [list(ids) for ids in prompts]))
            while not pipe.poll(POLL_S):
                check_stop()
            received: HymtError | Answers = pipe.recv()
        except (EOFError, OSError):
            code = process.wait()
            raise PreflightError(
                f"The process that computes the reference for vLLM ended (exit code {code})",
                why="Its output above may tell more; without any, memory probably ran out.",
                fix="Set decode.engine=auto, which compares nothing.",
            ) from None
        finally:
            process.kill()
            process.wait()
    if isinstance(received, HymtError):
        raise received
    return received


def compute(model: PreparedModel, prompts: Sequence[Sequence[int]]) -> Answers:
    """Load a model, and decode the prompts greedily in one batch; on a GPU with torch's math backend of attention.

    Raises:
        HymtError: The model cannot be loaded.
    """
    import torch

    hymt = model.load(model.load_tokenizer(add_generation_prompt=True))
    batch = padded_batch.PaddedBatch(hymt.network, prompts, hymt.tokenizer.pad_id, hymt.device)
    rows: Answers = [[] for _ in prompts]
    with torch.inference_mode(), attention.use_math_attention(hymt.network):
        for _ in range(attention.NUM_TOKENS):
            logprobs = torch.log_softmax(batch.next_logits(), dim=-1).max(dim=-1)
            for row, token, logprob in zip(rows, logprobs.indices.tolist(), logprobs.values.tolist(), strict=True):
                row.append((token, logprob))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Compute what the parent asks for over the given socket."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(int(arguments[0])) as pipe:
        child_process.exit_with_parent(pipe)
        model, prompts = pipe.recv()
        try:
            pipe.send(compute(model, prompts))
        except HymtError as error:
            pipe.send(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
