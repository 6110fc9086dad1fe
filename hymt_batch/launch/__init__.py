"""Start and stop the processes of a job. Read `pool.py` first."""
