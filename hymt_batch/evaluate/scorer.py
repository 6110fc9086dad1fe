"""A scorer that is a command of the user, such as COMET, xCOMET or MetricX: rows in, one score per row out.

The command gets JSON lines with id, source, translation and reference on its standard input, and prints one number per
line, in the same order. What it prints on standard error goes to the terminal. It is started once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from hymt_batch.errors import PreflightError
from hymt_batch.evaluate.rows import ScoredRow
from hymt_batch.records import plural

MAX_SHOWN_CHARS = 200


def score(command: str, rows: Sequence[ScoredRow], timeout_s: float) -> list[float]:
    """Return the score of each row.

    Args:
        command: The command line, for /bin/sh.
        rows: The rows to score.
        timeout_s: Time after which the command and its children are killed, in seconds.

    Raises:
        PreflightError: The command failed, took too long, or printed something else than one number per row.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:  # of any size, and no pipe can stall
        for row in rows:
            stdin.write(_line(row))
        stdin.seek(0)
        try:
            process = subprocess.Popen(["/bin/sh", "-c", command], stdin=stdin, stdout=stdout, start_new_session=True)
        except OSError as error:
            raise _failed(f"cannot be started ({error.strerror or error})", "Correct scorer=.") from None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise _failed(
                f"did not end within {timeout_s:g} s and was killed", "Set scorer_timeout_s= higher."
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise _failed(
                f"failed with {how}", "Correct the command; its own messages on standard error say what it lacks."
            )
        stdout.seek(0)
        return _parse(stdout.read().splitlines(), len(rows))


def _line(row: ScoredRow) -> bytes:
    value = {"id": row.id, "source": row.source, "translation": row.translation, "reference": row.reference}
    return json.dumps(value).encode() + b"\n"


def _parse(lines: Sequence[bytes], num_rows: int) -> list[float]:
    if len(lines) != num_rows:
        what = f"printed {plural(len(lines), 'line')} for {plural(num_rows, 'row')}"
        raise _failed(what, "Let it print one score per row and nothing else; logs belong to standard error.")
    scores = []
    for number, line in enumerate(lines, 1):
        try:
            value = float(line)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            shown = line[:MAX_SHOWN_CHARS].decode(errors="replace")
            raise _failed(f"printed {shown!r} in line {number}", "Let it print one finite number per row.")
        scores.append(value)
    return scores


def _failed(what: str, fix: str) -> PreflightError:
    return PreflightError(f"the command of scorer= {what}", why="The other scores are kept.", fix=fix)
