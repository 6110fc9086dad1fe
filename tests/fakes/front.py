"""`hymt-batch` with the fake model and engine: python -m tests.fakes.front JOB OVERRIDES."""

from __future__ import annotations

import sys

from hymt_batch import streams
from jobs import __main__ as front
from tests.fakes import job

if __name__ == "__main__":
    streams.restart_if_needed()
    with job.installed():
        sys.exit(front.main(sys.argv[1:]))
