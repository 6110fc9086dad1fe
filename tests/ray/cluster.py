"""A throw-away Ray cluster of two nodes on this machine, in a process of its own: python -m tests.ray.cluster.

Prints its address. Each line on standard input kills a node that is not the head, with all its processes. The end of
standard input ends the cluster. Needs the extra ray.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NUM_CPUS = 1  # of a node, so one task at a time
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Variables by which Ray sees within seconds that a node died, instead of within half a minute."""


def unavailable() -> str:
    """Return why no cluster can be started here; "" if it can."""
    return "" if importlib.util.find_spec("ray") else "ray is not installed (make test-ray)"


@dataclass(slots=True)
class Cluster:
    """A running cluster."""

    process: subprocess.Popen[str]
    address: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def read_line(self) -> str:
        """Return the next line that its process prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the cluster ended with {self.process.wait()}"
        return line

    def kill_node(self) -> None:
        """Kill a node with everything that runs on it."""
        assert self.process.stdin is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.read_line() == "killed"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster that asks for a token, and end it after the block."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.ray.cluster"],
        cwd=Path(__file__).parents[2],
        env=os.environ | token | QUICK | {"RAY_TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            cluster = Cluster(process, environment=os.environ | token)
            cluster.address = cluster.read_line()
            yield cluster
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def main() -> None:
    """Run a cluster until the end of standard input."""
    from ray.cluster_utils import Cluster as RayCluster

    with contextlib.redirect_stdout(sys.stderr):
        cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": NUM_CPUS, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=NUM_CPUS)]
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        cluster.shutdown()


if __name__ == "__main__":
    main()
