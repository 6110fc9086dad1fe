"""A small, seeded part of each campaign; the whole of each is a make target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def campaign(name: str, *arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def test_jobs_killed_at_random_moments_end_with_the_bytes_of_an_unbroken_one() -> None:
    figures = campaign("kill_loop", "--runs", "5", "--seed", "11")
    assert figures["kills"] >= 3
    assert figures["different_bytes"] == 0
    assert figures["worst_rows_again_per_kill"] <= figures["part_rows"]


def test_peak_memory_does_not_grow_with_the_input() -> None:
    figures = campaign("memory", "--rows", "100000", "--base", "40000", "--shard-rows", "8192")
    assert figures["ratio"] <= 1.10


def test_the_shape_with_made_up_weights_loads_and_keeps_every_row(tmp_path: Path) -> None:
    figures = campaign("full_size", "--scale", "tiny", "--folder", str(tmp_path), "--rows", "3", "--tokens", "4")
    assert figures["ours_peak_gib"] > figures["weights_gib"] / 2
    assert figures["rows"] == 3


@pytest.mark.parametrize("name", ["kill_loop", "memory", "overhead", "full_size", "integrity"])
def test_each_campaign_explains_itself(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert "JSON line" in ran.stdout
