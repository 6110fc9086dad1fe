"""A line of a crontab for a job. Prints only.

Source: crontab(5), where a percent sign ends the command unless it is escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch.command import JobCommand, check_one_line

DEFAULT_SCHEDULE = "0 2 * * *"
NICKNAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly", "@reboot")
FIELD = re.compile(r"[\w*/,-]+")


def hand_over(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Show the line of a job."""
    show(crontab_line(job))
    return ExitCode.COMPLETE


def schedule_of(job: JobCommand) -> str:
    """Return the times of a job, in five fields.

    Raises:
        ConfigError: They are not written as in a crontab.
    """
    schedule = (job.launch.schedule or DEFAULT_SCHEDULE).strip()
    times = schedule.split()
    if schedule not in NICKNAMES and (len(times) != 5 or not all(FIELD.fullmatch(field) for field in times)):
        raise ConfigError(
            f"launch.schedule={schedule} is not a time of cron",
            fix="Set launch.schedule='0 2 * * *' (02:00 each night).",
        )
    return schedule


def crontab_line(job: JobCommand) -> str:
    """Return the line, after comments that explain it; cron mails the log of a run that failed, and nothing else.

    Raises:
        ConfigError: A word has a line break, or the schedule is wrong.
    """
    words = [*job.program, "translate", *job.job_words(task=False)]
    check_one_line([*words, job.cwd], "a crontab")
    run = f'log=$({shlex.join(words)} 2>&1) || printf \'%s\\n\' "exit code $?" "$log"'
    command = f"cd -- {shlex.quote(job.cwd)} && {{ {run}; }}"
    return "\n".join(
        [
            "# crontab -e, and add this:",
            "# a mail only if the job did not end with 0; two runs never work at once (the second ends with 5);",
            "# a job that was stopped (75) or killed is continued by the next run",
            f"{schedule_of(job)} {command.replace('%', chr(92) + '%')}",
        ]
    )
