"""The jobs that users run, one module per job: `hymt-batch JOB` is the same as `python -m jobs.JOB`."""
