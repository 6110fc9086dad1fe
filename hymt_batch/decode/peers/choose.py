"""Which peers can run here: each is made and tried on a few rows; one that is missing or refuses is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from hymt_batch.decode.peers.continuous import in_continuous
from hymt_batch.decode.peers.ctranslate import in_ctranslate2
from hymt_batch.decode.peers.llama import in_llama_cpp
from hymt_batch.decode.race import Engine, Workload
from hymt_batch.model.network import Hymt

log = logging.getLogger(__name__)

CONTINUOUS, LLAMA_CPP, CTRANSLATE2 = "continuous", "llama_cpp", "ctranslate2"
PEERS = (CONTINUOUS, LLAMA_CPP, CTRANSLATE2)
TRIED_ROWS = 3


def choose(
    names: Collection[str], hymt: Hymt, max_rows: int, work: Workload
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Make those of `names` that are peers, with as many threads as torch has.

    Args:
        names: Engines that are asked for; others than `PEERS` are passed over.
        hymt: The network that they run.
        max_rows: Rows that they decode at once, at most.
        work: The longest workload that they will be given; its first rows are tried.

    Returns:
        Engines by name, and by name why one was left out.
    """
    import torch

    num_threads = torch.get_num_threads()
    makers: dict[str, Callable[[], Engine]] = {
        CONTINUOUS: lambda: in_continuous(hymt, max_rows),
        LLAMA_CPP: lambda: in_llama_cpp(hymt, max_rows, work, num_threads),
        CTRANSLATE2: lambda: in_ctranslate2(hymt, max_rows, num_threads),
    }
    few = Workload(work.prompts[:TRIED_ROWS], work.limits[:TRIED_ROWS])
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name in PEERS:
        if name not in names:
            continue
        try:
            if name != CONTINUOUS and hymt.device != "cpu":
                raise RuntimeError(f"runs on the CPU here, not on {hymt.device}")
            if name == CTRANSLATE2 and hymt.dtype != "float32":
                raise RuntimeError(f"runs in float32 here, not in {hymt.dtype}")
            engine = makers[name]()
            lengths = [len(ids) for ids in engine(few)]
            if lengths != few.limits:
                raise RuntimeError(f"made {lengths} tokens where {few.limits} were asked for")
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed: pip install 'hymt-batch[peers]'"
        except Exception as error:  # whatever another program raises, it is left out
            log.debug("peer %s", name, exc_info=True)
            left_out[name] = str(error).partition("\n")[0] or type(error).__name__
        else:
            engines[name] = engine
    return engines, left_out
