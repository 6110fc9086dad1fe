"""Start child processes that end when this process ends, even if it is killed.

Linux sends a process a signal when its parent dies, if the process requested that with prctl. A program that requests
it only after its imports is seconds too late. So a short launcher makes the request and then replaces itself with the
program by exec, which keeps the request. The launcher exits if its parent has already died. Where prctl is missing
(macOS), callers must also watch a pipe to the parent. Independent of the programs that are started. Standard library
only.

Source: prctl(2), PR_SET_PDEATHSIG: "the signal is sent when the thread that created the process ends".
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that a worker ignores: the parent receives them too, and lets the running part finish."""

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
"""Requests the signal, checks that the parent is alive, and executes the program. 1 is PR_SET_PDEATHSIG."""


def die_with_parent_command(command: Sequence[str], *, ignored_signals: Sequence[int] = ()) -> list[str]:
    """Wrap a command so that its process ends when this process ends.

    Start it from the main thread: the kernel sends the signal when the thread that started the process ends.

    Args:
        command: Path of the program, then its arguments.
        ignored_signals: Signals that the process ignores from its start.
    """
    # -I -S: starts in a few milliseconds and runs no code from the user's environment
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    return [*launcher, str(os.getpid()), ",".join(str(int(number)) for number in ignored_signals), *command]


def start_connected(
    command: Sequence[str], *, ignored_signals: Sequence[int] = (), **options: Any
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that ends with this one, and connect to it. It reads nothing from standard input.

    Args:
        command: Path of the program, then its arguments; the number of its end of the connection is added.
        ignored_signals: Signals that the process ignores from its start.
        options: Further options of `subprocess.Popen`.

    Returns:
        The process, and this end of the connection.
    """
    from multiprocessing.connection import Connection

    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            die_with_parent_command([*command, str(theirs.fileno())], ignored_signals=ignored_signals),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            **options,
        )
    return process, Connection(ours.detach())


def exit_with_parent(pipe: Connection) -> None:
    """End this process once the other end of its pipe is closed, even during the minutes of loading a model.

    `die_with_parent_command` does the same where the system has a signal for it; this works everywhere.
    """
    poll = select.poll()
    poll.register(pipe.fileno(), getattr(select, "POLLRDHUP", 0))  # poll always reports a closed end

    def watch() -> None:
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


RESOURCE_TRACKER = b"multiprocessing.resource_tracker"
"""In the command line of the process that frees shared memory once all users of it are gone, and then ends."""


def kill_group(group: int) -> None:
    """Kill all processes of a process group but this one and the resource trackers of multiprocessing.

    Args:
        group: Number of the group, of a child that was started as its leader; none of its processes need be left.
    """
    killed = {os.getpid()}
    while pids := group_members(group) - killed:  # again, because a process may have started another one
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= pids


def group_members(group: int) -> set[int]:
    """Return the running processes of a process group, without resource trackers of multiprocessing."""
    members = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # the process has ended
            state, _, process_group = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            is_member = int(process_group) == group and state != b"Z"
            if is_member and RESOURCE_TRACKER not in (folder / "cmdline").read_bytes():
                members.add(int(folder.name))
    return members


def start_group_guard() -> None:
    """Start a process that kills the process group of this one as soon as this one has ended, by whatever cause.

    For a leader of its group whose children do not end with it. Call it from the main thread, early: the guard is a
    fork. Does nothing where prctl is missing.
    """
    try:
        import ctypes

        request = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return
    parent, group = os.getpid(), os.getpgrp()
    if os.fork():
        return
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # none of the parent's pipes stays open because of this process
        request(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
        while os.getppid() == parent:
            signal.sigwait({signal.SIGTERM})  # also from somebody else, who kills the job; then wait again
        kill_group(group)
    finally:
        os._exit(0)
