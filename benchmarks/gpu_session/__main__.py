"""One command for the first minutes on a machine with one NVIDIA GPU: python3 -m benchmarks.gpu_session --out FOLDER

Run it in the root of a checkout. It unpacks the wheels that `make gpu-wheels` made, runs the steps of `steps.py`, each
with a time limit, and writes FOLDER/results.json after each of them. It ends with the verdict of the rule in
docs/decisions.md, and one JSON line. Never run on a GPU; `--dry-run` runs every step on the CPU with tiny shapes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_session import session, verdict
from benchmarks.gpu_session.steps import STEPS, find

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "build" / "gpu-wheels"
LIMIT_S = 570.0
"""Of the whole session, which must end within ten minutes."""


IMPORTED = (
    *("torch", "torch.profiler", "transformers", "transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense"),
    *("transformers.generation.utils", "accelerate", "hymt_batch.config", "hydra", "hymt_batch.jobs.translate"),
    *("hymt_batch.bench.roofline", "hymt_batch.decode.slots", "hymt_batch.bench.baselines.sorted_generate"),
)
"""Modules that the process of every step begins with; importing them uses neither CUDA nor threads."""


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-session-") as folder:
        work = options.work or Path(folder)
        use_site(unpack(options.wheels, work / "site"))
        if options.dry_run:  # several processes share few cores
            os.environ["OMP_NUM_THREADS"] = "1"
        if options.step:
            return session.run_step(find(options.step), session.Report(options.result, work, dry_run=options.dry_run))
        options.out.mkdir(parents=True, exist_ok=True)
        if not options.spawn:
            import_libraries()
        settings = session.Options(
            options.out, work, options.dry_run, options.minutes * 60, options.spawn, dict(options.limit)
        )
        steps = [step for step in STEPS if not options.only or step.name in options.only]
        results = session.Session(settings, began, lambda so_far: verdict.decide(so_far).as_dict()).run_all(steps)
    decision = verdict.decide(results)
    where = "a dry run on the CPU: it decides nothing" if options.dry_run else "docs/decisions.md has the rule"
    print(f"\nverdict ({where}): {decision.choice}", *decision.reasons, sep="\n  ")
    counts = {status: sum(result["status"] == status for result in results.values()) for status in ("ok", "failed")}
    print(json.dumps({"steps": len(results), **counts, **decision.as_dict()}))
    return 0 if all(result["status"] == "ok" for result in results.values()) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu_session", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-session", help="folder of the results")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="wheels to unpack, if the folder exists")
    parser.add_argument("--minutes", type=float, default=LIMIT_S / 60, help="limit of the whole session")
    parser.add_argument("--only", nargs="*", choices=[step.name for step in STEPS], help="run these steps alone")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument("--spawn", action="store_true", help="start a fresh interpreter for each step")
    parser.add_argument("--limit", nargs=2, action="append", metavar=("STEP", "SECONDS"), help="another limit")
    for hidden in ("step", "result", "work"):  # how a step is started in a fresh interpreter
        parser.add_argument(f"--{hidden}", type=str if hidden == "step" else Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.minutes *= session.DRY_RUN_PATIENCE if options.dry_run else 1
    options.limit = [(name, float(seconds)) for name, seconds in options.limit or ()]
    return options


def unpack(wheels: Path, site: Path) -> Path | None:
    """Unpack all wheels of a folder into one folder; return it, or None if there are none.

    Raises:
        ValueError: A wheel needs an installer.
    """
    if site.is_dir():  # a step in a fresh interpreter
        return site
    paths = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            if any(".data/" in name and ".data/scripts/" not in name for name in archive.namelist()):
                raise ValueError(f"{path.name} has modules that only an installer can place")
            archive.extractall(site)
    return site if paths else None


def use_site(site: Path | None) -> None:
    """Import packages from a folder first, in this process and in all that it starts."""
    # torch reads it when it is imported; see hymt_batch/model/cudnn.py
    os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    # counts GPUs without initialising CUDA, which would not survive a fork
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if site is not None:
        sys.path.insert(0, str(site))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def import_libraries() -> None:
    """Import what the steps need, so that their processes begin with it."""
    for name in IMPORTED:
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
