"""The program that runs in vLLM's own interpreter: token ids in, token ids out, over a socket.

`process.py` starts it. That interpreter has other versions of torch and transformers than ours, and none of our
dependencies. So this file and what it imports of us need the standard library alone, and messages are plain values.
It gets the options of the engine first, then one call after another, and sends these messages, which are those of
`run/worker.py`: "ready", or "refused" with a text; "batch" with the rows and tokens that
are new since the last one, as a heartbeat too; and "done" with the completions, or "aborted".

Source: vLLM 0.32, vllm/v1/engine/llm_engine.py (add_request, step, abort_request).
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from hymt_batch.child_process import exit_with_parent, start_group_guard
from hymt_batch.decode.sequence import is_looping

BATCH_EVERY_S = 0.2
"""Seconds between two "batch" messages, at least."""

_CALLS = itertools.count()


@dataclass(slots=True)
class _Row:
    prompt_ids: Sequence[int]
    max_new_tokens: int
    new_ids: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0
    num_logprobs: int = 0  # tokens in the sum, the end token too
    logprobs: list[float] = field(default_factory=list)  # of the new tokens
    finish_reason: str = ""

    def add(self, token: int, logprob: float, stop_ids: Sequence[int], stop_loops: bool) -> None:
        """Add the next token, and end the row if it must end here."""
        if not math.isfinite(logprob):  # a logit is NaN or infinite
            self.new_ids, self.finish_reason = [], "non_finite"
            return
        self.sum_logprob += logprob
        self.num_logprobs += 1
        self.logprobs.append(logprob)
        if token in stop_ids:
            self.finish_reason = "stop"
            return
        self.new_ids.append(token)
        if stop_loops and is_looping(self.new_ids, self.prompt_ids):
            self.finish_reason = "loop"
        elif len(self.new_ids) == self.max_new_tokens:
            self.finish_reason = "length"

    @property
    def completion(self) -> tuple[list[int], str, float | None, list[float]]:
        mean = self.sum_logprob / self.num_logprobs if self.num_logprobs else None
        return self.new_ids, self.finish_reason, mean, self.logprobs


def decode(engine: Any, pipe: Connection, call: Mapping[str, Any]) -> tuple[Any, ...]:
    """Decode the rows of a call.

    The names of its requests are its own: a pipeline may still hold a step with requests of a call that was aborted.

    Args:
        engine: vLLM's LLMEngine, without unfinished requests; it has none at the end either.
        pipe: Gets "batch" messages; anything that arrives from it ends the call.
        call: rows, each (prompt ids, maximum number of new tokens, seed); sampling, the parameters of all rows;
            stop_ids; stop_loops; logprobs, False for a benchmark, where logits that are not finite are not found.

    Returns:
        The message to send: "done" with one completion per row, or "aborted".
    """
    from vllm.inputs.engine import tokens_input

    rows = [_Row(ids, limit) for ids, limit, _ in call["rows"]]
    number = next(_CALLS)
    names = [f"{number}-{index}" for index in range(len(rows))]
    indices = {name: index for index, name in enumerate(names)}
    for name, (ids, limit, seed) in zip(names, call["rows"], strict=True):
        engine.add_request(name, tokens_input(ids), _sampling_params(call, limit, seed))
    unfinished, num_rows, num_tokens, last_sent = set(range(len(rows))), 0, 0, time.monotonic()
    while unfinished:
        for output in engine.step():
            index = indices.get(output.request_id)
            if index is None or index not in unfinished:
                continue
            (new,) = output.outputs
            row = rows[index]
            for token, chosen in zip(new.token_ids, new.logprobs or [{}] * len(new.token_ids), strict=True):
                logprob = chosen[token].logprob if chosen else 0.0
                row.add(token, logprob, call["stop_ids"], call["stop_loops"])
                if row.finish_reason:
                    break
            if row.finish_reason:
                unfinished.remove(index)
                num_rows, num_tokens = num_rows + 1, num_tokens + len(row.new_ids)
                if not output.finished:
                    engine.abort_request([output.request_id])
            elif output.finished:
                raise RuntimeError(f"vLLM ended a row ({new.finish_reason}) that has {len(row.new_ids)} new tokens")
        if pipe.poll():
            engine.abort_request([names[index] for index in unfinished])
            _drain(engine)
            return ("aborted",)
        if num_rows or time.monotonic() - last_sent >= BATCH_EVERY_S:
            pipe.send(("batch", num_rows, num_tokens))
            num_rows, num_tokens, last_sent = 0, 0, time.monotonic()
    _drain(engine)
    return ("done", [row.completion for row in rows])


def _drain(engine: Any) -> None:
    """Run the steps in which the engine forgets rows that were aborted."""
    while engine.has_unfinished_requests():
        engine.step()


def _sampling_params(call: Mapping[str, Any], limit: int, seed: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = call["sampling"]
    return SamplingParams(
        temperature=sampling["temperature"] if sampling["do_sample"] else 0.0,
        top_p=sampling["top_p"],
        top_k=sampling["top_k"],
        repetition_penalty=sampling["repetition_penalty"],
        seed=seed if sampling["do_sample"] else None,
        max_tokens=limit,
        stop_token_ids=list(call["stop_ids"]),
        ignore_eos=True,  # the end tokens are those of the call alone
        logprobs=0 if call.get("logprobs", True) else None,  # of the chosen token; not finite if a logit is not
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def open_engine(options: Mapping[str, Any]) -> Any:
    """Load the model; see `engine.py` for the options, which are fields of vLLM's EngineArgs."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**options))


def serve(pipe: Connection) -> None:
    """Load the model, then answer calls until the parent closes the socket."""
    try:
        engine = open_engine(pipe.recv())
    except EOFError:
        raise
    except Exception as error:  # whatever vLLM or a library finds wrong ends the job with its words
        pipe.send(("refused", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("ready", None))
    while True:
        call = pipe.recv()
        if call is not None:  # None ends a call that has already ended
            pipe.send(decode(engine, pipe, call))


def main() -> int:
    """Serve on the socket whose descriptor is the last argument."""
    start_group_guard()  # vLLM has a process for each GPU where it splits a model
    try:
        with Connection(int(sys.argv[-1])) as pipe:
            exit_with_parent(pipe)
            serve(pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    return 0
