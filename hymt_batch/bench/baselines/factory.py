"""Make the baseline engines that can run here; each is tried on a few rows, and one that fails is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from hymt_batch.bench.baselines.continuous import continuous_engine
from hymt_batch.bench.baselines.ctranslate import ctranslate2_engine
from hymt_batch.bench.baselines.llama import llama_cpp_engine
from hymt_batch.bench.benchmark import Engine, Workload
from hymt_batch.model.prepare import LoadedModel

log = logging.getLogger(__name__)

CONTINUOUS, LLAMA_CPP, CTRANSLATE2 = "continuous", "llama_cpp", "ctranslate2"
BASELINES = (CONTINUOUS, LLAMA_CPP, CTRANSLATE2)
TRIAL_ROWS = 3


def make_baselines(
    names: Collection[str], hymt: LoadedModel, max_rows: int, work: Workload
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Make the engines of `names` that are baselines, with as many threads as torch uses.

    Args:
        names: Requested engines; names that are not in `BASELINES` are ignored.
        hymt: The network that they run.
        max_rows: Maximum number of rows decoded at once.
        work: The longest workload that they will run; its first rows are used for the trial.

    Returns:
        Engines by name, and the reason for each engine that was left out, by name.
    """
    import torch

    num_threads = torch.get_num_threads()
    makers: dict[str, Callable[[], Engine]] = {
        CONTINUOUS: lambda: continuous_engine(hymt, max_rows),
        LLAMA_CPP: lambda: llama_cpp_engine(hymt, max_rows, work, num_threads),
        CTRANSLATE2: lambda: ctranslate2_engine(hymt, max_rows, num_threads),
    }
    trial = Workload(work.prompts[:TRIAL_ROWS], work.output_lengths[:TRIAL_ROWS])
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name in BASELINES:
        if name not in names:
            continue
        try:
            if name != CONTINUOUS and hymt.device != "cpu":
                raise RuntimeError(f"this benchmark runs it on the CPU only, not on {hymt.device}")
            if name == CTRANSLATE2 and hymt.dtype != "float32":
                raise RuntimeError(f"this benchmark runs it in float32 only, not in {hymt.dtype}")
            engine = makers[name]()
            lengths = [len(ids) for ids in engine(trial)]
            if lengths != trial.output_lengths:
                raise RuntimeError(f"it generated {lengths} tokens, but {trial.output_lengths} were requested")
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed: pip install 'hymt-batch[peers]'"
        except Exception as error:  # another project may raise anything; the engine is then left out
            log.debug("baseline %s failed", name, exc_info=True)
            left_out[name] = str(error).partition("\n")[0] or type(error).__name__
        else:
            engines[name] = engine
    return engines, left_out
