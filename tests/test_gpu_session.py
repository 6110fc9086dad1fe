"""The session of the first minutes on a GPU, on the CPU: every step runs, none takes the results of another with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_session import __main__ as command
from benchmarks.gpu_session import phases, verdict
from benchmarks.gpu_session.steps import STEPS
from hymt_batch.model import synthetic

ROOT = Path(__file__).parent.parent


def run(out: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run a dry run; return its exit code, the results file and its output."""
    words = ["-m", "benchmarks.gpu_session", "--dry-run", "--wheels", str(out / "none"), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *words, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert (out / "results.json").exists(), done.stderr
    return done.returncode, json.loads((out / "results.json").read_text(encoding="utf-8")), done.stdout


def test_every_step_runs_on_the_cpu_and_the_rule_is_applied_to_the_results(tmp_path: Path) -> None:
    code, results, stdout = run(tmp_path)
    steps = results["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {step.name: "ok" for step in STEPS}, stdout
    assert code == 0
    found = {name: step["result"] for name, step in steps.items()}
    assert found["texts"]["slots_equal"] is found["texts"]["captured_equal"] is True
    assert found["texts"]["right_rows"] == dict.fromkeys(("generate", "slots", "captured"), 6) | {
        name: 6 for name in found["texts"]["right_rows"] if name.startswith("captured_")
    }
    assert found["attention"]["MATH"]["agreement"]["slots"]["diverged_rows"] == 0
    assert "No viable backend" in found["attention"]["EFFICIENT_ATTENTION"]["agreement"]["generate"]
    for rows in (256, 512, 1024):
        captured = found[f"captured_{rows}"]
        assert captured["complete"] is True
        assert {"prefill", "replay", "capture"} <= set(captured["phases"]["device_s"])
        assert 0 < captured["fraction_of_roofline"] < 1
    assert found["profile"]["captured_step"]["launches"] > 100
    assert found["profile"]["prefill"]["top"][0][0] > 0
    assert min(found["baseline"][f"{kind}_tokens_per_s"] for kind in ("generate", "slots", "captured")) > 0
    memory = found["memory"]
    assert memory["slots_equal"] is memory["captured_equal"] is memory["after_failed_capture_equal"] is True
    assert memory["failed_capture_reason"]
    assert found["resume"]["captured_equal"] is True
    assert found["resume"]["captured_parts_at_kill"] >= 1
    assert found["sampling"]["captured_equal"] is True
    assert results["verdict"] == verdict.decide(steps).as_dict()
    assert json.loads(stdout.splitlines()[-1])["choice"] == results["verdict"]["choice"]


def test_a_step_in_a_fresh_interpreter_gives_the_same_results(tmp_path: Path) -> None:
    code, results, _ = run(tmp_path, "--spawn", "--only", "machine")
    assert (code, results["spawned"], results["steps"]["machine"]["status"]) == (0, True, "ok")
    assert results["steps"]["machine"]["result"]["copy_gb_per_s"] > 0


def run_fakes(out: Path, limit_s: float) -> dict[str, Any]:
    subprocess.run([sys.executable, "-m", "tests.fakes.gpu_steps", str(out), str(limit_s)], cwd=ROOT, check=True)
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results


def test_a_step_that_fails_crashes_or_hangs_leaves_what_it_found_and_the_results_of_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    results = run_fakes(tmp_path, 60)
    assert time.monotonic() - began < 30
    steps = results["steps"]
    statuses = {"end_well": "ok", "fail": "failed", "crash": "failed", "hang": "timeout", "last": "ok"}
    assert {name: step["status"] for name, step in steps.items()} == statuses
    assert [step["result"]["value"] for step in steps.values()] == [1, 2, 3, 4, 5]
    assert steps["fail"]["error"] == "ValueError: the third product is wrong"
    assert steps["crash"]["error"].startswith("exit status -11")
    assert steps["hang"]["error"] == "it did not end within 6 s"
    assert results["verdict"] == {"so_far": 5}
    assert "the third product is wrong" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    child = Path(f"/proc/{steps['hang']['result']['child']}/stat")  # what it started does not live on either
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_time_is_kept_for_the_steps_that_the_rule_needs(tmp_path: Path) -> None:
    """Of 13 s, 10 belong to the last step; the others get at most 3, less than a step needs."""
    steps = run_fakes(tmp_path, 13)["steps"]
    assert [step["status"] for step in steps.values()] == ["skipped"] * 4 + ["ok"]


def results_of(**changes: Any) -> dict[str, Any]:
    """Return the results of a session in which all is right and captured steps are fast."""
    right = {"slots_equal": True, "captured_equal": True}
    figures: dict[str, Any] = {
        "texts": dict(right), "memory": dict(right), "resume": dict(right), "sampling": dict(right),
        "captured_256": {"tokens_per_s": 6000.0, "complete": True},
        "captured_512": {"tokens_per_s": 9000.0, "complete": True},
        "baseline": {"generate_tokens_per_s": 3000.0, "slots_tokens_per_s": 6000.0},
    }  # fmt: skip
    for key, value in changes.items():
        step, _, name = key.partition("__")
        figures[step][name] = value
    return {name: {"status": "ok", "result": values} for name, values in figures.items()}


@pytest.mark.parametrize(
    ("changes", "choice"),
    [
        ({}, verdict.CAPTURED),
        ({"captured_512__tokens_per_s": 8999.0}, verdict.SLOTS),
        ({"captured_512__complete": False}, verdict.SLOTS),
        ({"texts__captured_equal": False}, verdict.SLOTS),
        ({"memory__captured_equal": None}, verdict.SLOTS),
        ({"resume__captured_equal": False, "baseline__slots_tokens_per_s": 5999.0}, verdict.GENERATE),
        ({"sampling__captured_equal": False, "sampling__slots_equal": False}, verdict.GENERATE),
        ({"texts__slots_equal": False}, verdict.CAPTURED),
        ({"baseline__generate_tokens_per_s": None}, verdict.GENERATE),
    ],
)
def test_the_verdict_follows_the_rule(changes: dict[str, Any], choice: str) -> None:
    assert verdict.decide(results_of(**changes)).choice == choice


def test_a_step_without_a_result_counts_as_not_right() -> None:
    results = results_of()
    results["resume"] = {"status": "timeout", "result": results["resume"]["result"]}
    decision = verdict.decide(results)
    assert decision.choice == verdict.GENERATE
    assert decision.reasons[0] == "captured: not right, or without a result: resume"
    assert verdict.decide({}).choice == verdict.GENERATE


def test_the_rule_in_the_decisions_has_the_numbers_of_the_verdict() -> None:
    decisions = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^### The default engine on a GPU is decided by a rule.*?(?=^### )", decisions, re.M | re.S)
    assert f"at least {verdict.CAPTURED_RATIO:g} times" in rule
    assert f"at least {verdict.SLOTS_RATIO:g} times" in rule


def test_the_times_of_nested_phases_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    clock = phases.PhaseClock("cpu")
    inner = clock._timed("capture", lambda: wait(3))

    def step() -> None:
        wait(1)
        inner()
        wait(1)

    outer = clock._timed("replay", step)
    outer()
    wait(5)  # between two phases
    outer()
    figures = clock.figures(20.0)
    assert figures["device_s"] == {"replay": 4.0, "capture": 6.0}
    assert figures["calls"] == {"replay": 2, "capture": 2}
    assert (figures["between_phases_s"], figures["host_s"]) == (5.0, 10.0)


def make_wheel(folder: Path, name: str, *members: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for member in members:
            archive.writestr(member, "VALUE = 7\n")


def test_wheels_are_unpacked_and_those_that_need_an_installer_are_refused(tmp_path: Path) -> None:
    assert command.unpack(tmp_path / "none", tmp_path / "site") is None
    make_wheel(tmp_path, "first", "first/__init__.py", "first-1.data/scripts/first")
    site = command.unpack(tmp_path, tmp_path / "site")
    assert site is not None
    assert (site / "first" / "__init__.py").read_text() == "VALUE = 7\n"
    make_wheel(tmp_path, "second", "second-1.data/purelib/second.py")
    with pytest.raises(ValueError, match=r"second-1-py3-none-any\.whl has modules"):
        command.unpack(tmp_path, tmp_path / "other")


ON_THE_MACHINE = {"torch", "transformers", "accelerate", "safetensors", "tqdm", "regex"}
"""Dependencies that a GPU machine without a package registry has; see docs/gpu.md."""


def test_every_dependency_is_on_the_machine_or_among_the_wheels() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=;! ]", dependency)[0] for dependency in project["dependencies"]}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^GPU_PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert needed - ON_THE_MACHINE - set(listed.split()) == set()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert "build/" in ignored and "GPU_WHEELS := build/gpu-wheels" in makefile


def test_weights_are_made_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    devices = set()
    normal = torch.Tensor.normal_

    def recorded(tensor: Any, *arguments: Any, **options: Any) -> Any:
        devices.add(tensor.device.type)
        return normal(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "normal_", recorded)
    hymt = synthetic.make_model(synthetic.Shape["mid"], "bfloat16", 0, "meta")
    assert devices == {"meta"}
    assert {weight.device.type for weight in hymt.network.parameters()} == {"meta"}
