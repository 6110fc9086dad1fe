"""What a user runs: one module a job, `hymt-batch JOB` = `python -m jobs.JOB`."""
