"""The write stage: output formats, committing parts, assembling files, and the lease. Start at `output.py`."""
