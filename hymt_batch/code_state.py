"""Which commit of hymt-batch runs: that of the checkout, or the one that pip installed from a repository."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
from pathlib import Path

import hymt_batch

TIMEOUT_S = 10.0
PATHS = ("hymt_batch", "jobs", "conf")
"""What of a checkout decides what a job does."""


@functools.lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the commit whose code runs, with the ending "+changes" if files differ from it; None if it is not known.

    A wheel from a package index names no commit; its version tells what it is.
    """
    root = Path(hymt_batch.__file__).resolve().parent.parent
    return of_checkout(root) if (root / ".git").exists() else _installed()


def of_checkout(root: Path) -> str | None:
    """Return the commit of a checkout; None if git is not installed or refuses the folder."""
    # of a hook of git, they would name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", *PATHS]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    head = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if done.returncode or head == "(initial)":
        return None
    return head + ("" if all(line.startswith("#") for line in lines) else "+changes")


def _installed() -> str | None:
    """Return the commit that pip recorded (PEP 610)."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        text = importlib.metadata.distribution("hymt-batch").read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])
    return None
