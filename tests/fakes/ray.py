"""A stand-in for the package ray: runs each task in this process when it is waited for, and can lose or cancel one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As in ray.exceptions."""


class TaskCancelledError(RayError):
    """As in ray.exceptions."""


class FakeRay:
    """Has the names of the module that `launch=ray` uses."""

    def __init__(self, run: Callable[..., Any], nodes: Sequence[dict[str, float]] = ({"CPU": 4.0},)) -> None:
        """Connect to nothing yet.

        Args:
            run: Called with the arguments of a task in place of its function.
            nodes: The resources of each node.
        """
        self.exceptions = SimpleNamespace(RayError=RayError, TaskCancelledError=TaskCancelledError)
        self._run, self._nodes = run, nodes
        self.init_error: Exception | None = None
        self.addresses: list[str] = []
        self.options: list[dict[str, Any]] = []  # of each task
        self.max_running = 0
        self.on_wait: Callable[[], object] = lambda: None
        self.cancelled: list[int] = []
        self.is_connected = False
        self._tasks: dict[int, tuple[Any, ...]] = {}

    def init(self, *, address: str, **options: Any) -> None:
        if self.init_error is not None:
            raise self.init_error
        self.addresses.append(address)
        self.is_connected = True

    def shutdown(self) -> None:
        self.is_connected = False

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [dead]

    def remote(self, function: Any) -> Any:
        def options(**chosen: Any) -> Any:
            def submit(*arguments: Any) -> int:
                assert self.is_connected
                self.options.append(chosen)
                reference = len(self.options)
                self._tasks[reference] = arguments
                self.max_running = max(self.max_running, len(self._tasks))
                return reference

            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        assert references
        self.on_wait()
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> Any:
        arguments = self._tasks.pop(reference)
        if reference in self.cancelled:
            raise TaskCancelledError
        return self._run(*arguments)

    def cancel(self, reference: int, *, force: bool) -> None:
        assert not force
        self.cancelled.append(reference)
