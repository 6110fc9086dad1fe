"""vLLM's own interpreter: what it has, and a process in it that runs `server.py`.

The process gets our package by its path, not over PYTHONPATH: the folder that contains an installed package also
contains our torch, and vLLM would import that. For the same reason no variable of Python reaches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hymt_batch import child_process
from hymt_batch.errors import DeviceError, PreflightError
from hymt_batch.model import cudnn

SETTING = "launch.vllm_python"

PACKAGE = Path(__file__).parent.parent.parent
PROBE_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 3600.0
"""Seconds that vLLM has to load the model: storage may be slow, and capturing steps takes minutes."""

POLL_S = 0.5
"""Seconds between two calls of check_stop while vLLM loads."""

Answer = tuple[list[int], str, float | None, list[float]]
"""New tokens, finish reason, mean log-probability, and the log-probability of each token, of one row."""

SET_BY_OPTIONS = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_PP_LAYER_PARTITION")
"""Variables of vLLM that are not passed on: memory and placement are ours."""

EXIT_TIMEOUT_S = 5.0
"""Seconds that vLLM has to give up the rows of a call, or to exit, before it is killed."""

INSTALL = "Install vLLM in an environment of its own, and set {} to its interpreter (docs/vllm.md)."

_PROBE = """
import importlib.metadata, json, sys
found = {"python": sys.version.split()[0]}
for distribution in importlib.metadata.distributions():
    name = distribution.metadata["Name"]
    if name in ("vllm", "vllm-cpu", "torch", "transformers"):
        found.setdefault("vllm" if name == "vllm-cpu" else name, distribution.version)
    elif name and name.startswith("nvidia-cudnn-cu"):
        found.setdefault("cudnn", distribution.version)
print(json.dumps(found))
"""

_PROGRAM = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "hymt_batch", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules["hymt_batch"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from hymt_batch.decode.vllm.server import main
sys.exit(main())
"""
"""Imports our package from its folder, with nothing that lies beside it, and runs the server."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What an interpreter has."""

    path: str  # of the interpreter
    versions: Mapping[str, str]  # of python, vllm, torch and transformers, and of cudnn if torch is a build for CUDA

    @property
    def version(self) -> str:
        return self.versions["vllm"]

    @property
    def release(self) -> tuple[int, ...]:
        """The first two numbers of vLLM's version."""
        return tuple(int(number) for number in self.version.split("+")[0].split(".")[:2] if number.isdigit())

    @property
    def names(self) -> list[str]:
        """The libraries whose versions can change a translation."""
        return [name for name in ("vllm", "torch", "transformers") if name in self.versions]


