"""A systemd service for a job, and the timer that starts it. Prints only.

Source of the quoting rules: systemd.service(5), "Command lines", and systemd.unit(5), "Specifiers".
"""

from __future__ import annotations

import getpass
from collections.abc import Callable

from hymt_batch.errors import ExitCode
from hymt_batch.launch.command import JobCommand, check_one_line

DEFAULT_SCHEDULE = "*-*-* 02:00:00"
RESTART_S = 60


def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Show the files of a job, for the account that runs this."""
    show(units(job, getpass.getuser()))
    return ExitCode.COMPLETE


def units(job: JobCommand, user: str) -> str:
    """Return both files, each after a comment with its path.

    Args:
        job: The job.
        user: The account that runs it.

    Raises:
        ConfigError: A word has a line break.
    """
    words = [*job.program, "translate", *job.job_words(task=False)]
    check_one_line([*words, job.cwd], "a unit file of systemd")
    service = "\n".join(
        [
            "[Unit]",
            f"Description=hymt-batch: {_literal(job.name)}",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            "# not oneshot: systemd refuses RestartForceExitStatus= there; a timer never starts a running service",
            "Type=exec",
            f"User={user}",
            f"WorkingDirectory={_literal(job.cwd)}",
            f"ExecStart={' '.join(_quote(word) for word in words)}",
            "# 75: stopped, to be continued. After a kill it goes on too; all other codes need a person",
            "SuccessExitStatus=75",
            "RestartForceExitStatus=75",
            "Restart=on-abnormal",
            f"RestartSec={RESTART_S}",
            "# longer than launch.grace_s: until then the running part may finish",
            f"TimeoutStopSec={job.grace_s}",
        ]
    )
    timer = "\n".join(
        [
            "[Unit]",
            f"Description=hymt-batch: {_literal(job.name)}, regularly",
            "",
            "[Timer]",
            f"OnCalendar={job.launch.schedule or DEFAULT_SCHEDULE}",
            "# a night in which the machine was off is made up for",
            "Persistent=true",
            "RandomizedDelaySec=300",
            "",
            "[Install]",
            "WantedBy=timers.target",
        ]
    )
    name = f"hymt-batch-{unit_name(job.name)}"
    return (
        f"# /etc/systemd/system/{name}.service\n{service}\n\n"
        f"# /etc/systemd/system/{name}.timer\n{timer}\n\n"
        f"# then: systemctl daemon-reload && systemctl enable --now {name}.timer"
    )


def unit_name(name: str) -> str:
    r"""Return a job's name as part of a unit's name: other characters than ASCII letters, digits, _ and . as \xNN."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or chr(byte) in "_." else f"\\x{byte:02x}"
        for byte in name.encode("utf-8", "surrogateescape")
    )


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    """Return a word of a command line: quoted, without specifiers and variables."""
    escaped = _literal(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("\t", "\\t")
    return f'"{escaped}"'
