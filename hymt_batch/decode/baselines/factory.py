"""Which peers can run here: each is made and tried on a few rows; one that is missing or refuses is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from hymt_batch.decode.baselines.continuous import continuous_engine
from hymt_batch.decode.baselines.ctranslate import ctranslate2_engine
from hymt_batch.decode.baselines.llama import llama_cpp_engine
from hymt_batch.decode.benchmark import Engine, Workload
from hymt_batch.model.prepare import LoadedModel

log = logging.getLogger(__name__)

CONTINUOUS, LLAMA_CPP, CTRANSLATE2 = "continuous", "llama_cpp", "ctranslate2"
BASELINES = (CONTINUOUS, LLAMA_CPP, CTRANSLATE2)
TRIAL_ROWS = 3


def make_baselines(
    names: Collection[str], hymt: LoadedModel, max_rows: int, work: Workload
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
        CONTINUOUS: lambda: continuous_engine(hymt, max_rows),
        LLAMA_CPP: lambda: llama_cpp_engine(hymt, max_rows, work, num_threads),
        CTRANSLATE2: lambda: ctranslate2_engine(hymt, max_rows, num_threads),
    }
    few = Workload(work.prompts[:TRIAL_ROWS], work.output_lengths[:TRIAL_ROWS])
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name in BASELINES:
        if name not in names:
            continue
        try:
            if name != CONTINUOUS and hymt.device != "cpu":
                raise RuntimeError(f"runs on the CPU here, not on {hymt.device}")
            if name == CTRANSLATE2 and hymt.dtype != "float32":
                raise RuntimeError(f"runs in float32 here, not in {hymt.dtype}")
            engine = makers[name]()
            lengths = [len(ids) for ids in engine(few)]
            if lengths != few.output_lengths:
                raise RuntimeError(f"made {lengths} tokens where {few.output_lengths} were asked for")
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed: pip install 'hymt-batch[peers]'"
        except Exception as error:  # whatever another program raises, it is left out
            log.debug("peer %s", name, exc_info=True)
            left_out[name] = str(error).partition("\n")[0] or type(error).__name__
        else:
            engines[name] = engine
    return engines, left_out
