"""Processes of ours that end with this one, at any moment of their life.

Linux sends a process a signal when its parent dies, if it asked for that. A program that asks after its imports asks
seconds too late, so a few lines ask first and then become the program: what was asked for outlives an exec. A parent
that died still earlier is known by its id. Without prctl (macOS) whoever needs it watches a pipe as well. Does not know
what is started. Standard library only.

Source: prctl(2), PR_SET_PDEATHSIG: "the signal is sent when the thread that created the process ends".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_LAUNCHER = """
import os, signal, sys
parent, ignored, *command = sys.argv[1:]
for number in filter(None, ignored.split(",")):
    signal.signal(int(number), signal.SIG_IGN)
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != int(parent):
    os._exit(1)
os.execvp(command[0], command)
"""
"""Asks for the signal, looks whether the parent still lives, and becomes the program. 1 is PR_SET_PDEATHSIG."""


def die_with_parent_command(command: Sequence[str], *, ignored_signals: Sequence[int] = ()) -> list[str]:
    """The command of a process that ends with this one.

    Start it from the main thread: the kernel takes the end of the thread that started a process for its parent's death.

    Args:
        command: The program, its path first, and its arguments.
        ignoring: Signals that it ignores from its first moment on.
    """
    # -I -S: a few milliseconds, and nothing of the user's environment is run
    first = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    return [*first, str(os.getpid()), ",".join(str(int(number)) for number in ignored_signals), *command]
