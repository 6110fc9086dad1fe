"""Steps that run whole jobs with the demo model, whose right translations are known; several jobs at once."""

from __future__ import annotations

import glob
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.gpu_session.session import Report

SLOTS = ("decode.engine=slots",)
CAPTURED = ("decode.engine=slots", "decode.capture=true", "decode.read_every=2")
SEED = 20261129
MAX_SAMPLED_SHARE = 0.01
"""Share of rows that may differ when tokens are drawn: rounding decides between two that are about equally likely."""


def compare_texts(report: Report) -> None:
    """Report whether slots and captured steps give the texts of generate in float32, and how many are right."""
    source, expected = write_corpus(report, "texts", report.sizes.demo_rows)
    engines = {"generate": ("decode.engine=generate",), "slots": SLOTS, "captured": CAPTURED}
    if has_kernels():
        engines["captured_without_kernels"] = (*CAPTURED, "decode.kernels=off")
    jobs = {name: (*words, "model.dtype=float32") for name, words in engines.items()}
    if not report.dry_run:
        jobs["captured_bfloat16"] = (*CAPTURED, "model.dtype=bfloat16")
    report.add(exit_codes=run_jobs(report, {f"texts_{name}": (source, words) for name, words in jobs.items()}))
    compare(report, "texts", list(jobs), expected)


def compare_sampling(report: Report) -> None:
    """Report whether all engines draw the same tokens with the sampling that the model card recommends."""
    source, _ = write_corpus(report, "sampling", report.sizes.demo_rows)
    engines = {"generate": ("decode.engine=generate",), "slots": SLOTS, "captured": CAPTURED}
    if report.dry_run:
        del engines["slots"]
    jobs = {name: ("decode=recommended", *words, "model.dtype=float32") for name, words in engines.items()}
    report.add(exit_codes=run_jobs(report, {f"sampling_{name}": (source, words) for name, words in jobs.items()}))
    compare(report, "sampling", list(jobs), [], allowed_share=MAX_SAMPLED_SHARE)


def kill_and_resume(report: Report) -> None:
    """Report whether a job that is killed and run again gives the bytes of an undisturbed one."""
    source, _ = write_corpus(report, "resume", 3 * report.sizes.demo_rows)
    words = {"slots": (*SLOTS, "batch.part_rows=16"), "captured": (*CAPTURED, "batch.part_rows=16")}
    if report.dry_run:
        words = {"captured": (*CAPTURED, "batch.part_rows=4", "model.dtype=float32")}
    began = {name: start_job(report, f"calm_{name}", source, words[name]) for name in words}
    killed = {name: start_job(report, f"killed_{name}", source, words[name]) for name in words}
    for name, pid in killed.items():
        report.add(**{f"{name}_parts_at_kill": kill_in_the_middle(pid, output(report, f"killed_{name}"))})
    codes = {f"killed_{name}": start_job(report, f"killed_{name}", source, words[name]) for name in words}
    report.add(exit_codes={name: wait(pid) for name, pid in {**codes, **began}.items()})
    for name in words:
        texts = [translated(report, f"{run}_{name}") for run in ("calm", "killed")]
        in_the_middle = report.figures[f"{name}_parts_at_kill"] >= 0
        report.add(**{f"{name}_equal": in_the_middle and texts[0] is not None and texts[0] == texts[1]})


def kill_in_the_middle(pid: int, folder: Path) -> int:
    """Kill a job once it has committed a part; return the number of its parts, or -1 if it ended before."""
    while True:
        num_parts = len(glob.glob(".hymt/f*/s*/p*", root_dir=folder))  # unlike Path.glob, it skips what vanishes
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            return -1
        if num_parts:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -1 if (folder / "manifest.json").exists() else num_parts
        time.sleep(0.002)


def compare(
    report: Report, step: str, names: Sequence[str], expected: Sequence[str], allowed_share: float = 0.0
) -> None:
    """Report how many rows of each job equal those of generate, and how many are right."""
    texts = {name: (translated(report, f"{step}_{name}") or b"").decode("utf-8").splitlines() for name in names}
    reference = texts["generate"]
    for name in names[1:]:
        differing = [row for row, (a, b) in enumerate(zip(reference, texts[name], strict=False)) if a != b]
        complete = bool(reference) and len(reference) == len(texts[name])
        degraded = degradations(report, f"{step}_{name}")
        is_equal = complete and not degraded and len(differing) <= allowed_share * len(reference)
        report.add(
            **{f"{name}_equal": is_equal, f"{name}_differing_rows": differing[:20], f"{name}_degraded": degraded}
        )
    if expected:
        right = {name: sum(a == b for a, b in zip(expected, texts[name], strict=False)) for name in names}
        report.add(rows=len(expected), right_rows=right)


def write_corpus(report: Report, name: str, rows: int) -> tuple[Path, list[str]]:
    """Write a text of bulletins; return its path and the right translations."""
    from hymt_batch.demo import grammar

    bulletins = grammar.sample(SEED, rows)
    path = report.work / f"{name}.txt"
    path.write_text("".join(f"{bulletin.en}\n" for bulletin in bulletins), encoding="utf-8")
    return path, [bulletin.fr for bulletin in bulletins]


def run_jobs(report: Report, jobs: Mapping[str, tuple[Path, Sequence[str]]]) -> dict[str, int]:
    """Run jobs at the same time; return their exit codes."""
    pids = {name: start_job(report, name, source, words) for name, (source, words) in jobs.items()}
    return {name: wait(pid) for name, pid in pids.items()}


def start_job(report: Report, name: str, source: Path, words: Sequence[str]) -> int:
    """Start `hymt-batch translate` with the demo model in a fork of this process; return its id."""
    arguments = ["translate", "model=demo", "src_lang=en", "tgt_lang=fr", f"source.path={source}", f"name={name}"]
    arguments += [f"output_dir={report.work / 'outputs'}", "launch.progress=off", *report.device_words, *words]
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        from hymt_batch.jobs.__main__ import main

        code = main(arguments)
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Wait for a process; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def output(report: Report, name: str) -> Path:
    """Return the output folder of a job."""
    return report.work / "outputs" / name


def translated(report: Report, name: str) -> bytes | None:
    """Return the translations of a finished job, or None."""
    files = list((output(report, name) / "translated").glob("*.txt"))
    return files[0].read_bytes() if len(files) == 1 and (output(report, name) / "manifest.json").exists() else None


def degradations(report: Report, name: str) -> dict[str, int]:
    """Return the marks of degraded parts of a finished job, such as steps that were not captured."""
    path = output(report, name) / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(manifest.get("degraded") or {})


def has_kernels() -> bool:
    """Return whether this version has kernels of its own, with a setting that turns them off."""
    from hymt_batch.decode.settings import DecodeConfig

    return any(field.name == "kernels" for field in fields(DecodeConfig))
