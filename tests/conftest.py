"""Fixtures that many tests share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.job import Job
from tests.fakes.model import Bytes

# every run tries the same examples: a run fails by what changed, never by chance; `make test-random` tries others
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# two test processes with two threads each would compete for two cores; set before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
# kernels run in Triton's interpreter only if this is set before Triton is imported, which other libraries do, too
if importlib.util.find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def encoder() -> Bytes:
    return Bytes(control_byte=0x1D)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)
