"""Commands that a user has run at the end of a run: launch.on_success and launch.on_failure.

Independent of what the run did. A command that fails is a warning; it never changes the exit code of the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys

from hymt_batch import sanitize

log = logging.getLogger(__name__)

MAX_SHOWN_CHARS = 200


def run(command: str, summary: bytes, timeout_s: float, exit_code: int) -> None:
    """Run a command with /bin/sh, with the summary on its standard input; its output goes to stderr.

    Args:
        command: The command line.
        summary: A JSON object; see RunStatus.values.
        timeout_s: Time after which the command and its children are killed, in seconds.
        exit_code: Of the job; the command finds it in HYMT_EXIT_CODE too.
    """
    setting = "launch.on_failure" if exit_code else "launch.on_success"
    shown = sanitize.escape_line(sanitize.sanitize_text(command), MAX_SHOWN_CHARS)
    sys.stderr.flush()
    try:
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=_stderr(),
            env={**os.environ, "HYMT_EXIT_CODE": str(exit_code)},
            start_new_session=True,  # a timeout ends its children too
        ) as process:
            try:
                with contextlib.suppress(BrokenPipeError):  # a command need not read its standard input
                    process.communicate(summary, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                log.warning(
                    "%s did not end within launch.hook_timeout_s=%g and was killed: %s", setting, timeout_s, shown
                )
                return
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be run (%s): %s", setting, getattr(error, "strerror", None) or error, shown)
        return
    if process.returncode:
        how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        log.warning("%s failed (%s); the exit code of the job stays %d: %s", setting, how, exit_code, shown)


def _stderr() -> int | None:
    """Return where the output of the command goes: standard output may hold translations."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return subprocess.DEVNULL
