"""A stop request ends a job so that it can be continued, at any time after the first import."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from hymt_batch import signals
from hymt_batch.errors import StoppedError

CHILD = """
import sys, time
from hymt_batch import signals
stop = signals.install()
{setup}
print("ready", flush=True)
for _ in range(200):
    time.sleep(0.05)
    if stop.requested and "leave" in sys.argv:
        sys.exit(75)
    stop.check()
"""


def child(setup: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(setup=setup), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", signals.SIGNALS)
@pytest.mark.fault(3, 5, 6)
def test_before_work_begins_a_signal_ends_at_once_with_75_and_no_traceback(signum: signal.Signals) -> None:
    process = child("stop.on_exit(lambda: print('released', flush=True))")
    process.send_signal(signum)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 75
    assert out == "released\n"
    assert "run the same command again" in err
    assert "Traceback" not in err


@pytest.mark.fault(3, 4, 5)
def test_while_working_the_first_signal_is_a_request_and_the_second_ends_at_once() -> None:
    process = child("stop.allow_drain(60)")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 75


@pytest.mark.fault(3)
def test_a_part_may_finish_within_the_grace() -> None:
    process = child("stop.allow_drain(60)", "leave")
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 75
    assert "SIGUSR1" in err


@pytest.mark.fault(3)
def test_after_the_grace_the_part_is_dropped() -> None:
    stop = signals.StopRequest()
    stop.check()
    stop.signal_name, stop.deadline = "SIGUSR2", time.monotonic() - 1
    with pytest.raises(StoppedError, match=r"SIGUSR2.*launch\.grace_s"):
        stop.check()


def test_a_stop_names_where_the_job_noticed_it_first() -> None:
    stop = signals.StopRequest()
    assert not stop.noticed("between two shards")
    stop.raise_if_requested()
    stop.signal_name = "SIGTERM"
    assert stop.noticed("after a finished part")
    assert stop.noticed("while rows were prepared")
    with pytest.raises(StoppedError, match=r"SIGTERM: stopped after a finished part\. Run the same command again"):
        stop.raise_if_requested()


def test_a_stop_that_nothing_noticed_came_after_the_running_parts() -> None:
    stop = signals.StopRequest()
    stop.signal_name = "SIGTERM"
    with pytest.raises(StoppedError, match="SIGTERM: stopped after the running parts"):
        stop.raise_if_requested()


@pytest.mark.fault(3, 13)
def test_work_that_never_checks_for_a_stop_ends_after_the_grace() -> None:
    process = child("stop.allow_drain(0.2, lambda: print('released', flush=True)); stop.check = lambda: None")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=8)
    assert process.returncode == 75
    assert out == "released\n"
    assert "launch.grace_s is over" in err
