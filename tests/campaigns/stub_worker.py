"""A worker with the model that upper-cases: what `launch/pool.py` starts, for tests.

Some texts are deadly to it: POISON kills the process, HANG never ends, BUG raises, and FRAIL kills the process as many
times as $STUB_FRAIL says. Run as a program it is given the number of a socket; given overrides instead, it is
`hymt-batch translate` that decodes so, itself or in workers.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch import replica
from tests.campaigns import stub

COMMAND = (sys.executable, "-m", "tests.campaigns.stub_worker")


def decode_batch(
    hymt: stub.Stub,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    choice: object,
    check_stop: Callable[[], None],
) -> Any:
    """As the stub does, unless a text says otherwise; writes its process id to $STUB_PIDS, a line a batch."""
    if pids := os.environ.get("STUB_PIDS"):
        with Path(pids).open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()} {len(prompts)}\n")
    text = b"".join(bytes(one[1:-1]) for one in prompts)
    if b"POISON" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"FRAIL" in text and innocent_death():
        os.kill(os.getpid(), signal.SIGKILL)
    if b"BUG" in text:
        raise ValueError("a bug")
    while b"HANG" in text:
        time.sleep(0.05)
    return stub.decode_batch(hymt, prompts, max_new_tokens, seeds, choice, check_stop)


def innocent_death() -> bool:
    """Whether one more is due; $STUB_FRAIL is their number, and the file in which they are counted."""
    most, _, path = os.environ["STUB_FRAIL"].partition(":")
    with Path(path).open("a+", encoding="ascii") as file:
        file.write(".")
        return file.tell() <= int(most)


def main(arguments: Sequence[str]) -> int:
    if arguments[0].isdecimal():
        return replica.main(arguments, partial(replica.serve, prepare_model=stub.prepare, decode_batch=decode_batch))
    return stub.run(arguments, decode_batch=decode_batch, worker_command=COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