@cache
def probe(python: str | None, setting: str = SETTING) -> Installed:
    """Return what an interpreter has; imports none of it, and asks it once in this process.

    Args:
        python: Its path.
        setting: The setting that names it.

    Raises:
        PreflightError: It is not set, cannot be started, or has no vLLM (A19).
    """
    if python is None:
        raise PreflightError(f"vLLM needs {setting}, which is not set", fix=INSTALL.format(setting), id="A19")
    command = [os.path.expanduser(python), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            env=variables(),
            check=False,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it did not answer in {PROBE_TIMEOUT_S:g} s"
        raise PreflightError(
            f"{setting}={python} cannot be started ({reason})", fix=INSTALL.format(setting), id="A19"
        ) from None
    except ValueError:
        raise PreflightError(f"{setting}={python} is not a Python", fix=INSTALL.format(setting), id="A19") from None
    if "vllm" not in found:
        raise PreflightError(
            f"{setting}={python} (Python {found['python']}) has no vLLM", fix=INSTALL.format(setting), id="A19"
        )
    return Installed(python, found)


def variables(**added: str) -> dict[str, str]:
    """Return the environment of vLLM's interpreter.

    It looks up nothing in the network. The memory is an option of the engine, and threads are not bound to cores, since
    several workers may share these. vLLM has attention kernels of its own; if torch's are used anywhere, cuDNN's come
    last, since they were reported to give wrong text (`model/cudnn.py`).
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name in SET_BY_OPTIONS:
        inherited.pop(name, None)
    return {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **inherited,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        cudnn.ENV_VARIABLE: "1",
        **added,
    }


class VllmProcess:
    """A process with a loaded model; it ends with this one, and so do the processes that vLLM starts for more GPUs.

    It leads a process group of its own, so that all of them can be killed.
    """

    def __init__(
        self,
        python: str,
        options: Mapping[str, Any],
        num_threads: int | None,
        added: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; the model is loaded once `wait_until_ready` returns.

        Args:
            python: The interpreter.
            options: Of the engine; see `server.open_engine`.
            num_threads: CPU threads; None leaves the choice to torch.
            added: Environment variables to add.
        """
        threads = {} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)}
        self._process, self._pipe = child_process.start_connected(
            [os.path.expanduser(python), "-I", "-W", "ignore", "-c", _PROGRAM, str(PACKAGE)],
            ignored_signals=child_process.IGNORED_SIGNALS,
            process_group=0,
            env=variables(**threads, **(added or {})),
            stdout=2,  # standard output may be that of the translations
        )
        self._send(dict(options))

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, check_stop: Callable[[], None]) -> None:
        """Return once the model is loaded.

        Args:
            check_stop: Called while it loads.

        Raises:
            PreflightError: vLLM cannot load the model.
        """
        start_time = time.monotonic()
        while not self._pipe.poll(POLL_S):
            check_stop()
            if time.monotonic() - start_time > LOAD_TIMEOUT_S:
                self.close()
                raise _load_error(f"it was not ready after {LOAD_TIMEOUT_S:g} s")
        try:
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise _load_error(f"its process ended by {self._end()}") from None
        if kind == "refused":
            self.close()
            raise _load_error(answer)

    def decode(
        self, call: Mapping[str, Any], check_stop: Callable[[], None], on_finished: Callable[[int, int], None]
    ) -> list[Answer]:
        """Decode rows; see `server.decode` for the call and for what is returned.

        Args:
            call: The rows, and what holds for all of them.
            check_stop: Called with each sign of life of the process, so a step that hangs is noticed.
            on_finished: Called with the number of rows and tokens that are new.

        Raises:
            DeviceError: The process ended.
        """
        self._send(dict(call))
        try:
            while True:
                kind, *values = self._receive()
                if kind == "done":
                    completions: list[Answer] = values[0]
                    return completions
                if values[0]:
                    on_finished(*values)
                check_stop()
        except DeviceError:
            raise
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        """Let the process give up the running call, or kill it."""
        self._send(None)
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        with contextlib.suppress(DeviceError):
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                if self._receive()[0] in ("done", "aborted"):
                    return
        self.close()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # that it is dead is seen when its answer is read
            self._pipe.send(message)

    def _receive(self) -> tuple[Any, ...]:
        try:
            received: tuple[Any, ...] = self._pipe.recv()
        except (EOFError, OSError):
            raise DeviceError(
                f"vLLM's process ended by {self._end()}",
                why="Its last lines of output are above; without any, memory probably ran out.",
                fix="Run the same command again to continue.",
            ) from None
        return received

    def _end(self) -> str:
        """Return how the process ended, after it closed its end of the socket."""
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG  # it stays a zombie, so its group keeps its number
        with contextlib.suppress(ChildProcessError):  # it was waited for already
            while time.monotonic() < deadline and os.waitid(os.P_PID, self._process.pid, options) is None:
                time.sleep(0.02)
        self.close()
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process and those that it started, and wait until it is gone."""
        self._pipe.close()
        if self._process.returncode is None:  # once it is waited for, the number of its group may be another's
            child_process.kill_group(self._process.pid)  # they hold nothing that must be written
            self._process.kill()  # without /proc, its guard kills the others
        self._process.wait()


def _load_error(reason: str) -> PreflightError:
    return PreflightError(
        f"vLLM cannot load the model ({reason})",
        why="Its output above may tell more.",
        fix="Set decode.engine=auto, or see docs/vllm.md.",
    )
